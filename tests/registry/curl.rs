//! An upload as somebody does it by hand: `curl`, cut off in the middle, asked how far it came, gone on with.

use std::path::Path;

use switchyard::model::Digest;

use crate::{
    rig::{Rig, noise},
    support::{outside, place::Place},
};

/// What a call of curl was answered: its status and one header of it.
async fn curl(place: &Place, header: &str, arguments: &[&str]) -> (u16, String) {
    let wanted = format!("%{{http_code}} %header{{{header}}}");
    let all = [&["-sS", "--noproxy", "*", "--max-time", "60", "-o", "/dev/null", "-w", &wanted], arguments]
        .concat();
    let said = outside::run(place, "curl", &all).await;
    let (status, value) = said.out.split_once(' ').unwrap_or((&said.out, ""));
    (status.parse().unwrap_or(0), value.trim().to_owned())
}

fn written(path: &Path, bytes: &[u8]) -> String {
    std::fs::write(path, bytes).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_off_goes_on_where_the_registry_says() {
    let place = Place::new("curl");
    let rig = Rig::new(&place.path("storage")).await;
    let base = format!("http://{}", rig.address);
    let data = noise(77, 6_000_000);
    let whole = written(&place.path("whole"), &data);
    let (status, session) =
        curl(&place, "location", &["-X", "POST", "-d", "", &format!("{base}/v2/by/hand/blobs/uploads/")])
            .await;
    assert_eq!(status, 202);
    let session = format!("{base}{session}");

    // Slow, and given up after a second.
    let chunk =
        ["-X", "PATCH", "-H", "Content-Type: application/octet-stream", "--limit-rate", "2M", "-T", &whole];
    let (status, _) = curl(&place, "range", &[&chunk[..], &["--max-time", "1", &session]].concat()).await;
    assert!(status < 200, "it was to be cut off, and was answered with {status}");

    let (status, range) = curl(&place, "range", &[&session]).await;
    assert_eq!(status, 204);
    let came = range.strip_prefix("0-").and_then(|last| last.parse::<usize>().ok()).expect("a range") + 1;
    assert!(came > 1 && came < data.len(), "{range}");
    let rest = written(&place.path("rest"), &data[came..]);
    let more = format!("Content-Range: {came}-{}", data.len() - 1);
    let end = format!("{session}?digest={}", Digest::of(&data));
    let (status, digest) =
        curl(&place, "docker-content-digest", &["-X", "PUT", "-H", &more, "-T", &rest, &end]).await;
    assert_eq!((status, digest), (201, Digest::of(&data).to_string()));

    let out = place.path("out");
    let blob = format!("{base}/v2/by/hand/blobs/{}", Digest::of(&data));
    let said =
        outside::run(&place, "curl", &["-sS", "--noproxy", "*", "-o", out.to_str().unwrap(), &blob]).await;
    assert!(said.ok, "{}", said.err);
    assert!(std::fs::read(out).unwrap() == data);
}
