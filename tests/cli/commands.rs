//! What the pages tell people to type and to write is tried: every command of `README.md` and `docs/` runs here, against a
//! cloud that is started by the README's own lines and by `conf/`, and every piece of a config passes `check`.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use switchyard::config::{Env, load};
use toml::Table;

use crate::{
    program::{Said, in_project, switchyard},
    reference::{Files, merge},
};

/// Commands that are not run here, by how they begin, and why.
const NOT_HERE: &[(&str, &str)] = &[
    (
        "scripts/standalone",
        "it builds what is built already; tests/cluster/standalone.rs runs what it starts",
    ),
    ("scripts/test", "this is a part of it"),
    ("scripts/bench", "it needs an idle machine; scripts/test runs it with --quick"),
    ("scripts/prove", "it runs for minutes, by itself"),
    ("unshare -n", "it runs scripts/bench, in a network of its own"),
    ("cargo bench", "it needs an idle machine; scripts/prove runs it, and clippy builds it"),
];

/// The request that docs/explain.md asks about.
const EXPLAINED: &str = "6e813be0-a9bc-4187-a02a-f0a833f069e7";

/// How the commands begin that go on until they are told to stop.
const ROLES: [&str; 4] =
    ["switchyard controller ", "switchyard registry  ", "switchyard proxy ", "switchyard agent run "];

/// A piece of a page between two fences.
struct Fence {
    at: String,
    language: String,
    text: String,
}

