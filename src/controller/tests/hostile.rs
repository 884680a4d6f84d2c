//! Records that nobody can read, reports that fit no record, a store that goes back: nothing of it stops the rest.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::{
    model::InstanceState,
    store::{
        Consistency, Got, LeaseId, LeaseState, Op, Range, Ranged, Revision, StoreError, Txn, TxnAnswer,
        Watch, keys::Keys, prefix_end,
    },
    wire::{node::NodeTemplate, vm::PortRule, vm::ScriptResult},
};

async fn put(world: &World, key: String, value: impl Into<Bytes>) {
    world.store.txn(Txn::new().put(key, value.into())).await.unwrap();
}

async fn revision(world: &World) -> Revision {
    world.store.get("x", Consistency::Linearizable).await.unwrap().revision
}

#[tokio::test]
async fn records_that_cannot_be_read_stop_neither_lists_nor_offers_nor_heartbeats() {
    let world = World::new(1).await;
    let node = world.node("n1", 5).await;
    let ids = world.start(0, 2).await;
    let keys = Keys::new("main");
    let start = world.show(0, &ids[0]).await.start;
    for key in [
        keys.instance(&ids[0]),
        keys.queued_start(&ids[0]),
        keys.start(&start),
        keys.node(&NodeId::parse("n2").unwrap()),
        keys.node_alive(&node.id),
        keys.member("controller", "c9"),
        keys.leader("nothing"),
    ] {
        put(&world, key, "{\"v\":1,").await;
    }
    let reported = [seen(&ids[0], 1, VmPhase::Running)];
    // Often enough that an unknown VM would be stopped: this one is not unknown, it cannot be read.
    for _ in 0..35 {
        let heard = node.beat(world.ops(0), &reported).await.unwrap();
        assert!(heard.known && heard.stop.is_empty(), "{heard:?}");
    }
    assert_eq!(node.offer(&world, 0).await.instance, ids[1]);
    assert!(world.ops(0).instances().await.unwrap().value.iter().any(|one| one.record.id == ids[1]));
    use crate::http::Readiness;
    let why = world.cores[0].health.ready().why;
    assert!(why.iter().any(|why| why.contains("cannot be read")), "{why:?}");
    world.end().await;
}

#[tokio::test]
async fn a_record_of_a_newer_controller_at_the_head_of_the_queue_holds_up_nobody() {
    let world = World::new(1).await;
    let node = world.node("n1", 5).await;
    let first = world.start(0, 1).await.remove(0);
    let key = Keys::new("main").instance(&first);
    let old = world.store.get(&key, Consistency::Linearizable).await.unwrap().kv.unwrap().value;
    let mut newer: serde_json::Value = serde_json::from_slice(&old).unwrap();
    newer["v"] = 2.into();
    put(&world, key, newer.to_string()).await;
    let second = world.start(0, 1).await.remove(0);
    assert_eq!(node.offer(&world, 0).await.instance, second);
    assert!(world.show(0, &first).await.is_queued(), "it is shown, and left to the newer ones");
    world.end().await;
}

#[tokio::test]
async fn a_start_whose_script_is_lost_fails_and_holds_up_nobody() {
    let world = World::new(1).await;
    let node = world.node("n1", 5).await;
    let ask = StartVm { startup_script: Some("ZWNobwo=".into()), ..ask(1) };
    let first = world.ops(0).start_resolved(ask, &Caller::default(), resolved()).await.unwrap().remove(0);
    let start = Keys::new("main").all_scripts();
    let mut txn = Txn::new();
    txn.then.push(Op::DeleteRange { end: prefix_end(&start), start });
    world.store.txn(txn).await.unwrap();
    let second = world.start(0, 1).await.remove(0);
    assert_eq!(node.offer(&world, 0).await.instance, second);
    let shown = world.show(0, &first).await;
    assert_eq!(shown.state(), InstanceState::Error);
    assert!(shown.message.contains("script"), "{}", shown.message);
    world.end().await;
}

#[tokio::test]
async fn an_offer_whose_answer_was_lost_is_sent_all_the_same() {
    use crate::store::faulty::{Fault, On};
    let world = World::new(1).await;
    let node = world.node("n1", 1).await;
    world.start(0, 1).await;
    world.faults[0].next(On::Txn, Fault::LoseAnswer);
    let task = node.offer(&world, 0).await;
    assert_eq!(task.attempt, 1, "its own write is known again: nobody waits for the claim's time");
    world.end().await;
}

