//! Files must not import each other in a cycle. A reader then needs only the
//! files below a file to understand it, and a type that two files need is in a
//! third file below both.
//!
//! A file depends on another file if it imports one of its items or refers to
//! it by path. A module does not depend on its children if it only declares
//! them, or only re-exports their names with `pub use`; it does if it uses such
//! a name itself. A file that uses a re-exported name depends on two files: the
//! module that re-exports the name and the file that defines it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::source::{Name, Role, Source, all};

/// The allowed cycles: their files and the reason.
const ALLOWED: [(&[&str], &str); 1] = [(
    &["src/kafka/member.rs", "src/kafka/partition.rs"],
    "the type of a consumer names its context, and librdkafka calls that context back with the \
     consumer: the context of a member splits partitions off it, and each holds the consumer",
)];

/// Maximum number of re-exports that are followed.
const MAX_REEXPORTS: usize = 8;

/// The names that each file uses from each other file. Files are indices into
/// the sources.
type Dependencies = BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>>;

/// The modules of both crates.
struct Modules<'s> {
    /// File of each module, by (is library, module path).
    indices: BTreeMap<(bool, &'s [String]), usize>,
    /// Names that each file declares or imports.
    bindings: Vec<Vec<Binding<'s>>>,
}

/// A name that a file declares or imports.
struct Binding<'s> {
    alias: &'s str,
    /// Path of the item from the root of the crate.
    path: Vec<String>,
    is_reexport: bool,
}

impl<'s> Modules<'s> {
    fn new(sources: &'s [Source]) -> Self {
        let entry = |(index, source): (usize, &'s Source)| {
            ((source.is_library(), source.module.as_slice()), index)
        };
        Self {
            indices: sources.iter().enumerate().map(entry).collect(),
            bindings: sources.iter().map(bindings_of).collect(),
        }
    }

    /// Returns the paths, from the root of the crate, that a name in this file
    /// may refer to.
    fn paths(&self, index: usize, name: &Name) -> Vec<Vec<String>> {
        let bindings = &self.bindings[index];
        match &name.role {
            Role::Declared | Role::Word => Vec::new(),
            Role::Imported { is_reexport, .. } if *is_reexport => Vec::new(),
            // Any other import is counted at its `use`.
            Role::Used if name.segments.len() == 1 => bindings
                .iter()
                .filter(|binding| binding.is_reexport && binding.alias == name.segments[0])
                .map(|binding| binding.path.clone())
                .collect(),
            Role::Imported { .. } | Role::Used => resolve(bindings, &name.segments),
        }
    }

    /// Returns the files that a path from the root leads to: its innermost
    /// module and, if that module re-exports the name, the files that the
    /// re-export leads to.
    fn files(&self, is_library: bool, path: &[String], reexports: usize) -> BTreeSet<usize> {
        let mut files = BTreeSet::new();
        let segments = path.get(1..).unwrap_or_default();
        let module = |length: usize| {
            let index = self.indices.get(&(is_library, &segments[..length]));
            index.map(|index| (length, *index))
        };
        let Some((length, index)) = (0..=segments.len()).rev().find_map(module) else {
            return files;
        };
        files.insert(index);
        if let Some(name) = segments.get(length)
            && reexports < MAX_REEXPORTS
        {
            let bindings = self.bindings[index].iter();
            for binding in bindings.filter(|binding| binding.is_reexport && binding.alias == name) {
                let target = [binding.path.as_slice(), &segments[length + 1..]].concat();
                files.extend(self.files(is_library, &target, reexports + 1));
            }
        }
        files
    }
}

/// Returns the names that a file declares or imports.
fn bindings_of(source: &Source) -> Vec<Binding<'_>> {
    let mut bindings = Vec::new();
    for name in &source.names {
        if name.role == Role::Declared
            && let Some(alias) = name.segments.last()
        {
            bindings.push(Binding {
                alias,
                path: name.segments.clone(),
                is_reexport: false,
            });
        }
    }
    let mut imported = Vec::new();
    for name in &source.names {
        if let Role::Imported { alias, is_reexport } = &name.role {
            let paths = resolve(&bindings, &name.segments).into_iter();
            imported.extend(paths.map(|path| Binding {
                alias,
                path,
                is_reexport: *is_reexport,
            }));
        }
    }
    bindings.extend(imported);
    bindings
}

