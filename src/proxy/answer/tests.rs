use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::proxy::choose::Reason;

/// The client's API: what it is and a path of it.
const APIS: [(Kind, &str); 3] = [
    (Kind::Controller, "/api/v1/vm"),
    (Kind::Registry, "/v2/a/manifests/x"),
    (Kind::Registry, "/registry/vm"),
];

/// Codes of the OCI specification, and the two that the reference registry adds.
const OCI_CODES: [&str; 6] =
    ["NAME_UNKNOWN", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS", "UNAVAILABLE", "UNKNOWN"];

/// The answer behind this one in the order of their variants. A variant that is new has to get a place here, and a row
/// on the page.
fn behind(last: Option<&Answer>) -> Option<Answer> {
    let why = NoneLeft { upstreams: vec![("u".into(), Reason::Unknown)], wait: None };
    let service = "the service".to_owned();
    let (upstream, what) = ("u".to_owned(), "it closed the connection");
    let before = Some(Before { upstream: "v".into(), status: 503 });
    let subject = "`mac/a`".to_owned();
    Some(match last {
        None => Answer::Refused(Refusal::NoHost),
        Some(Answer::Refused(_)) => Answer::NoRoute,
        Some(Answer::NoRoute) => Answer::Maintenance { service },
        Some(Answer::Maintenance { .. }) => Answer::NoUpstream { service, why },
        Some(Answer::NoUpstream { .. }) => Answer::NotFresh { service, subject, needed: None, why },
        Some(Answer::NotFresh { .. }) => Answer::NotSure { service, subject, why },
        Some(Answer::NotSure { .. }) => Answer::HeldFull { service, full: Full::Number, why },
        Some(Answer::HeldFull { full: Full::Number, .. }) => {
            Answer::HeldFull { service, full: Full::Bytes, why }
        }
        Some(Answer::HeldFull { .. }) => Answer::AtLimit { service, why },
        Some(Answer::AtLimit { .. }) => Answer::Unknown { service, upstream, what, before: None },
        Some(Answer::Unknown { .. }) => Answer::NoAnswer { service, upstream, what, before: None },
        Some(Answer::NoAnswer { before: None, .. }) => Answer::NoAnswer { service, upstream, what, before },
        Some(Answer::NoAnswer { .. }) => Answer::Turned(Turned::Denied),
        Some(Answer::Turned(Turned::Denied)) => Answer::Turned(Turned::Connections),
        Some(Answer::Turned(Turned::Connections)) => Answer::Turned(Turned::OfListener),
        Some(Answer::Turned(Turned::OfListener)) => Answer::Turned(Turned::OfClient),
        Some(Answer::Turned(Turned::OfClient)) => {
            Answer::Turned(Turned::Rate { wait: Duration::from_millis(6001) })
        }
        Some(Answer::Turned(Turned::Rate { .. })) => Answer::Turned(Turned::ByRule),
        Some(Answer::Turned(Turned::ByRule)) => Answer::Internal("a mistake".into()),
        Some(Answer::Internal(_)) => return None,
    })
}

/// One of each, and every refusal of the guard.
fn every() -> Vec<Answer> {
    let mut all: Vec<Answer> = std::iter::successors(behind(None), |last| behind(Some(last))).collect();
    all.extend(Refusal::ALL.map(Answer::Refused));
    all
}

/// Status and OCI code that the page has for each code.
fn page() -> BTreeMap<String, (u16, String)> {
    let page = include_str!("../../../docs/http.md");
    let (_, table) = page.split_once("## What the proxy answers itself").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let (_, table) = table.split_once("\n| code |").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (
            cells[1].trim_matches('`').to_owned(),
            (cells[2].parse().unwrap(), cells[3].trim_matches('`').to_owned()),
        )
    })
    .collect()
}

fn rendered(answer: &Answer, kind: Kind, path: &str) -> (Rendered, serde_json::Value) {
    let rendered = render(answer, kind, path, &RequestId::parse("r-1").unwrap());
    let body = serde_json::from_slice(&rendered.body).unwrap();
    (rendered, body)
}

#[test]
fn every_answer_says_why_what_next_and_which_request_in_the_format_of_its_client() {
    for answer in every() {
        let (why, code, next) = (answer.to_string(), answer.code(), answer.next());
        assert!(why.len() > 10 && next.len() > 10, "{answer:?}");
        for (kind, path) in APIS {
            let (rendered, body) = rendered(&answer, kind, path);
            let header =
                |name| rendered.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
            assert_eq!(header("content-type"), Some("application/json"), "{answer:?}");
            assert_eq!(header("cache-control"), Some("no-store"), "{answer:?}");
            assert_eq!(header("switchyard-answered-by"), Some("proxy"), "{answer:?}");
            assert_eq!(header("x-request-id"), Some("r-1"), "{answer:?}");
            let after = matches!(rendered.status, 429 | 503);
            assert_eq!(header("retry-after").is_some(), after, "{answer:?}");
            if path.starts_with("/v2/") {
                let errors = body["errors"].as_array().unwrap();
                assert_eq!(errors.len(), 1, "{body}");
                assert!(OCI_CODES.contains(&errors[0]["code"].as_str().unwrap()), "{body}");
                assert_eq!(errors[0]["message"], why);
                assert_eq!(errors[0]["detail"], json!({ "code": code, "next": next, "request": "r-1" }));
            } else {
                assert_eq!(body["status"], "FAIL", "{body}");
                assert_eq!(body["message"], format!("{why}; {next} (code {code}, request r-1)"));
            }
        }
    }
}

#[test]
fn the_page_names_every_answer_that_is_no_refusal_with_its_status() {
    let all = every();
    // One that passes on another's status has that one's.
    let of_our_own = |answer: &&Answer| !matches!(answer, Answer::NoAnswer { before: Some(_), .. });
    let ours = all.iter().filter(|answer| !answer.is_refusal()).filter(of_our_own);
    let wanted =
        ours.map(|answer| (answer.code().to_owned(), (answer.status(), answer.oci_code().to_owned())));
    assert_eq!(page(), wanted.collect());
}

#[test]
fn the_page_about_errors_says_of_each_code_what_to_do() {
    let page = include_str!("../../../docs/errors.md");
    let (_, table) = page.split_once("## Codes of the proxy").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let first =
        table.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let mut written: Vec<&str> = first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let all = every();
    let mut codes: Vec<&str> = all.iter().map(Answer::code).collect();
    codes.sort_unstable();
    codes.dedup();
    written.sort_unstable();
    assert_eq!(written, codes);
}

#[test]
fn the_wait_is_as_long_as_it_is_known_to_be() {
    let after = |answer: &Answer| {
        let (rendered, _) = rendered(answer, Kind::Controller, "/");
        rendered.headers.into_iter().find(|(name, _)| *name == "retry-after").map(|(_, value)| value)
    };
    assert_eq!(
        after(&Answer::Turned(Turned::Rate { wait: Duration::from_millis(6001) })).as_deref(),
        Some("7")
    );
    assert_eq!(after(&Answer::Maintenance { service: "s".into() }).as_deref(), Some("30"));
    assert_eq!(
        after(&Answer::NoUpstream { service: "s".into(), why: NoneLeft::default() }).as_deref(),
        Some("2")
    );
}
