//! What the front does when what is behind it, or the front itself, goes away.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::{
    support::{
        cloud::{Cloud, Plan, SOON, ids},
        eventually::{eventually, never},
        image::Image,
        vms::Vms,
    },
    turn,
};

/// Nothing is under way but parked polls, so the grace is not needed.
const SOON_STOPPED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_held_until_a_controller_returns() {
    let _turn = turn().await;
    let mut cloud = Cloud::start("held", &Plan { controllers: 1, agents: 0, ..Plan::default() }).await;
    let image = Image::write(&cloud.place.path("image"), 8, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;
    cloud.controllers[0].process.kill();
    cloud.upstreams_are_but("down", &["r1"]).await;

    let (read, start) = (cloud.api.clone(), cloud.api.clone());
    let body = json!({ "vmid": template });
    let (read, start, ()) = tokio::join!(
        async move { read.get("/api/v1/vm").await },
        async move { start.post("/api/v1/vm", &body).await },
        async {
            eventually(SOON, "two requests to be held", || async {
                let held = cloud.held("controllers").await?;
                if held == 2 { Ok(()) } else { Err(format!("{held} held")) }
            })
            .await;
            cloud.controllers[0].restart().await;
        }
    );
    assert!(read.is_ok(), "{read}");
    assert_eq!(ids(&start).len(), 1);

    // With nobody coming back it ends in the client's own format, before clients give up.
    cloud.controllers[0].process.kill();
    cloud.upstreams_are_but("down", &["r1"]).await;
    let refused = cloud.api.get("/api/v1/vm").await;
    assert!(refused.is_clean(503), "{refused}");
    assert!(refused.took < Duration::from_secs(5), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_probes_fail_requests_are_tried_anyway() {
    let _turn = turn().await;
    // The servers are well; their probes ask for what no server gives.
    let plan = Plan { agents: 0, health: "path = \"/nobody/serves/this\"\n".into(), ..Plan::default() };
    let cloud = Cloud::start_unproven("panic", &plan).await;
    cloud.upstreams_are("down").await;
    eventually(SOON, "each one to say why", || async {
        let seen = cloud.upstreams().await?;
        if seen.iter().all(|(_, _, evidence)| evidence.contains("404")) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
    let first = cloud.api.get("/api/v1/vm").await;
    assert!(first.is_ok() && first.took < Duration::from_secs(5), "{first}");
    let next = cloud.api.get("/api/v1/vm").await;
    assert!(next.is_ok(), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_fails_no_node_and_no_instance() {
    let _turn = turn().await;
    // So short that all nodes look silent at once: more than may fall silent by themselves.
    let timeouts = "[timeouts]\nnode_active = \"3s\"\ninstance_active = \"3s\"\npoll = \"1s\"\n";
    let plan = Plan { agents: 4, controller: timeouts.into(), ..Plan::default() };
    let mut cloud = Cloud::start("proxykill", &plan).await;
    let vms = Vms::watch(&cloud.place);
    let image = Image::write(&cloud.place.path("image"), 9, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;
    let started = cloud.run(json!({ "vmid": template, "count": 4 })).await;
    for id in &started {
        cloud.reaches(id, &["Started"], SOON).await;
    }

    cloud.proxy.process.kill();
    let direct = cloud.controllers[0].api();
    never(Duration::from_secs(8), "while no node can be heard", || async {
        let list = direct.get("/api/v1/vm").await.ok();
        let failed = list.as_array().into_iter().flatten().find(|vm| vm["vm"]["instance_state"] != "Started");
        failed.map_or(Ok(()), |vm| Err(vm.to_string()))
    })
    .await;
    cloud.proxy.restart().await;
    cloud.nodes_are("Active", 4).await;
    for id in &started {
        assert_eq!(cloud.show(id).await["instance_state"], "Started");
        assert_eq!((vms.of(id).len(), vms.ever(id)), (1, 1), "the same VM runs on");
    }
    let id = cloud.run(json!({ "vmid": template })).await.remove(0);
    cloud.reaches(&id, &["Started"], SOON).await;
    vms.assert_never_two();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_controller_costs_reads_and_starts_nothing() {
    let _turn = turn().await;
    let cloud = Cloud::start("frozen", &Plan { agents: 0, ..Plan::default() }).await;
    let image = Image::write(&cloud.place.path("image"), 10, 1, 1);
    let template = cloud.push(&image, "small", "v1").await;
    cloud.controllers[0].process.freeze();
    let reads = async {
        for _ in 0..20 {
            let list = cloud.api.get("/api/v1/vm").await;
            assert!(list.is_ok() && list.took < Duration::from_secs(5), "{list}");
        }
    };
    let starts = async {
        for n in 0..6 {
            let body = json!({ "vmid": template, "external_id": format!("job/{n}") });
            let start = cloud.api.post("/api/v1/vm", &body).await;
            assert!(start.is_ok() && start.took < Duration::from_secs(10), "{start}");
        }
    };
    tokio::join!(reads, starts);
    cloud.controllers[0].process.thaw();
    cloud.upstreams_are("up").await;
    // What the frozen one was asked first it now does too, and finds done.
    never(Duration::from_secs(1), "after the thaw", || async {
        let jobs = cloud.list().await.len();
        if jobs == 6 { Ok(()) } else { Err(format!("{jobs} instances of 6 starts")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_on_reload_is_refused_and_the_old_one_serves() {
    let _turn = turn().await;
    let cloud = Cloud::start("reload", &Plan { agents: 0, ..Plan::default() }).await;
    let path = cloud.place.path("proxy.toml");
    let good = std::fs::read_to_string(&path).expect("the proxy's config");

    cloud.place.write("proxy.toml", &good.replace("kind = \"controller\"", "kind = \"controler\""));
    cloud.proxy.process.signal(Signal::HUP);
    eventually(SOON, "the refusal in the log", || async {
        let log = cloud.proxy.process.log();
        if log.contains("controler") && log.contains("proxy.toml") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(cloud.api.get("/api/v1/vm").await.is_ok(), "the old one serves");

    let table = "[service.controllers]\n";
    cloud.place.write("proxy.toml", &good.replace(table, &format!("{table}maintenance = true\n")));
    cloud.proxy.process.signal(Signal::HUP);
    let answer = eventually(SOON, "the new config to act", || async {
        let answer = cloud.api.get("/api/v1/vm").await;
        if answer.status == 503 { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await;
    assert!(answer.is_clean(503) && answer.header("retry-after").is_some(), "{answer}");

    cloud.place.write("proxy.toml", &good);
    cloud.proxy.process.signal(Signal::HUP);
    eventually(SOON, "the first config to act again", || async {
        let answer = cloud.api.get("/api/v1/vm").await;
        if answer.is_ok() { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_stops_soon_when_asked() {
    let _turn = turn().await;
    let mut cloud = Cloud::start("stop", &Plan::default()).await;
    // Polls are parked and connections kept: none of that may hold up a stop.
    for agent in &mut cloud.agents {
        assert_eq!(agent.stop(SOON_STOPPED).await.code(), Some(0), "{}", agent.log());
    }
    let servers = [&mut cloud.proxy, &mut cloud.registry].into_iter().chain(&mut cloud.controllers);
    for server in servers {
        let status = server.process.stop(SOON_STOPPED).await;
        assert_eq!(status.code(), Some(0), "{}: {}", server.process.name(), server.process.log());
    }
}
