//! Everything else.

use super::*;

pub(super) fn other_calls(World { template, instance }: &World) -> Vec<Case> {
    let node = |more: Value| {
        let mut body = json!({ "node_id": "node-1" });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        body
    };
    let show = format!("{VM}?id={instance}");
    let gone = format!("{VM}?id={UNKNOWN}");
    vec![
        // Updates, each of which leaves what the reads above want to see.
        case("PUT", &show, json!({ "name": "one" }), Is("", Value::Null)),
        case("PUT", &show, json!({ "external_id": "job/1" }), Is("", Value::Null)),
        case("PUT", &show, json!({ "metadata": { "team": "ios" } }), Is("", Value::Null)),
        case("PUT", &show, json!({}), Is("", Value::Null)),
        case("PUT", &show, "", Is("", Value::Null)),
        case("PUT", &show, json!({ "unknown": 1 }), Is("", Value::Null)),
        case("PUT", VM, "{}", Fail(400, "`id`")),
        case("PUT", &gone, json!({ "name": "x" }), Fail(200, "Not found")),
        case("PUT", &show, json!({ "name": "", "external_id": null, "metadata": "" }), Is("", Value::Null)),
        case("PUT", &show, json!({ "name": [7] }), Fail(400, "`name`")),
        case("PUT", &show, json!({ "metadata": { "x": [] } }), Fail(400, "`x` is a list")),
        case("PUT", &show, json!({ "metadata": [] }), Fail(400, "`metadata`")),
        case("PUT", &show, json!({ "name": "x".repeat(5000) }), Fail(400, "name")),
        case("PUT", &show, "{", Fail(400, "not valid JSON")),
        case("DELETE", VM, "", Fail(400, "`id`")),
        case("DELETE", VM, "{}", Fail(400, "`id`")),
        case("DELETE", VM, json!({ "id": "" }), Fail(400, "`id`")),
        case("DELETE", VM, json!({ "id": UNKNOWN }), Fail(200, "Not found")),
        case("DELETE", &gone, "", Fail(200, "Not found")),
        case("DELETE", VM, json!({ "id": "../../etc/passwd" }), Fail(400, "instance id")),
        case("DELETE", VM, json!({ "id": "x".repeat(10_000) }), Fail(400, "instance id")),
        case("DELETE", VM, json!({ "id": ["x"] }), Fail(400, "`id`")),
        // Nodes.
        case("POST", CONFIG, node(json!({ "max_vm_count": 4 })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({ "max_vm_count": "4" })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({ "capacity_mode": "number" })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({ "drain_mode": false })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({ "drain_mode": "false" })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({ "vcpu_override": 0, "ram_override": 0 })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({ "disable_central_logging": false })), Is("", Value::Null)),
        case("POST", CONFIG, node(json!({})), Is("", Value::Null)),
        case("POST", CONFIG, "{}", Fail(400, "`node_id`")),
        case("POST", CONFIG, json!({ "node_id": "nobody", "drain_mode": true }), Fail(200, "Not found")),
        case("POST", CONFIG, json!({ "node_id": "a/b" }), Fail(400, "node id")),
        case("POST", CONFIG, node(json!({ "max_vm_count": -2 })), Fail(400, "max_vm_count")),
        case("POST", CONFIG, node(json!({ "max_vm_count": "x" })), Fail(400, "`max_vm_count`")),
        case("POST", CONFIG, node(json!({ "capacity_mode": "both" })), Fail(400, "`capacity_mode`")),
        case("POST", CONFIG, node(json!({ "drain_mode": "maybe" })), Fail(400, "`drain_mode`")),
        case("POST", CONFIG, node(json!({ "vcpu_override": "x" })), Fail(400, "`vcpu_override`")),
        case("DELETE", NODE, "{}", Fail(400, "`node_id`")),
        case("DELETE", NODE, json!({ "node_id": "nobody" }), Fail(200, "Not found")),
        case("DELETE", NODE, json!({ "node_id": "a b" }), Fail(400, "node id")),
        case("PUT", "/api/v1/node/update", "", Status(200)),
        // Groups.
        case("POST", GROUP, "{}", Fail(400, "name")),
        case("POST", GROUP, json!({ "name": "" }), Fail(400, "name")),
        case(
            "POST",
            GROUP,
            json!({ "name": "g", "fallback_group_id": "no-such" }),
            Fail(400, "fallback_group_id"),
        ),
        case("POST", GROUP, json!({ "name": "x".repeat(5000) }), Fail(400, "name")),
        case("POST", GROUP, json!({ "name": 1, "description": [] }), Fail(400, "`description`")),
        case("PUT", GROUP, json!({ "name": "x" }), Fail(400, "id")),
        case("PUT", format!("{GROUP}?id=no-such"), json!({ "name": "x" }), Fail(200, "Not found")),
        case("DELETE", GROUP, "", Fail(400, "id")),
        case("DELETE", format!("{GROUP}?id=no-such"), "", Fail(200, "Not found")),
        case("POST", MEMBERS, "{}", Fail(400, "`group_ids` is required")),
        case("DELETE", MEMBERS, "{}", Fail(400, "`group_ids` is required")),
        // Templates.
        case("DELETE", TEMPLATES, "", Fail(400, "id")),
        case("DELETE", format!("{TEMPLATES}?id=a%2Fb"), "", Fail(400, "template id")),
        case("DELETE", "/api/v1/registry/revert", "", Fail(400, "id")),
        case("DELETE", format!("/api/v1/registry/revert?id={template}&version=99"), "", Fail(400, "99")),
        case(
            "DELETE",
            format!("/api/v1/registry/revert?id={template}&tag=v1&version=5"),
            "",
            Fail(400, "give one of them"),
        ),
        case(
            "DELETE",
            format!("/api/v1/registry/revert?id={template}&tag="),
            "",
            Fail(400, "`tag` is empty"),
        ),
        case(
            "DELETE",
            format!("/api/v1/registry/revert?id={template}"),
            json!({ "tag": "" }),
            Fail(400, "`tag` is empty"),
        ),
        case(
            "DELETE",
            format!("/api/v1/registry/revert?id={template}"),
            json!({ "tag": {} }),
            Fail(400, "tag"),
        ),
        case(
            "DELETE",
            format!("/api/v1/registry/revert?id={template}"),
            json!({ "version": 1, "number": 2 }),
            Fail(400, "differ"),
        ),
        case("GET", "/api/v1/registry/disk", "", Shape("", &[])),
        case("GET", "/api/v1/macaddr", "", Fail(400, "give `count`")),
        case("PUT", "/api/v1/macaddr", "", Fail(409, "`[mac_pool]`")),
        case("DELETE", "/api/v1/macaddr", "", Fail(409, "`[mac_pool]`")),
    ]
}

