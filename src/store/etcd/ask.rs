//! Asking members: one after the other, or several when one is slow, within the request timeout.

use std::{collections::VecDeque, error::Error as _, future::Future, pin::Pin, time::Duration};

use etcd_client::{Client, Error};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::Rng;

use super::{
    EtcdStore,
    grpc::{self, Failure},
};
use crate::{
    clock,
    store::{Consistency, Revision, StoreError},
};

/// Pause before all members are tried again, when none could be asked.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

pub(super) type Call<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

impl EtcdStore {
    /// How long one member may take before the next one is asked as well.
    pub(super) fn slow(&self) -> Duration {
        self.request_timeout / 2 / u32::try_from(self.members.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn late(&self) -> StoreError {
        StoreError::Unknown { why: self.no_answer() }
    }

    fn no_answer(&self) -> String {
        format!("no answer within {:?}", self.request_timeout)
    }

    /// Asks members until one has answered, for something that may be done twice.
    ///
    /// So the answer is never "unknown": what has no answer counts as unavailable.
    pub(super) async fn repeatable<T: Send>(
        &self,
        consistency: Consistency,
        asked: Revision,
        call: impl Fn(&Client) -> Call<T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let deadline = clock::now() + self.request_timeout;
        let mut last = self.late();
        let mut running = FuturesUnordered::new();
        let mut order: VecDeque<usize> = self.members.order().collect();
        // Completes the slow wait of the member that was asked last.
        let mut next_at = clock::now();
        loop {
            if running.is_empty() || clock::now() >= next_at {
                if let Some(member) = order.pop_front() {
                    let (door, call) = (self.endpoints[member].door(consistency), &call);
                    running.push(async move { (member, door.ask(call).await) });
                    next_at = clock::now() + self.slow();
                } else if running.is_empty() {
                    let again = clock::now() + round_pause();
                    if !self.members.all_failed(clock::now(), self.request_timeout) || again >= deadline {
                        return Err(passing(last));
                    }
                    tokio::time::sleep_until(again).await;
                    order = self.members.order().collect();
                    continue;
                }
            }
            let wake = if order.is_empty() { deadline } else { next_at.min(deadline) };
            match tokio::time::timeout_at(wake, running.next()).await {
                Ok(Some((_, Ok(answer)))) => {
                    // One member alone may answer a serializable read; that is no sign of a working store.
                    if consistency == Consistency::Linearizable {
                        self.members.answered();
                    }
                    return Ok(answer);
                }
                Ok(Some((member, Err(error)))) => {
                    last = self.meaning(member, &error, asked);
                    // A member that is behind does not know the revision yet: another one may.
                    let behind = grpc::is_future(&last) && !(running.is_empty() && order.is_empty());
                    if !last.may_pass() && !behind {
                        self.members.answered();
                        return Err(last);
                    }
                    self.members.avoid(member);
                    if behind {
                        next_at = clock::now();
                    }
                }
                Ok(None) => {}
                Err(_) if clock::now() >= deadline => return Err(passing(last)),
                Err(_) => self.avoid_asked(&order),
            }
        }
    }

    /// The member that was asked last is slow; `rest` are those not asked in this round.
    fn avoid_asked(&self, rest: &VecDeque<usize>) {
        if let Some(next) = rest.front() {
            self.members.avoid((next + self.members.count() - 1) % self.members.count());
        }
    }

    /// Asks members until one may have done it, for something that must not be done twice.
    pub(super) async fn once<T: Send>(
        &self,
        call: impl Fn(&Client) -> Call<T> + Send + Sync,
    ) -> Result<T, StoreError> {
        let deadline = clock::now() + self.request_timeout;
        // What the last member that was asked to the end has said.
        let mut said = None;
        loop {
            let mut last = self.late();
            for member in self.members.order() {
                let door = self.endpoints[member].door(Consistency::Linearizable);
                let mut running = Box::pin(door.ask(&call));
                let slow = (clock::now() + self.slow()).min(deadline);
                let mut answer = tokio::time::timeout_at(slow, &mut running).await;
                if answer.is_err() {
                    // Whoever comes next need not wait as long.
                    self.members.avoid(member);
                    answer = tokio::time::timeout_at(deadline, &mut running).await;
                }
                last = match answer {
                    Ok(Ok(answer)) => {
                        self.members.answered();
                        return Ok(answer);
                    }
                    Ok(Err(error)) => self.meaning(member, &error, 0),
                    Err(_) => match said {
                        None => self.late(),
                        Some(said) => {
                            StoreError::Unknown { why: format!("{}; before that: {said}", self.no_answer()) }
                        }
                    },
                };
                match &last {
                    StoreError::Unavailable { why } => {
                        said = Some(why.clone());
                        self.members.avoid(member);
                    }
                    StoreError::Unknown { .. } => {
                        self.members.avoid(member);
                        return Err(last);
                    }
                    _ => {
                        self.members.answered();
                        return Err(last);
                    }
                }
            }
            let again = clock::now() + round_pause();
            if !self.members.all_failed(clock::now(), self.request_timeout) || again >= deadline {
                return Err(last);
            }
            tokio::time::sleep_until(again).await;
        }
    }

    pub(super) fn meaning(&self, member: usize, error: &Error, asked: Revision) -> StoreError {
        match meaning(error, asked) {
            StoreError::Unavailable { why } => StoreError::Unavailable { why: self.at(member, &why) },
            StoreError::Unknown { why } => StoreError::Unknown { why: self.at(member, &why) },
            settled => settled,
        }
    }

    pub(super) fn at(&self, member: usize, why: &str) -> String {
        format!("etcd {}: {why}", self.endpoints[member].url)
    }
}

/// Half to one and a half of it, so that waiting callers do not come back all at once.
pub(super) fn round_pause() -> Duration {
    ROUND_PAUSE.mul_f64(rand::rng().random_range(0.5..1.5))
}

/// What repeating may help, said of something that is harmless if it was done.
pub(super) fn passing(error: StoreError) -> StoreError {
    match error {
        StoreError::Unknown { why } => StoreError::Unavailable { why },
        other => other,
    }
}

fn meaning(error: &Error, asked: Revision) -> StoreError {
    match error {
        Error::GRpcStatus(status) => {
            let why = not_sent(status);
            let message = why.as_deref().unwrap_or_else(|| status.message());
            let failure = Failure { code: i32::from(status.code()), message, never_sent: why.is_some() };
            grpc::meaning(failure, asked)
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) => StoreError::Refused { why: error.to_string() },
        _ => StoreError::Unknown { why: error.to_string() },
    }
}

/// Why no connection could be made, if that is what failed: the innermost cause says most, like "connection refused" or
/// "certificate expired".
fn not_sent(status: &tonic::Status) -> Option<String> {
    let mut source = status.source();
    let (mut never_sent, mut deepest) = (false, None);
    while let Some(error) = source {
        never_sent |= error.is::<tonic::ConnectError>();
        source = error.source();
        deepest = Some(error);
    }
    deepest.filter(|_| never_sent).map(ToString::to_string)
}

/// In words.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => not_sent(status).unwrap_or_else(|| status.message().to_owned()),
        other => other.to_string(),
    }
}
