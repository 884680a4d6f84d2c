//! Writes the document, and holds it against the routes.

mod calls;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::{DOCUMENT, escaped, html};
use crate::{
    controller::api::{
        POLL,
        permission::{CATALOGUE, OTHER_CATALOGUE, OTHER_RESOURCES, RESOURCES},
    },
    model::OURS,
    wire::document::Document,
};

fn document() -> Value {
    let Document { paths, schemas } = calls::all();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Switchyard's controller API",
            "description": "The vendor's API below /api/v1, in its envelope, and ours below /switchyard/v1, which answers the bare \
                            JSON; every failure is in the envelope. docs/instances.md and docs/agent-protocol.md say more.",
            "version": OURS,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8090" }],
        "security": [{ "root": [] }, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "root": { "type": "http", "scheme": "basic", "description": "Where `[auth]` asks for it: the root token as the password of any user" },
            },
            "schemas": schemas,
        },
    })
}

/// Write it anew with `SWITCHYARD_WRITE_OPENAPI=1 cargo test --lib openapi`.
#[test]
fn the_document_of_the_controller_is_that_of_the_types() {
    let now = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("SWITCHYARD_WRITE_OPENAPI").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi-controller.json"), &now).unwrap();
        return;
    }
    let differ = now.lines().zip(DOCUMENT.lines()).find(|(now, checked_in)| now != checked_in);
    assert!(
        differ.is_none() && now.len() == DOCUMENT.len(),
        "docs/openapi-controller.json is another one ({differ:?}): write it anew with `SWITCHYARD_WRITE_OPENAPI=1 cargo test --lib openapi`"
    );
}

/// Method and path of each route, as the router's own file has them.
fn routes() -> BTreeSet<(String, String)> {
    let text = include_str!("../../mod.rs");
    let mut found = BTreeSet::new();
    for route in text.split(".route(").skip(1) {
        // Up to the route's end: a handler's name has no dot before a method's.
        let route =
            route.split(".method_not_allowed_fallback").next().unwrap().split(".with_state").next().unwrap();
        let (path, handlers) = route.split_once(',').unwrap();
        let path = match path.trim() {
            "POLL" => POLL,
            "permission::CATALOGUE" => CATALOGUE,
            "permission::OTHER_CATALOGUE" => OTHER_CATALOGUE,
            "permission::RESOURCES" => RESOURCES,
            "permission::OTHER_RESOURCES" => OTHER_RESOURCES,
            quoted => quoted.trim_matches('"'),
        };
        for method in ["get", "post", "put", "delete"] {
            let calls = [format!("{method}("), format!(".{method}(")];
            let begins = handlers.trim_start().starts_with(&calls[0]);
            if begins || handlers.contains(&calls[1]) {
                found.insert((method.to_owned(), path.to_owned()));
            }
        }
    }
    found
}

#[test]
fn the_document_has_each_route_of_the_controller_and_no_other() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let mut told = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        told.extend(methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    // Those that all servers share, which are no routes of this file.
    let shared = ["/livez", "/healthz", "/readyz", "/api/v1/apikey", "/tap/v1/hand", "/tap/v1/shake"];
    told.retain(|(_, path)| !shared.contains(&path.as_str()));
    let routes = routes();
    assert!(routes.len() >= 35, "{routes:?}");
    let without: Vec<_> = routes.difference(&told).collect();
    assert!(without.is_empty(), "not in the table of calls beside this test: {without:?}");
    let unknown: Vec<_> = told.difference(&routes).collect();
    assert!(unknown.is_empty(), "the router knows nothing of: {unknown:?}");
}

#[test]
fn the_page_has_each_call_and_lets_nothing_through() {
    let page = html(&serde_json::from_str(DOCUMENT).unwrap());
    for (_, path) in routes() {
        assert!(page.contains(&format!("<code>{}</code>", escaped(&path))), "{path}");
    }
    let hostile =
        json!({ "info": { "title": "<b>" }, "paths": { "/\"<i>": { "get": { "summary": "a & b" } } } });
    let page = html(&hostile);
    assert!(page.contains("/&quot;&lt;i&gt;") && page.contains("a &amp; b") && !page.contains("<b>"));
}
