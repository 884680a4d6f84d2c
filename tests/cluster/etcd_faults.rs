//! An etcd of three members of which each goes wrong in every way there is, one after the other, while clients start and
//! terminate: no instance on two nodes, no acknowledged start lost, none made twice by a repeated key, states only along
//! their edges, and everything settles.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use switchyard::store::{Consistency, Store, Txn, etcd::EtcdStore};
use tokio::task::JoinSet;

use crate::{
    support::{
        api::Api,
        cloud::{Cloud, Plan, ids},
        eventually::eventually,
        image::Image,
        lives::{self, Lives},
        network::{self, Side},
        scale::scaled,
        seed,
        vms::Vms,
    },
    turn,
};

const CLIENTS: usize = 4;
const SETTLED: Duration = Duration::from_secs(60);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Paused,
    /// The leader and the other members do not reach each other; clients reach all of them.
    Partitioned,
    /// The leader is heard by nobody and hears all.
    Mute,
    /// The leader hears nobody and is heard by all: it goes on to believe for a while.
    Deaf,
    /// The leader is cut off from members and clients alike.
    Alone,
    Compacted,
    Defragmented,
    Full,
}

const FAULTS: [Fault; 9] = [
    Fault::Killed,
    Fault::Paused,
    Fault::Partitioned,
    Fault::Mute,
    Fault::Deaf,
    Fault::Alone,
    Fault::Compacted,
    Fault::Defragmented,
    Fault::Full,
];

/// What clients were told: each key's instance, and which of them were to end.
#[derive(Debug, Default)]
struct Told {
    starts: BTreeMap<String, String>,
    ended: BTreeSet<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_etcd_member_does_no_start_is_lost_doubled_or_on_two_nodes() {
    let this = "etcd_faults::whatever_an_etcd_member_does_no_start_is_lost_doubled_or_on_two_nodes";
    let _turn = turn().await;
    if !network::inside("faults of etcd, partitions among them", this) {
        return;
    }
    lives::check();
    let mut chance = seed::chance();
    let timeouts = "[timeouts]\nnode_active = \"5s\"\ninstance_active = \"5s\"\npoll = \"1s\"\nclaim = \"1s\"\n\
                    instance_visible = \"200ms\"\n";
    let plan = Plan {
        etcd: 3,
        etcd_more: vec!["--quota-backend-bytes=67108864"],
        apart: true,
        agents: 3,
        capacity: 100,
        controller: timeouts.into(),
        ..Plan::default()
    };
    let mut cloud = Cloud::start("etcd-faults", &plan).await;
    let (vms, lives) = (Vms::watch(&cloud.place), Lives::watch(&cloud.etcd.urls()).await);
    let image = Image::write(&cloud.place.path("image"), 5, 2, 1);
    let template = cloud.push(&image, "small", "v1").await;

    let (told, over) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let mine = StdRng::seed_from_u64(chance.random());
        clients.spawn(client(cloud.api.clone(), template.clone(), n, mine, told.clone(), over.clone()));
    }
    for _ in 0..scaled(1, 10) {
        for fault in FAULTS {
            let before = lives.changes();
            strike(&mut cloud, fault, &template, &mut chance).await;
            // Each is seen by starts and ends that were under way.
            eventually(SETTLED, &format!("work goes on after {fault:?}"), || async {
                let now = lives.changes();
                if now > before + 8 { Ok(()) } else { Err(format!("{} changes", now - before)) }
            })
            .await;
        }
    }
    over.store(true, Ordering::Relaxed);
    clients.join_all().await;
    cloud.upstreams_are("up").await;
    let Told { starts, ended } = std::mem::take(&mut *told.lock().expect("no holder panics"));
    assert!(starts.len() > 3 * FAULTS.len(), "{} starts", starts.len());

    // A repeated key makes nothing new, however its first answer was lost.
    for (key, id) in &starts {
        assert_eq!(start(&cloud.api, &template, key).await, *id, "{key}");
    }
    let living: BTreeSet<String> = starts.values().filter(|id| !ended.contains(*id)).cloned().collect();
    settles(&cloud, &vms, &living).await;

    vms.assert_never_two();
    lives.assert_well();
    println!("{} starts, {} ended, {} changes", starts.len(), ended.len(), lives.changes());
}

/// Just those that live are shown, as started, and run.
async fn settles(cloud: &Cloud, vms: &Vms, living: &BTreeSet<String>) {
    eventually(SETTLED, "everything to settle", || async {
        let list = cloud.api.try_call("GET", "/api/v1/vm", None).await?;
        if !list.is_ok() {
            return Err(list.to_string());
        }
        let list = list.ok();
        let shown: BTreeMap<String, String> = list
            .as_array()
            .into_iter()
            .flatten()
            .map(|vm| {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let state = text(&vm["vm"]["instance_state"]);
                // Why one is not as it should be.
                let why = text(&vm["vm"]["message"]);
                (text(&vm["instance_id"]), if state == "Started" { state } else { format!("{state}: {why}") })
            })
            .collect();
        let started = shown.values().all(|state| state == "Started");
        let same = shown.keys().eq(living.iter());
        if started && same && vms.running() == *living {
            Ok(())
        } else {
            let odd: Vec<_> =
                shown.iter().filter(|(id, state)| *state != "Started" || !living.contains(*id)).collect();
            let lost: Vec<_> = living.iter().filter(|id| !shown.contains_key(*id)).collect();
            Err(format!("odd: {odd:?}; not shown: {lost:?}; {} run of {}", vms.running().len(), living.len()))
        }
    })
    .await;
}

