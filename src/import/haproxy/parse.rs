//! The text of a haproxy config, as sections of lines of words. haproxy configuration manual, 2.2 "Quoting and escaping".

use std::sync::Arc;

use crate::import::{At, ImportError, MOST_DIRECTIVES};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) at: At,
    pub(super) words: Vec<String>,
    /// Variables in it that are not set here.
    pub(super) unset: Vec<String>,
}

impl Line {
    /// The word of this place; an empty one if there is none.
    pub(super) fn word(&self, place: usize) -> &str {
        self.words.get(place).map_or("", String::as_str)
    }

    /// The words from this place on.
    pub(super) fn from(&self, place: usize) -> &[String] {
        self.words.get(place..).unwrap_or_default()
    }

    /// As it is written.
    pub(super) fn shown(&self) -> String {
        self.words.join(" ")
    }
}

/// A section: its own line, and those below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) head: Line,
    pub(super) lines: Vec<Line>,
}

impl Section {
    pub(super) fn kind(&self) -> &str {
        self.head.word(0)
    }

    pub(super) fn name(&self) -> &str {
        self.head.word(1)
    }
}

/// Words that begin a section.
const SECTIONS: &[&str] = &[
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "resolvers",
    "peers",
    "userlist",
    "cache",
    "mailers",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
    "log-profile",
];

/// A line as it was read, with the values of variables in it.
type Words = Vec<String>;

/// What variables of the environment are worth.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Lines of a file that has no sections: `crt-list`.
pub(super) fn plain(name: &str, text: &str) -> Vec<Line> {
    let file: Arc<str> = Arc::from(name);
    let lines = text.lines().enumerate().take(MOST_DIRECTIVES).filter_map(|(number, line)| {
        let words: Words = line.split('#').next()?.split_whitespace().map(str::to_owned).collect();
        let at = At { file: file.clone(), line: number + 1, nth: number };
        (!words.is_empty()).then_some(Line { at, words, unset: Vec::new() })
    });
    lines.collect()
}

/// Reads a whole file. `name` is what it is called in the report.
pub(super) fn parse(name: &str, text: &str, env: Env<'_>) -> Result<Vec<Section>, ImportError> {
    let file: Arc<str> = Arc::from(name);
    let mut sections: Vec<Section> = Vec::new();
    let mut count = 0;
    let mut lines = text.lines().enumerate();
    while let Some((number, first)) = lines.next() {
        let at = At { file: file.clone(), line: number + 1, nth: number };
        let mut whole = first.to_owned();
        // A backslash at the end of a line goes on with the next one.
        while whole.ends_with('\\') && !whole.ends_with("\\\\") {
            whole.pop();
            let Some((_, next)) = lines.next() else { break };
            whole.push(' ');
            whole.push_str(next.trim_start());
        }
        let mut unset = Vec::new();
        let words = words(&whole, env, &mut unset)
            .map_err(|what| ImportError::Syntax { at: at.clone(), what: what.into() })?;
        let Some(head) = words.first() else { continue };
        count += 1;
        if count > MOST_DIRECTIVES {
            return Err(ImportError::Large);
        }
        let begins = SECTIONS.contains(&head.as_str()) && !first.starts_with([' ', '\t'])
            || matches!(head.as_str(), "global" | "defaults" | "frontend" | "backend" | "listen");
        let line = Line { at: at.clone(), words, unset };
        if begins {
            sections.push(Section { head: line, lines: Vec::new() });
        } else {
            match sections.last_mut() {
                Some(section) => section.lines.push(line),
                None => {
                    let what = format!("`{}` stands before any section", line.word(0));
                    return Err(ImportError::Syntax { at, what });
                }
            }
        }
    }
    Ok(sections)
}

/// The words of a line, without its comment.
fn words(line: &str, env: Env<'_>, unset: &mut Vec<String>) -> Result<Words, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    let mut quote: Option<char> = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            // Within single quotes nothing is special, within double quotes a backslash is.
            (Some('"') | None, '\\') => {
                let next = chars.next().ok_or("a backslash ends the line")?;
                word.get_or_insert_default().push(match next {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                });
            }
            (Some('"'), '$') => {
                let value = variable(&mut chars, env, unset)?;
                word.get_or_insert_default().push_str(&value);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// What a variable within double quotes is worth: `$NAME`, `${NAME}` or `${NAME-default}`. One that is not set is an empty
/// text, as haproxy has it.
fn variable(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    env: Env<'_>,
    unset: &mut Vec<String>,
) -> Result<String, &'static str> {
    let part = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let braces = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(part) {
        name.push(c);
    }
    let mut default = None;
    if braces {
        if chars.next_if_eq(&'[').is_some() {
            return Err("a list of variables is in it (`[*]`)");
        }
        if chars.next_if_eq(&'-').is_some() {
            let mut text = String::new();
            while let Some(c) = chars.next_if(|c| *c != '}') {
                text.push(c);
            }
            default = Some(text);
        }
        if chars.next_if_eq(&'}').is_none() {
            return Err("the braces of a variable are not closed");
        }
    }
    if name.is_empty() {
        return Ok("$".into());
    }
    Ok(env(&name).or(default).unwrap_or_else(|| {
        unset.push(name);
        String::new()
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn variables_have_the_values_of_the_environment() {
        let env = |name: &str| (name == "PORT").then(|| "8090".to_owned());
        let text = "listen \"a$PORT\"\n bind \":${PORT}\" '$PORT' \"${HOST-any}\" \"$NOT\" $PORT\n";
        let all = parse("h.cfg", text, &env).unwrap();
        assert_eq!(all[0].name(), "a8090");
        assert_eq!(all[0].lines[0].words, ["bind", ":8090", "$PORT", "any", "", "$PORT"]);
        assert_eq!(all[0].lines[0].unset, ["NOT"]);
        assert!(parse("h.cfg", "listen \"${A\"", &none).is_err());
    }

    #[test]
    fn lines_have_words_with_quotes_and_escapes() {
        let all = parse("h.cfg", "global # x\n  log /dev/log local0\nlisten a # b\n  option httpchk GET /x HTTP/1.1\\r\\nHost:\\ a\n  http-check expect string \"a b\"\n", &none).unwrap();
        assert_eq!((all.len(), all[1].kind(), all[1].name()), (2, "listen", "a"));
        assert_eq!(all[1].lines[0].word(4), "HTTP/1.1\r\nHost: a");
        assert_eq!((all[1].lines[1].word(3), all[1].lines[1].at.line), ("a b", 5));
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_line() {
        let said = |text: &str| parse("h.cfg", text, &none).unwrap_err().to_string();
        assert_eq!(said("\nmode http\n"), "h.cfg:2: `mode` stands before any section");
        assert_eq!(said("global\n log 'x\n"), "h.cfg:2: a quote is not closed");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z$\\{}\\-#'\"\\\\\n]{0,200}") {
            drop(parse("h.cfg", &format!("global\n{text}"), &none));
        }
    }
}
