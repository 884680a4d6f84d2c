//! A proxy whose user may have no more pipes: bodies are copied meanwhile, and nobody notices.

use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

use crate::{
    raw::Wire,
    rig::{Rig, blob_byte, text},
    support::{
        namespaces,
        process::{BINARY, Process},
    },
    upstream::{Then, Upstream},
};

/// Bytes of a body that comes as fast as it is taken: one that trickles is copied anyway.
const BODY: usize = 8 << 20;

/// What a pipe may hold at most by default (`fs.pipe-max-size`).
const LARGEST: usize = 1 << 20;

/// Pages that a user without privileges may have in pipes.
fn allowance() -> Option<usize> {
    std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").ok()?.trim().parse().ok()
}

/// Pipes of this process that use up what its user may have, so that a process of the same user without privileges
/// can make none that is larger than the smallest.
fn hoard() -> Vec<(OwnedFd, OwnedFd)> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let page = smaps.lines().find_map(|line| line.strip_prefix("KernelPageSize:")).unwrap();
    let page: usize = page.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
    let most = allowance().unwrap_or_default() * page / LARGEST + 1;
    let mut pipes = Vec::new();
    for _ in 0..most {
        // The proxy would inherit them.
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        // Refused once we have no more than that ourselves.
        if rustix::pipe::fcntl_setpipe_size(&pipe.1, LARGEST).is_err() {
            break;
        }
        pipes.push(pipe);
    }
    pipes
}

fn moved(rig: &Rig) -> u64 {
    let metrics = rig.admin("GET", "/metrics").text();
    let line = metrics.lines().find(|line| line.starts_with("switchyard_proxy_zero_copy_bytes_total "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap()
}

fn download(rig: &Rig) {
    let mut wire = Wire::connect(rig.registries);
    let answer = wire.ask("GET /v2/a/blobs/fast HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((answer.status(), answer.body.len()), (200, BODY));
    assert!(answer.body.iter().enumerate().all(|(at, byte)| *byte == blob_byte(at)));
}

#[test]
fn where_no_more_pipes_may_be_made_bodies_are_copied() {
    if !namespaces::allowed("a proxy whose user may have no more pipes") || allowance() == Some(0) {
        return;
    }
    let mut rig = Rig::prepare("pipes");
    let body: Vec<u8> = (0..BODY).map(blob_byte).collect();
    rig.upstream = Upstream::raw(move |wire, _| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        let sent = wire.send(head).and_then(|()| wire.send(&body));
        if sent.is_ok() { Then::KeepAlive } else { Then::Close }
    });
    rig.write();
    // In a user namespace it is of our user and without our privileges.
    let file = rig.file();
    rig.first =
        Process::prepare_by(&rig.place, "proxy", "unshare", &["-Ur", BINARY, "proxy", "-c", text(&file)]);
    let hoard = hoard();
    rig.first.spawn();
    rig.up();
    for _ in 0..2 {
        download(&rig);
    }
    assert_eq!(moved(&rig), 0, "with {} pipes of ours", hoard.len());
    drop(hoard);
    rig.until("pipes are tried again", || {
        download(&rig);
        (moved(&rig) > 0).then_some(())
    });
}
