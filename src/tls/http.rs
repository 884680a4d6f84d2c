//! HTTP clients that speak to one upstream: plainly, or inside its TLS, with the files as they are at that moment.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{
    Client, ClientBuilder, Error,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustls::ClientConfig;

use super::{Upstream, untrusting};

/// What every client of ours has, besides what it is made for.
type Build = dyn Fn() -> ClientBuilder + Send + Sync;

/// A client of one upstream.
pub struct Http {
    build: Box<Build>,
    secured: Option<Secured>,
    current: Mutex<(Option<Arc<ClientConfig>>, Client)>,
}

#[derive(Debug)]
struct Secured {
    tls: Upstream,
    host: String,
    port: u16,
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
        let secured = tls.map(|tls| Secured { tls, host: host.to_owned(), port });
        let config = secured.as_ref().map(|secured| secured.tls.config());
        let client = made(&build, secured.as_ref(), config.as_deref())?;
        Ok(Self { build: Box::new(build), secured, current: Mutex::new((config, client)) })
    }

    /// A plain one, of any server.
    pub fn plain(build: impl Fn() -> ClientBuilder + Send + Sync + 'static) -> Result<Self, Error> {
        let client = made(&build, None, None)?;
        Ok(Self { build: Box::new(build), secured: None, current: Mutex::new((None, client)) })
    }

    /// The client; another one after the files have changed.
    pub fn client(&self) -> Result<Client, Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(secured) = &self.secured {
            let config = secured.tls.config();
            if !current.0.as_ref().is_some_and(|known| Arc::ptr_eq(known, &config)) {
                let client = made(&self.build, Some(secured), Some(&config))?;
                *current = (Some(config), client);
            }
        }
        Ok(current.1.clone())
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
    // Asked for by the name in the certificate, it is found at its address.
    let at = At { host: secured.host.clone(), port: secured.port };
    build().tls_backend_preconfigured(config.clone()).https_only(true).dns_resolver(Arc::new(at)).build()
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
