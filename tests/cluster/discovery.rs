//! Servers are found by their membership in etcd: they come, they go, they lie, and etcd is away.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use switchyard::store::{Store, Txn, etcd::EtcdStore};
use tokio::task::JoinSet;

use crate::{
    controllers::{Controller, Manner, Shared},
    support::{
        cloud::{Cloud, Plan, SOON, Server, registry},
        etcd::Etcd,
        eventually::{eventually, never},
        place::Place,
        process::Process,
    },
    turn,
};

/// A proxy that is told no upstream, only where to look for them.
async fn finder(cloud: &Cloud) -> (Server, std::net::SocketAddr) {
    let (admin, front, file) =
        (cloud.place.address(), cloud.place.address(), cloud.place.path("finder.address"));
    let members: Vec<String> = cloud.etcd.urls().iter().map(|url| format!("\"{url}\"")).collect();
    let discovery = format!("discovery = {{ etcd = [{}] }}", members.join(", "));
    let health = "interval = \"500ms\"\ntimeout = \"500ms\"";
    let text = format!(
        "[proxy]\nthreads = 1\naddress_file = \"{}\"\n[admin]\nlisten = \"{admin}\"\n[log]\naccess = \"off\"\n\
         [shutdown]\ngrace = \"5s\"\n[[listener]]\nbind = [\"{front}\"]\nservice = \"controllers\"\n\
         [service.controllers]\n{discovery}\n[service.controllers.health]\n{health}\n\
         [service.registries]\nstorage = \"shared\"\n{discovery}\n[service.registries.health]\n{health}\n",
        file.display()
    );
    let config = cloud.place.write("finder.toml", &text);
    let process = Process::start(&cloud.place, "finder", &["proxy", "-c", &config.display().to_string()]);
    let mut server = Server::new(process, admin, file);
    server.up().await;
    (server, front)
}

/// Name and health of each upstream that the proxy knows, and whether etcd can be asked.
async fn seen(finder: &Server) -> Result<(Vec<String>, bool), String> {
    let view = finder.api().try_call("GET", "/admin/v1/upstreams", None).await?.json();
    let services: Vec<&Value> = view["services"].as_array().into_iter().flatten().collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let upstreams = services.iter().flat_map(|s| s["upstreams"].as_array()).flatten();
    let names = upstreams.map(|u| format!("{} {}", text(&u["name"]), text(&u["health"]))).collect();
    Ok((names, services.iter().all(|s| s["discovery"]["well"] == true)))
}

