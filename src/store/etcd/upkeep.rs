//! What is asked of one member each: how it stands, and to make its file anew.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Endpoint, EtcdStore};
use crate::store::{Consistency, Said, Standing, StoreError, standing::alarms};

/// How long a member may take to make its file anew: it copies what is in use, some hundred MB a second.
const DEFRAGMENT: Duration = Duration::from_secs(600);

impl EtcdStore {
    /// Every member that the config names, at the same time; and those of the cluster that it does not name, of whom nobody
    /// hears how they stand.
    pub(super) async fn standings(&self) -> Vec<Standing> {
        let mut all = join_all(self.endpoints.iter().map(|endpoint| self.standing(endpoint))).await;
        // While one does not answer it may be any of those that are not heard.
        if all.iter().all(|one| one.said.is_ok()) {
            all.extend(self.unnamed(&all).await);
        }
        all
    }

    async fn unnamed(&self, named: &[Standing]) -> Vec<Standing> {
        let listed = self.repeatable(Consistency::Serializable, 0, |client| {
            let mut cluster = client.cluster_client();
            Box::pin(async move { cluster.member_list().await })
        });
        let silent = |member: String, why: &str| Standing { member, said: Err(why.to_owned()) };
        let listed = match listed.await {
            Ok(listed) => listed,
            Err(error) => return vec![silent("the list of members".into(), &error.to_string())],
        };
        let heard = |id: u64| named.iter().any(|one| one.said.as_ref().is_ok_and(|said| said.id == id));
        let unheard = listed.members().iter().filter(|member| !heard(member.id()));
        let name = |member: &etcd_client::Member| {
            let url = member.client_urls().first().map(String::as_str).unwrap_or(member.name());
            if url.is_empty() { format!("{:x}", member.id()) } else { url.to_owned() }
        };
        let why = "`[store] etcd` does not name it, so nobody hears how it stands: name all members";
        unheard.map(|member| silent(name(member), why)).collect()
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
