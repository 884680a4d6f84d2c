//! Each fixture becomes the config and the report beside it, and the config passes `check`. With `BLESS=1` what came out is
//! written there instead, to be read before it is committed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use switchyard::{
    config,
    import::{self, Imported, Included, nginx},
};

use crate::certificates::Authority;

/// The files that the fixtures name.
pub(crate) fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    fs::write(dir.path().join("ca.pem"), authority.cert()).unwrap();
    for (name, host) in [("front", "ci.example"), ("other", "other.example"), ("both", "ci.example")] {
        let made = authority.leaf(&[host]);
        if name == "front" {
            fs::write(dir.path().join("front.key"), &made.key).unwrap();
            fs::write(dir.path().join("front.pem"), &made.cert).unwrap();
        } else {
            // nginx has them apart, haproxy in one file.
            fs::write(dir.path().join(format!("{name}.key")), &made.key).unwrap();
            fs::write(dir.path().join(format!("{name}.pem")), made.cert + &made.key).unwrap();
        }
    }
    dir
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(name)
}

/// Reads what a fixture includes: names are relative to its folder.
pub(crate) fn files(folder: &Path, pattern: &str) -> Result<Vec<Included>, String> {
    if pattern.starts_with('/') && !pattern.starts_with(folder.to_str().unwrap()) {
        return Err("it is of no fixture".into());
    }
    let whole = folder.join(pattern);
    let wanted = whole.display().to_string();
    let names: Vec<PathBuf> = if pattern.contains('*') {
        let entries = fs::read_dir(whole.parent().unwrap()).map_err(|error| error.kind().to_string())?;
        let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all.into_iter().filter(|path| nginx::matches(&wanted, path.to_str().unwrap())).collect()
    } else {
        vec![whole]
    };
    let read = |path: PathBuf| match fs::read_to_string(&path) {
        Ok(text) => Ok((path.display().to_string(), text)),
        Err(error) => Err(error.kind().to_string()),
    };
    names.into_iter().map(read).collect()
}

fn environment(name: &str) -> Option<String> {
    [("PORT", "8090"), ("FIRST", "c1")]
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| (*value).to_owned())
}

/// Imports a fixture, with the files that it names in `dir`.
pub(crate) fn import(file: &Path, dir: &Path) -> Imported {
    let text = fs::read_to_string(file).unwrap();
    let own = file.parent().unwrap();
    let text =
        text.replace("@DIR@", dir.to_str().unwrap()).replace("@LISTS@", own.join("lists").to_str().unwrap());
    let name = file.file_name().unwrap().to_str().unwrap();
    match file.extension().unwrap().to_str().unwrap() {
        "conf" => nginx::import(name, &text, &|pattern| files(own, pattern)).unwrap(),
        _ => import::haproxy::import(name, &text, &|pattern| files(own, pattern), &environment).unwrap(),
    }
}

pub(crate) fn fixtures(whose: &str) -> Vec<PathBuf> {
    let ending = if whose == "nginx" { "conf" } else { "cfg" };
    let entries = fs::read_dir(folder(whose)).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == ending)).collect();
    all.sort();
    assert!(all.len() >= 10, "there are {} of {whose}", all.len());
    all
}

/// A directive up to where it names one of these directories: how long their paths are decides where it is cut off.
fn without_paths(directive: &str, paths: &[&str]) -> String {
    let shown = directive.strip_suffix('…');
    let text = shown.unwrap_or(directive);
    let names = |at: usize| {
        let rest = &text[at..];
        paths.iter().any(|path| rest.starts_with(path) || (shown.is_some() && path.starts_with(rest)))
    };
    match text.match_indices('/').map(|(at, _)| at).find(|at| names(*at)) {
        Some(at) => format!("{}@PATH@…", &text[..at]),
        None => directive.to_owned(),
    }
}

fn golden(whose: &str) {
    let dir = certificates();
    let mut wrong = Vec::new();
    for file in fixtures(whose) {
        let Imported { config, report } = import(&file, dir.path());
        if let Err(faults) = config::check_proxy(Path::new("proxy.toml"), &config) {
            wrong.push(format!("{}: {}\n{config}", file.display(), faults.draw(false)));
        }
        let mut all = format!("{config}\n# ----\n");
        let (dir, here) = (dir.path().display().to_string(), folder(whose).display().to_string());
        let plain = |text: &str| text.replace(&dir, "@DIR@").replace(&here, "@HERE@");
        for note in report.notes() {
            let directive = without_paths(&note.directive, &[&dir, &here]);
            all.push_str(&format!("# {}: {}: {directive}: {}\n", note.at, note.fate.as_str(), note.says));
        }
        let all = plain(&all);
        let beside = file.with_extension("toml");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&beside, all).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != all {
            wrong.push(format!(
                "{} became something else than {} has:\n{all}",
                file.display(),
                beside.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_people_write_for_nginx_becomes_what_it_is_known_to_become() {
    golden("nginx");
}

#[test]
fn what_people_write_for_haproxy_becomes_what_it_is_known_to_become() {
    golden("haproxy");
}

/// Lines that hold something: no comment, no lone brace.
fn lines(text: &str) -> BTreeSet<usize> {
    let mut going_on = false;
    let mut found = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let bare = line.trim();
        if !bare.is_empty()
            && !bare.starts_with('#')
            && bare.chars().any(|c| c.is_alphanumeric())
            && !going_on
        {
            found.insert(number + 1);
        }
        going_on = bare.ends_with('\\');
    }
    found
}

#[test]
fn every_line_of_every_fixture_is_spoken_of() {
    let dir = certificates();
    for file in fixtures("nginx").into_iter().chain(fixtures("haproxy")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let report = import(&file, dir.path()).report;
        let spoken: BTreeSet<usize> =
            report.notes().filter(|note| &*note.at.file == name).map(|note| note.at.line).collect();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(lines(&text), spoken, "{name}");
    }
}
