use super::*;
use crate::{
    proxy::admin::page::wrong::tests::{seen, service, upstream},
    wire::{decisions::Decision, transfers::Transfer},
};

const HOSTILE: &str = "</td><script>alert(1)</script><img src=x onerror=\"alert(2)\">&amp;'";

fn refusal(seen: &Seen, word: &str) -> Decision {
    Decision {
        request: word.into(),
        at: seen.at,
        listener: word.into(),
        client: word.into(),
        method: word.into(),
        path: word.into(),
        service: None,
        class: None,
        status: Some(503),
        answered_by: "proxy".into(),
        end: "refused".into(),
        reason: Some(word.into()),
        error: Some(word.into()),
        next: Some(word.into()),
        position: None,
        stale: None,
        held_ms: 0,
        connect_ms: None,
        first_byte_ms: None,
        total_ms: 1.0,
        attempts: Vec::new(),
    }
}

fn text(seen: &Seen) -> String {
    page(&sections(seen))
}

#[test]
fn what_servers_and_clients_say_is_text_and_never_markup() {
    let mut hostile = upstream(HOSTILE, "down", HOSTILE);
    hostile.version = Some(HOSTILE.into());
    let mut service = service(HOSTILE, vec![hostile]);
    service.balance = HOSTILE.into();
    let mut seen = seen(vec![service]);
    seen.transfers.transfers.push(Transfer {
        request: HOSTILE.into(),
        client: HOSTILE.into(),
        listener: HOSTILE.into(),
        method: HOSTILE.into(),
        path: HOSTILE.into(),
        service: HOSTILE.into(),
        class: crate::model::RouteClass::RegistryRead,
        lane: "bulk".into(),
        upstream: Some(HOSTILE.into()),
        direction: "down".into(),
        bytes_received: 0,
        bytes_sent: 5,
        length: Some(3),
        rate: 1,
        since: seen.at,
        seconds: f64::NAN,
        waits_for: HOSTILE.into(),
    });
    seen.refused = Some((seen.at, HOSTILE.into()));
    seen.refusals.push(refusal(&seen, HOSTILE));
    let text = text(&seen);
    assert!(text.contains("&lt;script&gt;alert(1)"), "it is shown");
    assert_eq!(text.matches("<script").count(), 1, "but for the page's own");
    assert!(!text.contains("<img") && !text.contains("onerror=\"alert"));
    assert!(!text.contains(" style="), "the policy forbids it");
}

#[test]
fn each_section_is_one_element_with_its_id_so_that_it_can_be_replaced() {
    for section in sections(&seen(Vec::new())) {
        let begin = section.html.split_once('>').map_or("", |(tag, _)| tag);
        assert!(begin.contains(&format!("id=\"{}\"", section.id)), "{begin}");
        let name = begin.trim_start_matches('<').split(' ').next().unwrap_or_default();
        assert!(section.html.ends_with(&format!("</{name}>")), "{}", section.html);
        assert_eq!(section.html.matches(&format!("<{name} ")).count(), 1);
    }
}

#[test]
fn a_light_has_a_word_beside_its_colour() {
    let shown = text(&seen(vec![service("ci", vec![upstream("a", "down", "refused")])]));
    assert!(shown.contains("class=\"light broken\""));
    for word in ["✗</span> down", "✗</span> broken", "✗</span> 1 broken", "<dt>Why</dt>", "<dt>Do</dt>"]
    {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let well = text(&seen(vec![service("ci", vec![upstream("a", "up", "200")])]));
    assert!(well.contains("All is well") && !well.contains("broken\""));
}
