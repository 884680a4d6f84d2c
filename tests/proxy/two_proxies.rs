//! Two proxies before the same registries, which do not see the same.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    front::eventually,
    registry::{self, cloud, knows, started},
};

const TAG: &str = "/v2/a/manifests/latest";

/// Passes on what comes, but breaks off at what clients ask for while it is told to; probes and followers notice nothing.
fn breakable(to: std::net::SocketAddr) -> (std::net::SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, broken) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::default());
    let breaks = broken.clone();
    thread::spawn(move || {
        for from in listener.incoming().map_while(Result::ok) {
            let Ok(to) = TcpStream::connect(to) else { continue };
            for (mut from, mut to) in
                [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to.try_clone().unwrap(), from)]
            {
                let breaks = breaks.clone();
                thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut piece) {
                        let breaks = breaks.load(Ordering::SeqCst) && piece.starts_with(b"GET /v2/");
                        if breaks || to.write_all(&piece[..count]).is_err() {
                            break;
                        }
                    }
                    to.shutdown(std::net::Shutdown::Both).ok();
                });
            }
        }
    });
    (address, broken)
}

#[test]
fn through_two_proxies_of_which_one_has_ejected_a_replica_a_push_is_seen_by_the_next_read() {
    let (writer, one, two) = cloud();
    let (through, broken) = breakable(one.upstream.address);
    let mut other = registry::config(&[&writer, &one, &two]);
    other.services[0].upstreams[1] = crate::front::upstream("u1", through);
    let passive = &mut other.services[0].passive;
    (passive.failures, passive.ejection) = (1, Duration::from_secs(60));
    let (sees, ejects) = (started(registry::config(&[&writer, &one, &two])), started(other));
    broken.store(true, Ordering::SeqCst);
    eventually("one proxy has ejected it", || {
        ejects.get("/v2/b/manifests/x");
        ejects.view().services[0].upstreams[1].ejected.is_some()
    });
    broken.store(false, Ordering::SeqCst);
    ejects
        .wait_until("it passes its probes there again", |view| view.services[0].upstreams[1].health == "up");
    assert!(ejects.view().services[0].upstreams[1].ejected.is_some());

    // Only the one that is ejected there has the push.
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    knows(&sees, 1, pushed);
    knows(&ejects, 1, pushed);
    for _ in 0..4 {
        assert_eq!(sees.get(TAG).text(), "r1");
        assert_eq!(ejects.get(TAG).text(), "r0", "the other replica lacks it, so the writer is asked");
    }
    // And then both have it.
    two.copies(pushed);
    knows(&ejects, 2, pushed);
    eventually("the replica that is left answers", || ejects.get(TAG).text() == "r2");
    let all: Vec<String> = (0..6).map(|_| sees.get(TAG).text()).collect();
    assert!(all.iter().all(|name| name == "r1" || name == "r2"), "{all:?}");
    assert!(ejects.view().services[0].upstreams[1].ejected.is_some(), "all the time");
}
