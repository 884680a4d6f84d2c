//! Limits that a reload changes, counts that an upgrade leaves behind, and descriptors that run out: on a real process.

use std::{fs, net::SocketAddr, thread, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use switchyard::clock;

use crate::{
    raw::Wire,
    rig::{Rig, until},
};

const GET: &str = "GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n\r\n";

/// A listener beside those of the rig, with these limits.
fn bounded(name: &str, limits: &str) -> (Rig, SocketAddr) {
    let mut rig = Rig::prepare(name);
    let address = rig.free(&[]);
    set(&mut rig, address, limits);
    rig.write();
    rig.first.spawn();
    rig.up();
    (rig, address)
}

fn set(rig: &mut Rig, address: SocketAddr, limits: &str) {
    rig.more = format!(
        "[[listener]]\nname = \"bounded\"\nbind = [\"{address}\"]\nservice = \"controllers\"\nlimits = {{ {limits} }}\n"
    );
}

fn reload(rig: &mut Rig, address: SocketAddr, limits: &str) {
    set(rig, address, limits);
    let answer = rig.reload();
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// A connection that was answered so.
fn connect(address: SocketAddr, status: u16) -> Wire {
    let mut wire = Wire::connect(address);
    // One that is not let in is answered unasked, and may be gone before it has asked.
    wire.send(GET).ok();
    let answer = wire.answer(false).unwrap();
    assert_eq!(answer.status(), status, "{}", answer.text());
    wire
}

fn connects(address: SocketAddr, status: u16) {
    drop(connect(address, status));
}

#[test]
fn a_reload_changes_limits_for_what_is_open_and_the_counts_stay_right() {
    let (mut rig, address) = bounded("reloaded-limits", "");
    // Counted although nothing was bounded yet.
    let mut open: Vec<Wire> = (0..3).map(|_| connect(address, 200)).collect();
    reload(&mut rig, address, "per_client = 3");
    connects(address, 429);
    open.pop();
    rig.until("there is room", || {
        let mut wire = Wire::connect(address);
        wire.send(GET).ok()?;
        (wire.answer(false).ok()?.status() == 200).then(|| open.push(wire))
    });
    // Nobody is cut off by a smaller number.
    reload(&mut rig, address, "connections = 2");
    connects(address, 503);
    for wire in &mut open {
        assert_eq!(wire.ask(GET).unwrap().status(), 200);
    }
    drop(open.drain(..2));
    rig.until("there is room", || {
        let mut wire = Wire::connect(address);
        wire.send(GET).ok()?;
        (wire.answer(false).ok()?.status() == 200).then_some(())
    });

    // What was used up before a reload is used up after it, whatever else it changes; another rate holds at once.
    reload(&mut rig, address, "rate = { requests = \"2/h\" }");
    let kept = &mut open[0];
    assert_eq!([(); 3].map(|()| kept.ask(GET).unwrap().status()), [200, 200, 429]);
    reload(&mut rig, address, "connections = 50, rate = { requests = \"2/h\" }");
    assert_eq!(kept.ask(GET).unwrap().status(), 429);
    reload(&mut rig, address, "rate = { requests = \"2/h\", burst = 4 }");
    assert_eq!([(); 3].map(|()| kept.ask(GET).unwrap().status()), [200, 200, 429]);
    reload(&mut rig, address, "");
    assert_eq!(kept.ask(GET).unwrap().status(), 200);

    // Who is denied from now on is told so with its next request, and closed.
    reload(&mut rig, address, "deny = [\"127.0.0.1\"]");
    let answer = kept.ask(GET).unwrap();
    assert_eq!((answer.status(), answer.head.get("connection")), (403, Some("close")));
    assert!(kept.closed());
    connects(address, 403);
    reload(&mut rig, address, "allow = [\"127.0.0.1\"]");
    connects(address, 200);
}

#[test]
fn after_an_upgrade_each_process_counts_what_it_has() {
    let (rig, address) = bounded("upgraded-limits", "per_client = 2, connections = 3");
    let mut before: Vec<Wire> = (0..2).map(|_| connect(address, 200)).collect();
    connects(address, 429);
    rig.upgraded(&[]);
    // They wait in the old process, and are told that they may ask once more.
    let mut after: Vec<Wire> = (0..2).map(|_| connect(address, 200)).collect();
    connects(address, 429);
    for wire in &mut before {
        let answer = wire.ask(GET).unwrap();
        assert_eq!((answer.status(), answer.head.get("connection")), (200, Some("close")));
    }
    connects(address, 429);
    after.pop();
    rig.until("there is room", || {
        let mut wire = Wire::connect(address);
        wire.send(GET).ok()?;
        (wire.answer(false).ok()?.status() == 200).then_some(())
    });
}

/// Clock ticks of the processor that a process has used.
fn used(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// How many threads of a process carry connections.
fn workers(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("proxy ")).count()
}

fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

#[test]
fn without_descriptors_connections_wait_and_nothing_spins() {
    let rig = Rig::start("descriptors");
    let pid = rig.first.pid().unwrap();
    let of = Pid::from_raw(i32::try_from(pid).unwrap());
    // It is ready before the last of its threads is there, and a thread needs descriptors.
    until("both of its threads run", || (workers(pid) == 2).then_some(()));
    let before =
        prlimit(of, Resource::Nofile, Rlimit { current: Some(descriptors(pid) + 4), maximum: Some(4096) })
            .unwrap();
    assert_eq!(before.current, before.maximum, "it was raised at the start");
    let mut open: Vec<Wire> = (0..24).map(|_| Wire::connect(rig.controllers)).collect();
    let told = "connections could not be accepted";
    until("the log says so", || rig.log().contains(told).then_some(()));
    let (ticks, lines) = (used(pid), rig.log().matches(told).count());
    // What is measured is what it does meanwhile, with nothing to do.
    let window = Duration::from_secs(3);
    let begun = clock::now();
    thread::sleep(window);
    let spent = used(pid) - ticks;
    // A hundred ticks a second and core: a thread that spins uses all of them.
    assert!(spent < 60, "{spent} ticks in {:?}", begun.elapsed());
    assert!(rig.log().matches(told).count() <= lines + 4, "said again and again");

    prlimit(of, Resource::Nofile, Rlimit { current: Some(4000), maximum: Some(4096) }).unwrap();
    for wire in &mut open {
        assert_eq!(wire.ask(GET).unwrap().status(), 200, "it has waited in the queue");
    }
}

#[test]
fn connections_are_capped_by_the_descriptor_limit_and_that_is_said() {
    let mut rig = Rig::prepare("capped");
    // Two threads keep 128 for their pipes, and 128 are for files: 40 are left, for 20 connections.
    let (binary, file) = (rig.binary.display().to_string(), rig.file().display().to_string());
    let script = "ulimit -n 424 && exec \"$0\" proxy -c \"$1\"";
    rig.first = crate::support::process::Process::start_by(
        &rig.place,
        "proxy",
        "sh",
        &["-c", script, &binary, &file],
    );
    rig.up();
    let said = rig.log();
    let line = said
        .lines()
        .find(|line| line.contains("raise the descriptor limit"))
        .unwrap_or_else(|| panic!("{said}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let number = |name: &str| line[name].as_u64().or_else(|| line["fields"][name].as_u64()).unwrap();
    assert_eq!(number("wanted"), 20_000);
    let allowed = usize::try_from(number("allowed")).unwrap();
    assert!((1..=60).contains(&allowed), "{allowed}");
    let open: Vec<Wire> = (0..allowed).map(|_| connect(rig.controllers, 200)).collect();
    connects(rig.controllers, 503);
    drop(open);
    rig.until("there is room", || {
        let mut wire = Wire::connect(rig.controllers);
        wire.send(GET).ok()?;
        (wire.answer(false).ok()?.status() == 200).then_some(())
    });
}
