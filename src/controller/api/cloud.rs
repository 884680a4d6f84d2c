//! `/switchyard/v1/instances` and `…/nodes`: pages of what there is, and why (`docs/instances.md`). Success is 200 with
//! the bare answer, every failure has a status of 400 or more.

use axum::extract::{Path, State};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Api,
    answer::{Bare, Fail},
    extract::{Asked, Within, id},
    views,
};
use crate::{
    controller::{
        lists::{Age, EventPlace, Seen},
        ops::{
            OpsError,
            look::{From, InstanceFilter, NodeFilter, Page},
        },
    },
    model::{InstanceId, InstanceState, NodeId, NodeState, Timestamp, excerpt},
    wire::{
        cloud::{Instances, NodeWaits, Nodes, Why},
        events::Events,
    },
};

/// Of one page, if the caller does not say.
const PAGE: usize = 100;

/// Of one page, at most.
const MOST: usize = 1000;

type Answer<T> = Result<Seen<Bare<T>>, Fail>;

/// A page of instances.
pub(super) async fn instances(State(api): State<Api>, asked: Asked) -> Answer<Instances> {
    let filter = InstanceFilter {
        states: states(&asked)?,
        node: asked.id("node")?,
        template: asked.get("template").map(str::to_owned),
        group: asked.get("group").map(str::to_owned),
        external_id: asked.get("external_id").map(str::to_owned),
        name: asked.get("name").map(str::to_owned),
    };
    let cursor = cursor::<Age>(&asked, |text| {
        let (at, id) = text.split_once('/')?;
        Some((Timestamp::parse(at).ok()?, InstanceId::parse(id).ok()?))
    })?;
    let from = From { after: cursor.as_ref().map(|(_, age)| age.clone()), limit: limit(&asked)? };
    let registry = api.app.ops.registry_for_nodes();
    let seen = api.app.ops.instances_page(&filter, &from).await.map_err(Fail::for_agent)?;
    let revision = first_revision(&api, cursor, &seen).await?;
    Ok(seen.map(|page| {
        let next = page.next.map(|(at, id)| written(revision, &format!("{at}/{id}")));
        let instances = page.found.iter().map(|record| views::instance(record, &registry)).collect();
        Bare(Instances { revision, instances, next })
    }))
}

/// A page of nodes.
pub(super) async fn nodes(State(api): State<Api>, Within(reach): Within, asked: Asked) -> Answer<Nodes> {
    let filter = NodeFilter {
        states: states(&asked)?,
        group: asked.get("group").map(str::to_owned),
        template: asked.get("template").map(str::to_owned),
        name: asked.get("name").map(str::to_owned),
    };
    let cursor = cursor::<NodeId>(&asked, |text| NodeId::parse(text).ok())?;
    let from = From { after: cursor.as_ref().map(|(_, id)| id.clone()), limit: limit(&asked)? };
    let seen = api.app.ops.nodes_page(&filter, &from).await.map_err(Fail::for_agent)?;
    let revision = first_revision(&api, cursor, &seen).await?;
    Ok(seen.map(|mut page| {
        let next = page.next.map(|id| written(revision, id.as_str()));
        api.app.ops.seen_by_id(&reach, &mut page.found, |view| view.record.id.as_str());
        Bare(Nodes { revision, nodes: page.found.into_iter().map(views::node).collect(), next })
    }))
}

/// A page of the event log.
pub(super) async fn events(State(api): State<Api>, asked: Asked) -> Answer<Events> {
    let action = match asked.get("action") {
        None => None,
        Some(word) => Some(
            serde_json::from_value(word.into()).map_err(|error| Fail::bad(format!("`action`: {error}")))?,
        ),
    };
    let cursor = cursor::<EventPlace>(&asked, |text| {
        let (revision, id) = text.split_once('/')?;
        Some((revision.parse().ok()?, id.to_owned()))
    })?;
    let from = From { after: cursor.as_ref().map(|(_, place)| place.clone()), limit: limit(&asked)? };
    let seen = api.app.ops.events_page(action, &from).await.map_err(Fail::for_agent)?;
    let revision = first_revision(&api, cursor, &seen).await?;
    Ok(seen.map(|page| {
        let next = page.next.map(|(at, id)| written(revision, &format!("{at}/{id}")));
        Bare(Events { revision, events: page.found, next })
    }))
}

/// Why an instance is where it is.
pub(super) async fn why(
    State(api): State<Api>,
    Within(reach): Within,
    Path(of): Path<String>,
) -> Answer<Why> {
    // An id that can be none is one that is not there.
    let of: InstanceId = id("id", &of).map_err(|_| Fail::for_agent(OpsError::NotFound))?;
    let seen = api.app.ops.why(&of).await.map_err(Fail::for_agent)?;
    Ok(seen.map(|mut why| {
        api.app.ops.seen_by_id(&reach, &mut why.nodes, |node| &node.node_id);
        Bare(why)
    }))
}

