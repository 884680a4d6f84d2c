//! Several requests in one go.

use super::judge::{
    Want::{Passed, Turns},
    check, each,
};

/// Requests of each framing, in turn.
fn request(n: usize) -> String {
    match n % 5 {
        0 => format!("GET /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\n\r\n"),
        1 => format!("DELETE /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\nContent-Length: 5\r\n\r\nhello"),
        2 => format!(
            "PUT /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ),
        3 => format!("HEAD /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\n\r\n"),
        _ => format!("POST /api/v1/vm?n={n} HTTP/1.1\r\nHost: front\r\nContent-Length: 0\r\n\r\n"),
    }
}

fn requests(count: usize) -> String {
    (0..count).map(request).collect()
}

#[test]
fn requests_in_one_write_are_answered_in_order_and_once() {
    let turns = |count: usize| (requests(count).into_bytes(), Turns(count + 1, None));
    check(&[turns(2), turns(5), turns(10), turns(50), turns(200)]);
}

#[test]
fn gets_in_one_write_are_answered_in_order_and_once() {
    let gets = |count: usize| -> String { (0..count).map(|n| request(5 * n)).collect() };
    let turns = |count: usize| (gets(count).into_bytes(), Turns(count + 1, None));
    check(&[turns(2), turns(10), turns(100), turns(400)]);
}

#[test]
fn a_refused_one_in_the_middle_ends_it_and_the_earlier_answers_are_whole() {
    let bad = [
        ("GET /api/v1/vm HTTP/1.1\r\n\r\n", "no-host"),
        ("GET /api/v1/vm HTTP/1.1\nHost: front\n\n", "bare-line-end"),
        (
            "PUT /a HTTP/1.1\r\nHost: front\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "both-lengths",
        ),
        ("GET /api/v1/vm HTTP/9.1\r\nHost: front\r\n\r\n", "bad-version"),
        ("GET /a/../b HTTP/1.1\r\nHost: front\r\n\r\n", "ambiguous-path"),
        ("nonsense\r\n\r\n", "bad-request-line"),
        ("DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad-body"),
    ];
    let mut cases = Vec::new();
    for (text, reason) in bad {
        for place in [0, 1, 2, 3, 4, 5, 9] {
            let (before, behind) = (requests(place), requests(3));
            cases.extend(each(Turns(place, Some(reason)), [format!("{before}{text}{behind}")]));
        }
    }
    check(&cases);
}

#[test]
fn behind_the_last_chunk_the_next_request_begins() {
    let chunked = |end: &str| {
        format!(
            "DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{end}"
        )
    };
    let next = "GET /api/v1/next HTTP/1.1\r\nHost: front\r\n\r\n";
    let mut cases =
        each(Passed, ["0\r\n\r\n", "000;a=b\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n", "0\r\n\r\n\r\n"].map(chunked));
    for end in ["0\r\n\r\n", "00\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n"] {
        cases.extend(each(Turns(3, None), [chunked(end) + next]));
        cases.extend(each(Turns(4, None), [chunked(end) + &chunked(end) + next]));
        cases.extend(each(
            Turns(1, Some("bad-request-line")),
            [chunked(end) + "0\r\n\r\n", chunked(end) + "5\r\nhello\r\n"],
        ));
    }
    check(&cases);
}

#[test]
fn behind_a_request_that_closes_nothing_is_read() {
    let next = requests(3);
    let closing = |connection: &str| {
        format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\nConnection: {connection}\r\n\r\n{next}")
    };
    let mut cases = each(
        Turns(1, None),
        ["close", "Close", "CLOSE", "x, close", "close, x", "keep-alive, close"].map(closing),
    );
    let twice = "GET /api/v1/vm HTTP/1.1\r\nHost: front\r\nConnection: x\r\nConnection: close\r\n\r\n";
    cases.extend(each(Turns(1, None), [twice.to_owned() + &next]));
    cases.extend(each(Turns(5, None), ["keep-alive", "x", "closed", "", "x-close"].map(closing)));
    check(&cases);
}
