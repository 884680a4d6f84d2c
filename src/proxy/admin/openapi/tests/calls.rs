//! What can be asked: the table that becomes the paths of the document.

use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::schema::{KnownFormat, SchemaFormat, Type},
};

use crate::{
    model::{Digest, Position, RepositoryName, Timestamp},
    wire::{
        config::Config,
        decisions::Decisions,
        document::{Call, Document, plain},
        explain::{Ask, Explained},
        handover::{Process, Upgraded},
        listeners::Listeners,
        orders::{Note, Ordered, Reloaded, SetMaintenance, SetWeight},
        ready::Ready,
        registries::Registries,
        transfers::Transfers,
        upstreams::{Cohort, CohortOrder, Upstreams},
    },
};

plain! {
    Timestamp, "Timestamp", Type::String, Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)), "RFC 3339";
    Position, "Position", Type::String, None, "`epoch.seq`: a point in the writer's log";
    RepositoryName, "RepositoryName", Type::String, None, "the repository of a template";
    Digest, "Digest", Type::String, None, "`sha256:` or `sha512:`, and hexadecimal digits";
}

/// The words of this API.
trait Words: Sized {
    fn query(self, name: &str, about: &str, schema: Value) -> Self;
    fn body<T: ToSchema>(self, required: bool) -> Self;
    fn json<T: ToSchema>(self, status: u16, about: &str) -> Self;
    fn text(self, status: u16, about: &str) -> Self;
    /// That is all of it; who has no token is told so.
    fn end(self);
}

impl Words for Call<'_> {
    fn query(self, name: &str, about: &str, schema: Value) -> Self {
        self.parameter("query", name, about, schema)
    }

    fn body<T: ToSchema>(mut self, required: bool) -> Self {
        let schema = self.schema::<T>();
        self.takes(schema, Some(required))
    }

    fn json<T: ToSchema>(mut self, status: u16, about: &str) -> Self {
        let schema = self.schema::<T>();
        self.answer(status, about, "application/json", schema)
    }

    fn text(self, status: u16, about: &str) -> Self {
        self.answer(status, about, "text/plain", json!({ "type": "string" }))
    }

    fn end(self) {
        let closed = self.text(401, "The token is missing or wrong");
        let closed = match closed.method() {
            "get" => closed,
            _ => closed.text(403, "A page of another site asks: nothing was changed"),
        };
        closed.put();
    }
}

const UNKNOWN: &str = "There is no such service or upstream; which there are";
const BAD: &str = "The body cannot be read; what would be right";
const NOT_NOW: &str = "An upgrade is under way, or this process was replaced";

/// Everything but the page.
pub(super) fn all() -> Document {
    let mut document = Document::default();
    views(&mut document);
    commands(&mut document);
    orders(&mut document);
    document
}

