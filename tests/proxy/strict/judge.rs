//! Sends bytes and a sentinel behind them over one connection, and judges what came back and what reached the
//! upstream.
//!
//! Promised for all bytes: each request in them is forwarded as exactly the one request that it is by the letter, and
//! answered with that one's answer; or it is refused with a documented status, a JSON body and `Connection: close`,
//! the connection ends there, and nothing behind it is answered or forwarded.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    io::Write,
    net::Shutdown,
    time::Duration,
};

use switchyard::config::proxy::{Kind, Proxy};

use super::{
    oracle::{self, After, Asked, Step, is_apart},
    origin::{Origin, Reached},
};
use crate::{
    front::{self, Front, eventually},
    raw::{Answer, Head, Wire},
};

/// An answer takes no longer.
const PATIENCE: Duration = Duration::from_secs(8);

/// What must come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Forwarded and answered, and then the sentinel.
    Passed,
    /// Refused for this reason, with nothing forwarded.
    Refused(&'static str),
    /// So many answers, the sentinel's among them, and then perhaps a refusal.
    Turns(usize, Option<&'static str>),
    /// Whatever the promises allow.
    Any,
}

/// The status of each reason that this test knows.
fn status_of(reason: &str) -> Option<u16> {
    Some(match reason {
        "head-too-long" | "too-many-headers" => 431,
        "head-too-slow" | "body-too-slow" => 408,
        "bad-version" => 505,
        "connect" => 405,
        "bad-coding" => 501,
        "bad-body" | "bad-request-line" | "bare-line-end" | "folded-header" | "forbidden-byte"
        | "bad-header-name" | "no-host" | "bad-host" | "other-host" | "both-lengths" | "bad-length"
        | "ambiguous-path" => 400,
        _ => return None,
    })
}

/// A front before a recording origin.
pub struct Bench {
    pub origin: Origin,
    pub front: Front,
    sentinels: Cell<usize>,
    /// Requests that may have reached the origin in part: their bodies were refused.
    partials: Cell<usize>,
    /// The body of the last broken request: the origin may hear of it only while the next case is judged.
    late: RefCell<Vec<u8>>,
}

/// What the client saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Answers of the origin, in order, as the requests they belong to.
    pub answered: Vec<Asked>,
    /// Reason of the refusal that came last.
    pub refused: Option<String>,
    pub faults: Vec<String>,
}

