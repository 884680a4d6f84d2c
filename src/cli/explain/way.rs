//! A way of a request for people: what decides stands first in each line, and what is wrong says so in words.

use crate::wire::explain::{
    Ask, Candidate, Choice, Course, Explained, Freshness, Nobody, Pick, Refused, Request, Way,
};

/// Columns of the words at the left.
const LEFT: usize = 10;

/// All that was asked for.
pub(super) fn all(ask: &Ask, explained: &Explained) -> String {
    let mut text: Vec<String> = explained.ways.iter().map(|way| of(ask, way)).collect();
    if !explained.without_route.is_empty() {
        text.push(format!("without a route for it: {}", explained.without_route.join(", ")));
    }
    text.join("\n\n")
}

/// A line below a heading.
pub(super) fn line(out: &mut String, left: &str, right: &str) {
    out.push_str(&format!("  {left:<LEFT$}{right}\n"));
}

fn of(ask: &Ask, way: &Way) -> String {
    let mut out = String::new();
    let believed = if way.trusted { ", by the word of a trusted proxy" } else { "" };
    out.push_str(&format!(
        "{} {} at listener `{}` from {}{believed}\n",
        ask.method, ask.path, way.listener, way.client
    ));
    if let Some(path) = way.path.as_ref().filter(|path| !ask.path.contains(path.as_str())) {
        line(&mut out, "path", &format!("{path} is what is decided on and forwarded"));
    }
    for rule in &way.rules {
        let leads = if rule.service.is_empty() { String::new() } else { format!(" → `{}`", rule.service) };
        let no = if rule.matches { "" } else { "not " };
        line(&mut out, "rule", &format!("{no}{}{leads}: {}", rule.rule, rule.why));
    }
    if let Some(request) = &way.request {
        line(&mut out, "is", &is(request));
    }
    if let Some(refused) = &way.refused {
        line(&mut out, "refused", &answer(refused));
        line(&mut out, "", &refused.next);
    }
    if let Some(choice) = &way.choice {
        chosen(&mut out, choice);
    }
    if let Some(course) = &way.course {
        bounds(&mut out, course);
    }
    out.truncate(out.trim_end().len());
    out
}

fn answer(refused: &Refused) -> String {
    format!("{} `{}`: {}", refused.status, refused.code, refused.error)
}

fn is(request: &Request) -> String {
    let again = match (request.repeatable, request.creates) {
        (true, _) => "may be sent again",
        (false, true) => "makes something new, may be sent again under its key",
        (false, false) => "is sent once",
    };
    let mut text = format!("{}, a {}; {again}", request.class, request.access);
    let about = request.repository.as_ref().map(|name| format!(" of `{name}`")).unwrap_or_default();
    match request.needs.as_str() {
        "nothing" if about.is_empty() => {}
        "nothing" => text.push_str(&format!("; about{about}")),
        "repository" => text.push_str(&format!("; needs the newest state{about}")),
        "all-repositories" => text.push_str("; needs the newest state of all repositories"),
        "blob" => text.push_str(&format!("; a blob{about}, the same wherever it is")),
        "keys" => text.push_str("; keys and sessions"),
        "logs" => text.push_str("; logs"),
        _ => text.push_str("; what it needs cannot be told"),
    }
    if request.to_writer {
        text.push_str("; belongs to the writer");
    }
    text
}

fn chosen(out: &mut String, choice: &Choice) {
    if !choice.tie.is_empty() {
        line(out, "tied", &choice.tie);
    }
    if let Some(cohort) = &choice.cohort {
        line(out, "version", &format!("agents are served from: {cohort}"));
    }
    if let Some(freshness) = &choice.freshness {
        line(out, "fresh", &fresh(freshness));
    }
    let pick = choice.pick.as_ref().map(|pick| pick.upstream.as_str());
    let width = choice.upstreams.iter().map(|one| one.name.len()).max().unwrap_or_default();
    for (at, one) in choice.upstreams.iter().enumerate() {
        let left = if at == 0 { "upstreams" } else { "" };
        line(out, left, &candidate(one, width, pick == Some(one.name.as_str())));
    }
    match (&choice.pick, &choice.nobody) {
        (Some(pick), _) => line(out, "goes to", &picked(pick)),
        (None, Some(nobody)) => waits(out, nobody),
        (None, None) => {}
    }
    if let Some(pick) = &choice.instead {
        line(out, "else", &format!("{}, if that one gives no answer: {}", pick.upstream, pick.why));
    }
}

