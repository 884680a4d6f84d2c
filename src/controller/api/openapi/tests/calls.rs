//! What can be asked: the table that becomes the paths of the document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

use crate::{
    model::{MacAddress, NodeId, Progress},
    wire::{
        cloud::{Gone, Instances, Nodes, Why},
        distribution::{Distribute, Distribution, RemovalsSent, RemoveFromNodes, Requested},
        events::Events,
        group::{GroupAsk, NodeGroups},
        image::{Image, RestartInstance, SaveImage},
        mac::MacPool,
        node::{Confirmed, DeleteNode, Node, NodeConfig, NodeGroup, UsbCount},
        ready::Ready,
        status::{ControllerStats, ControllerStatus},
        template::{Disk, RevertTemplate, Template, TemplateSummary},
        vm::{ListedVm, StartVm, TerminateVm, UpdateVm, Vm},
    },
};

macro_rules! simple {
    ($($type:ty, $name:literal, $kind:expr, $about:literal;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type($kind).description(Some($about)).into()
            }
        }
        impl ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
        }
    )*};
}

simple! {
    NodeId, "NodeId", Type::String, "a node's id";
    MacAddress, "MacAddress", Type::String, "a MAC address, like `0A:1B:2C:3D:4E:5F`";
    Progress, "Progress", Type::Number, "a share of something done, 0 to 1";
}

/// Paths and schemas.
#[derive(Default)]
pub(super) struct Document {
    pub(super) paths: Map<String, Value>,
    pub(super) schemas: Map<String, Value>,
}

/// One call, while it is put together.
struct Call<'d> {
    of: &'d mut Document,
    path: &'static str,
    method: &'static str,
    operation: Value,
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn object() -> Value {
    json!({ "type": "object" })
}

impl Document {
    fn call<'d>(&'d mut self, method: &'static str, path: &'static str, summary: &str) -> Call<'d> {
        let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let parameter = |name| json!({ "name": name, "in": "path", "required": true, "schema": text() });
        let parameters: Vec<Value> = names.map(parameter).collect();
        let operation = json!({ "summary": summary, "parameters": parameters, "responses": {} });
        Call { of: self, path, method, operation }
    }

    /// A reference to the schema of a type; it and those that it names are there then.
    fn schema<T: ToSchema>(&mut self) -> Value {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        for (name, schema) in found {
            // Links of the docs lead nowhere here.
            let text = serde_json::to_string(&schema).unwrap().replace("[`", "`").replace("`]", "`");
            let schema: Value = serde_json::from_str(&text).unwrap();
            let before = self.schemas.insert(name.clone(), schema.clone());
            assert!(before.is_none_or(|before| before == schema), "two schemas are called {name}");
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }
}

/// The vendor's envelope around this.
fn envelope(body: Option<Value>) -> Value {
    let mut properties = json!({ "status": { "type": "string", "enum": ["OK", "FAIL"] }, "message": text() });
    if let Some(body) = body {
        properties["body"] = body;
    }
    json!({ "type": "object", "required": ["status", "message"], "properties": properties })
}

