//! Who has a duty in a directory that several registries use.
//!
//! ```text
//! leases/<duty>/<generation>   who has it, and what was noted; the file's time is when its holder was last heard of
//! ```
//!
//! Generations are decided as those of catalogues are ([`super::ledger`]). A holder sets its file's time, by the storage's clock;
//! whoever sees one that is older than the silence makes the next generation. A holder counts from before each of its calls and by
//! its own clock, so what it takes for its lease ends before another one can think so.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::{
    ContentError,
    files::{Files, full_or},
    lease::Duty,
};
use super::ledger::{Ledger, Newest, Went, is_gone};
use crate::clock;

/// Of the silence, a holder keeps quiet for this part at most…
const QUIET: u32 = 6;

/// …and takes the lease for lost after two thirds.
fn held(silence: Duration) -> Duration {
    silence * 2 / 3
}

/// A generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    /// Nobody has it: it was given back.
    holder: Option<Holder>,
    note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    registry: String,
    /// Of this one time that it has the lease.
    term: Uuid,
}

pub(in crate::registry::content) struct Leases {
    root: PathBuf,
    files: Files,
    ledger: Ledger,
    registry: String,
}

/// One that is held, as its holder knows it.
pub(in crate::registry::content) struct Term {
    dir: PathBuf,
    duty: Duty,
    silence: Duration,
    holder: Holder,
    state: Mutex<State>,
}

struct State {
    /// Of the newest generation, which is this one's.
    number: u64,
    id: Uuid,
    note: Option<String>,
    /// By [`clock::boot`], from before the last call that said it is alive.
    heard: Duration,
    lost: bool,
}

impl Leases {
    pub(in crate::registry::content) fn new(
        root: PathBuf,
        files: Files,
        ledger: Ledger,
        registry: String,
    ) -> Self {
        Self { root, files, ledger, registry }
    }

    /// Takes it, if nobody has it, its holder is silent, or was an earlier process of this registry.
    pub(in crate::registry::content) fn take(
        &self,
        duty: Duty,
        silence: Duration,
    ) -> Result<Option<Term>, ContentError> {
        let dir = self.root.join(duty.word());
        let heard = clock::boot();
        let newest = self.ledger.newest::<Record>(&dir, None);
        let (number, id, note) = match newest.map_err(ContentError::io("look who has a lease"))? {
            Newest::None | Newest::Known => (0, None, None),
            Newest::Damaged(number, _) if !self.is_silent(&dir, number, silence)? => return Ok(None),
            Newest::Damaged(number, _) => (number, None, None),
            Newest::Read(number, written) => {
                let other = written.what.holder.as_ref().filter(|holder| holder.registry != self.registry);
                if let Some(other) = other {
                    if !self.is_silent(&dir, number, silence)? {
                        return Ok(None);
                    }
                    tracing::warn!(duty = duty.word(), registry = %other.registry,
                        "registry is silent, and its duty is taken over");
                }
                (number, Some(written.id), written.what.note)
            }
        };
        let holder = Holder { registry: self.registry.clone(), term: Uuid::new_v4() };
        let record = Record { holder: Some(holder.clone()), note: note.clone() };
        match self.ledger.publish(&dir, number + 1, id, record)? {
            (Went::Lost, _) => Ok(None),
            (Went::Won, id) => {
                let state = Mutex::new(State { number: number + 1, id, note, heard, lost: false });
                let term = Term { dir, duty, silence, holder, state };
                // What took longer than that may be another's already.
                Ok(term.check().is_ok().then_some(term))
            }
        }
    }

    /// Whether nothing was heard of a generation for so long, by the storage's clock.
    fn is_silent(&self, dir: &Path, number: u64, silence: Duration) -> Result<bool, ContentError> {
        let beside = self.files.beside();
        let age = || {
            self.files.write(&beside, b"")?;
            let now = self.files.look(&beside)?.modified()?;
            // Opened, for a network's client may remember an older time of it.
            let heard = self.files.open(&dir.join(number.to_string()))?.metadata()?.modified()?;
            Ok(now.duration_since(heard).unwrap_or_default())
        };
        let age: io::Result<Duration> = age();
        self.files.forget(&beside);
        match age {
            // Somebody went on from it.
            Err(error) if is_gone(&error) => Ok(false),
            age => Ok(age.map_err(full_or("look at a lease's age"))? >= silence),
        }
    }

