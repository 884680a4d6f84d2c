//! Bodies in chunks: sizes, extensions, data, trailers.

use super::{
    judge::{
        Bench,
        Want::{Any, Passed, Refused},
        check, check_on, each,
    },
    origin::Reached,
};

/// On a route that is repeatable and keeps its upstream connection, and on one that is neither.
fn chunked(body: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
    let to = |method: &str| {
        let head =
            format!("{method} /api/v1/vm HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n");
        [head.as_bytes(), body.as_ref()].concat()
    };
    ["DELETE", "PUT", "GET"].map(to).to_vec()
}

fn all<T: AsRef<[u8]>>(bodies: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    bodies.into_iter().flat_map(chunked).collect()
}

/// A body whose first chunk is of this size line and has five bytes.
fn sized(line: &str) -> String {
    format!("{line}\r\nhello\r\n0\r\n\r\n")
}

#[test]
fn a_chunk_size_is_hex_digits() {
    let mut cases = each(Passed, all(["5", "05", "000005"].map(sized)));
    let upper =
        ["a\r\n0123456789\r\n0\r\n\r\n", "A\r\n0123456789\r\n0\r\n\r\n", "0A\r\n0123456789\r\n000\r\n\r\n"];
    cases.extend(each(Passed, all(upper)));
    cases.extend(each(
        Passed,
        all(["0\r\n\r\n", "00\r\n\r\n", "000\r\n\r\n", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"]),
    ));
    let bad = [
        "",
        "g",
        "5g",
        "0x5",
        "0X5",
        "x5",
        "5h",
        "-5",
        "+5",
        "-0",
        "--5",
        " 5",
        "\t5",
        "5.0",
        "5,5",
        "5,",
        "5:",
        "5=",
        "5\"",
        "'5'",
        "five",
        "\u{665}",
        "\u{ff15}",
        "5\u{a0}",
        "$5",
        "#5",
        "5_0",
        "#",
        "?",
        "/",
        "5 hello",
        "5\tx",
        "5x;a",
        ";",
        ";a=b",
        "0x",
        "\\x5",
        // Sizes that overflow: with 16 digits as an offset, with 17 as a number.
        "fffffffffffffff0",
        "ffffffffffffffff",
        "8000000000000000",
        "10000000000000000",
        "10000000000000005",
        "00000000ffffffffffffffff5",
        "fffffffffffffffffffffffffffffffff",
    ];
    cases.extend(each(Refused("bad-body"), all(bad.map(sized))));
    // Leading zeros past 16 digits, and the white space that RFC 9112 lets stand before an extension.
    let odd = ["5 ", "5\t", "0000000000000005", "00000000000000005", "5 ;a", "5; a", "5;"];
    cases.extend(each(Any, all(odd.map(sized))));
    check(&cases);
}

#[test]
fn a_chunk_size_line_ends_in_cr_lf() {
    let bad = [
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\n\rhello\r\n0\r\n\r\n",
        "5\r \nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5\x0b\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "\n5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\r\n",
        "5\r\nhello\r\n0\r\n\r\r\n",
    ];
    let mut cases = each(Refused("bad-body"), all(bad));
    let extended =
        ["5;a\nb", "5;a\rb", "5;a\0b", "5;a\x01b", "5;a\x1fb", "5;a\x7fb", "5;a=\"\n\"", "5;\r", "5;\n"];
    cases.extend(each(Refused("bad-body"), all(extended.map(sized))));
    check(&cases);
}

#[test]
fn a_chunk_is_as_long_as_it_says() {
    let next = "GET /api/v1/smuggled HTTP/1.1\r\nHost: front\r\n\r\n";
    let bad = [
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\n\r0\r\n\r\n",
        "5\r\nhello\r\r\n0\r\n\r\n",
        "5\r\nhello \r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "7\r\nhello\r\n0\r\n\r\n",
        "0\r\nhello\r\n\r\n",
        "5\r\nhello0\r\n0\r\n\r\n",
        "1\r\nAX\r\n0\r\n\r\n",
        "2\r\nAB\rX0\r\n\r\n",
    ];
    let mut cases = each(Refused("bad-body"), all(bad));
    cases.extend(each(Refused("bad-body"), all([format!("5\r\nhelloXX{next}"), format!("0\r\n{next}")])));
    // The next request is data where the size says so.
    let size = next.len();
    cases.extend(each(Passed, all([format!("{size:x}\r\n{next}\r\n0\r\n\r\n")])));
    let crlf = ["2\r\n\r\n\r\n0\r\n\r\n", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "4\r\n\r\n\r\n\r\n0\r\n\r\n"];
    cases.extend(each(Passed, all(crlf)));
    check(&cases);
}

#[test]
fn extensions_are_let_by_and_left_out() {
    let good =
        ["5;a", "5;a=b", "5;a=b;c=d", "5;a=\"q;x\"", "5;a=\"q=\\\"x\"", "5;name=0x7", "5;0"].map(sized);
    let mut cases = each(Passed, all(good));
    cases.extend(each(Passed, all(["5\r\nhello\r\n0;a\r\n\r\n", "5;a\r\nhello\r\n00;a=b\r\n\r\n"])));
    let odd = ["5;;", "5;=", "5;a=", "5;a=\"open", "5;\u{fc}", "5;a b", "5;{}", "5;<>", "5;a=\"x\r\ny\""]
        .map(sized);
    cases.extend(each(Any, all(odd)));
    let fits = format!("5;a={}", "x".repeat(200));
    let long = ["5;", "5;a=", "0;"].map(|start| format!("{start}{}", "x".repeat(300)));
    cases.extend(each(Passed, all([sized(&fits)])));
    cases.extend(each(Refused("bad-body"), all(long.map(|line| sized(&line)))));
    // It is refused before its end has come, or it could be without end.
    cases
        .extend(each(Refused("bad-body"), all([format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(100_000))])));
    cases.extend(each(Refused("bad-body"), all([format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(1000))])));
    check(&cases);
}

