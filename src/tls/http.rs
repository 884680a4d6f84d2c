//! HTTP clients: plain ones, and those that speak inside TLS, with the files as they are at that moment.

use std::{
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::{
    Client, ClientBuilder, Error,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage};

use super::{Upstream, untrusting};

/// What every client of ours has, besides what it is made for.
type Build = dyn Fn() -> ClientBuilder + Send + Sync;

/// A client, of one upstream or of any server.
pub struct Http {
    build: Box<Build>,
    secured: Option<Secured>,
    current: Mutex<(Option<Arc<ClientConfig>>, Client)>,
}

#[derive(Debug)]
struct Secured {
    tls: Upstream,
    /// The one upstream that it is for.
    only: Option<(String, u16)>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("secured", &self.secured).finish_non_exhaustive()
    }
}

impl Http {
    /// Of the upstream at this host and port; `build` is what the client is to be like.
    pub fn new(
        (host, port): (&str, u16),
        tls: Option<Upstream>,
        build: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Self::of(tls.map(|tls| Secured { tls, only: Some((host.to_owned(), port)) }), build)
    }

    /// Of any server, which is asked by its own address: plainly, or inside TLS as the address says. Without `tls` nobody is
    /// trusted there.
    pub fn any(
        tls: Option<Upstream>,
        build: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        Self::of(tls.map(|tls| Secured { tls, only: None }), build)
    }

    fn of(
        secured: Option<Secured>,
        build: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let config = secured.as_ref().map(|secured| secured.tls.config());
        let client = made(&build, secured.as_ref(), config.as_deref())?;
        Ok(Self { build: Box::new(build), secured, current: Mutex::new((config, client)) })
    }

    /// The client; another one after the files have changed.
    pub fn client(&self) -> Client {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secured) = &self.secured {
            let config = secured.tls.config();
            if !current.0.as_ref().is_some_and(|known| Arc::ptr_eq(known, &config)) {
                match made(&self.build, Some(secured), Some(&config)) {
                    Ok(client) => *current = (Some(config), client),
                    // One was made of such a config before; it is in use until the next call finds otherwise.
                    Err(error) => tracing::error!(%error, "no client could be made with the new files"),
                }
            }
        }
        current.1.clone()
    }
}

fn made(
    build: &dyn Fn() -> ClientBuilder,
    secured: Option<&Secured>,
    config: Option<&ClientConfig>,
) -> Result<Client, Error> {
    let (Some(secured), Some(config)) = (secured, config) else {
        return build().tls_backend_preconfigured(untrusting()).build();
    };
    let builder = build().tls_backend_preconfigured(config.clone());
    let Some((host, port)) = &secured.only else { return builder.build() };
    // Asked for by the name in the certificate, it is found at its address.
    let at = At { host: host.clone(), port: *port };
    builder.https_only(true).dns_resolver(Arc::new(at)).build()
}

/// Why a call failed, if that is for TLS: what is wrong and what would be right. Then nothing was asked of the server: one
/// of both sides did not take the other for whom it should be.
pub fn distrust(error: &Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(one) = cause {
        if let Some(found) = one.downcast_ref::<rustls::Error>() {
            return in_words(found, error.is_connect());
        }
        // The system's error names as its source that of what it holds, and not that itself.
        cause = match one.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(held) => Some(held),
            None => one.source(),
        };
    }
    None
}

fn in_words(error: &rustls::Error, connecting: bool) -> Option<String> {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    use rustls::Error::{AlertReceived, InvalidCertificate};
    let words = match error {
        InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate is from no authority that is trusted here; name the certificate of its authority as `ca`".into()
        }
        InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired; renew it there, and see that the clocks of both sides are right".into()
        }
        InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "its certificate is not yet valid; see that the clocks of both sides are right".into()
        }
        InvalidCertificate(Bad::NotValidForName) => {
            "its certificate is for another name; ask it by a name that the certificate is for, or give that as `server_name`"
                .into()
        }
        InvalidCertificate(Bad::NotValidForNameContext { expected, presented }) => format!(
            "its certificate is not for `{}` but for {}; ask it by a name that the certificate is for, or give that as \
             `server_name`",
            expected.to_str(),
            names(presented)
        ),
        InvalidCertificate(bad) => format!("its certificate is not good ({bad})"),
        AlertReceived(Alert::CertificateRequired) => {
            "it wants a certificate, and none was shown; name one, with its key, as `cert` and `key`".into()
        }
        AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied),
        ) => format!("it refused the certificate that was shown to it, or that none was shown ({alert:?})"),
        // Later it says nothing of what was asked before.
        _ if !connecting => return None,
        AlertReceived(alert) => format!("it ended the handshake ({alert:?})"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS there; write `http://` if it is to be asked plainly".into()
        }
        rustls::Error::PeerIncompatible(why) => format!("both sides have nothing in common ({why:?})"),
        _ => return None,
    };
    Some(words)
}

/// At most some of them: a certificate may be for many.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 5;
    let plain = |name: &String| match name.split_once('(') {
        Some((_, rest)) => rest.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    };
    let shown: Vec<String> = presented.iter().take(SHOWN).map(|name| format!("`{}`", plain(name))).collect();
    match (shown.as_slice(), presented.len() > SHOWN) {
        ([], _) => "no name at all".into(),
        (_, true) => format!("{} and others", shown.join(", ")),
        (_, false) => shown.join(", "),
    }
}

/// Where the upstream is, whatever it is called.
#[derive(Debug)]
struct At {
    host: String,
    port: u16,
}

impl Resolve for At {
    fn resolve(&self, _: Name) -> Resolving {
        let (host, port) = (self.host.clone(), self.port);
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
