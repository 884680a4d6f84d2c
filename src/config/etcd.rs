//! An etcd cluster and how it is spoken to: wherever one is named.

use super::{BaseUrl, proxy::Secret};
use crate::tls::Upstream;

/// An etcd cluster: its members, and what they want to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Client URLs of its members; all of them `http://`, or all `https://`.
    pub urls: Vec<BaseUrl>,
    /// Whom to trust and what to show; there if and only if the URLs are `https://`.
    pub tls: Option<Upstream>,
    /// As whom.
    pub login: Option<Login>,
}

impl Etcd {
    /// Members that want neither TLS nor a name.
    pub fn plain(urls: Vec<BaseUrl>) -> Self {
        Self { urls, tls: None, login: None }
    }
}

/// A user of etcd's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}