impl Bench {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Proxy)) -> Self {
        let origin = Origin::start();
        let mut config = front::config(Kind::Controller, &[origin.address]);
        change(&mut config);
        let front = Front::start(config);
        Self {
            origin,
            front,
            sentinels: Cell::default(),
            partials: Cell::default(),
            late: RefCell::default(),
        }
    }

    pub fn sentinel(&self) -> String {
        self.sentinels.set(self.sentinels.get() + 1);
        format!("GET /api/v1/status?sentinel={} HTTP/1.1\r\nHost: front\r\n\r\n", self.sentinels.get())
    }

    /// What is wrong with what came of these bytes.
    pub fn judge(&self, bytes: &[u8], want: Want, writes: &[usize]) -> (Outcome, Option<String>) {
        let stream = [bytes, self.sentinel().as_bytes()].concat();
        let steps = oracle::read(&stream);
        let before = self.origin.count();
        let mut wire = Wire::connect(self.front.address).patience(PATIENCE);
        let mut from = 0;
        for to in writes.iter().copied().chain([stream.len()]) {
            // It may have refused already.
            wire.tcp.write_all(&stream[from..to]).ok();
            from = to;
        }
        let mut outcome = observe(&mut wire, &steps);
        drop(wire);
        self.compare(before, &steps, &mut outcome);
        outcome.check(want, &steps);
        if outcome.faults.is_empty() {
            return (outcome, None);
        }
        let start = &bytes[..bytes.len().min(400)];
        let mut text = format!("{}", start.escape_ascii());
        for fault in &outcome.faults {
            write!(text, "\n        {fault}").unwrap();
        }
        (outcome, Some(text))
    }

    /// Holds what reached the origin against what the client saw.
    fn compare(&self, before: usize, steps: &[Step], outcome: &mut Outcome) {
        let broken_body = match steps.get(outcome.answered.len()) {
            Some(Step::Bad(body) | Step::Partial(body)) => body.clone(),
            // More strictly than by the letter.
            Some(Step::Whole(asked)) if asked.has_body => Some(asked.body.clone()),
            _ => None,
        };
        self.partials.set(self.partials.get() + usize::from(broken_body.is_some()));
        eventually("the origin is done with a broken request", || self.origin.under_way() == 0);
        let mut whole = outcome.answered.iter();
        for reached in self.origin.since(before) {
            match reached {
                Reached::Broken(what) => outcome.faults.push(format!("reached the origin: {what}")),
                Reached::Partial(_) if broken_body.is_none() => {
                    // One of the case before may come late; all are counted at the end.
                }
                Reached::Partial(part) => {
                    let body = broken_body.as_deref().unwrap_or_default();
                    if !body.starts_with(&part.body) && !self.late.borrow().starts_with(&part.body) {
                        let body = part.body.escape_ascii();
                        outcome.faults.push(format!("other bytes reached the origin: {body}"));
                    }
                }
                Reached::Whole(request) => {
                    let Some(asked) = whole.next() else {
                        outcome.faults.push(format!("reached the origin unasked: {}", request.echo()));
                        continue;
                    };
                    let mut given = request.fields.clone();
                    given.retain(|(name, _)| !is_apart(name));
                    let mut wanted = asked.fields.clone();
                    for fields in [&mut given, &mut wanted] {
                        fields.retain(|(name, _)| !(asked.old && name == "expect"));
                    }
                    given.sort();
                    wanted.sort();
                    if request.echo() != asked.echo() || given != wanted {
                        outcome.faults.push(format!("forwarded as {} {given:?}", request.echo()));
                        outcome.faults.push(format!("instead of   {} {wanted:?}", asked.echo()));
                    }
                }
            }
        }
        if whole.next().is_some() {
            outcome.faults.push("answered, but never forwarded".into());
        }
        if let Some(body) = broken_body {
            self.late.replace(body);
        }
    }

    /// At the end of a family: nothing more has come, and nothing is open or waits.
    pub fn end(&self) {
        eventually("no request is under way", || self.origin.under_way() == 0);
        let partials = self.origin.since(0).iter().filter(|r| matches!(r, Reached::Partial(_))).count();
        let allowed = self.partials.get();
        assert!(partials <= allowed, "{partials} requests reached the origin in part, {allowed} were broken");
        eventually("no connection is open", || {
            self.front.metrics().contains(r#"switchyard_proxy_connections{listener="front"} 0"#)
        });
    }
}

impl Outcome {
    fn check(&mut self, want: Want, steps: &[Step]) {
        let (answers, refused) = match want {
            Want::Any => return,
            Want::Passed => (2, None),
            Want::Refused(reason) => (0, Some(reason)),
            Want::Turns(answers, refused) => (answers, refused),
        };
        let whole = steps.iter().filter(|step| matches!(step, Step::Whole(_))).count();
        if whole < answers || (whole > answers && refused.is_none()) {
            self.faults.push(format!("the case contradicts the letter: {steps:.300?}"));
        }
        if (self.answered.len(), self.refused.as_deref()) != (answers, refused) && self.faults.is_empty() {
            let (seen, reason) = (self.answered.len(), &self.refused);
            self.faults.push(format!("{seen} answers, refused {reason:?}; wanted {want:?}"));
        }
    }
}

