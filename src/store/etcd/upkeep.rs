//! What is asked of one member each: how it stands, and to make its file anew.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Endpoint, EtcdStore};
use crate::store::{Consistency, Said, Standing, StoreError, standing::alarms};

/// How long a member may take to make its file anew: it copies what is in use, some hundred MB a second.
const DEFRAGMENT: Duration = Duration::from_secs(600);

impl EtcdStore {
    /// Every member, at the same time.
    pub(super) async fn standings(&self) -> Vec<Standing> {
        join_all(self.endpoints.iter().map(|endpoint| self.standing(endpoint))).await
    }

    async fn standing(&self, endpoint: &Endpoint) -> Standing {
        let asked = endpoint.door(Consistency::Serializable).ask(|client| {
            let mut maintenance = client.maintenance_client();
            Box::pin(async move { maintenance.status().await })
        });
        let said = match tokio::time::timeout(self.request_timeout, asked).await {
            Ok(Ok(status)) => {
                let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
                Ok(Said {
                    id: status.header().map_or(0, etcd_client::ResponseHeader::member_id),
                    leader: Some(status.leader()).filter(|leader| *leader != 0),
                    learner: status.is_learner(),
                    version: status.version().to_owned(),
                    size: bytes(status.db_size()),
                    used: bytes(status.raft_used_db_size()),
                    quota: Some(bytes(status.db_size_quota())).filter(|quota| *quota > 0),
                    alarms: alarms(status.errors()),
                })
            }
            Ok(Err(error)) => Err(super::ask::text(&error)),
            Err(_) => Err(format!("no answer within {:?}", self.request_timeout)),
        };
        Standing { member: endpoint.url.clone(), said }
    }

    /// While it does, the member answers nothing.
    pub(super) async fn make_anew(&self, member: &str) -> Result<(), StoreError> {
        let Some(place) = self.endpoints.iter().position(|endpoint| endpoint.url == member) else {
            return Err(StoreError::Refused { why: format!("`{member}` is no member") });
        };
        let asked = self.endpoints[place].door(Consistency::Serializable).ask(|client| {
            let mut maintenance = client.maintenance_client();
            Box::pin(async move { maintenance.defragment().await })
        });
        match tokio::time::timeout(DEFRAGMENT, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.meaning(place, &error, 0)),
            Err(_) => Err(StoreError::Unknown { why: self.at(place, "no answer to defragmentation") }),
        }
    }
}
