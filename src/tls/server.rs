//! A listener's side of TLS. Certificates, keys, versions, suites, authorities and lists are one thing that is swapped
//! whole: a handshake begins and ends under the same.

use std::sync::Arc;

use rustls::{
    CommonState, ServerConfig,
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, UnbufferedServerConnection},
};

use super::{
    ClientAuth, Denied, Least, Part, Peer, Problem, ServerSetting,
    client::{self, Judge},
    files::Reader,
    kept::{Kept, Made},
    names::ByName,
    protocols, provider,
    tickets::{TicketKey, Tickets},
};
use crate::{clock, model::Timestamp};

/// Tickets that a client gets for its next connection. Ours hold one connection open rather than several.
const TICKETS: usize = 1;

/// What a listener needs for handshakes. Cheap to clone; what one clone learns from new files, all have.
#[derive(Debug, Clone)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    setting: ServerSetting,
    kept: Kept<Loaded>,
    /// Keys of session tickets, new ones every six hours; they outlive new files, so that these cost no client a full
    /// handshake.
    tickets: Arc<Tickets>,
}

#[derive(Debug, Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    judge: Option<Arc<Judge>>,
    facts: Facts,
    certificates: Arc<[Certificate]>,
}

/// What is told of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Names that it is for.
    pub names: Vec<String>,
    /// It is good until then.
    pub until: Timestamp,
}

/// What is told of the files in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The first of the certificates to end.
    pub certificate_until: Timestamp,
    /// When the first of the revocation lists is too old to be believed.
    pub list_until: Option<Timestamp>,
}

/// By what the config says; not by what is in the files.
impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.0.setting == other.0.setting
    }
}

impl Eq for Server {}

impl Server {
    /// Reads and checks every file. Errors hold all that is wrong.
    pub fn load(setting: ServerSetting) -> Result<Self, Vec<Problem>> {
        let tickets = Tickets::new().map(Arc::new).map_err(|error| {
            let what = format!("cannot be used: the system gave no random numbers ({error})");
            vec![Problem { part: Part::Whole, name: "tls".into(), what, right: "try again".into() }]
        })?;
        let kept = Kept::new(load(&setting, &tickets)?);
        Ok(Self(Arc::new(Inner { setting, kept, tickets })))
    }

    /// What the config says.
    pub fn setting(&self) -> &ServerSetting {
        &self.0.setting
    }

    /// What is told of the files in use.
    pub fn facts(&self) -> Facts {
        self.0.kept.now().it.facts
    }

    /// The certificates in use, in the order of the config's.
    pub fn certificates(&self) -> Arc<[Certificate]> {
        self.0.kept.now().it.certificates.clone()
    }

    /// Looks at the files again; whether there was something new, which new handshakes take. Blocks while it reads.
    ///
    /// Errors leave everything as it was.
    pub fn refresh(&self) -> Result<bool, Vec<Problem>> {
        let Inner { setting, kept, tickets } = &*self.0;
        kept.refresh(&setting.files(), || load(setting, tickets))
    }

    /// What the last look at the files has found wrong: those before them are in use.
    pub fn trouble(&self) -> Vec<Problem> {
        self.0.kept.trouble().clone()
    }

    /// The one to go on with after a reload: `before` with what was read now, if the config says the same, so that
    /// clients can still resume.
    pub fn after(self, before: Option<&Self>) -> Self {
        let Some(before) = before.filter(|before| **before == self) else { return self };
        before.0.kept.take(&self.0.kept, |read| {
            let mut config = ServerConfig::clone(&read.config);
            config.ticketer = before.0.tickets.clone();
            Loaded { config: Arc::new(config), ..read }
        });
        before.clone()
    }

    /// The keys of its session tickets. Secret: for a successor, and nobody else.
    pub fn ticket_keys(&self) -> Vec<TicketKey> {
        self.0.tickets.keys()
    }

    /// Goes on with those of a predecessor.
    pub fn take_ticket_keys(&self, keys: &[TicketKey]) {
        self.0.tickets.take(keys);
    }

    #[cfg(test)]
    pub(super) fn config_for_tests(&self) -> Arc<ServerConfig> {
        self.0.kept.now().it.config.clone()
    }

    #[cfg(test)]
    pub(super) fn digest_for_tests(&self) -> super::files::Digest {
        self.0.kept.now().of
    }

