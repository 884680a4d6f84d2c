//! What groups of callers may do: `docs/permissions.md`, over real sockets, at two controllers.

use serde_json::{Value, json};
use switchyard::{
    config::auth::{Auth, Authorization},
    wire::agent::VmPhase,
};

use crate::{
    apikeys::{made, root, session},
    auth::{TOKEN, asked, basic, with},
    cloud::{Cloud, PATIENCE, Plan},
    node::{Node, parked},
    push,
    support::{
        api::{Answer, Api},
        eventually::eventually,
    },
};

/// As the vendor's samples spell it.
const PERMISSION: &str = "/admin/v1/api/permission";

const GROUPS: &str = "/switchyard/v1/permission-groups";

async fn cloud() -> Cloud {
    with_authorization(Authorization::Groups).await
}

async fn with_authorization(authorization: Authorization) -> Cloud {
    let auth = Auth { authorization, ..asked() };
    Cloud::planned(Plan { auth, controllers: 2, ..Plan::default() }).await
}

/// Says what a group may do.
async fn may(api: &Api, group: &str, permissions: &[&str]) {
    let answer = root(api, "PUT", &format!("{GROUPS}/{group}"), &json!({ "permissions": permissions })).await;
    assert_eq!(answer.status, 200, "{answer}");
}

