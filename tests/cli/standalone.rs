//! `switchyard standalone` from outside: starts, refuses what would go wrong, stops.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::program::{Said, switchyard};

/// A running cloud with ports of its own; it is killed when the test ends, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn arguments<'a>(data: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["standalone", "--data", data.to_str().unwrap()];
    for flag in ["--controllers-addr", "--registries-addr", "--admin-addr"] {
        if !more.contains(&flag) {
            arguments.extend([flag, "127.0.0.1:0"]);
        }
    }
    arguments.extend(more);
    arguments
}

fn start(data: &Path, addresses: &Path) -> Running {
    let mut command = switchyard();
    command.args(arguments(data, &["--address-file", addresses.to_str().unwrap()]));
    let running = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    running.wait_until_up(addresses)
}

impl Running {
    fn wait_until_up(mut self, addresses: &Path) -> Self {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !addresses.exists() {
            if let Some(status) = self.0.try_wait().unwrap() {
                let mut err = String::new();
                self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
                panic!("it ended with {status}: {err}");
            }
            assert!(Instant::now() < deadline, "no address file after 30 s");
            std::thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }

    fn ended(mut self, within: Duration) -> Said {
        let deadline = Instant::now() + within;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "it did not end within {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        Said { code: self.0.wait().unwrap().code(), out, err }
    }
}

/// Starts one that must end by itself, soon.
fn refused(arguments: &[&str]) -> Said {
    let begun = Instant::now();
    let child = switchyard().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = Running(child).ended(Duration::from_secs(10));
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?} to say so", begun.elapsed());
    said
}

#[test]
fn it_says_where_it_is_stops_at_once_when_asked_and_comes_back_on_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let (data, addresses) = (folder.path().join("data"), folder.path().join("addresses.json"));
    for _ in 0..2 {
        let running = start(&data, &addresses);
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&addresses).unwrap()).unwrap();
        for front in ["controllers", "registries", "admin"] {
            let address = told[front].as_str().unwrap_or_else(|| panic!("no `{front}` in {told}"));
            std::net::TcpStream::connect(address)
                .unwrap_or_else(|error| panic!("{front} at {address}: {error}"));
        }
        assert_eq!(told["controller"].as_array().unwrap().len(), 2, "{told}");
        std::fs::remove_file(&addresses).unwrap();
        let begun = Instant::now();
        rustix::process::kill_process(running.pid(), rustix::process::Signal::TERM).unwrap();
        let said = running.ended(Duration::from_secs(15));
        assert_eq!(said.code, Some(0), "{}", said.err);
        // Nothing runs that would have to be waited for: parked polls end by themselves.
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "the stop took {:?}: {}",
            begun.elapsed(),
            said.err
        );
        for line in ["controllers   http://", "registries    http://", "skopeo copy", "/api/v1/vm"] {
            assert!(said.out.contains(line), "no `{line}` in {}", said.out);
        }
    }
}

#[test]
fn the_lines_that_it_prints_work_when_copied() {
    let folder = tempfile::tempdir().unwrap();
    // A blank and a quote in the path: the lines must be right for a shell.
    let (data, addresses) = (folder.path().join("it's data"), folder.path().join("addresses.json"));
    let mut running = start(&data, &addresses);
    let mut printed = Vec::new();
    let mut out = BufReader::new(running.0.stdout.take().unwrap());
    while !printed.last().is_some_and(|line: &String| line.starts_with("Ctrl-C")) {
        let mut line = String::new();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ends with the line about Ctrl-C: {printed:?}");
        printed.push(line);
    }
    let lines = printed.iter().skip_while(|line| !line.starts_with("Try in another terminal"));
    let lines: Vec<&str> = lines.filter_map(|line| line.strip_prefix("  ")).collect();
    assert!(lines.len() >= 6, "{printed:?}");
    // A newcomer copies with pauses; until the node has joined, the start waits as it would for him.
    let script = format!("set -eu -o pipefail\n{}", lines.concat());
    let said: Said = Command::new("bash").args(["-c", &script]).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}\n{script}");
    let answers: Vec<&str> = said.out.lines().flat_map(|line| line.split_inclusive("]}{")).collect();
    assert!(!said.out.contains("FAIL"), "{answers:?}");
    assert_eq!(said.out.matches("\"status\":\"OK\"").count(), 4, "show, list, nodes, end: {answers:?}");
    assert!(said.out.contains("\"instance_state\":\""), "{answers:?}");
}

#[test]
fn a_second_one_on_the_same_directory_names_the_pid_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (data, addresses) = (folder.path().join("data"), folder.path().join("addresses.json"));
    let first = start(&data, &addresses);
    let second = refused(&arguments(&data, &[]));
    assert_eq!(second.code, Some(1));
    let pid = first.pid().as_raw_nonzero();
    assert!(second.err.starts_with("error: "), "{}", second.err);
    assert!(second.err.contains(&format!("is in use by the process with pid {pid}")), "{}", second.err);
    assert!(second.err.contains("hint: "), "{}", second.err);
}

#[test]
fn a_busy_port_is_exit_1_and_names_address_holder_and_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--controllers-addr", "--registries-addr", "--admin-addr"] {
        let folder = tempfile::tempdir().unwrap();
        let said = refused(&arguments(folder.path(), &[flag, &address]));
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(&address) && said.err.contains(flag), "{}", said.err);
        assert!(said.err.contains(&format!("(pid {})", std::process::id())), "{}", said.err);
    }
}

#[test]
fn etcd_is_refused_where_an_embedded_store_is() {
    let folder = tempfile::tempdir().unwrap();
    let (data, addresses) = (folder.path().join("data"), folder.path().join("addresses.json"));
    let first = start(&data, &addresses);
    rustix::process::kill_process(first.pid(), rustix::process::Signal::TERM).unwrap();
    assert_eq!(first.ended(Duration::from_secs(15)).code, Some(0));
    let said = refused(&arguments(&data, &["--etcd", "http://127.0.0.1:1"]));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("already holds an embedded store"), "{}", said.err);
    assert!(said.err.contains("switchyard store export"), "{}", said.err);
}

#[test]
fn no_registry_and_wrong_urls_are_bad_usage() {
    let folder = tempfile::tempdir().unwrap();
    let said = refused(&arguments(folder.path(), &["--registries", "0"]));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("--registries"), "{}", said.err);
    let said = refused(&arguments(folder.path(), &["--etcd", "127.0.0.1:2379"]));
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("http://"), "{}", said.err);
}
