//! `POST /log`: other services of a cloud send rows of their logs here; each becomes a line of this registry's own log.
//!
//! Rows are bounded in length and number: a client that is out of its mind must not fill this machine's disk.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{body::Body, extract::Request};
use serde::Deserialize;

use super::{
    answer::{Answer, Fail, done},
    templates::{BODY_LIMIT, BODY_PATIENCE},
};
use crate::{clock, http::BodyRoom, wire::lenient};

/// Rows in one second. More are refused with 429: clients keep theirs and send again.
const ROWS: u32 = 200;

/// Characters of a row's content that are logged; the rest is left out, and the line says how much.
const CONTENT: usize = 8192;

/// Characters of each of the names in a row.
const NAME: usize = 128;

/// One row as it is sent; what is missing is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    #[serde(deserialize_with = "lenient::text")]
    machine_name: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    service: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    host: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    content: Option<String>,
}

/// How many rows came in this second.
#[derive(Debug, Default)]
pub(super) struct Rows(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    number: u64,
    rows: u32,
}

impl Rows {
    fn admit(&self, second: u64) -> bool {
        let mut this = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if this.number != second {
            *this = Second { number: second, rows: 0 };
        }
        this.rows = this.rows.saturating_add(1);
        this.rows <= ROWS
    }
}

/// Takes one row.
pub(super) async fn take(rows: Arc<Rows>, body: Body) -> Answer {
    if !rows.admit(clock::boot().as_secs()) {
        return Err(Fail::too_many(format!("more than {ROWS} log rows in one second")));
    }
    let whole = BodyRoom::new(BODY_LIMIT, BODY_LIMIT, BODY_PATIENCE).read(Request::new(body)).await?;
    let row: Row = serde_json::from_slice(whole.bytes())
        .map_err(|error| Fail::bad(format!("body is not a log row: {error}")))?;
    let (machine, service) = (shown(&row.machine_name, NAME), shown(&row.service, NAME));
    let (host, content) = (shown(&row.host, NAME), shown(&row.content, CONTENT));
    tracing::info!(
        row.machine = machine.as_str(),
        row.service = service.as_str(),
        row.host = host.as_str(),
        row.content = content.as_str(),
        "log row received"
    );
    done(())
}

/// Fit for one line of a log, whatever its form: no line ends, no escape sequences, no more than `most` characters.
fn shown(text: &Option<String>, most: usize) -> String {
    let text = text.as_deref().unwrap_or_default();
    let kept = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = kept.collect();
    let left_out = text.chars().count().saturating_sub(most);
    if left_out > 0 {
        shown.push_str(&format!("… ({left_out} characters more)"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_anew_each_second() {
        let rows = Rows::default();
        assert!((0..ROWS).all(|_| rows.admit(7)));
        assert!(!rows.admit(7));
        assert!(rows.admit(8));
    }

    #[test]
    fn a_row_stays_one_line_of_bounded_length() {
        let text = shown(&Some(format!("a\n\u{1b}[31m{}", "é".repeat(20))), 10);
        assert_eq!(text, "a  [31mééé… (17 characters more)");
        assert_eq!(shown(&None, 3), "");
    }
}
