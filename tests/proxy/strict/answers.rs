//! Broken answers of an upstream.

use super::poison::{Case, check};

fn plain(first: &str) -> Case {
    Case::of(format!("{first}\r\nContent-Length: 5\r\n\r\nhello"))
}

/// A read is asked for again on another connection; anything else must be a 502 at once.
fn both(cases: Vec<Case>) -> Vec<Case> {
    let writes: Vec<_> = cases.iter().cloned().map(|case| case.to("PUT")).collect();
    [cases, writes].concat()
}

#[test]
fn a_bad_status_line_is_no_answer() {
    let bad = [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 1000",
        "HTTP/1.1",
        "HTTP/1.1 ",
        "HTTP/1.1 OK",
        "HTTP/1.1 -200 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1 0x1 OK",
        "HTTP/1.1 000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 001 OK",
        "HTTP/2.0 200 OK",
        "HTTP/2 200 OK",
        "HTTP/0.9 200 OK",
        "HTTP/3.0 200 OK",
        "HTTP/11.1 200 OK",
        "http/1.1 200 OK",
        "ICY 200 OK",
        "200 OK",
        "OK",
        "GET / HTTP/1.1",
        "<html>",
        "HTTP 200 OK",
        "HTTPS/1.1 200 OK",
        "HTTP/1.1\t200\tOK",
        "HTTP/1.1/200 OK",
        "\0HTTP/1.1 200 OK",
        "HTTP/1.1 \u{662}00 OK",
        "HTTP/1.1 200,200 OK",
    ];
    check(both(bad.map(|line| plain(line).closing()).to_vec()));
}

#[test]
fn an_odd_status_line_is_taken_in_one_way_or_not_at_all() {
    let odd = [
        "HTTP/1.1 200",
        "HTTP/1.1 200 ",
        "HTTP/1.1  200 OK",
        " HTTP/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "HTTP/1.2 200 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\x01K",
        "HTTP/1.1 200 \u{fc}",
        "HTTP/1.1 200OK",
        "HTTP/1.1 200 OK\t",
    ];
    check(both(odd.map(|line| plain(line).closing().may(200, "hello")).to_vec()));
    let codes = [(600, "HTTP/1.1 600 X"), (999, "HTTP/1.1 999 X"), (299, "HTTP/1.1 299 X")];
    check(both(codes.map(|(code, line)| plain(line).may(code, "hello")).to_vec()));
}

fn framed(fields: &str, body: &str) -> Case {
    Case::of(format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}"))
}

const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";

