//! The files of certificates that a controller or a registry has in use: looked at again and again, so that renewed ones are
//! taken without anybody asking, and what ends soon is said in time: in the log, in `/readyz` and as metrics.

use std::{convert::Infallible, sync::Arc};

use prometheus::IntGaugeVec;
use tracing::{error, warn};

use crate::{
    clock,
    model::Timestamp,
    supervise::Stop,
    telemetry::{Metrics, MetricsError, names},
    tls::{self, Callers, Problem, Server, Told, Upstream},
};

/// The tables that name files, as metrics and sentences call them.
const SERVER: &str = "server.tls";
const CALLERS: &str = "auth";

/// Those of one server. Cheap to clone.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    server: Option<Server>,
    callers: Option<Callers>,
    towards: Vec<(&'static str, Upstream)>,
    fine: IntGaugeVec,
    certificate_until: IntGaugeVec,
    list_until: IntGaugeVec,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("server", &self.0.server).finish_non_exhaustive()
    }
}

/// How the files of one table stand.
struct Standing {
    of: &'static str,
    certificate_until: Option<Timestamp>,
    list_until: Option<Timestamp>,
    trouble: Vec<Problem>,
}

impl Files {
    /// Those of the server's own TLS, those by which callers in headers are looked at, and, by their tables, those by which
    /// other servers are asked.
    ///
    /// # Errors
    /// A metric that exists already: this was called twice for one [`Metrics`].
    pub fn new(
        server: Option<Server>,
        callers: Option<Callers>,
        towards: impl IntoIterator<Item = (&'static str, Option<Upstream>)>,
        metrics: &Metrics,
    ) -> Result<Self, MetricsError> {
        let files = Self(Arc::new(Inner {
            server,
            callers,
            towards: towards.into_iter().filter_map(|(of, tls)| Some((of, tls?))).collect(),
            fine: metrics.gauges(names::TLS_FILES_OK)?,
            certificate_until: metrics.gauges(names::TLS_CERTIFICATE_UNTIL)?,
            list_until: metrics.gauges(names::TLS_LIST_UNTIL)?,
        }));
        files.measure();
        Ok(files)
    }

    /// Whether there are any.
    pub fn are_none(&self) -> bool {
        self.0.server.is_none() && self.0.callers.is_none() && self.0.towards.is_empty()
    }

    /// Each thing that somebody has to look at, in a sentence.
    pub fn why(&self) -> Vec<String> {
        self.standing().iter().flat_map(|one| sentences(one, clock::wall())).collect()
    }

    fn standing(&self) -> Vec<Standing> {
        let Inner { server, callers, towards, .. } = &*self.0;
        let server = server.iter().map(|server| {
            let facts = server.facts();
            let certificate_until = Some(facts.certificate_until);
            Standing {
                of: SERVER,
                certificate_until,
                list_until: facts.list_until,
                trouble: server.trouble(),
            }
        });
        let callers = callers.iter().map(|callers| Standing {
            of: CALLERS,
            certificate_until: None,
            list_until: callers.list_until(),
            trouble: callers.trouble(),
        });
        let towards = towards.iter().map(|(of, tls)| Standing {
            of,
            certificate_until: tls.certificate_until(),
            list_until: None,
            trouble: tls.trouble(),
        });
        server.chain(callers).chain(towards).collect()
    }

    fn measure(&self) {
        for one in self.standing() {
            let labels = &[one.of];
            self.0.fine.with_label_values(labels).set(i64::from(one.trouble.is_empty()));
            for (gauge, until) in
                [(&self.0.certificate_until, one.certificate_until), (&self.0.list_until, one.list_until)]
            {
                if let Some(until) = until {
                    gauge.with_label_values(labels).set(until.unix_seconds());
                }
            }
        }
    }

    /// Looks at all of them; what was found of each.
    fn refresh(&self) -> Vec<(&'static str, Result<bool, Vec<Problem>>)> {
        let Inner { server, callers, towards, .. } = &*self.0;
        let server = server.iter().map(|server| (SERVER, server.refresh()));
        let callers = callers.iter().map(|callers| (CALLERS, callers.refresh()));
        let towards = towards.iter().map(|(of, tls)| (*of, tls.refresh()));
        server.chain(callers).chain(towards).collect()
    }

    /// Takes what is new in the files until `stop`.
    pub async fn keep(self, stop: Stop) -> Result<(), Infallible> {
        let (mut looks, mut told) = (0_u32, Told::default());
        loop {
            let of = self.clone();
            // Reading blocks, and may for long where files are far away.
            match tokio::task::spawn_blocking(move || of.refresh()).await {
                Ok(looked) => looked.into_iter().for_each(|(of, found)| told.say(of, found)),
                Err(gone) => error!(error = %gone, "looking at the files of certificates failed"),
            }
            self.measure();
            if looks.is_multiple_of(tls::LOOKS_A_DAY) {
                let now = clock::wall();
                for sentence in self.standing().iter().flat_map(|one| ending(one, now)) {
                    warn!(why = %sentence, "it ends soon or has ended: renew it");
                }
            }
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = stop.requested() => return Ok(()),
                () = tokio::time::sleep(tls::LOOK) => {}
            }
        }
    }
}

fn sentences(one: &Standing, now: Timestamp) -> Vec<String> {
    let mut all = Vec::new();
    if !one.trouble.is_empty() {
        all.push(format!("{}: new certificates were refused: {}", one.of, tls::in_words(&one.trouble)));
    }
    all.extend(ending(one, now));
    all
}

/// What of it ends soon, or has ended.
fn ending(one: &Standing, now: Timestamp) -> Vec<String> {
    let soon = |until: &Timestamp| tls::ends_soon(*until, now);
    let certificate = one
        .certificate_until
        .filter(soon)
        .map(|until| format!("{}: the certificate ends, or has ended, at {until}", one.of));
    let list = one.list_until.filter(soon).map(|until| {
        let then =
            if until <= now { "no certificate of a caller is good" } else { "then no certificate is good" };
        format!("{}: the revocation list ends, or has ended, at {until}; {then}", one.of)
    });
    certificate.into_iter().chain(list).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tls::Part;

    #[test]
    fn what_ends_within_a_week_is_said_and_nothing_else() {
        let now = Timestamp::from_unix_seconds(1_000_000_000);
        let day = Duration::from_secs(24 * 3600);
        let of = |certificate_until, list_until| {
            let one = Standing { of: SERVER, certificate_until, list_until, trouble: Vec::new() };
            sentences(&one, now)
        };
        assert!(of(Some(now.plus(day * 8)), Some(now.plus(day * 8))).is_empty());
        assert!(of(None, None).is_empty());
        let soon = of(Some(now.plus(day * 8)), Some(now.plus(day * 6)));
        assert_eq!(soon.len(), 1);
        assert!(
            soon[0].starts_with("server.tls: the revocation list ends") && soon[0].contains("then no"),
            "{soon:?}"
        );
        let over = of(Some(now), Some(now));
        assert!(
            over[0].contains("the certificate ends") && over[1].ends_with("of a caller is good"),
            "{over:?}"
        );
    }

    #[test]
    fn what_was_refused_is_said_with_what_would_be_right() {
        let wrong =
            Problem { part: Part::Whole, name: "f".into(), what: "is bad".into(), right: "mend it".into() };
        let one = Standing { of: CALLERS, certificate_until: None, list_until: None, trouble: vec![wrong] };
        assert_eq!(
            sentences(&one, Timestamp::from_unix_seconds(0)),
            ["auth: new certificates were refused: `f` is bad: mend it"]
        );
    }
}
