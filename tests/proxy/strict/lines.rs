//! The request line, and how lines end.

use super::judge::{
    Want::{Any, Passed, Refused, Turns},
    check, each,
};

fn with_line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nHost: front\r\n\r\n"].concat()
}

fn lines<T: AsRef<[u8]>>(all: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    all.into_iter().map(with_line).collect()
}

#[test]
fn a_method_is_a_token_and_goes_through_as_it_is() {
    let with = |byte: u8| with_line([b"G", &[byte][..], b"T /api/v1/vm HTTP/1.1"].concat());
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let mut cases = each(Passed, (0..=255).filter(token).map(with));
    for byte in (0..=255_u8).filter(|byte| !token(byte)) {
        let reason = match byte {
            b'\r' | b'\n' => "bare-line-end",
            0..0x20 | 0x7f => "forbidden-byte",
            _ => "bad-request-line",
        };
        cases.push((with(byte), Refused(reason)));
    }
    cases.extend(each(Passed, lines(["get /api/v1/vm HTTP/1.1", "M-SEARCH /x HTTP/1.1", "PRI /x HTTP/1.1"])));
    check(&cases);
}

#[test]
fn a_request_line_has_three_parts_and_two_spaces() {
    let mut cases = each(
        Refused("bad-request-line"),
        lines([
            " /api/v1/vm HTTP/1.1",
            " GET /api/v1/vm HTTP/1.1",
            "GET  /api/v1/vm HTTP/1.1",
            "GET /api/v1/vm  HTTP/1.1",
            "GET /api/v1/vm HTTP/1.1 ",
            "GET /api/v1 /vm HTTP/1.1",
            "GET /api/v1/vm HTTP/1.1 HTTP/1.1",
            "GET /api/v1/vm HTTP /1.1",
            "GET /api/v1/vm HTTP/ 1.1",
            "GET/api/v1/vm HTTP/1.1",
            "GET /api/v1/vmHTTP/1.1",
            "GET HTTP/1.1",
            "/api/v1/vm HTTP/1.1",
            "GET /api/v1/vm",
            "GET /api/v1/vm ",
            "GET",
            "GET  HTTP/1.1",
            " ",
            "Host: front",
            "HTTP/1.1 200 OK",
            "{\"a\": 1}",
            "GET\u{a0}/api/v1/vm\u{a0}HTTP/1.1",
            "GET\u{2003}/api/v1/vm HTTP/1.1",
        ]),
    );
    for blank in ["\t", "\x0b", "\x0c", "\x1c", "\0", " \t", "\t "] {
        cases.extend(each(
            Refused("forbidden-byte"),
            lines([
                format!("GET{blank}/api/v1/vm HTTP/1.1"),
                format!("GET /api/v1/vm{blank}HTTP/1.1"),
                format!("{blank}GET /api/v1/vm HTTP/1.1"),
                format!("GET /api/v1/vm HTTP/1.1{blank}"),
            ]),
        ));
    }
    check(&cases);
}

#[test]
fn two_versions_are_spoken() {
    let version = |text: &str| with_line(format!("GET /api/v1/vm {text}"));
    let bad = [
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/3.0",
        "HTTP/2",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/1.01",
        "HTTP/01.1",
        "HTTP/11.1",
        "HTTP/1.1x",
        "HTTP/1,1",
        "HTTP/+1.1",
        "HTTP/1.-1",
        "HTTP/1.1.",
        "HTTP/1.1\u{85}",
        "HTTP/\u{661}.1",
        "HTTP/1.1;q=1",
    ];
    let mut cases = each(Refused("bad-version"), bad.map(version));
    let none =
        ["http/1.1", "Http/1.1", "HTTPS/1.1", "XTTP/1.1", "HTTP1.1", "HTTP\\1.1", "1.1", "RTSP/1.0", "HTTP"];
    cases.extend(each(Refused("bad-request-line"), none.map(version)));
    cases.extend(each(Passed, ["HTTP/1.1"].map(version)));
    check(&cases);
}

