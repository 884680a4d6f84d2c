//! Under a service manager: sockets that it opened, and what it is told.

use std::{
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    raw,
    rig::{Rig, text},
    support::place::MARK,
};

/// Starts the rig's proxy with these two sockets, as systemd would: descriptors 3 and 4, named.
fn activate(rig: &Rig, sockets: [TcpListener; 2], names: &str, notify: &Path) -> Child {
    let [first, second] = sockets.map(OwnedFd::from);
    let log = std::fs::File::create(rig.place.path("activated.log")).unwrap();
    // They come as standard input and output, which is how a descriptor gets into a child without being open in another.
    let script = "export LISTEN_PID=$$; exec \"$0\" proxy -c \"$1\" 3<&0 4<&1 </dev/null >/dev/null";
    Command::new("/bin/sh")
        .args(["-c", script, text(&rig.binary), text(&rig.file())])
        .env(MARK, rig.place.dir())
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", names)
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second))
        .stderr(log)
        .spawn()
        .unwrap()
}

fn told(manager: &UnixDatagram) -> String {
    let mut room = [0; 4096];
    let length = manager.recv(&mut room).unwrap();
    String::from_utf8_lossy(&room[..length]).into_owned()
}

fn manager(rig: &Rig) -> (UnixDatagram, std::path::PathBuf) {
    let path = rig.place.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    (manager, path)
}

#[test]
fn sockets_of_systemd_are_served_and_it_is_told_of_everything() {
    let mut rig = Rig::prepare("activated");
    let open = |at: SocketAddr| TcpListener::bind(at).unwrap();
    // One is found by its address; the other by its name, for its address is another than in the config.
    let (by_address, by_name) = (open(rig.controllers), open((rig.registries.ip(), 0).into()));
    let elsewhere = by_name.local_addr().unwrap();
    let kept = by_address.try_clone().unwrap();
    let (manager, path) = manager(&rig);
    // A client that comes before the proxy waits in the queue.
    let mut early = raw::Wire::connect(rig.controllers);
    early.send("GET /api/v1/status HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut child = activate(&rig, [by_address, by_name], "unknown:registries", &path);
    assert_eq!(told(&manager), "READY=1\n");
    assert_eq!(early.answer(false).unwrap().status(), 200);
    rig.up();
    assert_eq!(raw::get(elsewhere, "/v2/").status(), 200);
    assert!(std::net::TcpStream::connect(rig.registries).is_err(), "its socket is the one that was passed");

    // A reload keeps them, and is told.
    rig.signal(rig.view().pid, Signal::HUP);
    let reloading = told(&manager);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told(&manager), "READY=1\n");
    assert_eq!(raw::get(elsewhere, "/v2/").status(), 200);

    // And so does an upgrade, also to more threads than it passed sockets.
    rig.threads = 4;
    rig.write();
    let new = rig.upgraded(&[]);
    let (mut words, main) = (Vec::new(), format!("MAINPID={new}\n"));
    while !words.contains(&main) {
        words.push(told(&manager));
    }
    assert!(words.iter().all(|word| *word == main || word == "READY=1\n"), "{words:?}");
    assert!(child.wait().unwrap().success(), "the first is done");
    for (address, path) in [(elsewhere, "/v2/"), (rig.controllers, "/api/v1/status")] {
        for _ in 0..20 {
            assert_eq!(raw::get(address, path).status(), 200);
        }
    }
    rig.signal(new, Signal::TERM);
    let mut word = told(&manager);
    if word == "READY=1\n" {
        word = told(&manager);
    }
    assert_eq!(word, "STOPPING=1\n");
    rig.until("it ends", || (!rig.lives(new)).then_some(()));
    // What systemd keeps it can pass again.
    drop(kept);
}

#[test]
fn a_socket_that_nobody_binds_is_named() {
    let rig = Rig::prepare("unplaced");
    let open = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (open(), TcpListener::bind(rig.controllers).unwrap());
    let address = first.local_addr().unwrap();
    let (_manager, path) = manager(&rig);
    let mut child = activate(&rig, [first, second], "web:controllers", &path);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let log = std::fs::read_to_string(rig.place.path("activated.log")).unwrap();
    assert!(log.contains(&format!("passed `web` on {address}, which no listener binds")), "{log}");
}
