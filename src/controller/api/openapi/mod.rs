//! `GET /openapi.json` and `/openapi`: this API for programs that make clients of it, and for people.
//!
//! What is served is `docs/openapi-controller.json`. A test writes it, from the types in `wire` and the table of calls
//! beside it, and compares it with what is checked in and with the router.

use axum::{http::header, response::IntoResponse};
use serde_json::Value;

pub(super) const DOCUMENT: &str = include_str!("../../../../docs/openapi-controller.json");

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td{padding:.3rem .8rem .3rem 0;border-top:1px solid #8884;vertical-align:top}\
code{font:13px ui-monospace,monospace}.m{text-transform:uppercase;font-weight:600;white-space:nowrap}";

/// The document, as it is checked in.
pub(super) async fn answer() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], DOCUMENT)
}

/// Every call with its sentence.
pub(super) async fn page() -> impl IntoResponse {
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    ];
    (head, html(&serde_json::from_str(DOCUMENT).unwrap_or_default()))
}

fn html(document: &Value) -> String {
    let mut rows = String::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, call) in methods.as_object().into_iter().flatten() {
            let summary = call["summary"].as_str().unwrap_or_default();
            let parameters = call["parameters"].as_array().into_iter().flatten();
            let names: Vec<String> = parameters
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| {
                    format!("<code>{}</code>", escaped(parameter["name"].as_str().unwrap_or_default()))
                })
                .collect();
            let asked =
                if names.is_empty() { String::new() } else { format!("<br>query: {}", names.join(" ")) };
            rows.push_str(&format!(
                "<tr><td class=m>{}</td><td><code>{}</code></td><td>{}{asked}</td></tr>\n",
                escaped(method),
                escaped(path),
                escaped(summary)
            ));
        }
    }
    let info = &document["info"];
    let title = escaped(info["title"].as_str().unwrap_or_default());
    let about = escaped(info["description"].as_str().unwrap_or_default());
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1><p>{about} As OpenAPI: <a href=\"/openapi.json\">/openapi.json</a>.</p>\n\
         <table>\n{rows}</table></body></html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests;
