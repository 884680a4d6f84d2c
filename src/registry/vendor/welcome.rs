//! `GET /`: what a person sees who opens the registry's address in a browser.

use axum::response::Html;

/// Where to look on. Nothing in it comes from a request.
pub(super) async fn page() -> Html<&'static str> {
    Html(PAGE)
}

const PAGE: &str = concat!(
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Switchyard registry</title></head>\n",
    "<body><h1>Switchyard registry ",
    env!("CARGO_PKG_VERSION"),
    "</h1>\n<p>This is the address of a registry of VM templates. Clients speak OCI Distribution under \
     <code>/v2/</code> and the template API under <code>/registry/</code> with it.</p>\n<ul>\n",
    "<li><a href=\"/registry/v2/vm\">/registry/v2/vm</a>: the templates</li>\n",
    "<li><a href=\"/registry/status\">/registry/status</a>, <a href=\"/registry/disk\">/registry/disk</a></li>\n",
    "<li><a href=\"/readyz\">/readyz</a>: what it can do right now, and why not more</li>\n",
    "<li><a href=\"/metrics\">/metrics</a></li>\n</ul></body></html>\n",
);
