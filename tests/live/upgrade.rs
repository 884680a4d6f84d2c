//! One binary after the other, while clients are at work.

use std::{thread, time::Duration};

use rustix::process::Signal;

use crate::{
    clients::Clients,
    raw::{self, Wire},
    rig::Rig,
    support::{process::BINARY, scale::scaled},
};

#[test]
fn upgrades_in_a_row_break_nothing() {
    let rig = Rig::start("upgrades");
    let clients = Clients::start(rig.controllers, rig.registries);
    println!("{}", upgrade_in_a_row(rig, clients));
}

/// The certificates are other ones after each.
#[test]
fn upgrades_in_a_row_break_nothing_inside_tls_or_over_http2() {
    let rig = Rig::start_secured("secured-upgrades");
    let clients = rig.secured_clients();
    println!("{}", upgrade_in_a_row(rig, clients));
}

fn upgrade_in_a_row(mut rig: Rig, clients: Clients) -> String {
    let rounds: u32 = scaled(3, 10);
    for round in 1..=rounds {
        // Fewer threads than sockets, and more.
        rig.threads = [1, 3, 2][(round as usize - 1) % 3];
        rig.write();
        if let Some(secured) = &rig.secured {
            secured.certificates.renew(&rig.place);
        }
        let before = rig.view().pid;
        if round % 2 == 0 {
            rig.upgraded(&["--wait", "60s"]);
        } else {
            rig.until("an old process has ended", || (rig.view().old.len() < 2).then_some(()));
            rig.signal(before, Signal::USR2);
        }
        // Both accept on the admin listener for a moment.
        let view = rig
            .until("the successor answers", || Some(rig.view()).filter(|v| v.generation == u64::from(round)));
        assert_ne!(view.pid, before);
        let alive = rig.processes();
        assert!(view.old.len() <= 2 && alive.len() <= 3, "{view:?} {alive:?}");
        let pid = rig.place.dir().join("run/proxy.pid");
        rig.until("its pid is written", || {
            (std::fs::read_to_string(&pid).ok()?.trim() == view.pid.to_string()).then_some(())
        });
        let counted = format!("switchyard_proxy_upgrade_generation {round}\n");
        rig.until("it is counted", || rig.admin("GET", "/metrics").text().contains(&counted).then_some(()));
        assert!(clients.wrong().is_empty(), "round {round}: {:?}", clients.wrong());
        thread::sleep(Duration::from_millis(500));
    }
    let done = clients.end();
    rig.until("all old processes have ended", || (rig.processes().len() == 1).then_some(()));
    assert!(rig.view().old.is_empty());
    format!("{rounds} upgrades under {done:?}")
}

#[test]
fn the_successor_begins_with_what_was_known_of_the_upstreams() {
    let rig = Rig::start("verdicts");
    let since = |rig: &Rig| {
        let view: serde_json::Value = rig.admin("GET", "/admin/v1/upstreams").json();
        let upstream = &view["services"][0]["upstreams"][0];
        (upstream["health"].clone(), upstream["since"].clone())
    };
    let before = since(&rig);
    assert_eq!(before.0, "up");
    rig.upgraded(&[]);
    assert_eq!(since(&rig), before);
}

