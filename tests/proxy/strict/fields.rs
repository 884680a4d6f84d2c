//! Names and values of header fields, folding, and `Host`.

use super::judge::{
    Want::{Any, Passed, Refused},
    check, each,
};

fn with(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n", fields.as_ref(), b"\r\n\r\n"].concat()
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn a_field_name_is_a_token() {
    let mut cases = Vec::new();
    for byte in 0..=255_u8 {
        let reason = match byte {
            b'\r' | b'\n' => Refused("bare-line-end"),
            // The colon ends the name; what is behind it is the value.
            _ if token(byte) || byte == b':' => Passed,
            _ => Refused("bad-header-name"),
        };
        cases.push((with([b"X-O", &[byte][..], b"dd: 1"].concat()), reason));
        if token(byte) && byte.is_ascii_alphanumeric() {
            continue;
        }
        let first = match byte {
            b' ' | b'\t' => Refused("folded-header"),
            b':' => Refused("bad-header-name"),
            _ => reason,
        };
        cases.push((with([&[byte][..], b"X-Odd: 1"].concat()), first));
        cases.push((with([b"X-Odd", &[byte][..], b": 1"].concat()), reason));
    }
    check(&cases);
}

#[test]
fn a_field_is_a_name_a_colon_and_a_value() {
    let mut cases = each(
        Refused("bad-header-name"),
        [
            "no colon",
            "nocolon",
            ":",
            ": value",
            "::",
            "Bad Name: 1",
            "X-Odd : 1",
            "X-Odd\t: 1",
            "GET / HTTP/1.1",
        ]
        .map(with),
    );
    cases.extend(each(
        Passed,
        [
            "X-Odd:",
            "X-Odd: ",
            "X-Odd:\t",
            "X-Odd:1",
            "X-Odd:\t1\t",
            "X-Odd:    1    ",
            "X-Odd: a: b",
            "X-Odd: \"a, b\"",
            "X-Odd: a\tb",
            "X-Odd: 1\r\nX-Odd: 2",
            "x-odd: 1\r\nX-ODD: 1",
            "X-Odd:\r\nX-Odd: 1",
            "X-Odd: a,,b",
            "X-Odd: 1\r\nX-Even: 2\r\nX-Odd: 3",
        ]
        .map(with),
    ));
    // Spellings that a server could take for another name are names of their own here.
    for name in ["Content_Length", "Transfer_Encoding", "Content-Length-", "XContent-Length", "Hos", "Hostt"]
    {
        cases.extend(each(Passed, [with(format!("{name}: 5"))]));
    }
    check(&cases);
}

#[test]
fn a_field_value_has_no_control_character_but_the_tab() {
    let mut cases = Vec::new();
    for byte in 0..=255_u8 {
        let want = match byte {
            b'\r' | b'\n' => Refused("bare-line-end"),
            b'\t' => Passed,
            0..0x20 | 0x7f => Refused("forbidden-byte"),
            _ => Passed,
        };
        cases.push((with([b"X-Odd: a", &[byte][..], b"b"].concat()), want));
        if !(0x20..0x7f).contains(&byte) {
            cases.push((with([b"X-Odd: ", &[byte][..], b"b"].concat()), want));
            cases.push((with([b"X-Odd: a", &[byte][..]].concat()), if byte == b'\r' { Any } else { want }));
        }
    }
    // A second request hidden in a value, for those who take such bytes for line ends.
    for end in ["\n", "\r", "\r\r\n", "\n\n"] {
        let hidden = format!("X-Odd: a{end}Content-Length: 30{end}GET /api/v1/smuggled HTTP/1.1{end}X: b");
        cases.extend(each(Refused("bare-line-end"), [with(hidden)]));
    }
    check(&cases);
}

#[test]
fn a_field_is_not_folded() {
    let mut cases = each(
        Refused("folded-header"),
        [
            "X-Odd: 1\r\n folded",
            "X-Odd: 1\r\n\tfolded",
            "X-Odd: 1\r\n  \t folded",
            "X-Odd: 1\r\n ",
            "X-Odd: 1\r\n\t",
            "X-Odd:\r\n 1",
            " X-Odd: 1",
            "\tX-Odd: 1",
            " ",
            "\t",
            " : 1",
            " Host: other",
            "X-Odd: 1\r\n Content-Length: 5",
            "Transfer-Encoding:\r\n chunked",
            "Content-Length:\r\n 5",
            "X-Odd: 1\r\n folded\r\n again",
            "X-Odd: 1\r\n \r\nX-Even: 2",
        ]
        .map(with),
    );
    for first in
        [" Host: front", "\tHost: front", " X-Odd: 1\r\nHost: front", " \r\nHost: front", "\t\r\nHost: front"]
    {
        let text = format!("GET /api/v1/vm HTTP/1.1\r\n{first}\r\n\r\n");
        cases.extend(each(Refused("folded-header"), [text]));
    }
    check(&cases);
}

fn host(fields: &str) -> Vec<u8> {
    format!("GET /api/v1/vm HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

#[test]
fn there_is_one_host_and_it_is_a_host() {
    let value = |text: &str| host(&format!("Host: {text}\r\n"));
    let mut cases = each(
        Passed,
        [
            "front",
            "front:80",
            "front:",
            "FRONT",
            "front.example",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:80",
            "\tfront\t",
            "a-b_c~",
        ]
        .map(value),
    );
    cases.extend(each(
        Passed,
        [host("Host:\r\n"), host("Host: \r\n"), host("HOST: front\r\n"), host("host:front\r\n")],
    ));
    cases.extend(each(Refused("no-host"), [host(""), host("X-Host: front\r\n"), host("Hosts: front\r\n")]));
    cases.extend(each(
        Refused("bad-host"),
        [
            "front, other",
            "front other",
            "front\tother",
            "user@front",
            "user:pass@front",
            "@",
            "front/",
            "front/x",
            "/",
            "front?x",
            "front#x",
            "front\\other",
            "http://front",
            "front:b",
            "front:80b",
            "front:1:2",
            "front:-1",
            "front:+80",
            "front:99999",
            "front:65536",
            "front: 80",
            "front :80",
            ":80",
            "[::1",
            "::1",
            "[::1]80",
            "[::1]:b",
            "\"front\"",
            "<front>",
            "fr\u{f6}nt",
            "front:80:",
            "front;\"x\"",
        ]
        .map(value),
    ));
    // Allowed by the letter of RFC 3986; whether taken or not, nothing else may come of them.
    cases.extend(each(
        Any,
        ["a,b", "a;b", "!", "%61", "%00", ".", "..", "a..b", "[v1.x]", "[zz]", "a=b", "a'b", "*"].map(value),
    ));
    for second in ["front", "other", "", "FRONT", "front:80"] {
        cases.extend(each(
            Refused("bad-host"),
            [
                host(&format!("Host: front\r\nHost: {second}\r\n")),
                host(&format!("HOST: {second}\r\nX-Odd: 1\r\nhost: front\r\n")),
            ],
        ));
    }
    cases.extend(each(
        Refused("bad-header-name"),
        [host("Host : front\r\n"), host("Host\t: front\r\n"), host("Host\r\n")],
    ));
    cases.extend(each(Refused("forbidden-byte"), [value("fr\0ont"), value("front\x0b"), value("\x7f")]));
    cases.extend(each(
        Refused("bare-line-end"),
        [host("Host: front\nHost: other\r\n"), host("Host: front\rX: 1\r\n")],
    ));
    check(&cases);
}

#[test]
fn an_old_request_needs_no_host_and_ends_its_connection() {
    use super::judge::Want::Turns;
    let old = |fields: &str| format!("GET /api/v1/vm HTTP/1.0\r\n{fields}\r\n");
    let mut cases = each(
        Turns(1, None),
        [
            old(""),
            old("Host: front\r\n"),
            old("Host:\r\n"),
            old("Connection: close\r\n"),
            old("Connection: x\r\n"),
        ],
    );
    cases.extend(each(Refused("bad-host"), [old("Host: a\r\nHost: a\r\n"), old("Host: a b\r\n")]));
    // Kept or not: as the answer says.
    cases.extend(each(Any, [old("Connection: keep-alive\r\n"), old("Connection: Keep-Alive, x\r\n")]));
    check(&cases);
}