#[test]
fn tiny_chunks_with_long_extensions_are_too_dear() {
    let many = |count: usize, line: &str| format!("{}0\r\n\r\n", format!("{line}\r\nx\r\n").repeat(count));
    let long = format!("1;{}", "e".repeat(200));
    let mut cases = each(Passed, all([many(60, &long), many(2000, "1")]));
    cases.extend(each(
        Refused("bad-body"),
        all([many(100, &long), many(600, "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee")]),
    ));
    check(&cases);
}

fn trailed(trailers: &str) -> String {
    format!("5\r\nhello\r\n0\r\n{trailers}\r\n")
}

#[test]
fn trailers_are_fields() {
    let mut cases = each(
        Passed,
        all([
            "X-Sum: 1\r\n",
            "X-Sum:\r\n",
            "X-Sum:1\r\nX-More: 2\r\n",
            "X-Sum: \u{fc}\r\n",
            "X-Sum:\t1 \r\n",
        ]
        .map(trailed)),
    );
    let bad = [
        "no colon\r\n",
        "nocolon\r\n",
        ": 1\r\n",
        "X-Sum : 1\r\n",
        "X Sum: 1\r\n",
        " X-Sum: 1\r\n",
        "\tX-Sum: 1\r\n",
        "X-Sum: 1\r\n folded\r\n",
        "X-Sum: 1\n",
        "X-Sum: 1\r",
        "X-Sum: 1\r\r\n",
        "X-Sum: a\0b\r\n",
        "X-Sum: a\rb\r\n",
        "X-Sum: a\x01b\r\n",
        "X-Sum: a\x7fb\r\n",
        "X-S\0um: 1\r\n",
        "X-S(um: 1\r\n",
        " \r\n",
        "\t\r\n",
        "GET /api/v1/smuggled HTTP/1.1\r\nHost: front\r\n",
    ];
    cases.extend(each(Refused("bad-body"), all(bad.map(trailed))));
    let many = |count: usize| trailed(&"X-Sum: 1\r\n".repeat(count));
    cases.extend(each(Passed, all([many(64)])));
    cases.extend(each(Refused("bad-body"), all([many(65), many(500)])));
    let long = |size: usize| trailed(&format!("X-Sum: {}\r\n", "x".repeat(size)));
    cases.extend(each(Passed, all([long(7000)])));
    cases.extend(each(Refused("bad-body"), all([long(9000), long(200_000)])));
    let large = trailed(&format!("X-Sum: {}\r\n", "x".repeat(300)).repeat(60));
    cases.extend(each(Refused("bad-body"), all([large])));
    check(&cases);
}

#[test]
fn no_trailer_says_what_only_a_head_may() {
    // The origin takes any of these for a fault.
    let names = [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: other",
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "Ssl-Client-Verify: SUCCESS",
        "ssl_client_cert: x",
        "Switchyard-Deadline: 99999",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "Connection: close",
        "TE: trailers",
        "Upgrade: websocket",
        "Keep-Alive: timeout=1",
        "Trailer: Host",
        "Proxy-Authorization: x",
    ];
    let mut cases = Vec::new();
    for name in names {
        let [upper, lower] = [name.to_ascii_uppercase(), name.to_ascii_lowercase()];
        let texts = [name.to_owned(), upper, lower]
            .map(|name| trailed(&format!("X-Before: 1\r\n{name}\r\nX-Behind: 2\r\n")));
        cases.extend(each(Passed, all(texts)));
    }
    let bench = Bench::start();
    check_on(&bench, &cases);
    // What is passed on of the others is passed on as it was.
    for reached in bench.origin.since(0) {
        if let Reached::Whole(request) = reached {
            for (name, value) in &request.trailers {
                assert!(
                    matches!((name.as_str(), value.as_str()), ("x-before", "1") | ("x-behind", "2")),
                    "{name}: {value}"
                );
            }
        }
    }
}
