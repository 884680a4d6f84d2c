//! The page as text. Everything that is put into it is escaped by the templates: what a server says of itself is shown as
//! it came, and may be hostile.

mod pools;
mod rest;
mod words;

use maud::{DOCTYPE, Markup, html};

use super::{
    seen::Seen,
    wrong::{Level, Wrong, wrong},
};
use crate::model::Timestamp;

pub(super) use rest::REFUSALS;

/// A part of the page that is replaced as a whole, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) html: String,
}

/// All of them, in their order.
pub(super) fn sections(seen: &Seen) -> Vec<Section> {
    let faults = wrong(seen);
    let parts: [(&'static str, Markup); 7] = [
        ("top", top(seen, &faults)),
        ("wrong", list(seen, &faults)),
        ("services", pools::services(seen)),
        ("registries", pools::registries(seen)),
        ("transfers", rest::transfers(seen)),
        ("refusals", rest::refusals(seen)),
        ("process", rest::process(seen)),
    ];
    parts.into_iter().map(|(id, html)| Section { id, html: html.into_string() }).collect()
}

/// The whole page.
pub(super) fn page(sections: &[Section]) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Switchyard" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="dashboard/style.css";
                script src="dashboard/live.js" defer {}
                noscript { meta http-equiv="refresh" content="5"; }
            }
            body {
                p #live role="status" { noscript { "Loaded anew every 5 seconds: scripts are off." } }
                main {
                    @for section in sections { (maud::PreEscaped(&section.html)) }
                }
            }
        }
    };
    markup.into_string()
}

/// A moment, for people and for machines.
fn time(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) { (words::moment(at, now)) } }
}

/// A light: a sign and a word, so that it does not depend on its colour.
fn light(class: &str, sign: &str, word: &str) -> Markup {
    html! { span class={ "light " (class) } { span aria-hidden="true" { (sign) } " " (word) } }
}

fn of_level(level: Level) -> Markup {
    let sign = match level {
        Level::Broken => "✗",
        Level::Warning => "!",
        Level::Note => "i",
    };
    light(level.as_str(), sign, level.as_str())
}

/// What one must know at once.
fn top(seen: &Seen, faults: &[Wrong]) -> Markup {
    let count = |level| faults.iter().filter(|wrong| wrong.level == level).count() as u64;
    let (broken, warnings) = (count(Level::Broken), count(Level::Warning));
    let (class, sign, word) = match (broken, warnings) {
        (0, 0) => ("well", "✓", "All is well".to_owned()),
        (0, warnings) => ("warning", "!", words::several(warnings, "warning")),
        (broken, 0) => ("broken", "✗", format!("{broken} broken")),
        (broken, warnings) => {
            ("broken", "✗", format!("{broken} broken, {}", words::several(warnings, "warning")))
        }
    };
    html! {
        header #top data-title=(format!("{sign} {word} – Switchyard")) {
            h1 { "Switchyard" }
            p .summary.(class) role="status" { span aria-hidden="true" { (sign) } " " (word) }
            p .asof { "as of " (time(seen.at, seen.at)) }
        }
    }
}

fn list(seen: &Seen, faults: &[Wrong]) -> Markup {
    html! {
        section #wrong aria-labelledby="wrong-title" {
            h2 #wrong-title { "What is wrong, and what to do" }
            @if faults.is_empty() {
                p .none { "Nothing: every server passes its probes, and nothing waits." }
            }
            ul .faults {
                @for fault in faults {
                    li class=(fault.level.as_str()) {
                        p .what {
                            (of_level(fault.level)) " " strong { (fault.what) }
                            @if let Some(since) = fault.since { span .since { " since " (time(since, seen.at)) } }
                        }
                        dl {
                            dt { "Why" } dd { (fault.why) }
                            dt { "Do" } dd { (fault.remedy) }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
