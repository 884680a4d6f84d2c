//! Listeners that come and go while clients are at work.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use switchyard::clock;

use crate::{
    clients::Clients,
    raw::{self, Wire},
    rig::{Rig, Secured},
    support::scale::scaled,
};

fn listener(name: &str, address: SocketAddr) -> String {
    format!("[[listener]]\nname = \"{name}\"\nbind = [\"{address}\"]\nservice = \"controllers\"\n")
}

#[test]
fn a_reload_every_second_breaks_nothing() {
    let rig = Rig::start("reloads");
    let clients = Clients::start(rig.controllers, rig.registries);
    println!("{}", reload_every_second(rig, clients));
}

/// Each reload finds other certificates, and the next connection is shown them.
#[test]
fn a_reload_every_second_breaks_nothing_inside_tls_or_over_http2() {
    let rig = Rig::start_secured("secured-reloads");
    let clients = rig.secured_clients();
    println!("{}", reload_every_second(rig, clients));
}

fn reload_every_second(mut rig: Rig, clients: Clients) -> String {
    let extra = rig.free(&[]);
    let second = rig.free(&[extra]);
    let (begun, mut round) = (clock::now(), 0);
    while begun.elapsed() < scaled(Duration::from_secs(8), Duration::from_secs(60)) {
        // A listener comes, one goes, one has another name at the same address, another has one address more.
        rig.more = match round % 4 {
            0 => listener("extra", extra),
            1 => listener("other", extra),
            2 => String::new(),
            _ => listener("extra", extra),
        };
        rig.beside = if round % 2 == 0 { vec![second] } else { Vec::new() };
        if let Some(secured) = &rig.secured {
            secured.certificates.renew(&rig.place);
        }
        let answer = rig.reload();
        assert_eq!(answer.status(), 200, "{}", answer.text());
        if let Some(Secured { certificates, controllers, registries }) = &rig.secured {
            for address in [*controllers, *registries] {
                let (shown, _) = certificates.way(false).shake(address).unwrap();
                assert!(
                    shown == certificates.shown(),
                    "round {round}: a new connection was shown the old certificate"
                );
            }
        }
        for (address, serves) in [(extra, round % 4 != 2), (second, round % 2 == 0)] {
            if !serves {
                // Each thread closes its own.
                rig.until("nobody accepts there", || TcpStream::connect(address).err());
            } else {
                assert_eq!(raw::get(address, "/api/v1/status").status(), 200);
            }
        }
        let names: Vec<String> = rig.view().listeners.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.iter().filter(|name| *name == "controllers").count(), 1 + rig.beside.len());
        round += 1;
        thread::sleep(Duration::from_secs(1));
    }
    let done = clients.end();
    format!("{round} reloads under {done:?}")
}

#[test]
fn what_runs_on_a_listener_that_goes_ends_well_and_its_connections_close() {
    let mut rig = Rig::start("goes");
    let extra = rig.free(&[]);
    rig.more = listener("extra", extra).replace("\"controllers\"", "\"registries\"");
    assert_eq!(rig.reload().status(), 200);
    let mut transfer = Wire::connect(extra);
    transfer.send("GET /v2/a/blobs/slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = transfer.head().unwrap().unwrap();
    let mut busy = Wire::connect(extra);
    assert_eq!(busy.ask("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().status(), 200);
    rig.more = String::new();
    assert_eq!(rig.reload().status(), 200);
    rig.until("nobody accepts there any more", || TcpStream::connect(extra).err());
    // In the middle of its work: one more request, answered by the rules of the listener that is gone.
    let last = busy.ask("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((last.status(), last.head.get("connection")), (200, Some("close")));
    assert!(busy.closed());
    let mut whole = 0;
    transfer.body(&head, false, |piece| whole += piece.len()).unwrap();
    assert_eq!(whole, crate::rig::BLOB);
    let last = transfer.ask("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(last.head.get("connection"), Some("close"), "its head was out before");
}

#[test]
fn an_address_that_cannot_be_had_refuses_the_whole_reload_and_names_its_holder() {
    let mut rig = Rig::start("taken");
    let taken = std::net::TcpListener::bind((rig.controllers.ip(), 0)).unwrap();
    let free = rig.free(&[]);
    rig.more = listener("free", free) + &listener("taken", taken.local_addr().unwrap());
    let answer = rig.reload();
    let said = answer.text();
    assert_eq!(answer.status(), 422, "{said}");
    let pid = format!("(pid {})", std::process::id());
    for part in ["is in use by ", &pid, "listener `taken`, bind", &taken.local_addr().unwrap().to_string()] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(TcpStream::connect(free).is_err(), "nothing of it was taken");
    assert_eq!(raw::get(rig.controllers, "/api/v1/status").status(), 200);
    drop(taken);
    assert_eq!(rig.reload().status(), 200);
    assert_eq!(raw::get(free, "/api/v1/status").status(), 200);
}

#[test]
fn an_address_can_be_widened_and_narrowed() {
    let mut rig = Rig::start("wide");
    let narrow = rig.controllers;
    let clients = Clients::start(narrow, rig.registries);
    for _ in 0..2 {
        rig.controllers = SocketAddr::new("0.0.0.0".parse().unwrap(), narrow.port());
        assert_eq!(rig.reload().status(), 200);
        clients.go_on();
        rig.controllers = narrow;
        assert_eq!(rig.reload().status(), 200);
        clients.go_on();
    }
    // A whole transfer and poll at the end, too.
    let before = clients.transfers();
    rig.until("transfers go on", || (clients.transfers() > before + 2).then_some(()));
    clients.end();
}

#[test]
fn threads_and_directory_need_an_upgrade() {
    let mut rig = Rig::start("fixed");
    rig.threads = 3;
    let answer = rig.reload();
    assert_eq!(answer.status(), 422);
    assert!(answer.text().contains("`proxy.threads` cannot be changed by a reload, it needs an upgrade"));
    rig.upgraded(&[]);
    assert_eq!(rig.admin("POST", "/admin/v1/reload").status(), 200, "it is what runs now");
}
