use ::http::Method;

use super::*;
use crate::{config::proxy::Kind, proxy::classify};

const EVENTS: [Event; 11] = [
    Event::ConnectFailed,
    Event::NoAnswer(What::Closed),
    Event::NoAnswer(What::TimedOut),
    Event::NoAnswer(What::Garbled),
    Event::BadStatus(503),
    Event::BrokeOff,
    Event::BlobBrokeOff,
    Event::Behind,
    Event::NotHere,
    Event::OtherTime,
    Event::NotDone(503),
];

/// Every combination there is, over routes of every sort.
fn every_case() -> Vec<Case> {
    let lines = [
        (Kind::Controller, "GET /api/v1/vm"),
        (Kind::Controller, "POST /api/v1/vm"),
        (Kind::Controller, "DELETE /api/v1/vm"),
        (Kind::Controller, "DELETE /api/v1/registry/revert"),
        (Kind::Controller, "GET /switchyard/v1/tasks"),
        (Kind::Controller, "GET /strange"),
        (Kind::Registry, "GET /v2/a/blobs/x"),
        (Kind::Registry, "PUT /v2/a/manifests/x"),
        (Kind::Registry, "PATCH /v2/a/blobs/uploads/1"),
        (Kind::Registry, "DELETE /registry/revert"),
    ];
    let mut cases = Vec::new();
    for (kind, line) in lines {
        let (method, path) = line.split_once(' ').unwrap();
        let route = classify::route(kind, &method.parse::<Method>().unwrap(), path);
        for event in EVENTS {
            for bits in 0u32..128 {
                let bit = |n: u32| bits & (1 << n) != 0;
                cases.push(Case {
                    route,
                    event,
                    traffic: Traffic { sent: if bit(6) { 100 } else { 0 }, ..Traffic::default() },
                    sends_left: bit(0),
                    time_left: bit(1),
                    body_at_hand: bit(2),
                    keyed: bit(3),
                    other: bit(4),
                    status_spent: bit(5),
                });
            }
        }
    }
    cases
}

#[test]
fn nothing_that_may_have_run_is_sent_again_unless_repeatable_or_keyed() {
    for case in every_case() {
        let event = case.event.given(&case.traffic);
        if event != Event::ConnectFailed && matches!(verdict(&case), Verdict::Again(_)) {
            // What was answered with "not here" has run and found nothing; only what looks is asked elsewhere.
            let looked = event == Event::NotHere && !changes(case.route);
            let undone = looked || matches!(event, Event::OtherTime | Event::NotDone(_));
            assert!(case.route.repeatable || (case.route.creates && case.keyed) || undone, "{case:?}");
        }
    }
}

#[test]
fn a_body_that_is_gone_is_never_sent_again() {
    // Of a blob only the rest is asked for, and that question has no body.
    let gone = |case: &Case| !case.body_at_hand && case.event != Event::BlobBrokeOff;
    for case in every_case().into_iter().filter(gone) {
        assert!(!matches!(verdict(&case), Verdict::Again(_)), "{case:?}");
    }
}

#[test]
fn a_failed_connect_is_tried_elsewhere_on_any_route() {
    for case in every_case() {
        if case.event == Event::ConnectFailed && case.body_at_hand {
            assert_eq!(verdict(&case), Verdict::Again(Because::ConnectFailed), "{case:?}");
        }
    }
}

#[test]
fn sends_are_bounded_by_attempts_and_time() {
    for case in every_case().into_iter().filter(|case| !(case.sends_left && case.time_left)) {
        // Registries that answer are each asked once, however many they are.
        let counted = case.sends_left || !matches!(case.event, Event::Behind | Event::NotHere);
        // What nothing was sent of is ended by hold and deadline; the rest of a blob by who has given no piece of it.
        let by_attempts =
            !matches!(case.event.given(&case.traffic), Event::ConnectFailed | Event::BlobBrokeOff);
        if by_attempts && counted {
            assert!(!matches!(verdict(&case), Verdict::Again(_)), "{case:?}");
        }
    }
}

#[test]
fn a_retry_status_answer_is_dropped_once_and_only_when_another_can_be_asked() {
    for case in every_case().into_iter().filter(|case| case.event == Event::BadStatus(503)) {
        let again = (case.route.repeatable || (case.route.creates && case.keyed))
            && case.sends_left
            && case.time_left
            && case.body_at_hand
            && case.other
            && !case.status_spent;
        let wanted = if again { Verdict::Again(Because::Status) } else { Verdict::PassOn };
        assert_eq!(verdict(&case), wanted, "{case:?}");
    }
}

#[test]
fn an_answer_that_is_too_old_is_never_passed_on() {
    for case in every_case().into_iter().filter(|case| case.event == Event::Behind) {
        assert!(matches!(verdict(&case), Verdict::Again(_) | Verdict::Refuse), "{case:?}");
    }
}

#[test]
fn not_found_where_something_may_be_missing_is_never_passed_on() {
    for case in every_case().into_iter().filter(|case| case.event == Event::NotHere) {
        let asks = case.route.repeatable || !changes(case.route);
        let may = asks && case.time_left && case.body_at_hand;
        let wanted = if may { Verdict::Again(Because::NotHere) } else { Verdict::Refuse };
        assert_eq!(verdict(&case), wanted, "{case:?}");
    }
}

#[test]
fn half_an_answer_is_always_cut_and_silence_never_is() {
    for case in every_case() {
        let broken = match case.event {
            Event::BrokeOff => true,
            Event::BlobBrokeOff => !case.route.repeatable,
            _ => false,
        };
        assert_eq!(verdict(&case) == Verdict::Abort, broken, "{case:?}");
    }
}

#[test]
fn a_502_says_unknown_exactly_when_something_may_have_changed() {
    for case in every_case() {
        let event = case.event.given(&case.traffic);
        if let (Event::NoAnswer(_), Verdict::Answer { unknown, .. }) = (event, verdict(&case)) {
            assert_eq!(unknown, case.route.access == crate::health::Access::Write, "{case:?}");
        }
    }
}
