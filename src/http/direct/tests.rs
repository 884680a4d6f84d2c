use std::{
    io::{Seek, Write},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    extract::State,
    response::IntoResponse,
    routing::{any, get},
};
use futures_util::{StreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

use super::*;
use crate::{
    http::{guarded::PATIENCE, part::with_parts, serve::serve_files_with},
    supervise::StopSource,
};

const SIZE: usize = 20 * 1024 * 1024;

/// A port that serves a file at `/file`, a broken one at `/file/short`, and says what else it was asked.
struct Served {
    address: SocketAddr,
    bytes: Arc<Vec<u8>>,
    /// Requests that were answered, by anybody.
    asked: Arc<AtomicUsize>,
    stopping: StopSource,
    serving: JoinSet<io::Result<()>>,
}

impl Served {
    async fn new(patience: Patience) -> Self {
        let bytes: Arc<Vec<u8>> = Arc::new((0..SIZE).map(|at| (at / 3 % 251) as u8).collect());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        let file = Arc::new(file);
        let parts = move |until: u64| {
            let (file, turns) = (file.clone(), Arc::new(Semaphore::new(2)));
            let part = move |from: u64| {
                let range = from..(from + 4 * 1024 * 1024).min(until);
                Ok(Part { file: file.clone(), range, turns: turns.clone() })
            };
            stream::iter((0..until).step_by(4 * 1024 * 1024)).map(part).boxed()
        };
        let whole = parts.clone();
        let asked = Arc::new(AtomicUsize::new(0));
        let file = move |until: u64| {
            let head = Response::builder().header(header::CONTENT_LENGTH, until);
            with_parts(head.body(Body::empty()).unwrap(), parts(until))
        };
        let longer = move || {
            let head = Response::builder().header(header::CONTENT_LENGTH, SIZE + 1);
            with_parts(head.body(Body::empty()).unwrap(), whole(SIZE as u64 + 1))
        };
        let count = |State(asked): State<Arc<AtomicUsize>>, request: Request| async move {
            asked.fetch_add(1, Ordering::Relaxed);
            let peer = request.extensions().get::<ConnectInfo<Peer>>().is_some();
            format!("{} {} {peer}", request.method(), request.uri()).into_response()
        };
        let router = Router::new()
            .route("/file", get(async move || file(SIZE as u64)))
            .route("/file/short", get(async move || longer()))
            .fallback(any(count))
            .with_state(asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = StopSource::new();
        let mut serving = JoinSet::new();
        let grace = Duration::from_secs(20);
        serving.spawn(serve_files_with(patience, listener, router, &["/file"], stopping.stop(), grace));
        Self { address, bytes, asked, stopping, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// One answer: its head, and a body of the length that the head says.
async fn answer(socket: &mut TcpStream, head_only: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; if head_only { 0 } else { length.parse().unwrap() }];
    socket.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn files_and_everything_else_are_answered_on_one_connection() {
    let served = Served::new(PATIENCE).await;
    let mut socket = served.connect().await;
    // Two at once: the second waits in the socket.
    socket
        .write_all(b"GET /file HTTP/1.1\r\nhost: x\r\n\r\nHEAD /file HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let (head, body) = answer(&mut socket, false).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ndate: "), "{head}");
    assert!(body == *served.bytes);
    let (head, _) = answer(&mut socket, true).await;
    assert!(head.contains(&format!("content-length: {SIZE}\r\n")), "{head}");
    let text = |method: &str, uri: &str| format!("{method} {uri} true").into_bytes();
    for round in 0..2 {
        socket.write_all(b"GET /file/not HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert_eq!(answer(&mut socket, false).await.1, text("GET", "/file/not"), "{round}");
        socket.write_all(b"POST /file/x HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
        assert_eq!(answer(&mut socket, false).await.1, text("POST", "/file/x"), "{round}");
        socket.write_all(b"GET /file HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(answer(&mut socket, false).await.1 == *served.bytes, "{round}");
    }
}

#[tokio::test]
async fn what_is_not_plainly_a_request_for_a_file_is_the_librarys() {
    let served = Served::new(PATIENCE).await;
    // A head in two pieces.
    let mut socket = served.connect().await;
    socket.write_all(b"GET /file/a HTTP/1.1\r\nho").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    socket.write_all(b"st: x\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut socket, false).await.1, b"GET /file/a true");
    // No host, none of our methods, an expectation, nonsense: in the library's words.
    for (ask, wanted) in [
        ("GET /file/a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\n", "HTTP/1.1 200"),
        ("GET /file/a HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
        ("GET /file/a HTTP/1.1\r\nhost: x\r\nx:\x01\r\n\r\n", "HTTP/1.1 400"),
        ("G@T\r\n\r\n", "HTTP/1.1 400"),
    ] {
        let mut socket = served.connect().await;
        socket.write_all(ask.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.unwrap();
        assert_eq!(std::str::from_utf8(&start).unwrap(), wanted, "{ask:?}");
    }
    // Closed when the client asks for it.
    let mut socket = served.connect().await;
    socket.write_all(b"GET /file/b HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n").await.unwrap();
    let mut all = String::new();
    socket.read_to_string(&mut all).await.unwrap();
    assert!(all.contains("connection: close\r\n") && all.ends_with("GET /file/b true"), "{all}");
    assert_eq!(served.asked.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn a_file_that_turns_out_short_breaks_its_answer_off() {
    let served = Served::new(PATIENCE).await;
    let mut socket = served.connect().await;
    socket.write_all(b"GET /file/short HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    // Ended or reset: but never with the length that was said.
    let read = socket.read_to_end(&mut all).await;
    let head = all.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert!(all.len() - head <= SIZE, "{read:?}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_and_the_stop_waits_for_one_that_does() {
    let served = Served::new(Patience { stalled: Duration::from_millis(300), ..PATIENCE }).await;
    let mut stalled = served.connect().await;
    stalled.write_all(b"GET /file HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut idle = served.connect().await;
    let mut reading = served.connect().await;
    reading.write_all(b"GET /file HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 100];
    reading.read_exact(&mut first).await.unwrap();
    served.stopping.request();
    let Served { mut serving, bytes, .. } = served;
    // Nobody asked anything on it: it is closed at once.
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).await.unwrap();
    let whole: Vec<u8> = first.iter().chain(&rest).copied().collect();
    assert!(whole.ends_with(&bytes));
    // Well within the grace, although one never reads.
    let ended = tokio::time::timeout(Duration::from_secs(10), serving.join_next()).await;
    ended.expect("it ends").unwrap().unwrap().unwrap();
    let mut got = Vec::new();
    drop(stalled.read_to_end(&mut got).await);
    assert!(got.len() < SIZE);
}
