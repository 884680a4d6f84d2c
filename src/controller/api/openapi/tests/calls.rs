//! What can be asked: the table that becomes the paths of the document.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::{ToSchema, openapi::schema::Type};

use crate::{
    controller::api::permission::{CATALOGUE, OTHER_CATALOGUE, OTHER_RESOURCES, RESOURCES},
    model::{CommandId, InstanceId, LayerId, MacAddress, NodeId, Progress, Tag, TemplateId},
    wire::{
        agent::{Claim, GiveBack, Granted, Heard, Heartbeat, Join, Joined, Leave, Report, Tasks},
        apikey::{ApiKeyAsk, ApiKeyShown, Handshake, Shaken},
        cloud::{Gone, Instances, NodeWaits, Nodes, Why},
        command::ShownCommand,
        distribution::{Distribute, Distribution, RemovalsSent, RemoveFromNodes, Requested},
        document::{Call, Document, plain, text},
        events::Events,
        group::{GroupAsk, NodeGroups},
        image::{Image, RestartInstance, SaveImage},
        mac::MacPool,
        node::{Confirmed, DeleteNode, Node, NodeConfig, NodeGroup, UsbCount},
        permission::{Described, Offered, PermissionGroup, PermissionsAsk, Resource},
        ready::Ready,
        status::{ControllerStats, ControllerStatus},
        template::{Disk, RevertTemplate, Template, TemplateSummary},
        vm::{ListedVm, StartVm, TerminateVm, UpdateVm, Vm},
    },
};

plain! {
    NodeId, "NodeId", Type::String, None, "a node's id";
    InstanceId, "InstanceId", Type::String, None, "an instance's id";
    CommandId, "CommandId", Type::String, None, "a command's id";
    LayerId, "LayerId", Type::String, None, "the first 12 hex digits of a layer's digest";
    TemplateId, "TemplateId", Type::String, None, "a template's id";
    Tag, "Tag", Type::String, None, "a version's tag";
    MacAddress, "MacAddress", Type::String, None, "a MAC address, like `0A:1B:2C:3D:4E:5F`";
    Progress, "Progress", Type::Number, None, "a share of something done, 0 to 1";
}

fn object() -> Value {
    json!({ "type": "object" })
}

/// The vendor's envelope around this.
fn envelope(body: Option<Value>) -> Value {
    let mut properties = json!({ "status": { "type": "string", "enum": ["OK", "FAIL"] }, "message": text() });
    if let Some(body) = body {
        properties["body"] = body;
    }
    json!({ "type": "object", "required": ["status", "message"], "properties": properties })
}

/// The words of this API.
trait Words: Sized {
    fn query(self, name: &str, about: &str) -> Self;
    fn query_of(self, name: &str, about: &str, schema: Value) -> Self;
    /// A page of a list of ours.
    fn paged(self) -> Self;
    fn header(self, name: &str, about: &str) -> Self;
    fn body<T: ToSchema>(self) -> Self;
    fn ok<T: ToSchema>(self, about: &str) -> Self;
    fn list<T: ToSchema>(self, about: &str) -> Self;
    /// One with `id`, else all of them.
    fn one_or_all<One: ToSchema, All: ToSchema>(self, about: &str) -> Self;
    fn done(self) -> Self;
    fn bare<T: ToSchema>(self, about: &str) -> Self;
    /// That is all of it; what any call may be answered is added.
    fn end(self);
}

impl Words for Call<'_> {
    fn query(self, name: &str, about: &str) -> Self {
        self.query_of(name, about, text())
    }

    fn query_of(self, name: &str, about: &str, schema: Value) -> Self {
        self.parameter("query", name, about, schema)
    }

    fn paged(self) -> Self {
        let bounds = json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 });
        self.query_of("limit", "So many at most", bounds).query("cursor", "`next` of the page before")
    }

    fn header(self, name: &str, about: &str) -> Self {
        self.parameter("header", name, about, text())
    }

    fn body<T: ToSchema>(mut self) -> Self {
        let schema = self.schema::<T>();
        self.takes(schema, None)
    }

    fn ok<T: ToSchema>(mut self, about: &str) -> Self {
        let schema = self.schema::<T>();
        self.answer(200, about, "application/json", envelope(Some(schema)))
    }

    fn list<T: ToSchema>(mut self, about: &str) -> Self {
        let schema = self.schema::<T>();
        let schema = json!({ "type": "array", "items": schema });
        self.answer(200, about, "application/json", envelope(Some(schema)))
    }

    fn one_or_all<One: ToSchema, All: ToSchema>(mut self, about: &str) -> Self {
        let (one, all) = (self.schema::<One>(), self.schema::<All>());
        let schema = json!({ "oneOf": [one, { "type": "array", "items": all }] });
        self.answer(200, about, "application/json", envelope(Some(schema)))
    }

    fn done(self) -> Self {
        self.answer(200, "It is done, or will be", "application/json", envelope(None))
    }

    fn bare<T: ToSchema>(mut self, about: &str) -> Self {
        let schema = self.schema::<T>();
        self.answer(200, about, "application/json", schema)
    }

    fn end(self) {
        let failed =
            |call: Self, status, about: &str| call.answer(status, about, "application/json", envelope(None));
        let call = failed(self, 400, "It cannot be meant so; the message says what would be right");
        let call = failed(call, 401, "A credential is asked for");
        let call = failed(call, 403, "The credential is good, and not for this");
        let call = failed(call, 503, "Not now: `Retry-After` says when to ask again");
        call.put();
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
    permissions(&mut document);
    server(&mut document);
    document
}

