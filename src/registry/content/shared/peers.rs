//! Who else is here, and whether the mount shows at once what others do.
//!
//! Each registry makes a new, empty file every two seconds, as a publication makes a new name. Whoever sees a name for the
//! first time that is older than its own last look did not see it then: the mount keeps names to itself, and answers would be
//! old. Times are the storage's own, of files, so no two clocks are compared and nobody needs to be quick.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::super::files::Files;
use super::folder;
use crate::clock;

/// A registry whose last name is older is not taken for alive.
const ALIVE: Duration = Duration::from_secs(10);

/// File times come in steps, and a name is seen a little later than it is made.
const MARGIN: Duration = Duration::from_millis(250);

/// How long a late sight makes a registry doubt its mount.
const DOUBT: Duration = Duration::from_secs(60);

/// How long a registry that starts waits to see what others write.
const TEST: Duration = Duration::from_secs(6);

/// Own names that are kept: whoever looks finds one.
const NAMES: usize = 3;

/// All that one registry knows of the others.
pub(in crate::registry::content) struct Peers {
    root: PathBuf,
    own: String,
    run: String,
    files: Files,
    state: Mutex<State>,
}

struct State {
    number: u64,
    /// By the storage's clock: before the last look.
    looked: Option<SystemTime>,
    known: BTreeMap<String, BTreeSet<OsString>>,
    /// Alive at the first look, and not seen to write since.
    untested: BTreeSet<String>,
    /// By [`clock::boot`].
    test_until: Duration,
    late: Option<(Duration, String)>,
    gone: Vec<String>,
}

impl Peers {
    pub(in crate::registry::content) fn new(root: PathBuf, registry: &str, files: Files) -> Self {
        let state = State {
            number: 0,
            looked: None,
            known: BTreeMap::new(),
            untested: BTreeSet::new(),
            test_until: Duration::ZERO,
            late: None,
            gone: Vec::new(),
        };
        let run = uuid::Uuid::new_v4().simple().to_string();
        Self { root, own: folder(registry), run, files, state: Mutex::new(state) }
    }

