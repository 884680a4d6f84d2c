//! Where a request would go if it came now, and why: it goes through the same steps as one that comes, up to where
//! something would be sent, and leaves no trace. No turn is taken, no rate and no retry counted, no trial begun, no place
//! in a line had.

mod rules;
mod choice;
mod course;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    admit,
    answer::Answer,
    ctx::{Arrival, Ctx},
    engine,
    guard::{
        Refusal,
        head::{self, HeadLimits},
        path,
    },
    identify::Secured,
    lane::Lane,
    limit::{self, Takes},
    snapshot::{Held, Snapshot},
};
use crate::{
    clock,
    config::proxy::Listener,
    health::Access,
    wire::explain::{Ask, Explained, Refused, Request, Way},
};

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// It would be two lines of a head.
    #[error("`{0}` has a line end in it")]
    LineEnd(&'static str),
    /// Without it there is no request.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// Not an IP address.
    #[error("`client` is `{0}`, which is no IP address")]
    Client(String),
    /// No such listener.
    #[error("there is no listener `{name}`; there is {}", .known.join(", "))]
    Listener {
        /// As it was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
}

/// What would become of a request.
pub(super) fn explain(snapshot: &Arc<Snapshot>, ask: &Ask) -> Result<Explained, Wrong> {
    let parts = [("method", &ask.method), ("path", &ask.path)];
    if let Some((part, _)) = parts.iter().find(|(_, text)| text.is_empty()) {
        return Err(Wrong::Empty(part));
    }
    let lines = parts.into_iter().chain(ask.headers.iter().map(|line| ("headers", line)));
    if let Some((part, _)) = lines.into_iter().find(|(_, text)| text.contains(['\r', '\n'])) {
        return Err(Wrong::LineEnd(part));
    }
    let client = ask.client.as_deref().map(|text| text.parse().map_err(|_| Wrong::Client(text.into())));
    let client: IpAddr = client.transpose()?.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let wanted = |listener: &Listener| ask.listener.as_ref().is_none_or(|name| *name == listener.name);
    let listeners = || snapshot.listeners.iter().enumerate().filter(|(_, listener)| wanted(listener));
    if listeners().next().is_none() {
        let known = snapshot.listeners.iter().map(|listener| format!("`{}`", listener.name)).collect();
        return Err(Wrong::Listener { name: ask.listener.clone().unwrap_or_default(), known });
    }
    let mut ways: Vec<Way> =
        listeners().map(|(place, listener)| way(snapshot, place, listener, client, ask)).collect();
    // Those without a route say nothing, unless all are without one.
    let lost = |way: &Way| way.refused.as_ref().is_some_and(|refused| refused.code == Answer::NoRoute.code());
    let mut without_route = Vec::new();
    if !ways.iter().all(lost) {
        without_route = ways.iter().filter(|way| lost(way)).map(|way| way.listener.clone()).collect();
        ways.retain(|way| !lost(way));
    }
    Ok(Explained { ways, without_route })
}

/// Its way at the listener of this place.
fn way(snapshot: &Arc<Snapshot>, place: usize, listener: &Listener, client: IpAddr, ask: &Ask) -> Way {
    let mut way =
        Way { listener: listener.name.clone(), client: client.to_canonical().to_string(), ..Way::default() };
    let text = text(listener, ask);
    let limits = HeadLimits { bytes: snapshot.limits.header_bytes, fields: snapshot.limits.headers };
    let checked = enters(snapshot, place, listener, client).map_err(Answer::Turned).and_then(|()| {
        let whole = head::scan(text.as_bytes(), 0, limits);
        whole.and_then(|_| head::check(text.as_bytes(), limits)).map_err(Answer::Refused)
    });
    let framing = match checked {
        Ok(framing) => framing,
        Err(answer) => return Way { refused: Some(refused(&answer)), ..way },
    };
    let peer = SocketAddr::new(client, 0);
    let arrival = Arrival {
        snapshot: Held::of(snapshot.clone()),
        listener: place,
        peer,
        unnamed: false,
        secured: listener
            .tls
            .is_some()
            .then(|| Arc::new(Secured { version: "TLSv1.3", resumed: false, peer: None })),
        started: clock::now(),
        chance: rand::random(),
        takes: Takes::None,
    };
    let admitted = engine::parsed(text.as_bytes(), framing, false, &way.client, |head| {
        let (ctx, admitted) = admit(arrival, head);
        (rules::of(&ctx, listener, head.host()), ctx, admitted.map(drop))
    });
    let Some((rules, ctx, admitted)) = admitted else {
        return Way { refused: Some(refused(&Answer::Refused(Refusal::BadRequestLine))), ..way };
    };
    (way.client, way.trusted) = (ctx.client.ip.to_string(), ctx.client.trusted);
    let ambiguous = matches!(admitted, Err(Answer::Refused(Refusal::AmbiguousPath(_))));
    if !ambiguous {
        way.path = Some(ctx.path.to_string());
        way.rules = rules;
    }
    way.request = request(&ctx);
    match admitted {
        Ok(()) => (way.choice, way.course) = choice::of(ctx),
        Err(answer) => way.refused = Some(refused(&answer)),
    }
    way
}

/// Whether its connection would be let in.
fn enters(
    snapshot: &Snapshot,
    place: usize,
    listener: &Listener,
    client: IpAddr,
) -> Result<(), limit::Turned> {
    // Who speaks for others is no client.
    let speaks = listener.trusted.iter().any(|network| network.contains(client));
    limit::look(snapshot, place, Some(client).filter(|_| !speaks))
}

/// The head of the request. Who names no host has come by the address.
fn text(listener: &Listener, ask: &Ask) -> String {
    let mut text = format!("{} {} HTTP/1.1\r\n", ask.method, ask.path);
    let names_host =
        |line: &String| line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !ask.headers.iter().any(names_host) {
        let address = || listener.bind.first().map(ToString::to_string).unwrap_or_default();
        let host = path::authority(&ask.path).map_or_else(address, str::to_owned);
        text.push_str(&format!("Host: {host}\r\n"));
    }
    for line in &ask.headers {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

fn refused(answer: &Answer) -> Refused {
    Refused {
        status: answer.status(),
        code: answer.code().into(),
        error: answer.to_string(),
        next: answer.next().into(),
    }
}

/// What it is, if it was routed.
fn request(ctx: &Ctx) -> Option<Request> {
    let (service, route) = (ctx.service()?, ctx.route);
    Some(Request {
        service: service.name.to_string(),
        kind: service.kind.as_str().into(),
        class: route.class.as_str().into(),
        access: match route.access {
            Access::Read => "read".into(),
            Access::Write => "write".into(),
        },
        pace: route.pace.as_str().into(),
        lane: Lane::of(route).as_str().into(),
        repeatable: route.repeatable,
        creates: route.creates,
        to_writer: route.to_writer,
        needs: route.needs.as_str().into(),
        repository: ctx.repository.as_ref().map(ToString::to_string),
        session: ctx.session.as_deref().map(str::to_owned),
        max_body: Some(ctx.body_cap()).filter(|cap| *cap < u64::MAX),
    })
}