#[tokio::test]
async fn an_idle_heartbeat_writes_nothing_and_takes_no_lease() {
    let world = World::new(1).await;
    let node = world.node("n1", 2).await;
    world.start(0, 1).await;
    let task = node.run(&world, 0).await;
    until("all duties are led", || async {
        let led = |duty: &&str| world.ops(0).lists().peek(|cache| cache.leader(duty).is_some());
        ["expiry", "starts", "scheduling", "absence", "commands", "images", "events", "mac-pool"]
            .iter()
            .all(led)
    })
    .await;
    let lease = || world.ops(0).lists().peek(|cache| cache.presence(&node.id).unwrap().record.lease);
    // Its last report that said something new is of long ago.
    let key = Keys::new("main").node(&node.id);
    let kept = world.store.get(&key, Consistency::Linearizable).await.unwrap().kv.unwrap();
    let mut record: serde_json::Value = serde_json::from_slice(&kept.value).unwrap();
    let long_ago = "2001-01-01T00:00:00Z";
    *record.get_mut("reported").unwrap() = long_ago.into();
    put(&world, key, record.to_string()).await;
    let told = || async { world.ops(0).node(&node.id).await.unwrap().value };
    until("the cache has it", || async { told().await.record.reported.to_string().starts_with("2001") })
        .await;
    let before = (revision(&world).await, lease());
    for n in 0..50 {
        // What changes by itself is no news.
        let mut running = vm(&task, VmPhase::Running);
        running.info.as_mut().unwrap().timestamp = Some(clock::wall().plus(Duration::from_secs(n)));
        node.beat(world.ops(0), &[running]).await.unwrap();
    }
    assert_eq!((revision(&world).await, lease()), before);
    let (told, now) = (told().await, clock::wall());
    assert!(told.record.reported.to_string().starts_with("2001"), "{}", told.record.reported);
    assert!(now.since(told.heard) < Duration::from_secs(60), "it is present: {} of {now}", told.heard);
    world.end().await;
}

#[tokio::test]
async fn a_node_that_fell_silent_was_last_heard_before_that() {
    let world = World::with(1, soon_silent()).await;
    let node = world.node("n1", 2).await;
    let present = world.ops(0).node(&node.id).await.unwrap().value;
    assert_eq!(present.record.absence, None);
    let told = || async { world.ops(0).node(&node.id).await.unwrap().value };
    until("it is given up", || async { told().await.record.absence.is_some() }).await;
    let (told, now) = (told().await, clock::wall());
    assert_eq!(told.heard, told.record.reported);
    assert!(told.heard >= present.record.reported, "{} and {}", told.heard, present.record.reported);
    let silent = now.since(told.heard);
    assert!(silent >= soon_silent().instance_active && silent < PATIENCE, "{silent:?}");
    world.end().await;
}

#[tokio::test]
async fn a_report_larger_than_a_record_is_kept_in_part() {
    let world = World::new(1).await;
    let node = world.node("n1", 2).await;
    let ids = world.start(0, 1).await;
    let task = node.run(&world, 0).await;
    let long = "\u{1}\"x".repeat(200_000);
    let mut huge = vm(&task, VmPhase::Running);
    huge.message = long.clone();
    huge.script = Some(ScriptResult {
        return_code: 1,
        did_timeout: false,
        stdout: format!("{long}the end"),
        stderr: long.clone(),
        errors: vec![long.clone(); 100],
    });
    let info = huge.info.as_mut().unwrap();
    (info.ip, info.name) = (long.clone(), long.clone());
    let rule = PortRule {
        guest_port: 1,
        host_port: 2,
        protocol: long.clone(),
        name: long.chars().take(999).collect(),
    };
    info.port_forwarding = vec![rule; 500];
    let template = |n| NodeTemplate { uuid: format!("t{n}"), name: "n".repeat(400), tag: "t".repeat(128) };
    let beat = Heartbeat {
        node_id: node.id.clone(),
        session: node.session.clone(),
        facts: NodeFacts { templates: (0..1000).map(template).collect(), ..node.facts() },
        vms: vec![huge],
        commands: Vec::new(),
    };
    world.ops(0).heartbeat(beat).await.unwrap();
    let shown = world.show(0, &ids[0]).await;
    assert_eq!(shown.state(), InstanceState::Started);
    assert!(shown.script.unwrap().stdout.ends_with("the end"), "of an output the end is kept");
    assert!(!world.ops(0).node(&node.id).await.unwrap().value.record.facts.templates.is_empty());
    world.end().await;
}