/// Resolves a path with these bindings to paths from the root of the crate.
fn resolve(bindings: &[Binding<'_>], segments: &[String]) -> Vec<Vec<String>> {
    let Some((first, rest)) = segments.split_first() else {
        return Vec::new();
    };
    if first == "crate" {
        return vec![segments.to_vec()];
    }
    let bindings = bindings.iter().filter(|binding| binding.alias == first);
    bindings
        .map(|binding| [binding.path.as_slice(), rest].concat())
        .collect()
}

fn dependencies(sources: &[Source]) -> Dependencies {
    let modules = Modules::new(sources);
    let mut dependencies = Dependencies::new();
    for (index, source) in sources.iter().enumerate() {
        for name in &source.names {
            for path in modules.paths(index, name) {
                for target in modules.files(source.is_library(), &path, 0) {
                    if target != index {
                        let targets = dependencies.entry(index).or_default();
                        targets.entry(target).or_default().insert(name.to_string());
                    }
                }
            }
        }
    }
    dependencies
}

/// Returns the files that `start` depends on, directly or indirectly.
fn reachable(dependencies: &Dependencies, start: usize) -> BTreeSet<usize> {
    let mut reachable = BTreeSet::new();
    let mut pending = vec![start];
    while let Some(index) = pending.pop() {
        let targets = dependencies
            .get(&index)
            .into_iter()
            .flat_map(BTreeMap::keys);
        for target in targets {
            if reachable.insert(*target) {
                pending.push(*target);
            }
        }
    }
    reachable
}

/// Returns the cycles, each as a set of files that reach each other.
fn cycles(dependencies: &Dependencies) -> BTreeSet<BTreeSet<usize>> {
    let entry = |index: &usize| (*index, reachable(dependencies, *index));
    let reachable: BTreeMap<usize, BTreeSet<usize>> = dependencies.keys().map(entry).collect();
    let reaches = |from: &usize, to: &usize| {
        let targets = reachable.get(from);
        targets.is_some_and(|targets| targets.contains(to))
    };
    reachable
        .iter()
        .filter(|(index, targets)| targets.contains(*index))
        .map(|(index, targets)| {
            let cycle = targets.iter().filter(|target| reaches(target, index));
            cycle.copied().collect()
        })
        .collect()
}

fn paths(sources: &[Source], cycle: &BTreeSet<usize>) -> Vec<String> {
    let path = |index: &usize| sources[*index].path.display().to_string();
    cycle.iter().map(path).collect()
}

/// Describes the dependencies within a cycle, one per line.
fn describe(sources: &[Source], dependencies: &Dependencies, cycle: &BTreeSet<usize>) -> String {
    let mut lines = vec!["these files import each other in a cycle:".to_owned()];
    for index in cycle {
        for (target, names) in dependencies.get(index).into_iter().flatten() {
            if cycle.contains(target) {
                let (from, to) = (&sources[*index].path, &sources[*target].path);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let (from, to, names) = (from.display(), to.display(), names.join(", "));
                lines.push(format!("  {from} -> {to}: {names}"));
            }
        }
    }
    lines.join("\n")
}

fn is_allowed(files: &[String]) -> bool {
    ALLOWED.iter().any(|(allowed, _)| files == *allowed)
}

#[test]
fn files_do_not_import_each_other_in_a_cycle() {
    let sources = all();
    let dependencies = dependencies(&sources);
    let cycles = cycles(&dependencies);
    let violations: Vec<String> = cycles
        .iter()
        .filter(|cycle| !is_allowed(&paths(&sources, cycle)))
        .map(|cycle| describe(&sources, &dependencies, cycle))
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
    for (files, reason) in ALLOWED {
        let is_found = cycles.iter().any(|cycle| paths(&sources, cycle) == files);
        assert!(
            is_found,
            "no longer a cycle: {files:?} (allowed because {reason})"
        );
    }
}

// --- sample sources ----------------------------------------------------------

/// Returns the cycles in sample sources, each as a list of files.
fn cycles_in(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let source = |(path, text): &(&str, &str)| Source::new(Path::new(path), (*text).to_owned());
    let sources: Vec<Source> = files.iter().map(source).collect();
    let cycles = cycles(&dependencies(&sources));
    cycles.iter().map(|cycle| paths(&sources, cycle)).collect()
}

#[test]
fn files_that_depend_on_each_other_are_a_cycle() {
    for (a, b) in [
        ("use crate::b::B;", "use crate::a::A;"),
        ("use super::b;", "fn f() -> crate::a::A { a() }"),
        ("use crate::{b::{self, B}, c};", "use super::a::A as Other;"),
        (
            "mod tests { use super::super::b::B; }",
            "const _: () = crate::a::f!();",
        ),
    ] {
        let cycle = cycles_in(&[("src/a.rs", a), ("src/b.rs", b)]);
        assert_eq!(cycle, [["src/a.rs", "src/b.rs"]], "{a} {b}");
        assert_eq!(
            cycles_in(&[("src/a.rs", a), ("src/b.rs", "")]),
            [[""; 0]; 0]
        );
    }
    let three = cycles_in(&[
        ("src/a.rs", "use crate::b::B;"),
        ("src/b.rs", "use crate::c::C;"),
        ("src/c.rs", "use crate::a::A;"),
        ("src/d.rs", "use crate::a::A;"),
    ]);
    assert_eq!(three, [["src/a.rs", "src/b.rs", "src/c.rs"]]);
}

#[test]
fn a_module_and_a_child_that_depend_on_each_other_are_a_cycle() {
    let child = ("src/a/b.rs", "use super::A;");
    for parent in [
        "mod b;\nuse b::B;",
        "mod b;\nfn f() { b::f() }",
        "mod b;\npub use b::B;\npub struct A(B);",
        "mod b;\npub use b::{B, make};\nfn f() { make() }",
    ] {
        let cycle = cycles_in(&[("src/a/mod.rs", parent), child]);
        assert_eq!(cycle, [["src/a/mod.rs", "src/a/b.rs"]], "{parent}");
    }
    for parent in [
        "mod b;",
        "mod b;\npub use b::{B, make};\nfn f() { self.make(); let b = make; }",
        "mod b;\npub(crate) use self::b::B as Other;\npub struct B;",
    ] {
        assert_eq!(
            cycles_in(&[("src/a/mod.rs", parent), child]),
            [[""; 0]; 0],
            "{parent}"
        );
    }
}

#[test]
fn a_reexport_does_not_hide_a_cycle() {
    let cycle = cycles_in(&[
        ("src/a/mod.rs", "mod b;\nmod c;\npub use b::B;"),
        ("src/a/b.rs", "use super::c::C;"),
        ("src/a/c.rs", "use super::B;"),
    ]);
    assert_eq!(cycle, [["src/a/b.rs", "src/a/c.rs"]]);
    let through = cycles_in(&[
        ("src/a/mod.rs", "mod b;\npub use b::B;\nuse crate::d::D;"),
        ("src/a/b.rs", ""),
        ("src/d.rs", "use crate::a::B;"),
    ]);
    assert_eq!(through, [["src/a/mod.rs", "src/d.rs"]]);
}

#[test]
fn tests_and_the_other_crate_do_not_form_a_cycle() {
    let tests = [
        ("src/a/mod.rs", "mod b;\n#[cfg(test)]\nmod tests;"),
        ("src/a/b.rs", "use super::A;\nmod tests { use super::*; }"),
        ("src/a/tests.rs", "use super::*;\nuse super::b::B;"),
    ];
    assert_eq!(cycles_in(&tests), [[""; 0]; 0]);
    let (up, cli) = ("use crate::cli::Cli;", "fn f(_: crate::up::Up) {}");
    let binary = cycles_in(&[("commands/up.rs", up), ("commands/cli.rs", cli)]);
    assert_eq!(binary, [["commands/up.rs", "commands/cli.rs"]]);
    assert_eq!(
        cycles_in(&[("src/up.rs", up), ("commands/cli.rs", cli)]),
        [[""; 0]; 0]
    );
}
