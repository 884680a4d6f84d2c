//! What is read, and starts.

use super::*;

pub(super) fn reads(World { template, instance }: &World) -> Vec<Case> {
    let show = format!("{VM}?id={instance}");
    let get = |path: &str, expect: Expect| case("GET", path, "", expect);
    let mut all = vec![
        get("/api/v1/status", Shape("", shape::STATUS)),
        get("/api/v1/stats", Shape("", STATS)),
        get("/pkg/AnkaAgent.pkg", Fail(404, "`packages`")),
        get("/pkg/AnkaAgentArm.pkg", Fail(404, "`packages`")),
        get("/queue/v1/cmd/task", Fail(404, "`switchyard agent join")),
        case("POST", "/queue/v1/controller/task", "{}", Fail(404, "`switchyard agent join")),
        get("/admin/v1/api/permission/resources/permissions", Fail(404, "`resource_management`")),
        get("/admin/api/v1/permission/resources/permissions", Fail(404, "`resource_management`")),
        get("/admin/v1/api/permission/group/g/resources", Fail(404, "`resource_management`")),
        get("/switchyard/v1/permissions", Status(200)),
        get("/switchyard/v1/permission-groups", Status(200)),
        // Nobody is asked for a credential here, and so nobody has the root token.
        case("PUT", "/switchyard/v1/permission-groups/g", "{}", Fail(403, "root token")),
        case("POST", "/admin/v1/api/permission/group/g/resources", "[]", Fail(404, "`resource_management`")),
        get("/oidc/v1/callback?code=x&state=y", Fail(404, "identity provider")),
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

/// A start's body with these keys besides; it asks for a device that no node has, so that it only waits.
fn start(world: &World, more: &Value) -> Value {
    let mut body = json!({ "vmid": world.template, "usb_device": "none has it" });
    let keys = more.as_object().cloned().unwrap_or_default();
    body.as_object_mut().expect("an object").extend(keys);
    body
}

/// Sloppy and complete forms that are taken.
pub(super) fn starts(world: &World) -> Vec<Case> {
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
        (json!({ "node_id": "node-1", "unknown_key": [1, 2, 3] }), 1),
    ];
    let all = taken.into_iter().map(|(more, count)| case("POST", VM, start(world, &more), Ids(count)));
    all.collect()
}

pub(super) fn refused_starts(world: &World) -> Vec<Case> {
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
        (json!({ "metadata": { "a": { "b": 1 } } }), 400, "`a` is an object"),
        (json!({ "metadata": { "x": "y".repeat(40_000) } }), 400, "metadata"),
        (json!({ "startup_script": "not base64!" }), 400, "startup_script"),
        (json!({ "startup_script": 7 }), 400, "startup_script"),
        (json!({ "startup_script_condition": 2 }), 400, "startup_script_condition"),
        (json!({ "startup_script_condition": "soon" }), 400, "`startup_script_condition`"),
        (json!({ "script_monitoring": 2 }), 400, "`script_monitoring`"),
        (json!({ "script_monitoring": "yes" }), 400, "`script_monitoring`"),
        (json!({ "script_timeout": -1 }), 400, "script_timeout"),
        (json!({ "script_timeout": "x" }), 400, "`script_timeout`"),
        (json!({ "script_timeout": 604_801 }), 400, "script_timeout"),
        (json!({ "script_fail_handler": 3 }), 400, "script_fail_handler"),
        (json!({ "vcpu": -4 }), 400, "vcpu"),
        (json!({ "vcpu": "x" }), 400, "`vcpu`"),
        (json!({ "vram": -1 }), 400, "vram"),
        (json!({ "vram": 1.5 }), 400, "`vram`"),
        (json!({ "group": "admins" }), 400, "group"),
        (json!({ "group": "admins", "group_id": "g" }), 400, "exclude each other"),
        (json!({ "group_id": "no-such" }), 400, "group_id"),
        (json!({ "node_id": "a/b" }), 400, "node id"),
        (json!({ "node_id": "nobody" }), 400, "node_id"),
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
