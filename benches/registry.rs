//! What the registry's lists cost from a warm process: 1,000 templates of 100 tags, on a directory of its own and on one that
//! other registries may write to. `cargo bench --bench registry`.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use switchyard::{
    model::{Algorithm, Digest, RepositoryName, Tag, TemplateId},
    registry::{
        content::{Catalogue, Content, disk},
        journal::{Journal, Opening},
        log::Log,
        repositories::Repositories,
        writer::{Writer, Writes},
    },
    supervise::Tree,
    wire::replication::{Stored, Version},
};

const TEMPLATES: usize = 1000;
const TAGS: usize = 100;

/// Manifests with two layers each, the first of which all have; every template has all of them.
async fn manifests(content: &dyn Content) -> Vec<(Digest, Stored)> {
    let layer =
        |digest: Digest, size: u64| format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
    let mut made = Vec::new();
    for number in 0..TAGS {
        let (base, own) = (Digest::of(b"base"), Digest::of(number.to_string().as_bytes()));
        let text =
            format!(r#"{{"schemaVersion":2,"layers":[{},{}]}}"#, layer(base, 30 << 30), layer(own, 2 << 30));
        let size = text.len() as u64;
        let digest = content.put(Algorithm::Sha256, text.into()).await.expect("room for a manifest");
        let media_type = "application/vnd.oci.image.manifest.v1+json".into();
        made.push((
            digest,
            Stored { media_type, size, subject: None, children: Vec::new(), pushed: 1_795_000_000 },
        ));
    }
    made
}

async fn filled(dir: &std::path::Path, tree: &Tree, shared: bool) -> Repositories {
    let settings = disk::DiskSettings {
        shared,
        path: dir.to_owned(),
        name: "r1".into(),
        reserve: 0,
        upload_idle: Duration::from_secs(60),
        upload_age: Duration::from_secs(3600),
        uploads: 4,
        uploads_per_client: None,
        verify_every: Duration::from_secs(3600),
    };
    let disk = disk::Disk::open(settings).await.expect("an empty directory");
    disk.settle().await;
    let content: Arc<dyn Content> = Arc::new(disk);
    let manifests = manifests(content.as_ref()).await;
    for template in 0..TEMPLATES {
        let name = RepositoryName::parse(format!("mac/template-{template}")).expect("a name");
        let mut catalogue = Catalogue::new(name);
        (catalogue.generation, catalogue.next_number) = (1, TAGS as i64);
        catalogue.template = Some(TemplateId::random());
        catalogue.manifests = manifests.iter().cloned().collect();
        for (number, (digest, _)) in manifests.iter().enumerate() {
            let (number, digest) = (number as i64, *digest);
            let version = Version { number, digest, created: 1_795_000_000, pushed: 1_795_000_000 };
            catalogue.tags.insert(Tag::parse(format!("v{number}")).expect("a tag"), version);
        }
        content.restore(catalogue).await.expect("room for a catalogue");
    }
    if shared {
        return Repositories::new(content.clone(), Journal::without_log(content, &tree.handle()));
    }
    let (log, writer) = (Log::in_memory().expect("a log"), Writer::new(Duration::ZERO, Writes::Taken));
    let opening = Opening::Writer("r1");
    let journal =
        Journal::open(content.clone(), log, writer, opening, &tree.handle()).await.expect("a journal");
    Repositories::new(content, journal)
}

fn lists(c: &mut Criterion) {
    on(c, false, "1,000 templates of 100 tags");
    on(c, true, "1,000 templates of 100 tags, shared");
}

fn on(c: &mut Criterion, shared: bool, what: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let tree = Tree::new();
    let _running = runtime.enter();
    let all = runtime.block_on(filled(dir.path(), &tree, shared));
    let mut group = c.benchmark_group(what);
    group.sample_size(20);
    group.bench_function("the list of templates", |b| {
        b.iter(|| {
            let list = runtime.block_on(all.templates()).expect("a list");
            assert_eq!((list.templates.len(), list.broken.len()), (TEMPLATES, 0));
            black_box(serde_json::to_vec(&list.templates).expect("plain fields"))
        });
    });
    let first = runtime.block_on(all.templates()).expect("a list").templates.remove(0).id;
    let first = TemplateId::parse(first).expect("an id");
    group.bench_function("one template with its versions", |b| {
        b.iter(|| {
            let template = runtime.block_on(all.template(&first)).expect("it is there");
            assert_eq!(template.versions.len(), TAGS);
            black_box(serde_json::to_vec(&template).expect("plain fields"))
        });
    });
    let name = RepositoryName::parse("mac/template-7").expect("a name");
    group.bench_function("the tags of one", |b| {
        b.iter(|| black_box(runtime.block_on(all.catalogue(&name)).expect("it is there").tags.len()));
    });
    group.finish();
}

criterion_group!(benches, lists);
criterion_main!(benches);