impl Call<'_> {
    fn query(self, name: &str, about: &str) -> Self {
        self.query_of(name, about, text())
    }

    fn query_of(mut self, name: &str, about: &str, schema: Value) -> Self {
        let parameters = self.operation["parameters"].as_array_mut().unwrap();
        parameters.push(json!({ "name": name, "in": "query", "description": about, "schema": schema }));
        self
    }

    /// A page of a list of ours.
    fn paged(self) -> Self {
        let bounds = json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 });
        self.query_of("limit", "So many at most", bounds).query("cursor", "`next` of the page before")
    }

    fn header(mut self, name: &str, about: &str) -> Self {
        let parameters = self.operation["parameters"].as_array_mut().unwrap();
        parameters.push(json!({ "name": name, "in": "header", "description": about, "schema": text() }));
        self
    }

    fn body<T: ToSchema>(mut self) -> Self {
        let schema = self.of.schema::<T>();
        self.operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
        self
    }

    fn ok<T: ToSchema>(self, about: &str) -> Self {
        let schema = self.of.schema::<T>();
        self.answer(200, about, "application/json", envelope(Some(schema)))
    }

    fn list<T: ToSchema>(self, about: &str) -> Self {
        let schema = self.of.schema::<T>();
        let schema = json!({ "type": "array", "items": schema });
        self.answer(200, about, "application/json", envelope(Some(schema)))
    }

    /// One with `id`, else all of them.
    fn one_or_all<One: ToSchema, All: ToSchema>(self, about: &str) -> Self {
        let (one, all) = (self.of.schema::<One>(), self.of.schema::<All>());
        let schema = json!({ "oneOf": [one, { "type": "array", "items": all }] });
        self.answer(200, about, "application/json", envelope(Some(schema)))
    }

    fn done(self) -> Self {
        self.answer(200, "It is done, or will be", "application/json", envelope(None))
    }

    fn bare<T: ToSchema>(self, about: &str) -> Self {
        let schema = self.of.schema::<T>();
        self.answer(200, about, "application/json", schema)
    }

    fn answer(mut self, status: u16, about: &str, kind: &str, schema: Value) -> Self {
        let answer = &mut self.operation["responses"][status.to_string()];
        answer["description"] = about.into();
        answer["content"][kind]["schema"] = schema;
        self
    }

    /// That is all of it; what any call may be answered is added.
    fn end(self) {
        let failed =
            |call: Self, status, about: &str| call.answer(status, about, "application/json", envelope(None));
        let call = failed(self, 400, "It cannot be meant so; the message says what would be right");
        let call = failed(call, 401, "A credential is asked for");
        let call = failed(call, 503, "Not now: `Retry-After` says when to ask again");
        call.put();
    }

    /// That is all of it, and nobody is asked who calls.
    fn open(mut self) {
        self.operation["security"] = json!([]);
        self.put();
    }

    fn put(self) {
        let methods = self.of.paths.entry(self.path).or_insert_with(|| json!({}));
        let before = methods.as_object_mut().unwrap().insert(self.method.to_owned(), self.operation);
        assert_eq!(before, None, "{} {}", self.method, self.path);
    }
}

/// Everything.
pub(super) fn all() -> Document {
    let mut document = Document::default();
    instances(&mut document);
    nodes(&mut document);
    templates(&mut document);
    ours(&mut document);
    agents(&mut document);
    server(&mut document);
    document
}

fn instances(to: &mut Document) {
    to.call("post", "/api/v1/vm", "Starts instances; answers their ids")
        .header("Idempotency-Key", "However often one is used within a day, the start is made once")
        .body::<StartVm>()
        .answer(
            200,
            "Their ids; or FAIL with `No such tag …`",
            "application/json",
            envelope(Some(json!({ "type": "array", "items": text() }))),
        )
        .answer(422, "The key was used with another body", "application/json", envelope(None))
        .end();
    to.call("get", "/api/v1/vm", "One instance, or all of them")
        .query("id", "This one")
        .one_or_all::<Vm, ListedVm>("As they are; FAIL with `Not found` for an unknown id")
        .end();
    to.call("put", "/api/v1/vm", "Changes label, free text or metadata of an instance")
        .query("id", "The instance")
        .body::<UpdateVm>()
        .done()
        .end();
    to.call("delete", "/api/v1/vm", "Has an instance deleted; repeating it changes nothing")
        .body::<TerminateVm>()
        .done()
        .end();
}

fn nodes(to: &mut Document) {
    to.call("get", "/api/v1/node", "All nodes, or one in a list")
        .query("id", "This one")
        .list::<Node>("As they are; FAIL with `Not found` for an unknown id")
        .end();
    to.call("delete", "/api/v1/node", "Forgets a node; what it had is failed")
        .body::<DeleteNode>()
        .done()
        .end();
    to.call("post", "/api/v1/node/config", "Changes a node's settings").body::<NodeConfig>().done().end();
    for path in ["/api/v1/node/update", "/v1/node/update"] {
        to.call("put", path, "Taken, and nothing happens: no agent is ever replaced from here").done().end();
    }
    to.call("post", "/api/v1/node/group", "Puts nodes into groups").body::<NodeGroups>().done().end();
    to.call("delete", "/api/v1/node/group", "Takes nodes out of groups").body::<NodeGroups>().done().end();
    to.call("post", "/api/v1/group", "Makes a group").body::<GroupAsk>().ok::<NodeGroup>("The group").end();
    to.call("get", "/api/v1/group", "All groups").list::<NodeGroup>("As they are").end();
    to.call("put", "/api/v1/group", "Changes a group")
        .query("id", "The group")
        .body::<GroupAsk>()
        .done()
        .end();
    to.call("delete", "/api/v1/group", "Deletes a group").query("id", "The group").done().end();
}

