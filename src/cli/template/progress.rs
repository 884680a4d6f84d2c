//! How a transfer goes: bars on a terminal, JSON lines where a program asked for them, else what was tried again.

use std::{cell::Cell, io::IsTerminal, time::Duration};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

use super::Going;
use crate::{cli::Printer, client::transfer::Watch, clock};

/// Between two JSON lines of one blob.
const EVERY: Duration = Duration::from_millis(200);

/// Bars that fit on a screen; of more blobs the sum alone is shown.
const BARS: usize = 16;

/// What is on its way, and how it is shown.
pub(super) struct Shown {
    what: &'static str,
    printer: Printer,
    blobs: Vec<Blob>,
    way: Way,
}

struct Blob {
    name: String,
    size: u64,
    done: Cell<u64>,
    told: Cell<Option<Instant>>,
}

enum Way {
    Bars { all: MultiProgress, bars: Vec<ProgressBar>, sum: ProgressBar },
    Json,
    Notes,
    Silent,
}

impl Shown {
    /// Of these blobs, by name and size. `what` is the verb.
    pub(super) fn new(
        what: &'static str,
        going: &Going,
        printer: Printer,
        blobs: Vec<(String, u64)>,
    ) -> Self {
        let way = if going.quiet {
            Way::Silent
        } else if going.progress_json {
            Way::Json
        } else if std::io::stderr().is_terminal() {
            bars(what, &blobs)
        } else {
            Way::Notes
        };
        let blob = |(name, size)| Blob { name, size, done: Cell::new(0), told: Cell::new(None) };
        Self { what, printer, blobs: blobs.into_iter().map(blob).collect(), way }
    }

    /// Nothing is drawn any more.
    pub(super) fn end(&self) {
        if let Way::Bars { all, bars, sum } = &self.way {
            // One that is not finished is drawn once more when it is dropped, over what was printed meanwhile.
            bars.iter().chain([sum]).for_each(ProgressBar::finish_and_clear);
            drop(all.clear());
        }
    }
}

fn bars(what: &'static str, blobs: &[(String, u64)]) -> Way {
    let style = |form: &str| {
        ProgressStyle::with_template(form)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ")
    };
    let one = style("  {prefix:28!} [{bar:24}] {bytes:>10}/{total_bytes:10} {msg}");
    let whole = style("{prefix:30!} [{bar:24}] {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} ETA {eta}");
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let bar = |name: &str, size: u64, style: &ProgressStyle| {
        let bar = all.add(ProgressBar::new(size).with_style(style.clone()).with_prefix(name.to_owned()));
        bar.tick();
        bar
    };
    let shown = if blobs.len() <= BARS { blobs } else { &[] };
    let bars = shown.iter().map(|(name, size)| bar(name, *size, &one)).collect();
    let sum = bar(what, blobs.iter().map(|(_, size)| size).sum(), &whole);
    Way::Bars { all, bars, sum }
}

impl Watch for Shown {
    fn at(&self, at: usize, done: u64) {
        let Some(blob) = self.blobs.get(at) else { return };
        let before = blob.done.replace(done);
        match &self.way {
            Way::Bars { bars, sum, .. } => {
                sum.inc(done.saturating_sub(before));
                sum.set_position(sum.position().saturating_sub(before.saturating_sub(done)));
                if let Some(bar) = bars.get(at) {
                    bar.set_position(done);
                    bar.set_message(if done == blob.size { "there" } else { "" });
                }
            }
            Way::Json => {
                let now = clock::now();
                let due = blob.told.get().is_none_or(|told| now - told >= EVERY);
                if due || (done == blob.size && before != done) {
                    blob.told.set(Some(now));
                    self.printer.note(json!({
                        "event": self.what, "name": blob.name, "done": done, "size": blob.size,
                    }));
                }
            }
            Way::Notes | Way::Silent => {}
        }
    }

    fn note(&self, at: usize, text: &str) {
        let name = self.blobs.get(at).map_or("the manifest", |blob| blob.name.as_str());
        match &self.way {
            Way::Bars { all, .. } => drop(all.println(format!("{name}: {text}"))),
            Way::Json => self.printer.note(json!({ "event": "note", "name": name, "text": text })),
            Way::Notes => self.printer.note(format!("{name}: {text}")),
            Way::Silent => {}
        }
    }
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// How much, and how fast.
pub(super) fn rate(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    format!("{} in {seconds:.1} s, {}/s", size(bytes), size((bytes as f64 / seconds) as u64))
}