/// Known routes with methods that they do not have.
pub(super) fn methods() -> Vec<Case> {
    let wrong = [
        ("PATCH", VM),
        ("POST", NODE),
        ("PUT", NODE),
        ("GET", CONFIG),
        ("PUT", CONFIG),
        ("DELETE", CONFIG),
        ("POST", TEMPLATES),
        ("PUT", TEMPLATES),
        ("GET", "/api/v1/registry/revert"),
        ("POST", "/api/v1/registry/disk"),
        ("POST", "/api/v1/status"),
        ("DELETE", "/api/v1/stats"),
        ("PATCH", GROUP),
        ("PATCH", "/api/v1/macaddr"),
        ("POST", "/api/v1/vlan"),
        ("GET", "/api/v1/node/update"),
        ("GET", RESTART),
        ("POST", "/api/v1/usb"),
        ("DELETE", IMAGE),
        ("PUT", DISTRIBUTION),
        ("GET", "/api/v1/registry/vm/remove"),
        ("GET", "/tap/v1/hand"),
        ("GET", "/tap/v1/shake"),
        ("POST", "/config/v1/auth"),
        ("POST", "/switchyard/v1/instances"),
        ("DELETE", "/switchyard/v1/nodes"),
    ];
    wrong.into_iter().map(|(method, path)| case(method, path, "", Fail(405, "not allowed"))).collect()
}

const RESTART: &str = "/api/v1/rpc/vm/restart";
const IMAGE: &str = "/api/v1/image";
const DISTRIBUTION: &str = "/api/v1/registry/vm/distribute";
const KEYS: &str = "/api/v1/apikey";

