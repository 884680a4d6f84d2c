//! Reads Rust just well enough to see which paths a file names: comments and literals are told apart from
//! code, use trees are flattened, and `super` is followed as far as it goes.

use std::path::Path;

/// A source file, taken apart.
pub(crate) struct Source {
    /// Below `src/`, with slashes.
    pub(crate) name: String,
    /// Lines in the file.
    pub(crate) lines: usize,
    /// Every path that its code names.
    pub(crate) paths: Vec<Named>,
    /// Every macro it calls, by last segment.
    pub(crate) macros: Vec<Word>,
    /// Every string literal.
    pub(crate) strings: Vec<Word>,
    /// Every comment, docs included.
    pub(crate) comments: Vec<Word>,
}

/// A path and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// From the root: `crate::store::Store`, `tokio::spawn`.
    pub(crate) path: String,
    pub(crate) line: usize,
    /// Inside `#[cfg(test)] mod …` or a test file.
    pub(crate) in_test: bool,
}

/// A word and where it stands.
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
    pub(crate) in_test: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Ident,
    Text,
    Comment,
    /// `::`
    Path,
    Other(char),
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

impl Token {
    fn is(&self, c: char) -> bool {
        self.kind == Kind::Other(c)
    }
}

/// Takes a file apart. `name` is its path below `src/`.
pub(crate) fn read(name: &str, text: &str) -> Source {
    let all = tokens(text);
    let (comments, code): (Vec<Token>, Vec<Token>) = all.into_iter().partition(|t| t.kind == Kind::Comment);
    let tests = test_lines(&code);
    let whole_file = is_test_file(name);
    let in_test = |line: usize| whole_file || tests.iter().any(|(from, to)| (*from..=*to).contains(&line));
    let word = |t: &Token| Word { text: t.text.clone(), line: t.line, in_test: in_test(t.line) };
    Source {
        name: name.to_owned(),
        lines: text.lines().count(),
        paths: paths(name, &code)
            .into_iter()
            .map(|(path, line)| Named { path, line, in_test: in_test(line) })
            .collect(),
        macros: code
            .windows(2)
            .filter(|w| w[0].kind == Kind::Ident && w[1].is('!'))
            .map(|w| word(&w[0]))
            .collect(),
        strings: code.iter().filter(|t| t.kind == Kind::Text).map(word).collect(),
        comments: comments.iter().map(word).collect(),
    }
}

/// `foo/tests.rs`, `foo/tests/x.rs` and conformance suites are test code from end to end.
fn is_test_file(name: &str) -> bool {
    let path = Path::new(name);
    path.components().any(|c| c.as_os_str() == "tests")
        || matches!(path.file_name().and_then(|f| f.to_str()), Some("tests.rs" | "conformance.rs"))
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at, mut line) = (Vec::new(), 0, 1);
    let word = |c: char| c.is_alphanumeric() || c == '_';
    while at < chars.len() {
        let c = chars[at];
        let (from, first) = (at, line);
        let next = chars.get(at + 1).copied();
        let kind = match c {
            '/' if next == Some('/') => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
                Kind::Comment
            }
            '/' if next == Some('*') => {
                let mut depth = 0;
                loop {
                    match (chars.get(at), chars.get(at + 1)) {
                        (Some('/'), Some('*')) => (depth, at) = (depth + 1, at + 2),
                        (Some('*'), Some('/')) => (depth, at) = (depth - 1, at + 2),
                        (Some(_), _) => at += 1,
                        (None, _) => break,
                    }
                    if depth == 0 {
                        break;
                    }
                }
                Kind::Comment
            }
            '"' => {
                at = end_of_string(&chars, at + 1);
                Kind::Text
            }
            'r' | 'b' | 'c' if literal_prefix(&chars, at).is_some() => {
                let (start, hashes, raw) = literal_prefix(&chars, at).expect("just asked");
                at = if raw { end_of_raw(&chars, start, hashes) } else { end_of_string(&chars, start) };
                Kind::Text
            }
            '\'' => {
                // A character, else a lifetime.
                if next == Some('\\') {
                    at += 3;
                    while at < chars.len() && chars[at] != '\'' {
                        at += 1;
                    }
                    at += 1;
                } else if chars.get(at + 2) == Some(&'\'') {
                    at += 3;
                } else {
                    at += 1;
                    while at < chars.len() && word(chars[at]) {
                        at += 1;
                    }
                }
                Kind::Other('\'')
            }
            ':' if next == Some(':') => {
                at += 2;
                Kind::Path
            }
            c if word(c) => {
                while at < chars.len() && word(chars[at]) {
                    at += 1;
                }
                Kind::Ident
            }
            c => {
                at += 1;
                Kind::Other(c)
            }
        };
        at = at.min(chars.len());
        let text: String = chars[from..at].iter().collect();
        line += text.matches('\n').count();
        if !text.trim().is_empty() {
            let text = if kind == Kind::Text { inside(&text) } else { text };
            out.push(Token { kind, text, line: first });
        }
    }
    out
}

