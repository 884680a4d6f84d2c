//! A registry that does everything wrong, on a real socket.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::*;
use crate::model::Algorithm;

/// What the server does with one request.
enum Reply {
    /// Sends these bytes and closes.
    Close(Vec<u8>),
    /// Sends these bytes and then nothing more.
    Hang(Vec<u8>),
}

/// One request's head, in lower case.
type Heads = Arc<Mutex<Vec<String>>>;

/// Answers one connection after the other by the script; ends with it.
fn server(script: Vec<Reply>) -> (BaseUrl, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let heads = Heads::default();
    let seen = heads.clone();
    thread::spawn(move || {
        let mut open = Vec::new();
        for reply in script {
            let Ok((mut stream, _)) = listener.accept() else { return };
            seen.lock().unwrap().push(head(&stream));
            match reply {
                Reply::Close(bytes) => stream.write_all(&bytes).unwrap_or_default(),
                Reply::Hang(bytes) => {
                    stream.write_all(&bytes).unwrap_or_default();
                    open.push(stream);
                }
            }
        }
        // What hangs does so for as long as the longest test.
        thread::sleep(if open.is_empty() { Duration::ZERO } else { Duration::from_secs(20) });
    });
    (base, heads)
}

fn head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    lines.map(|line| line.to_lowercase()).collect::<Vec<_>>().join("\n")
}

fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn whole(body: &[u8]) -> Reply {
    Reply::Close(answer("200 OK", "", body.len(), body))
}

fn oci(base: BaseUrl) -> Oci {
    Oci::new(base, &Credentials::default(), Duration::from_secs(10), Duration::from_millis(1500)).unwrap()
}

fn repository() -> RepositoryName {
    RepositoryName::parse("mac/sonoma").unwrap()
}

const BLOB: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Fetches [`BLOB`] once per reply; the results, and what is on disk at the end.
async fn fetch(script: Vec<Reply>) -> (Vec<Result<(), PullError>>, Vec<u8>, Vec<String>) {
    fetch_named(Algorithm::Sha256, script).await
}

async fn fetch_named(
    algorithm: Algorithm,
    script: Vec<Reply>,
) -> (Vec<Result<(), PullError>>, Vec<u8>, Vec<String>) {
    let times = script.len();
    let (base, heads) = server(script);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    let mut results = Vec::new();
    for _ in 0..times {
        // Opened anew each time, as after a restart.
        let mut partial = Partial::open(&path, algorithm.of(BLOB), BLOB.len() as u64).await.unwrap();
        results.push(oci(base.clone()).blob(&repository(), &mut partial, |_| {}).await);
    }
    let heads = heads.lock().unwrap().clone();
    (results, std::fs::read(&path).unwrap(), heads)
}

#[tokio::test]
async fn a_blob_arrives_whole_and_its_progress_is_told() {
    let (base, heads) = server(vec![whole(BLOB)]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    let mut partial = Partial::open(&path, Digest::of(BLOB), BLOB.len() as u64).await.unwrap();
    let mut told = Vec::new();
    oci(base).blob(&repository(), &mut partial, |done| told.push(done)).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), BLOB);
    assert_eq!((told.first(), told.last()), (Some(&0), Some(&(BLOB.len() as u64))));
    let expected = format!("get /v2/mac/sonoma/blobs/{} http/1.1", Digest::of(BLOB));
    assert!(heads.lock().unwrap()[0].starts_with(&expected));
}

#[tokio::test]
async fn a_download_that_broke_off_is_gone_on_with() {
    let rest = answer("206 Partial Content", "Content-Range: bytes 10-35/36\r\n", 26, &BLOB[10..]);
    let (results, disk, heads) =
        fetch(vec![Reply::Close(answer("200 OK", "", 36, &BLOB[..10])), Reply::Close(rest)]).await;
    assert!(results[0].as_ref().is_err_and(PullError::may_pass), "{:?}", results[0]);
    assert!(results[1].is_ok(), "{:?}", results[1]);
    assert_eq!(disk, BLOB);
    assert!(!heads[0].contains("range:") && heads[1].contains("range: bytes=10-"), "{heads:?}");
}

#[tokio::test]
async fn a_blob_named_by_sha512_is_gone_on_with_and_checked_by_that() {
    let rest = |last: &[u8]| {
        let bytes = [&BLOB[10..35], last].concat();
        answer("206 Partial Content", "Content-Range: bytes 10-35/36\r\n", 26, &bytes)
    };
    let begun = || Reply::Close(answer("200 OK", "", 36, &BLOB[..10]));
    let (results, disk, heads) =
        fetch_named(Algorithm::Sha512, vec![begun(), Reply::Close(rest(b"z"))]).await;
    assert!(results[1].is_ok(), "{:?}", results[1]);
    assert_eq!(disk, BLOB);
    assert!(heads[1].contains(&format!("/blobs/{} http", Algorithm::Sha512.of(BLOB))), "{heads:?}");
    let (results, disk, _) = fetch_named(Algorithm::Sha512, vec![begun(), Reply::Close(rest(b"?"))]).await;
    assert!(results[1].as_ref().is_err_and(PullError::is_corrupt), "{:?}", results[1]);
    assert!(disk.is_empty());
}

#[tokio::test]
async fn a_server_that_ignores_the_range_is_taken_at_its_word() {
    let (results, disk, _) =
        fetch(vec![Reply::Close(answer("200 OK", "", 36, &BLOB[..10])), whole(BLOB)]).await;
    assert!(results[1].is_ok(), "{:?}", results[1]);
    assert_eq!(disk, BLOB);
}

