//! A source file for the rules: its text and the paths in it, read from its
//! tokens.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A source file.
pub struct Source {
    /// Path relative to the root of the package: `src/sinks/mod.rs`.
    pub path: PathBuf,
    /// Module path in its crate: `["sinks"]`. Empty for `src/lib.rs` and
    /// `commands/main.rs`.
    pub module: Vec<String>,
    pub text: String,
    pub names: Vec<Name>,
}

/// A path in the code, with `super` and `self` resolved. The name of a macro
/// call ends in `!`. Each leaf of a nested `use` is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub segments: Vec<String>,
    pub line: usize,
    /// Whether the path starts with `::`.
    pub absolute: bool,
    pub role: Role,
}

/// Role of a path in the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Declaration: `mod name`.
    Declared,
    /// Import: `use path as alias`.
    Imported {
        /// Name of the import in this file; `*` for a glob import.
        alias: String,
        /// Whether the import is a `pub use`.
        is_reexport: bool,
    },
    /// Use of a type, a constant, a function, or a path of several segments.
    Used,
    /// A single lowercase word: a variable, a field or a keyword.
    Word,
}

pub struct Violation {
    path: PathBuf,
    pub line: usize,
    pub message: String,
}

/// Returns all sources of the library and of the binary.
pub fn all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<Source> = ["src", "commands"]
        .iter()
        .flat_map(|folder| files(&root.join(folder)))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("read the source");
            Source::new(
                path.strip_prefix(root).expect("a path in the package"),
                text,
            )
        })
        .collect();
    assert!(sources.len() > 100, "only {} sources found", sources.len());
    sources
}

impl Source {
    pub fn new(path: &Path, text: String) -> Self {
        let in_crate: PathBuf = path.iter().skip(1).collect();
        let module: Vec<String> = in_crate
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .filter(|part| !["mod", "lib", "main"].contains(&part.as_str()))
            .collect();
        let tokens = TokenStream::from_str(&text)
            .unwrap_or_else(|error| panic!("cannot parse {}: {error}", path.display()));
        let mut names = Vec::new();
        collect_names(tokens, &module, &mut names);
        Self {
            path: path.to_owned(),
            module,
            text,
            names,
        }
    }

    pub fn is_library(&self) -> bool {
        self.path.starts_with("src")
    }

    /// Returns the top-level module of a library file.
    pub fn top_module(&self) -> Option<&str> {
        let first = self.module.first().filter(|_| self.is_library());
        first.map(String::as_str)
    }

    /// Returns true if `name` refers to this crate, and not to an item of the
    /// same name that the file imports or declares.
    pub fn names(&self, name: &Name, crate_name: &str) -> bool {
        let is_first = |name: &Name| {
            name.segments
                .first()
                .is_some_and(|segment| segment == crate_name)
        };
        let shadows = |other: &Name| {
            let is_last = other
                .segments
                .last()
                .is_some_and(|segment| segment == crate_name);
            is_last && other.segments.len() > 1 && !is_first(other)
        };
        is_first(name)
            && (name.absolute || name.segments.len() > 1 && !self.names.iter().any(shadows))
    }

    pub fn violations(&self, check: impl Fn(&Name) -> Option<String>) -> Vec<Violation> {
        let violations = self
            .names
            .iter()
            .filter_map(|name| check(name).map(|message| self.violation(name.line, message)));
        violations.collect()
    }

    pub fn violation(&self, line: usize, message: String) -> Violation {
        Violation {
            path: self.path.clone(),
            line,
            message,
        }
    }
}

