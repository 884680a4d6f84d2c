//! A real Chromium without a screen, told what to do over a pipe: its debugging protocol as messages that end with a zero
//! byte, so no library for it is needed.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use switchyard::clock;

use super::not_run;

/// For one answer of the browser.
const PATIENCE: Duration = Duration::from_secs(30);

const NAMES: [&str; 2] = ["chromium", "chromium-browser"];

/// A running browser with one page.
pub struct Browser {
    child: Child,
    tell: ChildStdin,
    told: Receiver<Value>,
    last: u64,
    session: String,
    /// What is typed when a site asks who one is, in turn; behind the last the prompt is closed.
    typed: Vec<(String, String)>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one. Without Chromium the scenario is listed as not run, or fails when the run is strict.
    pub fn start(scenario: &str) -> Option<Self> {
        let is_here =
            |name: &str| Command::new(name).arg("--version").output().is_ok_and(|said| said.status.success());
        let Some(name) = NAMES.into_iter().find(|name| is_here(name)) else {
            not_run::list(scenario, "`chromium`, which is not installed here");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        // It reads from descriptor 3 and writes to 4.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#, "sh", name])
            .args([
                "--headless",
                "--remote-debugging-pipe",
                "--no-first-run",
                "--disable-gpu",
                "--no-sandbox",
            ])
            .args(["--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let (tell, mut says) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (heard, told) = mpsc::channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while says.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                if heard.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut made =
            Self { child, tell, told, last: 0, session: String::new(), typed: Vec::new(), _profile: profile };
        let target = made.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        made.session = made.call("Target.attachToTarget", target)["sessionId"].as_str().unwrap().to_owned();
        made.call("Page.enable", json!({}));
        made.call("Runtime.enable", json!({}));
        made.call("Log.enable", json!({}));
        Some(made)
    }

    /// One command of the protocol, to the page once there is one.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let asked = self.send(method, params);
        let until = clock::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(clock::now());
            let heard = self.told.recv_timeout(left).unwrap_or_else(|_| panic!("no answer to {method}"));
            if heard["id"] == asked {
                return if heard["error"].is_null() {
                    Ok(heard["result"].clone())
                } else {
                    Err(heard["error"].clone())
                };
            }
            self.prompted(&heard);
            // What the page complains of, a script or a style that its policy forbids, is a fault.
            let said = heard["method"].as_str().unwrap_or_default();
            let level = heard["params"]["entry"]["level"].as_str();
            let harmless = heard["params"]["entry"]["source"] == "network";
            assert!(said != "Runtime.exceptionThrown", "{heard}");
            assert!(said != "Log.entryAdded" || level != Some("error") || harmless, "{heard}");
        }
    }

    /// Sends a command; its number.
    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut text = serde_json::to_vec(&message).unwrap();
        text.push(0);
        self.tell.write_all(&text).unwrap();
        self.last
    }

    /// Who sits before it types these, name and password, one after the other as often as a site asks.
    pub fn types(&mut self, typed: &[(&str, &str)]) {
        self.typed = typed.iter().map(|(name, password)| ((*name).into(), (*password).into())).collect();
        self.call("Fetch.enable", json!({ "handleAuthRequests": true }));
    }

    /// Does what a user does who is asked.
    fn prompted(&mut self, heard: &Value) {
        let request = json!({ "requestId": heard["params"]["requestId"] });
        match heard["method"].as_str().unwrap_or_default() {
            "Fetch.requestPaused" => {
                self.send("Fetch.continueRequest", request);
            }
            "Fetch.authRequired" => {
                let answer = match self.typed.is_empty() {
                    true => json!({ "response": "CancelAuth" }),
                    false => {
                        let (name, password) = self.typed.remove(0);
                        json!({ "response": "ProvideCredentials", "username": name, "password": password })
                    }
                };
                let mut request = request;
                request["authChallengeResponse"] = answer;
                self.send("Fetch.continueWithAuth", request);
            }
            _ => {}
        }
    }

    /// Goes there.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// What an expression is in the page; null if it has none, or while one page goes and the next comes.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        self.try_call("Runtime.evaluate", asked).map_or(Value::Null, |said| said["result"]["value"].clone())
    }

    /// Waits until an expression holds; how long that took.
    pub fn until(&mut self, expression: &str, within: Duration) -> Duration {
        let begun = clock::now();
        while self.value(expression) != true {
            if begun.elapsed() > within {
                let text = self.value("document.body.innerText");
                panic!("not within {within:?}: {expression}\n{}", text.as_str().unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(50));
        }
        begun.elapsed()
    }

    /// The size of its window; `dark` is what the user prefers.
    pub fn looks(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// A picture of the whole page, as `NAME.png` in the folder of `SWITCHYARD_TEST_PICTURES`, if that is given.
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("SWITCHYARD_TEST_PICTURES") else { return };
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let taken = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let bytes = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // With its processes: they are a group.
        let group = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        self.child.wait().ok();
    }
}