async fn client(
    api: Api,
    template: String,
    n: usize,
    mut chance: StdRng,
    told: Arc<Mutex<Told>>,
    over: Arc<AtomicBool>,
) {
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("faults-{n}-{number}");
        let id = start(&api, &template, &key).await;
        told.lock().expect("no holder panics").starts.insert(key, id.clone());
        tokio::time::sleep(Duration::from_millis(chance.random_range(50..400))).await;
        if chance.random_bool(0.8) {
            terminate(&api, &id).await;
            told.lock().expect("no holder panics").ended.insert(id);
        }
        tokio::time::sleep(Duration::from_millis(chance.random_range(50..300))).await;
    }
}

/// Under its key, repeated until it is answered with a success.
async fn start(api: &Api, template: &str, key: &str) -> String {
    let body = json!({ "vmid": template, "tag": "v1" });
    eventually(SETTLED, &format!("{key} to be taken"), || async {
        let answer = api.call_with("POST", "/api/v1/vm", Some(&body), &[("idempotency-key", key)]).await?;
        if answer.is_ok() { Ok(ids(&answer).remove(0)) } else { Err(answer.to_string()) }
    })
    .await
}

/// Repeated until it is answered with a success, or the instance is gone: the one before was done.
async fn terminate(api: &Api, id: &str) {
    eventually(SETTLED, &format!("the end of {id} to be taken"), || async {
        let answer = api.try_call("DELETE", "/api/v1/vm", Some(&json!({ "id": id }))).await?;
        let gone = answer.failure().is_some_and(|said| said == "Not found");
        if answer.is_ok() || gone { Ok(()) } else { Err(answer.to_string()) }
    })
    .await;
}

/// One fault, and its end.
async fn strike(cloud: &mut Cloud, fault: Fault, template: &str, chance: &mut StdRng) {
    let lasts = Duration::from_millis(chance.random_range(1500..3000));
    let leader = cloud.etcd.leader().await;
    let store = EtcdStore::connect(&cloud.etcd.urls(), Duration::from_secs(4)).await.expect("a client");
    match fault {
        Fault::Killed => {
            cloud.etcd.kill(leader);
            tokio::time::sleep(lasts).await;
            cloud.etcd.restart(leader).await;
        }
        Fault::Paused => {
            cloud.etcd.freeze(leader);
            tokio::time::sleep(lasts).await;
            cloud.etcd.thaw(leader);
            cloud.etcd.healthy_again(leader).await;
        }
        Fault::Partitioned | Fault::Mute | Fault::Deaf | Fault::Alone => {
            let (network, it) = (cloud.etcd.network(), Side::Machine(leader));
            for other in network.sides().filter(|side| *side != it) {
                if other == Side::Here && fault != Fault::Alone {
                    continue;
                }
                if fault != Fault::Deaf {
                    network.cut(it, other);
                }
                if fault != Fault::Mute {
                    network.cut(other, it);
                }
            }
            // Else nothing was cut.
            cloud.etcd.another_leads(leader).await;
            tokio::time::sleep(lasts / 2).await;
            cloud.etcd.network().heal();
            cloud.etcd.healthy_again(leader).await;
        }
        Fault::Compacted => {
            for _ in 0..5 {
                let newest = store
                    .get("/switchyard/main/head", Consistency::Linearizable)
                    .await
                    .expect("a read")
                    .revision;
                // What watches have been told for a moment: theirs is not the newest one, either.
                tokio::time::sleep(Duration::from_millis(200)).await;
                store.compact(newest).await.expect("a compaction");
            }
        }
        Fault::Defragmented => {
            for standing in store.standing().await {
                store.defragment(&standing.member).await.expect("a defragmentation");
            }
        }
        Fault::Full => {
            let value = vec![b'x'; 250 * 1024];
            let mut key = 0;
            // Until it refuses: from then on nothing can be started, and everything says so.
            while store.txn(Txn::new().put(format!("/large/{key:04}"), value.clone())).await.is_ok() {
                key += 1;
                assert!(key < 2000, "a quota of 64 MiB never binds");
            }
            let refused = cloud.controllers[0].api().post("/api/v1/vm", &json!({ "vmid": template })).await;
            assert!(refused.is_clean(503) && refused.header("retry-after").is_some(), "{refused}");
            tokio::time::sleep(lasts / 2).await;
            make_room(cloud, &store).await;
        }
    }
}

/// As an operator does it.
async fn make_room(cloud: &Cloud, store: &EtcdStore) {
    let op = switchyard::store::Op::DeleteRange { start: "/large/".into(), end: "/large0".into() };
    store.txn(Txn { then: vec![op], ..Txn::new() }).await.expect("deletes are not refused");
    let newest =
        store.get("/switchyard/main/head", Consistency::Linearizable).await.expect("a read").revision;
    tokio::time::sleep(Duration::from_millis(200)).await;
    store.compact(newest).await.expect("a compaction");
    for standing in store.standing().await {
        store.defragment(&standing.member).await.expect("a defragmentation");
    }
    for standing in store.standing().await {
        for (id, _) in standing.said.expect("it answers").alarms {
            let body = json!({ "action": "DEACTIVATE", "memberID": id.to_string(), "alarm": "NOSPACE" });
            cloud.etcd.call(0, "maintenance/alarm", body, None).await;
        }
    }
}