#[test]
fn a_target_has_one_of_three_forms() {
    let target = |text: &str| with_line(format!("GET {text} HTTP/1.1"));
    let good = [
        "/",
        "/api/v1/vm",
        "/?",
        "/?a=b",
        "//front/api/v1/vm",
        "/api//v1///vm",
        "/api/v1/%76%6d",
        "/a;b=c",
        "/api/v1/vm?x=http://other/",
        "/api/v1/vm?a?b//c/../d",
        "/:80/x",
        "/@x",
        "/*",
        "/api/v1/vm?%zz",
        "http://front/api/v1/vm",
        "HTTP://front/api/v1/vm",
        "hTtPs://front/api/v1/vm",
        "http://front",
        "http://front/",
        "http://front?x=1",
        "http://front//api/v1/vm",
    ];
    let mut cases = each(Passed, good.map(target));
    cases.push((with_line("OPTIONS * HTTP/1.1"), Passed));
    let other = [
        "http://other/",
        "http://Front/",
        "http://front:80/",
        "http://user@front/",
        "http://front@other/",
        "http://front.:80/",
        "http://other?front/",
        "https://other/api/v1/vm",
    ];
    cases.extend(each(Refused("other-host"), other.map(target)));
    cases.push((target("http://front%2f/"), Any));
    cases.extend(each(Refused("bad-host"), ["http:///api/v1/vm", "http://?x", "https:///"].map(target)));
    let none = [
        "*",
        "**",
        "*/",
        "api/v1/vm",
        "front:80",
        "front",
        "ftp://front/",
        "http:/front/",
        "http:front",
        "http//front/",
        "ws://front/",
        "http:\\\\front\\",
        "?x=1",
        "./x",
        "javascript:x",
    ];
    cases.extend(each(Refused("bad-request-line"), none.map(target)));
    cases.extend(each(Refused("bad-request-line"), lines(["OPTIONS ** HTTP/1.1", "OPTIONS *x HTTP/1.1"])));
    let ambiguous = [
        "/#x",
        "/api/v1/vm#",
        "/x?y#z",
        "http://front/#x",
        "/a/../b",
        "/a/./b",
        "/..",
        "/.",
        "/a/%2e%2E/b",
        "/a/.%2e",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a%00",
        "/a%0d%0ab",
        "/a%7f",
        "/a%",
        "/a%4",
        "/a%zz",
        "http://front/a/../b",
    ];
    cases.extend(each(Refused("ambiguous-path"), ambiguous.map(target)));
    let connect = ["CONNECT front:443 HTTP/1.1", "CONNECT / HTTP/1.1", "CONNECT http://front/ HTTP/1.0"];
    cases.extend(each(Refused("connect"), lines(connect)));
    check(&cases);
}

#[test]
fn a_target_has_no_byte_that_ends_something() {
    let with = |byte: u8, place: &str| {
        with_line([b"GET /api/v1/v", place.as_bytes(), &[byte], b"m HTTP/1.1"].concat())
    };
    let mut cases = Vec::new();
    for byte in (0..0x20).chain([0x7f]) {
        let reason = if matches!(byte, b'\r' | b'\n') { "bare-line-end" } else { "forbidden-byte" };
        cases.push((with(byte, ""), Refused(reason)));
        cases.push((with(byte, "?q="), Refused(reason)));
    }
    // Some of these are let by, each in one reading.
    for byte in (0x80..=255).step_by(9).chain(*b"\"<>\\^`{|}[]'()") {
        cases.push((with(byte, ""), Any));
        cases.push((with(byte, "?q="), Any));
    }
    check(&cases);
}

#[test]
fn empty_lines_before_a_request_are_passed_over_and_nothing_else() {
    let request = "GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n\r\n";
    let before = |text: &str| format!("{text}{request}");
    let mut cases = each(Passed, ["\r\n"].map(before));
    // RFC 9112 §2.2 asks for one.
    cases.extend(each(Any, [2, 3, 1000].map(|count| before(&"\r\n".repeat(count)))));
    let bare = ["\n", "\r", "\n\n", "\r\r\n", "\r\n\n", "\n\r", "\r\n\r", "\r\r"];
    cases.extend(each(Refused("bare-line-end"), bare.map(before)));
    cases.extend(each(Refused("bad-request-line"), [" \r\n", " ", "\r\n ", "x\r\n"].map(before)));
    cases.extend(each(Refused("forbidden-byte"), ["\t", "\0", "\r\n\t", "\x0b\r\n", "\0\r\n"].map(before)));
    cases.extend(each(Refused("bad-request-line"), ["\u{feff}"].map(before)));
    check(&cases);
}

#[test]
fn every_line_of_a_head_ends_in_cr_lf() {
    let parts = ["GET /api/v1/vm HTTP/1.1", "Host: front", "X-One: 1", "X-Two: 2", ""];
    let mut cases = Vec::new();
    for end in
        ["\n", "\r", "\r\r\n", "\n\r", "\r \n", "\r\t\n", "\n\n", "\r\r", "\r\0\n", "\r\n\n", "\r\n\r\r\n"]
    {
        for place in 0..parts.len() {
            let mut text = String::new();
            for (at, part) in parts.iter().enumerate() {
                text = text + part + if at == place { end } else { "\r\n" };
            }
            // Behind the empty line the next request begins.
            let behind = place == parts.len() - 1 && end.starts_with("\r\n");
            let want = if behind { Turns(1, Some("bare-line-end")) } else { Refused("bare-line-end") };
            cases.push((text.into_bytes(), want));
        }
    }
    // What some parsers take for the end of a line.
    for end in ["\x0b", "\x0c", "\x1e", "\0"] {
        let text = parts.join("\r\n").replacen("1\r\nX-Two", &format!("1{end}X-Two"), 1) + "\r\n";
        cases.push((text.into_bytes(), Refused("forbidden-byte")));
    }
    for end in ["\u{85}", "\u{2028}"] {
        let text = parts.join("\r\n").replacen("1\r\nX-Two", &format!("1{end}X-Two"), 1) + "\r\n";
        cases.push((text.into_bytes(), Passed));
    }
    check(&cases);
}
