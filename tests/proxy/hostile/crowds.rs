//! Clients that are slow, or leave, by the thousand.

use std::time::Duration;

use switchyard::{clock, config::proxy::Kind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::crowd::{Light, alone, connect, crowd, well_behaved};
use crate::front::{self, Front, eventually};

fn nothing_is_left(front: &Front) {
    eventually("no connection is open", || {
        front.metrics().contains(r#"switchyard_proxy_connections{listener="front"} 0"#)
    });
    front.wait_until("nothing is under way", |view| view.services[0].upstreams[0].outstanding == 0);
}

#[test]
fn two_thousand_heads_that_trickle_are_cut_and_hold_nobody_up() {
    alone("hostile::crowds::two_thousand_heads_that_trickle_are_cut_and_hold_nobody_up", trickling);
}

fn trickling() {
    let origin = Light::start();
    let mut config = front::config(Kind::Controller, &[origin.address]);
    config.limits.header_timeout = Duration::from_millis(1500);
    let front = Front::start(config);
    let address = front.address;
    let clients = || {
        crowd(2000, move |n| async move {
            let tcp = connect(address, None).await.map_err(|error| format!("{n}: {error}"))?;
            let (mut read, mut write) = tcp.into_split();
            let begun = clock::now();
            let trickle = async {
                let head =
                    format!("GET /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\nX-Slow: {}", "x".repeat(500));
                for byte in head.bytes() {
                    if write.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut said = Vec::new();
            let whole = async {
                // The end may be a reset, when a byte met a closed connection.
                while matches!(read.read_buf(&mut said).await, Ok(1..)) {}
            };
            let ended = timeout(Duration::from_secs(8), async {
                tokio::select! { () = trickle => {} () = whole => {} }
            });
            let ended = ended.await.is_ok();
            let (took, said) = (begun.elapsed(), String::from_utf8_lossy(&said));
            let good = ended
                && said.starts_with("HTTP/1.1 408 ")
                && said.contains("head-too-slow")
                && took > Duration::from_millis(1200);
            if good { Ok(()) } else { Err(format!("{n}: after {took:?}, ended {ended}: {said:?}")) }
        })
    };
    let ((wrong, one), served) = well_behaved(front.address, clients);
    assert_eq!(wrong, 0, "such as {one:?}");
    assert!(served.promptly(), "{served:?}");
    nothing_is_left(&front);
    let refused = r#"switchyard_proxy_refused_total{listener="front",reason="head-too-slow"} 2000"#;
    assert!(front.metrics().contains(refused));
}

#[test]
fn two_thousand_clients_that_read_slowly_hold_nobody_up() {
    alone("hostile::crowds::two_thousand_clients_that_read_slowly_hold_nobody_up", reading);
}

fn reading() {
    const SIZE: usize = 96 * 1024;
    let origin = Light::start();
    let front = Front::controllers(&[origin.address]);
    let address = front.address;
    let clients = || {
        crowd(2000, move |n| async move {
            let fail = |error: std::io::Error| format!("{n}: {error}");
            let mut tcp = connect(address, Some(4096)).await.map_err(fail)?;
            let request =
                format!("GET /api/v1/bytes/{SIZE} HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n");
            tcp.write_all(request.as_bytes()).await.map_err(fail)?;
            let (mut piece, mut total) = (vec![0; 2048], 0);
            loop {
                let got = timeout(Duration::from_secs(15), tcp.read(&mut piece)).await;
                match got.map_err(|_| format!("{n}: nothing came after {total} bytes"))?.map_err(fail)? {
                    0 => break,
                    got => total += got,
                }
                sleep(Duration::from_millis(40)).await;
            }
            if total > SIZE && total < SIZE + 1000 { Ok(()) } else { Err(format!("{n}: {total} bytes")) }
        })
    };
    let ((wrong, one), served) = well_behaved(front.address, clients);
    assert_eq!(wrong, 0, "such as {one:?}");
    assert!(served.promptly(), "{served:?}");
    nothing_is_left(&front);
}

/// What a client has sent when it leaves, and how much of the answer it takes first.
const LEFT_AT: [(&str, usize); 10] = [
    ("", 0),
    ("GET /api/v1/vm HT", 0),
    ("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\nX-Half", 0),
    ("PUT /pages/upload HTTP/1.1\r\nHost: front\r\nContent-Length: 100000\r\n\r\nsome", 0),
    ("PUT /pages/upload HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", 0),
    ("PUT /pages/upload HTTP/1.1\r\nHost: front\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", 0),
    ("GET /api/v1/wait/400 HTTP/1.1\r\nHost: front\r\n\r\n", 0),
    ("GET /switchyard/v1/tasks/wait/400 HTTP/1.1\r\nHost: front\r\n\r\n", 0),
    ("GET /pages/bytes/3000000 HTTP/1.1\r\nHost: front\r\n\r\n", 5000),
    (
        "GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n\r\nGET /api/v1/wait/400 HTTP/1.1\r\nHost: front\r\n\r\n",
        10,
    ),
];

#[test]
fn a_thousand_clients_that_leave_in_the_middle_leave_nothing_behind() {
    alone("hostile::crowds::a_thousand_clients_that_leave_in_the_middle_leave_nothing_behind", leaving);
}

fn leaving() {
    let origin = Light::start();
    let front = Front::controllers(&[origin.address]);
    let address = front.address;
    let mut open = Vec::new();
    for round in 0..4 {
        let clients = || {
            crowd(250, move |n| async move {
                let fail = |error: std::io::Error| format!("{n}: {error}");
                let (text, take) = LEFT_AT[n % LEFT_AT.len()];
                let mut tcp = connect(address, None).await.map_err(fail)?;
                tcp.write_all(text.as_bytes()).await.map_err(fail)?;
                let mut taken = 0;
                while taken < take {
                    taken += tcp.read(&mut [0; 1024]).await.map_err(fail)?.max(1);
                }
                sleep(Duration::from_millis((n % 100) as u64)).await;
                if n % 3 == round % 3 {
                    tcp.set_zero_linger().map_err(fail)?;
                }
                Ok(())
            })
        };
        let ((wrong, one), served) = well_behaved(front.address, clients);
        assert_eq!(wrong, 0, "such as {one:?}");
        assert!(served.promptly(), "{served:?}");
        nothing_is_left(&front);
        open.push(origin.open());
    }
    // What is left are connections that wait for the next request: no more than were ever busy at once.
    eventually("most upstream connections are closed", || origin.open() < 200);
    assert!(open.iter().all(|open| *open < 300), "{open:?}");
    assert_eq!(front.get("/api/v1/vm").text(), "fine");
}
