//! What an operator says of upstreams and services, beside the config: drain and undrain, a weight, maintenance.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{post, put},
};
use serde::de::DeserializeOwned;

use crate::{
    balance::Weight,
    clock, health,
    http::Peer,
    proxy::{
        orders::{NotNow, TooMany},
        role::Handle,
        snapshot::{Service, Snapshot},
    },
    wire::orders::{Note, Order, Ordered, SetMaintenance, SetWeight, What},
};

/// Characters of a name and of a reason: both stand in log lines.
const BY: usize = 64;
const REASON: usize = 256;

type Of = State<Handle>;
type From = ConnectInfo<Peer>;
type OfUpstream = Path<(String, String)>;

/// The routes.
pub(super) fn routes() -> Router<Handle> {
    const UPSTREAM: &str = "/admin/v1/services/{service}/upstreams/{upstream}";
    Router::new()
        .route(
            &format!("{UPSTREAM}/drain"),
            post(
                async |State(handle): Of, from: From, Path((service, upstream)): OfUpstream, body: Bytes| {
                    let note = read::<Note>(&body, "{}")?;
                    let about = About { service, upstream: Some(upstream), note, from };
                    about.say(&handle, What::Drained)
                },
            ),
        )
        .route(
            &format!("{UPSTREAM}/undrain"),
            post(
                async |State(handle): Of, from: From, Path((service, upstream)): OfUpstream, body: Bytes| {
                    let note = read::<Note>(&body, "{}")?;
                    let about = About { service, upstream: Some(upstream), note, from };
                    about.take_back(&handle, What::Drained)
                },
            ),
        )
        .route(
            &format!("{UPSTREAM}/weight"),
            put(async |State(handle): Of, from: From, Path((service, upstream)): OfUpstream, body: Bytes| {
                let SetWeight { weight, by, reason } = read(&body, r#"{"weight":10}"#)?;
                if !(1..=Weight::MOST).contains(&weight) {
                    let why = format!("`weight` is {weight}: use 1 to {}, or drain it", Weight::MOST);
                    return Err(Refusal(StatusCode::BAD_REQUEST, why));
                }
                let about = About { service, upstream: Some(upstream), note: Note { by, reason }, from };
                about.say(&handle, What::Weight(weight))
            })
            .delete(
                async |State(handle): Of, from: From, Path((service, upstream)): OfUpstream, body: Bytes| {
                    let note = read::<Note>(&body, "{}")?;
                    let about = About { service, upstream: Some(upstream), note, from };
                    about.take_back(&handle, What::Weight(0))
                },
            ),
        )
        .route(
            "/admin/v1/services/{service}/maintenance",
            post(async |State(handle): Of, from: From, Path(service): Path<String>, body: Bytes| {
                let SetMaintenance { on, by, reason } = read(&body, r#"{"on":true}"#)?;
                let about = About { service, upstream: None, note: Note { by, reason }, from };
                about.say(&handle, What::Maintenance(on))
            })
            .delete(
                async |State(handle): Of, from: From, Path(service): Path<String>, body: Bytes| {
                    let note = read::<Note>(&body, "{}")?;
                    let about = About { service, upstream: None, note, from };
                    about.take_back(&handle, What::Maintenance(false))
                },
            ),
        )
}

/// One line of plain text.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl std::convert::From<NotNow> for Refusal {
    fn from(not: NotNow) -> Self {
        Self(StatusCode::CONFLICT, not.to_string())
    }
}

impl std::convert::From<TooMany> for Refusal {
    fn from(too_many: TooMany) -> Self {
        Self(StatusCode::CONFLICT, too_many.to_string())
    }
}

fn read<T: Default + DeserializeOwned>(body: &[u8], right: &str) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        Refusal(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}; send `{right}`"))
    })
}

/// Whom it is about, and who says it.
struct About {
    service: String,
    upstream: Option<String>,
    note: Note,
    from: From,
}

impl About {
    fn say(self, handle: &Handle, what: What) -> Result<Json<Ordered>, Refusal> {
        self.is_well_said()?;
        let snapshot = handle.live.load();
        let service = service(&snapshot, &self.service)?;
        if let Some(upstream) = &self.upstream
            && service.place_of(upstream).is_none()
        {
            return Err(no_upstream(service, upstream, &[]));
        }
        let order = Order {
            service: self.service.clone(),
            upstream: self.upstream.clone(),
            what,
            since: clock::wall(),
            by: self.note.by.clone(),
            from: Some(self.from.0.address.ip().to_canonical().to_string()),
            reason: self.note.reason.clone(),
            differs: false,
        };
        let changed = handle.order(|orders| orders.say(order))??;
        self.tell(what, "operator order taken");
        Ok(Json(self.ordered(handle, changed, Some(what))))
    }

