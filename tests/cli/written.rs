//! A config that is written back reads as the same again, key by key.

use std::{fs, path::Path};

use switchyard::config::{self, Env, Loaded, MASKED, proxy::Proxy, written};
use toml::Table;

use crate::{
    program::in_project,
    reference::{Files, rows},
};

fn read(text: &str) -> Proxy {
    config::check_proxy(Path::new("written.toml"), text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// What is written of the config reads as it, and is written the same again; where it is wrong.
fn check(text: &str) -> Result<String, String> {
    let config = read(text);
    let first = written(&config, Path::new("")).to_string();
    let again = config::check_proxy(Path::new("written.toml"), &first)
        .map_err(|faults| format!("{faults}\n{first}"))?;
    if again != config {
        return Err(format!("it reads as another one:\n{first}"));
    }
    Ok(first)
}

#[test]
fn each_key_that_a_proxy_goes_by_is_written_as_it_is_read() {
    let files = Files::new();
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for row in rows().iter().filter(|row| row.role == "proxy") {
        // Values of these are secrets; the tests below look at them.
        if row.path == "service.*.health.headers" {
            continue;
        }
        let around = Some(files.around("proxy", &row.path));
        for file in around.into_iter().chain(files.changed("proxy", &row.path)) {
            tried += 1;
            match check(&file.to_string()) {
                Ok(written) if has(&written.parse().unwrap(), &row.path) || is_needless(&row.path, &file) => {
                }
                Ok(written) => wrong.push(format!("`{}` is not written:\n{written}", row.path)),
                Err(why) => wrong.push(format!("`{}`: {why}", row.path)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(tried > 250, "only {tried} were tried");
}

/// Whether a file has a key.
fn has(file: &Table, path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let found = file.get(if first == "*" { "s" } else { first });
    match (found, rest) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(toml::Value::Array(entries)), Some(rest)) => {
            entries.iter().filter_map(toml::Value::as_table).any(|entry| has(entry, rest))
        }
        (Some(toml::Value::Table(table)), Some(rest)) => has(table, rest),
        (Some(_), Some(_)) => false,
    }
}

/// It is not written where the file does not have it either and nothing stands for that; or it says what another key says:
/// `certs` with one pair, and the one rule that matches everything, are written in their short forms.
fn is_needless(path: &str, file: &Table) -> bool {
    !has(file, path)
        || ["listener.tls.certs.", "listener.rules.", "trace.sample"].iter().any(|of| path.starts_with(of))
}

#[test]
fn the_configs_of_this_project_are_written_as_they_are_read() {
    let mut proxies = 0;
    for entry in fs::read_dir(in_project("conf")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|kind| kind != "toml") {
            continue;
        }
        if let Ok((Loaded::Proxy(_), _)) = config::load(&file, &Env::default()) {
            proxies += 1;
            check(&fs::read_to_string(&file).unwrap())
                .unwrap_or_else(|why| panic!("{}: {why}", file.display()));
        }
    }
    assert!(proxies >= 3, "only {proxies} configs of proxies");
}

#[test]
fn no_secret_is_written_and_files_with_secrets_are_named() {
    let files = Files::new();
    let here = files.folder.path().display();
    let text = format!(
        "[admin]\ntoken_file = '{here}/admin.token'\n[[listener]]\nbind = ['127.0.0.1:0']\nservice = 's'\n\
         [service.s]\nkind = 'registry'\nwriter = 'r1'\nfreshness = 'catalogue'\n\
         upstreams = [{{ name = 'r1', address = '10.0.1.4:8089' }}]\n\
         catalogue = {{ token_file = '{here}/token' }}\n\
         health = {{ headers = {{ authorization = 'Basic c2VjcmV0' }} }}\n"
    );
    let config = read(&text);
    let shown = written(&config, Path::new("/")).to_string();
    let all = format!("{shown}{}", serde_json::to_string(&written(&config, Path::new("/"))).unwrap());
    for secret in [crate::reference::ADMIN_TOKEN, "c2VjcmV0", "\"secret\""] {
        assert!(!all.contains(secret), "{all}");
    }
    let named = [format!("token_file = \"{here}/admin.token\""), format!("token_file = \"{here}/token\"")];
    for part in named.iter().map(String::as_str).chain([&*format!("authorization = \"{MASKED}\"")]) {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    // It is a config still, with the same secrets but for what the file itself had.
    let again = read(&shown);
    assert_eq!((&again.entry, &again.services[0].vendor), (&config.entry, &config.services[0].vendor));
    assert_ne!(again.services[0].health, config.services[0].health);
}

#[test]
fn a_token_of_a_variable_is_not_written_and_check_says_what_to_write() {
    let files = Files::new();
    let file = files.folder.path().join("proxy.toml");
    fs::write(&file, files.around("proxy", "").to_string()).unwrap();
    let token = "0123456789abcdef-of-a-variable";
    let env: Env = [("SWITCHYARD_ADMIN_TOKEN".to_owned(), token.to_owned())].into_iter().collect();
    let (config, _) = config::load_proxy(&file, &env).unwrap();
    let shown = written(&config, Path::new("")).to_string();
    assert!(shown.contains(&format!("token = \"{MASKED}\"")) && !shown.contains(token), "{shown}");
    let faults = config::check_proxy(Path::new("written.toml"), &shown).unwrap_err();
    assert!(faults.count() == 1 && faults.to_string().contains("token_file"), "{faults}");
}
