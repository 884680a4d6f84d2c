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
        hardware: Default::default(),
        script: None,
    };
    Entry {
        instance,
        attempt,
        phase,
        task,
        info: None,
        script: None,
        message: String::new(),
        script_begun: false,
        cut_off: 0,
    }
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
        let expected = history.iter().rev().find(|(length, _)| *length <= kept as u64).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        prop_assert!(journal.is_whole(), "a crash is no damage");
        prop_assert_eq!(&journal.entries, &expected.1);

        // And it goes on from there.
        journal.put(entry("after", 1, VmPhase::Claimed)).unwrap();
        let after = journal.entries.clone();
        prop_assert_eq!(Journal::open(&path).unwrap().entries, after);
    }

    /// A disk that turns one byte of what was synced is found out, and invents nothing.
    #[test]
    fn a_byte_that_changed_is_noticed_and_never_makes_an_entry(
        steps in prop::collection::vec(step(), 1..8), at in 0.0f64..1.0, flip in 1u8..=255
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let history = take(&mut Journal::open(&path).unwrap(), &steps);
        let mut bytes = fs::read(&path).unwrap();
        prop_assume!(!bytes.is_empty());
        let at = (bytes.len() as f64 * at) as usize;
        bytes[at] ^= flip;
        fs::write(&path, &bytes).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        // The last line's end alone can look like what a crash leaves, which no other byte can.
        prop_assert!(!journal.is_whole() || bytes.len() - at <= bytes.split(|b| *b == b'\n').next_back().unwrap().len());
        for (instance, entry) in &journal.entries {
            prop_assert!(history.iter().any(|(_, then)| then.get(instance) == Some(entry)));
        }
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

#[test]
fn a_line_that_could_neither_be_written_nor_taken_back_does_not_spoil_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::open(&path).unwrap();
    journal.put(entry("a", 1, VmPhase::Claimed)).unwrap();
    // A handle that takes no bytes, and half a line that got there all the same.
    let good = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
    journal.put(entry("b", 1, VmPhase::Claimed)).unwrap_err();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"0123 {\"put\":{").unwrap();
    journal.put(entry("b", 1, VmPhase::Claimed)).unwrap_err();
    journal.file = good;
    journal.put(entry("b", 1, VmPhase::Starting)).unwrap();
    let again = Journal::open(&path).unwrap();
    assert!(again.is_whole());
    assert_eq!(again.entries, journal.entries);
}

#[test]
fn a_journal_that_cannot_be_rewritten_is_read_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut journal = Journal::open(&path).unwrap();
    journal.put(entry("a", 1, VmPhase::Running)).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"torn").unwrap();
    // Where the new file would be written.
    fs::create_dir(path.with_extension("new")).unwrap();
    let mut journal = Journal::open(&path).unwrap();
    journal.put(entry("b", 1, VmPhase::Starting)).unwrap();
    journal.length = LONG;
    journal.put(entry("c", 1, VmPhase::Starting)).unwrap();
    journal.length = fs::metadata(&path).unwrap().len();
    let entries = journal.entries.clone();
    assert_eq!(entries.len(), 3);
    assert_eq!(Journal::open(&path).unwrap().entries, entries);
}
