use proptest::prelude::*;

use super::*;
use crate::model::{Digest, RepositoryName, TemplateId};

pub(in crate::agent) fn entry(instance: &str, attempt: Attempt, phase: VmPhase) -> Entry {
    let instance = InstanceId::parse(instance).unwrap();
    let task = StartTask {
        instance: instance.clone(),
        attempt,
        template: TemplateId::parse("t").unwrap(),
        template_name: "t".into(),
        repository: RepositoryName::parse("t").unwrap(),
        tag: "v1".into(),
        manifest: Digest::of(b"manifest"),
        registry: String::new(),
        vm_name: "t-v1".into(),
        vcpu: None,
        vram: None,
        script: None,
    };
    Entry { instance, attempt, phase, task, info: None, script: None, message: String::new() }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Attempt, VmPhase),
    Strike(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let phase = prop_oneof![
        Just(VmPhase::Claimed),
        Just(VmPhase::Starting),
        Just(VmPhase::Running),
        Just(VmPhase::Failed),
        Just(VmPhase::Gone),
    ];
    prop_oneof![
        3 => (0u8..4, 1u32..5, phase).prop_map(|(i, attempt, phase)| Step::Put(i, attempt, phase)),
        1 => (0u8..4).prop_map(Step::Strike),
    ]
}

/// Takes the steps; the state and the file's length after each.
fn take(journal: &mut Journal, steps: &[Step]) -> Vec<(u64, BTreeMap<InstanceId, Entry>)> {
    let mut history = vec![(journal.length, journal.entries.clone())];
    for step in steps {
        match step {
            Step::Put(i, attempt, phase) => {
                journal.put(entry(&format!("i{i}"), *attempt, *phase)).unwrap();
            }
            Step::Strike(i) => journal.strike(&InstanceId::parse(format!("i{i}")).unwrap()).unwrap(),
        }
        history.push((journal.length, journal.entries.clone()));
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A crash leaves any beginning of the file. What was synced before is there, nothing else is.
    #[test]
    fn a_crash_at_any_byte_loses_nothing_that_was_synced(
        steps in prop::collection::vec(step(), 1..8), cut in 0.0f64..=1.0
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let history = take(&mut Journal::open(&path).unwrap(), &steps);

        let whole = fs::read(&path).unwrap();
        let kept = (whole.len() as f64 * cut) as usize;
        fs::write(&path, &whole[..kept]).unwrap();
        // A line is whole without its newline, too.
        let expected = history.iter().rev().find(|(length, _)| *length <= kept as u64 + 1).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        prop_assert_eq!(&journal.entries, &expected.1);

        // And it goes on from there.
        journal.put(entry("after", 1, VmPhase::Claimed)).unwrap();
        let after = journal.entries.clone();
        prop_assert_eq!(Journal::open(&path).unwrap().entries, after);
    }

    /// Whatever a disk makes of the file, opening it neither fails nor invents an entry.
    #[test]
    fn garbage_is_left_out(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let first = entry("i1", 1, VmPhase::Starting);
        Journal::open(&path).unwrap().put(first.clone()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(&garbage);
        fs::write(&path, &bytes).unwrap();
        let journal = Journal::open(&path).unwrap();
        prop_assert_eq!(journal.entries().cloned().collect::<Vec<_>>(), vec![first]);
    }
}

#[test]
fn a_long_journal_is_rewritten_and_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::open(&path).unwrap();
    journal.length = LONG;
    let kept = entry("kept", 3, VmPhase::Running);
    journal.put(kept.clone()).unwrap();
    assert!(journal.length < 4096, "{}", journal.length);
    assert_eq!(fs::metadata(&path).unwrap().len(), journal.length);
    journal.put(entry("next", 1, VmPhase::Claimed)).unwrap();
    journal.strike(&InstanceId::parse("next").unwrap()).unwrap();
    assert_eq!(Journal::open(&path).unwrap().entries().cloned().collect::<Vec<_>>(), [kept]);
}