fn templates(to: &mut Document) {
    to.call("get", "/api/v1/registry/vm", "All templates, or one with its versions")
        .query("id", "This one")
        .query("apiVer", "`v1`: ids and names alone, which is faster")
        .one_or_all::<Template, TemplateSummary>("As the registries have them")
        .end();
    to.call("delete", "/api/v1/registry/vm", "Deletes a template with all its versions")
        .query("id", "The template")
        .done()
        .end();
    to.call(
        "delete",
        "/api/v1/registry/revert",
        "Deletes a version and every later one; the newest if none is named",
    )
    .query("id", "The template")
    .query("tag", "The version by its tag")
    .query_of("version", "The version by its number", json!({ "type": "integer" }))
    .body::<RevertTemplate>()
    .done()
    .end();
    to.call("get", "/api/v1/registry/disk", "The registries' disk").ok::<Disk>("Bytes").end();
    to.call("delete", "/api/v1/registry/vm/remove", "Has nodes delete a template from their disks")
        .query("id", "The template")
        .body::<RemoveFromNodes>()
        .ok::<RemovalsSent>("Whom it was told")
        .end();
    to.call("post", "/api/v1/registry/vm/distribute", "Has nodes pull a template")
        .body::<Distribute>()
        .ok::<Requested>("What to ask about it by")
        .end();
    to.call("get", "/api/v1/registry/vm/distribute", "One distribution, or all of them")
        .query("id", "This one")
        .one_or_all::<Distribution, Distribution>("How far each node is")
        .end();
    to.call("delete", "/api/v1/registry/vm/distribute", "Ends a distribution")
        .query("id", "Which")
        .done()
        .end();
    to.call("post", "/api/v1/rpc/vm/restart", "Has a VM stopped and started again, in its place")
        .body::<RestartInstance>()
        .done()
        .end();
    to.call("post", "/api/v1/image", "Has an instance saved as a version of a template")
        .body::<SaveImage>()
        .ok::<Requested>("What to ask about it by")
        .end();
    to.call("get", "/api/v1/image", "One saving, or all of them")
        .query("id", "This one")
        .one_or_all::<Image, Image>("How it stands")
        .end();
    to.call("get", "/api/v1/usb", "How many USB devices of each name there are")
        .ok::<BTreeMap<String, UsbCount>>("By name")
        .end();
    to.call("get", "/api/v1/macaddr", "How many MAC addresses the pool has, or a page of them")
        .query("count", "`true`: how many there are")
        .query("in_use", "`true`: how many instances have; `false`: how many are free")
        .query("limit", "A page of so many")
        .query("last", "That begins behind this one")
        .ok::<MacPool>("A number, or a page")
        .end();
    to.call("put", "/api/v1/macaddr", "Takes back what instances that are gone still have").done().end();
    to.call("delete", "/api/v1/macaddr", "The same: the pool is a range, and has nothing to be purged of")
        .done()
        .end();
    to.call("get", "/api/v1/vlan", "The VLANs of all nodes").ok::<Vec<String>>("Their ids").end();
}

fn ours(to: &mut Document) {
    to.call("get", "/switchyard/v1/instances", "A page of instances, the oldest first")
        .paged()
        .query("state", "In one of these states, with commas between them")
        .query("node", "On this node")
        .query("template", "Of this template, by id or name")
        .query("group", "That asked for this group, by id or name")
        .query("external_id", "With this free text")
        .query("name", "With this label")
        .bare::<Instances>("A page")
        .end();
    to.call("get", "/switchyard/v1/instances/{id}/why", "Why an instance is where it is")
        .bare::<Why>("Each node's reason, and its place in the queue")
        .answer(404, "There is no such instance", "application/json", envelope(None))
        .end();
    to.call("get", "/switchyard/v1/nodes", "A page of nodes, in order of their ids")
        .paged()
        .query("state", "In one of these states, with commas between them")
        .query("group", "Of this group, by id or name")
        .query("template", "With this template on their disk, by id or name")
        .query("name", "With this name")
        .bare::<Nodes>("A page")
        .end();
    to.call("get", "/switchyard/v1/events", "A page of the event log, the oldest first")
        .paged()
        .query("action", "Of this kind")
        .bare::<Events>("A page")
        .end();
    let gone = to.schema::<Gone>();
    to.call("get", "/switchyard/v1/watch", "Changes as they happen, as server-sent events")
        .query_of(
            "from",
            "After this revision; without it from now on",
            json!({ "type": "integer", "minimum": 0 }),
        )
        .query(
            "kinds",
            "`instances`, `nodes`, `events`, with commas between them; all of them if none is named",
        )
        .header("Last-Event-ID", "Where a client that comes back was; it goes before `from`")
        .answer(200, "It goes on until either side ends it", "text/event-stream", text())
        .answer(
            410,
            "Changes from there are no longer kept: list anew",
            "application/json",
            envelope(Some(gone)),
        )
        .end();
    to.call(
        "get",
        "/switchyard/v1/nodes/commands",
        "What nodes are to do beside starts, and what has become of it",
    )
    .query("node", "Of this node")
    .answer(
        200,
        "As they are",
        "application/json",
        envelope(Some(json!({ "type": "array", "items": object() }))),
    )
    .end();
    to.call(
        "post",
        "/switchyard/v1/nodes/confirm-absence",
        "Says that silent nodes whose silence was taken for our own fault are gone",
    )
    .ok::<Confirmed>("How many")
    .end();
}

