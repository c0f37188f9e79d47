//! The project's files, and Rust source as the compiler's lexer sees it: comments and strings do not count, code under
//! `cfg(test)` neither.

use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The top of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is a directory of the project").to_owned()
}

/// A text file: where it is, from the top, with slashes; and what it says.
pub struct File {
    pub path: String,
    pub text: String,
}

/// Every text file of the project, in order. Build products and what hides behind a dot are none of it, but for CI's
/// directory. Works where there is no git, as in an unpacked archive.
pub fn files() -> Vec<File> {
    fn collect(root: &Path, directory: &Path, files: &mut Vec<File>) {
        for entry in std::fs::read_dir(directory).expect("a directory that is read") {
            let path = entry.expect("an entry that is read").path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let hidden = name.starts_with('.') && name != ".ci" && name != ".github";
            // Cargo marks a build directory by this file, whatever it is called; but not one that was there before, and
            // tests/run keeps its logs in target.
            let built = path == root.join("target") || path.join("CACHEDIR.TAG").exists();
            if hidden || built {
                continue;
            }
            if path.is_dir() {
                collect(root, &path, files);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root).expect("a path below the top").to_string_lossy().into_owned();
                files.push(File { path, text });
            }
        }
    }
    let (root, mut files) = (root(), Vec::new());
    collect(&root, &root, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// A token where it stands.
pub struct At<'a> {
    tokens: &'a [TokenTree],
    index: usize,
    /// The function around it; empty outside.
    pub function: &'a str,
}

impl At<'_> {
    fn token(&self, ahead: isize) -> Option<&TokenTree> {
        self.tokens.get(self.index.checked_add_signed(ahead)?)
    }

    /// The line it stands on, from 1.
    pub fn line(&self) -> usize {
        self.tokens[self.index].span().start().line
    }

    /// Whether the tokens from here on are these: identifiers and single punctuation marks.
    pub fn is(&self, expected: &[&str]) -> bool {
        self.is_ahead(0, expected)
    }

    /// As [`At::is`], `ahead` of here.
    pub fn is_ahead(&self, ahead: isize, expected: &[&str]) -> bool {
        expected.iter().zip(ahead..).all(|(expected, ahead)| match self.token(ahead) {
            Some(TokenTree::Ident(ident)) => ident == expected,
            Some(TokenTree::Punct(punct)) => expected.len() == 1 && expected.starts_with(punct.as_char()),
            _ => false,
        })
    }

    /// Whether a group with these brackets stands `ahead`.
    pub fn is_group(&self, ahead: isize, delimiter: Delimiter) -> bool {
        matches!(self.token(ahead), Some(TokenTree::Group(group)) if group.delimiter() == delimiter)
    }

    /// The identifiers of the group that stands `ahead`, however deep.
    pub fn idents_of_group(&self, ahead: isize) -> Vec<String> {
        fn collect(stream: TokenStream, idents: &mut Vec<String>) {
            for token in stream {
                match token {
                    TokenTree::Ident(ident) => idents.push(ident.to_string()),
                    TokenTree::Group(group) => collect(group.stream(), idents),
                    _ => {}
                }
            }
        }
        let mut idents = Vec::new();
        if let Some(TokenTree::Group(group)) = self.token(ahead) {
            collect(group.stream(), &mut idents);
        }
        idents
    }

    /// Whether this is `[...]` behind an expression, with anything but numbers in it. Numbers are left to the compiler,
    /// which checks them on arrays, and to the panic proof.
    pub fn is_computed_index(&self) -> bool {
        const BEFORE_TYPES_AND_PATTERNS: [&str; 16] = [
            "mut", "in", "return", "match", "if", "else", "for", "as", "dyn", "ref", "move", "break", "const", "where",
            "impl", "let",
        ];
        let Some(TokenTree::Group(group)) = self.token(0) else { return false };
        let behind_expression = match self.token(-1) {
            Some(TokenTree::Ident(ident)) => {
                let lifetime = matches!(self.token(-2), Some(TokenTree::Punct(punct)) if punct.as_char() == '\'');
                !lifetime && !BEFORE_TYPES_AND_PATTERNS.iter().any(|keyword| ident == keyword)
            }
            Some(TokenTree::Group(before)) => before.delimiter() != Delimiter::Brace,
            Some(TokenTree::Literal(_)) => true,
            Some(TokenTree::Punct(punct)) => punct.as_char() == '?',
            None => false,
        };
        let computed = |token: TokenTree| !matches!(token, TokenTree::Literal(_) | TokenTree::Punct(_));
        group.delimiter() == Delimiter::Bracket && behind_expression && group.stream().into_iter().any(computed)
    }
}

/// Calls `visit` for every token of `source` that is not test code.
pub fn visit(source: &str, mut visit: impl FnMut(At<'_>)) {
    let stream: TokenStream = source.parse().expect("source that the compiler takes");
    walk(stream, "", &mut visit);
}

fn walk(stream: TokenStream, around: &str, visit: &mut impl FnMut(At<'_>)) {
    let tokens: Vec<_> = stream.into_iter().collect();
    let mut function = around.to_owned();
    let mut index = 0;
    while index < tokens.len() {
        let at = At { tokens: &tokens, index, function: &function };
        if at.is(&["#"]) && at.token(1).is_some_and(|attribute| attribute.to_string() == "[cfg (test)]") {
            let ends = |token: &TokenTree| match token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                TokenTree::Punct(punct) => punct.as_char() == ';',
                _ => false,
            };
            index += 1 + tokens[index..].iter().position(ends).unwrap_or(tokens.len());
            continue;
        }
        let named = match (&tokens[index], at.token(1)) {
            (TokenTree::Ident(keyword), Some(TokenTree::Ident(name))) if keyword == "fn" => Some(name.to_string()),
            _ => None,
        };
        visit(at);
        if let Some(name) = named {
            function = name;
        }
        if let TokenTree::Group(group) = &tokens[index] {
            walk(group.stream(), &function, visit);
            if group.delimiter() == Delimiter::Brace {
                around.clone_into(&mut function);
            }
        }
        index += 1;
    }
}
