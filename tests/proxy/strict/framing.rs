//! Where a body ends: `Content-Length` and `Transfer-Encoding`.

use super::judge::{
    Want::{Any, Passed, Refused, Turns},
    check, each,
};

/// To a route that may be repeated, whose upstream connections are kept and used again.
fn put(fields: &str, body: &str) -> Vec<u8> {
    format!("DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\n{fields}\r\n{body}").into_bytes()
}

fn length(value: &str) -> Vec<u8> {
    put(&format!("Content-Length:{value}\r\n"), "hello")
}

#[test]
fn a_length_is_one_number_in_digits() {
    let mut cases = each(
        Passed,
        [" 5", "5", "\t5\t", "   5   ", " 05", " 0000000005", " 00000000000000000000005"].map(length),
    );
    cases.extend(each(
        Refused("bad-length"),
        [
            " +5",
            " -5",
            " 5,5",
            " 5, 5",
            " 5,",
            " ,5",
            " 5;5",
            " 5 5",
            " 0x5",
            " 5h",
            " 5.0",
            " 5e0",
            " 5_0",
            "",
            " ",
            " five",
            " \u{665}",
            " \"5\"",
            " '5'",
            " (5)",
            " 5%",
            " --5",
            " - 5",
            " 18446744073709551616",
            " 99999999999999999999999",
            " -0",
            " +0",
            " 5\u{a0}",
            " \u{feff}5",
            " 1e400",
            " NaN",
            " infinity",
        ]
        .map(length),
    ));
    cases.extend(each(Refused("forbidden-byte"), [" 5\x0b", "\x0c5", " 5\0", "\x005", " 5\x7f"].map(length)));
    let zero = |value: &str| put(&format!("Content-Length: {value}\r\n"), "");
    cases.extend(each(Passed, ["0", "00", "0000000000000000000000000"].map(zero)));
    check(&cases);
}

#[test]
fn a_length_is_not_repeated() {
    let mut cases = Vec::new();
    for (one, two) in
        [("5", "5"), ("5", "6"), ("6", "5"), ("0", "5"), ("5", "0"), ("5", ""), ("", "5"), ("5", "x")]
    {
        for between in ["", "X-Odd: 1\r\n", "Host-Of: front\r\nX-Odd: 1\r\n"] {
            let fields = format!("Content-Length: {one}\r\n{between}content-length: {two}\r\n");
            cases.extend(each(Refused("bad-length"), [put(&fields, "hello")]));
        }
    }
    let three = "Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 5\r\n";
    cases.extend(each(Refused("bad-length"), [put(three, "hello")]));
    check(&cases);
}

