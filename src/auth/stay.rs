//! Who came in a while ago and is still here: for what goes on long after it was asked for, as a watch does. A key that was
//! deleted or a certificate that was revoked ends that too.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::{Auth, Who, certificates, keys::ApiKey};
use crate::{clock, http::Peer, wire::headers};

/// The credential of a request, kept to be looked at again. Cheap to clone.
#[derive(Clone)]
pub struct Stay {
    auth: Auth,
    kept: Kept,
}

#[derive(Clone)]
enum Kept {
    /// Nothing of it can end before the server does.
    Ever(Who),
    /// The end of a session cuts nothing that runs; the end of its key does.
    Key(Arc<ApiKey>),
    Certificate {
        fields: HeaderMap,
        peer: Option<Peer>,
        signed: bool,
    },
}

/// What of a request tells whose certificate it came with.
const TELLING: [&str; 5] =
    ["x-forwarded-for", "forwarded", "via", headers::CLIENT_VERIFY, headers::CLIENT_CERT];

impl Auth {
    /// What `who` came in with.
    pub(super) fn stay(&self, who: &Who, fields: &HeaderMap, peer: Option<&Peer>, signed: bool) -> Stay {
        let kept = match who {
            Who::Anybody | Who::Root => Kept::Ever(who.clone()),
            Who::Key(key) => Kept::Key(key.clone()),
            Who::Certificate(_) => {
                let mut telling = HeaderMap::new();
                for name in TELLING {
                    for value in fields.get_all(name) {
                        telling.append(name, value.clone());
                    }
                }
                Kept::Certificate { fields: telling, peer: peer.cloned(), signed }
            }
        };
        Stay { auth: self.clone(), kept }
    }
}

impl Stay {
    /// Whose it is now, if it is good; groups may be others than they were. While nobody can say, it is as it was.
    pub async fn who(&self) -> Option<Who> {
        match &self.kept {
            Kept::Ever(who) => Some(who.clone()),
            Kept::Key(key) => {
                let sessions = self.auth.sessions()?;
                let is_it = |found: &Arc<ApiKey>| found.generation == key.generation;
                match sessions.current(&key.id, is_it).await {
                    Ok(found) => found.filter(|found| !found.is_expired(clock::wall())).map(Who::Key),
                    Err(_) => Some(Who::Key(key.clone())),
                }
            }
            Kept::Certificate { fields, peer, signed } => {
                certificates::who(self.auth.0.certificates.as_ref(), fields, peer.as_ref(), *signed).ok()
            }
        }
    }
}
