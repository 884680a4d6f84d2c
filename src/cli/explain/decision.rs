//! What became of a request, for people.

use super::way::{line, time};
use crate::wire::decisions::{Attempt, Decision, Decisions};

/// All that were found, the latest first.
pub(super) fn all(found: &Decisions) -> String {
    found.decisions.iter().map(of).collect::<Vec<_>>().join("\n\n")
}

fn of(one: &Decision) -> String {
    let mut out = String::new();
    let target = match one.method.as_str() {
        "" => "what never became a request".into(),
        method => format!("{method} {}", one.path),
    };
    out.push_str(&format!(
        "{target} at listener `{}` from {}, {}, request {}\n",
        one.listener, one.client, one.at, one.request
    ));
    if let (Some(service), Some(class)) = (&one.service, &one.class) {
        line(&mut out, "is", &format!("{class} of service `{service}`"));
    }
    if one.held_ms > 0 {
        line(
            &mut out,
            "held",
            &format!("{}, until somebody could take it or the hold was over", time(one.held_ms)),
        );
    }
    for (at, attempt) in one.attempts.iter().enumerate() {
        tried(&mut out, at + 1, attempt);
    }
    let status = one.status.map_or("no answer".into(), |status| status.to_string());
    let by = match one.answered_by.as_str() {
        "upstream" => " of the upstream",
        "proxy" => " of the proxy",
        _ => "",
    };
    let end = if matches!(one.end.as_str(), "done" | "refused") { "" } else { one.end.as_str() };
    let end = if end.is_empty() { String::new() } else { format!(", and it ended as `{end}`") };
    let reason = one.reason.as_ref().map(|reason| format!(" `{reason}`")).unwrap_or_default();
    let stale = one.stale.as_ref().map(|mark| format!(", marked stale `{mark}`")).unwrap_or_default();
    line(&mut out, "answer", &format!("{status}{by}{reason}{stale}{end}, after {}", ms(one.total_ms)));
    if let Some(error) = &one.error {
        line(&mut out, "", error);
    }
    if let Some(next) = &one.next {
        line(&mut out, "", next);
    }
    let mut times = Vec::new();
    times.extend(one.connect_ms.map(|time| format!("connect {}", ms(time))));
    times.extend(one.first_byte_ms.map(|time| format!("first byte {}", ms(time))));
    if !times.is_empty() {
        line(&mut out, "times", &times.join(", "));
    }
    out.truncate(out.trim_end().len());
    out
}

fn tried(out: &mut String, number: usize, attempt: &Attempt) {
    let reused = if attempt.reused { "used connection" } else { "new connection" };
    let whole = if attempt.whole { "" } else { ", not the whole request" };
    line(out, &format!("try {number}"), &format!("{}: {}", attempt.upstream, attempt.why));
    line(
        out,
        "",
        &format!(
            "came of it: {} ({reused}, {} bytes out{whole}, {} back)",
            attempt.end, attempt.sent, attempt.received
        ),
    );
    let width = attempt.upstreams.iter().map(|one| one.name.len()).max().unwrap_or_default();
    for one in &attempt.upstreams {
        let (mark, able) =
            (if one.name == attempt.upstream { "→" } else { " " }, if one.eligible { "could" } else { "no" });
        line(out, "", &format!("{mark} {:<width$}  {able:<5}  {}", one.name, one.why));
    }
}

fn ms(time: f64) -> String {
    if time < 1000.0 { format!("{time:.1} ms") } else { format!("{:.2} s", time / 1000.0) }
}