/// What a node waits for.
pub(super) async fn node_why(
    State(api): State<Api>,
    Within(reach): Within,
    Path(of): Path<String>,
) -> Answer<NodeWaits> {
    let of: NodeId = id("id", &of).map_err(|_| Fail::for_agent(OpsError::NotFound))?;
    let seen = api.app.ops.node_why(&of).await.map_err(Fail::for_agent)?;
    if !api.app.ops.sees_node(&reach, &of) {
        return Err(Fail::for_agent(OpsError::NotFound));
    }
    Ok(seen.map(Bare))
}

fn limit(asked: &Asked) -> Result<usize, Fail> {
    let wrong = || Fail::bad(format!("`limit`: expected a whole number from 1 to {MOST}"));
    match asked.get("limit") {
        None => Ok(PAGE),
        Some(text) => text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(wrong),
    }
}

/// What a list may be asked for by its word.
trait Word: Copy + 'static {
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

impl Word for InstanceState {
    const ALL: &'static [Self] = &Self::ALL;
    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for NodeState {
    const ALL: &'static [Self] = &Self::ALL;
    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// States by their words, in any case, several with commas between them.
fn states<T: Word>(asked: &Asked) -> Result<Vec<T>, Fail> {
    let of = |word: &str| T::ALL.iter().copied().find(|state| state.word().eq_ignore_ascii_case(word));
    let wrong = |word: &str| {
        let known = T::ALL.iter().map(|state| state.word()).collect::<Vec<_>>().join("`, `");
        let word = excerpt(word);
        Fail::bad(format!("`state`: there is no `{word}`; there are `{known}`"))
    };
    let words = asked.get("state").into_iter().flat_map(|words| words.split(',')).map(str::trim);
    words.filter(|word| !word.is_empty()).map(|word| of(word).ok_or_else(|| wrong(word))).collect()
}

/// What a cursor says: the revision of the first page, and behind which one it goes on.
fn cursor<K>(asked: &Asked, key: impl FnOnce(&str) -> Option<K>) -> Result<Option<(i64, K)>, Fail> {
    let Some(text) = asked.get("cursor") else { return Ok(None) };
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (revision, rest) = text.split_once('/')?;
        Some((revision.parse().ok()?, key(rest)?))
    };
    let wrong = || Fail::bad("`cursor`: it is none that this list gave; begin without one");
    read().map(Some).ok_or_else(wrong)
}

fn written(revision: i64, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{revision}/{key}"))
}

/// The revision of the first page. One that the store has not come to was given by another store.
async fn first_revision<K, T, P>(
    api: &Api,
    cursor: Option<(i64, K)>,
    seen: &Seen<Page<T, P>>,
) -> Result<i64, Fail> {
    let now = seen.value.revision;
    match cursor {
        None => Ok(now),
        // The controller that gave it may have been told of more than this one; and while the store is away nobody can say.
        Some((first, _)) if first <= now || seen.stale.is_some() => Ok(first),
        Some((first, _)) if api.app.ops.is_reached(first).await.map_err(Fail::for_agent)? => Ok(first),
        Some(_) => Err(Fail::new(
            axum::http::StatusCode::GONE,
            "`cursor`: it is of a time after everything in this store, which was restored; begin without one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(key: &str, value: &str) -> Asked {
        Asked::of(&[(key, value)])
    }

    #[test]
    fn states_are_read_by_their_words_and_unknown_ones_named() {
        let some: Vec<InstanceState> = states(&asked("state", "started, error")).unwrap();
        assert_eq!(some, [InstanceState::Started, InstanceState::Error]);
        let drained: Vec<NodeState> = states(&asked("state", "drain mode")).unwrap();
        assert_eq!(drained, [NodeState::DrainMode]);
        let wrong = states::<NodeState>(&asked("state", "started")).unwrap_err();
        assert!(
            wrong.message.contains("`Active`") && !wrong.message.contains("`Started`"),
            "{}",
            wrong.message
        );
        assert_eq!(states::<NodeState>(&asked("other", "x")).unwrap(), []);
    }

    #[test]
    fn a_cursor_reads_back_and_what_is_none_is_refused() {
        let at = written(17, "n-1");
        let read = |text: &str| cursor(&asked("cursor", text), |key| NodeId::parse(key).ok());
        assert_eq!(read(&at).unwrap(), Some((17, NodeId::parse("n-1").unwrap())));
        assert_eq!(read("").unwrap(), None);
        for bad in [
            "x",
            "!!",
            &written(17, "a/b"),
            &URL_SAFE_NO_PAD.encode("x/n-1"),
            &URL_SAFE_NO_PAD.encode([0xff, 1]),
        ] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad}");
        }
    }

    #[test]
    fn a_page_has_a_bound() {
        assert_eq!(limit(&asked("x", "")).unwrap(), PAGE);
        assert_eq!(limit(&asked("limit", "1000")).unwrap(), 1000);
        for bad in ["0", "1001", "-1", "many"] {
            assert!(limit(&asked("limit", bad)).is_err(), "{bad}");
        }
    }
}