/// The text between a literal's quotes.
fn inside(literal: &str) -> String {
    let from = literal.find('"').map_or(0, |at| at + 1);
    let to = literal.rfind('"').unwrap_or(literal.len()).max(from);
    literal[from..to].to_owned()
}

/// Where the content of `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"` begins, its hashes, and whether it is raw.
fn literal_prefix(chars: &[char], at: usize) -> Option<(usize, usize, bool)> {
    if at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') {
        return None;
    }
    let mut here = at;
    if matches!(chars[here], 'b' | 'c') {
        here += 1;
    }
    let raw = chars.get(here) == Some(&'r');
    if raw {
        here += 1;
    }
    let mut hashes = 0;
    while raw && chars.get(here) == Some(&'#') {
        (hashes, here) = (hashes + 1, here + 1);
    }
    (chars.get(here) == Some(&'"')).then_some((here + 1, hashes, raw))
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_raw(chars: &[char], mut at: usize, hashes: usize) -> usize {
    while at < chars.len() {
        if chars[at] == '"' && (1..=hashes).all(|n| chars.get(at + n) == Some(&'#')) {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

/// First and last line of each `#[cfg(test)]` item.
fn test_lines(code: &[Token]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for at in 0..code.len() {
        let text: Vec<&str> = code[at..].iter().take(7).map(|t| t.text.as_str()).collect();
        let is_test = matches!(text[..], ["#", "[", "cfg", "(", "test", ")", "]", ..])
            || matches!(text[..], ["#", "[", "cfg", "(", "any" | "all", "(", "test", ..]);
        if !is_test {
            continue;
        }
        // To the end of the item: its closing brace, or a semicolon before any brace.
        let mut depth = 0;
        for token in &code[at..] {
            match token.kind {
                Kind::Other('{') => depth += 1,
                Kind::Other('}') => depth -= 1,
                Kind::Other(';') if depth == 0 => {
                    found.push((code[at].line, token.line));
                    break;
                }
                _ => continue,
            }
            if depth == 0 {
                found.push((code[at].line, token.line));
                break;
            }
        }
    }
    found
}

/// Every path the code names, from its root, use trees flattened.
fn paths(name: &str, code: &[Token]) -> Vec<(String, usize)> {
    let file = module_of(name);
    // Inline modules that enclose the current token: name and the brace depth they opened at.
    let (mut inline, mut depth) = (Vec::<(String, usize)>::new(), 0);
    let (mut found, mut at) = (Vec::new(), 0);
    while at < code.len() {
        let token = &code[at];
        match &token.kind {
            Kind::Other('{') => {
                depth += 1;
                if at >= 2 && code[at - 2].text == "mod" && code[at - 1].kind == Kind::Ident {
                    inline.push((code[at - 1].text.clone(), depth));
                }
            }
            Kind::Other('}') => {
                if inline.last().is_some_and(|(_, opened)| *opened == depth) {
                    inline.pop();
                }
                depth = depth.saturating_sub(1);
            }
            Kind::Ident if !["use", "in", "as", "for", "return", "match"].contains(&token.text.as_str()) => {
                let goes_on = code.get(at + 1).is_some_and(|t| t.kind == Kind::Path);
                let is_use =
                    at > 0 && matches!(code[at - 1].text.as_str(), "use" | "crate") && token.text != "crate";
                if goes_on || is_use {
                    let here: Vec<String> =
                        file.iter().cloned().chain(inline.iter().map(|(name, _)| name.clone())).collect();
                    let mut flat = Vec::new();
                    at = tree(code, at, &mut Vec::new(), &mut flat);
                    found.extend(flat.into_iter().map(|(path, line)| (rooted(path, &here).join("::"), line)));
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Flattens the path or use tree that begins at `at`; returns where it ends.
fn tree(
    code: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    out: &mut Vec<(Vec<String>, usize)>,
) -> usize {
    let (kept, line) = (prefix.len(), code.get(at).map_or(0, |t| t.line));
    while let Some(token) = code.get(at) {
        match token.kind {
            Kind::Ident => prefix.push(token.text.clone()),
            Kind::Other('*') => prefix.push("*".into()),
            Kind::Other('{') => {
                at += 1;
                while let Some(token) = code.get(at) {
                    match token.kind {
                        Kind::Other('}') => break,
                        Kind::Ident | Kind::Other('*' | '{') => at = tree(code, at, prefix, out),
                        // `,` and `as name` and a leading `::`
                        _ => at += 1,
                    }
                }
                prefix.truncate(kept);
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        match code.get(at) {
            Some(next) if next.kind == Kind::Path => at += 1,
            Some(next) if next.text == "as" => {
                at += 2;
                break;
            }
            _ => break,
        }
    }
    out.push((prefix.clone(), line));
    prefix.truncate(kept);
    at
}

/// `proxy/engine/service.rs` → `[proxy, engine, service]`; `proxy/mod.rs` → `[proxy]`.
fn module_of(name: &str) -> Vec<String> {
    let mut parts: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Turns `self::` and `super::` into paths from `crate`.
fn rooted(path: Vec<String>, here: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|p| *p == "super" || *p == "self").count();
    if ups == 0 {
        return path;
    }
    let supers = path[..ups].iter().filter(|p| *p == "super").count();
    let keep = here.len().saturating_sub(supers);
    ["crate".to_owned()]
        .into_iter()
        .chain(here[..keep].iter().cloned())
        .chain(path[ups..].iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, text: &str) -> Vec<String> {
        read(name, text).paths.into_iter().map(|n| n.path).collect()
    }

    #[test]
    fn use_trees_are_flattened_and_supers_followed() {
        let text = "use crate::{store::{Kv, txn as t}, wire::vm};\nuse super::super::agent::{self, X};\n\
                    mod tests { use super::*; fn f() { super::super::super::cli::go(); tokio::spawn(x) } }";
        assert_eq!(
            named("proxy/engine.rs", text),
            [
                "crate::store::Kv",
                "crate::store::txn",
                "crate::wire::vm",
                "crate::agent::self",
                "crate::agent::X",
                "crate::proxy::engine::*",
                "crate::cli::go",
                "tokio::spawn",
            ]
        );
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "// crate::agent::x\n/* crate::agent /* y */ */ fn f<'a>(c: char) { let s = \"crate::agent::z \\\" x\"; \
                    let r = r#\"crate::cli::\"#; let q = '\"'; let n = '\\''; crate::wire::w(b\"crate::store::k\") }";
        assert_eq!(named("config/mod.rs", text), ["crate::wire::w"]);
        let source = read("config/mod.rs", text);
        assert_eq!(source.strings.len(), 3);
        assert_eq!(source.comments.len(), 2);
    }

    #[test]
    fn test_code_is_told_apart() {
        let text = "use a::b;\n#[cfg(test)]\nmod tests {\n    use c::d;\n}\nuse e::f;\n#[cfg(test)]\nmod more;\nuse g::h;";
        let tests: Vec<bool> = read("x.rs", text).paths.iter().map(|n| n.in_test).collect();
        assert_eq!(tests, [false, true, false, false]);
        assert!(read("store/conformance.rs", text).paths.iter().all(|n| n.in_test));
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let source = read("x.rs", "let a = \"one\ntwo\";\n/* x\n y */ use b::c;\n\nprintln!();");
        assert_eq!(source.paths[0].line, 4);
        assert_eq!((source.macros[0].text.as_str(), source.macros[0].line), ("println", 6));
    }
}
