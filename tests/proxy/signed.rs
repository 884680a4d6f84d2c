//! What the proxy says of its clients is signed, for one request and for a minute; what others write in its place is not
//! passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use switchyard::{
    clock,
    config::{
        auth::Signing,
        proxy::{Kind, ProbeKind, Proxy},
    },
    tls::{
        ClientAuth,
        signed::{Request, SigningKey, Unsigned},
    },
};

use crate::{
    front::{self, Front, eventually},
    raw::{self, Head},
    secure::Files,
    upstream::{Seen, Upstream, ok},
};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn key() -> SigningKey {
    SigningKey::parse(KEY).unwrap()
}

/// The same front, which signs.
fn signing(mut config: Proxy) -> Proxy {
    let service = &mut config.services[0];
    service.sign = Some(Signing { key: key(), file: "sign.key".into() });
    if let ProbeKind::Http(probe) = &mut service.health.kind {
        probe.sign = Some(key());
    }
    config
}

/// Whether a head carries a signature of its own, at about this time.
fn check(head: &Head, now: i64) -> Result<(), Unsigned> {
    fn all<'a>(head: &'a Head, wanted: &str) -> Vec<&'a str> {
        let of = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(wanted);
        head.fields.iter().filter(of).map(|(_, value)| value.as_str()).collect()
    }
    let signatures: Vec<&str> = all(head, "switchyard-signature");
    assert_eq!(signatures.len(), 1, "{head:?}");
    let request = Request { method: head.word(0), target: head.word(1) };
    key().check(signatures[0], request, u64::try_from(now).unwrap(), |name, take| {
        all(head, name).into_iter().for_each(|value| take(value.as_bytes()));
    })
}

fn now() -> i64 {
    clock::wall().unix_seconds()
}

#[test]
fn every_request_and_every_probe_is_signed_over_what_is_said_of_its_client() {
    let files = Files::new();
    let a = Upstream::start(|_| ok("x"));
    let setting = switchyard::tls::ServerSetting {
        client_auth: ClientAuth::Optional(files.trust(None)),
        ..files.setting()
    };
    let front = Front::start(signing(files.front(setting, &[a.address])));
    let made = files.clients.client("mac-07");
    for (who, shows) in [("SUCCESS", Some(&made)), ("NONE", None)] {
        let mut wire = files.client(shows).connect(front.address).unwrap();
        // What stands there already is none of ours.
        let forged = "GET /api/v1/vm?id=a%20b HTTP/1.1\r\nHost: front.example\r\nSwitchyard-Signature: t=1,mac=00\r\n\
                      Switchyard_Signature: x\r\nSsl-Client-Verify: SUCCESS\r\nX-Forwarded-For: 10.0.0.9\r\n\r\n";
        assert_eq!(wire.ask(forged).unwrap().status(), 200);
        let seen = a.seen.lock().unwrap().pop().unwrap().head;
        assert_eq!(seen.get("ssl-client-verify"), Some(who));
        assert_eq!(check(&seen, now()), Ok(()), "{seen:?}");
        assert!(check(&seen, now() + 62).is_err(), "it is good for a minute");
        let mut other = seen.clone();
        for (name, value) in &mut other.fields {
            if name.eq_ignore_ascii_case("ssl-client-verify") {
                *value = if who == "NONE" { "SUCCESS".into() } else { "NONE".into() };
            }
        }
        assert_eq!(check(&other, now()), Err(Unsigned::Wrong), "and for what it says");
    }
    let probed = || a.probed.lock().unwrap().clone();
    eventually("a probe came", || probed().is_some());
    assert_eq!(check(&probed().unwrap(), now()), Ok(()));
}

#[test]
fn a_server_with_another_clock_is_signed_for_by_its_own_once_and_nobody_is_turned_away() {
    let (ahead, refused) = (Arc::new(AtomicI64::new(94)), Arc::new(AtomicUsize::new(0)));
    let (by, count) = (ahead.clone(), refused.clone());
    // As a server of ours answers.
    let a = Upstream::start(move |seen: &Seen| {
        let theirs = now() + by.load(Ordering::SeqCst);
        match check(&seen.head, theirs) {
            Ok(()) => ok(std::str::from_utf8(&seen.body).unwrap()),
            Err(Unsigned::Wrong) => panic!("{:?}", seen.head),
            Err(Unsigned::Time(_)) => {
                count.fetch_add(1, Ordering::SeqCst);
                format!("HTTP/1.1 425 Too Early\r\nSwitchyard-Time: {theirs}\r\nContent-Length: 0\r\n\r\n")
            }
        }
    });
    let front = Front::start(signing(front::config(Kind::Controller, &[a.address])));
    // Also what may not be sent twice: nothing was done.
    let answer = front.ask(&raw::with_body("POST", "/api/v1/node/config", "", "a body"));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "a body"));
    assert_eq!(refused.load(Ordering::SeqCst), 1);
    assert_eq!(front.get("/api/v1/vm").status(), 200);
    assert_eq!(refused.load(Ordering::SeqCst), 1, "it is remembered");
    assert!(front.metrics().contains("why=\"other-time\""), "{}", front.metrics());
    // A time that is far away is signed for nobody.
    ahead.store(86_400, Ordering::SeqCst);
    assert_eq!(front.get("/api/v1/vm").status(), 425);
    assert_eq!(refused.load(Ordering::SeqCst), 2, "and not asked again");
}
