use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    model::{InstanceId, RepositoryName},
    wire::agent::StartTask,
};

/// A disk of 1000 bytes on which only the cache's own layers and downloads lie.
fn small_disk() -> Disk {
    Arc::new(|root| {
        let size = |dir: &str| -> io::Result<u64> {
            fs::read_dir(root.join(dir))?.map(|entry| Ok(entry?.metadata()?.len())).sum()
        };
        Ok(Space { total: 1000, free: 1000 - size("layers")? - size("partial")? })
    })
}

fn cache(root: &Path, reserve: u64) -> Cache {
    Cache::open_on(root.to_owned(), Reserve::Bytes(reserve), small_disk()).unwrap()
}

fn layer(name: &str, size: u64) -> Layer {
    Layer { digest: Digest::of(name.as_bytes()), size }
}

fn task(name: &str) -> StartTask {
    StartTask {
        instance: InstanceId::parse("i").unwrap(),
        attempt: 1,
        template: TemplateId::parse(format!("id-{name}")).unwrap(),
        template_name: name.into(),
        repository: RepositoryName::parse("r").unwrap(),
        tag: "v1".into(),
        manifest: Digest::of(name.as_bytes()),
        registry: String::new(),
        vm_name: String::new(),
        vcpu: None,
        vram: None,
        hardware: Default::default(),
        script: None,
    }
}

/// Does what a pull does, without a registry.
fn put(cache: &Cache, name: &str, layers: &[Layer]) -> Result<(), Trouble> {
    let _claimed = cache.make_room(layers)?;
    for layer in layers.iter().filter(|layer| !cache.has(layer)) {
        fs::write(cache.partial(&layer.digest), vec![0; layer.size as usize]).unwrap();
        cache.accept(&layer.digest).unwrap();
        cache.still_coming(&layer.digest, 0);
    }
    cache.enter(&PullTemplate::from(&task(name)), layers.to_vec()).unwrap();
    Ok(())
}

fn use_now(cache: &Cache, name: &str) -> Option<usize> {
    cache.use_now(&Digest::of(name.as_bytes())).map(|files| files.len())
}

fn names(cache: &Cache) -> Vec<String> {
    cache.list().into_iter().map(|template| template.name).collect()
}

#[test]
fn templates_are_there_after_a_restart_and_share_their_layers() {
    let dir = tempfile::tempdir().unwrap();
    let first = cache(dir.path(), 0);
    put(&first, "a", &[layer("base", 300), layer("a1", 10)]).unwrap();
    put(&first, "b", &[layer("base", 300), layer("b1", 20)]).unwrap();
    let again = cache(dir.path(), 0);
    assert_eq!((names(&again), again.used()), (vec!["a".into(), "b".into()], 330));
    assert_eq!(use_now(&again, "a"), Some(2));
    assert_eq!(again.files(&Digest::of(b"b")).unwrap()[0], again.layer(&layer("base", 300).digest));
}

#[test]
fn the_least_recently_used_goes_when_a_pull_needs_room() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    put(&cache, "a", &[layer("base", 300), layer("a1", 100)]).unwrap();
    put(&cache, "b", &[layer("base", 300), layer("b1", 100)]).unwrap();
    put(&cache, "c", &[layer("c1", 200)]).unwrap();
    assert_eq!(use_now(&cache, "a"), Some(2));
    put(&cache, "d", &[layer("d1", 250)]).unwrap();
    assert_eq!(names(&cache), ["a", "c", "d"]);
    // The base is still there, for the one that stayed.
    assert_eq!(use_now(&cache, "a"), Some(2));
    assert!(!cache.layer(&layer("b1", 0).digest).exists());
}

#[test]
fn what_is_pinned_stays_and_a_pull_that_cannot_fit_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    put(&cache, "used", &[layer("u1", 400)]).unwrap();
    put(&cache, "idle", &[layer("i1", 300)]).unwrap();
    let pin = cache.pin(Digest::of(b"used"));
    let short = put(&cache, "big", &[layer("big", 600)]).unwrap_err();
    assert!(short.to_string().starts_with("not enough disk space: 600 B needed, 500 B available"), "{short}");
    assert_eq!(names(&cache), ["idle", "used"]);
    drop(pin);
    put(&cache, "big", &[layer("big", 600)]).unwrap();
    assert_eq!(names(&cache), ["big", "idle"]);
}

#[test]
fn room_that_one_pull_was_given_is_not_given_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0);
    let first = cache.make_room(&[layer("one", 600)]).unwrap();
    let second = cache.make_room(&[layer("two", 600)]);
    assert!(matches!(second, Err(Trouble::NoSpace { available: 400, .. })));
    // The same layer for another template needs no room of its own.
    drop(cache.make_room(&[layer("one", 600), layer("small", 300)]).unwrap());
    cache.still_coming(&layer("one", 600).digest, 100);
    drop(first);
    cache.make_room(&[layer("two", 600)]).unwrap();
}

#[test]
fn a_download_that_is_half_there_needs_half_the_room() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0);
    let big = layer("big", 900);
    fs::write(cache.partial(&big.digest), vec![0; 450]).unwrap();
    cache.make_room(&[big]).unwrap();
}

#[test]
fn what_broken_pulls_left_goes_before_a_pull_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0);
    fs::write(cache.partial(&layer("left", 0).digest), vec![0; 500]).unwrap();
    fs::write(cache.layer(&layer("orphan", 0).digest), vec![0; 300]).unwrap();
    put(&cache, "new", &[layer("n1", 900)]).unwrap();
    assert_eq!(names(&cache), ["new"]);
}

#[test]
fn a_template_with_a_damaged_or_missing_file_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let first = cache(dir.path(), 0);
    put(&first, "cut", &[layer("c1", 100)]).unwrap();
    put(&first, "gone", &[layer("g1", 100)]).unwrap();
    put(&first, "good", &[layer("k1", 100)]).unwrap();
    fs::write(first.layer(&layer("c1", 0).digest), b"short").unwrap();
    fs::remove_file(first.layer(&layer("g1", 0).digest)).unwrap();
    assert_eq!(
        [use_now(&first, "cut"), use_now(&first, "gone"), use_now(&first, "good")],
        [None, None, Some(1)]
    );
    assert_eq!(names(&first), ["good"]);
    fs::write(dir.path().join("templates/id-good").join("x.json"), "{").unwrap();
    assert_eq!(names(&cache(dir.path(), 0)), ["good"]);
}

#[test]
fn a_disk_that_cannot_be_asked_gives_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let disk: Disk = Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::other("gone"))
    });
    let cache = Cache::open_on(dir.path().to_owned(), Reserve::Share(0.2), disk).unwrap();
    let trouble = cache.make_room(&[layer("a", 1)]).err().unwrap();
    assert!(matches!(&trouble, Trouble::Disk { .. }) && trouble.may_pass(), "{trouble}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Two starts of one template end their pulls at the same moment.
#[test]
fn a_template_can_be_entered_and_used_by_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0);
    put(&cache, "a", &[layer("a1", 10)]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    cache.enter(&PullTemplate::from(&task("a")), vec![layer("a1", 10)]).unwrap();
                    assert_eq!(use_now(&cache, "a"), Some(1));
                }
            });
        }
    });
}