    /// Says that it is held, and looks whether it is. A storage that fails says nothing about that.
    pub(in crate::registry::content) fn beat(&self, term: &Term) -> Result<(), ContentError> {
        // One that is lost is another's to keep alive.
        term.check()?;
        let mut state = term.state();
        let began = clock::boot();
        let mut path = term.dir.join(state.number.to_string());
        let mut say = |state: &mut State| {
            match self.ledger.newest::<Record>(&term.dir, Some(state.number))? {
                Newest::Known => {}
                // A note of its own that it took for a failure.
                Newest::Read(number, written) if written.what.holder.as_ref() == Some(&term.holder) => {
                    (state.number, state.id, state.note) = (number, written.id, written.what.note);
                    path = term.dir.join(number.to_string());
                }
                Newest::None | Newest::Damaged(..) | Newest::Read(..) => return Ok(false),
            }
            let file = self.files.open(&path)?;
            self.files.touch(&file)?;
            Ok(matches!(self.ledger.newest::<Record>(&term.dir, Some(state.number))?, Newest::Known))
        };
        match say(&mut state) {
            Ok(ours) => term.heard(&mut state, began, ours),
            Err(error) if is_gone(&error) => term.heard(&mut state, began, false),
            Err(error) => return Err(full_or("keep a lease")(error)),
        }
        drop(state);
        term.check()
    }

    /// Leaves a note for the next holder, and stays the holder.
    pub(in crate::registry::content) fn note(&self, term: &Term, text: String) -> Result<(), ContentError> {
        self.go_on(term, Some(term.holder.clone()), Some(text))
    }

    /// Gives it back.
    pub(in crate::registry::content) fn end(&self, term: &Term) -> Result<(), ContentError> {
        let note = term.state().note.clone();
        self.go_on(term, None, note)?;
        term.state().lost = true;
        Ok(())
    }

    fn go_on(&self, term: &Term, holder: Option<Holder>, note: Option<String>) -> Result<(), ContentError> {
        term.check()?;
        let mut state = term.state();
        let began = clock::boot();
        let record = Record { holder, note: note.clone() };
        match self.ledger.publish(&term.dir, state.number + 1, Some(state.id), record)? {
            (Went::Won, id) => {
                (state.number, state.id, state.note) = (state.number + 1, id, note);
                term.heard(&mut state, began, true);
            }
            (Went::Lost, _) => term.heard(&mut state, began, false),
        }
        drop(state);
        term.check()
    }
}

impl Term {
    /// What was noted last.
    pub(in crate::registry::content) fn noted(&self) -> Option<String> {
        self.state().note.clone()
    }

    /// How long it may keep quiet.
    pub(in crate::registry::content) fn pause(&self) -> Duration {
        self.silence / QUIET
    }

    /// Whether nobody else can have it.
    pub(in crate::registry::content) fn check(&self) -> Result<(), ContentError> {
        let state = self.state();
        if state.lost || clock::boot().saturating_sub(state.heard) >= held(self.silence) {
            return Err(ContentError::LeaseLost { duty: self.duty });
        }
        Ok(())
    }

    /// A call that began then has said that it is held. One that came back after the lease may have been over proves nothing.
    fn heard(&self, state: &mut State, began: Duration, ours: bool) {
        let in_time = clock::boot().saturating_sub(state.heard) < held(self.silence);
        state.lost |= !ours || !in_time;
        state.heard = began;
    }