    /// Says that this registry is alive and looks at the others; registries that were silent for `idle` are [gone](Self::gone).
    pub(in crate::registry::content) fn beat(&self, idle: Duration) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.root.join(&self.own);
        self.files.make_dirs(&own)?;
        let name = own.join(format!("{}.{}", self.run, state.number));
        self.files.create_new(&name)?;
        let before = self.files.look(&name)?.modified()?;
        state.number += 1;
        let mut known = BTreeMap::new();
        let mut gone = Vec::new();
        for entry in self.files.list(&self.root)? {
            let Ok(peer) = entry.file_name().into_string() else { continue };
            if peer == self.own {
                continue;
            }
            let changed = self.files.look(&entry.path())?.modified()?;
            known.insert(peer.clone(), self.meet(&mut state, &peer, before)?);
            if before.duration_since(changed).unwrap_or_default() >= idle {
                gone.push(peer);
            }
        }
        state.known = known;
        state.gone = gone;
        state.looked = Some(before);
        let kept = |number: u64| number.checked_sub(NAMES as u64 + 1);
        if let Some(old) = kept(state.number) {
            self.files.forget(&own.join(format!("{}.{old}", self.run)));
        }
        Ok(())
    }

    fn meet(&self, state: &mut State, peer: &str, before: SystemTime) -> io::Result<BTreeSet<OsString>> {
        let dir = self.root.join(peer);
        let names: BTreeSet<OsString> =
            self.files.list(&dir)?.into_iter().map(|entry| entry.file_name()).collect();
        for name in &names {
            if state.known.get(peer).is_some_and(|known| known.contains(name)) {
                continue;
            }
            // Gone since: it was one of the older ones.
            let Ok(made) = self.files.look(&dir.join(name)).and_then(|meta| meta.modified()) else {
                continue;
            };
            match state.looked {
                None if before.duration_since(made).unwrap_or_default() < ALIVE => {
                    state.untested.insert(peer.to_owned());
                    state.test_until = clock::boot() + TEST;
                }
                None => {}
                Some(looked) if made + MARGIN < looked => {
                    let late = before.duration_since(made).unwrap_or_default();
                    let why = format!(
                        "a file of `{peer}` was first seen {:.1} s after it was made: the mount keeps names to itself; mount \
                         it with `actimeo=0`, `noac` or `lookupcache=none`",
                        late.as_secs_f64()
                    );
                    tracing::error!(
                        peer,
                        late = late.as_secs_f64(),
                        "mount does not show at once what others write"
                    );
                    state.late = Some((clock::boot(), why));
                }
                Some(_) => drop(state.untested.remove(peer)),
            }
        }
        Ok(names)
    }

    /// Why nothing that is read here may be believed, if that is so.
    pub(in crate::registry::content) fn doubt(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::boot();
        if let Some((at, why)) = &state.late
            && now.saturating_sub(*at) < DOUBT
        {
            return Some(why.clone());
        }
        let untested = state.untested.iter().next().filter(|_| now < state.test_until)?;
        Some(format!("it looks whether the mount shows at once what `{untested}` writes"))
    }

    /// Whether it is not known yet if the mount shows at once what others write. That is so for some seconds at most.
    pub(in crate::registry::content) fn is_testing(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        !state.untested.is_empty() && clock::boot() < state.test_until
    }

    /// Folders of registries that were silent for too long.
    pub(in crate::registry::content) fn gone(&self) -> Vec<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).gone.clone()
    }

    /// Whether another process that is alive calls itself as this one does: its names are there, and become more while one waits.
    pub(in crate::registry::content) fn has_twin(&self, wait: impl Fn(Duration)) -> io::Result<bool> {
        let own = self.root.join(&self.own);
        self.files.make_dirs(&own)?;
        let ours = |name: &OsString| name.as_encoded_bytes().starts_with(self.run.as_bytes());
        let names = || {
            let list = self.files.list(&own)?.into_iter().map(|entry| entry.file_name());
            io::Result::Ok(list.filter(|name| !ours(name)).collect::<BTreeSet<_>>())
        };
        let before = names()?;
        if before.is_empty() {
            return Ok(false);
        }
        // Not where files usually lie before they have a name: a twin's may be there.
        let beside = own.join(format!("{}.start", self.run));
        self.files.create_new(&beside)?;
        let now = self.files.look(&beside)?.modified();
        self.files.forget(&beside);
        let now = now?;
        let is_new = |name: &OsString| {
            let made = self.files.look(&own.join(name)).and_then(|meta| meta.modified());
            made.is_ok_and(|made| now.duration_since(made).unwrap_or_default() < ALIVE)
        };
        if before.iter().any(is_new) {
            wait(Duration::from_millis(3500));
            if names()?.difference(&before).next().is_some() {
                return Ok(true);
            }
        }
        for name in before {
            self.files.forget(&own.join(name));
        }
        Ok(false)
    }

    /// Takes its names away: the next one of this name need not wait.
    pub(in crate::registry::content) fn leave(&self) {
        let own = self.root.join(&self.own);
        for entry in self.files.list(&own).into_iter().flatten() {
            self.files.forget(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::files::faulty::World;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Two registries, the second one through a mount that asks again when a directory is opened, or does not.
    fn second(deaf: bool) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(World::default());
        let root = dir.path().join(".peers");
        let peer = |client, deaf| {
            let files = Files::faulty(dir.path(), &world.client(client, deaf));
            Peers::new(root.clone(), &format!("r{client}"), files)
        };
        let (one, two) = (peer(1, false), peer(2, deaf));
        one.beat(HOUR).unwrap();
        two.beat(HOUR).unwrap();
        assert!(two.doubt().is_some_and(|why| why.contains("`r1` writes")), "it has not seen it write");
        for _ in 0..2 {
            one.beat(HOUR).unwrap();
            std::thread::sleep(MARGIN + Duration::from_millis(50));
            two.beat(HOUR).unwrap();
        }
        world.pass(Duration::from_secs(4));
        two.beat(HOUR).unwrap();
        two.doubt()
    }

    #[test]
    fn a_mount_that_keeps_names_to_itself_is_found_and_named() {
        assert_eq!(second(false), None);
        let why = second(true).unwrap();
        assert!(why.contains("`actimeo=0`"), "{why}");
    }

    #[test]
    fn a_second_process_of_one_name_is_found_and_a_dead_one_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let peer = || Peers::new(dir.path().join(".peers"), "r1", Files::new(dir.path()));
        let first = peer();
        assert!(!first.has_twin(|_| {}).unwrap());
        first.beat(HOUR).unwrap();
        assert!(peer().has_twin(|_| first.beat(HOUR).unwrap()).unwrap());
        assert!(!peer().has_twin(|_| {}).unwrap(), "it is silent");
        first.beat(HOUR).unwrap();
        first.leave();
        assert!(!peer().has_twin(|_| panic!("nobody is there to wait for")).unwrap());
        let (one, two) = (Peers::new(dir.path().join(".peers"), "r2", Files::new(dir.path())), peer());
        two.beat(HOUR).unwrap();
        one.beat(HOUR).unwrap();
        assert!(one.gone().is_empty());
        one.beat(Duration::ZERO).unwrap();
        assert_eq!(one.gone(), ["r1"]);
    }
}
