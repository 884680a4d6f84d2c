//! What the end of an attempt says of its upstream. Pure.

use crate::{
    balance::ejection::Failure,
    model::RouteClass,
    proxy::retry::{Event, What},
};

/// What an answer says. One that refuses in words is an answer: a full disk, a limit that was reached, and a server that
/// says when to come again are no reason to put their load on the others.
pub(super) fn answer(status: u16, retry_after: bool) -> Option<Failure> {
    match status {
        501 | 505 | 507 => None,
        503 if retry_after => None,
        500..=599 => Some(Failure::Status(status)),
        _ => None,
    }
}

/// Whether an answer shows that its upstream can do what others fail to do.
pub(super) fn is_well(status: u16) -> bool {
    status < 500 && status != 429
}

/// What it says that there was no answer. Its status, if there was one, has been looked at before.
pub(super) fn event(event: Event, class: RouteClass) -> Option<Failure> {
    match event {
        Event::ConnectFailed => Some(Failure::Connect),
        Event::NoAnswer(what) => broke_off(what, class),
        Event::BadStatus(_)
        | Event::BrokeOff
        | Event::BlobBrokeOff
        | Event::Behind
        | Event::NotHere
        | Event::OtherTime
        | Event::NotDone(_) => None,
    }
}

/// What it says that an answer broke off, or never began.
pub(super) fn broke_off(what: What, class: RouteClass) -> Option<Failure> {
    match what {
        What::Closed => Some(Failure::Closed),
        What::Garbled => Some(Failure::Garbled),
        // Which side was waited for is known: no transfer is slow by its nature, and none is charged for its client.
        What::TooSlow => Some(Failure::TooSlow),
        // A parked poll is silent by its nature.
        What::TimedOut => (class != RouteClass::AgentPoll).then_some(Failure::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_says() {
        let failed = |status| Some(Failure::Status(status));
        for status in [500, 502, 503, 504, 506, 508, 599] {
            assert_eq!(answer(status, false), failed(status));
        }
        for status in [200, 204, 302, 400, 401, 404, 429, 501, 505, 507] {
            assert_eq!(answer(status, false), None, "{status}");
        }
        assert_eq!(answer(503, true), None);
        assert_eq!(answer(502, true), failed(502));
        assert!([200, 304, 404].into_iter().all(is_well));
        assert!(![429, 500, 501, 503, 507].into_iter().any(is_well));
    }

    #[test]
    fn a_parked_poll_is_not_blamed_for_its_silence() {
        let silent = Event::NoAnswer(What::TimedOut);
        assert_eq!(event(silent, RouteClass::AgentPoll), None);
        assert_eq!(event(silent, RouteClass::ControllerApi), Some(Failure::TimedOut));
        assert_eq!(event(Event::NoAnswer(What::Closed), RouteClass::AgentPoll), Some(Failure::Closed));
        assert_eq!(
            broke_off(What::TooSlow, RouteClass::RegistryRead),
            Some(Failure::TooSlow),
            "the client is another matter"
        );
        assert_eq!(event(Event::BadStatus(500), RouteClass::ControllerApi), None, "counted when it came");
    }
}