#[tokio::test]
async fn one_key_with_two_bodies_at_two_controllers_at_once_starts_one_of_them() {
    let world = World::new(2).await;
    for round in 0..10 {
        let caller = keyed(&format!("k{round}"));
        let (one, two) = tokio::join!(
            world.ops(0).start_resolved(ask(1), &caller, resolved()),
            world.ops(1).start_resolved(ask(2), &caller, resolved()),
        );
        let refused = [one.as_ref().err(), two.as_ref().err()];
        assert_eq!(refused.into_iter().flatten().collect::<Vec<_>>(), [&OpsError::KeyReused]);
        let made = one.or(two).unwrap();
        let shown = world.ops(0).instances().await.unwrap().value;
        let start = &shown.iter().find(|one| one.record.id == made[0]).unwrap().record.start;
        assert_eq!(shown.iter().filter(|one| one.record.start == *start).count(), made.len());
    }
    world.end().await;
}

#[tokio::test]
async fn what_a_start_asks_of_devices_reaches_the_agent() {
    let world = World::new(1).await;
    let node = world.node("n1", 2).await;
    let ask: StartVm = serde_json::from_value(serde_json::json!({
        "vmid": "t1", "disk": {"size": "80G"}, "port_forwarding_override": [{"name": "ssh", "guest_port": 22}],
        "network_mode": "bridge", "mac_address": "02:00:00:00:00:01", "vlan_tag": "7",
    }))
    .unwrap();
    world.ops(0).start_resolved(ask, &Caller::default(), resolved()).await.unwrap();
    let hardware = node.offer(&world, 0).await.hardware;
    let all = ["mac_address", "vlan_tag", "network_mode", "disk", "port_forwarding_override"];
    assert_eq!(hardware.asked(), all);
    assert_eq!(hardware.disk.unwrap()["size"], "80G");
    world.start(0, 1).await;
    assert!(node.offer(&world, 0).await.hardware.is_empty());
    world.end().await;
}

/// A store that is exchanged under the controller: its watches stay open on the old one and say nothing.
struct Restored(Mutex<Arc<dyn Store>>);

