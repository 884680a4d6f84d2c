//! How large a head may be, to the byte and to the field.

use super::judge::{
    Bench,
    Want::{Any, Passed, Refused},
    check, check_on, each,
};

/// A head of exactly so many bytes, the empty line included.
fn head_of(size: usize, body: &str) -> Vec<u8> {
    let start =
        format!("DELETE /api/v1/vm HTTP/1.1\r\nHost: front\r\nContent-Length: {}\r\nX-Long: ", body.len());
    let fill = "x".repeat(size - start.len() - 4);
    format!("{start}{fill}\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_head_is_as_long_as_allowed_and_not_a_byte_longer() {
    let bench = Bench::with(|config| config.limits.header_bytes = 4096);
    let mut cases = each(Passed, [head_of(4095, ""), head_of(4096, ""), head_of(4096, &"b".repeat(9000))]);
    let long = [
        head_of(4097, ""),
        head_of(4098, ""),
        head_of(4099, "hello"),
        head_of(4100, ""),
        head_of(60_000, ""),
    ];
    cases.extend(each(Refused("head-too-long"), long));
    // Without an end, and in one line.
    let line = format!("GET /{} HTTP/1.1\r\nHost: front\r\n\r\n", "x".repeat(5000));
    let method = format!("{} / HTTP/1.1\r\nHost: front\r\n\r\n", "X".repeat(5000));
    let name = format!("GET / HTTP/1.1\r\nHost: front\r\n{}: 1\r\n\r\n", "X".repeat(5000));
    let never = format!("GET / HTTP/1.1\r\nHost: front\r\nX: {}", "x".repeat(500_000));
    cases.extend(each(Refused("head-too-long"), [line, method, name, never, "x".repeat(5000)]));
    check_on(&bench, &cases);
}

#[test]
fn the_limits_that_are_not_configured_hold_too() {
    let mut cases = each(Passed, [head_of(32 * 1024, "")]);
    cases.extend(each(Refused("head-too-long"), [head_of(32 * 1024 + 1, ""), head_of(200_000, "")]));
    let fields = |count: usize| {
        format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n{}\r\n", "X-Odd: 1\r\n".repeat(count - 1))
    };
    cases.extend(each(Passed, [fields(127), fields(128)]));
    cases.extend(each(Refused("too-many-headers"), [fields(129), fields(130), fields(2000)]));
    check(&cases);
}

#[test]
fn there_are_as_many_fields_as_allowed_and_not_one_more() {
    let bench = Bench::with(|config| config.limits.headers = 10);
    let fields = |count: usize| {
        let others: String = (1..count).map(|n| format!("X-Odd-{n}: {n}\r\n")).collect();
        format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n{others}\r\n")
    };
    let mut cases = each(Passed, [fields(1), fields(9), fields(10)]);
    cases.extend(each(Refused("too-many-headers"), [fields(11), fields(12), fields(500)]));
    // One that is refused for another reason is not let by for it.
    let both = fields(11).replace("\r\n\r\n", "\r\nbad name: 1\r\n\r\n");
    cases.extend(each(Any, [both]));
    check_on(&bench, &cases);
}

#[test]
fn long_targets_and_values_go_through_whole() {
    let mut cases = Vec::new();
    for size in [1, 100, 4000, 4096, 8191, 8192, 16_000, 30_000] {
        let x = "x".repeat(size);
        cases.extend(each(
            Passed,
            [
                format!("GET /{x} HTTP/1.1\r\nHost: front\r\n\r\n"),
                format!("GET /api/v1/vm?{x} HTTP/1.1\r\nHost: front\r\n\r\n"),
                format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\nX-Odd: {x}\r\n\r\n"),
                format!("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\nX-{x}: 1\r\n\r\n"),
            ],
        ));
    }
    check(&cases);
}
