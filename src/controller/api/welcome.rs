//! `GET /`: what a person sees who opens a controller's address in a browser.

use axum::response::Html;

/// Where to look on. Nothing in it comes from a request.
pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Switchyard controller</title></head>\n",
    "<body><h1>Switchyard controller ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<p>This is the address of a cloud that runs VMs. CI plugins and agents are given it as their controller \
     URL; people use <code>switchyard vm</code>, <code>node</code>, <code>group</code> and <code>template</code>.</p>\n<ul>\n",
    "<li><a href=\"/openapi\">/openapi</a>: every call of the API</li>\n",
    "<li><a href=\"/api/v1/vm\">/api/v1/vm</a>, <a href=\"/api/v1/node\">/api/v1/node</a>: the instances, the nodes</li>\n",
    "<li><a href=\"/readyz\">/readyz</a>: what it can do right now, and why not more</li>\n",
    "<li><a href=\"/metrics\">/metrics</a></li>\n</ul></body></html>\n",
);
