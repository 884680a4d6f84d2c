//! With those that people have: haproxy before the proxy, nginx behind it.

use std::{
    ffi::OsString,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    fd::AsRawFd,
    io::{FdFlags, fcntl_setfd},
};
use switchyard::{config::proxy::Kind, model::proxy_protocol::Version};

use super::behind_balancers;
use crate::{
    front::{self, Front, eventually},
    raw::{self, Wire},
    upstream::{Seen, Upstream, ok},
};

/// A running program of others. Killed when dropped, and with it what it has started.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.0.wait().ok();
    }
}

/// Starts `name`, with what it says in `log`.
fn start(name: &str, log: &Path, arguments: &[&str], environment: Option<(&str, String)>) -> Peer {
    let log = std::fs::File::create(log).unwrap();
    // Debian has servers where the path of users does not lead.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(OsString::from(":/usr/sbin:/sbin:/usr/local/sbin"));
    let mut command = Command::new("env");
    command.arg(name).args(arguments).env("PATH", path).envs(environment);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Peer(command.spawn().unwrap())
}

/// A socket that a child gets under the same number: so the system picks the port, and nobody else can take it.
fn inherited() -> (TcpListener, SocketAddr, i32) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let (address, number) = (listener.local_addr().unwrap(), listener.as_raw_fd());
    (listener, address, number)
}

/// Until the program answers; what it said if it does not.
fn answers(at: SocketAddr, log: &Path) {
    let said = || std::fs::read_to_string(log).unwrap_or_default();
    let begun = switchyard::clock::now();
    let asked = || {
        let mut wire = Wire::connect(at).patience(std::time::Duration::from_millis(500));
        wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n")
            .is_ok_and(|a| a.status() == 200)
    };
    while !asked() {
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(10),
            "it does not answer; it said: {}",
            said()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn haproxy_passes_its_clients_on() {
    let mirror = |seen: &Seen| ok(seen.head.get("x-forwarded-for").unwrap_or("nobody"));
    let upstream = Upstream::start(mirror);
    let front = Front::start(behind_balancers(&[upstream.address]));
    for (send, check) in [("send-proxy", "PROXY UNKNOWN"), ("send-proxy-v2", "LOCAL")] {
        let dir = tempfile::tempdir().unwrap();
        let (_socket, address, number) = inherited();
        let file = dir.path().join("haproxy.cfg");
        let text = format!(
            "global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             listen front\n  bind fd@{number}\n  server ours {} {send} check inter 100ms\n",
            front.address
        );
        std::fs::write(&file, text).unwrap();
        let log = dir.path().join("log");
        let _haproxy = start("haproxy", &log, &["-db", "-f", file.to_str().unwrap()], None);
        answers(address, &log);
        // Another address than that of the balancer's own connections.
        let from: SocketAddr = "127.0.0.9:0".parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tcp = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(from).unwrap();
            socket.connect(address).await.unwrap().into_std().unwrap()
        });
        tcp.set_nonblocking(false).unwrap();
        let mut wire = Wire::new(tcp);
        for _ in 0..3 {
            let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n\r\n").unwrap();
            assert_eq!(answer.text(), "127.0.0.9", "{send}");
        }
        // Its checks, which begin with a header of their own, are no faults.
        let metrics = front.metrics();
        assert!(!metrics.contains("proxy-header"), "{check}: {metrics}");
    }
}

#[test]
fn nginx_is_told_the_client() {
    for version in [Version::V1, Version::V2] {
        let dir = tempfile::tempdir().unwrap();
        let (_socket, address, number) = inherited();
        let (file, log) = (dir.path().join("nginx.conf"), dir.path().join("log"));
        let at = dir.path().display();
        let text = format!(
            "daemon off; worker_processes 1; pid {at}/pid; error_log stderr; events {{ }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {at}/a; proxy_temp_path {at}/b;\n  \
             fastcgi_temp_path {at}/c; uwsgi_temp_path {at}/d; scgi_temp_path {at}/e;\n  \
             server {{\n    listen {address} proxy_protocol;\n    \
             location = /readyz {{ return 200 \"ok\"; }}\n    \
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port\"; }}\n  \
             }}\n}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let inherit = Some(("NGINX", format!("{number};")));
        let arguments = ["-p", dir.path().to_str().unwrap(), "-e", "stderr", "-c", file.to_str().unwrap()];
        let _nginx = start("nginx", &log, &arguments, inherit);
        let mut config = front::config(Kind::Controller, &[address]);
        config.services[0].proxy_protocol = Some(version);
        let front = Front::start_unproven(config);
        answers(front.address, &log);
        eventually("its probes are good", || front.view().services[0].upstreams[0].health == "up");
        let mut wire = Wire::connect(front.address);
        let port = wire.tcp.local_addr().unwrap().port();
        for _ in 0..3 {
            let answer = wire.ask("GET /api/v1/vm HTTP/1.1\r\nHost: front\r\n\r\n").unwrap();
            assert_eq!(answer.text(), format!("127.0.0.1 {port} {}", front.address.port()));
        }
        // Without a header it refuses: what was asked above did have one.
        let refused = Wire::connect(address).ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(refused.is_err() || refused.is_ok_and(|answer: raw::Answer| answer.status() != 200));
    }
}
