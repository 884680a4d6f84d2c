//! Random pushes, deletes and reverts through both APIs, against a model: each shows what the other did.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;
use switchyard::model::Digest;

use crate::{
    rig::{Rig, image, noise},
    support::scale::scaled,
};

const REPOSITORIES: [&str; 2] = ["sonoma", "mac/ventura"];
const TAGS: [&str; 4] = ["base", "v3+ssh", "c", "d"];

/// One call; places are in the lists above, a content is a number that decides its bytes.
#[derive(Debug, Clone)]
enum Op {
    Push { repository: usize, tag: usize, content: u8 },
    Untag { repository: usize, tag: usize },
    Remove { repository: usize, content: u8 },
    Delete { repository: usize },
    RevertNewest { repository: usize },
    RevertTag { repository: usize, tag: usize },
    RevertNumber { repository: usize, number: i64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (repository, tag, content) = (0..REPOSITORIES.len(), 0..TAGS.len(), 0..5u8);
    prop_oneof![
        6 => (repository.clone(), tag.clone(), content.clone())
            .prop_map(|(repository, tag, content)| Op::Push { repository, tag, content }),
        2 => (repository.clone(), tag.clone()).prop_map(|(repository, tag)| Op::Untag { repository, tag }),
        1 => (repository.clone(), content).prop_map(|(repository, content)| Op::Remove { repository, content }),
        1 => repository.clone().prop_map(|repository| Op::Delete { repository }),
        1 => repository.clone().prop_map(|repository| Op::RevertNewest { repository }),
        1 => (repository.clone(), tag).prop_map(|(repository, tag)| Op::RevertTag { repository, tag }),
        1 => (repository, 0..6i64).prop_map(|(repository, number)| Op::RevertNumber { repository, number }),
    ]
}

/// What one repository should hold.
#[derive(Default)]
struct Model {
    next: i64,
    /// Number and content of each tag.
    tags: BTreeMap<usize, (i64, u8)>,
    manifests: BTreeSet<u8>,
}

impl Model {
    fn push(&mut self, tag: usize, content: u8) {
        self.manifests.insert(content);
        let next = &mut self.next;
        let number = || {
            *next += 1;
            *next - 1
        };
        let number = self.tags.get(&tag).map_or_else(number, |version| version.0);
        self.tags.insert(tag, (number, content));
    }

    fn remove(&mut self, content: u8) -> bool {
        let was = self.manifests.remove(&content);
        self.tags.retain(|_, version| version.1 != content);
        self.settle();
        was
    }

    fn revert(&mut self, from: Option<i64>) -> bool {
        let Some(from) = from.filter(|from| self.tags.values().any(|version| version.0 == *from)) else {
            return false;
        };
        let gone: Vec<u8> = self.tags.values().filter(|version| version.0 >= from).map(|v| v.1).collect();
        self.tags.retain(|_, version| version.0 < from);
        if self.tags.is_empty() {
            self.manifests.clear();
        } else {
            self.manifests.retain(|m| !gone.contains(m) || self.tags.values().any(|v| v.1 == *m));
        }
        self.settle();
        true
    }

