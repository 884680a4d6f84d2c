// Fetching over real sockets, from registries that are slow, die, lie or lack what they are asked for.

use std::{collections::HashMap, path::Path};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;

use super::*;
use crate::model::Algorithm;
use crate::{
    registry::content::{CHUNK, ChunkList, Upload, disk},
    supervise::{OnEnd, Stage, Tree},
    wire::headers,
};

/// What a stand-in does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Serve,
    Lack,
    /// Give a few bytes and close.
    Die,
    /// Give wrong bytes.
    Lie,
    /// Give a few bytes and nothing more.
    Stall,
    Slowly,
    Refuse,
}

/// By chunk; `None` is the chunk list.
type Rule = Box<dyn Fn(Option<u64>) -> Act + Send + Sync>;

/// A registry that has its blobs in memory.
struct StandIn {
    blobs: Mutex<HashMap<Digest, Bytes>>,
    rule: Mutex<Rule>,
    /// Chunks that were asked for; a chunk list is none.
    asked: Mutex<Vec<u64>>,
}

impl StandIn {
    fn rule(&self, rule: impl Fn(Option<u64>) -> Act + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    fn act(&self, chunk: Option<u64>) -> Act {
        let rule = self.rule.lock().unwrap();
        rule(chunk)
    }

    fn take_asked(&self) -> Vec<u64> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn add(&self, sample: &Sample) {
        self.blobs.lock().unwrap().insert(sample.blob.digest, sample.bytes.clone());
    }
}

async fn blob(State(at): State<Arc<StandIn>>, UrlPath(digest): UrlPath<String>, head: HeaderMap) -> Response {
    let whole = at.blobs.lock().unwrap().get(&Digest::parse(&digest).unwrap()).cloned();
    let Some(whole) = whole else { return StatusCode::NOT_FOUND.into_response() };
    let range = head.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return whole.into_response();
    };
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let (chunk, part) = (from as u64 / CHUNK, whole.slice(from..=to));
    if (from, to) != (0, 0) {
        at.asked.lock().unwrap().push(chunk);
    }
    let act = at.act(Some(chunk));
    let pieces: Vec<Bytes> = part.chunks(256 * 1024).map(|piece| part.slice_ref(piece)).collect();
    let body = match act {
        Act::Lack => return StatusCode::NOT_FOUND.into_response(),
        Act::Refuse => return (StatusCode::SERVICE_UNAVAILABLE, "not now").into_response(),
        Act::Serve => Body::from(part),
        Act::Lie => {
            let mut wrong = part.to_vec();
            wrong[0] ^= 1;
            Body::from(wrong)
        }
        Act::Die => {
            let end = [Ok(pieces[0].clone()), Err(std::io::Error::other("died"))];
            Body::from_stream(stream::iter(end))
        }
        Act::Stall => {
            Body::from_stream(stream::iter([Ok::<_, Infallible>(pieces[0].clone())]).chain(stream::pending()))
        }
        Act::Slowly => Body::from_stream(stream::iter(pieces).then(|piece| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, Infallible>(piece)
        })),
    };
    (StatusCode::PARTIAL_CONTENT, body).into_response()
}

async fn chunks(State(at): State<Arc<StandIn>>, UrlPath(digest): UrlPath<String>) -> Response {
    let whole = at.blobs.lock().unwrap().get(&Digest::parse(&digest).unwrap()).cloned();
    let act = at.act(None);
    match (whole, act) {
        (None, _) | (_, Act::Lack) => StatusCode::NOT_FOUND.into_response(),
        (_, Act::Refuse) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        (Some(whole), act) => {
            let mut list = list_of(&whole).to_bytes();
            list[0] ^= u8::from(act == Act::Lie);
            ([(headers::BLOB_SIZE, whole.len().to_string())], list).into_response()
        }
    }
}

fn list_of(bytes: &[u8]) -> ChunkList {
    ChunkList(bytes.chunks(CHUNK as usize).map(Digest::of).collect())
}