fn fresh(freshness: &Freshness) -> String {
    if !freshness.matters {
        return format!("by {}; plays no part in this request", freshness.by);
    }
    let needed = freshness.needed.map(|needed| format!("{needed} is needed")).unwrap_or_default();
    let known = match (freshness.known, freshness.by.as_str()) {
        (true, "position") => "the proxy has a lease on the writer's log",
        (true, _) => "the writer's list is known",
        (false, "position") => "there is NO lease on the writer's log, so nobody else is known to be fresh",
        (false, _) => "the writer's list is NOT known, so nobody can be compared with it",
    };
    let deposed = if freshness.deposed { "; the configured writer is none any more" } else { "" };
    let gap = if needed.is_empty() { "" } else { "; " };
    format!("{needed}{gap}{known}{deposed}")
}

fn candidate(one: &Candidate, width: usize, picked: bool) -> String {
    let mark = if picked { "→" } else { " " };
    let able = if one.eligible { format!("{:>3.0} %", one.share * 100.0) } else { "   no".into() };
    let mut facts = vec![one.health.clone()];
    if one.writer {
        facts.push("writer".into());
    }
    match one.max_requests {
        Some(most) => facts.push(format!("{} of {most} under way", one.outstanding)),
        None => facts.push(format!("{} under way", one.outstanding)),
    }
    if one.traffic != "in" {
        facts.push(one.traffic.clone());
    }
    if let Some(position) = one.position {
        facts.push(format!("has {position}"));
    }
    format!("{mark} {:<width$}  {able}  {} ({})", one.name, one.why, facts.join(", "))
}

fn picked(pick: &Pick) -> String {
    let stale = pick.stale.as_ref().map(|mark| format!(", its answer marked `{mark}`")).unwrap_or_default();
    let chance = if pick.certain { "" } else { "; by chance, so the next one may go elsewhere" };
    format!("{}: {}{stale}{chance}", pick.upstream, pick.why)
}

fn waits(out: &mut String, nobody: &Nobody) {
    line(out, "goes to", &format!("NOBODY now: {}", nobody.why));
    if let Some(wait) = nobody.catches_up_ms {
        line(out, "", &format!("waits up to {} for a replica to catch up", time(wait)));
    }
    if nobody.held_ms > 0 {
        line(out, "", &format!("is held up to {}, until somebody can take it", time(nobody.held_ms)));
    }
    if let Some(pick) = &nobody.last_resort {
        line(out, "", &format!("then {}", picked(pick)));
    }
    if let Some(then) = &nobody.then {
        line(out, "", &format!("then {}", answer(then)));
        line(out, "", &then.next);
    }
}

pub(super) fn time(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms as f64 / 1000.0) }
}

fn bounds(out: &mut String, course: &Course) {
    let mut bounds = Vec::new();
    let mut add = |what: &str, ms: Option<u64>| bounds.extend(ms.map(|ms| format!("{what} {}", time(ms))));
    add("first byte within", course.deadline_ms);
    add("another upstream after", course.attempt_ms);
    add("held up to", Some(course.hold_ms).filter(|ms| *ms > 0));
    add("connect", Some(course.connect_ms));
    add("TLS", course.tls_ms);
    add("head of the answer", course.first_byte_ms);
    add("between two reads", course.read_ms);
    add("a write", Some(course.write_ms));
    line(out, "times", &bounds.join(", "));
    if let Some(floor) = course.floor {
        line(out, "", &format!("a transfer moves {floor} bytes a second at least"));
    }
    let budget = course.budget;
    let allows = if budget.allows { "" } else { ", and NO more are allowed now" };
    let statuses: Vec<String> = course.retry_status.iter().map(ToString::to_string).collect();
    line(
        out,
        "sends",
        &format!(
            "{} at most; retry_status {}; {} retries of {} requests in the last 10 s{allows}",
            course.attempts,
            if statuses.is_empty() { "none".into() } else { statuses.join(", ") },
            budget.retries,
            budget.requests
        ),
    );
    for (at, failure) in course.failures.iter().enumerate() {
        line(out, if at == 0 { "if" } else { "" }, &format!("{}: {}", failure.when, failure.then));
    }
}