impl Name {
    /// Returns the top-level module that the path leads into:
    /// `crate::<module>`.
    pub fn library_module(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [first, module, ..] if first == "crate" => Some(module),
            _ => None,
        }
    }

    pub fn contains(&self, path: &[&str]) -> bool {
        self.segments
            .windows(path.len())
            .any(|window| window == path)
            && (path.len() > 1 || self.segments.len() > 1 && self.segments[0] == path[0])
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

/// Collects the names in `tokens`, which are part of `module`.
fn collect_names(tokens: TokenStream, module: &[String], names: &mut Vec<Name>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut index = 0;
    while let Some(tree) = trees.get(index) {
        index += 1;
        match tree {
            TokenTree::Group(group) => collect_names(group.stream(), module, names),
            TokenTree::Ident(word) if word == "mod" => {
                index += read_module(&trees[index..], module, names);
            }
            // `use<…>` is part of a type.
            TokenTree::Ident(word)
                if word == "use" && !trees.get(index).is_some_and(|tree| is_mark(tree, '<')) =>
            {
                let is_reexport = is_public(&trees[..index - 1]);
                index += read_import(&trees[index..], module, is_reexport, names);
            }
            TokenTree::Ident(_) => index = read_name(&trees, index - 1, module, names),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Reads `name { … }` or `name;` after `mod`. Returns the number of tokens
/// read.
fn read_module(trees: &[TokenTree], module: &[String], names: &mut Vec<Name>) -> usize {
    let Some(TokenTree::Ident(word)) = trees.first() else {
        return 0;
    };
    let mut inner = module.to_vec();
    inner.push(word.to_string());
    names.push(Name {
        segments: to_absolute(&["self".to_owned(), word.to_string()], module),
        line: word.span().start().line,
        absolute: false,
        role: Role::Declared,
    });
    match trees.get(1) {
        Some(TokenTree::Group(group)) => {
            collect_names(group.stream(), &inner, names);
            2
        }
        _ => 1,
    }
}

/// Reads the tokens between `use` and its semicolon. Returns their number.
fn read_import(
    trees: &[TokenTree],
    module: &[String],
    is_reexport: bool,
    names: &mut Vec<Name>,
) -> usize {
    let end = trees.iter().position(|tree| is_mark(tree, ';'));
    let end = end.unwrap_or(trees.len());
    read_branches(&trees[..end], module, &[], is_reexport, names);
    end
}

/// Reads the branches of a `use`, which extend the path `prefix`.
fn read_branches(
    trees: &[TokenTree],
    module: &[String],
    prefix: &[String],
    is_reexport: bool,
    names: &mut Vec<Name>,
) {
    for branch in trees.split(|tree| is_mark(tree, ',')) {
        let Some(first) = branch.first() else {
            continue;
        };
        let mut segments = prefix.to_vec();
        let mut alias = None;
        let mut rest = branch.iter();
        while let Some(tree) = rest.next() {
            match tree {
                TokenTree::Ident(word) if word == "as" => {
                    alias = rest.next().map(ToString::to_string);
                }
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    read_branches(&inner, module, &segments, is_reexport, names);
                    segments.clear();
                }
                TokenTree::Punct(mark) if mark.as_char() == '*' => segments.push("*".to_owned()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        if segments.len() > 1 && segments.last().is_some_and(|segment| segment == "self") {
            segments.pop();
        }
        let Some(last) = segments.last() else {
            continue;
        };
        let alias = alias.unwrap_or_else(|| last.clone());
        names.push(Name {
            segments: to_absolute(&segments, module),
            line: first.span().start().line,
            absolute: prefix.is_empty() && is_mark(first, ':'),
            role: Role::Imported { alias, is_reexport },
        });
    }
}

/// Reads the path that starts with the word at `start`. Returns the index after
/// its end.
fn read_name(trees: &[TokenTree], start: usize, module: &[String], names: &mut Vec<Name>) -> usize {
    let mut segments: Vec<String> = Vec::new();
    let mut index = start;
    while let Some(TokenTree::Ident(word)) = trees.get(index) {
        segments.push(word.to_string());
        index += 1;
        if !trees.get(index..).is_some_and(is_colons) {
            break;
        }
        index += 2;
    }
    let role = role_of(&trees[..start], &segments, trees.get(index));
    if trees.get(index).is_some_and(|tree| is_mark(tree, '!'))
        && let Some(last) = segments.last_mut()
    {
        last.push('!');
    }
    names.push(Name {
        segments: to_absolute(&segments, module),
        line: trees[start].span().start().line,
        absolute: start >= 2 && is_colons(&trees[start - 2..]),
        role,
    });
    index
}

/// Returns the role of a path, given the tokens before it and the token after
/// it.
fn role_of(previous: &[TokenTree], segments: &[String], next: Option<&TokenTree>) -> Role {
    let is_capital = |word: &String| word.starts_with(|letter: char| letter.is_ascii_uppercase());
    let is_method = |tree: &TokenTree| is_mark(tree, '.') || is_word(tree, "fn");
    let is_call = matches!(
        next,
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis
    );
    if segments.len() > 1
        || segments.iter().any(is_capital)
        || is_call && !previous.last().is_some_and(is_method)
    {
        Role::Used
    } else {
        Role::Word
    }
}

/// Returns true if these tokens end with `pub` or `pub(…)`.
fn is_public(trees: &[TokenTree]) -> bool {
    match trees {
        [.., word, TokenTree::Group(group)] if group.delimiter() == Delimiter::Parenthesis => {
            is_word(word, "pub")
        }
        [.., word] => is_word(word, "pub"),
        [] => false,
    }
}

fn is_word(tree: &TokenTree, text: &str) -> bool {
    matches!(tree, TokenTree::Ident(word) if word == text)
}

fn is_mark(tree: &TokenTree, text: char) -> bool {
    matches!(tree, TokenTree::Punct(mark) if mark.as_char() == text)
}

fn is_colons(trees: &[TokenTree]) -> bool {
    matches!(trees, [first, second, ..] if is_mark(first, ':') && is_mark(second, ':'))
}

/// Resolves `super::super::x` and `self::x` to `crate::…`.
fn to_absolute(segments: &[String], module: &[String]) -> Vec<String> {
    let relative = segments
        .iter()
        .take_while(|segment| *segment == "super" || *segment == "self")
        .count();
    if relative == 0 || relative == segments.len() {
        return segments.to_vec();
    }
    let supers = segments[..relative]
        .iter()
        .filter(|segment| *segment == "super")
        .count();
    let parent = &module[..module.len().saturating_sub(supers)];
    let mut absolute = vec!["crate".to_owned()];
    absolute.extend_from_slice(parent);
    absolute.extend_from_slice(&segments[relative..]);
    absolute
}

/// Returns the Rust files below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("read the folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("read the entry").path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    paths.sort();
    paths
}
