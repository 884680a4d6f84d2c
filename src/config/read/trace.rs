//! `[trace]`.

use crate::config::{
    proxy::Trace,
    raw::{Raw, Table},
    report::Place,
    value::{Given, Wrong, fraction, one_of, plain_url, text},
};

/// Control traffic is many small calls that look alike.
const SAMPLE: f64 = 0.01;
/// Names of services are short words.
const LONGEST: usize = 64;

/// Whether requests are made parts of traces: `pass` or `join`.
const CONTEXT: &[(&str, bool)] = &[("pass", false), ("join", true)];

pub(super) fn read(raw: &Raw<'_>, table: &Table<'_>) -> Option<Trace> {
    let joins = table.opt("context", one_of(CONTEXT));
    let sample = table.opt("sample", fraction(0.0..=1.0));
    let otlp = table.opt("otlp", plain_url);
    let service = table.opt("service", service);
    let needless = |key: &'static str, place: Place| {
        let what = format!("`trace.{key}` has no effect: no request is made part of a trace");
        raw.fault(place, what, "add `context = \"join\"`, or delete it");
    };
    if joins != Some(true) {
        for (key, given) in
            [("sample", sample.is_some()), ("otlp", otlp.is_some()), ("service", service.is_some())]
        {
            if given {
                needless(key, table.at(key));
            }
        }
        return None;
    }
    Some(Trace {
        sample: sample.unwrap_or(SAMPLE),
        otlp,
        service: service.unwrap_or_else(|| "switchyard".into()),
    })
}

fn service(given: &Given<'_>) -> Result<String, Wrong> {
    let text = text(given)?;
    if text.len() > LONGEST {
        return Err(Wrong::new(
            format!("is of {} bytes", text.len()),
            format!("use a name of at most {LONGEST} bytes"),
        ));
    }
    Ok(text.to_owned())
}