fn views(to: &mut Document) {
    to.call(
        "get",
        "/admin/v1/process",
        "This process, its config, where it listens, and those it has replaced",
    )
    .json::<Process>(200, "As it is now")
    .end();
    to.call("get", "/admin/v1/listeners", "Where clients come in, and what they may take there")
        .json::<Listeners>(200, "As they are now")
        .end();
    to.call("get", "/admin/v1/config", "The config in use, defaults included, without secrets")
        .query(
            "format",
            "Without it `Accept` decides, else TOML",
            json!({ "type": "string", "enum": ["toml", "json"] }),
        )
        .json::<Config>(200, "As a config file, or as JSON")
        .answer(200, "As a config file, or as JSON", "application/toml", json!({ "type": "string" }))
        .text(400, "There is no such format")
        .end();
    to.call(
        "get",
        "/admin/v1/upstreams",
        "Services and their upstreams: health and why, load, limits, orders",
    )
    .json::<Upstreams>(200, "As they are now")
    .end();
    to.call("get", "/admin/v1/registries", "Which registry may answer, and why")
        .json::<Registries>(200, "As they are now")
        .end();
    to.call("get", "/admin/v1/transfers", "Transfers that are under way")
        .json::<Transfers>(200, "As they are now, the oldest first")
        .end();
    let of = |name: &str| format!("Only those of this {name}");
    let text = json!({ "type": "string" });
    to.call("get", "/admin/v1/decisions", "What was decided about the latest requests that are over")
        .query(
            "limit",
            "So many at most, 1000 in any case",
            json!({ "type": "integer", "default": 50, "minimum": 0 }),
        )
        .query("listener", &of("listener"), text.clone())
        .query("service", &of("service"), text.clone())
        .query("upstream", "Only those of which some attempt was there", text)
        .query("status", &of("status"), json!({ "type": "integer" }))
        .json::<Decisions>(200, "The latest first")
        .text(400, "There is no such parameter, or it cannot be read")
        .end();
    to.call("get", "/admin/v1/decisions/{request}", "What was decided about the requests of one id")
        .json::<Decisions>(200, "The latest first")
        .text(404, "None of those that are kept has this id")
        .end();
    to.call("get", "/admin/v1/openapi.json", "This document")
        .answer(200, "OpenAPI 3.1", "application/json", json!({ "type": "object" }))
        .end();
    to.call("post", "/admin/v1/explain", "Where a request would go if it came now, and why; nothing is sent")
        .body::<Ask>(true)
        .json::<Explained>(200, "Its way at each listener that was asked about")
        .text(400, BAD)
        .text(404, "There is no such listener")
        .text(413, "The question is too long")
        .end();
    for path in ["/livez", "/healthz"] {
        to.call("get", path, "It is alive").text(200, "Always").open();
    }
    to.call("get", "/readyz", "Whether it can serve, and why not")
        .json::<Ready>(200, "Some service has an upstream that takes requests")
        .json::<Ready>(503, "None has")
        .open();
    to.call("get", "/metrics", "Numbers").text(200, "In the text format of Prometheus").open();
}

fn commands(to: &mut Document) {
    to.call("post", "/admin/v1/reload", "Reads the config again")
        .json::<Reloaded>(200, "It was taken")
        .text(409, "It was not started from a file")
        .text(422, "It was refused, in the words of `check`; the old one serves on")
        .end();
    to.call("post", "/admin/v1/upgrade", "Has the binary now on disk take over")
        .json::<Upgraded>(200, "The successor serves")
        .text(409, "It has no `run_dir`, or it ends")
        .text(500, "The successor did not come up: why; this process goes on")
        .text(503, "Not now: one is under way, or too many replaced processes are busy")
        .end();
    to.call(
        "post",
        "/admin/v1/services/{service}/cohort",
        "Says which version agents are served from; `{}`: by the rule",
    )
    .body::<CohortOrder>(true)
    .json::<Cohort>(200, "As it is then")
    .text(400, BAD)
    .text(404, UNKNOWN)
    .text(409, "It has no `cohorts`, or nobody is of that version")
    .text(503, "It could not be agreed upon")
    .end();
}

fn orders(to: &mut Document) {
    let ordered = |call: Call<'_>| {
        call.json::<Ordered>(200, "As it is then").text(400, BAD).text(404, UNKNOWN).text(409, NOT_NOW).end();
    };
    for (method, word, about) in [
        ("post", "/admin/v1/services/{service}/upstreams/{upstream}/drain", "It takes nothing new"),
        ("post", "/admin/v1/services/{service}/upstreams/{upstream}/undrain", "It takes requests again"),
        (
            "delete",
            "/admin/v1/services/{service}/upstreams/{upstream}/weight",
            "Its weight is that of the config again",
        ),
        ("delete", "/admin/v1/services/{service}/maintenance", "Maintenance is as the config says again"),
    ] {
        ordered(to.call(method, word, about).body::<Note>(false));
    }
    ordered(
        to.call("put", "/admin/v1/services/{service}/upstreams/{upstream}/weight", "This is its weight")
            .body::<SetWeight>(true),
    );
    ordered(
        to.call(
            "post",
            "/admin/v1/services/{service}/maintenance",
            "Everything is answered 503, or nothing is",
        )
        .body::<SetMaintenance>(true),
    );
}
