//! Conditions: what of them our rules can say, which is a host and a path.

use super::parse::Line;
use crate::import::words;

/// What a condition asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Test {
    /// One of these hosts.
    Hosts(Vec<String>),
    /// Below one of these paths.
    Paths(Vec<String>),
    /// A method: writes, usually.
    Method,
    /// The client's address.
    Source(Vec<String>),
    /// Anything else, as it is written.
    Other(String),
}

/// A condition by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    pub(super) name: String,
    pub(super) test: Test,
    /// It asks for a whole path.
    pub(super) exact: bool,
}

/// `acl NAME CRITERION [flags] VALUE…`.
pub(super) fn acl(line: &Line) -> Acl {
    let exact =
        line.word(2) == "path" && !line.words.iter().any(|word| ["beg", "dir"].contains(&word.as_str()));
    Acl { name: line.word(1).to_owned(), test: test(line.from(2)), exact }
}

/// A criterion with its values.
pub(super) fn test(given: &[String]) -> Test {
    let criterion = given.first().map_or("", String::as_str);
    let mut way = "";
    let mut values: Vec<String> = Vec::new();
    let mut rest = given.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-i" | "--" => {}
            "-f" | "-M" => {
                rest.next();
                return Test::Other(given.join(" "));
            }
            "-m" => way = rest.next().map_or("", String::as_str),
            other => values.push(other.to_owned()),
        }
    }
    let other = || Test::Other(given.join(" "));
    let is_host = [
        "hdr(host)",
        "req.hdr(host)",
        "hdr_dom(host)",
        "req.fhdr(host)",
        "ssl_fc_sni",
        "req.ssl_sni",
        "hdr(Host)",
        "req.hdr(Host)",
    ];
    if is_host.contains(&criterion) && ["", "str", "dom"].contains(&way) {
        let hosts: Option<Vec<String>> =
            values.iter().map(|value| words::host(value.split(':').next().unwrap_or(value))).collect();
        return hosts.filter(|hosts| !hosts.is_empty()).map_or_else(other, Test::Hosts);
    }
    let is_path = ["path_beg", "path_dir", "path"].contains(&criterion)
        && ["", "beg", "str", "dir"].contains(&way)
        || (criterion == "url_beg" && way.is_empty());
    if is_path {
        let paths: Option<Vec<String>> = values.iter().map(|value| words::prefix(value)).collect();
        return paths.filter(|paths| !paths.is_empty()).map_or_else(other, Test::Paths);
    }
    match criterion {
        "method" => Test::Method,
        "src" => Test::Source(values),
        _ => other(),
    }
}

/// Host and path of a rule of ours.
pub(super) type Rule = (Option<String>, Option<String>);

/// What a rule of ours would have to be for `if CONDITION`; the error says why there is none. Each pair of a host and a
/// path is a rule of its own.
pub(super) fn rules(condition: &[String], acls: &[Acl]) -> Result<Vec<Rule>, String> {
    let mut all = Vec::new();
    // `||` and `or` are between conditions, and each is a rule of its own.
    for part in condition.split(|word| word == "||" || word == "or") {
        all.extend(conjunction(part, acls)?);
    }
    Ok(all)
}

/// Whether a condition asks for whole paths, and so for less than a rule of ours takes.
pub(super) fn exact(condition: &[String], acls: &[Acl]) -> bool {
    acls.iter().any(|acl| acl.exact && condition.contains(&acl.name))
        || condition.windows(2).any(|pair| matches!(pair, [open, what] if open == "{" && what == "path"))
}

fn conjunction(part: &[String], acls: &[Acl]) -> Result<Vec<Rule>, String> {
    let mut tests: Vec<Test> = Vec::new();
    let mut words = part.iter();
    while let Some(word) = words.next() {
        if word == "{" {
            let inside: Vec<String> = words.by_ref().take_while(|word| *word != "}").cloned().collect();
            tests.push(self::test(&inside));
            continue;
        }
        if word.starts_with('!') {
            return Err(format!("no rule takes what is not something (`{word}`): order the rules instead"));
        }
        // One name may stand for several lines, of which any will do.
        let named: Vec<&Acl> = acls.iter().filter(|acl| acl.name == *word).collect();
        if named.is_empty() {
            return Err(format!("the condition `{word}` is not known"));
        }
        tests.push(named.into_iter().map(|acl| acl.test.clone()).reduce(either).unwrap_or(Test::Method));
    }
    let (mut hosts, mut paths): (Option<Vec<String>>, Option<Vec<String>>) = (None, None);
    for test in tests {
        match test {
            Test::Hosts(these) if hosts.is_none() => hosts = Some(these),
            Test::Paths(these) if paths.is_none() => paths = Some(these),
            Test::Hosts(_) | Test::Paths(_) => return Err("a rule has one host and one path".into()),
            Test::Method => {
                return Err("rules do not look at methods: writes go to the `writer` of a registry service by themselves".into());
            }
            Test::Source(_) => {
                return Err(
                    "rules do not look at addresses: give those clients a listener of their own".into()
                );
            }
            Test::Other(what) => return Err(format!("rules match by host and path, not by `{what}`")),
        }
    }
    let every =
        |list: Option<Vec<String>>| list.map_or(vec![None], |list| list.into_iter().map(Some).collect());
    let (hosts, paths): (Vec<Option<String>>, Vec<Option<String>>) = (every(hosts), every(paths));
    let pair = |host: &Option<String>| {
        let host = host.clone();
        paths.iter().map(move |path| (host.clone(), path.clone().filter(|path| !path.is_empty())))
    };
    Ok(hosts.iter().flat_map(pair).collect())
}

pub(super) fn either(one: Test, other: Test) -> Test {
    match (one, other) {
        (Test::Hosts(mut all), Test::Hosts(more)) => {
            all.extend(more);
            Test::Hosts(all)
        }
        (Test::Paths(mut all), Test::Paths(more)) => {
            all.extend(more);
            Test::Paths(all)
        }
        (Test::Source(mut all), Test::Source(more)) => {
            all.extend(more);
            Test::Source(all)
        }
        (one, _) => Test::Other(format!("one of several kinds of conditions, the first of them {one:?}")),
    }
}