#[test]
fn an_answer_framed_in_two_ways_is_not_passed_on_as_it_is() {
    let length = |value: &str| framed(&format!("Content-Length:{value}\r\n"), "hello");
    let coding = |value: &str| framed(&format!("Transfer-Encoding:{value}\r\n"), CHUNKS);
    let mut cases: Vec<Case> = vec![
        framed("Content-Length: 5\r\nContent-Length: 5\r\n", "hello").may(200, "hello"),
        framed("Content-Length: 5, 5\r\n", "hello").may(200, "hello"),
        framed("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
        framed("Content-Length: 6\r\ncontent-length: 5\r\n", "hello!"),
        framed("Content-Length: 5, 6\r\n", "hello!"),
        framed("Content-Length: 0\r\nContent-Length: 5\r\n", "hello"),
        framed("Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", CHUNKS).may(200, "hello"),
        framed("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKS).may(200, "hello"),
        framed("Transfer-Encoding: chunked\r\nContent-Length: x\r\n", CHUNKS).may(200, "hello"),
        framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    ];
    let lengths = [
        " -5",
        " +5",
        " 5x",
        " 0x5",
        " 5.0",
        " five",
        " 5;5",
        " 18446744073709551616",
        " 99999999999999999999999",
        " 5 5",
    ];
    cases.extend(lengths.map(|value| length(value).closing()));
    let codings = [
        " gzip",
        " identity",
        " xchunked",
        " chunked, chunked",
        " chunked, gzip",
        " \"chunked\"",
        " chunked;q=1",
        " , chunked",
        "",
    ];
    cases.extend(codings.map(|value| coding(value).closing()));
    cases.extend(["Chunked", " CHUNKED", "\tchunked\t"].map(|value| coding(value).must(200, "hello")));
    cases.extend([" 05", "5", "\t5 "].map(|value| length(value).may(200, "hello")));
    check(both(cases));
}

#[test]
fn a_broken_head_is_no_answer_or_made_whole() {
    let with = |field: &str| framed(&format!("Content-Length: 5\r\n{field}\r\n"), "hello").closing();
    let bad = [
        "X: a\0b",
        "X: a\x01b",
        "X: a\rb",
        "X: a\x7fb",
        ": 1",
        "no colon",
        "X(: 1",
        "X\0: 1",
        "X\u{a0}: 1",
        "X Y: 1",
    ];
    let mut cases: Vec<_> = bad.map(with).to_vec();
    let odd =
        ["X : 1", "X\t: 1", "X: 1\r\n folded", "X: 1\r\n\tfolded", "X: 1\nY: 2", "X: \u{fc}", "X:", "X:1"];
    cases.extend(odd.map(|field| with(field).may(200, "hello")));
    cases.push(Case::of("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello").closing().may(200, "hello"));
    cases.push(Case::of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello").closing().may(200, "hello"));
    cases.push(Case::of("HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\nhello").closing());
    cases.push(Case::of("HTTP/1.1 200 OK\rContent-Length: 5\r\r\nhello").closing());
    cases.push(Case::of("HTTP/1.1 200 OK\r\nContent-Le").closing());
    cases.push(Case::of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n").closing());
    check(both(cases));
}

#[test]
fn a_head_without_end_is_no_answer() {
    let fields = |count: usize, size: usize| {
        let lines: String = (0..count).map(|n| format!("X-{n}: {}\r\n", "x".repeat(size))).collect();
        framed(&format!("Content-Length: 5\r\n{lines}"), "hello")
    };
    let mut cases = vec![fields(1, 1 << 20), fields(1100, 1024)];
    // Whether taken or not, as a whole.
    cases.extend(
        [(300, 8), (3000, 8), (257, 1), (1, 300_000)]
            .map(|(count, size)| fields(count, size).may(200, "hello")),
    );
    check(both(cases));
}

#[test]
fn a_flood_of_interim_answers_ends() {
    let hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let flood = |interim: &str, count: usize| Case::of(interim.repeat(count) + hello).may(200, "hello").cut();
    let interim = [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
    ];
    let mut cases: Vec<_> = interim.map(|interim| flood(interim, 1000)).to_vec();
    cases.extend(interim.map(|interim| flood(interim, 2)));
    check(both(cases));
    // Nobody has asked for another protocol.
    let switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    check(both(vec![
        Case::of(switched),
        Case::of(format!("{switched}{hello}")),
        Case::of("HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        Case::of("HTTP/1.1 101 Switching Protocols\r\nContent-Length: 5\r\n\r\nhello"),
    ]));
}

#[test]
fn what_stands_behind_an_answer_is_nobodys() {
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
    let hello = || framed("Content-Length: 5\r\n", "hello");
    let mut cases = Vec::new();
    for behind in [
        "!",
        " world",
        "\r\n",
        "\r\n\r\n",
        second,
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "0\r\n\r\n",
    ] {
        for answer in [framed("Content-Length: 5\r\n", &format!("hello{behind}")), hello().later(behind)] {
            cases.push(answer.must(200, "hello").spoils());
        }
        for answer in [
            framed("Transfer-Encoding: chunked\r\n", &format!("{CHUNKS}{behind}")),
            framed("Transfer-Encoding: chunked\r\n", CHUNKS).later(behind),
        ] {
            cases.push(answer.must(200, "hello").spoils());
        }
        cases.push(framed("Content-Length: 0\r\n", behind).must(200, "").spoils());
    }
    cases.push(hello().later(second.repeat(5)).must(200, "hello"));
    cases.push(hello().later(second).later(second).must(200, "hello"));
    check(both(cases));
}

#[test]
fn what_stands_behind_an_answer_without_body_is_nobodys() {
    let mut cases = Vec::new();
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
    for behind in ["hello", second] {
        for status in [204, 304] {
            for fields in
                ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n"]
            {
                let first = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
                cases.push(Case::of(format!("{first}{behind}")).must(status, "").spoils());
                cases.push(Case::of(first).later(behind).must(status, ""));
            }
        }
        for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let first = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            cases.push(Case::of(format!("{first}{behind}")).to("HEAD").must(200, "").spoils());
            cases.push(Case::of(first).later(behind).to("HEAD").must(200, "").spoils());
        }
    }
    check(cases);
}

#[test]
fn an_answer_that_breaks_off_is_not_ended() {
    let length = |body: &str| framed("Content-Length: 10\r\n", body).closing().cut();
    let mut cases: Vec<_> = ["", "hello", "helloworl"].map(length).to_vec();
    let coded = |body: &str| framed("Transfer-Encoding: chunked\r\n", body).closing().cut();
    let bodies = [
        "",
        "5",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\nzz\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n;\r\n\r\n",
    ];
    cases.extend(bodies.map(coded));
    check(both(cases));
}

#[test]
fn an_answer_in_odd_chunks_is_whole() {
    let coded = |body: &str| framed("Transfer-Encoding: chunked\r\n", body);
    let good = [
        CHUNKS,
        "005\r\nhello\r\n000\r\n\r\n",
        "5;a=b\r\nhello\r\n0;c\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
        "5;a=\"q;x\"\r\nhello\r\n0\r\n\r\n",
    ];
    let mut cases: Vec<_> = good.map(|body| coded(body).must(200, "hello")).to_vec();
    let odd = [
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
    ];
    cases.extend(odd.map(|body| coded(body).closing().may(200, "hello").cut()));
    let trailers = format!("5\r\nhello\r\n0\r\n{}\r\n", "X-Sum: 1\r\n".repeat(5000));
    cases.push(coded(&trailers).closing().may(200, "hello").cut());
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(100_000));
    cases.push(coded(&extension).closing().may(200, "hello").cut());
    // Until the upstream closes.
    cases.push(framed("", "hello").closing().must(200, "hello"));
    cases.push(Case::of("HTTP/1.0 200 OK\r\n\r\nhello").closing().must(200, "hello"));
    cases.push(framed("Connection: close\r\nContent-Length: 5\r\n", "hello").closing().must(200, "hello"));
    cases.push(Case::of("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello").closing().must(200, "hello"));
    cases.push(
        Case::of("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .closing()
            .may(200, "hello"),
    );
    check(both(cases));
}
