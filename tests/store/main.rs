//! The store, on real disks and real etcd.

#[path = "../support/mod.rs"]
mod support;

use support::etcd::Etcd;

#[tokio::test]
async fn a_member_that_was_killed_answers_again_after_its_restart() {
    let mut etcd = Etcd::start(3).await;
    let leader = etcd.leader().await;
    etcd.kill(leader);
    assert!(!etcd.healthy(leader).await);
    let next = etcd.leader().await;
    assert_ne!(next, leader);
    etcd.freeze(next);
    assert!(!etcd.healthy(next).await);
    etcd.spawn(leader);
    etcd.healthy_again(leader).await;
    etcd.thaw(next);
    etcd.healthy_again(next).await;
}
