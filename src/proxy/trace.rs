//! Step 3: which trace the request belongs to (W3C Trace Context). Without `[trace]` the fields of one pass as they are, and
//! its id is in the access line; with it, each request is a span of its own between caller and upstream.

use std::num::{NonZero, NonZeroU64, NonZeroU128};

use super::{h1::Fields, record::Spans};
use crate::{config::proxy, model::TraceParent};

/// How requests become parts of traces.
#[derive(Debug)]
pub struct Tracing {
    /// `[trace]`.
    pub settings: proxy::Trace,
    /// Takes what is recorded, if that goes anywhere.
    pub spans: Option<Spans>,
}

/// A request's part of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// Of all that belongs to it.
    pub id: NonZeroU128,
    /// The caller's part; none if the trace begins here.
    pub parent: Option<NonZeroU64>,
    /// The part of this request; none if it only passes.
    pub span: Option<NonZeroU64>,
    /// It is recorded.
    pub sampled: bool,
}

impl Trace {
    /// What upstreams are told in place of what the client said.
    pub fn context(&self) -> Option<TraceParent> {
        Some(TraceParent { trace: self.id, parent: self.span?, sampled: self.sampled })
    }

    /// Whether this field of the client's is not passed on.
    pub fn replaces(&self, name: &str) -> bool {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        self.span.is_some()
            && match name.len() {
                11 => is(TraceParent::NAME),
                // What others noted of a trace that this request is no part of.
                10 => self.parent.is_none() && is(TraceParent::STATE),
                _ => false,
            }
    }
}

/// The trace of a request with these fields. `chance` is evenly spread, and what a new request id is made of too.
pub fn of(fields: &Fields<'_>, tracing: Option<&Tracing>, chance: u128) -> Option<Box<Trace>> {
    let mut all = fields.all(TraceParent::NAME);
    // Of two nobody knows which one is meant.
    let given = all.next().filter(|_| all.next().is_none());
    let given = given.and_then(|value| TraceParent::parse(std::str::from_utf8(value).ok()?));
    let Some(tracing) = tracing else {
        return given.map(|TraceParent { trace: id, parent, sampled }| {
            Box::new(Trace { id, parent: Some(parent), span: None, sampled })
        });
    };
    let span = Some(span(chance));
    Some(Box::new(match given {
        Some(TraceParent { trace: id, parent, sampled }) => Trace { id, parent: Some(parent), span, sampled },
        None => {
            let id = NonZero::new(chance).unwrap_or(NonZero::<u128>::MIN);
            Trace { id, parent: None, span, sampled: is_sampled(chance, tracing.settings.sample) }
        }
    }))
}

/// Another number out of the same chance: the finaliser of MurmurHash3, which leaves no bit where it was.
fn span(chance: u128) -> NonZeroU64 {
    let [high, low] = [(chance >> 64) as u64, chance as u64];
    let mut mixed = high ^ low.rotate_left(32);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    NonZero::new(mixed ^ (mixed >> 33)).unwrap_or(NonZero::<u64>::MIN)
}

/// By the lower bits of the trace's id, so that whoever else decides by them decides alike.
fn is_sampled(id: u128, share: f64) -> bool {
    // 56 bits: a float tells them apart exactly.
    let part = (id & 0x00ff_ffff_ffff_ffff) as u64;
    #[expect(clippy::cast_precision_loss, reason = "56 bits of 2^56, a share of which is taken")]
    let part = part as f64 / 2f64.powi(56);
    part < share
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const CHANCE: u128 = 0x1234_5678_9abc_def0_0f1e_2d3c_4b5a_6978;

    fn trace(given: &[&str], sample: Option<f64>, chance: u128) -> Option<Trace> {
        let line = |value: &&'static str| httparse::Header { name: "Traceparent", value: value.as_bytes() };
        let given: Vec<&'static str> =
            given.iter().map(|v| &*Box::leak(v.to_string().into_boxed_str())).collect();
        let fields: Vec<_> = given.iter().map(line).collect();
        let settings = |sample| proxy::Trace { sample, otlp: None, service: "s".into() };
        let tracing = sample.map(|sample| Tracing { settings: settings(sample), spans: None });
        of(&Fields::new(&fields), tracing.as_ref(), chance).map(|trace| *trace)
    }

    #[test]
    fn without_the_setting_a_trace_passes_as_it_is() {
        assert_eq!(trace(&[], None, CHANCE), None);
        assert_eq!(trace(&["nonsense"], None, CHANCE), None);
        let passes = trace(&[GOOD], None, CHANCE).unwrap();
        assert_eq!((passes.span, passes.context()), (None, None));
        assert_eq!(passes.id.get(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert!(!passes.replaces("traceparent") && !passes.replaces("tracestate"));
    }

    #[test]
    fn a_trace_is_joined_and_keeps_its_id_its_state_and_whether_it_is_recorded() {
        for (given, sampled) in [(GOOD.to_owned(), true), (GOOD.replace("-01", "-00"), false)] {
            let joined = trace(&[&given], Some(0.5), CHANCE).unwrap();
            assert_eq!((joined.sampled, joined.parent.unwrap().get()), (sampled, 0x00f0_67aa_0ba9_02b7));
            let told = joined.context().unwrap();
            assert_eq!((told.trace, Some(told.parent), told.sampled), (joined.id, joined.span, sampled));
            assert_ne!(joined.span, joined.parent);
            assert!(joined.replaces("TraceParent") && !joined.replaces("tracestate"));
        }
    }

    #[test]
    fn a_trace_begins_where_there_is_none_and_where_it_cannot_be_known_which_is_meant() {
        for given in [&[][..], &["00-zz"], &[GOOD, GOOD]] {
            let begun = trace(given, Some(1.0), CHANCE).unwrap();
            assert_eq!((begun.id.get(), begun.parent, begun.sampled), (CHANCE, None, true));
            assert!(
                begun.replaces("traceparent")
                    && begun.replaces("tracestate")
                    && !begun.replaces("x-trace-id")
            );
        }
        assert!(!trace(&[], Some(0.0), CHANCE).unwrap().sampled);
        assert!(trace(&[], Some(1.0), 0).unwrap().span.is_some(), "no id is nought");
    }

    #[test]
    fn the_share_that_is_recorded_is_the_one_that_was_asked_for() {
        let mut chance = CHANCE;
        let mut recorded = 0;
        for _ in 0..10_000 {
            chance = chance.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
            // Upper bits of such a sequence are the even ones.
            recorded += u32::from(trace(&[], Some(0.25), chance.rotate_right(64)).unwrap().sampled);
        }
        assert!((2_300..2_700).contains(&recorded), "{recorded}");
    }
}
