//! Writes the document, and holds it against the routes.

mod calls;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::DOCUMENT;
use crate::{model::OURS, wire::document::Document};

fn document() -> Value {
    let Document { paths, schemas } = calls::all();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Switchyard's admin API",
            "description": "Of one proxy, at `[admin] listen`; docs/admin.md says more. What is refused is one line of plain \
                            text. Every answer has `switchyard-admin: v1`.",
            "version": OURS,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:9090" }],
        "security": [{ "token": [] }, { "password": [] }, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "`[admin] token_file`" },
                "password": { "type": "http", "scheme": "basic", "description": "The same as the password of any user" },
            },
            "schemas": schemas,
        },
    })
}

/// Write it anew with `SWITCHYARD_WRITE_OPENAPI=1 cargo test --lib openapi`.
#[test]
fn the_document_that_is_served_is_that_of_the_types() {
    let now = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("SWITCHYARD_WRITE_OPENAPI").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json"), &now).unwrap();
        return;
    }
    let differ = now.lines().zip(DOCUMENT.lines()).find(|(now, checked_in)| now != checked_in);
    assert!(
        differ.is_none() && now.len() == DOCUMENT.len(),
        "docs/openapi.json is another one ({differ:?}): write it anew with `SWITCHYARD_WRITE_OPENAPI=1 cargo test --lib openapi`"
    );
}

/// The other way round is a test over sockets: each call of the document is known to the router.
#[test]
fn each_route_is_in_the_document() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/proxy/admin");
    let mut routes = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|kind| kind != "rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for route in text.split(".route(").skip(1) {
            let path = route.split('"').nth(1).unwrap();
            routes.insert(path.replace("{UPSTREAM}", "/admin/v1/services/{service}/upstreams/{upstream}"));
        }
    }
    assert!(routes.len() >= 15, "{routes:?}");
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let without: Vec<_> = routes.iter().filter(|route| !paths.contains_key(*route)).collect();
    assert!(without.is_empty(), "not in docs/openapi.json: {without:?}");
}
