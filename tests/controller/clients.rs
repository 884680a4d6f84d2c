//! Each public client as `reference/real-clients.md` describes it: a test per "Must hold" row that concerns the
//! controller's routes, reading answers as strictly as that client's own code does.

use serde_json::{Value, json};
use switchyard::wire::agent::VmPhase;

use crate::{
    cloud::{Cloud, raw, until_state},
    node::Node,
    support::api::{Answer, Api},
};

/// Jenkins' and TeamCity's getter: the key is there and a text.
#[track_caller]
fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("`{key}` is no text in {value}"))
}

#[track_caller]
fn texts(value: &Value, keys: &[&str]) {
    for key in keys {
        text(value, key);
    }
}

#[track_caller]
fn whole(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("`{key}` is no unsigned whole number in {value}"))
}

/// What Jenkins, TeamCity and the GitLab executor take for a success: exactly 200, an object, OK.
#[track_caller]
fn strict(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let envelope = answer.json();
    assert!(envelope.is_object(), "{answer:?}");
    assert_eq!((text(&envelope, "status"), text(&envelope, "message")), ("OK", ""));
    envelope["body"].clone()
}

/// A cloud with a template and one started instance of it on a node.
struct Lab {
    cloud: Cloud,
    template: String,
    instance: String,
}

impl Lab {
    async fn open() -> Self {
        let cloud = Cloud::start().await;
        let template = cloud.template("sonoma-xcode", "v3+ssh").await;
        let ask = json!({ "vmid": template, "external_id": "job/1", "name": "one" });
        let ids = cloud.api().post("/api/v1/vm", &ask).await.ok();
        let instance = ids[0].as_str().unwrap().to_owned();
        let node = Node::joined(cloud.api(), "mini-07").await;
        let task = node.offered().await;
        node.run(&task).await;
        until_state(cloud.api(), &instance, "Started").await;
        Self { cloud, template, instance }
    }

