// Random appends, take-backs, compactions and restarts against a list in memory.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::wire::replication::Change;

const END: Position = Position { epoch: u64::MAX, seq: 0 };

fn change(prev: Position, position: Position) -> (Entry, Bytes) {
    let opened = (position.seq == 1).then(|| Epoch {
        epoch: position.epoch,
        after: prev,
        writer: "w".into(),
        id: position.epoch.to_string(),
    });
    let entry = Entry {
        position,
        prev,
        time: 7,
        change: if opened.is_some() { Change::Opened } else { Change::Blob },
        repository: None,
        opened,
        digest: None,
        blobs: Vec::new(),
        patch: None,
    };
    let line = serde_json::to_vec(&entry).unwrap().into();
    (entry, line)
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Reign,
    TakeBack(u8),
    Compact { keep: u8, needed: u8 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..5u8).prop_map(Step::Append),
        1 => Just(Step::Reign),
        1 => (1..4u8).prop_map(Step::TakeBack),
        1 => (1..6u8, 0..40u8).prop_map(|(keep, needed)| Step::Compact { keep, needed }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// All that was ever appended and not taken back, and how many of them were compacted away.
#[derive(Default)]
struct Model {
    all: Vec<(Position, Mark, Bytes)>,
    gone: usize,
    /// Entries before the last append: known to be applied.
    applied: usize,
}

impl Model {
    fn head(&self) -> (Position, Mark) {
        self.all.last().map_or((Position::ZERO, Mark::ZERO), |(at, mark, _)| (*at, *mark))
    }

    fn append(&mut self, log: &Log, positions: &[Position]) {
        let mut prev = self.head().0;
        let mut entries = Vec::new();
        for position in positions {
            entries.push(change(prev, *position));
            prev = *position;
        }
        log.append(&entries).unwrap();
        self.applied = self.all.len();
        for (entry, line) in entries {
            let mark = self.head().1.then(&line);
            self.all.push((entry.position, mark, line));
        }
    }

    fn check(&self, log: &Log) {
        assert_eq!(log.head(), self.head());
        let history = log.history();
        assert!(history.holds());
        let base = self.gone.checked_sub(1).map_or(Position::ZERO, |last| self.all[last].0);
        assert_eq!(history.base, base);
        for (at, (position, mark, _)) in self.all.iter().enumerate() {
            let read = log.read(*position, Some(*mark), END).unwrap();
            if at + 1 < self.gone {
                assert_eq!(read, Read::Compacted { oldest: base }, "{position}");
                continue;
            }
            let Read::Lines { lines, upto, mark } = read else { panic!("{position}: {read:?}") };
            let wanted: Vec<&Bytes> = self.all[at + 1..].iter().map(|(_, _, line)| line).collect();
            assert_eq!(lines.iter().collect::<Vec<_>>(), wanted, "behind {position}");
            assert_eq!((upto, mark), self.head());
            assert_eq!(log.read(*position, Some(Mark::ZERO), END).unwrap(), Read::Foreign { common: None });
        }
        let ahead = self.head().0.next();
        assert_eq!(log.read(ahead, None, END).unwrap(), Read::Foreign { common: Some(self.head().0) });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_log_says_what_was_appended_whatever_happens_between(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("log");
        let mut log = Log::open(&path).unwrap();
        let mut model = Model::default();
        model.append(&log, &[Position { epoch: 1, seq: 1 }]);
        for step in steps {
            match step {
                Step::Append(count) => {
                    let mut at = model.head().0;
                    let next: Vec<_> = (0..count).map(|_| { at = at.next(); at }).collect();
                    model.append(&log, &next);
                }
                Step::Reign => model.append(&log, &[model.head().0.next_epoch()]),
                // A reign's first entry is never taken back: it is the only one that has no change to fail.
                Step::TakeBack(count) => {
                    let most = (model.head().0.seq as usize - 1).min(model.all.len() - model.gone - 1);
                    let left = model.all.len() - most.min(count.into());
                    if let Some((from, ..)) = model.all.get(left) {
                        log.take_back(*from..=model.head().0).unwrap();
                    }
                    model.all.truncate(left);
                    model.applied = model.applied.min(model.all.len());
                }
                Step::Compact { keep, needed } => {
                    let needed = model.all.get(usize::from(needed)).map_or(model.head().0, |one| one.0);
                    let there = model.all.len() - model.gone;
                    let past = there.saturating_sub(2 * usize::from(keep));
                    let extra = there.saturating_sub(usize::from(keep));
                    let may = model.all[model.gone..].iter().take_while(|one| one.0 <= needed).count();
                    let goes = extra.min(may.max(past)).min(model.applied - model.gone);
                    prop_assert_eq!(log.compact(keep.into(), needed).unwrap(), goes as u64);
                    model.gone += goes;
                }
                Step::Reopen => {
                    drop(log);
                    log = Log::open(&path).unwrap();
                }
            }
            model.check(&log);
        }
    }
}

#[test]
fn compaction_beside_appends_and_reads_never_looks_like_another_history() {
    let log = Log::in_memory().unwrap();
    log.append(&[change(Position::ZERO, Position { epoch: 1, seq: 1 })]).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let going = || !over.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while going() {
                log.compact(4, END).unwrap();
            }
        });
        scope.spawn(|| {
            let mut base = Position::ZERO;
            while going() {
                let now = log.history().base;
                assert!(now >= base, "the beginning went back from {base} to {now}");
                base = now;
                assert!(!matches!(log.read(base, None, END).unwrap(), Read::Foreign { .. }), "{base}");
            }
        });
        for _ in 0..600 {
            let head = log.head().0;
            log.append(&[change(head, head.next())]).unwrap();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn what_does_not_follow_is_not_appended() {
    let log = Log::in_memory().unwrap();
    let first = Position { epoch: 1, seq: 1 };
    log.append(&[change(Position::ZERO, first)]).unwrap();
    for (prev, position) in
        [(Position::ZERO, first.next()), (first, first), (first.next(), first.next().next())]
    {
        assert!(matches!(log.append(&[change(prev, position)]), Err(LogError::Damaged(_))), "{position}");
    }
    assert_eq!(log.head().0, first);
}

#[test]
fn notes_last_and_a_reset_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.append(&[change(Position::ZERO, Position { epoch: 1, seq: 1 })]).unwrap();
    log.put_note("diverged", Some(b"1")).unwrap();
    log.put_note("leased", Some(b"1")).unwrap();
    drop(log);
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.note("diverged").unwrap().as_deref(), Some(b"1".as_slice()));
    let base = Position { epoch: 2, seq: 9 };
    let epoch = Epoch { epoch: 2, after: Position { epoch: 1, seq: 4 }, writer: "w".into(), id: "x".into() };
    log.reset(base, Mark::ZERO.then(b"x"), std::slice::from_ref(&epoch), "diverged").unwrap();
    assert_eq!((log.note("diverged").unwrap(), log.len().unwrap()), (None, 0));
    assert!(log.note("leased").unwrap().is_some());
    drop(log);
    let history = Log::open(dir.path()).unwrap().history();
    assert_eq!((history.base, history.head, history.epochs), (base, base, vec![epoch]));
}

#[test]
fn a_damaged_file_is_said_and_not_used() {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("log.redb"), b"garbage").unwrap();
    assert!(Log::open(dir.path()).is_err());
}
