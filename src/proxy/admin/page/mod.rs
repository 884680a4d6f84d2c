//! The page for who is on call: what is wrong, why, and what to do; then services, registries, transfers, the process.
//!
//! Made here, whole, from the same views as the API, so it needs no script to be read. With scripts it is live: a stream of
//! events brings the sections that have changed. A view is made at most once in [`EVERY`], and only while somebody looks.
//! Who reads slowly gets the newest sections and never those in between: the next are made when the last were taken; and who
//! takes nothing for a minute is cut off, as at every server of ours.

mod html;
mod look;
mod seen;
mod wrong;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::{Stream, stream};
use tokio::{sync::OwnedSemaphorePermit, time::MissedTickBehavior};

use self::{html::Section, look::Looks};
use crate::proxy::role::Handle;

/// How often what is shown is made anew.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Streams of events at once. Full: the next gets 503, and its page loads itself anew instead.
pub(super) const STREAMS: usize = 32;

/// A browser that has lost the stream asks again after so long.
const AGAIN: Duration = Duration::from_secs(2);

/// Nothing from elsewhere, no script in the text, and in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const GUARDS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Its routes.
pub(super) fn routes(handle: Handle) -> Router {
    let looks = Arc::new(Looks::of(handle));
    Router::new()
        .route("/", get(page))
        .route("/dashboard/events", get(events))
        .route("/dashboard/style.css", get(|| text("text/css; charset=utf-8", include_str!("style.css"))))
        .route("/dashboard/live.js", get(|| text("text/javascript; charset=utf-8", include_str!("live.js"))))
        .with_state(looks)
}

async fn page(State(looks): State<Arc<Looks>>) -> Response {
    guarded("text/html; charset=utf-8", html::page(&looks.now()))
}

async fn text(kind: &'static str, text: &'static str) -> Response {
    guarded(kind, text)
}

fn guarded(kind: &'static str, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // After an upgrade it is another one.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in GUARDS {
        fields.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn events(State(looks): State<Arc<Looks>>) -> Response {
    let Ok(place) = looks.streams.clone().try_acquire_owned() else {
        let text = format!("{STREAMS} pages are live already: this one has to be loaded anew\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let mut response = Sse::new(following(looks, place)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What one page has.
struct Follower {
    looks: Arc<Looks>,
    ticks: tokio::time::Interval,
    had: Arc<Vec<Section>>,
    /// Not sent yet, the last first.
    next: Vec<Section>,
    _place: OwnedSemaphorePermit,
}

/// The sections that have changed, until the proxy stops.
fn following(
    looks: Arc<Looks>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower { looks, ticks, had: Arc::default(), next: Vec::new(), _place: place };
    stream::unfold(follower, async |mut follower| {
        let section = follower.next().await?;
        let event = Event::default().event("section").retry(AGAIN).data(section.html);
        Some((Ok(event), follower))
    })
}

impl Follower {
    async fn next(&mut self) -> Option<Section> {
        loop {
            if let Some(section) = self.next.pop() {
                return Some(section);
            }
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.looks.ended() => return None,
            }
            let now = self.looks.now();
            self.next = now.iter().rev().filter(|section| !self.had.contains(section)).cloned().collect();
            self.had = now;
        }
    }
}
