//! Files that misbehave: a call fails, or says so and was done all the same; everything stops as under `kill -9`; names that
//! others made are not seen for a while, as where a network file system's client keeps attributes.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::io::Errno;

use super::{Call, Files};

/// What the system says when something goes wrong.
pub(in crate::registry) const ERRORS: [Errno; 5] =
    [Errno::NOSPC, Errno::IO, Errno::ROFS, Errno::MFILE, Errno::ACCESS];

/// How long a client of a network file system believes what it knows of a directory.
const BELIEVED: Duration = Duration::from_secs(3);

/// What goes wrong, counted in calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Plan {
    /// Nothing.
    Sound,
    /// This call fails; `done`: although it was done.
    Fail { at: u64, error: Errno, done: bool },
    /// This call and all behind it do nothing and fail: the process is dead.
    Stop { at: u64 },
}

/// One directory as all its clients change it, on a clock that the test moves.
#[derive(Default)]
pub(in crate::registry) struct World {
    now: Mutex<Duration>,
    /// By whom a name was made last, and when.
    made: Mutex<HashMap<PathBuf, (u32, Duration)>>,
}

/// One client's view and faults.
pub(in crate::registry) struct Faults {
    world: Arc<World>,
    client: u32,
    /// Believes what it knows even when a directory is opened anew.
    deaf: bool,
    state: Mutex<State>,
}

struct State {
    plan: Plan,
    calls: u64,
    /// What another one does before this call.
    meanwhile: Option<(u64, Box<dyn FnOnce() + Send>)>,
    /// When each directory was asked for last.
    asked: HashMap<PathBuf, Duration>,
}

impl World {
    pub(in crate::registry) fn pass(&self, time: Duration) {
        *lock(&self.now) += time;
    }

    fn now(&self) -> Duration {
        // A little more with each look: what came later was later.
        let mut now = lock(&self.now);
        *now += Duration::from_nanos(1);
        *now
    }

    /// A client of it.
    pub(in crate::registry) fn client(self: &Arc<Self>, client: u32, deaf: bool) -> Arc<Faults> {
        let state = State { plan: Plan::Sound, calls: 0, meanwhile: None, asked: HashMap::new() };
        Arc::new(Faults { world: self.clone(), client, deaf, state: Mutex::new(state) })
    }
}

impl Faults {
    /// From now on; calls are counted from 0 again.
    pub(in crate::registry) fn plan(&self, plan: Plan) {
        let mut state = lock(&self.state);
        (state.plan, state.calls) = (plan, 0);
    }

    /// Another one does this right before a call, counted from now on.
    pub(in crate::registry) fn meanwhile(&self, at: u64, what: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.state);
        state.meanwhile = Some((at, Box::new(what)));
        state.calls = 0;
    }

    pub(super) fn pass(&self, time: Duration) {
        self.world.pass(time);
    }

    /// Calls since the last plan.
    pub(in crate::registry) fn calls(&self) -> u64 {
        lock(&self.state).calls
    }

    pub(super) fn step<T>(
        &self,
        call: Call,
        path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let (plan, this, meanwhile) = {
            let mut state = lock(&self.state);
            state.calls += 1;
            let this = state.calls - 1;
            (state.plan, this, state.meanwhile.take_if(|(at, _)| *at == this))
        };
        if let Some((_, what)) = meanwhile {
            what();
        }
        let fails = match plan {
            Plan::Stop { at } if this >= at => return Err(io::Error::other("the process is dead")),
            Plan::Fail { at, error, done: false } if this == at => return Err(error.into()),
            Plan::Fail { at, error, done: true } if this == at => Some(error),
            _ => None,
        };
        if matches!(call, Call::Look | Call::Open | Call::Take) && !self.sees(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if call == Call::Open && !self.deaf {
            let now = self.world.now();
            lock(&self.state).asked.insert(path.to_owned(), now);
        }
        let made = |made| {
            let mut all = lock(&self.world.made);
            match made {
                Some(made) => all.insert(path.to_owned(), made),
                None => all.remove(path),
            }
        };
        // Its time is from before: who asks while it is made must not count as one who asked too early, for it may see it.
        let before = (call == Call::Make).then(|| made(Some((self.client, self.world.now()))));
        let done = work();
        if let (Some(before), Err(_)) = (before, &done) {
            made(before);
        }
        match fails {
            Some(error) => Err(error.into()),
            None => done,
        }
    }

    /// Whether this client knows of the name and of all above it.
    pub(super) fn sees(&self, path: &Path) -> bool {
        path.ancestors().all(|path| self.sees_name(path))
    }

    fn sees_name(&self, path: &Path) -> bool {
        let Some(dir) = path.parent() else { return true };
        let now = self.world.now();
        let mut state = lock(&self.state);
        let asked = state.asked.get(dir).copied().filter(|asked| now.saturating_sub(*asked) < BELIEVED);
        let asked = asked.unwrap_or_else(|| {
            state.asked.insert(dir.to_owned(), now);
            now
        });
        let made = lock(&self.world.made).get(path).copied();
        made.is_none_or(|(by, at)| by == self.client || at <= asked)
    }
}

impl Files {
    pub(in crate::registry) fn faulty(tmp: &Path, faults: &Arc<Faults>) -> Self {
        Self { tmp: tmp.into(), faults: Some(faults.clone()) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_another_made_is_hidden_until_time_passes_or_the_directory_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(World::default());
        let faults = [world.client(1, false), world.client(2, false), world.client(3, true)];
        let [one, two, deaf] = [0, 1, 2].map(|n| Files::faulty(dir.path(), &faults[n]));
        let path = dir.path().join("a");
        for other in [&two, &deaf] {
            assert!(!other.is_there(&path).unwrap());
        }
        one.write(&path, b"x").unwrap();
        assert!(one.is_there(&path).unwrap());
        assert!(!two.is_there(&path).unwrap() && two.read(&path).is_err());
        assert_eq!(two.list(dir.path()).unwrap().len(), 1);
        assert!(two.is_there(&path).unwrap());
        assert!(!deaf.is_there(&path).unwrap() && deaf.list(dir.path()).unwrap().is_empty());
        world.pass(BELIEVED);
        assert!(deaf.is_there(&path).unwrap());
    }

    #[test]
    fn a_call_fails_or_lies_or_everything_stops() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(World::default()).client(1, false);
        let files = Files::faulty(dir.path(), &faults);
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        faults.plan(Plan::Fail { at: 0, error: Errno::ROFS, done: false });
        assert_eq!(files.make_dir(&a).unwrap_err().raw_os_error(), Some(30));
        assert!(!a.exists() && files.make_dir(&a).is_ok() && faults.calls() == 2);
        faults.plan(Plan::Fail { at: 0, error: Errno::IO, done: true });
        assert!(files.make_dir(&b).is_err() && b.exists());
        faults.plan(Plan::Stop { at: 1 });
        assert!(files.make_dir(&c).is_ok() && files.remove_dir(&c).is_err() && files.list(&c).is_err());
        assert!(c.exists());
    }
}
