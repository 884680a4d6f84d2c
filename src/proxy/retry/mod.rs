//! Step 9: what failed and what was sent decide what comes next. One table, design §4.4.

use super::classify::Route;

/// How an attempt ended, as far as it did not simply succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// No connection; nothing was sent.
    ConnectFailed,
    /// Sent, at least in part, and no answer was passed on.
    NoAnswer(What),
    /// An answer that the service's `retry_status` lists; nothing of it was passed on.
    BadStatus(u16),
    /// The answer broke off after its head had been passed on.
    BrokeOff,
    /// The same, of a blob by its digest: the rest of it can be had elsewhere.
    BlobBrokeOff,
    /// The answer is older than what is needed; nothing of it was passed on.
    Behind,
    /// A registry that may not have everything does not have what was asked for; nothing of it was passed on.
    NotHere,
    /// The upstream's clock is another, so it did not believe the signature's time, and has done nothing.
    OtherTime,
    /// A server of ours says with this status that it has done nothing, for it is not ready.
    NotDone(u16),
}

impl Event {
    /// The same in the light of what was sent: no answer to nothing is no more than no connection.
    pub fn given(self, traffic: &Traffic) -> Self {
        match self {
            Self::NoAnswer(_) if traffic.sent == 0 => Self::ConnectFailed,
            other => other,
        }
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// The upstream closed or reset the connection.
    Closed,
    /// It took too long.
    TimedOut,
    /// What it gave, or took, was less than a transfer may move.
    TooSlow,
    /// What came was no HTTP.
    Garbled,
}

impl What {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Closed => "it closed the connection",
            Self::TimedOut => "it took too long",
            Self::TooSlow => "it was too slow",
            Self::Garbled => "its answer was not HTTP",
        }
    }

    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::TimedOut => "timed-out",
            Self::TooSlow => "too-slow",
            Self::Garbled => "garbled",
        }
    }
}

/// What was sent and what came on one attempt: the one account of it that retry, hold and the access log share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The connection had been used before.
    pub reused: bool,
    /// Bytes of head and body that the system has taken.
    pub sent: u64,
    /// The whole request was.
    pub whole: bool,
    /// Bytes that came back.
    pub received: u64,
}

/// What is known of the request when an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What it is.
    pub route: Route,
    /// How the attempt ended.
    pub event: Event,
    /// What had been sent and had come by then.
    pub traffic: Traffic,
    /// Sends are left under `attempts`.
    pub sends_left: bool,
    /// Time is left under the deadline.
    pub time_left: bool,
    /// The body, as far as it was read, is still at hand.
    pub body_at_hand: bool,
    /// It went out under an `Idempotency-Key` to an upstream that honours it.
    pub keyed: bool,
    /// Another upstream could take it now, and honours its key if it goes by one.
    pub other: bool,
    /// An answer of `retry_status` was already dropped for it.
    pub status_spent: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt.
    Again(Because),
    /// The answer goes to the client as it is.
    PassOn,
    /// A 502 of ours. The outcome may be unknown.
    Answer {
        /// Whether it may have changed something.
        unknown: bool,
        /// What went wrong.
        what: What,
    },
    /// A 503 of ours: nobody who may say so has answered.
    Refuse,
    /// The client's connection is cut, so that half an answer is not taken for a whole one.
    Abort,
}

/// Why there is another attempt: what metrics, access log and `Again` have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Because {
    /// Nothing was sent.
    ConnectFailed,
    /// No answer, and the route may be repeated.
    Repeatable,
    /// No answer, and the key makes a repeat harmless.
    Keyed,
    /// A `retry_status` answer.
    Status,
    /// An answer that was too old.
    Behind,
    /// Another registry may have it.
    NotHere,
    /// Another registry has the rest of it.
    BrokeOff,
    /// It is signed with the time of the upstream now.
    OtherTime,
    /// The upstream was not ready and has done nothing.
    NotDone,
}

impl Because {
    /// Whether it costs the budget: the upstream of this attempt has run the request, or may have. What was never sent,
    /// what one registry lacks and the rest of a blob multiply nothing.
    pub fn costs(self) -> bool {
        matches!(self, Self::Repeatable | Self::Keyed | Self::Status)
    }

    /// The label of metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect-failed",
            Self::Repeatable => "no-answer-repeatable",
            Self::Keyed => "no-answer-keyed",
            Self::Status => "retry-status",
            Self::Behind => "behind",
            Self::NotHere => "not-here",
            Self::BrokeOff => "broke-off",
            Self::OtherTime => "other-time",
            Self::NotDone => "not-done",
        }
    }
}

/// The table.
pub fn verdict(case: &Case) -> Verdict {
    let Case { route, event, traffic, sends_left, time_left, body_at_hand, keyed, other, status_spent } =
        *case;
    let may_send = sends_left && time_left && body_at_hand;
    match event.given(&traffic) {
        // Holding and the deadline end these, not `attempts`: nothing reached anybody.
        Event::ConnectFailed if body_at_hand => Verdict::Again(Because::ConnectFailed),
        // An earlier attempt has read a body that is gone.
        Event::ConnectFailed => Verdict::Answer { unknown: !route.repeatable, what: What::Closed },
        Event::NoAnswer(_) if route.repeatable && may_send => Verdict::Again(Because::Repeatable),
        Event::NoAnswer(_) if route.creates && keyed && may_send => Verdict::Again(Because::Keyed),
        Event::NoAnswer(what) => Verdict::Answer { unknown: changes(route), what },
        // A start too, where its key makes it harmless: a controller that has just come back answers 503 for a moment.
        Event::BadStatus(_)
            if (route.repeatable || (route.creates && keyed)) && may_send && other && !status_spent =>
        {
            Verdict::Again(Because::Status)
        }
        Event::BadStatus(_) => Verdict::PassOn,
        Event::BlobBrokeOff if route.repeatable => Verdict::Again(Because::BrokeOff),
        Event::BrokeOff | Event::BlobBrokeOff => Verdict::Abort,
        // The registries end these, not `attempts`: each is asked once. Without another one the choice waits for
        // one, or says who is missing.
        Event::Behind if route.repeatable && time_left && body_at_hand => Verdict::Again(Because::Behind),
        Event::Behind => Verdict::Refuse,
        // It was answered, and nothing was done.
        Event::NotHere if (route.repeatable || !changes(route)) && time_left && body_at_hand => {
            Verdict::Again(Because::NotHere)
        }
        Event::NotHere => Verdict::Refuse,
        // Nothing was done there, whatever the route is.
        Event::OtherTime if may_send => Verdict::Again(Because::OtherTime),
        // Whoever is ready is asked, and waited for as if there had been no connection: hold and deadline end that.
        Event::NotDone(_) if may_send => Verdict::Again(Because::NotDone),
        Event::OtherTime | Event::NotDone(_) => Verdict::PassOn,
    }
}

/// Whether such a request may have left something behind.
fn changes(route: Route) -> bool {
    route.access == crate::health::Access::Write
}

#[cfg(test)]
mod tests;
