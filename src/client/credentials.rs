//! How other servers of the cloud are spoken to: whom to trust there, and what they are shown.

use std::{sync::Arc, time::Duration};

use super::{Login, failover::builder};
use crate::tls::{Http, Upstream};

/// What every client of one role has. Nobody is trusted and nothing is shown by default: that is enough for servers that
/// speak plain HTTP and ask nobody who calls. Cheap to clone; clones share sessions, and what was read of files.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    pub(super) login: Login,
    tls: Option<Upstream>,
}

impl Credentials {
    /// Shows who it is, and speaks TLS by these files to whoever is asked by `https://`.
    pub fn new(login: Login, tls: Option<Upstream>) -> Self {
        Self { login, tls }
    }

    /// The files, if there are some.
    pub fn tls(&self) -> Option<&Upstream> {
        self.tls.as_ref()
    }

    /// A client of any server that is asked like this, whose connecting is bounded.
    pub(super) fn http(&self, connect: Duration) -> Result<Arc<Http>, reqwest::Error> {
        self.built(move || builder(connect))
    }

    /// The same, with other manners.
    pub(super) fn built(
        &self,
        build: impl Fn() -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Result<Arc<Http>, reqwest::Error> {
        Http::any(self.tls.clone(), build).map(Arc::new)
    }
}

impl From<Login> for Credentials {
    fn from(login: Login) -> Self {
        Self { login, tls: None }
    }
}