    #[cfg(test)]
    pub(super) fn judge_for_tests(&self) -> Option<Arc<Judge>> {
        self.0.kept.now().it.judge.clone()
    }

    /// What a handshake needs, and who says who the client is once it is over.
    pub(super) fn parts(&self) -> (Arc<ServerConfig>, Asks) {
        let Loaded { config, judge, .. } = &self.0.kept.now().it;
        (config.clone(), Asks(judge.clone()))
    }

    /// Whether a client's certificate is good now. Not, if none are asked for.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(), Denied> {
        let judge = self.0.kept.now().it.judge.clone();
        match (judge, chain.split_first()) {
            (Some(judge), Some((leaf, rest))) => judge.verify(leaf, rest, now()),
            _ => Err(Denied::Missing),
        }
    }

    /// Begins a handshake: its state, and who says who the client is once it is over.
    pub fn accept(&self) -> Result<(UnbufferedServerConnection, Asks), rustls::Error> {
        let (config, asks) = self.parts();
        Ok((UnbufferedServerConnection::new(config)?, asks))
    }
}

/// Says who a client is.
#[derive(Debug)]
pub struct Asks(Option<Arc<Judge>>);

impl Asks {
    /// Who it is whose handshake is over; `None` if clients are not asked. An error: it may not go on.
    pub fn peer(&self, state: &CommonState) -> Result<Option<Peer>, Denied> {
        let Some(judge) = &self.0 else { return Ok(None) };
        let resumed = state.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        judge.peer(state.peer_certificates(), resumed, now()).map(Some)
    }
}

fn now() -> UnixTime {
    let seconds = u64::try_from(clock::wall().unix_seconds()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn load(setting: &ServerSetting, tickets: &Arc<Tickets>) -> Result<Made<Loaded>, Vec<Problem>> {
    let provider = provider(&setting.suites);
    let (mut files, mut problems) = (Reader::default(), Vec::new());
    let mut pairs = Vec::with_capacity(setting.pairs.len());
    let mut certificates = Vec::with_capacity(setting.pairs.len());
    for (place, pair) in setting.pairs.iter().enumerate() {
        match files.pair(pair, place, &provider) {
            Ok(read) => {
                certificates.push(Certificate { names: read.names.clone(), until: read.until });
                pairs.push((read.key, read.names));
            }
            Err(mut wrong) => problems.append(&mut wrong),
        }
    }
    let (mut judge, mut list_until) = (None, None);
    if let Some(trust) = setting.client_auth.trust() {
        match client::verifier(&mut files, trust, provider.clone()) {
            Ok((verifier, until)) => {
                let required = matches!(setting.client_auth, ClientAuth::Required(_));
                judge = Some(Arc::new(Judge::new(verifier, required)));
                list_until = until;
            }
            Err(wrong) => problems.push(wrong),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let versions: &[&rustls::SupportedProtocolVersion] = match setting.least {
        _ if setting.suites.is_empty() && setting.least == Least::Tls12 => rustls::ALL_VERSIONS,
        Least::Tls13 => &[&rustls::version::TLS13],
        // A version without a suite would only keep clients from the other.
        Least::Tls12 if setting.suites.iter().all(|suite| suite.is_of_13()) => &[&rustls::version::TLS13],
        Least::Tls12 if setting.suites.iter().any(|suite| suite.is_of_13()) => rustls::ALL_VERSIONS,
        Least::Tls12 => &[&rustls::version::TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.map_err(|error| {
        let right = "name a suite of each version that is to be spoken".to_owned();
        let what = format!("leaves nothing to speak ({error})");
        vec![Problem { part: Part::Whole, name: "suites".into(), what, right }]
    })?;
    let builder = match &judge {
        Some(judge) => builder.with_client_cert_verifier(judge.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName::new(pairs)));
    config.alpn_protocols = protocols(setting.http2);
    config.ticketer = tickets.clone();
    config.send_tls13_tickets = TICKETS;
    // Tickets hold all that a session needs: nothing is kept here, and nothing shared between threads is locked.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Who names suites names them in the order that is wanted.
    config.ignore_client_order = !setting.suites.is_empty();
    let certificate_until = certificates.iter().map(|one| one.until).min().unwrap_or(Timestamp::NEVER);
    let facts = Facts { certificate_until, list_until };
    let loaded = Loaded { config: Arc::new(config), judge, facts, certificates: certificates.into() };
    Ok(Made { of: files.digest(), it: loaded })
}
