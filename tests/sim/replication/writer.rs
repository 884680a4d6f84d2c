//! How the writer makes a change: as `registry/journal/turn.rs` (`commit`, `announce`), `registry/writer/mod.rs`
//! (`Pending::acknowledged`) and `registry/repositories` do it, and what its answers say.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use switchyard::{
    model::{Digest, Position, RepositoryName, Tag},
    registry::{content::Catalogue, writer::leases::Settled},
    wire::replication::{Change, Entry, Stored},
};

use super::registry::Server;

/// What a client asks to be changed.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// A manifest, and the tag that is to point to it.
    Publish(Digest, Tag),
    Untag(Tag),
    Clear,
}

/// What came of it, as the answer to the client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Acknowledged(Position),
    Refused,
}

/// Of a hundred changes so many cannot be shown, and are taken back.
const FAULTS: f64 = 0.02;

/// A blob was pushed: it is here, and announced.
pub(super) async fn upload(server: Rc<Server>, repository: RepositoryName, blob: Digest) -> bool {
    if !server.is_writer() {
        return false;
    }
    server.step().await;
    server.world.sites[server.place].disk.borrow_mut().blobs.insert(blob);
    server.step().await;
    let _turn = server.turn().await;
    let (prev, _) = server.log().head();
    let position = prev.next();
    let blobs = vec![server.world.blob_ref(blob)];
    let entry = Entry {
        repository: Some(repository),
        digest: Some(blob),
        blobs,
        ..server.entry(prev, position, Change::Blob)
    };
    server.append(vec![entry]);
    server.step().await;
    server.advance(position, false);
    true
}

/// A change of a repository, up to its acknowledgement.
pub(super) async fn change(server: Rc<Server>, repository: RepositoryName, order: Order) -> Made {
    let Some(position) = commit(&server, &repository, order).await else { return Made::Refused };
    let appended = server.world.engine.now();
    loop {
        let seen = server.moved.version();
        let now = server.boot();
        let until = match server.leases.borrow_mut().settled(position, now) {
            Settled::Yes => break,
            Settled::Until(until) => until,
        };
        let wait = until.saturating_sub(now) + Duration::from_millis(1);
        let wait = server.world.sites[server.place].machine.real(wait);
        server.world.engine.within(wait, server.moved.past(seen)).await;
    }
    server.leases.borrow_mut().over(position);
    server.world.acknowledged(&server, &repository, position, appended);
    Made::Acknowledged(position)
}

async fn commit(server: &Rc<Server>, repository: &RepositoryName, order: Order) -> Option<Position> {
    if !server.is_writer() {
        return None;
    }
    let _turn = server.turn().await;
    server.step().await;
    let before = server.world.catalogue(server.place, repository);
    let before = before.map_or_else(|| Catalogue::new(repository.clone()), |before| (*before).clone());
    let (mut next, mut blobs, mut digest) = (before.clone(), Vec::new(), None);
    next.generation += 1;
    let kind = match order {
        Order::Publish(manifest, tag) => {
            let here = |blob: &Digest| server.world.sites[server.place].disk.borrow().blobs.contains(blob);
            if !server.world.parts(&manifest).iter().all(here) {
                return None;
            }
            server.world.sites[server.place].disk.borrow_mut().blobs.insert(manifest);
            next.add(manifest, stored());
            next.tag(tag, manifest, 1);
            digest = Some(manifest);
            blobs =
                server.world.parts(&manifest).into_iter().map(|blob| server.world.blob_ref(blob)).collect();
            blobs.push(server.world.blob_ref(manifest));
            Change::Published
        }
        Order::Untag(tag) => {
            next.untag(&tag).then_some(())?;
            Change::Untagged
        }
        Order::Clear => {
            (!next.is_empty()).then_some(())?;
            next.clear();
            Change::Cleared
        }
    };
    let (prev, _) = server.log().head();
    let position = prev.next();
    next.changed = position;
    let entry = Entry {
        repository: Some(repository.clone()),
        digest,
        blobs,
        patch: Some(next.since(&before)),
        ..server.entry(prev, position, kind)
    };
    server.append(vec![entry]);
    server.step().await;
    let newest = server.showing(position);
    server.step().await;
    if !server.world.healed.get() && server.world.engine.chance(FAULTS) {
        server.world.trace(|| format!("{} takes {position} back", server.name()));
        server.world.engine.sleep(server.world.engine.ms(0, 400)).await;
        server.shows_no_more(newest);
        server.log().take_back(position..=position).unwrap();
        return None;
    }
    server.put(next);
    server.step().await;
    server.leases.borrow_mut().appended(position, server.boot());
    server.step().await;
    server.advance(position, true);
    server.world.trace(|| format!("{} shows {position} of {repository}", server.name()));
    Some(position)
}

fn stored() -> Stored {
    Stored { media_type: "m".into(), size: 1, subject: None, children: Vec::new(), pushed: 1 }
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// `GET tags/list`: stands for all that is said of one repository.
    Tags(RepositoryName),
    /// `GET manifests/TAG`.
    Manifest(RepositoryName, Tag),
    /// `GET blobs/DIGEST`.
    Blob(RepositoryName, Digest),
    /// The list of all, with what each has.
    All,
}

/// What an answer shows.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    Tags(Rc<Catalogue>),
    Manifest(Digest),
    Blob,
    All(BTreeMap<RepositoryName, Rc<Catalogue>>),
}

/// A registry's answer: status, headers, body.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) position: Option<Position>,
    pub(super) changed: Option<Position>,
    pub(super) shown: Option<Shown>,
}

/// A read: as `registry/position.rs` stamps and `registry/repositories` answers it.
pub(super) async fn read(server: Rc<Server>, question: Question) -> Answer {
    // Taken before anything is read: what is read then is not older.
    let before = server.at();
    server.step().await;
    let answer = |status, changed, shown| Answer { status, position: before.claimed(), changed, shown };
    if before.claim.unknown().or(server.at().claim.unknown()).is_some()
        && !matches!(question, Question::Blob(..))
    {
        return answer(503, None, None);
    }
    let any = |of: &RepositoryName| server.world.catalogue(server.place, of);
    let catalogue = |of: &RepositoryName| any(of).filter(|it| !it.is_empty());
    let gone = |of: &RepositoryName| any(of).map(|it| it.changed);
    let complete = |catalogue: &Catalogue| server.world.complete(&server, catalogue);
    match question {
        Question::Tags(repository) => match catalogue(&repository) {
            Some(catalogue) => {
                complete(&catalogue);
                answer(200, Some(catalogue.changed), Some(Shown::Tags(catalogue)))
            }
            None => answer(404, gone(&repository), None),
        },
        Question::Manifest(repository, tag) => match catalogue(&repository) {
            Some(catalogue) if catalogue.tags.contains_key(&tag) => {
                complete(&catalogue);
                answer(200, Some(catalogue.changed), Some(Shown::Manifest(catalogue.tags[&tag].digest)))
            }
            _ => answer(404, gone(&repository), None),
        },
        Question::Blob(_, digest) => {
            let here = server.world.sites[server.place].disk.borrow().blobs.contains(&digest);
            if here { answer(200, None, Some(Shown::Blob)) } else { answer(404, None, None) }
        }
        Question::All => {
            let mut all = BTreeMap::new();
            for name in server.world.repositories.clone() {
                server.step().await;
                if let Some(catalogue) =
                    server.world.catalogue(server.place, &name).filter(|it| !it.is_empty())
                {
                    complete(&catalogue);
                    all.insert(name, catalogue);
                }
            }
            answer(200, Some(server.at().shown), Some(Shown::All(all)))
        }
    }
}
