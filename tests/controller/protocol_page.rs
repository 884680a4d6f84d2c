//! `docs/agent-protocol.md` says what the code does: its example is read and written back to the letter, its
//! calls are served, its words are those of the bodies.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use switchyard::wire::agent::{Join, Joined, VmPhase};

use crate::cloud::Cloud;

const PAGE: &str = include_str!("../../docs/agent-protocol.md");

/// Reads an example as this type and writes it back: nothing may be left over or missing.
fn check<T: DeserializeOwned + Serialize>(example: &str) {
    let written: Value = serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {example}"));
    let read: T =
        serde_json::from_value(written.clone()).unwrap_or_else(|error| panic!("{error}: {example}"));
    assert_eq!(serde_json::to_value(read).unwrap(), written);
}

#[test]
fn the_example_of_the_page_is_exact() {
    let block = PAGE.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let (request, answer) = block.split_once("\n200 ").unwrap();
    check::<Join>(request.split_once('\n').unwrap().1);
    check::<Joined>(answer);
}

#[test]
fn every_phase_of_a_vm_is_explained() {
    for phase in [
        VmPhase::Claimed,
        VmPhase::Pulling,
        VmPhase::Starting,
        VmPhase::Running,
        VmPhase::Failed,
        VmPhase::Gone,
    ] {
        let word = serde_json::to_value(phase).unwrap();
        let row = format!("| `{}` |", word.as_str().unwrap());
        assert!(PAGE.contains(&row), "{row} is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_page_is_served() {
    let cloud = Cloud::start().await;
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let calls: Vec<_> = rows.filter_map(|(call, _)| call.split_once(" /switchyard/")).collect();
    assert_eq!(calls.len(), 8, "{calls:?}");
    for (method, path) in calls {
        let answer = cloud.api().call(method, &format!("/switchyard/{path}"), None).await;
        assert!(answer.is_clean(400), "served, and its input is missing: {method} {path}: {answer:?}");
    }
    cloud.stop().await;
}
