//! From the queue to the end: offers, claims, and who wins.

use super::*;
use crate::{model::InstanceState, wire::agent::GiveBack};

#[tokio::test]
async fn a_start_goes_through_poll_claim_starting_and_report_to_its_end() {
    let soon_gone = Timeouts { instance_visible: Duration::from_secs(2), ..timeouts() };
    let world = World::with(2, soon_gone).await;
    let node = world.node("n1", 2).await;
    let ids = world.start(0, 1).await;
    let task = node.offer(&world, 1).await;
    assert_eq!((&task.instance, task.attempt), (&ids[0], 1));
    assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    node.beat(world.ops(1), &[vm(&task, VmPhase::Pulling)]).await.unwrap();
    assert_eq!(world.show(0, &ids[0]).await.state(), InstanceState::Pulling);
    node.beat(world.ops(1), &[vm(&task, VmPhase::Claimed)]).await.unwrap();
    assert_eq!(world.show(0, &ids[0]).await.state(), InstanceState::Scheduling);
    assert!(world.ops(1).starting(node.claim(&task)).await.unwrap().granted);
    node.beat(world.ops(0), &[vm(&task, VmPhase::Running)]).await.unwrap();
    let shown = world.show(1, &ids[0]).await;
    assert_eq!(shown.state(), InstanceState::Started);
    assert_eq!(shown.info.unwrap().ip, "10.0.0.1");

    world.ops(1).terminate(&ids[0]).await.unwrap();
    world.ops(0).terminate(&ids[0]).await.unwrap();
    let told = node.tasks(world.ops(0), world.stop()).await;
    assert_eq!(told.stop[0].instance, ids[0], "a waiting poll is told at once");
    let heard = node.beat(world.ops(1), &[vm(&task, VmPhase::Running)]).await.unwrap();
    assert_eq!(heard.stop.len(), 1);
    let heard = node.beat(world.ops(0), &[vm(&task, VmPhase::Gone)]).await.unwrap();
    assert_eq!((heard.stop.len(), heard.forget.len()), (0, 1));
    assert_eq!(world.show(0, &ids[0]).await.state(), InstanceState::Terminated);
    until("a terminated instance vanishes", || async {
        world.ops(1).instance(&ids[0]).await.is_err_and(|error| error == OpsError::NotFound)
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_waiting_poll_gets_a_new_start_in_milliseconds() {
    let world = World::new(2).await;
    let node = world.node("n1", 10).await;
    for n in [0, 1] {
        let mut took = Vec::new();
        for _ in 0..5 {
            let poll = node.tasks(world.ops(n), world.stop());
            let start = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let began = clock::now();
                world.start(1 - n, 1).await;
                began
            };
            let (tasks, began) = tokio::join!(poll, start);
            took.push(began.elapsed());
            assert!(tasks.start.is_some());
        }
        // A machine that is busy for a moment makes some of them late, and a wake that is missing all of them.
        took.sort();
        assert!(took[2] < Duration::from_millis(500), "{took:?}");
    }
    world.end().await;
}

#[tokio::test]
async fn one_of_two_nodes_gets_an_instance_and_the_other_is_refused() {
    let world = World::new(2).await;
    let (first, second) = (world.node("n1", 5).await, world.node("n2", 5).await);
    let ids = world.start(0, 1).await;
    let polls = async {
        tokio::join!(first.tasks(world.ops(0), world.stop()), second.tasks(world.ops(1), world.stop()))
    };
    let end = async {
        // The loser's poll would go on to its end.
        until("the instance is offered", || async {
            matches!(world.show(0, &ids[0]).await.phase, Phase::Offered { .. } | Phase::Claimed { .. })
        })
        .await;
        world.stop.request();
    };
    let ((a, b), ()) = tokio::join!(polls, end);
    assert_eq!(u8::from(a.start.is_some()) + u8::from(b.start.is_some()), 1);
    let (winner, loser, task) = match (a.start, b.start) {
        (Some(task), None) => (&first, &second, task),
        (None, Some(task)) => (&second, &first, task),
        _ => unreachable!("counted above"),
    };
    assert!(!world.ops(0).claim(loser.claim(&task)).await.unwrap().granted);
    assert!(!world.ops(1).starting(winner.claim(&task)).await.unwrap().granted, "not claimed yet");
    let (a, b) =
        tokio::join!(world.ops(0).claim(winner.claim(&task)), world.ops(1).claim(winner.claim(&task)));
    assert!(
        a.unwrap().granted && b.unwrap().granted,
        "repeating one's own claim succeeds, at any controller"
    );
    world.end().await;
}

#[tokio::test]
async fn an_offer_returns_at_once_when_its_poll_is_dropped() {
    use crate::store::faulty::{Fault, On};
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    // The answer of the offer's transaction is late: the poll is dropped in the middle of it.
    world.faults[0].always(On::Txn, Fault::Late(PATIENCE));
    let ids = world.start(1, 1).await;
    tokio::select! {
        answer = world.ops(0).poll(node.poll(5), world.stop()) => panic!("its offer is still being made: {answer:?}"),
        () = until("it is offered", || async {
            matches!(world.show(1, &ids[0]).await.phase, Phase::Offered { .. })
        }) => {}
    }
    world.faults[0].heal();
    // Not only after the claim's time, which is longer than this waits.
    until("the instance is queued", || async { world.show(1, &ids[0]).await.is_queued() }).await;
    let task = node.offer(&world, 1).await;
    assert_eq!(task.instance, ids[0]);
    world.end().await;
}

#[tokio::test]
async fn an_unclaimed_offer_returns_after_the_claim_time_and_its_late_claim_is_refused() {
    let world = World::with(2, soon_unclaimed()).await;
    let (node, other) = (world.node("n1", 1).await, world.node("n2", 1).await);
    world.start(0, 1).await;
    let began = clock::now();
    let task = node.offer(&world, 0).await;
    let again = other.offer(&world, 1).await;
    assert!(began.elapsed() >= soon_unclaimed().claim - Duration::from_millis(50));
    assert_eq!((&again.instance, again.attempt), (&task.instance, task.attempt + 1));
    let late = world.ops(1).claim(node.claim(&task)).await.unwrap();
    assert!(!late.granted && late.why.contains("offer 1 is over"), "{late:?}");
    assert!(world.ops(0).claim(other.claim(&again)).await.unwrap().granted);
    world.end().await;
}

#[tokio::test]
async fn a_terminate_wins_over_a_start_at_every_step() {
    let world = World::new(2).await;
    let node = world.node("n1", 10).await;

    let queued = world.start(0, 1).await.remove(0);
    world.ops(1).terminate(&queued).await.unwrap();
    assert_eq!(world.show(0, &queued).await.state(), InstanceState::Terminating);

    world.start(0, 1).await;
    let offered = node.offer(&world, 0).await;
    world.ops(1).terminate(&offered.instance).await.unwrap();
    assert!(!world.ops(0).claim(node.claim(&offered)).await.unwrap().granted);

    world.start(1, 1).await;
    let claimed = node.offer(&world, 1).await;
    assert!(world.ops(1).claim(node.claim(&claimed)).await.unwrap().granted);
    world.ops(0).terminate(&claimed.instance).await.unwrap();
    let refused = world.ops(1).starting(node.claim(&claimed)).await.unwrap();
    assert!(!refused.granted && refused.why.contains("Terminating"), "{refused:?}");

    world.start(1, 1).await;
    let starting = loop {
        // The stop of the one before may come first.
        if let Some(task) = node.tasks(world.ops(0), world.stop()).await.start {
            break task;
        }
    };
    assert!(world.ops(0).claim(node.claim(&starting)).await.unwrap().granted);
    assert!(world.ops(0).starting(node.claim(&starting)).await.unwrap().granted);
    world.ops(1).terminate(&starting.instance).await.unwrap();
    let heard = node.beat(world.ops(0), &[vm(&starting, VmPhase::Running)]).await.unwrap();
    assert!(heard.stop.iter().any(|stop| stop.instance == starting.instance), "{heard:?}");
    assert_eq!(world.show(1, &starting.instance).await.state(), InstanceState::Terminating);
    world.end().await;
}

#[tokio::test]
async fn a_node_never_gets_more_than_its_capacity_whatever_it_says_is_free() {
    let world = World::new(2).await;
    let node = world.node("n1", 3).await;
    world.start(0, 8).await;
    let mut greedy = Vec::new();
    for round in 0..8 {
        let lie = Poll { free: 100, wait: 0, ..node.poll(0) };
        let tasks = world.ops(round % 2).poll(lie, world.stop()).await.unwrap();
        if let Some(task) = tasks.start {
            assert!(world.ops(round % 2).claim(node.claim(&task)).await.unwrap().granted);
            greedy.push(task);
        }
    }
    assert_eq!(greedy.len(), 3);
    // Two polls at two controllers at once, one place left.
    world.ops(0).give_back(GiveBack { claim: node.claim(&greedy[0]), why: "no space".into() }).await.unwrap();
    let poll = |n: usize| world.ops(n).poll(Poll { free: 100, wait: 0, ..node.poll(0) }, world.stop());
    let (a, b) = tokio::join!(poll(0), poll(1));
    let given = u8::from(a.unwrap().start.is_some()) + u8::from(b.unwrap().start.is_some());
    assert!(given <= 1, "{given} offers for one place");
    world.end().await;
}

#[tokio::test]
async fn a_start_given_back_goes_to_another_node_first_and_says_why() {
    let world = World::new(2).await;
    let node = world.node("n1", 1).await;
    let ids = world.start(0, 1).await;
    let task = node.offer(&world, 0).await;
    assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
    let back = GiveBack { claim: node.claim(&task), why: "no space on the disk".into() };
    assert!(world.ops(1).give_back(back.clone()).await.unwrap().granted);
    let shown = world.show(0, &ids[0]).await;
    assert_eq!(shown.state(), InstanceState::Scheduling);
    assert!(shown.message.contains("no space on the disk"), "{}", shown.message);
    let none = world.ops(0).poll(Poll { wait: 0, ..node.poll(0) }, world.stop()).await.unwrap();
    assert!(none.start.is_none(), "not to the same node at once");
    let other = world.node("n2", 1).await;
    let again = other.offer(&world, 1).await;
    assert_eq!((&again.instance, again.attempt), (&ids[0], 2));
    assert!(!world.ops(1).give_back(back).await.unwrap().granted, "by now it is somebody else's");
    world.end().await;
}

#[tokio::test]
async fn every_step_survives_lost_answers() {
    use crate::store::faulty::{Fault, On};
    let world = World::new(1).await;
    let node = world.node("n1", 3).await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Conflict] {
        let lose = || world.faults[0].next(On::Txn, fault);
        lose();
        let ids = world.start(0, 1).await;
        assert_eq!(ids.len(), 1);
        let task = node.offer(&world, 0).await;
        lose();
        assert!(world.ops(0).claim(node.claim(&task)).await.unwrap().granted);
        lose();
        assert!(world.ops(0).starting(node.claim(&task)).await.unwrap().granted);
        lose();
        world
            .ops(0)
            .report(crate::wire::agent::Report { node_id: node.id.clone(), vm: vm(&task, VmPhase::Running) })
            .await
            .unwrap();
        assert_eq!(world.show(0, &ids[0]).await.state(), InstanceState::Started, "{fault:?}");
        lose();
        world.ops(0).terminate(&ids[0]).await.unwrap();
        let report = crate::wire::agent::Report { node_id: node.id.clone(), vm: vm(&task, VmPhase::Gone) };
        world.ops(0).report(report).await.unwrap();
        assert_eq!(world.show(0, &ids[0]).await.state(), InstanceState::Terminated, "{fault:?}");
    }
    assert_eq!(world.ops(0).instances().await.unwrap().value.len(), 3, "none was made twice");
    world.end().await;
}
