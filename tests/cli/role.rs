//! A role's process: what it does around the role itself.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{run, switchyard};

/// A registry that runs; killed when the test ends, however that ends.
struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Running {
    fn start(folder: &Path, grace: &str, with: impl FnOnce(&mut Command)) -> (Self, PathBuf) {
        let (file, addresses, log) = (folder.join("r.toml"), folder.join("address"), folder.join("log"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\naddress_file = {addresses:?}\n[shutdown]\ngrace = \"{grace}\"\n\
             [storage]\ndisk = {:?}\n[limits]\nreserve = \"1MiB\"\n",
            folder.join("content")
        );
        fs::write(&file, text).unwrap();
        let mut command = switchyard();
        command.args(["registry", "-c", file.to_str().unwrap()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        with(&mut command);
        let child = command.spawn().unwrap();
        let mut running = Self { child, address: String::new() };
        running.address = soon("address file", || fs::read_to_string(&addresses).ok()).trim().to_owned();
        soon("start", || fs::read_to_string(&log).unwrap().contains("\"started\"").then_some(()));
        (running, log)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        soon("end", || self.child.try_wait().unwrap()).code()
    }
}

/// Reads up to the end of one head.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

/// A push whose body the registry waits for and never gets to its end.
fn unfinished_push(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut ask = |request: String| {
        stream.write_all(request.as_bytes()).unwrap();
        head(&mut stream)
    };
    let begun =
        ask(format!("POST /v2/x/blobs/uploads/ HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"));
    let path = begun.lines().find_map(|line| line.strip_prefix("location: "));
    let path = path.unwrap_or_else(|| panic!("no location in {begun}"));
    // The answer to `Expect` proves that the request is under way.
    let goes_on = ask(format!(
        "PATCH {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    ));
    assert!(goes_on.starts_with("HTTP/1.1 100"), "{goes_on}");
    stream.write_all(b"half").unwrap();
    stream
}

#[test]
fn a_second_signal_stops_at_once_what_the_first_one_drains() {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, log) = Running::start(folder.path(), "10m", |_| {});
    let _push = unfinished_push(&running.address);
    running.signal(Signal::TERM);
    soon("drain", || fs::read_to_string(&log).unwrap().contains("\"stopping\"").then_some(()));
    assert!(running.child.try_wait().unwrap().is_none(), "the push is still running");
    running.signal(Signal::INT);
    assert_eq!(running.ended(), Some(0));
    assert!(fs::read_to_string(&log).unwrap().contains("on a second signal"));
}

#[test]
fn what_runs_is_cut_at_the_end_of_the_grace() {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, _) = Running::start(folder.path(), "300ms", |_| {});
    let _push = unfinished_push(&running.address);
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn the_service_manager_is_told_of_readiness_and_of_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).trim().to_owned()
    };
    let (mut running, _) = Running::start(folder.path(), "5s", |command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    assert_eq!(told(), "READY=1");
    running.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn a_reload_says_whether_the_file_is_right_and_what_needs_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, log) = Running::start(folder.path(), "5s", |_| {});
    let file = folder.path().join("r.toml");
    let good = fs::read_to_string(&file).unwrap();
    let says = |text: &str| soon(text, || fs::read_to_string(&log).unwrap().contains(text).then_some(()));
    running.signal(Signal::HUP);
    says("nothing changed");
    fs::write(&file, good.replace("1MiB", "2MiB")).unwrap();
    running.signal(Signal::HUP);
    says("need a restart");
    fs::write(&file, good.replace("reserve", "reserv")).unwrap();
    running.signal(Signal::HUP);
    says("did you mean `reserve`?");
    assert!(running.child.try_wait().unwrap().is_none(), "the old config serves on");
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn a_broken_file_is_exit_2_with_the_words_of_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    fs::write(&file, "[server]\nlisten = \":0\"\n[storage]\ndisk = \"/tmp\"\n").unwrap();
    let file = file.to_str().unwrap();
    let (checked, started) = (run(&["check", file]), run(&["registry", "-c", file]));
    assert_eq!(started.code, Some(2));
    assert_eq!(checked.err, started.err);
}

#[test]
fn a_busy_port_is_exit_1_and_names_address_holder_and_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    let disk = folder.path().join("content");
    let text = format!("[server]\nlisten = \"{address}\"\n[storage]\ndisk = \"{}\"\n", disk.display());
    fs::write(&file, text).unwrap();
    let said = run(&["registry", "-c", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    let last = said.err.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_default().to_owned();
    assert!(last.contains(&address.to_string()) && last.contains("server.listen"), "{last}");
    assert!(last.contains(&format!("(pid {})", std::process::id())), "{last}");
}

#[test]
fn what_became_of_the_vendors_variables_is_logged_first_and_never_their_values() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    fs::write(
        &file,
        format!("[server]\nlisten = \"{}\"\n[storage]\ndisk = \"/x\"\n", taken.local_addr().unwrap()),
    )
    .unwrap();
    let output = switchyard()
        .args(["registry", "-c", file.to_str().unwrap()])
        .env("ANKA_BASE_PATH", folder.path().join("content"))
        .env("ANKA_ROOT_TOKEN", "a-very-secret-token")
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let line = |name: &str| err.lines().find(|line| line.contains(name)).unwrap_or_default();
    assert!(line("ANKA_BASE_PATH").contains("environment variable honoured"), "{err}");
    assert!(line("ANKA_ROOT_TOKEN").contains("environment variable honoured"), "{err}");
    assert!(!err.contains("a-very-secret-token"), "{err}");
}

#[test]
fn an_agent_without_controllers_says_how_to_name_one() {
    let said = run(&["agent", "run"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.starts_with("error: no controller is named\nhint: "), "{}", said.err);
    let said = run(&["agent", "join", "front:8090", "--heartbeat", "5"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("write `http://front:8090`") && said.err.contains("--> flag URL"),
        "{}",
        said.err
    );
    assert!(said.err.contains("write `\"5s\"`") && said.err.contains("--> flag --heartbeat"), "{}", said.err);
}