fn fences() -> Vec<Fence> {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(in_project("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages.insert(0, in_project("README.md"));
    let mut found: Vec<Fence> = Vec::new();
    for page in pages {
        let (name, text) = (page.file_name().unwrap().to_owned(), fs::read_to_string(&page).unwrap());
        let mut open: Option<Fence> = None;
        for (line, number) in text.lines().zip(1..) {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(language), None) => {
                    let at = format!("{}:{number}", name.display());
                    open = Some(Fence { at, language: language.trim().into(), text: String::new() });
                }
                (Some(_), Some(fence)) => found.push(fence),
                (None, Some(mut fence)) => {
                    fence.text += line;
                    fence.text.push('\n');
                    open = Some(fence);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fence is not closed", page.display());
    }
    found
}

/// The commands of a piece, each in one line and without what is said of it.
fn commands(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bare = line.trim_end_matches('\\').trim_end();
        match found.last_mut().filter(|_| goes_on) {
            Some(last) => *last = format!("{last} {bare}"),
            None => found.push(bare.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    found
}

/// A cloud in a folder of its own. What is named on the pages is replaced by what is there: addresses, and folders of the
/// system.
struct Cloud {
    folder: tempfile::TempDir,
    replaced: Vec<(String, String)>,
    running: Vec<Child>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // One that came by an upgrade is no child of ours.
        let successor = fs::read_to_string(self.path("run/proxy.pid")).ok();
        if let Some(pid) = successor.and_then(|pid| pid.trim().parse().ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::KILL).ok();
        }
        for child in &mut self.running {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Cloud {
    fn prepare() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kept: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<String> = kept.iter().map(|socket| socket.local_addr().unwrap().to_string()).collect();
        let [front, registries, admin, controller, registry] = ports.try_into().unwrap();
        let dir = folder.path().display().to_string();
        let replaced = [
            ("http://127.0.0.1:9090", format!("http://{admin}")),
            ("http://127.0.0.1:8090", format!("http://{front}")),
            ("http://front:8090", format!("http://{front}")),
            ("http://front:8089", format!("http://{registries}")),
            ("\"0.0.0.0:8090\"]", format!("\"{front}\"]")),
            ("\"0.0.0.0:8089\"]", format!("\"{registries}\"]")),
            ("listen = \"0.0.0.0:8090\"", format!("listen = \"{controller}\"")),
            ("listen = \"0.0.0.0:8089\"", format!("listen = \"{registry}\"")),
            ("10.0.1.4:8090", controller.clone()),
            ("10.0.1.4:8089", registry.clone()),
            ("# listen = \"127.0.0.1:9090\"", format!("listen = \"{admin}\"")),
            ("# cohorts = false", "cohorts = true".into()),
            // There is one of each.
            ("  { name = \"c2\", address = \"10.0.1.5:8090\" },\n", String::new()),
            ("  { name = \"r2\", address = \"10.0.1.5:8089\" },\n", String::new()),
            (
                "etcd = [\"http://10.0.1.4:2379\", \"http://10.0.1.5:2379\", \"http://10.0.1.6:2379\"]",
                format!("embedded = \"{dir}/state\""),
            ),
            ("/srv/registry", format!("{dir}/registry")),
            ("/etc/switchyard/proxy.toml", "conf/proxy.toml".into()),
            ("/usr/bin/", format!("{dir}/bin/")),
            ("/etc/nginx/nginx.conf", "nginx.conf".into()),
            ("/etc/haproxy/haproxy.cfg", "haproxy.cfg".into()),
            ("nginx -T", "cat nginx.conf".into()),
            ("curl -s ", "curl -sf ".into()),
        ];
        let replaced = replaced.map(|(from, to)| (from.to_owned(), to)).to_vec();
        let mut cloud = Self { folder, replaced, running: Vec::new() };
        for name in ["conf", "bin"] {
            fs::create_dir(cloud.path(name)).unwrap();
        }
        for file in ["controller", "registry", "proxy", "agent"] {
            let file = format!("conf/{file}.toml");
            let text = fs::read_to_string(in_project(&file)).unwrap();
            fs::write(cloud.path(&file), cloud.here(&text)).unwrap();
        }
        for (from, to) in
            [("nginx/01-controllers.conf", "nginx.conf"), ("haproxy/01-controllers.cfg", "haproxy.cfg")]
        {
            fs::copy(in_project("tests/import").join(from), cloud.path(to)).unwrap();
        }
        for name in ["bin/switchyard", "switchyard-new"] {
            let (built, here) = (env!("CARGO_BIN_EXE_switchyard"), cloud.path(name));
            fs::hard_link(built, &here).or_else(|_| fs::copy(built, &here).map(drop)).unwrap();
        }
        cloud.replaced.retain(|(from, _)| !from.starts_with('#'));
        drop(kept);
        cloud
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn here(&self, text: &str) -> String {
        self.replaced.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        // The environment of a shell that belongs to nobody's cloud.
        for (name, _) in switchyard().get_envs().filter(|(_, value)| value.is_none()) {
            shell.env_remove(name);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        shell.args(["-c", command]).current_dir(self.folder.path());
        shell.env("PATH", format!("{}:{path}", self.path("bin").display()));
        shell.env("SWITCHYARD_PROXY_RUN_DIR", self.path("run"));
        shell.env("SWITCHYARD_AGENT_DATA", self.path("agent"));
        // How full this machine's disk is, is nobody's business here.
        shell.env("SWITCHYARD_AGENT_RESERVE", "1MiB");
        shell
    }

    /// Starts what goes on, and waits until it says that it has.
    fn start(&mut self, command: &str) {
        let log = self.path(&format!("{}.log", self.running.len()));
        let mut shell = self.shell(&format!("exec {command}"));
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut child = shell.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !fs::read_to_string(&log).unwrap().contains("\"started\"") {
            let ended = child.try_wait().unwrap();
            let text = fs::read_to_string(&log).unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "`{command}`: {ended:?}\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.running.push(child);
    }

    fn run(&self, command: &str) -> Said {
        self.shell(command).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Where the proxy's admin listener is, for commands that ask it.
    fn with_admin(&self, command: &str) -> String {
        // `upgrade` finds it by either.
        let told = ["--admin", " -c "].iter().any(|other| command.contains(other));
        let asks = command.starts_with("switchyard ") && !told;
        let words = command.split_whitespace().take_while(|word| !word.starts_with('-')).take(2);
        let help = words.collect::<Vec<_>>().join(" ") + " --help";
        if asks && self.run(&help).out.contains("--admin <") {
            return format!("{command} --admin {}", self.here("http://127.0.0.1:9090"));
        }
        command.to_owned()
    }

    /// Waits until the proxy knows of its servers; gives the version that its controllers have.
    fn settled(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        let asked = self.with_admin("switchyard cohort controllers");
        loop {
            let said = self.run(&asked);
            let version = said.out.split_whitespace().find(|word| word.contains("-switchyard."));
            if let Some(version) = version {
                return version.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
            }
            assert!(Instant::now() < deadline, "{said:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn every_command_on_the_pages_does_what_it_says() {
    let mut cloud = Cloud::prepare();
    let (mut ran, mut left_out) = (0, Vec::new());
    for fence in fences().iter().filter(|fence| fence.language == "sh") {
        for command in commands(&fence.text) {
            if NOT_HERE.iter().any(|(begin, _)| command.starts_with(begin)) {
                for script in command.split_whitespace().filter(|word| word.starts_with("scripts/")) {
                    assert!(in_project(script).exists(), "{}: there is no {script}", fence.at);
                }
                left_out.push(command);
                continue;
            }
            let here = cloud.here(&command);
            ran += 1;
            if ROLES.iter().any(|role| command.starts_with(role)) {
                cloud.start(&here);
                continue;
            }
            let here = cloud.with_admin(&here);
            let said = cloud.run(&here);
            assert_eq!(
                said.code,
                Some(0),
                "{}: `{command}`, here `{here}`:\n{}{}",
                fence.at,
                said.out,
                said.err
            );
        }
        if cloud.running.len() == ROLES.len()
            && !cloud.replaced.iter().any(|(from, _)| from.starts_with("1.50"))
        {
            let version = cloud.settled();
            let front = cloud.here("http://127.0.0.1:8090");
            let said = cloud.run(&format!("curl -sf -H 'X-Request-Id: {EXPLAINED}' {front}/api/v1/vm"));
            assert_eq!(said.code, Some(0), "{said:?}");
            cloud.replaced.push(("1.50.3-0a1b2c3d".into(), version));
        }
    }
    assert_eq!(cloud.running.len(), ROLES.len(), "the README starts each role");
    assert!(ran >= 15, "only {ran} commands were found");
    for (begin, why) in NOT_HERE {
        assert!(left_out.iter().any(|command| command.starts_with(begin)), "{begin} ({why}) is on no page");
    }
}

/// A fence says what is in it, or this test would pass it over.
#[test]
fn every_piece_of_a_page_says_what_it_is() {
    for fence in fences() {
        let known = ["sh", "toml", "json", "text", "rust"].contains(&fence.language.as_str());
        assert!(known, "{}: `{}`", fence.at, fence.language);
        let typed =
            fence.text.lines().any(|line| line.starts_with("switchyard ") || line.starts_with("curl "));
        assert!(fence.language == "sh" || !typed, "{}: commands are in `sh`", fence.at);
    }
}

/// Whether this piece is good in a file of some role that has what the piece does not say.
fn passes(files: &Files, piece: &str) -> Result<(), String> {
    let here = |name: &str| format!("\"{}\"", files.folder.path().join(name).display());
    let mut piece = piece.to_owned();
    for name in
        ["front.pem", "front.key", "ca.pem", "ca.crl", "root.token", "node.key", "agent.pem", "agent.key"]
    {
        piece = piece.replace(&format!("\"{name}\""), &here(name));
    }
    for service in ["controllers", "registries"] {
        piece = piece.replace(&format!("[service.{service}"), "[service.s");
        piece = piece.replace(&format!("service = \"{service}\""), "service = \"s\"");
    }
    let of_service = format!("[service.s]\n{piece}");
    let mut whys = Vec::new();
    for text in [piece, of_service] {
        let Ok(table) = text.parse::<Table>() else { continue };
        for (role, around) in [
            ("proxy", ""),
            ("proxy", "service.*.writer"),
            ("controller", ""),
            ("registry", ""),
            ("agent", ""),
        ] {
            let mut file = files.around(role, around);
            // Of two places for content a file names one.
            if table.get("storage").is_some_and(|storage| storage.get("shared").is_some())
                && let Some(storage) = file.get_mut("storage").and_then(toml::Value::as_table_mut)
            {
                storage.remove("disk");
            }
            merge(&mut file, table.clone());
            let path = files.folder.path().join("piece.toml");
            fs::write(&path, file.to_string()).unwrap();
            match load(&path, &Env::default()) {
                Ok(_) => return Ok(()),
                Err(faults) => whys.push(format!("{role}: {faults}")),
            }
        }
    }
    Err(whys.join("\n"))
}

#[test]
fn every_piece_of_a_config_on_the_pages_passes() {
    let files = Files::new();
    let mut seen = 0;
    for fence in fences().iter().filter(|fence| fence.language == "toml") {
        seen += 1;
        if passes(&files, &fence.text).is_ok() {
            continue;
        }
        // Lines that say the same key in several ways.
        for line in fence.text.lines().filter(|line| line.contains(" = ")) {
            let whole = passes(&files, line);
            assert!(whole.is_ok(), "{}: {line}\n{}", fence.at, whole.unwrap_err());
        }
        let heads = fence.text.lines().filter(|line| line.starts_with('[')).count();
        assert_eq!(heads, 0, "{}: {}", fence.at, passes(&files, &fence.text).unwrap_err());
    }
    assert!(seen >= 7, "only {seen} pieces were found");
    let wrong = passes(&files, "[limits]\nconnections = 0\n");
    assert!(wrong.is_err_and(|why| why.contains("use a whole number")));
}

#[test]
fn what_the_page_about_errors_quotes_is_said() {
    let page = fs::read_to_string(in_project("docs/errors.md")).unwrap();
    let (_, table) = page.split_once("\n| it says |").unwrap();
    let mut code = String::new();
    read_all(&in_project("src"), &mut code);
    let quoted = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let missing: Vec<&str> = quoted.filter(|text| !code.contains(text)).collect();
    assert!(missing.is_empty(), "nobody says {missing:?}");
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            *into += &fs::read_to_string(&path).unwrap_or_default();
        }
    }
}

#[test]
fn pieces_are_read_as_a_shell_reads_them() {
    let text = "a b   # why\n# alone\n\nc \\\n  d\n";
    assert_eq!(commands(text), ["a b", "c d"]);
}
