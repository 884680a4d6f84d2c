//! The pages about moving say what the code does: each row of their tables is tried, and each name is there.

use std::{collections::BTreeSet, fs, path::Path};

use switchyard::import::{self, Imported, nginx};

use crate::golden;

struct Row {
    section: String,
    theirs: String,
    ours: String,
    fate: String,
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// Rows that begin with code and end with a word of the report.
fn rows(page: &str) -> Vec<Row> {
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        }
        // A bar within a cell is written `\|`.
        let safe = line.replace("\\|", "\u{1}");
        let cells: Vec<String> = safe.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect();
        if let [_, theirs, ours, fate, _] = cells.as_slice()
            && let Some(code) = theirs.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'))
        {
            found.push(Row {
                section: section.clone(),
                theirs: code.to_owned(),
                ours: ours.clone(),
                fate: fate.clone(),
            });
        }
    }
    assert!(found.len() >= 25, "{} rows", found.len());
    found
}

/// What stands in backticks and is a setting.
fn settings(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).filter(|code| code.contains(" = ")).map(str::to_owned).collect()
}

fn compare(row: &Row, imported: &Imported, file: &str, line: usize) {
    let note = imported.report.notes().find(|note| &*note.at.file == file && note.at.line == line).unwrap();
    assert_eq!(note.fate.as_str(), row.fate, "{}: {}", row.theirs, note.says);
    for setting in settings(&row.ours) {
        assert!(imported.config.contains(&setting), "{}: no {setting} in\n{}", row.theirs, imported.config);
    }
}

#[test]
fn the_page_about_nginx_says_what_becomes_of_each() {
    let page = page("moving-from-nginx.md");
    for row in rows(&page) {
        let directive =
            row.theirs.trim_end_matches(';').to_owned() + if row.theirs.ends_with('}') { "" } else { ";" };
        let mut parts = ["", "", "", "", ""];
        let place = match row.section.as_str() {
            "The file and its workers" => 0,
            "`upstream`" => 1,
            "Listeners and TLS" | "Who may come, and how much" => 2,
            "Places" => 3,
            _ => 4,
        };
        parts[place] = &directive;
        let [main, upstream, server, places, location] = parts;
        let tls = "ssl_certificate @DIR@/front.pem; ssl_certificate_key @DIR@/front.key; ssl_client_certificate @DIR@/ca.pem;";
        let text = format!(
            "{main}\nevents {{}} http {{ limit_req_zone $binary_remote_addr zone=z:1m rate=10r/s;\n\
             limit_conn_zone $binary_remote_addr zone=c:1m;\n\
             upstream registries {{ server 10.0.1.4:8089; server 10.0.1.5:8089;\n{upstream}\n}}\n\
             server {{ listen 8443 ssl; {tls}\n{server}\n{places}\nlocation / {{ proxy_pass http://registries;\n{location}\n}} }} }}"
        );
        let line = text.lines().position(|line| line == directive).unwrap() + 1;
        let dir = golden::certificates();
        let text = text.replace("@DIR@", dir.path().to_str().unwrap());
        let imported = nginx::import("x", &text, &|_| Err("not there".into())).unwrap();
        compare(&row, &imported, "x", line);
        let checked = switchyard::config::check_proxy("p".as_ref(), &imported.config);
        assert!(checked.is_ok() || row.theirs.contains(".pem"), "{}: {}", row.theirs, imported.config);
    }
    let said: BTreeSet<&str> =
        page.split('`').skip(1).step_by(2).flat_map(|code| code.split([' ', ';'])).collect();
    let missing: Vec<&str> = nginx::known().filter(|name| !said.contains(name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

#[test]
fn the_page_about_haproxy_says_what_becomes_of_each() {
    let page = page("moving-from-haproxy.md");
    for row in rows(&page) {
        let mut parts = ["", "", "", "", ""];
        let place = match row.section.as_str() {
            "`global`" => 0,
            "`defaults`" => 1,
            "`frontend`" => 2,
            "`backend`" => 3,
            _ => 4,
        };
        parts[place] = &row.theirs;
        let [global, defaults, front, back, server] = parts;
        let text = format!(
            "global\n{global}\ndefaults\n mode http\n{defaults}\nfrontend front\n bind *:8090\n \
             stick-table type ip store http_req_rate(10s),conn_cur\n acl office src 10.0.0.0/8\n{front}\n \
             default_backend registries\nbackend registries\n{back}\n server r1 10.0.1.4:8089\n{server}\n"
        );
        let line = text.lines().position(|line| line == row.theirs).unwrap() + 1;
        let imported = import::haproxy::import("x", &text, &|_| Err("not there".into()), &|_| None).unwrap();
        compare(&row, &imported, "x", line);
        let checked = switchyard::config::check_proxy("p".as_ref(), &imported.config);
        assert!(checked.is_ok() || row.theirs.contains(".pem"), "{}: {}", row.theirs, imported.config);
    }
    let said: BTreeSet<&str> =
        page.split('`').skip(1).step_by(2).flat_map(|code| code.split([' ', ';'])).collect();
    let missing: Vec<&str> = import::haproxy::known().filter(|name| !said.contains(name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}
