//! The page of the admin listener, by hand and in a real browser.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use switchyard::{
    config::proxy::{Entry, Kind, Listener},
    tls::{Server, ServerSetting},
};

use crate::{
    browser::Browser,
    certificates::Wanted,
    front::{self, Front, eventually},
    raw::{self, Wire},
    registry,
    secure::Files,
    upstream::{Then, Upstream, ok},
};

/// A change must be seen within this: a probe, then the next look.
const SEEN: Duration = Duration::from_secs(8);

fn get(front: &Front, path: &str) -> raw::Answer {
    raw::ask(front.admin, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
}

/// A stream of events that was begun.
fn follow(front: &Front) -> Wire {
    let mut wire = Wire::connect(front.admin);
    wire.send("GET /dashboard/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    wire
}

#[test]
fn the_page_is_whole_without_a_script_and_may_do_nothing_that_it_need_not() {
    let a = Upstream::start(|_| ok("a"));
    let front = Front::controllers(&[a.address]);
    let page = get(&front, "/");
    assert_eq!(page.status(), 200);
    let text = page.text();
    for part in
        ["All is well", "<strong>pool</strong>", ">u0", "</span> up", "This proxy", "http-equiv=\"refresh\""]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let policy = page.head.get("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.head.get("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.head.get("cache-control"), Some("no-store"));
    for (path, kind) in [("/dashboard/style.css", "text/css"), ("/dashboard/live.js", "text/javascript")] {
        let answer = get(&front, path);
        assert_eq!(answer.status(), 200);
        assert!(answer.head.get("content-type").unwrap().starts_with(kind));
    }
    assert!(!text.contains("http://") && !text.contains("https://"), "nothing from elsewhere: {text}");
}

#[test]
fn with_a_token_a_browser_is_asked_for_it_and_every_part_of_the_page_wants_it() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    const TOKEN: &str = "0123456789abcdef";
    let a = Upstream::start(|_| ok("a"));
    let mut config = front::config(Kind::Controller, &[a.address]);
    config.entry = Entry::Token(Entry::token(TOKEN).unwrap());
    let front = Front::start_unproven(config);
    let basic = STANDARD.encode(format!("ann:{TOKEN}"));
    for path in ["/", "/dashboard/style.css", "/dashboard/live.js", "/dashboard/events"] {
        let refused = get(&front, path);
        assert_eq!(refused.status(), 401, "{path}");
        let ways =
            refused.head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
        assert!(ways.into_iter().any(|(_, way)| way.starts_with("Basic")), "a browser knows no other way");
        let mut wire = Wire::connect(front.admin);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {basic}\r\n\r\n")).unwrap();
        assert_eq!(wire.head().unwrap().unwrap().status(), 200, "{path}");
    }
}

#[test]
fn streams_are_bounded_end_with_their_client_and_do_not_delay_a_stop() {
    let a = Upstream::start(|_| ok("a"));
    let mut front = Front::controllers(&[a.address]);
    let mut streams: Vec<Wire> = (0..32).map(|_| follow(&front)).collect();
    for stream in &mut streams {
        assert_eq!(stream.head().unwrap().unwrap().status(), 200);
    }
    let mut one_more = follow(&front);
    assert_eq!(one_more.answer(false).unwrap().status(), 503);
    assert_eq!(get(&front, "/").status(), 200, "the page itself is there for everybody");
    streams.pop();
    eventually("one that has gone makes room", || {
        let mut next = follow(&front);
        next.head().unwrap().unwrap().status() == 200
    });
    // A stop waits for nobody who looks.
    assert!(front.stop() < Duration::from_secs(3));
}

#[test]
fn in_a_browser_a_server_that_dies_turns_red_with_its_reason_and_remedy_without_a_reload() {
    let Some(mut browser) = Browser::start("the dashboard in a browser") else { return };
    let a = Upstream::start(|_| ok("a"));
    let b = Upstream::start(|_| ok("b"));
    let (address, front) = (b.address, Front::controllers(&[a.address, b.address]));
    browser.looks(1300, 900, false);
    browser.open(&format!("http://{}/", front.admin));
    browser.until("document.title.includes('All is well')", SEEN);
    // Would be lost by a reload.
    browser.value("window.mark = 1");
    browser.picture("well");

    drop(b);
    browser.until("document.querySelector('#wrong').innerText.includes('u1 of pool is down')", SEEN);
    let fault = browser.value("document.querySelector('#wrong li').innerText");
    let fault = fault.as_str().unwrap();
    assert!(fault.contains("WHY") || fault.contains("Why"), "{fault}");
    assert!(fault.contains(&address.to_string()) && fault.contains("refused"), "{fault}");
    assert!(fault.contains("Start it"), "{fault}");
    let light = "[...document.querySelectorAll('#services tbody tr')].map(row => row.querySelector('.light').className)";
    assert_eq!(browser.value(light), serde_json::json!(["light well", "light broken"]));
    browser.until("document.title.startsWith('! 1 warning')", SEEN);

    drop(a);
    browser.until("document.title.startsWith('✗ 1 broken')", SEEN);
    // What is refused is there with its reason as soon as it was.
    assert_eq!(browser.value("document.querySelector('#refusals').hidden"), true);
    assert_eq!(front.get("/../api").status(), 400);
    browser.until("document.querySelector('#refusals').innerText.includes('ambiguous-path')", SEEN);
    assert_eq!(browser.value("document.querySelector('#refusals').hidden"), false);
    let summary = "document.querySelector('.summary')";
    assert_eq!(browser.value(&format!("{summary}.innerText.trim()")), "✗ 1 broken");
    assert_eq!(browser.value(&format!("{summary}.getAttribute('role')")), "status");
    assert_eq!(browser.value("window.mark"), 1);
    for (name, width, dark) in [("down", 1300, false), ("down-dark", 1300, true), ("down-narrow", 390, true)]
    {
        browser.looks(width, 900, dark);
        browser.picture(name);
        let wide = browser.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64().unwrap() <= 0, "{name} is too wide by {wide}");
    }

    let back = Upstream::at(address, |_| ok("b"));
    browser.until("document.title.startsWith('! 1 warning')", SEEN);
    assert_eq!(browser.value("window.mark"), 1);
    drop(back);

    // The proxy itself ends: what is shown must not look fresh.
    let mut front = front;
    front.stop();
    browser.until("document.querySelector('#live').innerText.includes('Nothing heard')", SEEN + SEEN);
    browser.picture("stale");
}

