//! `include`, and the dump of `nginx -T`, which has all files in one.

use std::sync::Arc;

use super::parse::{Directive, parse};
use crate::import::{
    Files, ImportError, Included, MOST_BYTES, MOST_DIRECTIVES,
    report::{kept, lost},
};

/// Files included from files, at most so deep.
const DEEPEST: usize = 8;

/// The line before each file in what `nginx -T` prints.
const MARK: &str = "# configuration file ";

/// All directives of a config, with those of included files behind the `include` that names them.
pub(super) fn read(name: &str, text: &str, files: Files<'_>) -> Result<Vec<Directive>, ImportError> {
    let dump = dumped(text);
    let (name, text) = dump.first().map_or((name, text), |(name, text)| (name.as_str(), text.as_str()));
    let inside = |pattern: &str| {
        if dump.is_empty() {
            return files(pattern);
        }
        let pattern = beside(pattern, name);
        Ok(dump.iter().filter(|(file, _)| matches(&pattern, file)).cloned().collect())
    };
    let mut following =
        Following { files: &inside, open: vec![name.to_owned()], count: 0, bytes: text.len() };
    let all = parse(&Arc::from(name), text)?;
    following.follow(all)
}

struct Following<'a> {
    files: Files<'a>,
    /// The files that are being read: one that includes itself would never end.
    open: Vec<String>,
    count: usize,
    bytes: usize,
}

impl Following<'_> {
    fn follow(&mut self, directives: Vec<Directive>) -> Result<Vec<Directive>, ImportError> {
        let mut all = Vec::with_capacity(directives.len());
        for mut directive in directives {
            self.count += 1;
            if self.count > MOST_DIRECTIVES {
                return Err(ImportError::Large);
            }
            if let Some(block) = directive.block.take() {
                directive.block = Some(self.follow(block)?);
            }
            let include = directive.name == "include";
            all.push(directive);
            if include {
                let more = self.include(&mut all)?;
                all.extend(more);
            }
        }
        Ok(all)
    }

    /// What the `include` at the end of `all` names; it is said there what became of it.
    fn include(&mut self, all: &mut [Directive]) -> Result<Vec<Directive>, ImportError> {
        let Some(directive) = all.last_mut() else { return Ok(Vec::new()) };
        let (mut more, mut names) = (Vec::new(), Vec::new());
        let found = if self.open.len() > DEEPEST {
            Err(format!("files are included more than {DEEPEST} deep"))
        } else {
            (self.files)(directive.arg(0))
        };
        let outcome = match found {
            Err(why) if directive.arg(0).ends_with("mime.types") => {
                kept(format!("answers keep the type that upstreams give (not read: {why})"))
            }
            Err(why) => lost(format!("not read: {why}")),
            Ok(files) if files.is_empty() => kept("there is no such file, as nginx allows for patterns"),
            Ok(files) => {
                let mut again = None;
                for (name, text) in files {
                    if self.open.contains(&name) {
                        again = Some(lost(format!("`{name}` includes itself")));
                        continue;
                    }
                    self.bytes += text.len();
                    if self.bytes > MOST_BYTES {
                        return Err(ImportError::Large);
                    }
                    self.open.push(name.clone());
                    let inner = parse(&Arc::from(name.as_str()), &text)?;
                    more.extend(self.follow(inner)?);
                    self.open.pop();
                    names.push(name);
                }
                again.unwrap_or_else(|| kept(format!("read: {}", names.join(", "))))
            }
        };
        directive.included = Some(outcome);
        Ok(more)
    }
}

/// The files of a dump; none if it is not one.
fn dumped(text: &str) -> Vec<Included> {
    let mut files: Vec<Included> = Vec::new();
    for line in text.split_inclusive('\n') {
        let mark = line.trim_end().strip_prefix(MARK).and_then(|rest| rest.strip_suffix(':'));
        match (mark, files.last_mut()) {
            (Some(name), _) => files.push((name.to_owned(), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => {}
        }
    }
    files
}

/// A pattern as a whole path: relative ones are beside the first file.
fn beside(pattern: &str, first: &str) -> String {
    match first.rsplit_once('/') {
        Some((folder, _)) if !pattern.starts_with('/') => format!("{folder}/{pattern}"),
        _ => pattern.to_owned(),
    }
}

/// Whether a name is of this pattern: `*` stands for any part of a name without slashes.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where to go on after a `*` that took too little: one place suffices, for the last `*` can take the most.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == name[n] || (*c == '?' && name[n] != '/') => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) if name[from] != '/' => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_and_no_folders() {
        for (pattern, name, is) in [
            ("/etc/nginx/conf.d/*.conf", "/etc/nginx/conf.d/a.conf", true),
            ("/etc/nginx/conf.d/*.conf", "/etc/nginx/conf.d/a.conf.bak", false),
            ("/etc/nginx/*.conf", "/etc/nginx/conf.d/a.conf", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("*", "", true),
            ("a", "a", true),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn a_dump_has_its_files_in_it() {
        let dump = "# configuration file /etc/nginx/nginx.conf:\nhttp {\n  include conf.d/*.conf;\n}\n\
                    # configuration file /etc/nginx/conf.d/x.conf:\nserver {\n}\n";
        let all = read("-", dump, &|_| Err("nobody asks".into())).unwrap();
        let server = &all[0].block.as_ref().unwrap()[1];
        assert_eq!(
            (server.name.as_str(), server.at.to_string()),
            ("server", "/etc/nginx/conf.d/x.conf:1".into())
        );
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn files_that_include_each_other_come_to_an_end() {
        let all =
            read("a", "include b; x;", &|name| Ok(vec![(name.into(), "include a; y;".into())])).unwrap();
        let names: Vec<&str> = all.iter().map(|directive| directive.name.as_str()).collect();
        assert_eq!(names, ["include", "include", "y", "x"]);
        assert!(all[1].included.as_ref().unwrap().1.contains("includes itself"));
        let deep = read("0", "include 1;", &|name| {
            let next: u32 = name.parse::<u32>().unwrap() + 1;
            Ok(vec![(name.into(), format!("include {next};"))])
        })
        .unwrap();
        assert_eq!(deep.len(), DEEPEST + 1);
        let many = read("a", "include 0;", &|name| {
            let next: u32 = name.parse::<u32>().unwrap() + 1;
            Ok(vec![(name.into(), format!("include {next};").repeat(20))])
        });
        assert_eq!(many, Err(ImportError::Large));
    }
}