    fn take_back(self, handle: &Handle, what: What) -> Result<Json<Ordered>, Refusal> {
        self.is_well_said()?;
        let snapshot = handle.live.load();
        let (name, upstream) = (self.service.as_str(), self.upstream.as_deref());
        let taken = handle.order(|orders| orders.take_back(name, upstream, what))?;
        match &taken {
            Some(order) => self.tell(order.what, "operator order taken back"),
            None => {
                let service = service(&snapshot, name)?;
                if let Some(upstream) = upstream
                    && service.place_of(upstream).is_none()
                {
                    let absent = snapshot.orders.of_absent(service);
                    return Err(no_upstream(service, upstream, &absent));
                }
            }
        }
        Ok(Json(self.ordered(handle, taken.is_some(), None)))
    }

    /// What stands in log lines is short and has no line ends in it.
    fn is_well_said(&self) -> Result<(), Refusal> {
        for (key, text, most) in [("by", &self.note.by, BY), ("reason", &self.note.reason, REASON)] {
            let Some(text) = text else { continue };
            let why = match text.chars().count() {
                count if count > most => format!("has {count} characters, and may have {most}"),
                _ if text.chars().any(char::is_control) => {
                    "has a line end or a control character in it".into()
                }
                _ => continue,
            };
            return Err(Refusal(StatusCode::BAD_REQUEST, format!("`{key}` {why}")));
        }
        Ok(())
    }

    fn tell(&self, what: What, text: &str) {
        let (upstream, by) = (self.upstream.as_deref().unwrap_or(""), self.note.by.as_deref().unwrap_or(""));
        let (reason, from) = (self.note.reason.as_deref().unwrap_or(""), self.from.0.address);
        tracing::info!(service.name = self.service, upstream.name = upstream, order.what = ?what, order.by = by, order.from = %from, order.reason = reason, "{text}");
    }

    fn ordered(self, handle: &Handle, changed: bool, said: Option<What>) -> Ordered {
        let snapshot = handle.live.load();
        let service = snapshot.services.iter().find(|known| known.name.as_str() == self.service);
        let place = service.zip(self.upstream.as_deref()).and_then(|(service, name)| service.place_of(name));
        let outstanding = match (service, place) {
            (Some(service), Some(place)) => service.upstreams.get(place).map_or(0, |one| one.outstanding()),
            (Some(service), None) => service.upstreams.iter().map(|one| one.outstanding()).sum(),
            (None, _) => 0,
        };
        Ordered {
            changed,
            outstanding,
            orders: service
                .map(|service| snapshot.orders.of(service, self.upstream.as_deref()))
                .unwrap_or_default(),
            warnings: service.map(|service| warnings(service, place, said)).unwrap_or_default(),
            service: self.service,
            upstream: self.upstream,
        }
    }
}

fn service<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s Arc<Service>, Refusal> {
    let found = snapshot.services.iter().find(|service| service.name.as_str() == name);
    found.ok_or_else(|| {
        let there = listed(snapshot.services.iter().map(|service| service.name.as_str()));
        Refusal(StatusCode::NOT_FOUND, format!("there is no service `{name}`; there are {there}"))
    })
}

fn no_upstream(service: &Service, name: &str, absent: &[Order]) -> Refusal {
    let known = service.upstreams.iter().map(|upstream| upstream.name.as_str());
    let there = listed(known.chain(absent.iter().filter_map(|order| order.upstream.as_deref())));
    let why = format!("service `{}` has no upstream `{name}`; it has {there}", service.name);
    Refusal(StatusCode::NOT_FOUND, why)
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// What follows from it that an operator may not have thought of.
fn warnings(service: &Service, place: Option<usize>, said: Option<What>) -> Vec<String> {
    let Some((place, upstream)) = place.and_then(|place| Some((place, service.upstreams.get(place)?))) else {
        return Vec::new();
    };
    let (of, name, up) =
        (&service.name, &upstream.name, upstream.prober.verdict().state == health::State::Up);
    let mut warnings = Vec::new();
    match said {
        Some(What::Drained) => {
            if !service.takes_without(place) {
                warnings.push(format!(
                    "nobody else of `{of}` takes requests now: they are held, then answered 503, until `{name}` is \
                     undrained or another one is up"
                ));
            }
            if service.writer == Some(place) {
                warnings.push(format!(
                    "`{name}` is the writer: pushes are held, then answered 503, until it is undrained"
                ));
            } else if service.logs == Some(place) {
                warnings.push(format!("`{name}` collects the logs: they are refused until it is undrained"));
            }
        }
        Some(What::Weight(_)) if upstream.ordered.is_drained() => {
            warnings.push(format!("`{name}` is drained: the weight counts once it is undrained"));
        }
        None if !up => {
            warnings.push(format!("`{name}` takes nothing yet: {}", upstream.prober.verdict().evidence))
        }
        _ => {}
    }
    warnings
}