async fn until(finder: &Server, wanted: &[&str]) {
    eventually(SOON, &format!("{wanted:?}"), || async {
        let (names, _) = seen(finder).await?;
        if names == wanted { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_found_and_an_outage_of_etcd_takes_nobody_away() {
    let _turn = turn().await;
    let plan = Plan { etcd: 3, agents: 0, ..Plan::default() };
    let mut cloud = Cloud::start_without_agents("discovery", &plan).await;
    let (mut finder, front) = finder(&cloud).await;
    until(&finder, &["c1 up", "c2 up"]).await;
    let api = crate::support::api::Api::new(front);
    assert!(api.get("/api/v1/vm").await.is_ok());

    // A registry makes itself known when it is told where.
    let members: Vec<String> = cloud.etcd.urls().iter().map(|url| format!("\"{url}\"")).collect();
    let more = format!("[limits]\nreserve = \"16MiB\"\n[members]\netcd = [{}]\n", members.join(", "));
    let mut other = registry(&cloud.place, "r9", &more);
    other.up().await;
    until(&finder, &["c1 up", "c2 up", "r9 up"]).await;

    // What is no member is not believed, and said so.
    let store = EtcdStore::connect(&cloud.etcd.urls(), Duration::from_secs(3)).await.expect("a store");
    let key = |name: &str| format!("/switchyard/main/members/controller/{name}");
    let lie = br#"{"v":1,"w":"","address":"0.0.0.0:1","version":"1","run":"x"}"#;
    let loops = format!(r#"{{"v":1,"w":"","address":"{front}","version":"1","run":"x"}}"#);
    let stranger =
        format!(r#"{{"v":1,"w":"","address":"{}","version":"1","run":"x"}}"#, cloud.place.address());
    let txn = Txn::new().put(key("junk"), &b"\xff\xfe"[..]).put(key("lie"), &lie[..]).put(key("me"), loops);
    store.txn(txn.put(key("stranger"), stranger)).await.expect("a write");
    until(&finder, &["c1 up", "c2 up", "stranger down", "r9 up"]).await;
    let log = finder.process.log();
    for word in ["a member is not believed", "server.advertise", "it is a listener of this proxy"] {
        assert!(log.contains(word), "{word}: {log}");
    }
    for name in ["junk", "lie", "me", "stranger"] {
        store.txn(Txn::new().delete(key(name))).await.expect("a delete");
    }
    until(&finder, &["c1 up", "c2 up", "r9 up"]).await;

    // Without a quorum for longer than any lease: everybody stays, and is served from.
    cloud.etcd.kill(1);
    cloud.etcd.kill(2);
    eventually(SOON, "the proxy to notice", || async {
        let (_, well) = seen(&finder).await?;
        if well { Err("etcd is well".to_owned()) } else { Ok(()) }
    })
    .await;
    let all = ["c1 up", "c2 up", "r9 up"];
    never(Duration::from_secs(14), "while etcd has no quorum", || async {
        let (names, _) = seen(&finder).await?;
        let list = api.get("/api/v1/vm").await;
        if names == all && list.is_ok() { Ok(()) } else { Err(format!("{names:?} {list}")) }
    })
    .await;
    for member in [1, 2] {
        cloud.etcd.spawn(member);
    }
    for member in [1, 2] {
        cloud.etcd.healthy_again(member).await;
    }
    // And it is back without anybody having gone meanwhile.
    eventually(SOON, "etcd to be asked again", || async {
        let (names, well) = seen(&finder).await?;
        assert_eq!(names, all);
        if well { Ok(()) } else { Err("etcd is not asked again yet".to_owned()) }
    })
    .await;
    never(Duration::from_secs(8), "after the outage", || async {
        let (names, _) = seen(&finder).await?;
        if names == all { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;

    // One that dies is gone with its lease, and found again where it comes back.
    cloud.controllers[1].process.kill();
    until(&finder, &["c1 up", "r9 up"]).await;
    assert!(api.get("/api/v1/vm").await.is_ok());
    assert!(!metrics(&finder).await.contains(r#"upstream="c2""#), "nothing is kept of who is gone");
    cloud.controllers[1].restart().await;
    until(&finder, &["c1 up", "c2 up", "r9 up"]).await;
    finder.process.stop(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_goes_on_when_a_member_makes_itself_known_in_etcd() {
    let _turn = turn().await;
    let place = Place::new("held-for-a-member");
    let etcd = Etcd::start(1).await;
    let (admin, front, file) = (place.address(), place.address(), place.path("finder.address"));
    let config = format!(
        "[proxy]\nthreads = 1\naddress_file = \"{}\"\n[admin]\nlisten = \"{admin}\"\n[log]\naccess = \"off\"\n\
         [shutdown]\ngrace = \"5s\"\n[[listener]]\nbind = [\"{front}\"]\nservice = \"controllers\"\n\
         [service.controllers]\nhold = {{ write = \"7s\" }}\ndiscovery = {{ etcd = [\"{}\"] }}\n",
        file.display(),
        etcd.url(0)
    );
    let config = place.write("finder.toml", &config);
    let process = Process::start(&place, "finder", &["proxy", "-c", &config.display().to_string()]);
    let mut finder = Server::new(process, admin, file);
    finder.up().await;

    // Nobody is known yet.
    let api = crate::support::api::Api::new(front);
    let mut asked = JoinSet::new();
    asked.spawn(async move { api.delete("/api/v1/vm", &serde_json::json!({ "id": "x" })).await });
    eventually(SOON, "it is held", || async {
        let view = finder.api().try_call("GET", "/admin/v1/upstreams", None).await?.json();
        match view["services"][0]["held"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(view.to_string()),
        }
    })
    .await;
    assert_eq!(seen(&finder).await.expect("a view").0, [""; 0]);
    let controller = Controller::at(place.address(), &Arc::<Shared>::default(), Manner::default());
    let store = EtcdStore::connect(&etcd.urls(), Duration::from_secs(3)).await.expect("a store");
    let member = format!(r#"{{"v":1,"w":"","address":"{}","version":"1","run":"x"}}"#, controller.address());
    let key = "/switchyard/main/members/controller/c1".to_owned();
    store.txn(Txn::new().put(key, member)).await.expect("a write");
    let answer = asked.join_next().await.expect("one call").expect("a call that ends");
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(seen(&finder).await.expect("a view").0, ["c1 up"]);
    finder.process.stop(SOON).await;
}

async fn metrics(finder: &Server) -> String {
    finder
        .api()
        .http()
        .get(format!("http://{}/metrics", finder.address))
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("a text")
}