#[test]
fn in_a_browser_what_servers_say_does_nothing_and_transfers_are_seen_to_move() {
    let Some(mut browser) = Browser::start("hostile words in a browser") else { return };
    let hostile = r#"{"ready":false,"read":false,"write":false,"poll":false,"why":["<img src=x onerror='window.owned=1'><script>window.owned=1</script>"]}"#;
    let end: Arc<AtomicBool> = Arc::default();
    let ended = end.clone();
    let blob = Upstream::raw(move |wire, _| {
        if wire.send("HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n").is_err() {
            return Then::Close;
        }
        wire.send(vec![b'x'; 400_000]).ok();
        while !ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(100));
            wire.send([b'x'; 1000]).ok();
        }
        Then::Close
    });
    let ill = Upstream::start(|_| ok("x"));
    ill.says(503, hostile);
    let front = Front::start(front::config(Kind::Registry, &[blob.address, ill.address]));
    let address = front.address;
    let reading = thread::spawn(move || {
        let path = format!("/v2/team/app/blobs/sha256:{}", "a".repeat(64));
        let mut wire = Wire::connect(address);
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        wire.answer(false).ok();
    });
    browser.looks(1300, 900, false);
    browser.open(&format!("http://{}/", front.admin));
    browser
        .until("document.body && document.body.innerText.includes('<script>window.owned=1</script>')", SEEN);
    assert_eq!(browser.value("typeof window.owned"), "undefined");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);

    browser.until("document.querySelector('#transfers progress') !== null", SEEN);
    let moved = "document.querySelector('#transfers progress').value";
    let before = browser.value(moved).as_f64().unwrap();
    browser.until(&format!("{moved} > {before}"), SEEN);
    browser.looks(1300, 1200, false);
    browser.picture("transfer");
    browser.looks(390, 1200, false);
    browser.picture("transfer-narrow");
    end.store(true, Ordering::SeqCst);
    reading.join().unwrap();
    browser.until("document.querySelector('#transfers').innerText.includes('None.')", SEEN);
}