    fn settle(&mut self) {
        if self.manifests.is_empty() {
            self.next = 0;
        }
    }
}

/// A content is the layers `base` and one of its own; all share the first.
fn layers(content: u8) -> [Vec<u8>; 2] {
    [noise(99, 64), noise(u64::from(content), 16 + usize::from(content))]
}

fn config(content: u8) -> String {
    format!(r#"{{"architecture":"arm64","n":{content}}}"#)
}

fn manifest(content: u8) -> Value {
    let [base, own] = layers(content);
    image(config(content).as_bytes(), &[&base, &own])
}

fn digest(content: u8) -> String {
    Digest::of(manifest(content).to_string().as_bytes()).to_string()
}

async fn listed(rig: &Rig) -> BTreeMap<String, Value> {
    let list = rig.json("/registry/v2/vm").await["body"].clone();
    let one = |template: &Value| (template["name"].as_str().unwrap().to_owned(), template.clone());
    list.as_array().unwrap().iter().map(one).collect()
}

/// Does it at the registry and in the model; both must agree on whether there was anything to do.
async fn act(rig: &Rig, models: &mut [Model], op: &Op) {
    let (Op::Push { repository, .. }
    | Op::Untag { repository, .. }
    | Op::Remove { repository, .. }
    | Op::Delete { repository }
    | Op::RevertNewest { repository }
    | Op::RevertTag { repository, .. }
    | Op::RevertNumber { repository, .. }) = op;
    let (name, model) = (REPOSITORIES[*repository], &mut models[*repository]);
    let id = listed(rig).await.get(name).map(|template| template["id"].as_str().unwrap().to_owned());
    let at = |path: &str, query: String| format!("{path}?id={}{query}", id.as_deref().unwrap_or("none"));
    let (path, did) = match op {
        Op::Push { tag, content, .. } => {
            let [base, own] = layers(*content);
            rig.image_with(name, TAGS[*tag], &config(*content), &[&base, &own]).await;
            return model.push(*tag, *content);
        }
        Op::Untag { tag, .. } => {
            let was = model.tags.remove(tag).is_some();
            (format!("/v2/{name}/manifests/{}", TAGS[*tag]), was)
        }
        Op::Remove { content, .. } => {
            (format!("/v2/{name}/manifests/{}", digest(*content)), model.remove(*content))
        }
        Op::Delete { .. } => {
            let was = !model.tags.is_empty();
            if was {
                *model = Model::default();
            }
            (at("/registry/vm", String::new()), was)
        }
        Op::RevertNewest { .. } => {
            let newest = model.tags.values().map(|version| version.0).max();
            (at("/registry/revert", String::new()), model.revert(newest))
        }
        Op::RevertTag { tag, .. } => {
            let number = model.tags.get(tag).map(|version| version.0);
            (at("/registry/revert", format!("&tag={}", TAGS[*tag])), model.revert(number))
        }
        Op::RevertNumber { number, .. } => {
            (at("/registry/revert", format!("&number={number}")), model.revert(Some(*number)))
        }
    };
    let status = rig.ask("DELETE", &path).send().await.unwrap().status();
    assert_eq!(status.is_success(), did, "{op:?}: {path} gave {status}");
}

/// Both APIs show what the model holds, and nothing else.
async fn compare(rig: &Rig, models: &[Model]) {
    let list = listed(rig).await;
    for (name, model) in REPOSITORIES.iter().zip(models) {
        let tags = rig.get(&format!("/v2/{name}/tags/list")).await;
        let shown: BTreeSet<String> = match tags.status().as_u16() {
            404 => BTreeSet::new(),
            _ => serde_json::from_value(tags.json::<Value>().await.unwrap()["tags"].clone()).unwrap(),
        };
        assert_eq!(shown, model.tags.keys().map(|tag| TAGS[*tag].to_owned()).collect());
        for content in 0..5 {
            let found =
                rig.ask("HEAD", &format!("/v2/{name}/manifests/{}", digest(content))).send().await.unwrap();
            assert_eq!(found.status().is_success(), model.manifests.contains(&content), "{name} {content}");
        }
        let Some(template) = list.get(*name) else {
            assert!(model.tags.is_empty(), "{name} is not listed");
            continue;
        };
        let whole = rig.json(&format!("/registry/v2/vm?id={}", template["id"].as_str().unwrap())).await;
        let whole = &whole["body"];
        let mut expected: Vec<_> = model.tags.iter().map(|(tag, (n, c))| (*n, TAGS[*tag], *c)).collect();
        expected.sort_unstable();
        let versions = whole["versions"].as_array().unwrap();
        assert_eq!(versions.len(), expected.len(), "{whole}");
        let mut files = BTreeMap::new();
        for (version, (number, tag, content)) in versions.iter().zip(expected) {
            assert_eq!((version["number"].as_i64(), version["tag"].as_str()), (Some(number), Some(tag)));
            assert_eq!(version["digest"].as_str(), Some(digest(content).as_str()));
            let [base, own] = layers(content);
            let name = |bytes: &[u8]| format!("{}.ank", &Digest::of(bytes).hex()[..32]);
            assert_eq!(version["images"], serde_json::json!([name(&own), name(&base)]), "newest first");
            let of = [config(content).into_bytes(), base, own].map(|b| (Digest::of(&b), b.len()));
            let size: usize = of.iter().map(|(_, len)| len).sum();
            assert_eq!(version["size"], size);
            files.extend(of);
        }
        assert_eq!(whole["size"], files.values().sum::<usize>(), "each file once");
        assert_eq!(template["size"], whole["size"]);
    }
    assert_eq!(list.len(), models.iter().filter(|model| !model.tags.is_empty()).count(), "{list:?}");
}

#[test]
fn what_one_api_changes_the_other_shows() {
    let mut runner = TestRunner::new(Config {
        cases: scaled(6, 200),
        failure_persistence: None,
        max_shrink_iters: 50,
        ..Config::default()
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ops = prop::collection::vec(op(), 1..24);
    let checked = runner.run(&ops, |ops| {
        let failed = std::panic::catch_unwind(|| {
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let rig = Rig::new(dir.path()).await;
                let mut models = [Model::default(), Model::default()];
                for op in &ops {
                    act(&rig, &mut models, op).await;
                    compare(&rig, &models).await;
                }
                rig.stop().await;
            });
        });
        failed.map_err(|_| TestCaseError::fail("the APIs and the model differ; see above"))
    });
    checked.unwrap();
}