impl Restored {
    fn now(&self) -> Arc<dyn Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Store for Restored {
    async fn get(&self, key: &str, consistency: Consistency) -> Result<Got, StoreError> {
        self.now().get(key, consistency).await
    }
    async fn range(&self, range: Range) -> Result<Ranged, StoreError> {
        self.now().range(range).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        self.now().txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.now().watch(prefix, from).await
    }
    async fn lease_grant(&self, ttl_seconds: u32) -> Result<LeaseId, StoreError> {
        self.now().lease_grant(ttl_seconds).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.now().lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.now().lease_revoke(lease).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.now().compact(revision).await
    }
}

#[tokio::test]
async fn after_a_restore_of_an_older_backup_no_list_shows_what_is_gone() {
    let (dirs, tree) = ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], Tree::new());
    let open = async |n: usize| EmbeddedStore::open(dirs[n].path(), tree.handle()).await;
    let store = Arc::new(Restored(Mutex::new(Arc::new(open(0).await.unwrap()))));
    let core = Core::start(config("c0", timeouts()), store.clone(), &tree.handle(), "c0:1".into()).unwrap();
    until("the cache is loaded", || async { core.health.loaded() }).await;
    let caller = Caller::default();
    let start = || core.ops.start_resolved(ask(3), &caller, resolved());
    start().await.unwrap();
    assert_eq!(core.ops.instances().await.unwrap().value.len(), 3);

    let older: Arc<dyn Store> = Arc::new(open(1).await.unwrap());
    *store.0.lock().unwrap() = older;
    let seen = core.ops.instances().await.unwrap();
    assert_eq!((seen.value.len(), seen.stale), (0, None));
    until("the cache follows the restored store", || async {
        core.ops.lists().peek(|cache| cache.instances().count()) == 0
    })
    .await;
    start().await.unwrap();
    assert_eq!(core.ops.instances().await.unwrap().value.len(), 3);
    tree.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_watch_that_broke_does_not_go_on_in_a_restored_store_that_has_caught_up() {
    let (dirs, tree) = ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], Tree::new());
    let open = async |n: usize| EmbeddedStore::open(dirs[n].path(), tree.handle()).await;
    let (store, faults) = (Arc::new(Restored(Mutex::new(Arc::new(open(0).await.unwrap())))), Faults::new());
    let faulty = Arc::new(Faulty::new(store.clone(), faults.clone()));
    let core = Core::start(config("c0", timeouts()), faulty, &tree.handle(), "c0:1".into()).unwrap();
    until("the cache is loaded", || async { core.health.loaded() }).await;
    core.ops.start_resolved(ask(3), &Caller::default(), resolved()).await.unwrap();
    until("it shows them", || async { core.ops.lists().peek(|cache| cache.instances().count()) == 3 }).await;
    let older: Arc<dyn Store> = Arc::new(open(1).await.unwrap());
    let head = core.ops.inner.keys.head();
    while older.txn(Txn::new().put(&head, "{}")).await.unwrap().revision < 400 {}
    *store.0.lock().unwrap() = older;
    faults.break_watches();
    until("the cache follows the restored store", || async {
        core.ops.lists().peek(|cache| cache.instances().count()) == 0
    })
    .await;
    tree.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn what_an_agent_says_of_itself_has_its_bounds_and_its_host_can_be_dialed() {
    let world = World::new(1).await;
    let ops = world.ops(0);
    let node = world.node("n1", 2).await;
    let wish = |host: &str, groups: Vec<String>| NodeWish {
        name: "n1".into(),
        host: host.into(),
        capacity: 2,
        capacity_mode: CapacityMode::Number,
        vcpu_override: 0,
        ram_override: 0,
        groups,
        drain_mode: false,
        force_overrides: false,
    };
    let many = (0..65).map(|n| format!("g{n}")).collect();
    for (wish, said) in [
        (wish("a b", Vec::new()), "host: `a b`"),
        (wish("http://n1", Vec::new()), "host: `http://n1`"),
        (wish("n1", many), "groups: 65 are named, the most is 64"),
        (wish("n1", vec!["a\nb".into()]), "without control characters"),
        (wish("n1", vec![String::new()]), "1 to 1024 bytes"),
    ] {
        let join = Join { node_id: node.id.clone(), wish, facts: node.facts() };
        let error = ops.join(join).await.unwrap_err();
        assert!(matches!(&error, OpsError::BadInput(why) if why.contains(said)), "{said}: {error:?}");
    }
    let host = |host: &str| crate::wire::node::NodeConfig {
        node_id: Some("n1".into()),
        host: Some(host.into()),
        ..Default::default()
    };
    assert!(matches!(ops.configure_node(host("a/b"), &Reach::Everything).await, Err(OpsError::BadInput(_))));
    for right in ["10.0.3.7", "fe80::1", "mac-7.ci.example"] {
        ops.configure_node(host(right), &Reach::Everything).await.unwrap();
    }
    let long = Node { session: "s".repeat(300), id: node.id.clone(), capacity: 2 };
    let error = long.beat(ops, &[]).await.unwrap_err();
    assert!(matches!(&error, OpsError::BadInput(why) if why.starts_with("session:")), "{error:?}");

    let facts =
        NodeFacts { agent_version: "v".repeat(300_000), runs: vec![Arch::Arm64; 1000], ..node.facts() };
    let wordy = Heartbeat {
        node_id: node.id.clone(),
        session: node.session.clone(),
        facts,
        vms: Vec::new(),
        commands: Vec::new(),
    };
    ops.heartbeat(wordy).await.unwrap();
    let kept = ops.node(&node.id).await.unwrap().value.record.facts;
    assert_eq!((kept.agent_version.len(), kept.runs.as_slice()), (256, [Arch::Arm64].as_slice()));
    world.end().await;
}