    /// What a panicking holder left is whole: it is changed in single steps.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::{
        conformance::place,
        files::faulty::{ERRORS, Plan, World},
    };
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_secs(1);

    fn leases(dir: &Path, registry: &str) -> Leases {
        of(dir, registry, Files::new(dir))
    }

    fn of(dir: &Path, registry: &str, files: Files) -> Leases {
        let ledger = Ledger::new(files.clone(), dir.to_owned(), registry.into());
        Leases::new(dir.join("leases"), files, ledger, registry.into())
    }

    #[test]
    fn one_has_it_and_the_next_reads_its_note_once_it_is_given_back_or_silent() {
        let dir = place();
        let [one, two] = ["r1", "r2"].map(|name| leases(dir.path(), name));
        let term = one.take(Duty::Garbage, LONG).unwrap().unwrap();
        assert!(two.take(Duty::Garbage, LONG).unwrap().is_none());
        assert!(two.take(Duty::Scrub, LONG).unwrap().is_some(), "another duty");
        one.beat(&term).unwrap();
        one.note(&term, "as far as 7".into()).unwrap();
        one.beat(&term).unwrap();
        assert!(two.take(Duty::Garbage, LONG).unwrap().is_none());
        one.end(&term).unwrap();
        assert!(matches!(term.check(), Err(ContentError::LeaseLost { .. })));
        let next = two.take(Duty::Garbage, SHORT).unwrap().unwrap();
        assert_eq!(next.noted().as_deref(), Some("as far as 7"));
        std::thread::sleep(SHORT * 5 / 4);
        assert!(two.beat(&next).is_err() && next.check().is_err(), "it kept quiet for too long");
        let last = one.take(Duty::Garbage, SHORT).unwrap().unwrap();
        assert!(two.beat(&next).is_err() && two.note(&next, "late".into()).is_err());
        assert_eq!(last.noted().as_deref(), Some("as far as 7"));
        one.beat(&last).unwrap();
    }

    #[test]
    fn an_earlier_process_of_the_same_name_holds_nobody_up_and_loses_it() {
        let dir = place();
        let [before, after] = [(); 2].map(|()| leases(dir.path(), "r1"));
        let dead = before.take(Duty::Garbage, LONG).unwrap().unwrap();
        let alive = after.take(Duty::Garbage, LONG).unwrap().unwrap();
        assert!(before.beat(&dead).is_err() && dead.check().is_err());
        after.beat(&alive).unwrap();
    }

    #[test]
    fn one_that_cannot_be_read_is_taken_when_its_time_is_over() {
        let dir = place();
        let one = leases(dir.path(), "r1");
        one.take(Duty::Garbage, LONG).unwrap().unwrap();
        std::fs::write(dir.path().join("leases/garbage/1"), "{").unwrap();
        assert!(one.take(Duty::Garbage, LONG).unwrap().is_none());
        std::thread::sleep(SHORT * 5 / 4);
        assert!(one.take(Duty::Garbage, SHORT).unwrap().is_some());
    }

    /// Whichever call fails, or lies that it did, two never have it at once, and a holder that goes on is believed.
    #[test]
    fn whatever_call_goes_wrong_no_two_have_it() {
        for at in 0..40 {
            for done in [false, true] {
                let dir = place();
                let world = Arc::new(World::default());
                let faults = [world.client(1, false), world.client(2, false)];
                let [one, two] =
                    [0, 1].map(|n| of(dir.path(), &format!("r{n}"), Files::faulty(dir.path(), &faults[n])));
                faults[0].plan(Plan::Fail { at, error: ERRORS[at as usize % ERRORS.len()], done });
                let term = one.take(Duty::Scrub, LONG);
                let noted =
                    term.as_ref().ok().and_then(Option::as_ref).map(|term| one.note(term, "n".into()));
                faults[0].plan(Plan::Sound);
                let other = two.take(Duty::Scrub, LONG).unwrap();
                let Ok(Some(term)) = term else { continue };
                assert!(other.is_none(), "{at} {done}");
                let beaten = one.beat(&term);
                assert!(beaten.is_ok(), "{at} {done}: {beaten:?} after {noted:?}");
                one.end(&term).unwrap();
                assert!(two.take(Duty::Scrub, LONG).unwrap().is_some(), "{at} {done}");
            }
        }
    }
}
