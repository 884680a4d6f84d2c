//! Who runs: the processes that stand for VMs, looked at all the time while a scenario goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::place::{MARK, Place};

/// How long the watcher rests between two looks.
const REST: Duration = Duration::from_millis(5);

/// A process that stands for a VM: its id and the moment it started, so that a reused id is another one.
type Running = (u32, u64);

#[derive(Default)]
struct Seen {
    /// Every VM process an instance ever had.
    ever: BTreeMap<String, BTreeSet<Running>>,
    /// Those alive at the last look.
    now: BTreeMap<String, Vec<u32>>,
    /// Two alive at once.
    doubled: Vec<String>,
    looks: u64,
}

/// Watches the VM processes of one place from its start to its end.
pub struct Vms {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Vms {
    pub fn watch(place: &Place) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (to, ends, dir) = (seen.clone(), stop.clone(), place.dir().to_owned());
        let thread = std::thread::spawn(move || {
            let mut known = Known::default();
            while !ends.load(Ordering::Relaxed) {
                let now = look(&dir, &mut known);
                to.lock().expect("no holder panics").note(now);
                std::thread::sleep(REST);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// The VM processes of an instance that are alive now.
    pub fn of(&self, instance: &str) -> Vec<u32> {
        self.seen.lock().expect("no holder panics").now.get(instance).cloned().unwrap_or_default()
    }

    /// How many VM processes an instance ever had, one after the other or at once.
    pub fn ever(&self, instance: &str) -> usize {
        self.seen.lock().expect("no holder panics").ever.get(instance).map_or(0, BTreeSet::len)
    }

    /// The instances that have a VM process now.
    pub fn running(&self) -> BTreeSet<String> {
        self.seen.lock().expect("no holder panics").now.keys().cloned().collect()
    }

    /// Panics if any instance ever had two VMs at once. The number of looks is in the message, so that a watcher
    /// that never looked is seen.
    #[track_caller]
    pub fn assert_never_two(&self) {
        let seen = self.seen.lock().expect("no holder panics");
        assert!(seen.looks > 0, "the watcher has not looked once");
        assert!(
            seen.doubled.is_empty(),
            "two VMs for one instance ({} looks): {:?}",
            seen.looks,
            seen.doubled
        );
    }
}

impl Drop for Vms {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Seen {
    fn note(&mut self, found: Vec<(String, Running)>) {
        self.looks += 1;
        self.now.clear();
        for (instance, running) in found {
            self.now.entry(instance.clone()).or_default().push(running.0);
            self.ever.entry(instance).or_default().insert(running);
        }
        for (instance, pids) in &self.now {
            if pids.len() > 1 {
                self.doubled.push(format!("{instance}: processes {pids:?}"));
            }
        }
    }
}

/// What is known about the processes of the machine, so that a look costs one listing of /proc and little more.
#[derive(Default)]
struct Known {
    vms: BTreeMap<Running, String>,
    others: BTreeSet<u32>,
    /// How often a process was looked at and was nothing yet: between fork and exec a child looks like its parent.
    doubtful: BTreeMap<u32, u32>,
}

/// After so many looks a process that is no VM will not become one.
const SETTLED: u32 = 40;

/// The VM processes of a place that are alive.
fn look(dir: &Path, known: &mut Known) -> Vec<(String, Running)> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for pid in processes.flatten().filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok()) {
        if known.others.contains(&pid) {
            continue;
        }
        let Some((parent, started)) = birth(pid) else { continue };
        let instance = match known.vms.get(&(pid, started)) {
            Some(instance) => instance.clone(),
            // A VM that is about to run a script has for a moment a child that looks like itself.
            None => match instance_of(pid, dir).filter(|_| instance_of(parent, dir).is_none()) {
                Some(instance) => known.vms.entry((pid, started)).or_insert(instance).clone(),
                None => {
                    let looks = known.doubtful.entry(pid).or_default();
                    *looks += 1;
                    if *looks > SETTLED {
                        known.others.insert(pid);
                    }
                    continue;
                }
            },
        };
        found.push((instance, (pid, started)));
    }
    found
}

/// `switchyard vm-process …` with the instance's id among its arguments, or in its working directory's path.
fn instance_of(pid: u32, dir: &Path) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments: Vec<String> =
        line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    if arguments.get(1).is_none_or(|verb| verb != "vm-process") {
        return None;
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mark = format!("{MARK}={}", dir.display());
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let here = environment.split(|b| *b == 0).any(|e| e == mark.as_bytes())
        || cwd.starts_with(dir)
        || arguments.iter().any(|a| a.contains(dir.to_string_lossy().as_ref()));
    let mut places = arguments.iter().map(String::as_str).chain(cwd.to_str()).filter(|_| here);
    places.find_map(uuid_in)
}

/// The last UUID in a text.
fn uuid_in(text: &str) -> Option<String> {
    let shape = |word: &&str| {
        word.len() == 36
            && word.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    };
    text.split(|c: char| !(c.is_ascii_hexdigit() || c == '-')).rfind(shape).map(str::to_owned)
}

/// Fields 4 and 22 of proc(5) `stat`: the parent, and clock ticks from boot to the start. None for a process that
/// is gone or a zombie: a zombie runs nothing.
fn birth(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}
