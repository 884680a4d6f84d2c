//! The lives of instances as the store saw them: every change, in order, and what of it must not be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use switchyard::{
    config::BaseUrl,
    store::{Event, Store, WatchItem, etcd::EtcdStore},
};
use tokio::task::JoinSet;

/// Where a phase may lead; `gone` is that the record is deleted. A record may be written again in its phase.
const EDGES: [(&str, &[&str]); 9] = [
    ("none", &["queued"]),
    ("queued", &["offered", "failed", "terminating", "gone"]),
    ("offered", &["claimed", "queued", "failed", "terminating"]),
    ("claimed", &["starting", "queued", "failed", "terminating"]),
    ("starting", &["started", "failed", "terminating"]),
    ("started", &["failed", "terminating"]),
    ("failed", &["terminating"]),
    ("terminating", &["terminated", "gone"]),
    ("terminated", &["gone"]),
];

#[derive(Debug, Clone)]
struct Life {
    phase: String,
    attempt: u64,
    /// The node that may have begun to run it.
    bound: Option<String>,
    changes: usize,
}

#[derive(Debug, Default)]
struct Seen {
    lives: BTreeMap<String, Life>,
    faults: Vec<String>,
    changes: usize,
    broken: usize,
}

impl Seen {
    fn note(&mut self, id: &str, record: Option<&Value>) {
        self.changes += 1;
        let before = self.lives.remove(id);
        let was = before.as_ref().map_or("none", |life| life.phase.as_str()).to_owned();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let phase = record.map_or_else(|| "gone".to_owned(), |record| text(&record["phase"]["is"]));
        let may =
            EDGES.iter().find(|(from, _)| *from == was).is_some_and(|(_, to)| to.contains(&phase.as_str()));
        if !may && was != phase {
            self.faults.push(format!("{id} went from {was} to {phase}: {record:?}"));
        }
        let Some(record) = record else { return };
        let attempt = record["attempt"].as_u64().unwrap_or(0);
        let (mut bound, mut changes) = (None, 1);
        if let Some(before) = before {
            if attempt < before.attempt {
                self.faults.push(format!("{id} went back from attempt {} to {attempt}", before.attempt));
            }
            (bound, changes) = (before.bound, before.changes + 1);
        }
        let node = text(&record["phase"]["node"]);
        if let Some(bound) = bound.as_ref().filter(|bound| !node.is_empty() && **bound != node) {
            self.faults.push(format!("{id} may run at {bound} and was given to {node}"));
        }
        if matches!(phase.as_str(), "starting" | "started") {
            bound = Some(node);
        }
        self.lives.insert(id.to_owned(), Life { phase, attempt, bound, changes });
    }
}

/// Watches them from its start to its end.
pub struct Lives {
    seen: Arc<Mutex<Seen>>,
    _task: JoinSet<()>,
}

impl Lives {
    /// Of the cluster `main` in this etcd, from an empty store on.
    pub async fn watch(urls: &[BaseUrl]) -> Self {
        let store = EtcdStore::connect(urls, std::time::Duration::from_secs(4)).await.expect("a client");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (to, mut task) = (seen.clone(), JoinSet::new());
        task.spawn(async move {
            let prefix = "/switchyard/main/instances/";
            let mut next = 1;
            loop {
                let Ok(mut watch) = store.watch(prefix, next).await else { continue };
                while let Some(item) = watch.next().await {
                    let mut seen = to.lock().expect("no holder panics");
                    match item {
                        Ok(WatchItem::Events { revision, events }) => {
                            next = revision + 1;
                            for event in events {
                                let id = event.key().strip_prefix(prefix).unwrap_or_default().to_owned();
                                let record = match &event {
                                    Event::Put(kv) => serde_json::from_slice(&kv.value).ok(),
                                    Event::Deleted { .. } => None,
                                };
                                seen.note(&id, record.as_ref());
                            }
                        }
                        Ok(WatchItem::Progress(_)) => {}
                        // What was forgotten before it was seen would be a hole in the proof.
                        Ok(WatchItem::Compacted { oldest }) => {
                            seen.faults.push(format!("history before {oldest} was not seen from {next} on"));
                            next = oldest;
                        }
                        Err(_) => seen.broken += 1,
                    }
                }
            }
        });
        Self { seen, _task: task }
    }

    /// How many changes were seen.
    pub fn changes(&self) -> usize {
        self.seen.lock().expect("no holder panics").changes
    }

    /// Panics with what must not be.
    #[track_caller]
    pub fn assert_well(&self) {
        let seen = self.seen.lock().expect("no holder panics");
        let most = seen.lives.values().map(|life| life.changes).max().unwrap_or(0);
        assert!(seen.changes > 0, "a history of nothing proves nothing");
        assert!(seen.faults.is_empty(), "of {} changes: {:#?}", seen.changes, seen.faults);
        assert!(most < 200, "an instance was written {most} times: something goes round");
    }
}

/// The checker sees what it is for.
pub fn check() {
    let faults = |steps: &[(&str, &str, u64)]| {
        let mut seen = Seen::default();
        for (phase, node, attempt) in steps {
            let record = serde_json::json!({ "phase": { "is": phase, "node": node }, "attempt": attempt });
            seen.note("i", (*phase != "gone").then_some(&record));
        }
        seen.faults.len()
    };
    let whole = [
        ("queued", "", 0),
        ("offered", "a", 1),
        ("queued", "", 1),
        ("offered", "b", 2),
        ("claimed", "b", 2),
        ("claimed", "b", 2),
        ("starting", "b", 2),
        ("started", "b", 2),
        ("terminating", "b", 2),
        ("terminated", "b", 2),
        ("gone", "", 0),
    ];
    assert_eq!(faults(&whole), 0);
    assert_eq!(faults(&[("started", "a", 1)]), 1, "it did not begin");
    assert_eq!(faults(&[whole[0], ("started", "a", 1)]), 1, "it skipped");
    assert_eq!(faults(&[&whole[..8], &[("queued", "", 2)]].concat()), 1, "it went back");
    assert_eq!(faults(&[&whole[..7], &[("started", "a", 2)]].concat()), 1, "another node");
    assert_eq!(faults(&[whole[0], whole[3], ("queued", "", 1)]), 1, "an older attempt");
}