#[test]
fn in_a_browser_the_token_is_typed_once_and_the_page_is_live_with_it() {
    const TOKEN: &str = "0123456789abcdef";
    let Some(mut browser) = Browser::start("the prompt for the token") else { return };
    let a = Upstream::start(|_| ok("a"));
    let mut config = front::config(Kind::Controller, &[a.address]);
    config.entry = Entry::Token(Entry::token(TOKEN).unwrap());
    let front = Front::start_unproven(config);
    let page = format!("http://{}/", front.admin);
    browser.types(&[("ann", "fedcba9876543210"), ("ann", "")]);
    browser.open(&page);
    browser
        .until("document.body && document.body.innerText.includes('not the token of this admin API')", SEEN);
    browser.types(&[("ann", TOKEN)]);
    browser.open(&page);
    browser.until("document.title.includes('All is well')", SEEN);
    // Styles, script and events come with it too.
    assert_eq!(browser.value("document.styleSheets.length"), 1);
    drop(a);
    browser.until("document.querySelector('#wrong').innerText.includes('u0')", SEEN);
    assert_eq!(browser.value("document.querySelector('#live').innerText.trim()"), "");
}

#[test]
fn in_a_browser_registries_say_how_far_they_are_and_certificates_until_when_they_are_good() {
    let Some(mut browser) = Browser::start("registries and certificates in a browser") else { return };
    let files = Files::new();
    // It ends within the week in which that is said.
    let soon = Wanted { names: &["ci.example"], days: -1..3, ..Wanted::default() };
    files.ca.make(&soon).write(files.folder.path(), "soon");
    let (writer, one, two) = registry::cloud();
    let mut config = registry::config(&[&writer, &one, &two]);
    let setting = ServerSetting { pairs: vec![files.pair("soon")], ..files.setting() };
    config.listeners.push(Listener {
        name: "secured".into(),
        tls: Some(Server::load(setting).unwrap()),
        ..config.listeners[0].clone()
    });
    let front = registry::started(config);
    let pushed = writer.push("a");
    one.copies(pushed);
    writer.confirmed();
    registry::knows(&front, 1, pushed);
    browser.looks(1300, 1200, false);
    browser.open(&format!("http://{}/", front.admin));
    let rows = "[...document.querySelectorAll('#registries tbody tr')].map(row => row.innerText.replace(/\\s+/g, ' '))";
    browser.until(&format!("{rows}.some(row => row.startsWith('u1') && row.includes('{pushed}'))"), SEEN);
    let shown = browser.value(rows);
    let shown: Vec<&str> = shown.as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(shown[2].starts_with("u2") && shown[2].contains("has 1.0, and 1.1 is needed"), "{shown:?}");
    let until = "document.querySelector('#process').innerText.includes('Certificate of listener secured')";
    assert_eq!(browser.value(until), true);
    browser.until("document.querySelector('#wrong').innerText.includes('certificate')", SEEN);
    let fault = browser.value("document.querySelector('#wrong').innerText");
    assert!(fault.as_str().unwrap().contains("secured"), "{fault}");
    browser.picture("registries");
    // And it moves without being loaded anew.
    browser.value("window.mark = 1");
    two.copies(pushed);
    browser.until(&format!("{rows}.some(row => row.startsWith('u2') && row.includes('{pushed}'))"), SEEN);
    assert_eq!(browser.value("window.mark"), 1);
    browser.looks(390, 1200, true);
    browser.picture("registries-narrow");
    let wide = browser.value("document.documentElement.scrollWidth - innerWidth");
    assert!(wide.as_i64().unwrap() <= 0, "it is too wide by {wide}");
}
