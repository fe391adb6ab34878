//! No files import each other in a loop: a file can be understood by what is
//! below it, and a type that two files need is in a third one below both.
//!
//! A file takes something from another where it imports it or names it by its
//! path. A module that only declares its children, or only hands on their names
//! with `pub use`, takes nothing from them; it does where it uses such a name
//! itself. Whoever takes a name that is handed on takes it from both: from the
//! module that hands it on, and from the file that has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::source::{Name, Source, Stands, all};

/// The cycles that there may be: their files, and why.
const ALLOWED: [(&[&str], &str); 1] = [(
    &[
        "src/clients/kafka/member.rs",
        "src/clients/kafka/partition.rs",
    ],
    "the type of a consumer names its context, and librdkafka calls that context back with the \
     consumer: the context of a member splits partitions off it, and each holds the consumer",
)];

/// Names that are handed on are followed so far.
const MOST_HANDS: usize = 8;

/// What each file takes from which other one, by their places among the sources.
type Taken = BTreeMap<usize, BTreeMap<usize, BTreeSet<String>>>;

/// The modules of both crates.
struct Modules<'s> {
    /// The file of each, by whether it is the library's and by its path.
    places: BTreeMap<(bool, &'s [String]), usize>,
    /// By file, the names that it declares or imports.
    known: Vec<Vec<Known<'s>>>,
}

/// A name that a file knows.
struct Known<'s> {
    by: &'s str,
    /// What it is, from the crate's root.
    path: Vec<String>,
    handed_on: bool,
}

impl<'s> Modules<'s> {
    fn of(sources: &'s [Source]) -> Self {
        let place = |(place, source): (usize, &'s Source)| {
            ((source.is_library(), source.module.as_slice()), place)
        };
        Self {
            places: sources.iter().enumerate().map(place).collect(),
            known: sources.iter().map(known_in).collect(),
        }
    }

    /// What a name takes where it stands in this file, from the crate's root.
    fn paths(&self, place: usize, name: &Name) -> Vec<Vec<String>> {
        let known = &self.known[place];
        match &name.stands {
            Stands::Declared | Stands::Word => Vec::new(),
            Stands::Imported { handed_on, .. } if *handed_on => Vec::new(),
            // Any other import has been counted where it stands.
            Stands::Used if name.segments.len() == 1 => known
                .iter()
                .filter(|one| one.handed_on && one.by == name.segments[0])
                .map(|one| one.path.clone())
                .collect(),
            Stands::Imported { .. } | Stands::Used => meant(known, &name.segments),
        }
    }

    /// The files that a path from the root leads to: the module that it goes
    /// through last, and whatever that has the name from.
    fn files(&self, is_library: bool, path: &[String], hands: usize) -> BTreeSet<usize> {
        let mut files = BTreeSet::new();
        let below = path.get(1..).unwrap_or_default();
        let module = |length: usize| {
            let place = self.places.get(&(is_library, &below[..length]));
            place.map(|place| (length, *place))
        };
        let Some((length, place)) = (0..=below.len()).rev().find_map(module) else {
            return files;
        };
        files.insert(place);
        if let Some(name) = below.get(length)
            && hands < MOST_HANDS
        {
            let handed = self.known[place].iter();
            for one in handed.filter(|one| one.handed_on && one.by == name) {
                let further = [one.path.as_slice(), &below[length + 1..]].concat();
                files.extend(self.files(is_library, &further, hands + 1));
            }
        }
        files
    }
}

/// The names that a file knows.
fn known_in(source: &Source) -> Vec<Known<'_>> {
    let mut known = Vec::new();
    for name in &source.names {
        if name.stands == Stands::Declared
            && let Some(by) = name.segments.last()
        {
            known.push(Known {
                by,
                path: name.segments.clone(),
                handed_on: false,
            });
        }
    }
    let mut imported = Vec::new();
    for name in &source.names {
        if let Stands::Imported { by, handed_on } = &name.stands {
            let paths = meant(&known, &name.segments).into_iter();
            imported.extend(paths.map(|path| Known {
                by,
                path,
                handed_on: *handed_on,
            }));
        }
    }
    known.extend(imported);
    known
}

