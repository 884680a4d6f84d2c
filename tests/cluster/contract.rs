//! The controller's public API as data: what is asked and what has to be answered, a case for each behaviour that the
//! reference names. One table, asked of one controller, and the same through the proxy while a controller of three is
//! killed and started again every second.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use switchyard::clock;

use crate::{
    alone,
    support::{
        api::{Answer, Api},
        cloud::{Cloud, Plan, SOON, ids},
        image::Image,
        scale::scaled,
        shape::{self, Field},
    },
};

/// What has to be answered.
#[derive(Clone, Debug)]
enum Expect {
    /// FAIL with this status; the message has these words.
    Fail(u16, &'static str),
    /// OK, and what is at this JSON pointer of the body is this.
    Is(&'static str, Value),
    /// OK, and the object at this pointer has this shape.
    Shape(&'static str, &'static [Field]),
    /// OK, and the body is a list of so many different texts: a start, whose instances are terminated again.
    Ids(usize),
    /// This status, whatever else.
    Status(u16),
}

use Expect::{Fail, Ids, Is, Shape, Status};

/// A request and its answer.
#[derive(Clone, Debug)]
struct Case {
    method: &'static str,
    path: String,
    body: String,
    expect: Expect,
}

/// What the cases are about.
struct World {
    template: String,
    instance: String,
}

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";
const VM: &str = "/api/v1/vm";
const NODE: &str = "/api/v1/node";
const CONFIG: &str = "/api/v1/node/config";
const GROUP: &str = "/api/v1/group";
const MEMBERS: &str = "/api/v1/node/group";
const TEMPLATES: &str = "/api/v1/registry/vm";

/// Of `GET /api/v1/stats`.
const STATS: &[Field] = &[
    Field("tasks_per_second", shape::Is::Decimal, true),
    Field("average_queue_time", shape::Is::Decimal, true),
    Field("queued", shape::Is::Count, true),
];

fn case(method: &'static str, path: impl Into<String>, body: impl ToString, expect: Expect) -> Case {
    Case { method, path: path.into(), body: body.to_string(), expect }
}

/// All of them.
fn table(world: &World) -> Vec<Case> {
    let mut all = reads(world);
    all.extend(starts(world));
    all.extend(refused_starts(world));
    all.extend(other_calls(world));
    all.extend(methods());
    all
}

fn reads(World { template, instance }: &World) -> Vec<Case> {
    let show = format!("{VM}?id={instance}");
    let get = |path: &str, expect: Expect| case("GET", path, "", expect);
    let mut all = vec![
        get("/api/v1/status", Shape("", shape::STATUS)),
        get("/api/v1/stats", Shape("", STATS)),
        get(VM, Shape("/0", shape::LISTED)),
        get(&format!("{VM}?id="), Shape("/0", shape::LISTED)),
        get(&format!("{VM}?nonsense=1"), Shape("/0", shape::LISTED)),
        get(&show, Shape("", shape::INSTANCE)),
        get(&show, Shape("/vminfo", shape::VM_INFO)),
        get(&show, Is("/instance_state", json!("Started"))),
        get(&show, Is("/instance_id", json!(instance))),
        get(&show, Is("/vmid", json!(template))),
        get(&show, Is("/tag", json!("v1"))),
        get(&show, Is("/name", json!("one"))),
        get(&show, Is("/external_id", json!("job/1"))),
        get(&show, Is("/metadata/team", json!("ios"))),
        get(&show, Is("/node_id", json!("node-1"))),
        get(&show, Is("/group_id", json!(""))),
        get(&show, Is("/vlan", json!(""))),
        get(&show, Is("/progress", json!(0))),
        get(NODE, Shape("/0", shape::NODE)),
        get(&format!("{NODE}?id=node-1"), Shape("/0", shape::NODE)),
        get(&format!("{NODE}?id=node-1"), Is("/0/node_id", json!("node-1"))),
        get(&format!("{NODE}?id=node-1"), Is("/0/state", json!("Active"))),
        get(&format!("{NODE}?id=node-1"), Is("/0/capacity", json!(4))),
        get(&format!("{NODE}?id=node-1"), Is("/0/capacity_mode", json!("number"))),
        get(&format!("{NODE}?id=node-1"), Is("/0/vm_count", json!(1))),
        get(&format!("{NODE}?id=node-1"), Is("/1", Value::Null)),
        get(TEMPLATES, Is("/0/id", json!(template))),
        get(TEMPLATES, Is("/0/name", json!("mac/sonoma"))),
        get(&format!("{TEMPLATES}?id={template}"), Is("/id", json!(template))),
        get(&format!("{TEMPLATES}?id={template}"), Is("/name", json!("mac/sonoma"))),
        get(&format!("{TEMPLATES}?id={template}"), Is("/versions/0/tag", json!("v1"))),
        get(&format!("{TEMPLATES}?id={template}&apiVer=v1"), Is("/id", json!(template))),
        get(GROUP, Is("", json!([]))),
        get("/api/v1/vlan", Is("", json!([]))),
        get("/livez", Status(200)),
        get("/readyz", Status(200)),
        get("/healthz", Status(200)),
        // What is not there: 200, for jenkins takes every 400 for an exception.
        get(&format!("{VM}?id={UNKNOWN}"), Fail(200, "Not found")),
        get(&format!("{NODE}?id=nobody"), Fail(200, "Not found")),
        get(&format!("{TEMPLATES}?id={UNKNOWN}"), Fail(200, "Not found")),
        get("/api/v1/macaddr?count=true", Fail(409, "`[mac_pool]`")),
        // What cannot be an id.
        get(&format!("{VM}?id=a%2Fb"), Fail(400, "instance id")),
        get(&format!("{VM}?id=.."), Fail(400, "instance id")),
        get(&format!("{VM}?id=%00"), Fail(400, "instance id")),
        get(&format!("{VM}?id={}", "x".repeat(200)), Fail(400, "instance id")),
        get(&format!("{NODE}?id=a%20b"), Fail(400, "node id")),
        get(&format!("{TEMPLATES}?id=a%2Fb"), Fail(400, "template id")),
    ];
    for path in ["/api/v1", "/api/v2/vm", "/api/v1/vms", "/api/v1/vm/1", "/nothing"] {
        all.push(get(path, Status(404)));
    }
    all
}

/// A start's body with these keys besides; it asks for a node that is not there, so that it only waits.
fn start(world: &World, more: &Value) -> Value {
    let mut body = json!({ "vmid": world.template, "node_id": "nobody" });
    let keys = more.as_object().cloned().unwrap_or_default();
    body.as_object_mut().expect("an object").extend(keys);
    body
}

/// Sloppy and complete forms that are taken.
fn starts(world: &World) -> Vec<Case> {
    let script = "ZWNobyBoZWxsbwo=";
    let taken = [
        (json!({}), 1),
        (json!({ "count": 1 }), 1),
        (json!({ "count": "3" }), 3),
        (json!({ "count": 2.0 }), 2),
        (json!({ "count": "" }), 1),
        (json!({ "count": null }), 1),
        (json!({ "tag": "v1" }), 1),
        (json!({ "tag": "" }), 1),
        (json!({ "version": "" }), 1),
        (json!({ "version": 0 }), 1),
        (json!({ "tag": "v1", "version": 99 }), 1),
        (json!({ "priority": "" }), 1),
        (json!({ "priority": "17" }), 1),
        (json!({ "priority": 0 }), 1),
        (json!({ "priority": 99_999 }), 1),
        (json!({ "name": "x", "external_id": "job/7" }), 1),
        (json!({ "name": 7 }), 1),
        (json!({ "metadata": { "a": "x", "b": 1, "c": true } }), 1),
        (json!({ "metadata": {} }), 1),
        (json!({ "metadata": "" }), 1),
        (json!({ "startup_script": script, "startup_script_condition": 1 }), 1),
        (
            json!({ "startup_script": script, "startup_script_condition": "0", "script_monitoring": "true" }),
            1,
        ),
        (json!({ "script_monitoring": false, "script_timeout": 90, "script_fail_handler": 0 }), 1),
        (json!({ "script_monitoring": 1, "script_timeout": "30", "script_fail_handler": "2" }), 1),
        (json!({ "startup_script": "" }), 1),
        (json!({ "name_template": "$template_name-$ts" }), 1),
        (json!({ "vcpu": 4, "vram": 8192 }), 1),
        (json!({ "vcpu": "4", "vram": "" }), 1),
        (json!({ "disk": { "size": "" } }), 1),
        (json!({ "disk": {} }), 1),
        (json!({ "disk": { "size": "80G" } }), 1),
        (json!({ "disk": { "size": "120g", "skip_container_resize": true } }), 1),
        (json!({ "network_mode": "shared" }), 1),
        (json!({ "network_mode": "host" }), 1),
        (json!({ "network_mode": "disconnected" }), 1),
        (json!({ "network_mode": "nat" }), 1),
        (json!({ "network_mode": "bridge", "vlan_tag": "7" }), 1),
        (json!({ "vlan_tag": 4094 }), 1),
        (json!({ "network_local": "forceOn" }), 1),
        (json!({ "network_local": "forceOff" }), 1),
        (json!({ "mac_address": "02:00:5E:10:00:01" }), 1),
        (json!({ "mac_address": "02:00:5e:10:00:01" }), 1),
        (json!({ "port_forwarding_override": [] }), 1),
        (json!({ "port_forwarding_override": [{ "name": "ssh", "guest_port": "22" }] }), 1),
        (json!({ "port_forwarding_override": [{ "name": "ssh", "guest_port": 22, "host_port": "" }] }), 1),
        (
            json!({ "port_forwarding_override": [
            { "name": "ssh", "guest_port": 22, "host_port": 10022, "host_ip": "0.0.0.0" },
        ] }),
            1,
        ),
        (json!({ "group": "" , "group_id": "" }), 1),
        (json!({ "usb_device": "iPhone" }), 1),
        (json!({ "node_id": "nobody", "unknown_key": [1, 2, 3] }), 1),
    ];
    let all = taken.into_iter().map(|(more, count)| case("POST", VM, start(world, &more), Ids(count)));
    all.collect()
}

fn refused_starts(world: &World) -> Vec<Case> {
    let long = "x".repeat(5000);
    let rule = |rule: Value| json!({ "port_forwarding_override": [rule] });
    let wrong = [
        (json!({ "vmid": UNKNOWN }), 400, "VM not in the registry"),
        (json!({ "vmid": "a/b" }), 400, "VM not in the registry"),
        (json!({ "vmid": "" }), 400, "vmid"),
        (json!({ "vmid": null }), 400, "vmid"),
        (json!({ "vmid": [] }), 400, "vmid"),
        // jenkins and teamcity try without the tag when they read exactly this.
        (json!({ "tag": "nope" }), 200, "No such tag nope"),
        (json!({ "tag": "v1+x" }), 200, "No such tag v1+x"),
        (json!({ "tag": [1] }), 400, "`tag`"),
        (json!({ "version": 99 }), 400, "99"),
        (json!({ "version": "x" }), 400, "`version`"),
        (json!({ "count": 0 }), 400, "count"),
        (json!({ "count": -1 }), 400, "count"),
        (json!({ "count": "many" }), 400, "`count`"),
        (json!({ "count": 1.5 }), 400, "`count`"),
        (json!({ "count": 1_000_000 }), 400, "count"),
        (json!({ "count": u64::MAX }), 400, "count"),
        (json!({ "count": [] }), 400, "`count`"),
        (json!({ "priority": "high" }), 400, "`priority`"),
        (json!({ "name": long }), 400, "name"),
        (json!({ "external_id": long }), 400, "external_id"),
        (json!({ "name_template": long }), 400, "name_template"),
        (json!({ "metadata": "x" }), 400, "`metadata`"),
        (json!({ "metadata": [1] }), 400, "`metadata`"),
        (json!({ "metadata": { "x": "y".repeat(40_000) } }), 400, "metadata"),
        (json!({ "startup_script": "not base64!" }), 400, "startup_script"),
        (json!({ "startup_script": 7 }), 400, "startup_script"),
        (json!({ "startup_script_condition": 2 }), 400, "startup_script_condition"),
        (json!({ "startup_script_condition": "soon" }), 400, "`startup_script_condition`"),
        (json!({ "script_monitoring": 2 }), 400, "`script_monitoring`"),
        (json!({ "script_monitoring": "yes" }), 400, "`script_monitoring`"),
        (json!({ "script_timeout": -1 }), 400, "script_timeout"),
        (json!({ "script_timeout": "x" }), 400, "`script_timeout`"),
        (json!({ "script_fail_handler": 3 }), 400, "script_fail_handler"),
        (json!({ "vcpu": -4 }), 400, "vcpu"),
        (json!({ "vcpu": "x" }), 400, "`vcpu`"),
        (json!({ "vram": -1 }), 400, "vram"),
        (json!({ "vram": 1.5 }), 400, "`vram`"),
        (json!({ "group": "admins" }), 400, "group"),
        (json!({ "group": "admins", "group_id": "g" }), 400, "exclude each other"),
        (json!({ "group_id": "no-such" }), 400, "group_id"),
        (json!({ "node_id": "a/b" }), 400, "node id"),
        (json!({ "usb_device": long }), 400, "usb_device"),
        (json!({ "disk": { "size": "80" } }), 400, "disk.size"),
        (json!({ "disk": { "size": "-8G" } }), 400, "disk.size"),
        (json!({ "disk": { "size": 80 } }), 400, "disk.size"),
        (json!({ "disk": { "skip_container_resize": true } }), 400, "disk.size is required"),
        (json!({ "disk": [] }), 400, "`disk`"),
        (json!({ "network_mode": "wifi" }), 400, "network_mode"),
        (json!({ "network_mode": "shared", "vlan_tag": "7" }), 400, "vlan_tag needs"),
        (json!({ "vlan_tag": "0" }), 400, "vlan_tag"),
        (json!({ "vlan_tag": "4095" }), 400, "vlan_tag"),
        (json!({ "vlan_tag": "x" }), 400, "vlan_tag"),
        (json!({ "mac_address": "x" }), 400, "mac_address"),
        (json!({ "mac_address": "01:00:00:00:00:01" }), 400, "mac_address"),
        (json!({ "mac_address": "02:00:00:00:00:01", "count": 2 }), 400, "count is 2"),
        (json!({ "video_controller": "vga" }), 400, "video_controller"),
        (json!({ "hvapic": "on" }), 400, "hvapic"),
        (json!({ "csr_active_config": "forceOff" }), 400, "csr_active_config"),
        (json!({ "network_local": "maybe" }), 400, "network_local"),
        (json!({ "hw_uuid": "x" }), 400, "hw_uuid"),
        (json!({ "hw_serial": long }), 400, "hw_serial"),
        (json!({ "vnc_password": long }), 400, "vnc_password"),
        (json!({ "port_forwarding_override": "x" }), 400, "`port_forwarding_override`"),
        (json!({ "port_forwarding_override": [7] }), 400, "`port_forwarding_override`"),
        (rule(json!({})), 400, "name is required"),
        (rule(json!({ "name": "a" })), 400, "guest_port is required"),
        (rule(json!({ "name": "a", "guest_port": "0" })), 400, "guest_port is `0`"),
        (rule(json!({ "name": "a", "guest_port": 70_000 })), 400, "guest_port is `70000`"),
        (rule(json!({ "name": "a", "guest_port": "ssh" })), 400, "guest_port is `ssh`"),
        (rule(json!({ "name": "a", "guest_port": 1, "host_port": -1 })), 400, "host_port is `-1`"),
        (rule(json!({ "name": "a", "guest_port": 1, "host_ip": "x" })), 400, "host_ip"),
    ];
    let mut all: Vec<Case> = wrong
        .into_iter()
        .map(|(more, status, words)| case("POST", VM, start(world, &more), Fail(status, words)))
        .collect();
    for (body, words) in [
        ("", "vmid"),
        ("{}", "vmid"),
        ("{", "line 1 column 1"),
        ("{\n \"vmid\": nope\n}", "line 2"),
        ("vmid=x&count=1", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("\"x\"", "not a JSON object"),
        ("7", "not a JSON object"),
        ("{\"vmid\":\"x\"}{}", "not valid JSON"),
        ("{\"vmid\":\"x\",}", "not valid JSON"),
    ] {
        all.push(case("POST", VM, body, Fail(400, words)));
    }
    all
}

fn other_calls(World { template, instance }: &World) -> Vec<Case> {
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
        case("PUT", &show, json!({ "name": 7 }), Fail(400, "`name`")),
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
        case("POST", MEMBERS, "{}", Status(400)),
        case("DELETE", MEMBERS, "{}", Status(400)),
        // Templates.
        case("DELETE", TEMPLATES, "", Fail(400, "id")),
        case("DELETE", format!("{TEMPLATES}?id=a%2Fb"), "", Fail(400, "template id")),
        case("DELETE", "/api/v1/registry/revert", "", Fail(400, "id")),
        case("DELETE", format!("/api/v1/registry/revert?id={template}&version=99"), "", Fail(400, "99")),
        case("GET", "/api/v1/registry/disk", "", Shape("", &[])),
        case("GET", "/api/v1/macaddr", "", Fail(400, "give `count`")),
        case("PUT", "/api/v1/macaddr", "", Fail(409, "`[mac_pool]`")),
        case("DELETE", "/api/v1/macaddr", "", Fail(409, "`[mac_pool]`")),
    ]
}

/// Known routes with methods that they do not have.
fn methods() -> Vec<Case> {
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
    ];
    wrong.into_iter().map(|(method, path)| case(method, path, "", Fail(405, "not allowed"))).collect()
}

/// What became of a run.
#[derive(Debug, Default)]
struct Outcome {
    faults: Vec<String>,
    asked: usize,
    again: usize,
}

/// Tries of one case while servers come and go: a request that was cut off is answered 502 by the proxy, for nobody
/// knows what became of it. A client asks again, under the same key.
const TRIES: usize = 5;

async fn run(api: &Api, table: &[Case], patient: bool) -> Outcome {
    let mut outcome = Outcome::default();
    for (n, case) in table.iter().enumerate() {
        let key = format!("contract-{n}-{}", rand::random::<u64>());
        let mut tries = 0;
        let said = loop {
            let said = ask(api, case, &key).await;
            let passing = match &said {
                Ok(answer) => matches!(answer.status, 502..=504),
                Err(_) => true,
            };
            tries += 1;
            if !patient || !passing || tries == TRIES {
                break said;
            }
            outcome.again += 1;
        };
        outcome.asked += 1;
        let fault = match said {
            Ok(answer) => {
                if matches!(case.expect, Ids(_)) && answer.is_ok() {
                    for id in ids(&answer) {
                        // Whether it is gone at once is not what this is about.
                        drop(api.try_call("DELETE", VM, Some(&json!({ "id": id }))).await);
                    }
                }
                fault(&case.expect, &answer).map(|why| format!("{why}\n    {answer}"))
            }
            Err(why) => Some(why),
        };
        if let Some(why) = fault {
            let body: String = case.body.chars().take(200).collect();
            outcome
                .faults
                .push(format!("{} {} {body}\n    wants {:?}: {why}", case.method, case.path, case.expect));
        }
    }
    outcome
}

async fn ask(api: &Api, case: &Case, key: &str) -> Result<Answer, String> {
    let method: reqwest::Method = case.method.parse().map_err(|_| "no method".to_owned())?;
    let mut request = api.http().request(method, format!("{}{}", api.base(), case.path));
    if case.path == VM && case.method == "POST" {
        request = request.header("idempotency-key", key);
    }
    if !case.body.is_empty() {
        request = request.body(case.body.clone());
    }
    let since = clock::now();
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
    Ok(Answer { status, headers, text, took: clock::now() - since })
}

/// What is not as expected.
fn fault(expect: &Expect, answer: &Answer) -> Option<String> {
    let body = || match answer.is_ok() {
        true => Ok(answer.ok()),
        false => Err("no success".to_owned()),
    };
    let at = |pointer: &str| body().map(|body| body.pointer(pointer).cloned().unwrap_or_default());
    let right = match expect {
        Fail(status, words) => match answer.failure() {
            Some(said) if answer.status == *status && said.contains(words) && answer.text.len() < 2000 => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        },
        Is(pointer, value) => at(pointer).and_then(|found| match found == *value {
            true => Ok(()),
            false => Err(format!("found {found}")),
        }),
        Shape(pointer, shape) => at(pointer).and_then(|found| {
            let faults = shape::faults(&found, shape);
            if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
        }),
        Ids(count) => body().and_then(|body| {
            let ids: Vec<&str> = body.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let different = ids.iter().collect::<std::collections::BTreeSet<_>>().len();
            if (ids.len(), different) == (*count, *count) { Ok(()) } else { Err(format!("{ids:?}")) }
        }),
        Status(status) if answer.status == *status => Ok(()),
        Status(_) => Err("another status".into()),
    };
    right.err()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_at_one_controller_and_at_three_that_die_in_turn() {
    let _turn = alone().await;
    let timeouts = "[timeouts]\nnode_active = \"30s\"\ninstance_active = \"30s\"\n";
    let plan = Plan { controllers: 3, agents: 1, controller: timeouts.into(), ..Plan::default() };
    let mut cloud = Cloud::start("contract", &plan).await;
    let image = Image::write(&cloud.place.path("image"), 1, 2, 1);
    let template = cloud.push(&image, "mac/sonoma", "v1").await;
    let ask = json!({
        "vmid": template, "name": "one", "external_id": "job/1", "metadata": { "team": "ios" },
    });
    let instance = cloud.run(ask).await.remove(0);
    cloud.reaches(&instance, &["Started"], SOON).await;
    let table = table(&World { template, instance: instance.clone() });
    assert!(table.len() >= 200, "{} cases", table.len());

    let alone = run(&cloud.controllers[0].api(), &table, false).await;
    assert!(
        alone.faults.is_empty(),
        "{} of {} at one controller:\n{}",
        alone.faults.len(),
        alone.asked,
        alone.faults.join("\n")
    );

    // Each second another one is killed; it is back before the next one goes.
    let (api, over) = (cloud.api.clone(), AtomicBool::new(false));
    let Cloud { controllers, .. } = &mut cloud;
    let dying = async {
        let mut deaths = 0;
        while !over.load(Ordering::Relaxed) {
            let next = deaths % controllers.len();
            controllers[next].process.kill();
            controllers[next].restart().await;
            deaths += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        deaths
    };
    let asking = async {
        let until = clock::now() + Duration::from_secs(scaled(6, 120) as u64);
        let mut whole = Outcome::default();
        loop {
            let round = run(&api, &table, true).await;
            whole.faults.extend(round.faults);
            (whole.asked, whole.again) = (whole.asked + round.asked, whole.again + round.again);
            if clock::now() >= until || whole.faults.len() > 20 {
                over.store(true, Ordering::Relaxed);
                return whole;
            }
        }
    };
    let (deaths, moving) = tokio::join!(dying, asking);
    assert!(
        moving.faults.is_empty(),
        "{} of {} while controllers die:\n{}",
        moving.faults.len(),
        moving.asked,
        moving.faults.join("\n")
    );
    assert!(deaths >= 3, "each of them died: {deaths}");
    assert!(moving.again * 10 <= moving.asked, "{} of {} were asked again", moving.again, moving.asked);
    println!(
        "contract: {} cases; {} asked while {deaths} controllers died, {} again",
        table.len(),
        moving.asked,
        moving.again
    );
    let shown = cloud.show(&instance).await;
    assert_eq!(shown["instance_state"], "Started", "nothing of it was touched: {shown}");
}