pub(super) fn hardware_and_images(World { instance, template }: &World) -> Vec<Case> {
    let restart = |body: Value, expect: Expect| case("POST", RESTART, body, expect);
    let save = |body: Value, expect: Expect| case("POST", IMAGE, body, expect);
    vec![
        restart(json!({}), Fail(400, "`instance_id` is required")),
        restart(json!({ "instance_id": "" }), Fail(400, "instance_id")),
        restart(json!({ "instance_id": 5 }), Fail(200, "Not found")),
        restart(json!({ "instance_id": UNKNOWN }), Fail(200, "Not found")),
        restart(json!({ "instance_id": instance, "usb_device": "nobody-has-it" }), Fail(400, "usb_device")),
        case("POST", RESTART, "no JSON", Fail(400, "")),
        case("GET", "/api/v1/usb", "", Is("", json!({}))),
        case("GET", IMAGE, "", Is("", json!([]))),
        case("GET", format!("{IMAGE}?id={UNKNOWN}"), "", Fail(200, "Not found")),
        save(json!({}), Fail(400, "id is required")),
        save(json!({ "id": instance }), Fail(400, "tag is required")),
        save(json!({ "id": instance, "tag": "a/b" }), Fail(400, "not a valid tag")),
        save(json!({ "id": UNKNOWN, "tag": "v2", "target_vm_id": template }), Fail(200, "Not found")),
        save(
            json!({ "id": instance, "tag": "v2", "target_vm_id": UNKNOWN }),
            Fail(400, "VM not in the registry"),
        ),
        save(
            json!({ "id": instance, "tag": "v2", "target_vm_id": template, "script": "not base64!" }),
            Fail(400, "script"),
        ),
        case("POST", IMAGE, "[]", Fail(400, "")),
    ]
}

pub(super) fn distribution(World { template, .. }: &World) -> Vec<Case> {
    let begin = |body: Value, expect: Expect| case("POST", DISTRIBUTION, body, expect);
    let remove = "/api/v1/registry/vm/remove";
    vec![
        case("GET", DISTRIBUTION, "", Is("", json!([]))),
        case("GET", format!("{DISTRIBUTION}?id={UNKNOWN}"), "", Fail(200, "Not found")),
        case("DELETE", DISTRIBUTION, "", Fail(400, "`id` is required")),
        case("DELETE", format!("{DISTRIBUTION}?id={UNKNOWN}"), "", Fail(200, "Not found")),
        begin(json!({}), Fail(400, "template_id is required")),
        begin(json!({ "template_id": UNKNOWN }), Fail(400, "VM not in the registry")),
        begin(json!({ "template_id": template, "tag": "v9" }), Fail(200, "No such tag v9")),
        begin(json!({ "template_id": template, "node_ids": ["none"] }), Fail(400, "there is no node `none`")),
        begin(json!({ "template_id": template, "group_id": UNKNOWN }), Fail(400, "group")),
        case("POST", DISTRIBUTION, "no JSON", Fail(400, "")),
        case("DELETE", remove, "", Fail(400, "`id` is required")),
        case("DELETE", format!("{remove}?id="), "", Fail(400, "id")),
    ]
}

/// Nobody is asked who they are here; that is `secured.rs`.
pub(super) fn credentials() -> Vec<Case> {
    let off = || Fail(404, "API keys are off here");
    vec![
        case("GET", KEYS, "", off()),
        case("POST", KEYS, "{}", off()),
        case("PUT", KEYS, "{}", off()),
        case("DELETE", format!("{KEYS}?id=none"), "", off()),
        case("POST", "/tap/v1/hand", json!({ "id": "none" }), off()),
        case("POST", "/tap/v1/shake", "{}", off()),
        case("GET", "/config/v1/auth", "", Is("", json!({}))),
        case("GET", "/livez", "", Status(200)),
        case("GET", "/openapi.json", "", Status(200)),
    ]
}

/// What is ours alone: not the vendor's envelope, but its errors.
pub(super) fn ours(World { instance, .. }: &World) -> Vec<Case> {
    let get = |path: &str, expect: Expect| case("GET", format!("/switchyard/v1/{path}"), "", expect);
    vec![
        get("instances", Status(200)),
        get("instances?limit=1&state=Started", Status(200)),
        get("instances?limit=0", Fail(400, "from 1 to 1000")),
        get("instances?cursor=x", Fail(400, "begin without one")),
        get("instances?state=Nothing", Fail(400, "state")),
        get("nodes", Status(200)),
        get("nodes?limit=many", Fail(400, "limit")),
        get("nodes/commands", Status(200)),
        get("nodes/node-1/why", Status(200)),
        get("nodes/none/why", Fail(404, "Not found")),
        get(&format!("instances/{instance}/why"), Status(200)),
        get(&format!("instances/{UNKNOWN}/why"), Fail(404, "Not found")),
        get("events", Status(200)),
        get("events?limit=0", Fail(400, "limit")),
        get("watch?from=x", Fail(400, "a whole number")),
        get("nothing", Status(404)),
    ]
}