/// What a path may mean to who knows these names, from the crate's root.
fn meant(known: &[Known<'_>], segments: &[String]) -> Vec<Vec<String>> {
    let Some((first, rest)) = segments.split_first() else {
        return Vec::new();
    };
    if first == "crate" {
        return vec![segments.to_vec()];
    }
    let known = known.iter().filter(|one| one.by == first);
    known
        .map(|one| [one.path.as_slice(), rest].concat())
        .collect()
}

fn taken(sources: &[Source]) -> Taken {
    let modules = Modules::of(sources);
    let mut taken = Taken::new();
    for (place, source) in sources.iter().enumerate() {
        for name in &source.names {
            for path in modules.paths(place, name) {
                for other in modules.files(source.is_library(), &path, 0) {
                    if other != place {
                        let from = taken.entry(place).or_default();
                        from.entry(other).or_default().insert(name.to_string());
                    }
                }
            }
        }
    }
    taken
}

/// The files that are reached from one, in one step or more.
fn reached(taken: &Taken, start: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(place) = open.pop() {
        let others = taken.get(&place).into_iter().flat_map(BTreeMap::keys);
        for other in others {
            if reached.insert(*other) {
                open.push(*other);
            }
        }
    }
    reached
}

/// The files that reach each other, cycle by cycle.
fn cycles(taken: &Taken) -> BTreeSet<BTreeSet<usize>> {
    let from = |place: &usize| (*place, reached(taken, *place));
    let reached: BTreeMap<usize, BTreeSet<usize>> = taken.keys().map(from).collect();
    let reaches = |from: &usize, to: &usize| reached.get(from).is_some_and(|all| all.contains(to));
    reached
        .iter()
        .filter(|(place, all)| all.contains(*place))
        .map(|(place, all)| {
            let others = all.iter().filter(|other| reaches(other, place));
            others.copied().collect()
        })
        .collect()
}

fn paths(sources: &[Source], cycle: &BTreeSet<usize>) -> Vec<String> {
    let path = |place: &usize| sources[*place].path.display().to_string();
    cycle.iter().map(path).collect()
}

/// Who takes what from whom in a cycle, a line each.
fn told(sources: &[Source], taken: &Taken, cycle: &BTreeSet<usize>) -> String {
    let mut lines = vec!["these files import each other in a loop:".to_owned()];
    for place in cycle {
        for (other, names) in taken.get(place).into_iter().flatten() {
            if cycle.contains(other) {
                let (from, to) = (&sources[*place].path, &sources[*other].path);
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
fn no_files_import_each_other_in_a_loop() {
    let sources = all();
    let taken = taken(&sources);
    let found = cycles(&taken);
    let wrong: Vec<String> = found
        .iter()
        .filter(|cycle| !is_allowed(&paths(&sources, cycle)))
        .map(|cycle| told(&sources, &taken, cycle))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for (files, why) in ALLOWED {
        let is_found = found.iter().any(|cycle| paths(&sources, cycle) == files);
        assert!(is_found, "no longer a cycle: {files:?}, because {why}");
    }
}

// --- made-up sources ---------------------------------------------------------

/// The cycles in made-up sources, each by its files.
fn found(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let source = |(path, text): &(&str, &str)| Source::new(Path::new(path), (*text).to_owned());
    let sources: Vec<Source> = files.iter().map(source).collect();
    let all = cycles(&taken(&sources));
    all.iter().map(|cycle| paths(&sources, cycle)).collect()
}

#[test]
fn files_that_take_from_each_other_are_a_cycle() {
    for (a, b) in [
        ("use crate::b::B;", "use crate::a::A;"),
        ("use super::b;", "fn f() -> crate::a::A { a() }"),
        ("use crate::{b::{self, B}, c};", "use super::a::A as Other;"),
        (
            "mod tests { use super::super::b::B; }",
            "const _: () = crate::a::f!();",
        ),
    ] {
        let both = found(&[("src/a.rs", a), ("src/b.rs", b)]);
        assert_eq!(both, [["src/a.rs", "src/b.rs"]], "{a} {b}");
        assert_eq!(found(&[("src/a.rs", a), ("src/b.rs", "")]), [[""; 0]; 0]);
    }
    let three = found(&[
        ("src/a.rs", "use crate::b::B;"),
        ("src/b.rs", "use crate::c::C;"),
        ("src/c.rs", "use crate::a::A;"),
        ("src/d.rs", "use crate::a::A;"),
    ]);
    assert_eq!(three, [["src/a.rs", "src/b.rs", "src/c.rs"]]);
}

#[test]
fn a_module_and_a_child_that_take_from_each_other_are_a_cycle() {
    let child = ("src/a/b.rs", "use super::A;");
    for parent in [
        "mod b;\nuse b::B;",
        "mod b;\nfn f() { b::f() }",
        "mod b;\npub use b::B;\npub struct A(B);",
        "mod b;\npub use b::{B, make};\nfn f() { make() }",
    ] {
        let both = found(&[("src/a/mod.rs", parent), child]);
        assert_eq!(both, [["src/a/mod.rs", "src/a/b.rs"]], "{parent}");
    }
    for parent in [
        "mod b;",
        "mod b;\npub use b::{B, make};\nfn f() { self.make(); let b = make; }",
        "mod b;\npub(crate) use self::b::B as Other;\npub struct B;",
    ] {
        assert_eq!(
            found(&[("src/a/mod.rs", parent), child]),
            [[""; 0]; 0],
            "{parent}"
        );
    }
}

#[test]
fn a_name_that_is_handed_on_hides_no_cycle() {
    let both = found(&[
        ("src/a/mod.rs", "mod b;\nmod c;\npub use b::B;"),
        ("src/a/b.rs", "use super::c::C;"),
        ("src/a/c.rs", "use super::B;"),
    ]);
    assert_eq!(both, [["src/a/b.rs", "src/a/c.rs"]]);
    let through = found(&[
        ("src/a/mod.rs", "mod b;\npub use b::B;\nuse crate::d::D;"),
        ("src/a/b.rs", ""),
        ("src/d.rs", "use crate::a::B;"),
    ]);
    assert_eq!(through, [["src/a/mod.rs", "src/d.rs"]]);
}

#[test]
fn tests_and_the_other_crate_make_no_cycle() {
    let tests = [
        ("src/a/mod.rs", "mod b;\n#[cfg(test)]\nmod tests;"),
        ("src/a/b.rs", "use super::A;\nmod tests { use super::*; }"),
        ("src/a/tests.rs", "use super::*;\nuse super::b::B;"),
    ];
    assert_eq!(found(&tests), [[""; 0]; 0]);
    let (up, cli) = ("use crate::cli::Cli;", "fn f(_: crate::up::Up) {}");
    let binary = found(&[("commands/up.rs", up), ("commands/cli.rs", cli)]);
    assert_eq!(binary, [["commands/up.rs", "commands/cli.rs"]]);
    assert_eq!(
        found(&[("src/up.rs", up), ("commands/cli.rs", cli)]),
        [[""; 0]; 0]
    );
}