/// The agents' protocol: `docs/agent-protocol.md` is its page.
fn agents(to: &mut Document) {
    for (path, about) in [
        ("/switchyard/v1/join", "A node makes itself known"),
        ("/switchyard/v1/heartbeat", "A node tells what it has"),
        ("/switchyard/v1/claim", "A node takes an offer"),
        ("/switchyard/v1/starting", "A node is about to start a VM"),
        ("/switchyard/v1/report", "A node tells of one VM"),
        ("/switchyard/v1/giveback", "A node cannot do what it has claimed"),
        ("/switchyard/v1/leave", "A node leaves"),
    ] {
        let mut call = to.call("post", path, about);
        call.operation["requestBody"] = json!({ "content": { "application/json": { "schema": object() } } });
        call.answer(200, "Done, or done before", "application/json", object()).end();
    }
    let number = json!({ "type": "integer", "minimum": 0 });
    to.call("get", "/switchyard/v1/tasks", "A node waits for what it is to do")
        .query("node", "Which")
        .query("session", "Its agent's session")
        .query_of("free", "So many places are free", number.clone())
        .query_of("wait", "Seconds", number)
        .answer(200, "An offer, or nothing", "application/json", object())
        .end();
}

/// API keys and the handshake: `docs/authentication.md` is their page.
fn keys(to: &mut Document) {
    const PATH: &str = "/api/v1/apikey";
    let body = json!({ "content": { "application/json": { "schema": object() } } });
    let listed = envelope(Some(json!({ "type": "array", "items": object() })));
    to.call("get", PATH, "API keys")
        .query("id", "This one")
        .answer(200, "Without secrets", "application/json", listed)
        .end();
    for (method, about) in
        [("post", "Makes an API key"), ("put", "Changes an API key"), ("delete", "Deletes an API key")]
    {
        let mut call = to.call(method, PATH, about);
        call.operation["requestBody"] = body.clone();
        let of = if method == "post" { Some(text()) } else { None };
        call.answer(
            200,
            "It is done; a new private key is shown this once",
            "application/json",
            envelope(of),
        )
        .end();
    }
    for (path, about) in [
        ("/tap/v1/hand", "Begins a session of an API key: a secret that its key opens"),
        ("/tap/v1/shake", "Shows the secret; answers a session"),
    ] {
        let mut call = to.call("post", path, about);
        call.operation["requestBody"] = body.clone();
        call.answer(200, "The next step", "application/json", object()).open();
    }
}

fn server(to: &mut Document) {
    to.call("get", "/api/v1/status", "What this controller is").ok::<ControllerStatus>("As it is").end();
    to.call("get", "/api/v1/stats", "How much waits, and how quickly it goes")
        .ok::<ControllerStats>("As it is")
        .end();
    to.call("get", "/config/v1/auth", "How clients may log in")
        .answer(200, "Ways", "application/json", envelope(Some(object())))
        .open();
    keys(to);
    for path in ["/livez", "/healthz"] {
        to.call("get", path, "It is alive").answer(200, "Always", "text/plain", text()).open();
    }
    let ready = to.schema::<Ready>();
    to.call("get", "/readyz", "What it can serve, and why not")
        .answer(200, "Something", "application/json", ready.clone())
        .answer(503, "Nothing", "application/json", ready)
        .open();
    to.call("get", "/metrics", "Numbers")
        .answer(200, "In the text format of Prometheus", "text/plain", text())
        .open();
    to.call("get", "/openapi.json", "This document")
        .answer(200, "OpenAPI 3.1", "application/json", object())
        .open();
    to.call("get", "/openapi", "This document for people").answer(200, "A page", "text/html", text()).open();
}
