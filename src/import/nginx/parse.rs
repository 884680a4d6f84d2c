//! The text of an nginx config, as directives. nginx documentation, "Beginner's Guide", "Configuration File's
//! Structure"; quoting as its own reader has it: `'…'`, `"…"`, `\` before any character, `${name}` within a word.

use std::sync::Arc;

use crate::import::{At, ImportError, MOST_DIRECTIVES, report::Outcome};

/// Blocks within blocks, at most.
const DEEPEST: usize = 32;

/// One directive, and what its braces hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) at: At,
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) block: Option<Vec<Directive>>,
    /// Of an `include`: what became of it.
    pub(super) included: Option<Outcome>,
}

impl Directive {
    /// The argument of this place; an empty one if there is none.
    pub(super) fn arg(&self, place: usize) -> &str {
        self.args.get(place).map_or("", String::as_str)
    }

    /// As it is written, without its block.
    pub(super) fn shown(&self) -> String {
        let mut shown = self.name.clone();
        for arg in &self.args {
            shown.push(' ');
            shown.push_str(arg);
        }
        shown
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl Lexer<'_> {
    fn next_char(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next == Some('\n') {
            self.line += 1;
        }
        next
    }

    /// The next token and its line; `Err` says what is unfinished.
    fn token(&mut self) -> Result<Option<(Token, usize)>, &'static str> {
        loop {
            let line = self.line;
            let Some(next) = self.next_char() else { return Ok(None) };
            let token = match next {
                white if white.is_whitespace() => continue,
                '#' => {
                    while self.rest.peek().is_some_and(|c| *c != '\n') {
                        self.next_char();
                    }
                    continue;
                }
                '{' => Token::Open,
                '}' => Token::Close,
                ';' => Token::End,
                quote @ ('"' | '\'') => Token::Word(self.quoted(quote)?),
                first => Token::Word(self.word(first)),
            };
            return Ok(Some((token, line)));
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, &'static str> {
        let mut word = String::new();
        loop {
            match self.next_char() {
                None => return Err("a quote is not closed"),
                Some('\\') => self.escaped(&mut word),
                Some(end) if end == quote => return Ok(word),
                Some(other) => word.push(other),
            }
        }
    }

    /// A backslash takes its meaning from a quote, a blank or itself, and stays before everything else: patterns have it.
    fn escaped(&mut self, word: &mut String) {
        match self.next_char() {
            Some(plain @ ('"' | '\'' | '\\')) => word.push(plain),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(other) => word.extend(['\\', other]),
            None => word.push('\\'),
        }
    }

    fn word(&mut self, first: char) -> String {
        let mut word = String::new();
        let mut next = Some(first);
        loop {
            match next {
                Some('\\') => self.escaped(&mut word),
                Some('$') => {
                    word.push('$');
                    if self.rest.peek() == Some(&'{') {
                        while let Some(part) = self.next_char() {
                            word.push(part);
                            if part == '}' {
                                break;
                            }
                        }
                    }
                }
                Some(other) => word.push(other),
                None => return word,
            }
            match self.rest.peek() {
                Some(c) if c.is_whitespace() || matches!(c, ';' | '{') => return word,
                _ => next = self.next_char(),
            }
        }
    }
}

/// Reads a whole file.
pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<Vec<Directive>, ImportError> {
    let mut lexer = Lexer { rest: text.chars().peekable(), line: 1 };
    let mut open: Vec<Directive> = Vec::new();
    let mut here: Vec<Directive> = Vec::new();
    let mut above: Vec<Vec<Directive>> = Vec::new();
    let mut words: Vec<(String, usize)> = Vec::new();
    let (mut last, mut count) = (1, 0);
    let wrong = |line: usize, what: &str| {
        Err(ImportError::Syntax { at: At { file: file.clone(), line, nth: 0 }, what: what.to_owned() })
    };
    loop {
        let (token, line) = match lexer.token() {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(what) => return wrong(last, what),
        };
        last = line;
        if words.len() > MOST_DIRECTIVES || count > MOST_DIRECTIVES {
            return Err(ImportError::Large);
        }
        let mut directive = |words: &mut Vec<(String, usize)>| {
            let mut words = std::mem::take(words).into_iter();
            let (name, line) = words.next()?;
            let args = words.map(|(word, _)| word).collect();
            let at = At { file: file.clone(), line, nth: count };
            count += 1;
            Some(Directive { at, name, args, block: None, included: None })
        };

        match token {
            Token::Word(word) => words.push((word, line)),
            Token::End => match directive(&mut words) {
                Some(directive) => here.push(directive),
                None => return wrong(line, "there is a `;` and nothing before it"),
            },
            Token::Open => {
                if open.len() >= DEEPEST {
                    return wrong(line, "blocks are nested deeper than 32");
                }
                let Some(block) = directive(&mut words) else {
                    return wrong(line, "there is a `{` and nothing before it");
                };
                open.push(block);
                above.push(std::mem::take(&mut here));
            }
            Token::Close => {
                if !words.is_empty() {
                    return wrong(line, "a directive before this `}` does not end with `;`");
                }
                let (Some(mut block), Some(outer)) = (open.pop(), above.pop()) else {
                    return wrong(line, "there is a `}` too many");
                };
                block.block = Some(std::mem::replace(&mut here, outer));
                here.push(block);
            }
        }
    }
    if let Some(block) = open.last() {
        return wrong(block.at.line, &format!("the block of `{}` is not closed", block.name));
    }
    if !words.is_empty() {
        return wrong(last, "the last directive does not end with `;`");
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<Directive>, ImportError> {
        parse(&"x.conf".into(), text)
    }

    #[test]
    fn blocks_quotes_comments_and_variables_are_read_as_nginx_reads_them() {
        let all = read("# a\nhttp {\n  log_format main '$a \"x\" \\'y';\n  map $x ${y} { ~^\\.a$ \"\"; }\n}\nuser nobody;").unwrap();
        assert_eq!(all.len(), 2);
        let http = all[0].block.as_ref().unwrap();
        assert_eq!(http[0].args, ["main", "$a \"x\" 'y"]);
        assert_eq!(http[0].at.line, 3);
        assert_eq!(http[1].args, ["$x", "${y}"]);
        assert_eq!(http[1].block.as_ref().unwrap()[0].shown(), "~^\\.a$ ");
        assert_eq!(all[1].shown(), "user nobody");
    }

    #[test]
    fn what_makes_no_sense_is_said_with_its_line() {
        let said = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(said("http {\n a b\n}"), "x.conf:3: a directive before this `}` does not end with `;`");
        assert_eq!(said("http {\n"), "x.conf:1: the block of `http` is not closed");
        assert_eq!(said("a;\n}"), "x.conf:2: there is a `}` too many");
        assert_eq!(said("a 'b;"), "x.conf:1: a quote is not closed");
        assert_eq!(said("a b"), "x.conf:1: the last directive does not end with `;`");
        assert_eq!(said(&"a {".repeat(40)), "x.conf:1: blocks are nested deeper than 32");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z ;{}'\"\\\\$#\n]{0,200}") {
            drop(read(&text));
        }
    }
}
