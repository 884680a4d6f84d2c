//! Whoever reads what commands print may go away in the middle, and controllers may say no: commands end as they should, and
//! what was begun is told.

use std::{
    io::{PipeWriter, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::program::{Said, run, switchyard};

/// The end of a pipe that nobody reads.
fn unread() -> PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

/// A server that answers so to what begins so; 404 to the rest. Its address.
fn server(answers: &'static [(&'static str, u16, &'static str)]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, answers));
        }
    });
    address
}

fn answer(mut stream: TcpStream, answers: &[(&str, u16, &str)]) {
    let mut asked = Vec::new();
    let mut byte = [0];
    while !asked.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => asked.push(byte[0]),
            _ => return,
        }
    }
    let asked = String::from_utf8(asked).unwrap();
    let length = asked
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    let whole = format!("{asked}{}", String::from_utf8_lossy(&body));
    let found = answers.iter().find(|(begins, ..)| match begins.split_once('|') {
        Some((begins, has)) => whole.starts_with(begins) && whole.contains(has),
        None => whole.starts_with(begins),
    });
    let (status, text) = found.map_or((404, "{}"), |(_, status, text)| (*status, *text));
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{text}").as_bytes()).ok();
}

/// Its end, within some seconds.
fn ended(command: &mut Command) -> Said {
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        if child.try_wait().unwrap().is_some() {
            return child.wait_with_output().unwrap().into();
        }
        if Instant::now() >= until {
            child.kill().unwrap();
            panic!("it goes on: {:?}", Said::from(child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

const EMPTY: &[(&str, u16, &str)] =
    &[("GET /switchyard/v1/instances", 200, r#"{"revision":1,"instances":[]}"#)];

#[test]
fn an_error_that_nobody_reads_ends_a_command_as_it_would_anyway() {
    let wrong = ["vm", "save", "i-1", "--tag", "v1"];
    let said: Said = switchyard().args(wrong).stderr(unread()).output().unwrap().into();
    assert_eq!(said.code, Some(2));
    // A note in its middle is no end of it either.
    let address = server(EMPTY);
    let list = ["vm", "list", "--controller", &address];
    let said: Said = switchyard().args(list).stderr(unread()).output().unwrap().into();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("STATE"), "{said:?}");
}

#[test]
fn a_watch_whose_reader_has_gone_ends() {
    let address = server(EMPTY);
    for output in ["text", "json"] {
        let watch = ["vm", "list", "--watch=1", "--output", output, "--controller", &address];
        let said = ended(switchyard().args(watch).stdout(unread()).stderr(Stdio::piped()));
        assert_eq!(said.code, Some(0), "{said:?}");
    }
}

#[test]
fn a_wait_that_fails_names_what_was_started() {
    let address = server(&[
        (
            "GET /api/v1/registry/vm",
            200,
            r#"{"status":"OK","message":"","body":[{"id":"t-1","name":"sonoma"}]}"#,
        ),
        ("POST /api/v1/vm", 200, r#"{"status":"OK","message":"","body":["i-7","i-8"]}"#),
        ("GET /api/v1/vm", 403, r#"{"status":"FAIL","message":"Permission denied: it needs `list_vms`"}"#),
    ]);
    let said = run(&["vm", "start", "sonoma", "--count", "2", "--wait", "--controller", &address]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("Permission denied"), "{said:?}");
    assert!(said.err.contains("switchyard vm terminate i-7 i-8"), "{said:?}");
}

#[test]
fn one_instance_that_is_not_there_keeps_no_other_from_being_terminated() {
    let address = server(&[
        ("DELETE /api/v1/vm|i-7", 200, r#"{"status":"FAIL","message":"Not found"}"#),
        ("DELETE /api/v1/vm", 200, r#"{"status":"OK","message":""}"#),
    ]);
    let said = run(&["vm", "terminate", "i-6", "i-7", "i-8", "--controller", &address]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), "to be deleted: i-6, i-8\n"), "{said:?}");
    assert!(said.err.contains("has no instance `i-7`"), "{said:?}");
}

#[test]
fn one_node_that_is_not_there_is_told_before_others_are_drained_and_what_was_done_is_told() {
    macro_rules! node {
        ($id:literal, $name:literal) => {
            concat!(
                r#"{"node_id":""#, $id, r#"","node_name":""#, $name, r#"","cpu_count":8,"ram":16,"vm_count":0,
                "vcpu_count":0,"vram":0,"cpu_util":0,"ram_util":0,"ip_address":"","state":"Active","capacity":2,"groups":[],
                "anka_version":{"product":"","version":"","build":"","license":""},"usb_devices":[],"capacity_mode":"number",
                "vcpu_override":0,"ram_override":0,"disk_size":0,"free_disk_space":0,"anka_disk_usage":0,"host_arch":"arm64",
                "templates":[],"last_updated":"2026-01-04T09:18:03Z","timestamp":0,"agent_version":""}"#
            )
        };
    }
    const LIST: &str =
        concat!(r#"{"status":"OK","message":"","body":["#, node!("n-1", "a"), ",", node!("n-2", "b"), "]}");
    const DONE: &str = r#"{"status":"OK","message":""}"#;
    let address = server(&[
        ("GET /api/v1/node", 200, LIST),
        ("POST /api/v1/node/config|n-2", 403, r#"{"status":"FAIL","message":"Permission denied: no"}"#),
        ("POST /api/v1/node/config", 200, DONE),
    ]);
    let said = run(&["node", "drain", "a", "c", "--controller", &address]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.err.contains("no node `c`") && !said.err.contains("before"), "{said:?}");
    let said = run(&["node", "drain", "a", "b", "--controller", &address]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("changed before: a") && said.err.contains("Permission denied"), "{said:?}");
}

#[test]
fn what_others_have_named_does_nothing_to_the_terminal() {
    let address = server(&[(
        "GET /api/v1/group",
        200,
        r#"{"status":"OK","message":"","body":[{"id":"g","name":"a\u001b[2Jb","description":"two\nlines","fallback_group_id":null}]}"#,
    )]);
    let said = run(&["group", "list", "--controller", &address]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(r"a\u{1b}[2Jb") && said.out.contains("two lines"), "{said:?}");
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
}

#[test]
fn a_time_that_no_clock_can_be_moved_on_by_is_refused() {
    let said = run(&["vm", "terminate", "i-1", "--wait", "--wait-timeout", "100000000000y"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("at most 100 years"), "{said:?}");
}
