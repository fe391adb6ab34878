//! A source as the rules see it: the paths in it, read from its tokens.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One file.
pub struct Source {
    /// From the root of the package: `src/sinks/mod.rs`.
    pub path: PathBuf,
    /// In its crate: `["sinks"]`. Empty for `src/lib.rs` and `commands/main.rs`.
    pub module: Vec<String>,
    pub text: String,
    pub names: Vec<Name>,
}

/// A path in the code, its `super` and `self` resolved. A macro's call ends in
/// `!`. Of a nested `use` each leaf is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub segments: Vec<String>,
    pub line: usize,
    /// Begins with `::`.
    pub absolute: bool,
    pub stands: Stands,
}

/// As what a path stands in the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// `mod name`.
    Declared,
    /// `use path as by`.
    Imported {
        /// How the file calls it. All of a module is `*`.
        by: String,
        /// `pub use`.
        handed_on: bool,
    },
    /// A type, a constant, a call, or a path of several words.
    Used,
    /// One word in small letters: a variable, a field, a keyword.
    Word,
}

pub struct Violation {
    path: PathBuf,
    pub line: usize,
    pub what: String,
}

/// All sources of the library and of the binary.
pub fn all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<Source> = ["src", "commands"]
        .iter()
        .flat_map(|folder| files(&root.join(folder)))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source can be read");
            Source::new(path.strip_prefix(root).expect("below the root"), text)
        })
        .collect();
    assert!(sources.len() > 100, "the sources are somewhere else");
    sources
}

impl Source {
    pub fn new(path: &Path, text: String) -> Self {
        let below: PathBuf = path.iter().skip(1).collect();
        let module: Vec<String> = below
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .filter(|part| !["mod", "lib", "main"].contains(&part.as_str()))
            .collect();
        let tokens = TokenStream::from_str(&text)
            .unwrap_or_else(|error| panic!("{} is no Rust: {error}", path.display()));
        let mut names = Vec::new();
        read(tokens, &module, &mut names);
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

    /// The library's module that the file is in.
    pub fn top_module(&self) -> Option<&str> {
        let first = self.module.first().filter(|_| self.is_library());
        first.map(String::as_str)
    }

    /// Whether `name` means the crate `name_of_crate`, and not something of
    /// that name which the file imports or declares.
    pub fn names(&self, name: &Name, name_of_crate: &str) -> bool {
        let is_first = |name: &Name| name.segments.first().is_some_and(|it| it == name_of_crate);
        let brings = |other: &Name| {
            let last = other.segments.last().is_some_and(|it| it == name_of_crate);
            last && other.segments.len() > 1 && !is_first(other)
        };
        is_first(name)
            && (name.absolute || name.segments.len() > 1 && !self.names.iter().any(brings))
    }

    pub fn violations(&self, wrong: impl Fn(&Name) -> Option<String>) -> Vec<Violation> {
        let wrongs = self
            .names
            .iter()
            .filter_map(|name| wrong(name).map(|what| self.violation(name.line, what)));
        wrongs.collect()
    }

    pub fn violation(&self, line: usize, what: String) -> Violation {
        Violation {
            path: self.path.clone(),
            line,
            what,
        }
    }
}

impl Name {
    /// The library's module that the path leads into: `crate::<module>`.
    pub fn library_module(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [first, module, ..] if first == "crate" => Some(module),
            _ => None,
        }
    }