#[tokio::test]
async fn a_server_that_knows_no_such_range_makes_us_start_over() {
    let refused = Reply::Close(answer("416 Range Not Satisfiable", "", 0, b""));
    let (results, disk, heads) =
        fetch(vec![Reply::Close(answer("200 OK", "", 36, &BLOB[..10])), refused, whole(BLOB)]).await;
    assert!(results[1].as_ref().is_err_and(PullError::may_pass), "{:?}", results[1]);
    assert!(results[2].is_ok() && disk == BLOB);
    assert!(!heads[2].contains("range:"));
}

#[tokio::test]
async fn wrong_bytes_are_thrown_away() {
    let wrong = vec![b'x'; BLOB.len()];
    let (results, disk, _) = fetch(vec![whole(&wrong)]).await;
    assert!(matches!(results[0], Err(PullError::Corrupt { .. })), "{:?}", results[0]);
    assert!(disk.is_empty());
}

#[tokio::test]
async fn a_wrong_beginning_is_found_at_the_end_and_thrown_away() {
    let rest = answer("206 Partial Content", "Content-Range: bytes 10-35/36\r\n", 26, &BLOB[10..]);
    let begin = Reply::Close(answer("200 OK", "", 36, b"wrongwrong"));
    let (results, disk, _) = fetch(vec![begin, Reply::Close(rest)]).await;
    assert!(matches!(results[1], Err(PullError::Corrupt { .. })), "{:?}", results[1]);
    assert!(disk.is_empty());
}

#[tokio::test]
async fn more_bytes_than_the_manifest_says_are_never_kept() {
    let long = [BLOB, b"and more"].concat();
    let (results, disk, _) = fetch(vec![whole(&long)]).await;
    assert!(matches!(results[0], Err(PullError::TooLong { .. })), "{:?}", results[0]);
    assert!(disk.is_empty());
}

#[tokio::test]
async fn a_server_that_goes_silent_is_given_up_on_and_what_came_is_kept() {
    let (results, disk, _) = fetch(vec![Reply::Hang(answer("200 OK", "", 36, &BLOB[..10]))]).await;
    assert!(matches!(results[0], Err(PullError::Silent { .. })), "{:?}", results[0]);
    assert_eq!(disk, &BLOB[..10]);
    let (results, _, _) = fetch(vec![Reply::Hang(Vec::new())]).await;
    assert!(matches!(results[0], Err(PullError::Silent { .. })), "{:?}", results[0]);
}

#[tokio::test]
async fn errors_say_whether_to_ask_again() {
    let (results, _, _) = fetch(vec![
        Reply::Close(answer("404 Not Found", "", 2, b"{}")),
        Reply::Close(answer("500 Internal Server Error", "", 4, b"oops")),
        Reply::Close(answer("503 Service Unavailable", "", 0, b"")),
        Reply::Close(answer("403 Forbidden", "", 0, b"")),
        Reply::Close(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        Reply::Close(Vec::new()),
    ])
    .await;
    let verdicts: Vec<bool> = results.iter().map(|r| r.as_ref().unwrap_err().may_pass()).collect();
    assert_eq!(verdicts, [false, true, true, false, true, true], "{results:?}");
    assert!(matches!(results[0], Err(PullError::Missing { .. })));
    assert!(results[1].as_ref().unwrap_err().to_string().contains("oops"));
}

#[tokio::test]
async fn a_redirect_is_followed_to_where_the_bytes_lie() {
    let (there, _) = server(vec![whole(BLOB)]);
    let moved = format!("Location: {}\r\n", there.join("/bytes"));
    let (results, disk, _) =
        fetch(vec![Reply::Close(answer("307 Temporary Redirect", &moved, 0, b""))]).await;
    assert!(results[0].is_ok(), "{:?}", results[0]);
    assert_eq!(disk, BLOB);
}

#[tokio::test]
async fn a_manifest_is_what_its_digest_says_or_nothing() {
    let manifest = br#"{"schemaVersion":2,"layers":[]}"#;
    let (digest, long) = (Digest::of(manifest), Algorithm::Sha512.of(manifest));
    let endless = answer("200 OK", "", 1 << 40, &vec![b'x'; MANIFEST + 1]);
    let (base, heads) = server(vec![whole(manifest), whole(manifest), whole(b"{}"), Reply::Hang(endless)]);
    let oci = oci(base);
    for digest in [digest, long] {
        assert_eq!(&oci.manifest(&repository(), &digest).await.unwrap()[..], manifest);
    }
    assert!(heads.lock().unwrap()[0].contains("accept: application/vnd.oci.image.manifest.v1+json"));
    let wrong = oci.manifest(&repository(), &digest).await.unwrap_err();
    assert!(wrong.is_corrupt(), "{wrong}");
    let endless = oci.manifest(&repository(), &digest).await.unwrap_err();
    assert!(matches!(endless, PullError::Client(ClientError::Strange { .. })), "{endless}");
}

#[tokio::test]
async fn nobody_at_the_address_may_pass() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let oci = oci(format!("http://{free}").parse().unwrap());
    let error = oci.manifest(&repository(), &Digest::of(b"")).await.unwrap_err();
    assert!(matches!(error, PullError::Client(ClientError::Unreachable { .. })) && error.may_pass());
}
