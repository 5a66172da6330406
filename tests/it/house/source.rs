//! Source files as the checks see them: tokens without tests, each with its place.
//!
//! Read with proc-macro2's lexer. It knows comments, strings and spans as the compiler does and also
//! shows what stands inside macros, which a syntax tree leaves closed; and it is built already,
//! because every derive needs it.

use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The repository's top folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of Rust.
pub struct Source {
    /// From the top folder, such as `src/domain/time.rs`.
    pub path: String,
    pub text: String,
    /// Without what is compiled for tests only.
    pub tokens: Vec<TokenTree>,
    /// Lines that stand in tests.
    pub test_lines: usize,
}

/// A path as code names it, such as `crate::hot::keys`, with groups of `use` spread out.
pub struct NamedPath {
    pub segments: Vec<String>,
    pub line: usize,
    /// The module that names it, from the crate's top.
    pub module: Vec<String>,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

impl Source {
    pub fn parse(path: &str, text: &str) -> Source {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut test_lines = 0;
        let tokens = without_tests(tokens, &mut test_lines);
        Source { path: path.into(), text: text.into(), tokens, test_lines }
    }

    /// All of `src` but for files of tests.
    pub fn all() -> Vec<Source> {
        let files = files_below(&root().join("src"));
        let sources = files.into_iter().filter(|path| path.ends_with(".rs") && !is_test_file(path));
        let sources: Vec<Source> = sources
            .map(|path| Source::parse(&path, &std::fs::read_to_string(root().join(&path)).unwrap()))
            .collect();
        assert!(sources.len() > 50, "the sources were found");
        sources
    }

    /// The room that this file belongs to: `domain`, `run`, `bin`, …
    pub fn room(&self) -> &str {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.split('/').next().unwrap_or(inner)
    }

    /// The module of the file, from the crate's top.
    fn module(&self) -> Vec<String> {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        inner.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
    }

    /// Every identifier with its line, also in macros.
    pub fn idents(&self) -> Vec<(String, usize)> {
        idents(&self.tokens)
    }

    pub fn paths(&self) -> Vec<NamedPath> {
        let mut found = Vec::new();
        collect_paths(&self.tokens, &self.module(), &mut found);
        found
    }

    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        collect_functions(&self.tokens, &mut found);
        found
    }

    /// The bodies of `impl <trait_name> for …`.
    pub fn bodies_of_impls(&self, trait_name: &str) -> Vec<Vec<TokenTree>> {
        let mut found = Vec::new();
        for (place, token) in self.tokens.iter().enumerate() {
            let named = ident(self.tokens.get(place + 1)).is_some_and(|name| name == trait_name);
            if ident(Some(token)).is_some_and(|word| word == "impl") && named {
                let body = self.tokens[place..].iter().find_map(braces);
                found.extend(body.map(|body| body.stream().into_iter().collect()));
            }
        }
        found
    }

    /// Whether a comment stands on this line (from 1) or on the one before it.
    pub fn is_explained(&self, line: usize) -> bool {
        let lines: Vec<&str> = self.text.lines().collect();
        let commented = |line: usize| lines.get(line).is_some_and(|line| line.contains("// "));
        commented(line - 1) || (line >= 2 && lines[line - 2].trim_start().starts_with("// "))
    }
}

/// Files below a folder, as paths from the top folder, sorted.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut folders = vec![PathBuf::from(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // What is built, what `make run` keeps, and git's own.
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if ["target", ".local", ".git"].contains(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Some(path) = path.strip_prefix(root()).ok().and_then(Path::to_str) {
                files.push(path.to_owned());
            }
        }
    }
    files.sort();
    files
}

pub fn idents(tokens: &[TokenTree]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(word) => found.push((word.to_string(), word.span().start().line)),
            TokenTree::Group(group) => {
                found.extend(idents(&group.stream().into_iter().collect::<Vec<_>>()));
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    found
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/")
}

pub fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(word)) => Some(word.to_string()),
        _ => None,
    }
}

pub fn is_punct(token: Option<&TokenTree>, sign: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

fn braces(token: &TokenTree) -> Option<&Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group),
        _ => None,
    }
}

/// Leaves out every item under `#[cfg(test)]`, and counts its lines.
fn without_tests(tokens: TokenStream, test_lines: &mut usize) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let hash = is_punct(Some(&token), '#');
        let attribute = tokens.peek().map(ToString::to_string).unwrap_or_default();
        if hash && attribute.replace(' ', "") == "[cfg(test)]" {
            let first = token.span().start().line;
            // An item ends with its body or with a semicolon.
            let last = tokens.find(|token| braces(token).is_some() || is_punct(Some(token), ';'));
            *test_lines += last.map_or(0, |last| last.span().end().line + 1 - first);
        } else if let TokenTree::Group(group) = token {
            let inner = without_tests(group.stream(), test_lines).into_iter().collect();
            let mut smaller = Group::new(group.delimiter(), inner);
            smaller.set_span(group.span());
            kept.push(TokenTree::Group(smaller));
        } else {
            kept.push(token);
        }
    }
    kept
}

fn collect_functions(tokens: &[TokenTree], found: &mut Vec<Function>) {
    for (place, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            collect_functions(&group.stream().into_iter().collect::<Vec<_>>(), found);
        }
        let name = ident(tokens.get(place + 1));
        let (true, Some(name)) = (ident(Some(token)).is_some_and(|word| word == "fn"), name) else {
            continue;
        };
        let end = tokens[place..].iter().find(|token| braces(token).is_some() || is_punct(Some(token), ';'));
        if let Some(body) = end.and_then(braces) {
            let line = token.span().start().line;
            found.push(Function { name, line, lines: body.span().end().line + 1 - line });
        }
    }
}

fn collect_paths(tokens: &[TokenTree], module: &[String], found: &mut Vec<NamedPath>) {
    let mut place = 0;
    while place < tokens.len() {
        if let Some(name) = ident(tokens.get(place)) {
            // The body of an inline module names its paths from one level below.
            let body = tokens.get(place + 2).and_then(braces);
            if let (true, Some(inner), Some(body)) = (name == "mod", ident(tokens.get(place + 1)), body) {
                let module = [module, &[inner]].concat();
                collect_paths(&body.stream().into_iter().collect::<Vec<_>>(), &module, found);
                place += 3;
                continue;
            }
            place = follow_path(tokens, place, &[], module, found);
            continue;
        }
        if let Some(TokenTree::Group(group)) = tokens.get(place) {
            collect_paths(&group.stream().into_iter().collect::<Vec<_>>(), module, found);
        }
        place += 1;
    }
}

/// Reads the path that begins at `place`; answers where it ends.
fn follow_path(
    tokens: &[TokenTree],
    mut place: usize,
    prefix: &[String],
    module: &[String],
    found: &mut Vec<NamedPath>,
) -> usize {
    let line = tokens[place].span().start().line;
    let mut segments = prefix.to_vec();
    while let Some(segment) = ident(tokens.get(place)) {
        segments.push(segment);
        place += 1;
        if !(is_punct(tokens.get(place), ':') && is_punct(tokens.get(place + 1), ':')) {
            break;
        }
        place += 2;
        if let Some(group) = tokens.get(place).and_then(braces) {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            for piece in inner.split(|token| is_punct(Some(token), ',')).filter(|piece| !piece.is_empty()) {
                follow_path(piece, 0, &segments, module, found);
            }
            return place + 1;
        }
    }
    if segments.len() > prefix.len() {
        found.push(NamedPath { segments, line, module: module.to_vec() });
    }
    place
}