    pub fn holds(&self, path: &[&str]) -> bool {
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
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// Collects the names in `tokens`, which stand in `module`.
fn read(tokens: TokenStream, module: &[String], names: &mut Vec<Name>) {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        at += 1;
        match tree {
            TokenTree::Group(group) => read(group.stream(), module, names),
            TokenTree::Ident(word) if word == "mod" => {
                at += read_module(&trees[at..], module, names);
            }
            // `use<…>` is of a type.
            TokenTree::Ident(word)
                if word == "use" && !trees.get(at).is_some_and(|tree| is_mark(tree, '<')) =>
            {
                let handed_on = is_public(&trees[..at - 1]);
                at += read_import(&trees[at..], module, handed_on, names);
            }
            TokenTree::Ident(_) => at = read_name(&trees, at - 1, module, names),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Reads `name { … }` or `name;` after `mod`; gives how much it took.
fn read_module(trees: &[TokenTree], module: &[String], names: &mut Vec<Name>) -> usize {
    let Some(TokenTree::Ident(word)) = trees.first() else {
        return 0;
    };
    let mut inner = module.to_vec();
    inner.push(word.to_string());
    names.push(Name {
        segments: resolved(&["self".to_owned(), word.to_string()], module),
        line: word.span().start().line,
        absolute: false,
        stands: Stands::Declared,
    });
    match trees.get(1) {
        Some(TokenTree::Group(group)) => {
            read(group.stream(), &inner, names);
            2
        }
        _ => 1,
    }
}

/// Reads what stands between `use` and its semicolon; gives how much it took.
fn read_import(
    trees: &[TokenTree],
    module: &[String],
    handed_on: bool,
    names: &mut Vec<Name>,
) -> usize {
    let end = trees.iter().position(|tree| is_mark(tree, ';'));
    let end = end.unwrap_or(trees.len());
    read_branches(&trees[..end], module, &[], handed_on, names);
    end
}

/// Reads the branches of a `use`, which go on from `before`.
fn read_branches(
    trees: &[TokenTree],
    module: &[String],
    before: &[String],
    handed_on: bool,
    names: &mut Vec<Name>,
) {
    for branch in trees.split(|tree| is_mark(tree, ',')) {
        let Some(first) = branch.first() else {
            continue;
        };
        let mut segments = before.to_vec();
        let mut by = None;
        let mut rest = branch.iter();
        while let Some(tree) = rest.next() {
            match tree {
                TokenTree::Ident(word) if word == "as" => {
                    by = rest.next().map(ToString::to_string);
                }
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    read_branches(&inner, module, &segments, handed_on, names);
                    segments.clear();
                }
                TokenTree::Punct(mark) if mark.as_char() == '*' => segments.push("*".to_owned()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
        if segments.len() > 1 && segments.last().is_some_and(|it| it == "self") {
            segments.pop();
        }
        let Some(last) = segments.last() else {
            continue;
        };
        let by = by.unwrap_or_else(|| last.clone());
        names.push(Name {
            segments: resolved(&segments, module),
            line: first.span().start().line,
            absolute: before.is_empty() && is_mark(first, ':'),
            stands: Stands::Imported { by, handed_on },
        });
    }
}

/// Reads the path that begins with the word at `start`; gives where it ends.
fn read_name(trees: &[TokenTree], start: usize, module: &[String], names: &mut Vec<Name>) -> usize {
    let mut segments: Vec<String> = Vec::new();
    let mut at = start;
    while let Some(TokenTree::Ident(word)) = trees.get(at) {
        segments.push(word.to_string());
        at += 1;
        if !trees.get(at..).is_some_and(is_colons) {
            break;
        }
        at += 2;
    }
    let stands = stands(&trees[..start], &segments, trees.get(at));
    if trees.get(at).is_some_and(|tree| is_mark(tree, '!'))
        && let Some(last) = segments.last_mut()
    {
        last.push('!');
    }
    names.push(Name {
        segments: resolved(&segments, module),
        line: trees[start].span().start().line,
        absolute: start >= 2 && is_colons(&trees[start - 2..]),
        stands,
    });
    at
}

/// As what a path stands that comes after `before`, and before `next`.
fn stands(before: &[TokenTree], segments: &[String], next: Option<&TokenTree>) -> Stands {
    let is_capital = |word: &String| word.starts_with(|it: char| it.is_ascii_uppercase());
    let is_own = |tree: &TokenTree| is_mark(tree, '.') || is_word(tree, "fn");
    let is_called = matches!(
        next,
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis
    );
    if segments.len() > 1
        || segments.iter().any(is_capital)
        || is_called && !before.last().is_some_and(is_own)
    {
        Stands::Used
    } else {
        Stands::Word
    }
}

/// Whether what these end with makes what follows public.
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

/// `super::super::x` and `self::x` as `crate::…`.
fn resolved(segments: &[String], module: &[String]) -> Vec<String> {
    let relative = segments
        .iter()
        .take_while(|it| *it == "super" || *it == "self")
        .count();
    if relative == 0 || relative == segments.len() {
        return segments.to_vec();
    }
    let ups = segments[..relative]
        .iter()
        .filter(|it| *it == "super")
        .count();
    let kept = &module[..module.len().saturating_sub(ups)];
    let mut whole = vec!["crate".to_owned()];
    whole.extend_from_slice(kept);
    whole.extend_from_slice(&segments[relative..]);
    whole
}

/// The Rust files below `folder`, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder can be read");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry can be read").path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .collect();
    paths.sort();
    paths
}