/// What groups of callers may do: `docs/permissions.md` is its page.
fn permissions(to: &mut Document) {
    let described = to.schema::<Described>();
    to.call("get", "/switchyard/v1/permissions", "All permissions that groups of callers can have")
        .answer(
            200,
            "By name",
            "application/json",
            json!({ "type": "object", "additionalProperties": described }),
        )
        .end();
    let group = to.schema::<PermissionGroup>();
    to.call("get", "/switchyard/v1/permission-groups", "Groups of callers, and what they may do")
        .answer(200, "All of them", "application/json", json!({ "type": "array", "items": group }))
        .end();
    const ONE: &str = "/switchyard/v1/permission-groups/{name}";
    to.call("put", ONE, "Says what a group of callers may do, and makes it if it is not there")
        .body::<PermissionsAsk>()
        .bare::<PermissionGroup>("As it is now")
        .end();
    to.call("delete", ONE, "Forgets a group of callers")
        .bare::<PermissionGroup>("As it was")
        .answer(404, "There is none", "application/json", envelope(None))
        .end();
    // The vendor's text and its samples spell these in two ways.
    for (catalogue, resources) in [(CATALOGUE, RESOURCES), (OTHER_CATALOGUE, OTHER_RESOURCES)] {
        to.call("get", catalogue, "What may be allowed with nodes and templates")
            .list::<Offered>("By type")
            .end();
        to.call("get", resources, "Which nodes and templates are resources of a group of callers")
            .list::<Resource>("All of them")
            .end();
        let list = to.schema::<Resource>();
        to.call("post", resources, "Gives a group of callers these resources, and no others")
            .takes(json!({ "type": "array", "items": list }), None)
            .answer(200, "`Saved`", "application/json", envelope(None))
            .end();
    }
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
        to.call("put", path, "Has every agent install its newest program and go on as that").done().end();
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
    .list::<ShownCommand>("As they are")
    .end();
    to.call("get", "/switchyard/v1/nodes/{id}/why", "What a node waits for")
        .bare::<NodeWaits>("Why it takes no starts, and what each of its commands waits for")
        .answer(404, "There is no such node", "application/json", envelope(None))
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
    asks::<Join, Joined>(to, "/switchyard/v1/join", "A node makes itself known");
    asks::<Heartbeat, Heard>(to, "/switchyard/v1/heartbeat", "A node tells what it has");
    asks::<Claim, Granted>(to, "/switchyard/v1/claim", "A node takes an offer");
    asks::<Claim, Granted>(to, "/switchyard/v1/starting", "A node is about to start a VM");
    asks::<Report, Heard>(to, "/switchyard/v1/report", "A node tells of one VM");
    asks::<GiveBack, Granted>(to, "/switchyard/v1/giveback", "A node cannot do what it has claimed");
    asks::<Leave, Granted>(to, "/switchyard/v1/leave", "A node leaves");
    let number = json!({ "type": "integer", "minimum": 0 });
    to.call("get", "/switchyard/v1/tasks", "A node waits for what it is to do")
        .query("node", "Which")
        .query("session", "Its agent's session")
        .query_of("free", "So many places are free", number.clone())
        .query_of("wait", "Seconds", number)
        .bare::<Tasks>("An offer, VMs to stop, commands; or nothing")
        .end();
}

/// One of their calls.
fn asks<Ask: ToSchema, Answer: ToSchema>(to: &mut Document, path: &'static str, about: &str) {
    to.call("post", path, about).body::<Ask>().bare::<Answer>("Done, or done before").end();
}

/// API keys and the handshake: `docs/authentication.md` is their page.
fn keys(to: &mut Document) {
    const PATH: &str = "/api/v1/apikey";
    let shown = to.schema::<ApiKeyShown>();
    let one_or_all = json!({ "oneOf": [shown, { "type": "array", "items": shown }] });
    to.call("get", PATH, "API keys")
        .query("id", "This one")
        .answer(200, "Without secrets", "application/json", envelope(Some(one_or_all)))
        .end();
    for (method, about) in
        [("post", "Makes an API key"), ("put", "Changes an API key"), ("delete", "Deletes an API key")]
    {
        let of = if method == "post" { Some(text()) } else { None };
        to.call(method, PATH, about)
            .body::<ApiKeyAsk>()
            .answer(200, "It is done; a new private key is shown this once", "application/json", envelope(of))
            .end();
    }
    to.call("post", "/tap/v1/hand", "Begins a session of an API key: a secret that its key opens")
        .body::<Handshake>()
        .answer(200, "Base64 of the secret, encrypted to the key", "text/plain", text())
        .open();
    to.call("post", "/tap/v1/shake", "Shows the secret; answers a session")
        .body::<Handshake>()
        .bare::<Shaken>("A session: its `data`, as base64, is what calls show")
        .open();
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
    to.call("get", "/", "Where to look on").answer(200, "A page", "text/html", text()).open();
    to.call("get", "/pkg/{name}", "A package from which hosts install their agent")
        .answer(200, "The file; parts of it with `Range`", "application/octet-stream", text())
        .answer(404, "It is not there, or no packages are served", "application/json", envelope(None))
        .answer(503, "Too many downloads at once", "application/json", envelope(None))
        .open();
}
