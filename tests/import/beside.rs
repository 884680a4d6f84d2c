//! The original and ours beside each other: the same requests are answered alike, by the same servers.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use switchyard::import::{self, nginx};

use crate::support::{place::Place, process::Process};

/// One request, and the fields that its answer has from the server: what it was asked.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// The server's name, and the request line as the server saw it.
    seen: String,
    host: String,
    proto: String,
    client: String,
    body: String,
}

/// A server that says what it was asked, and nothing of itself but its name. It lives as long as the test.
fn upstream(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(name, stream));
        }
    });
    address
}

fn answer(name: &str, mut stream: TcpStream) {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    let end = loop {
        match stream.read(&mut part) {
            Ok(read @ 1..) => all.extend_from_slice(&part[..read]),
            _ => return,
        }
        if let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let length: usize = field(&head, "content-length").parse().unwrap_or(0);
    while all.len() < end + length {
        match stream.read(&mut part) {
            Ok(read @ 1..) => all.extend_from_slice(&part[..read]),
            _ => return,
        }
    }
    let status = if head.contains("/missing") { "404 Not Found" } else { "200 OK" };
    let line = head.lines().next().unwrap_or_default();
    let said = format!(
        "{name} {line}\n{}\n{}\n{}\n{}",
        field(&head, "host"),
        field(&head, "x-forwarded-proto"),
        field(&head, "x-forwarded-for"),
        String::from_utf8_lossy(&all[end..])
    );
    let reply =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}", said.len());
    drop(stream.write_all(reply.as_bytes()));
}

fn field(head: &str, name: &str) -> String {
    let mut values = head.lines().filter_map(|line| line.split_once(':'));
    values
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn ask(to: SocketAddr, method: &str, host: &str, path: &str, body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{length}\r\n{body}");
    stream.write_all(head.as_bytes()).ok()?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).ok()?;
    let all = String::from_utf8_lossy(&all);
    let (head, said) = all.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut lines = said.splitn(5, '\n').map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    let (seen, host, proto, client, body) = (next(), next(), next(), next(), next());
    // Of its own answers only the status is compared: their bodies are for other readers.
    let own = !seen.contains("HTTP/1.1");
    let of_server = |text: String| if own { String::new() } else { text };
    Some(Answer {
        status,
        seen: of_server(seen),
        host: of_server(host),
        proto: of_server(proto),
        client: of_server(client),
        body: of_server(body),
    })
}

/// Asks until somebody answers with something else than 503, which is what both say before they know their servers.
fn ready(to: SocketAddr, log: impl Fn() -> String) {
    let start = Instant::now();
    while ask(to, "GET", "ci.example", "/", "").is_none_or(|answer| answer.status != 200) {
        assert!(start.elapsed() < Duration::from_secs(60), "{to} does not serve: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Original(Child);

impl Drop for Original {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(program: &str, arguments: &[&str]) -> Option<Original> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.ok().map(Original)
}

/// Runs what `config` becomes, and the table of requests against it and the original.
fn compare(place: &Place, text: impl Fn(SocketAddr) -> String, whose: &str) {
    let (theirs, ours) = (place.address(), place.address());
    let imported = match whose {
        "nginx" => nginx::import("x", &text(ours), &|_| Err("nothing".into())).unwrap(),
        _ => import::haproxy::import("x", &text(ours), &|_| Err("nothing".into()), &|_| None).unwrap(),
    };
    let config = format!("{}\n[admin]\nlisten = \"127.0.0.1:0\"\n", imported.config);
    let file = place.write("proxy.toml", &config);
    let proxy = Process::start(place, "proxy", &["proxy", "-c", file.to_str().unwrap()]);
    ready(ours, || proxy.log());
    let original = place.write("original.conf", &text(theirs));
    let dir = place.dir().to_str().unwrap();
    let original = match whose {
        "nginx" => start("nginx", &["-p", dir, "-e", "error.log", "-c", original.to_str().unwrap()]),
        _ => start("haproxy", &["-db", "-f", original.to_str().unwrap()]),
    };
    if original.is_some() {
        ready(theirs, || format!("{whose} in {}", Path::new(dir).display()));
    }
    for (method, host, path, body, server) in [
        ("GET", "ci.example", "/", "", "c1"),
        ("GET", "ci.example", "/api/v1/status?x=%20y", "", "c1"),
        ("GET", "elsewhere.example", "/api/v1/vm", "", "c1"),
        ("POST", "ci.example", "/api/v1/vm", "{\"vmid\":\"a\"}", "c1"),
        ("DELETE", "ci.example", "/api/v1/vm", "{\"id\":\"a\"}", "c1"),
        ("GET", "ci.example", "/v2/", "", "r1"),
        ("GET", "ci.example", "/v2/a/blobs/sha256:00", "", "r1"),
        ("GET", "ci.example", "/registry/v2/vm", "", "r1"),
        ("GET", "reg.example", "/anything", "", "r1"),
        ("HEAD", "ci.example", "/api/v1/vm", "", ""),
        ("GET", "ci.example", "/missing", "", "c1"),
        ("GET", "ci.example", "/v20", "", "c1"),
    ] {
        let by_us =
            ask(ours, method, host, path, body).unwrap_or_else(|| panic!("{method} {path}: {}", proxy.log()));
        assert!(by_us.seen.starts_with(server), "{method} {host} {path} went to {by_us:?}");
        if !server.is_empty() {
            assert_eq!((by_us.host.as_str(), by_us.body.as_str()), (host, body), "{method} {path}");
        }
        if original.is_some() {
            let by_them = ask(theirs, method, host, path, body).unwrap();
            assert_eq!(by_us, by_them, "{method} {host} {path}");
        }
    }
}

#[test]
fn requests_are_answered_as_nginx_answers_them() {
    let place = Place::new("beside-nginx");
    let (c1, r1) = (upstream("c1"), upstream("r1"));
    let text = |at: SocketAddr| {
        format!(
            "daemon off; pid nginx.pid; master_process off;
             events {{ worker_connections 256; }}
             http {{
               access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
               scgi_temp_path t5; client_max_body_size 0; proxy_http_version 1.1; proxy_set_header Host $host;
               proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
               upstream controllers {{ least_conn; server {c1}; }}
               upstream registries {{ server {r1}; }}
               server {{ listen {at} default_server; server_name ci.example;
                 location / {{ proxy_pass http://controllers; }}
                 location /v2/ {{ proxy_pass http://registries; }}
                 location ~ ^/registry/ {{ proxy_pass http://registries; }} }}
               server {{ listen {at}; server_name reg.example; location / {{ proxy_pass http://registries; }} }}
             }}"
        )
    };
    compare(&place, text, "nginx");
}

#[test]
fn requests_are_answered_as_haproxy_answers_them() {
    let place = Place::new("beside-haproxy");
    let (c1, r1) = (upstream("c1"), upstream("r1"));
    let text = |at: SocketAddr| {
        format!(
            "global\n maxconn 200\ndefaults\n mode http\n timeout connect 2s\n timeout client 20s\n timeout server 20s\n \
             option forwardfor\nfrontend front\n bind {at}\n http-request set-header X-Forwarded-Proto http\n \
             acl reg hdr(host) -i reg.example\n use_backend registries if reg or {{ path_beg /v2/ }} or {{ path_beg /registry/ }}\n \
             default_backend controllers\nbackend controllers\n balance leastconn\n option httpchk GET /readyz\n \
             server c1 {c1} check inter 100ms rise 1\nbackend registries\n server r1 {r1} check inter 100ms rise 1\n"
        )
    };
    compare(&place, text, "haproxy");
}
