//! What is forwarded, and in which form.

use super::{
    judge::{
        Bench,
        Want::{Any, Passed},
        check, each,
    },
    origin::Request,
};

fn get(fields: &str) -> Vec<u8> {
    format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n{fields}\r\n").into_bytes()
}

/// Sends one request and gives what the origin saw of it.
fn forwarded(bench: &Bench, bytes: &[u8]) -> Request {
    let (outcome, fault) = bench.judge(bytes, Passed, &[]);
    assert_eq!(fault, None, "{outcome:?}");
    let seen = bench.origin.count();
    // The last one is the sentinel.
    match bench.origin.since(seen - 2).swap_remove(0) {
        super::origin::Reached::Whole(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fields_of_one_connection_go_no_further() {
    // The origin takes what it should not see for a fault, and the judge what it should see and does not.
    let cases = each(
        Passed,
        [
            "Connection: keep-alive\r\n",
            "Connection: x-secret\r\nX-Secret: 1\r\nX-Odd: 1\r\n",
            "Connection: X-Secret , x-other\r\nX-SECRET: 1\r\nx-other: 2\r\n",
            "Connection: x-one\r\nConnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\n",
            "Connection: \"x-secret\"\r\nX-Secret: 1\r\n",
            "Connection: ,, ,\r\nX-Odd: 1\r\n",
            "Connection: not a token\r\nX-Odd: 1\r\n",
            "Keep-Alive: timeout=5, max=100\r\nConnection: keep-alive\r\n",
            "Keep-Alive: timeout=5\r\n",
            "Proxy-Connection: keep-alive\r\n",
            "Proxy-Authorization: Basic x\r\nProxy-Authenticate: x\r\n",
            "TE: trailers\r\nConnection: TE\r\n",
            "TE: trailers, deflate;q=0.5\r\n",
            "TE: gzip\r\nTE: chunked\r\n",
            "Trailer: X-Sum\r\n",
            "Upgrade: websocket\r\n",
            "Upgrade: h2c\r\n",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
            "Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
            "HTTP2-Settings: AAMAAABk\r\n",
            "Connection: upgrade\r\nUpgrade: H2C\r\n",
        ]
        .map(get),
    );
    check(&cases);
}

#[test]
fn odd_bytes_in_a_connection_field_do_not_hide_what_it_names() {
    let odd = ["x-secret, \u{fc}", "\u{fc}, x-secret", "\u{fc},x-secret,\u{80}"];
    check(&each(
        Passed,
        odd.map(|names| get(&format!("Connection: {names}\r\nX-Secret: 1\r\nX-Odd: 1\r\n"))),
    ));
}

#[test]
fn an_upgrade_is_asked_for_in_its_own_words_and_h2c_never() {
    let bench = Bench::start();
    for upgrade in ["websocket", "echo/1"] {
        let fields = format!("Connection: keep-alive, Upgrade\r\nUpgrade: {upgrade}\r\n");
        let (outcome, fault) = bench.judge(&get(&fields), Any, &[]);
        assert_eq!((fault, outcome.refused), (None, None));
        let reached = bench.origin.since(0);
        let asked = reached.iter().find_map(|reached| match reached {
            super::origin::Reached::Whole(request) => request.get("upgrade").filter(|u| *u == upgrade),
            _ => None,
        });
        assert_eq!(asked, Some(upgrade), "{reached:?}");
    }
    for upgrade in ["h2c", "h2c, websocket", "websocket, h2c"] {
        let fields =
            format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMA\r\n");
        let request = forwarded(&bench, &get(&fields));
        assert_eq!(
            (request.get("upgrade"), request.get("connection"), request.get("http2-settings")),
            (None, None, None)
        );
    }
}

#[test]
fn connection_cannot_take_framing_host_or_identity_away() {
    let bench = Bench::start();
    for name in [
        "Host",
        "Content-Length",
        "X-Forwarded-For",
        "X-Request-Id",
        "Switchyard-Deadline",
        "close-not, Host",
    ] {
        let text = format!(
            "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nConnection: {name}\r\nContent-Length: 5\r\n\r\nhello"
        );
        let request = forwarded(&bench, text.as_bytes());
        assert_eq!((request.get("host"), request.body.as_slice()), (Some("front"), &b"hello"[..]), "{name}");
        for kept in ["x-forwarded-for", "x-request-id", "switchyard-deadline"] {
            assert!(request.get(kept).is_some(), "{name} took {kept}");
        }
    }
    let text = "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nConnection: Transfer-Encoding\r\n\
                Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(forwarded(&bench, text.as_bytes()).body, b"hello");
}

#[test]
fn identity_is_the_proxys_to_say_in_any_spelling() {
    let bench = Bench::start();
    for name in [
        "X-Forwarded-For",
        "x-forwarded-for",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Anything",
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "X-Client-IP",
        "Ssl-Client-Cert",
        "ssl_client_cert",
        "SSL_CLIENT_VERIFY",
        "Ssl-Client-Verify",
        "Switchyard-Deadline",
        "switchyard_deadline",
        "Switchyard-Position",
    ] {
        let request = forwarded(&bench, &get(&format!("{name}: forged\r\n{name}: again\r\n")));
        for (given, value) in &request.fields {
            assert!(!value.contains("forged") && !value.contains("again"), "{name}: {given}: {value}");
        }
        for (set, wanted) in
            [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "front")]
        {
            assert_eq!(request.all(set), [wanted], "{name}");
        }
    }
}

#[test]
fn a_request_has_one_form_whatever_it_came_in() {
    let bench = Bench::start();
    let text = "GET http://front//api/%76%31/vm?a=%76//b HTTP/1.1\r\nHOST:\tfront \r\nX-ODD:  a  b\t\r\nx-none:\r\n\r\n";
    let request = forwarded(&bench, text.as_bytes());
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/api/v1/vm?a=%76//b"));
    assert_eq!(request.all("host"), ["front"]);
    assert_eq!((request.get("x-odd"), request.get("x-none")), (Some("a  b"), Some("")));
    assert_eq!((request.get("content-length"), request.get("transfer-encoding")), (None, None));
    // A body keeps the framing it came in, in its one form.
    let chunked = "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\ntransfer-encoding:\tChunked\r\n\r\n\
                   003;x=y\r\nhel\r\n2\r\nlo\r\n000\r\n\r\n";
    let request = forwarded(&bench, chunked.as_bytes());
    assert_eq!((request.all("transfer-encoding"), request.body.as_slice()), (vec!["chunked"], &b"hello"[..]));
    let counted = "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\ncontent-length: 0005\r\n\r\nhello";
    let request = forwarded(&bench, counted.as_bytes());
    assert_eq!((request.all("content-length").len(), request.body.as_slice()), (1, &b"hello"[..]));
    assert_eq!(request.get("transfer-encoding"), None);
}

#[test]
fn an_old_request_is_forwarded_as_a_new_one() {
    let bench = Bench::start();
    for text in
        ["GET /api/v1/old HTTP/1.0\r\n\r\n", "DELETE /api/v1/old HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"]
    {
        let (outcome, fault) = bench.judge(text.as_bytes(), Any, &[]);
        assert_eq!((fault, outcome.answered.len()), (None, 1));
        // The origin takes no other version, and one host.
        assert!(bench.origin.last().is_some_and(|request| request.target == "/api/v1/old"));
    }
}

#[test]
fn an_expectation_changes_no_framing() {
    let mut cases = Vec::new();
    for method in ["PUT", "DELETE"] {
        let head = |expect: &str, framing: &str| {
            format!("{method} /api/v1/vm HTTP/1.1\r\nHost: front\r\nExpect: {expect}\r\n{framing}")
        };
        for framing in
            ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
        {
            cases.extend(each(Passed, [head("100-continue", framing), head("100-Continue", framing)]));
            for odd in ["", "100-continue, x", "x", "200-ok", "100", "100-continue;q=1"] {
                cases.extend(each(Any, [head(odd, framing)]));
            }
        }
        cases.extend(each(
            Any,
            [head("100-continue", "\r\n"), head("100-continue", "Content-Length: 0\r\n\r\n")],
        ));
        let both = head("100-continue\r\nExpect: 100-continue", "Content-Length: 5\r\n\r\nhello");
        cases.extend(each(Any, [both]));
    }
    check(&cases);
}