    fn api(&self) -> &Api {
        self.cloud.api()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jenkins_reads_every_answer_with_its_strict_getters() {
    let lab = Lab::open().await;
    let api = lab.api();

    let status = api.get("/api/v1/status").await;
    assert!(status.took.as_secs() < 5, "the probe waits 5 s: {status:?}");
    assert_eq!(text(&strict(&status), "status"), "Running");

    for template in strict(&api.get("/api/v1/registry/vm").await).as_array().unwrap() {
        texts(template, &["id", "name"]);
    }
    let template = strict(&api.get(&format!("/api/v1/registry/vm?id={}", lab.template)).await);
    for version in template["versions"].as_array().unwrap() {
        text(version, "tag");
    }

    // One waits, one runs: both are in the list.
    lab.cloud.instance(&lab.template).await;
    let list = strict(&api.get("/api/v1/vm").await);
    assert_eq!(list.as_array().unwrap().len(), 2);
    for listed in list.as_array().unwrap() {
        text(listed, "instance_id");
        let vm = &listed["vm"];
        texts(vm, &["instance_state", "vmid", "cr_time"]);
        assert!(vm.get("message").is_none_or(Value::is_string), "{vm}");
        let Some(info) = vm.get("vminfo") else { continue };
        assert!(info.is_object(), "null breaks it: {vm}");
        texts(info, &["uuid", "status"]);
        for rule in info["port_forwarding"].as_array().into_iter().flatten() {
            whole(rule, "guest_port");
            whole(rule, "host_port");
        }
    }

    for node in strict(&api.get("/api/v1/node").await).as_array().unwrap() {
        assert!(text(node, "state").eq_ignore_ascii_case("active"));
        whole(node, "capacity");
        text(node, "capacity_mode");
    }

    let ask = json!({ "name": "j", "external_id": "http://ci/7", "metadata": { "jenkins-job-id": "7" } });
    strict(&api.put(&format!("/api/v1/vm?id={}", lab.instance), &ask).await);
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jenkins_and_teamcity_start_again_without_the_tag_that_is_not_there() {
    let lab = Lab::open().await;
    for tag in ["v9+ssh", "V3+SSH", "nö/such tag"] {
        let answer = lab.api().post("/api/v1/vm", &json!({ "vmid": lab.template, "tag": tag })).await;
        assert_eq!(answer.status, 200, "400 and more is an exception before the text is read: {answer:?}");
        assert_eq!(answer.failure().unwrap(), format!("No such tag {tag}"));
    }
    strict(&lab.api().post("/api/v1/vm", &json!({ "vmid": lab.template })).await);
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jenkins_takes_a_missing_instance_for_gone_and_every_failure_has_a_text() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    let gone = api.get("/api/v1/vm?id=5d2b8f10-6a77-4c1e-51d9-0b7a3c9e4f12").await;
    assert_eq!(gone.text, "{\"status\":\"FAIL\",\"message\":\"Not found\"}\n", "{gone:?}");
    assert_eq!(gone.status, 200);
    for failing in [
        api.put("/api/v1/vm?id=nobody", &json!({ "name": "x" })).await,
        api.delete("/api/v1/vm", &json!({ "id": "nobody" })).await,
        api.get("/api/v1/node?id=nobody").await,
        api.delete("/api/v1/node", &json!({ "node_id": "nobody" })).await,
        api.post("/api/v1/node/config", &json!({ "node_id": "nobody", "drain_mode": true })).await,
        api.get("/api/v1/registry/vm?id=nobody").await,
    ] {
        assert_eq!((failing.status, failing.failure().as_deref()), (200, Some("Not found")), "{failing:?}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn teamcity_finds_its_licence_its_instances_and_their_address() {
    let lab = Lab::open().await;
    assert_ne!(text(&strict(&lab.api().get("/api/v1/status").await), "license"), "basic");
    let list = strict(&lab.api().get("/api/v1/vm").await);
    let mine = list.as_array().unwrap().iter().find(|vm| vm["external_id"] == "job/1").unwrap();
    assert_eq!(mine["vm"]["external_id"], "job/1");
    assert!(!text(&mine["vm"]["vminfo"], "ip").is_empty());
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitlab_executor_sends_no_content_type_and_finds_its_vm_again() {
    let lab = Lab::open().await;
    let api = lab.api();
    // It resolves the template's name by the quick list.
    let named = strict(&api.get("/api/v1/registry/vm?apiVer=v1").await);
    assert_eq!(named, json!([{ "id": lab.template, "name": "sonoma-xcode" }]));
    let script = "ZWNobyBoaQ==";
    let ask = json!({
        "vmid": lab.template, "external_id": "gl-9", "startup_script": script, "script_monitoring": true,
        "script_timeout": 300, "startup_script_condition": 0,
    });
    let ids = strict(&api.post("/api/v1/vm", &ask).await);
    assert!(!ids.as_array().unwrap().is_empty());
    let list = strict(&api.get("/api/v1/vm").await);
    for listed in list.as_array().unwrap() {
        assert!(listed["vm"].is_object(), "it dereferences `vm` without looking: {listed}");
    }
    let mine = list.as_array().unwrap().iter().find(|vm| vm["vm"]["external_id"] == "gl-9").unwrap();
    assert!(["Scheduling", "Pulling", "Started"].contains(&text(&mine["vm"], "instance_state")));

    let nodes = strict(&api.get("/api/v1/node?id=mini-07").await);
    let node = &nodes.as_array().unwrap()[0];
    assert_eq!((text(node, "ip_address"), text(node, "node_name")), ("10.20.30.41", "mini-07-name"));
    let started = strict(&api.get(&format!("/api/v1/vm?id={}", lab.instance)).await);
    let rule = &started["vminfo"]["port_forwarding"][0];
    assert_eq!(
        (whole(rule, "guest_port"), text(rule, "protocol"), whole(rule, "host_port")),
        (22, "tcp", 10002)
    );
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gitlab_executors_envelope_is_there_in_every_case() {
    let cloud = Cloud::start().await;
    let api = cloud.api();
    for answer in [
        api.get("/api/v1/vm").await,
        api.get("/api/v1/vm?id=nobody").await,
        api.post("/api/v1/vm", &json!({ "vmid": "nobody" })).await,
        raw(api, "POST", "/api/v1/vm", "{", &[]).await,
        api.call("PATCH", "/api/v1/vm", None).await,
        api.get("/api/v1/vm?id=a%2Fb").await,
    ] {
        let envelope = answer.json();
        assert!(["OK", "FAIL"].contains(&text(&envelope, "status")), "{answer:?}");
        text(&envelope, "message");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn github_actions_send_a_form_type_and_a_password_without_a_user() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let api = cloud.api();
    let headers =
        [("content-type", "application/x-www-form-urlencoded"), ("authorization", "Basic OnRva2Vu")];
    let body = json!({
        "vmid": template, "count": 1, "external_id": "gha/1", "script_monitoring": true, "script_fail_handler": 1,
        "startup_script": "ZWNobyBoaQ==",
    });
    let answer = raw(api, "POST", "/api/v1/vm", &body.to_string(), &headers).await;
    assert_eq!(answer.ok().as_array().unwrap().len(), 1);
    let list = raw(api, "GET", "/api/v1/vm", "", &headers).await.ok();
    assert!(list.as_array().unwrap().iter().any(|vm| vm["external_id"] == "gha/1"), "on the wrapper: {list}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_is_a_list() {
    let cloud = Cloud::start().await;
    for path in ["/api/v1/vm", "/api/v1/node", "/api/v1/registry/vm", "/api/v1/registry/vm?apiVer=v1"] {
        let answer = cloud.api().get(path).await;
        assert_eq!(answer.text, "{\"status\":\"OK\",\"message\":\"\",\"body\":[]}\n", "{path}");
    }
    // An empty query and an empty id are no id.
    for path in ["/api/v1/vm?", "/api/v1/vm?id=", "/api/v1/vm?made=up&id=", "/api/v1/node?id="] {
        assert_eq!(cloud.api().get(path).await.ok(), json!([]), "{path}");
    }
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drone_decodes_times_and_progress_as_go_does() {
    let lab = Lab::open().await;
    let api = lab.api();
    let headers = [("authorization", "Basic cm9vdDo=")];
    let status = raw(api, "GET", "/api/v1/status", "", &headers).await.ok();
    assert!(!text(&status, "license").is_empty() && !text(&status, "registry_address").is_empty());
    assert_eq!(text(&status, "status"), "Running");

    let body =
        json!({ "vmid": lab.template, "count": "", "priority": "", "version": "", "disk": { "size": "" } });
    raw(api, "POST", "/api/v1/vm", &body.to_string(), &headers).await.ok();
    let unknown = raw(api, "POST", "/api/v1/vm", r#"{"vmid":"nobody"}"#, &headers).await;
    assert_eq!((unknown.status, unknown.failure().as_deref()), (400, Some("VM not in the registry")));

    let list = api.get("/api/v1/vm").await.ok();
    let time = |value: &Value| switchyard::model::Timestamp::parse(value.as_str().unwrap()).unwrap();
    for listed in list.as_array().unwrap() {
        let vm = &listed["vm"];
        assert!(vm["progress"].is_u64(), "it decodes an int: {vm}");
        time(&vm["ts"]);
        time(&vm["cr_time"]);
        let Some(info) = vm.get("vminfo") else { continue };
        for key in ["creation_date", "access_date", "start_date", "stop_date", "timestamp"] {
            info.get(key).map(time);
        }
        let first = &info["port_forwarding"][0];
        whole(first, "host_port");
        text(info, "host_ip");
    }
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exporter_decodes_unsigned_numbers_and_known_architectures() {
    let lab = Lab::open().await;
    let api = lab.api();
    let nodes = api.get("/api/v1/node").await;
    for node in nodes.ok().as_array().unwrap() {
        assert!(["amd64", "arm64"].contains(&text(node, "host_arch")), "any other word crashes it");
        for key in
            ["cpu_count", "ram", "vm_count", "vcpu_count", "vram", "capacity", "disk_size", "free_disk_space"]
        {
            whole(node, key);
        }
        whole(node, "anka_disk_usage");
        assert!(node["cpu_util"].is_number() && node["ram_util"].is_number());
        assert_eq!(whole(node, "ram"), 16);
        assert_eq!(whole(node, "vm_count"), 1);
    }
    for listed in api.get("/api/v1/vm").await.ok().as_array().unwrap() {
        let arch = listed["vm"].get("arch").map_or("", |arch| arch.as_str().unwrap());
        assert!(["", "amd64", "arm64"].contains(&arch));
        assert!(listed["external_id"].is_string());
    }
    let disk = api.get("/api/v1/registry/disk").await.ok();
    assert!(whole(&disk, "free") <= whole(&disk, "total"));
    let list = api.get("/api/v1/registry/vm").await.ok();
    let whole_template = api.get(&format!("/api/v1/registry/vm?id={}", lab.template)).await.ok();
    assert!(whole(&list[0], "size") > 0);
    assert_eq!(list[0]["size"], whole_template["size"], "it asks again only when the size has changed");
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mcp_server_sends_ports_as_texts_and_knows_when_a_vm_is_ready() {
    let lab = Lab::open().await;
    let headers = [("authorization", "Custom whatever the user typed")];
    let body = json!({
        "vmid": lab.template, "port_forwarding_override": [{ "name": "ssh", "guest_port": "22" }],
        "startup_script": "ZWNobyBoaQ==", "startup_script_condition": 1,
    });
    raw(lab.api(), "POST", "/api/v1/vm", &body.to_string(), &headers).await.ok();
    let vm = raw(lab.api(), "GET", &format!("/api/v1/vm?id={}", lab.instance), "", &headers).await.ok();
    assert_eq!((text(&vm, "instance_state"), text(&vm["vminfo"], "status")), ("Started", "running"));
    assert!(!text(&vm["vminfo"], "host_ip").is_empty());
    let rules = vm["vminfo"]["port_forwarding"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["guest_port"] == 22 && rule["host_port"].as_u64() > Some(0)));
    let failed = raw(lab.api(), "GET", "/api/v1/vm?id=nobody", "", &headers).await;
    assert_eq!(failed.failure().as_deref(), Some("Not found"));
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ec2_scripts_find_their_node_undrain_it_and_clean_up_after_themselves() {
    let lab = Lab::open().await;
    let api = lab.api();
    let version = api.get("/api/v1/status").await.ok()["version"].as_str().unwrap().to_owned();
    let digits = version.split('-').next().unwrap();
    assert!(
        digits.split('.').count() == 3 && digits.split('.').all(|part| part.parse::<u32>().is_ok()),
        "{version}"
    );

    let spare = Node::joined(api, "spare").await;
    let nodes = api.get("/api/v1/node").await.ok();
    let mine = nodes.as_array().unwrap().iter().find(|node| node["node_name"] == "spare-name").unwrap();
    let id = text(mine, "node_id").to_owned();
    let set = async |drain: bool| {
        api.post("/api/v1/node/config", &json!({ "node_id": id, "drain_mode": drain })).await.ok();
        api.get(&format!("/api/v1/node?id={id}")).await.ok()[0]["state"].clone()
    };
    assert_eq!(set(true).await, "Drain Mode");
    assert_eq!(set(false).await, "Active");
    let heard = spare.beat(Vec::new()).await;
    let config = heard.config.unwrap();
    assert!(!config.drain_mode && config.version > 1);

    api.delete("/api/v1/node", &json!({ "node_id": id })).await.ok();
    let nodes = api.get("/api/v1/node").await.ok();
    // Its agent takes settings of a later version alone, and still has those of the record that is gone.
    let again = spare.join().await.config.version;
    assert!(again > config.version, "{again} after {}", config.version);
    api.delete("/api/v1/node", &json!({ "node_id": id })).await.ok();
    assert_eq!(nodes.as_array().unwrap().len(), 1, "{nodes}");
    lab.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_keeps_its_last_vminfo_and_says_why() {
    let cloud = Cloud::start().await;
    let template = cloud.template("sonoma", "v1").await;
    let id = cloud.instance(&template).await;
    let node = Node::joined(cloud.api(), "n-1").await;
    let task = node.offered().await;
    let mut vm = node.run(&task).await;
    until_state(cloud.api(), &id, "Started").await;
    vm.phase = VmPhase::Failed;
    vm.message = "the VM stopped answering".into();
    vm.info = None;
    node.report(vm).await;
    let shown = until_state(cloud.api(), &id, "Error").await;
    assert_eq!(shown["message"], "the VM stopped answering");
    assert_eq!(shown["vminfo"]["uuid"], format!("vm-{id}"));
    assert_eq!(shown["node_id"], "n-1");
    cloud.stop().await;
}