#[test]
fn what_is_behind_the_length_is_the_next_request() {
    let next = "GET /api/v1/next HTTP/1.1\r\nHost: front\r\n\r\n";
    let with = |length: usize, rest: &str| put(&format!("Content-Length: {length}\r\n"), rest);
    let mut cases = each(Turns(3, None), [with(5, &format!("hello{next}")), with(0, next)]);
    cases.extend(each(Passed, [with(next.len(), next)]));
    // What is left over is the begin of the next method.
    cases.extend(each(Turns(2, None), [with(4, "hello"), with(3, "hello"), with(5, "hello\r\n")]));
    cases.extend(each(
        Turns(1, Some("bad-request-line")),
        [with(2, "hel lo"), with(0, "he llo"), with(4, "hell{")],
    ));
    cases.extend(each(Any, [with(5, "hello\r\n\r\n\r\n")]));
    cases.extend(each(Turns(1, Some("bare-line-end")), [with(5, "hello\n"), with(5, "hello\r")]));
    // It never comes whole: the client has closed.
    cases.extend(each(Turns(0, None), [with(5000, "hello")]));
    for method in ["GET", "HEAD", "POST", "OPTIONS", "PATCH", "BREW"] {
        let text = |framing: &str| format!("{method} /api/v1/vm HTTP/1.1\r\nHost: front\r\n{framing}");
        cases.extend(each(
            Passed,
            [
                text("Content-Length: 5\r\n\r\nhello"),
                text("Content-Length: 44\r\n\r\nGET /api/v1/next HTTP/1.1\r\nHost: front\r\n\r\n\0"),
                text("Content-Length: 0\r\n\r\n"),
                text("\r\n"),
                text("Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                text("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            ],
        ));
    }
    check(&cases);
}

const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";

fn coded(fields: &str) -> Vec<u8> {
    put(fields, CHUNKS)
}

#[test]
fn a_transfer_coding_is_one_final_chunked() {
    let value = |text: &str| coded(&format!("Transfer-Encoding:{text}\r\n"));
    let mut cases = each(
        Passed,
        [
            " chunked",
            "chunked",
            "\tchunked",
            " chunked\t",
            " Chunked",
            " CHUNKED",
            " cHuNkEd",
            "   chunked   ",
        ]
        .map(value),
    );
    cases.extend(each(
        Refused("bad-coding"),
        [
            " gzip",
            " gzip, chunked",
            " chunked, gzip",
            " chunked, chunked",
            " chunked,chunked",
            " chunked, identity",
            " identity, chunked",
            " identity",
            " \"chunked\"",
            " 'chunked'",
            " xchunked",
            " chunkedx",
            " x-chunked",
            " chunked;q=1",
            " chunked; q=0.5",
            " chunked;",
            " chunked,",
            " ,chunked",
            " , chunked",
            " chunked,,",
            " ,",
            "",
            " ",
            " chunk",
            " chunked chunked",
            " chunked\tchunked",
            " deflate",
            " br",
            " compress, chunked",
            " trailers",
            " chunked/1.0",
            " chu nked",
            " chunked\u{a0}",
            " \u{a0}chunked",
            " chun\u{212a}ed",
            " \u{feff}chunked",
            " chunked%20",
            " [chunked]",
            " =chunked",
            " chunked=1",
            " none",
            " null",
            " *",
        ]
        .map(value),
    ));
    cases.extend(each(
        Refused("forbidden-byte"),
        [
            " \x0bchunked",
            " chunked\x0b",
            "\x0cchunked",
            " chunked\0",
            "\0chunked",
            " chunk\x7fed",
            " \x1fchunked",
        ]
        .map(value),
    ));
    check(&cases);
}

#[test]
fn a_transfer_coding_is_not_repeated() {
    let mut cases = Vec::new();
    for (one, two) in [
        ("chunked", "chunked"),
        ("chunked", "identity"),
        ("identity", "chunked"),
        ("gzip", "chunked"),
        ("chunked", "gzip"),
        ("", "chunked"),
        ("chunked", ""),
        ("chunked", "xchunked"),
    ] {
        let fields = format!("Transfer-Encoding: {one}\r\nX-Odd: 1\r\ntransfer-encoding: {two}\r\n");
        cases.extend(each(Refused("bad-coding"), [coded(&fields)]));
    }
    check(&cases);
}

#[test]
fn a_transfer_coding_is_not_of_http_1_0() {
    let old = |fields: &str| format!("PUT /api/v1/vm HTTP/1.0\r\nHost: front\r\n{fields}\r\n{CHUNKS}");
    let mut cases = each(
        Refused("bad-coding"),
        [
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n",
        ]
        .map(old),
    );
    cases
        .extend(each(Refused("both-lengths"), [old("Transfer-Encoding: chunked\r\nContent-Length: 15\r\n")]));
    check(&cases);
}

#[test]
fn a_length_and_a_coding_do_not_go_together() {
    let mut cases = Vec::new();
    for coding in ["chunked", "identity", "gzip, chunked", "", "xchunked", "chunked, identity"] {
        for length in ["0", "5", "15", "x", "-1"] {
            let (length, coding) =
                (format!("Content-Length: {length}\r\n"), format!("Transfer-Encoding: {coding}\r\n"));
            cases.extend(each(
                Refused("both-lengths"),
                [coded(&format!("{length}{coding}")), coded(&format!("{coding}X-Odd: 1\r\n{length}"))],
            ));
        }
    }
    check(&cases);
}

#[test]
fn a_coding_in_disguise_is_refused_or_is_none() {
    // With a length, so that it is the body's only framing if the disguise works on nobody.
    let disguised = |field: &str| put(&format!("{field}\r\nContent-Length: 15\r\n"), CHUNKS);
    let mut cases = each(
        Refused("bad-header-name"),
        [
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            "Transfer-Encoding",
            "Transfer-Encoding chunked",
            "Transfer Encoding: chunked",
            "Transfer-Encoding;: chunked",
            "Transfer-Encoding=chunked",
            "\"Transfer-Encoding\": chunked",
            "Transfer-Encoding\u{a0}: chunked",
            "Tran\u{17f}fer-Encoding: chunked",
            "(x)Transfer-Encoding: chunked",
        ]
        .map(disguised),
    );
    cases.extend(each(
        Refused("bare-line-end"),
        [
            "X-Odd: y\nTransfer-Encoding: chunked",
            "X-Odd: y\rTransfer-Encoding: chunked",
            "X-Odd: y\r\rTransfer-Encoding: chunked",
            "X-Odd:\nTransfer-Encoding: chunked",
            "\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\n",
            "Transfer-Encoding\n: chunked",
            "Transfer-Encoding:\n chunked",
            "Transfer-Encoding: chun\r\r\nked",
        ]
        .map(disguised),
    ));
    cases.extend(each(
        Refused("folded-header"),
        [
            " Transfer-Encoding: chunked",
            "\tTransfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked",
            "Transfer-Encoding: chunked\r\n ",
        ]
        .map(disguised),
    ));
    cases.extend(each(
        Refused("bad-header-name"),
        [
            "\x0bTransfer-Encoding: chunked",
            "\0Transfer-Encoding: chunked",
            "Transfer-Encoding\0: chunked",
            "Transfer\0-Encoding: chunked",
        ]
        .map(disguised),
    ));
    cases.extend(each(
        Passed,
        [
            "Transfer_Encoding: chunked",
            "TransferEncoding: chunked",
            "X-Transfer-Encoding: chunked",
            "Transfer-Encodin: chunked",
            "Transfer-Encoding-: chunked",
            "TE: chunked",
            "Content-Encoding: chunked",
            "Content-Transfer-Encoding: chunked",
            "X-Odd: Transfer-Encoding: chunked",
            "Connection: Transfer-Encoding",
            "Trailer: Transfer-Encoding",
        ]
        .map(disguised),
    ));
    // The same for a length, behind a coding.
    let disguised = |field: &str| coded(&format!("{field}\r\nTransfer-Encoding: chunked\r\n"));
    cases.extend(each(
        Refused("bad-header-name"),
        [
            "Content-Length : 5",
            "Content-Length\t: 5",
            "Content Length: 5",
            "Content-Length",
            "Content-Length;: 5",
        ]
        .map(disguised),
    ));
    cases.extend(each(
        Refused("bare-line-end"),
        ["X: y\nContent-Length: 5", "X: y\rContent-Length: 5"].map(disguised),
    ));
    cases.extend(each(
        Passed,
        ["Content_Length: 5", "X-Content-Length: 5", "Connection: Content-Length"].map(disguised),
    ));
    cases.extend(each(Any, ["Content-Length-: 5", "Content-Range: bytes 0-4/5"].map(disguised)));
    check(&cases);
}