fn observe(wire: &mut Wire, steps: &[Step]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut fault = |what: String| outcome.faults.push(what);
    for step in steps {
        let head_only = matches!(step, Step::Whole(asked) if asked.method == "HEAD");
        if matches!(step, Step::End | Step::Partial(_)) {
            wire.tcp.shutdown(Shutdown::Write).ok();
            match answer(wire, false) {
                Ok(answer) if step != &Step::End && reason(&answer).is_ok() => {
                    outcome.refused = reason(&answer).ok();
                }
                Ok(answer) => fault(format!("an answer too many: {}", show(&answer))),
                Err(error) if gone(&error) => {}
                Err(error) => fault(format!("not closed behind the last answer: {error}")),
            }
            return outcome;
        }
        let answer = match answer(wire, head_only) {
            Ok(answer) => answer,
            Err(error) => {
                fault(format!("no answer to {step:.200?}: {error}"));
                return outcome;
            }
        };
        let closes = answer.head.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        match (answer.head.get("x-echo"), step) {
            (Some(echo), Step::Whole(asked)) if echo == asked.echo() && body_fits(&answer, head_only) => {
                outcome.answered.push(asked.clone());
                match asked.after {
                    After::Stays if closes => fault("closed although it may stay".into()),
                    After::Closes if !wire.ended() => fault("not closed as asked".into()),
                    // What it says is what it does.
                    After::MayStay if closes => {
                        if !wire.ended() {
                            fault("not closed as said".into());
                        }
                        return outcome;
                    }
                    _ => {}
                }
            }
            (Some(_), _) => {
                fault(format!("another's answer, or one to {step:.200?}: {}", show(&answer)));
                return outcome;
            }
            (None, _) => {
                match reason(&answer) {
                    Ok(reason) => outcome.refused = Some(reason),
                    Err(why) => fault(format!("{why}: {}", show(&answer))),
                }
                if !wire.ended() {
                    fault("not closed behind a refusal".into());
                }
                return outcome;
            }
        }
    }
    outcome
}

/// The next final answer. What the origin did not say is the last of a connection, and has a body or not: to HEAD
/// it should have none, but a proxy that refused the head need not know that it was one.
fn answer(wire: &mut Wire, head_only: bool) -> std::io::Result<Answer> {
    loop {
        let head = wire.head()?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        if (100..200).contains(&head.status()) {
            continue;
        }
        let mut body = Vec::new();
        match head.get("x-echo") {
            Some(_) if head_only => {}
            Some(_) => drop(wire.body(&head, false, |piece| body.extend_from_slice(piece))?),
            None => drop(wire.body(&Head::default(), true, |piece| body.extend_from_slice(piece))?),
        }
        return Ok(Answer { head, body });
    }
}

fn gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::UnexpectedEof | K::ConnectionReset | K::BrokenPipe)
}

fn show(answer: &Answer) -> String {
    format!("{} {:?} {}", answer.head.first, answer.head.fields, answer.text())
}

fn body_fits(answer: &Answer, head_only: bool) -> bool {
    head_only || answer.head.get("x-echo").is_some_and(|echo| echo.as_bytes() == answer.body)
}

/// The reason of a refusal, or what is wrong with it.
fn reason(answer: &Answer) -> Result<String, String> {
    if answer.head.get("connection").is_none_or(|connection| !connection.eq_ignore_ascii_case("close")) {
        return Err("a refusal that does not say close".into());
    }
    if answer.body.is_empty() {
        // To HEAD.
        return Ok(String::new());
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let message = body["message"].as_str().unwrap_or_default();
    let code = message.split("(code ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    match status_of(code) {
        Some(status) if status == answer.status() && body["status"] == "FAIL" => Ok(code.to_owned()),
        _ => Err("a refusal with an undocumented reason or status".into()),
    }
}

/// Runs a family of cases, each in one write and in many.
pub fn check_on(bench: &Bench, cases: &[(Vec<u8>, Want)]) {
    // A proxy that gets a whole family wrong is told so before it has kept everybody waiting for each case.
    const ENOUGH: usize = 40;
    let mut faults = Vec::new();
    for (bytes, want) in cases {
        let single: Vec<usize> = (1..bytes.len()).collect();
        let halves = [bytes.len() / 2];
        let writes = if bytes.len() <= 300 { &single[..] } else { &halves[..] };
        for writes in [&[][..], writes] {
            if faults.len() < ENOUGH {
                faults.extend(bench.judge(bytes, *want, writes).1);
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} wrong of {}:\n    {}",
        faults.len(),
        2 * cases.len(),
        faults.join("\n    ")
    );
    bench.end();
}

/// The same on a bench of its own.
pub fn check(cases: &[(Vec<u8>, Want)]) {
    check_on(&Bench::start(), cases);
}

/// Text cases that share what must come of them.
pub fn each<T: AsRef<[u8]>>(want: Want, texts: impl IntoIterator<Item = T>) -> Vec<(Vec<u8>, Want)> {
    texts.into_iter().map(|text| (text.as_ref().to_vec(), want)).collect()
}