#[track_caller]
fn denied(answer: &Answer, lacks: &str) {
    assert_eq!(answer.status, 403, "{answer}");
    let Value::String(why) = &answer.json()["message"] else { panic!("{answer}") };
    assert!(why.starts_with("Permission denied: ") && why.contains(lacks), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_may_do_what_the_permissions_of_all_their_groups_say_and_nothing_else() {
    let cloud = cloud().await;
    let [one, other] = [&cloud.apis[0], &cloud.apis[1]];
    let holder = made(one, "ci-bot", 3600, &["team a-b", "team-c"]).await;
    let bearer = session(one, other, "ci-bot", &holder).await;
    let call = async |api: &Api, method: &str, path: &str| with(api, method, path, "{}", &bearer).await;

    // Without any permission: what needs none, what is not there, and nothing else.
    assert_eq!(call(one, "GET", "/api/v1/status").await.status, 200);
    assert_eq!(call(one, "GET", "/nothing").await.status, 404);
    denied(&call(one, "GET", "/api/v1/vm").await, "`list_vms`");
    denied(&call(one, "POST", "/api/v1/vm").await, "`start_vm`");
    denied(&call(one, "PATCH", "/api/v1/vm").await, "the root token");
    denied(&call(one, "GET", GROUPS).await, "`view_prmission_groups`");

    // Given at one controller, it is good at the other in the same moment. Groups add up; the key's own name is one.
    may(one, "team%20a-b", &["list_vms"]).await;
    assert_eq!(call(other, "GET", "/api/v1/vm").await.status, 200);
    assert_eq!(call(other, "GET", "/switchyard/v1/instances").await.status, 200);
    denied(&call(other, "GET", "/api/v1/node").await, "`list_nodes`");
    may(other, "ci-bot", &["list_nodes", "start_vm"]).await;
    assert_eq!(call(one, "GET", "/api/v1/node").await.status, 200);
    assert_eq!(call(one, "POST", "/api/v1/vm").await.status, 400, "it got as far as its body");
    denied(&call(one, "GET", "/switchyard/v1/watch").await, "`view_logs`");

    // All of them, and still no keys: who could make keys could make some of any group.
    let all = root(one, "GET", "/switchyard/v1/permissions", &json!({})).await.json();
    let names: Vec<&str> = all.as_object().unwrap().keys().map(String::as_str).collect();
    may(one, "team-c", &names).await;
    assert_eq!(call(other, "GET", "/api/v1/apikey").await.status, 200);
    denied(&call(other, "POST", "/api/v1/apikey").await, "the root token");
    assert_eq!(call(other, "GET", GROUPS).await.json().as_array().unwrap().len(), 3);

    let watch = one.http().get(format!("{}/switchyard/v1/watch", one.base()));
    let watch = watch.header("authorization", &bearer).send().await.unwrap();
    assert_eq!(watch.status(), 200);

    // What is taken away is gone for running sessions, at every controller.
    for (api, group) in [(one, "team-c"), (other, "ci-bot")] {
        let gone = root(api, "DELETE", &format!("{GROUPS}/{group}"), &json!({})).await;
        assert_eq!((gone.status, &gone.json()["name"]), (200, &json!(group)), "{gone}");
        let again = root(api, "DELETE", &format!("{GROUPS}/{group}"), &json!({})).await;
        assert_eq!(again.status, 404, "{again}");
    }
    let told = tokio::time::timeout(PATIENCE, watch.text()).await.expect("the watch ends").unwrap();
    assert!(told.contains("\"why\":\"unauthorized\""), "{told}");
    for api in [one, other] {
        eventually(PATIENCE, "what is left is what the one group has", || async {
            let nodes = call(api, "GET", "/api/v1/node").await;
            if nodes.status == 403 { Ok(()) } else { Err(nodes) }
        })
        .await;
        assert_eq!(call(api, "GET", "/api/v1/vm").await.status, 200);
    }
    let counted = one.get("/metrics").await.text;
    assert!(counted.contains("switchyard_controller_refused_total{reason=\"forbidden\"}"), "{counted}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_permission_is_refused_and_a_group_may_have_none() {
    let cloud = cloud().await;
    let api = cloud.api();
    let put = async |group: &str, body: Value| root(api, "PUT", &format!("{GROUPS}/{group}"), &body).await;
    let unknown = put("team", json!({ "permissions": ["list_vms", "list_vm"] })).await;
    assert_eq!(unknown.status, 400, "{unknown}");
    assert!(unknown.text.contains("there is no `list_vm`"), "{unknown}");
    for (bad, says) in [
        (json!({}), "permissions is required"),
        (json!({ "permissions": 7 }), "`permissions`: "),
        (json!({ "permissions": [7] }), "`permissions`: "),
        (json!([]), "not a JSON object"),
    ] {
        let refused = put("team", bad).await;
        assert!(refused.status == 400 && refused.text.contains(says), "{refused}");
    }
    for name in ["a%0Ab", &"x".repeat(257), "a%2Fb", "a%5Cb"] {
        let refused = put(name, json!({ "permissions": [] })).await;
        assert!(refused.status == 400 && refused.text.contains("1 to 256 bytes"), "{refused}");
    }
    let none = put("team", json!({ "permissions": [] })).await;
    assert_eq!(none.json(), json!({ "name": "team", "permissions": [] }));
    let listed = root(api, "GET", GROUPS, &json!({})).await;
    assert_eq!(listed.json(), json!([{ "name": "team", "permissions": [] }]));
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_needs_one_permission_and_gets_on_with_it() {
    let cloud = cloud().await;
    let api = cloud.api();
    let holder = made(api, "node", 3600, &["nodes"]).await;
    let bearer = session(api, api, "node", &holder).await;
    let poll = "/switchyard/v1/tasks?node=n1&session=s";
    denied(&with(api, "GET", poll, "", &bearer).await, "`node_queue`");
    denied(&with(api, "POST", "/switchyard/v1/join", "{}", &bearer).await, "`node_queue`");
    may(api, "nodes", &["node_queue"]).await;
    let joins = with(api, "POST", "/switchyard/v1/join", "{}", &bearer).await;
    assert_eq!(joins.status, 400, "it got as far as its body: {joins}");
    denied(&with(api, "GET", "/api/v1/vm", "", &bearer).await, "`list_vms`");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_switch_whoever_comes_in_may_do_everything_but_give_itself_something_for_later() {
    let cloud = Cloud::planned(Plan { auth: asked(), ..Plan::default() }).await;
    let api = cloud.api();
    let holder = made(api, "ci-bot", 3600, &[]).await;
    let bearer = session(api, api, "ci-bot", &holder).await;
    assert_eq!(with(api, "GET", "/api/v1/vm", "", &bearer).await.status, 200);
    for method in ["PUT", "DELETE"] {
        let changed = with(api, method, &format!("{GROUPS}/x"), "{\"permissions\":[]}", &bearer).await;
        denied(&changed, "the root token");
    }
    may(api, "ci-bot", &["list_vms"]).await;
    cloud.stop().await;
}

/// Whoever holds a new key of these groups, at this controller.
async fn caller(api: &Api, id: &str, groups: &[&str]) -> Api {
    let holder = made(api, id, 3600, groups).await;
    api.showing(&session(api, api, id, &holder).await)
}

/// Gives a group these resources.
async fn owns(api: &Api, group: &str, resources: &Value) {
    let saved = root(api, "POST", &format!("{PERMISSION}/group/{group}/resources"), resources).await;
    assert_eq!(saved.text, "{\"status\":\"OK\",\"message\":\"Saved\"}\n", "{saved}");
}

fn resource(kind: &str, id: &str, permissions: &[&str]) -> Value {
    json!({ "id": id, "id_type": "id", "type": kind, "permissions": permissions })
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_templates_are_whose_they_are() {
    let cloud = with_authorization(Authorization::Resources).await;
    let api = cloud.api();
    may(api, "nodes", &["node_queue"]).await;
    let team = [
        "list_vms",
        "start_vm",
        "list_nodes",
        "registry_list",
        "change_node_config",
        "save_image",
        "delete_node",
    ];
    may(api, "team-a", &team).await;
    may(api, "team-b", &team).await;
    let (a, b) = (caller(api, "a", &["team-a"]).await, caller(api, "b", &["team-b"]).await);
    let root_api = api.showing(&basic("root", TOKEN));

    let registry = cloud.registry.replacen("http://", "http://root:r00t%3At%25k%22en@", 1);
    push::image(&registry, "mac", "v1", &[b"x"]).await;
    let list = root_api.get("/api/v1/registry/vm").await.ok();
    let template = list[0]["id"].as_str().unwrap().to_owned();

    // One node's agent has a credential of team a, the other one's has not.
    let of_a = Node::joined(&caller(api, "na", &["nodes", "team-a"]).await, "node-a").await;
    let shared = Node::joined(&caller(api, "nb", &["nodes"]).await, "node-b").await;

    // A start is one of a group, of the caller's own, and of a template that is the group's.
    let start = async |by: &Api, more: Value| {
        let mut ask = json!({ "vmid": template });
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        by.post("/api/v1/vm", &ask).await
    };
    for (more, status, says) in [
        (json!({}), 400, "group is required"),
        (json!({ "group_id": "lab" }), 400, "there are no groups of nodes"),
        (json!({ "group": "team-a", "group_id": "lab" }), 400, "exclude each other"),
        (json!({ "group": "team-b" }), 403, "`team-b` is none of your groups"),
        (json!({ "group": "team-a" }), 403, "no resource of group `team-a` with `pull`"),
    ] {
        let refused = start(&a, more).await;
        assert!(refused.is_clean(status) && refused.failure().unwrap().contains(says), "{refused}");
    }
    assert_eq!(start(&root_api, json!({ "group": "team-a" })).await.status, 403);
    owns(api, "team-a", &json!([resource("template", &template, &["list", "pull"])])).await;
    let first = start(&a, json!({ "group": "team-a" })).await.ok();
    let refused = start(&b, json!({ "group": "team-b" })).await;
    denied(&refused, "`pull`");

    // It goes to the node whose agent is of the group, and not to the other one.
    assert!(shared.poll(1, 1).await.start.is_none());
    let task = of_a.offered().await;
    assert_eq!(json!([task.instance]), first);
    of_a.run(&task).await;
    of_a.beat(vec![of_a.vm(&task, VmPhase::Running)]).await;

    // A node that becomes a resource of the group gets what waits for one, at once.
    let second = start(&a, json!({ "group": "team-a" })).await.ok();
    let why = a.get(&format!("/switchyard/v1/instances/{}/why", second[0].as_str().unwrap())).await.text;
    assert!(!why.contains("node-b"), "it may not know of it: {why}");
    let by_root =
        root_api.get(&format!("/switchyard/v1/instances/{}/why", second[0].as_str().unwrap())).await.text;
    assert!(by_root.contains("no resource of group `team-a` with `create_instance`"), "{by_root}");
    // What waits for one group waits for other nodes than what waits for another, and is told so beside it.
    owns(api, "team-b", &json!([resource("template", &template, &["list", "pull"])])).await;
    let of_b = start(&b, json!({ "group": "team-b" })).await.ok();
    let all = root_api.get("/api/v1/vm").await.ok();
    let said = |ids: &Value| {
        let mut all = all.as_array().unwrap().iter();
        all.find(|one| one["instance_id"] == ids[0]).unwrap()["vm"]["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(said(&second), "a node will take it soon");
    assert_eq!(said(&of_b), "no node that could run it serves group `team-b` of callers");
    root_api.delete("/api/v1/vm", &json!({ "id": of_b[0] })).await.ok();
    owns(api, "team-b", &json!([])).await;
    let all = [
        resource("template", &template, &["list", "pull"]),
        resource("node", "node-b", &["list", "create_instance"]),
    ];
    let given = async {
        parked(api, 1).await;
        owns(api, "team-a", &json!(all)).await;
    };
    let (task, ()) = tokio::join!(shared.offered(), given);
    assert_eq!(json!([task.instance]), second);
    let listed = root_api.get(&format!("{PERMISSION}/group/team-a/resources")).await.ok();
    assert_eq!(
        listed,
        json!([
            resource("node", "node-b", &["create_instance", "list"]),
            resource("template", &template, &["list", "pull"]),
        ])
    );

    // Callers see what is theirs to see, and change nothing else.
    let ids = async |by: &Api, path: &str, key: &str| {
        let all = by.get(path).await.ok();
        all.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&a, "/api/v1/node", "node_id").await, ["node-b"]);
    assert_eq!(ids(&b, "/api/v1/node", "node_id").await, [""; 0]);
    assert_eq!(ids(&root_api, "/api/v1/node", "node_id").await.len(), 2);
    assert_eq!(ids(&a, "/api/v1/registry/vm", "id").await, std::slice::from_ref(&template));
    assert_eq!(ids(&b, "/api/v1/registry/vm?apiVer=v1", "id").await, [""; 0]);
    assert_eq!(a.get("/api/v1/node?id=node-a").await.failure().as_deref(), Some("Not found"));
    assert_eq!(a.get("/switchyard/v1/nodes/node-a/why").await.status, 404);
    assert_eq!(
        b.get(&format!("/api/v1/registry/vm?id={template}")).await.failure().as_deref(),
        Some("Not found")
    );
    let page = a.get("/switchyard/v1/nodes").await.json();
    assert_eq!(page["nodes"].as_array().unwrap().len(), 1, "{page}");
    denied(
        &a.post("/api/v1/node/config", &json!({ "node_id": "node-b", "drain_mode": true })).await,
        "`change_config`",
    );
    denied(&a.post("/switchyard/v1/nodes/confirm-absence", &json!({})).await, "the root token");
    denied(&a.delete("/api/v1/node", &json!({ "node_id": "node-a" })).await, "`remove`");
    let save = json!({ "id": first[0], "tag": "v2", "new_template_name": "mac2" });
    denied(&b.post("/api/v1/image", &save).await, "none of your groups");
    let onto = json!({ "id": first[0], "tag": "v2", "new_template_name": "mac" });
    denied(&a.post("/api/v1/image", &onto).await, "`save_image`");
    let reverts =
        json!({ "id": first[0], "tag": "v2", "target_vm_id": template, "revert_before_push": true });
    denied(&a.post("/api/v1/image", &reverts).await, "`registry_delete`");
    let saves = a.post("/api/v1/image", &save).await;
    assert!(saves.is_ok(), "{saves}");

    // Groups of nodes are no more; the catalogue says what there is instead.
    let group = root_api.post("/api/v1/group", &json!({ "name": "lab" })).await;
    assert!(group.is_clean(409) && group.failure().unwrap().contains("resource management"), "{group}");
    for path in [PERMISSION, "/admin/api/v1/permission"] {
        let offered = root_api.get(&format!("{path}/resources/permissions")).await.ok();
        assert_eq!(
            (&offered[0]["resource_type"], &offered[1]["resource_type"]),
            (&json!("node"), &json!("template"))
        );
        assert_eq!(offered[0]["permissions"].as_object().unwrap().len(), 7);
        assert!(offered[0]["permissions"]["create_instance"]["label"].is_string(), "{offered}");
    }
    let wrong = root(
        api,
        "POST",
        &format!("{PERMISSION}/group/x/resources"),
        &json!([resource("node", "n", &["pull"])]),
    )
    .await;
    assert!(wrong.status == 400 && wrong.text.contains("there is no `pull` of a node"), "{wrong}");
    let wrong = root(api, "POST", &format!("{PERMISSION}/group/x/resources"), &json!({ "id": "n" })).await;
    assert!(wrong.status == 400 && wrong.text.contains("the body is a list in JSON"), "{wrong}");
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_resource_management_nothing_is_anybodys() {
    let cloud = cloud().await;
    let api = cloud.api();
    for (method, path) in
        [("GET", "resources/permissions"), ("GET", "group/x/resources"), ("POST", "group/x/resources")]
    {
        let off = root(api, method, &format!("{PERMISSION}/{path}"), &json!([])).await;
        assert!(off.status == 404 && off.text.contains("`resource_management`"), "{off}");
    }
    cloud.stop().await;
}
