//! The store, on real disks and real etcd.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/certificates.rs"]
mod certificates;
mod cluster;
mod crash;
mod directed;
#[path = "../support/memory.rs"]
mod memory;
mod random;
mod secured;
mod upkeep;

use std::{sync::Arc, time::Duration};

use memory::MemoryStore;
use support::etcd::Etcd;
use switchyard::{
    store::{embedded::EmbeddedStore, etcd::EtcdStore},
    supervise::Tree,
};

#[test]
fn etcd_and_the_embedded_store_answer_alike() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (tree, dir) = (Tree::new(), tempfile::tempdir().unwrap());
    let (etcd, cluster, embedded) = runtime.block_on(async {
        let etcd = Etcd::start(1).await;
        let cluster = EtcdStore::connect(&etcd.urls(), Duration::from_secs(10)).await.unwrap();
        let embedded = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap();
        (etcd, cluster, embedded)
    });
    random::play_on_both(&runtime, &cluster, &embedded);
    runtime.block_on(tree.shut_down(Duration::from_secs(5)));
    drop(etcd);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_keeps_the_rules() {
    let etcd = Etcd::start(1).await;
    directed::all(Arc::new(EtcdStore::connect(&etcd.urls(), Duration::from_secs(10)).await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_the_rules() {
    let (tree, dir) = (Tree::new(), tempfile::tempdir().unwrap());
    directed::all(Arc::new(EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap())).await;
    tree.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_of_simulations_keeps_the_rules() {
    for seed in [None, Some(1)] {
        let tree = Tree::new();
        directed::all(Arc::new(MemoryStore::open(seed, &tree.handle()))).await;
        tree.shut_down(Duration::from_secs(5)).await;
    }
}

#[test]
fn the_store_of_simulations_answers_as_the_embedded_one_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (tree, dir) = (Tree::new(), tempfile::tempdir().unwrap());
    let (memory, embedded) = runtime.block_on(async {
        let embedded = EmbeddedStore::open(dir.path(), tree.handle()).await.unwrap();
        (MemoryStore::open(None, &tree.handle()), embedded)
    });
    random::play_on_both(&runtime, &memory, &embedded);
    runtime.block_on(tree.shut_down(Duration::from_secs(5)));
}