struct Sample {
    bytes: Bytes,
    blob: BlobRef,
}

impl Sample {
    fn new(chunks: u64, seed: u8) -> Self {
        let mut bytes = vec![seed];
        for chunk in 0..chunks {
            bytes.resize(((chunk + 1) * CHUNK) as usize, seed ^ (chunk as u8 + 1));
        }
        bytes.extend_from_slice(b"the end");
        let blob = BlobRef {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            chunks: (chunks > 0).then(|| list_of(&bytes).digest()),
        };
        Self { bytes: bytes.into(), blob }
    }
}

/// A replica, and the registries it fetches from.
struct World {
    tree: Tree,
    disk: disk::Disk,
    metrics: Metrics,
    handle: FetchHandle,
    sources: Vec<Arc<StandIn>>,
    urls: Vec<BaseUrl>,
}

async fn open(dir: &Path) -> disk::Disk {
    let settings = disk::DiskSettings {
        path: dir.to_owned(),
        shared: false,
        name: "r2".into(),
        reserve: 0,
        upload_idle: Duration::from_secs(3600),
        uploads: 8,
        upload_age: Duration::from_secs(7 * 24 * 3600),
        uploads_per_client: None,
        verify_every: Duration::from_secs(3600),
    };
    // The last file work of a storage that was dropped may still hold its lock.
    for _ in 0..200 {
        match disk::Disk::open(settings.clone()).await {
            Err(disk::OpenError::Held { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the storage is not given back");
}

impl World {
    async fn new(dir: &Path, count: usize) -> Self {
        let (tree, mut sources, mut urls) = (Tree::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let at = Arc::new(StandIn {
                blobs: Mutex::default(),
                rule: Mutex::new(Box::new(|_| Act::Serve)),
                asked: Mutex::default(),
            });
            let app = Router::new()
                .route("/replication/v1/blobs/{digest}", get(blob))
                .route("/replication/v1/blobs/{digest}/chunks", get(chunks))
                .with_state(at.clone());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            urls.push(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
            tree.handle().start_vital(Stage::Store, "stand-in", move |stop| async move {
                let served = axum::serve(listener, app).into_future();
                tokio::select! {
                    ended = served => ended,
                    () = stop.requested() => Ok(()),
                }
            });
            sources.push(at);
        }
        let disk = open(dir).await;
        let (metrics, handle) = Self::start(&tree, &disk, &urls);
        Self { tree, disk, metrics, handle, sources, urls }
    }

    fn start(tree: &Tree, disk: &disk::Disk, urls: &[BaseUrl]) -> (Metrics, FetchHandle) {
        let metrics = Metrics::new();
        let idle = Duration::from_millis(500);
        let fetcher =
            Fetcher::with(Arc::new(disk.clone()), (urls.to_vec(), &Credentials::default()), &metrics, idle)
                .unwrap();
        let handle = fetcher.handle();
        tree.start(Stage::Loops, "fetch", OnEnd::Restart(Duration::ZERO), move |stop| {
            fetcher.clone().run(stop)
        });
        (metrics, handle)
    }

    async fn need(&self, samples: &[&Sample]) {
        let blobs: Vec<BlobRef> = samples.iter().map(|sample| sample.blob).collect();
        let needed = tokio::time::timeout(Duration::from_secs(60), self.handle.need(&blobs)).await;
        assert!(needed.is_ok(), "{:?}", self.handle.view());
        for sample in samples {
            let body = self.disk.read(&sample.blob.digest, None).await.unwrap().expect("it is here");
            let mut pieces = body.bytes();
            let mut at = 0;
            while let Some(piece) = pieces.next().await {
                let piece = piece.unwrap();
                assert!(piece == sample.bytes[at..at + piece.len()], "differs behind {at}");
                at += piece.len();
            }
            assert_eq!(at as u64, sample.blob.size);
        }
    }

    async fn until(&self, what: impl Fn(&View) -> bool) -> View {
        for _ in 0..1000 {
            let view = self.handle.view();
            if what(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it does not come: {:?}", self.handle.view());
    }

    fn failures(&self, why: &str) -> u64 {
        let line = format!("{}{{why=\"{why}\"}} ", names::REGISTRY_FETCH_FAILURES.name);
        let text = self.metrics.text();
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn end(self) {
        self.tree.shut_down(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn needed_blobs_come_from_every_source_that_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 3).await;
    let (big, other, small, empty) = (
        Sample::new(9, 1),
        Sample::new(1, 2),
        Sample::new(0, 3),
        Sample { bytes: Bytes::new(), ..Sample::new(0, 0) },
    );
    let empty = Sample { blob: BlobRef { digest: Digest::of(b""), size: 0, chunks: None }, ..empty };
    for sample in [&big, &small, &empty] {
        world.sources[0].add(sample);
    }
    world.sources[1].add(&big);
    world.sources[2].add(&other);
    world.need(&[&big, &other, &small, &empty, &big]).await;
    let asked: Vec<usize> = world.sources.iter().map(|source| source.take_asked().len()).collect();
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
    let view = world.handle.view();
    assert_eq!((view.fetching.len(), view.missing), (0, 0));
    let bytes: u64 = view.peers.iter().map(|peer| peer.bytes).sum();
    assert_eq!(bytes, big.blob.size + other.blob.size + small.blob.size, "nothing came twice");
    assert!(view.peers[0].rate > 0.0);
    assert!(world.metrics.text().contains(&format!("{} {bytes}", names::REGISTRY_FETCHED.name)));
    // What is here is not asked for.
    world.need(&[&big, &small]).await;
    assert!(world.sources.iter().all(|source| source.take_asked().is_empty()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_lies_dies_stalls_or_refuses_is_made_up_for_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 2).await;
    for (seed, act, why) in [
        (1, Act::Lie, "corrupt"),
        (2, Act::Die, "unanswered"),
        (3, Act::Stall, "silent"),
        (4, Act::Refuse, "refused"),
    ] {
        let sample = Sample::new(6, seed);
        for source in &world.sources {
            source.add(&sample);
        }
        // Whoever is asked for the third chunk first is the bad one.
        let bad = Arc::new(std::sync::OnceLock::new());
        for (place, source) in world.sources.iter().enumerate() {
            let bad = bad.clone();
            source.rule(move |chunk| match chunk {
                Some(2) if *bad.get_or_init(|| place) == place => act,
                _ => Act::Serve,
            });
        }
        world.need(&[&sample]).await;
        assert!(world.failures(why) >= 1, "{why}: {}", world.metrics.text());
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_source_that_fails_now_and_then_gives_all_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 1).await;
    let sample = Sample::new(5, 1);
    world.sources[0].add(&sample);
    let count = std::sync::atomic::AtomicUsize::new(0);
    world.sources[0].rule(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 5 {
        0 => Act::Refuse,
        3 => Act::Die,
        _ => Act::Slowly,
    });
    world.need(&[&sample]).await;
    assert!(world.failures("refused") >= 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_fetches_no_chunk_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path(), 2).await;
    let sample = Sample::new(9, 1);
    for source in &world.sources {
        source.add(&sample);
        // The sixth chunk and those behind it do not come.
        source.rule(|chunk| if chunk.is_some_and(|chunk| chunk >= 5) { Act::Refuse } else { Act::Serve });
    }
    let blobs = [sample.blob];
    tokio::select! {
        () = world.handle.need(&blobs) => panic!("half of it cannot come"),
        view = world.until(|view| view.fetching.first().is_some_and(|blob| blob.have == 5 * CHUNK)) => {
            assert_eq!(view.missing, sample.blob.size - 5 * CHUNK);
        }
    }
    assert_eq!(world.handle.view().missing, 0, "nobody waits any more");
    let both = |view: &View| view.peers.iter().all(|peer| peer.why.contains("answered 503: not now"));
    world.until(both).await;
    let loops = Tree::new();
    let (tree, urls) = (std::mem::replace(&mut world.tree, loops), world.urls.clone());
    // The stand-ins go down with their tree: the same blobs are served by new ones.
    tree.shut_down(Duration::from_secs(5)).await;
    drop((world, tree, urls));

    let world = World::new(dir.path(), 2).await;
    for source in &world.sources {
        source.add(&sample);
    }
    world.need(&[&sample]).await;
    let mut asked: Vec<u64> = world.sources.iter().flat_map(|source| source.take_asked()).collect();
    asked.sort_unstable();
    assert_eq!(asked, [5, 6, 7, 8, 9]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_blob_is_fetched_in_the_background_and_linked() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 1).await;
    let (big, small) = (Sample::new(2, 1), Sample::new(0, 2));
    let (a, b) = (RepositoryName::parse("a").unwrap(), RepositoryName::parse("b").unwrap());
    world.sources[0].add(&big);
    for (repository, sample) in [(&a, &big), (&b, &big), (&a, &small)] {
        world.handle.announce(repository.clone(), sample.blob);
    }
    // It comes to the source only later.
    world.sources[0].add(&small);
    world.need(&[&big]).await;
    for (repository, sample) in [(&a, &big), (&b, &big), (&a, &small)] {
        let linked = async {
            while !world.disk.linked(repository, &sample.blob.digest).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), linked).await.unwrap();
    }
    // What is here already is linked as well.
    world.handle.announce(b.clone(), small.blob);
    let linked = async {
        while !world.disk.linked(&b, &small.blob.digest).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), linked).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_whose_list_is_lost_or_wrong_is_verified_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path(), 2).await;
    let sample = Sample::new(3, 1);
    for source in &world.sources {
        source.add(&sample);
    }
    world.sources[0].rule(|chunk| if chunk.is_none() { Act::Lack } else { Act::Serve });
    world.sources[1].rule(|chunk| if chunk.is_none() { Act::Lie } else { Act::Serve });
    world.need(&[&sample]).await;
    let list = list_of(&sample.bytes);
    assert_eq!(world.disk.chunks(&sample.blob.digest).await.unwrap(), Some(list), "it has one now");
    assert_eq!(world.failures("corrupt"), 1);

    // Whoever gives a wrong whole is not asked again at once.
    let sample = Sample::new(3, 2);
    for source in &world.sources {
        source.add(&sample);
    }
    let liar = Arc::new(std::sync::OnceLock::new());
    for (place, source) in world.sources.iter().enumerate() {
        let liar = liar.clone();
        source.rule(move |chunk| match chunk {
            None => Act::Lack,
            Some(3) if *liar.get_or_init(|| place) == place => Act::Lie,
            Some(_) => Act::Serve,
        });
    }
    let unlisted = Sample { blob: BlobRef { chunks: None, ..sample.blob }, ..sample };
    world.need(&[&unlisted]).await;
    assert_eq!(world.failures("corrupt"), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_the_fetch_goes_on_when_there_is_space() {
    // Where no build writes at the same time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let world = World::new(dir.path(), 1).await;
    let sample = Sample::new(8, 1);
    world.sources[0].add(&sample);
    let free = world.disk.space().await.unwrap().free;
    let repository = RepositoryName::parse("a").unwrap();
    let upload: Box<dyn Upload> =
        world.disk.begin(&repository, "a", Algorithm::Sha256, free - sample.blob.size / 2).await.unwrap();
    let blobs = [sample.blob];
    {
        let need = std::pin::pin!(world.handle.need(&blobs));
        let said = world.until(|view| {
            view.fetching.first().is_some_and(|blob| blob.why.contains("not enough disk space"))
        });
        tokio::select! {
            () = need => panic!("there is no space for it"),
            _ = said => {}
        }
    }
    assert!(world.failures("storage") >= 1);
    drop(upload);
    world.need(&[&sample]).await;
    world.end().await;
}