#[test]
fn sessions_go_on_over_upgrades() {
    let mut rig = Rig::start_secured("sessions");
    let way = rig.secured.as_ref().unwrap().certificates.way(false);
    let to = rig.secured.as_ref().unwrap().controllers;
    // A ticket comes with the first answer, and is good for one connection.
    let visit = || {
        let mut wire = way.wire(to).unwrap();
        assert_eq!(wire.ask("GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
    };
    visit();
    assert!(way.shake(to).unwrap().1);
    for round in 0..2 {
        visit();
        rig.upgraded(&[]);
        assert!(
            way.shake(to).unwrap().1,
            "after {round} the successor does not know its predecessor's tickets"
        );
    }
    // They are of one listener with one setting: with another they are none.
    visit();
    let other = rig.place.path("other.pem");
    std::fs::copy(rig.place.path("front.pem"), &other).unwrap();
    rig.more_cert = Some(other);
    rig.write();
    rig.upgraded(&["--wait", "30s"]);
    assert!(!way.shake(to).unwrap().1);
}

#[test]
fn a_third_upgrade_waits_until_an_old_process_has_ended() {
    let rig = Rig::start("three");
    // Transfers that nobody reads: they do not end by themselves.
    let mut held: Vec<Wire> = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::connect(rig.registries);
        wire.send("GET /v2/a/blobs/slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        wire.head().unwrap().unwrap();
        held.push(wire);
        rig.upgraded(&[]);
    }
    let view = rig.view();
    assert_eq!((view.old.len(), rig.processes().len()), (2, 3), "{view:?}");
    let refused = rig.upgrade(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    for part in [&format!("process {} (", view.old[0].pid), "--wait", "not done with their connections"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(rig.admin("GET", "/metrics").text().contains("switchyard_proxy_last_upgrade_success 0\n"));
    assert_eq!(rig.processes().len(), 3);
    drop(held);
    rig.upgraded(&["--wait", "30s"]);
    assert!(rig.processes().len() <= 3);
}

#[test]
fn an_upgrade_takes_listeners_that_are_new_and_leaves_those_that_are_gone() {
    let mut rig = Rig::start("other");
    let (extra, old) = (rig.free(&[]), rig.registries);
    rig.registries = rig.free(&[extra]);
    rig.more = format!("[[listener]]\nname = \"extra\"\nbind = [\"{extra}\"]\nservice = \"controllers\"\n");
    rig.write();
    rig.upgraded(&[]);
    for (address, path) in
        [(rig.controllers, "/api/v1/status"), (rig.registries, "/v2/"), (extra, "/api/v1/status")]
    {
        assert_eq!(raw::get(address, path).status(), 200, "{address}");
    }
    rig.until("nobody accepts at the old address", || std::net::TcpStream::connect(old).err());
}

#[test]
fn what_is_logged_goes_on_in_the_same_file() {
    let rig = Rig::start("logged");
    let ask = || assert_eq!(raw::get(rig.controllers, "/api/v1/status").status(), 200);
    ask();
    rig.upgraded(&[]);
    ask();
    let log = rig.place.path("access.log");
    rig.until("both lines are there", || {
        (std::fs::read_to_string(&log).unwrap_or_default().lines().count() == 2).then_some(())
    });
    std::fs::rename(&log, log.with_extension("1")).unwrap();
    rig.signal(rig.view().pid, Signal::USR1);
    rig.until("the file is opened anew", || log.exists().then_some(()));
}

#[test]
fn the_admin_api_upgrades_too_says_what_came_of_it_and_goes_on_without_who_asked() {
    let mut rig = Rig::start("by-address");
    let admin = format!("http://{}", rig.admin);
    let upgrade =
        || std::process::Command::new(BINARY).args(["upgrade", "--admin", &admin]).output().unwrap();
    let before = rig.view().pid;
    let output = upgrade();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("serves (upgrade 1, "), "{output:?}");
    let view = rig.until("the successor answers", || Some(rig.view()).filter(|view| view.pid != before));
    assert!(said.contains(&format!("process {} serves", view.pid)), "{said}");
    assert_eq!(raw::get(rig.controllers, "/api/v1/status").status(), 200);

    rig.more = "[strange]\n".into();
    rig.write();
    let output = upgrade();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["no upgrade: ", "unknown table `strange`", "goes on as before"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert_eq!(rig.admin("POST", "/admin/v1/upgrade").status(), 500);
    assert_eq!(rig.view().pid, view.pid);

    rig.more = String::new();
    rig.write();
    let mut wire = Wire::connect(rig.admin);
    wire.send("POST /admin/v1/upgrade HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").unwrap();
    // Or done already: then who asked goes too late to be missed, and the rest holds all the same.
    rig.until("it is under way", || {
        let view = rig.view();
        (view.generation == 2 || rig.processes().len() > view.old.len() + 1).then_some(())
    });
    drop(wire);
    rig.until("it is done", || (rig.view().generation == 2).then_some(()));
}
