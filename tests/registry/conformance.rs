//! The OCI Distribution Specification v1.1 as a table: each case in `conformance/*.txt` is a few requests and what must come
//! back. All of them run over real sockets on every kind of storage; a failure tells the case and the line.
//!
//! A case begins with `== NAME` and has a repository of its own, `R`. Its lines:
//!
//! * `let X = text …`, `noise SEED LENGTH`, `image CONFIG LAYER…`, `index MANIFEST…`, `about SUBJECT TYPE`: a body;
//! * `push X`: X is a blob of `R`; `put X as TAG`: X is a manifest there;
//! * `METHOD PATH | header: value … < BODY`: a request (`< X[a..b]` sends a part);
//! * indented: `STATUS CODE | header: value … > BODY`: the status, the error code in the standard body, and what else
//!   must be there. Of a header `*` says that it is there, `-` that it is not, `=name` keeps it. `/pointer = JSON` is in the
//!   body, `empty` says that there is none.
//!
//! `{sha256 X}`, `{sha512 X}`, `{len X}`, `{fallback X}` (the tag for referrers) and `{name}` stand for what they say.

use std::{collections::HashMap, path::Path};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use switchyard::{config::registry::Storage, model::Algorithm};

use crate::rig::{MANIFEST, Rig, config, limits, noise};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A kind of storage, and how a config names it.
type Kind = (&'static str, fn(&Path) -> Storage);

const KINDS: &[Kind] =
    &[("disk", |dir| Storage::Disk(dir.to_owned())), ("shared", |dir| Storage::Shared(dir.to_owned()))];

const CATEGORIES: &[(&str, &str)] = &[
    ("pull", include_str!("conformance/pull.txt")),
    ("push", include_str!("conformance/push.txt")),
    ("discovery", include_str!("conformance/discovery.txt")),
    ("management", include_str!("conformance/management.txt")),
];

/// Fewer, and cases were lost.
const AT_LEAST: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn the_specification_holds_on_every_kind_of_storage() {
    for (kind, storage) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), limits());
        config.storage = storage(dir.path());
        config.limits.manifest = 64 * 1024;
        let rig = &Rig::of(config, dir.path()).await;
        let cases: Vec<Case> = CATEGORIES.iter().flat_map(|(name, text)| Case::all(name, text)).collect();
        assert!(cases.len() >= AT_LEAST, "{} cases", cases.len());
        let runs = cases.iter().enumerate().map(|(number, case)| async move {
            let ran = case.run(rig, number).await;
            ran.err().map(|why| format!("{kind}, {}: {}\n    {why}", case.category, case.name))
        });
        let failed: Vec<String> =
            stream::iter(runs).buffer_unordered(8).filter_map(|why| async { why }).collect().await;
        assert!(failed.is_empty(), "{} of {} cases\n{}", failed.len(), cases.len(), failed.join("\n"));
    }
}

/// Of a table that finds nothing wrong nobody knows whether it looks.
#[tokio::test]
async fn what_is_not_as_the_table_says_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let wrong = [
        "GET /v2/\n  201",
        "GET /v2/R/tags/list\n  404 NAME_INVALID",
        "GET /v2/R/tags/list\n  404 NAME_UNKNOWN | link: *",
        "GET /v2/R/tags/list\n  404 NAME_UNKNOWN | content-type: -",
        "GET /v2/R/tags/list\n  404 NAME_UNKNOWN | content-type: text/plain",
        "GET /v2/R/tags/list\n  404 NAME_UNKNOWN | empty",
        "GET /v2/R/tags/list\n  404 NAME_UNKNOWN | /errors/0/code = \"OTHER\"",
        "let a = text x\nlet b = text y\npush a\nGET /v2/R/blobs/{sha256 a}\n  200 > b",
        "let a = text x\nlet b = text y\nPOST /v2/R/blobs/uploads/?digest={sha256 a} < b\n  201",
        "let a = text nonsense\nput a as v1",
        "GET /v2/",
    ];
    for (number, text) in wrong.into_iter().enumerate() {
        let text = format!("== wrong\n{text}");
        let cases = Case::all("wrong", &text);
        assert!(cases[0].run(&rig, number).await.is_err(), "{text}");
    }
}

struct Case<'a> {
    category: &'a str,
    name: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Case<'a> {
    fn all(category: &'a str, text: &'a str) -> Vec<Self> {
        let mut cases: Vec<Self> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            match (line.strip_prefix("== "), cases.last_mut()) {
                (Some(name), _) => cases.push(Self { category, name, lines: Vec::new() }),
                (None, Some(case)) => case.lines.push(line),
                (None, None) => panic!("{category}: `{line}` is in no case"),
            }
        }
        cases
    }

    async fn run(&self, rig: &Rig, number: usize) -> Result<(), String> {
        let mut run = Run::new(rig, format!("spec/c{number}"));
        let mut lines = self.lines.iter().peekable();
        while let Some(line) = lines.next() {
            let at = |why: String| format!("`{line}`: {why}");
            match line.split_once(' ').unwrap_or_default() {
                ("let", rest) => run.name(rest),
                ("push", blob) => run.push(blob).await.map_err(at)?,
                ("put", rest) => run.put(rest).await.map_err(at)?,
                _ => {
                    let wanted = lines.next_if(|line| line.starts_with(' '));
                    let wanted = wanted.ok_or_else(|| at("nothing is wanted of it".into()))?;
                    run.ask(line, wanted).await.map_err(|why| format!("`{line}` →{wanted}: {why}"))?;
                }
            }
        }
        Ok(())
    }
}

struct Run<'a> {
    rig: &'a Rig,
    repository: String,
    bodies: HashMap<String, Vec<u8>>,
    kept: HashMap<String, String>,
}

impl<'a> Run<'a> {
    fn new(rig: &'a Rig, repository: String) -> Self {
        Self { rig, repository, bodies: HashMap::new(), kept: HashMap::new() }
    }

    fn body(&self, name: &str) -> &Vec<u8> {
        self.bodies.get(name.trim()).unwrap_or_else(|| panic!("no body `{name}` in {}", self.repository))
    }

    /// A body, or a part of it.
    fn part(&self, text: &str) -> Vec<u8> {
        let Some((name, range)) = text.trim().trim_end_matches(']').split_once('[') else {
            return self.body(text).clone();
        };
        let (from, to) = range.split_once("..").expect("a range");
        let body = self.body(name);
        let to = to.parse().unwrap_or(body.len());
        body[from.parse().unwrap_or(0)..to].to_vec()
    }

    fn name(&mut self, line: &str) {
        let (name, how) = line.split_once(" = ").expect("a name and what it is");
        let (kind, rest) = how.split_once(' ').unwrap_or((how, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        let descriptor = |kind: &str, name: &str| {
            let body = self.body(name);
            json!({ "mediaType": kind, "digest": Algorithm::Sha256.of(body).to_string(), "size": body.len() })
        };
        let body = match kind {
            "text" => self.expand(rest).into_bytes(),
            "noise" => noise(words[0].parse().unwrap(), words[1].parse().unwrap()),
            "image" => json!({ "schemaVersion": 2, "mediaType": MANIFEST,
                "config": descriptor("application/vnd.oci.image.config.v1+json", words[0]),
                "layers": words[1..].iter().map(|layer| descriptor("application/octet-stream", layer)).collect::<Vec<_>>() })
            .to_string()
            .into_bytes(),
            "index" => json!({ "schemaVersion": 2, "mediaType": INDEX,
                "manifests": words.iter().map(|one| descriptor(MANIFEST, one)).collect::<Vec<_>>() })
            .to_string()
            .into_bytes(),
            "about" => json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": words[1],
                "config": descriptor("application/vnd.oci.empty.v1+json", "empty"), "layers": [],
                "subject": descriptor(MANIFEST, words[0]), "annotations": { "of": name } })
            .to_string()
            .into_bytes(),
            other => panic!("`{other}` makes no body"),
        };
        self.bodies.insert(name.trim().to_owned(), body);
    }

    /// Puts in what braces stand for. Other braces are JSON's.
    fn expand(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let value = after.split_once('}').and_then(|(inside, after)| Some((self.value(inside)?, after)));
            rest = match value {
                Some((value, after)) => {
                    out.push_str(&value);
                    after
                }
                None => {
                    out.push('{');
                    after
                }
            };
        }
        out.push_str(rest);
        out.replace("/v2/R/", &format!("/v2/{}/", self.repository))
            .replace("=R", &format!("={}", self.repository))
    }

    fn value(&self, inside: &str) -> Option<String> {
        let digest = |algorithm: Algorithm, name| algorithm.of(self.body(name)).to_string();
        Some(match inside.split_once(' ') {
            None => self.kept.get(inside)?.clone(),
            Some(("sha256", name)) => digest(Algorithm::Sha256, name),
            Some(("sha512", name)) => digest(Algorithm::Sha512, name),
            Some(("fallback", name)) => digest(Algorithm::Sha256, name).replace(':', "-"),
            Some(("len", name)) => self.body(name).len().to_string(),
            Some(("last", name)) => (self.body(name).len() - 1).to_string(),
            _ => return None,
        })
    }

    async fn push(&self, blobs: &str) -> Result<(), String> {
        for blob in blobs.split_whitespace() {
            let line = format!("POST /v2/R/blobs/uploads/?digest={{sha256 {blob}}} < {blob}");
            self.send(&line).await?.want("201")?;
        }
        Ok(())
    }

    async fn put(&self, line: &str) -> Result<(), String> {
        let (manifest, reference) = line.split_once(" as ").expect("a manifest and its name");
        let kind = if self.body(manifest).windows(13).any(|part| part == b"\"manifests\":[") {
            INDEX
        } else {
            MANIFEST
        };
        let line = format!("PUT /v2/R/manifests/{reference} | content-type: {kind} < {manifest}");
        self.send(&line).await?.want("201")
    }

    async fn ask(&mut self, line: &str, wanted: &str) -> Result<(), String> {
        let got = self.send(line).await?;
        let (wanted, body) =
            wanted.rsplit_once(" > ").map_or((wanted, None), |(wanted, body)| (wanted, Some(body)));
        let mut wanted = wanted.split(" | ").map(str::trim);
        got.want(wanted.next().unwrap_or_default())?;
        if let Some(body) = body {
            let (body, came) = (self.part(body), &got.body);
            if body != *came {
                return Err(format!("came with {} bytes: {}", came.len(), String::from_utf8_lossy(came)));
            }
        }
        for one in wanted {
            let text = || String::from_utf8_lossy(&got.body).into_owned();
            if one == "empty" {
                if !got.body.is_empty() {
                    return Err(format!("a body came: {}", text()));
                }
            } else if let Some((pointer, value)) = one.split_once(" = ") {
                let value: Value =
                    serde_json::from_str(&self.expand(value)).map_err(|error| error.to_string())?;
                let body: Value =
                    serde_json::from_slice(&got.body).map_err(|error| format!("{error}: {}", text()))?;
                if body.pointer(pointer) != Some(&value) {
                    return Err(format!("{pointer} is not {value} in {body}"));
                }
            } else {
                let (header, value) = one.split_once(':').expect("a header and its value");
                let (value, came) = (self.expand(value.trim()), got.headers.get(header));
                let right = match value.as_str() {
                    "*" => came.is_some(),
                    "-" => came.is_none(),
                    value if value.starts_with('=') => came.is_some(),
                    value => came.is_some_and(|came| came == value),
                };
                if !right {
                    return Err(format!("`{header}` is {came:?} and not `{value}`"));
                }
                if let (Some(name), Some(came)) = (value.strip_prefix('='), came) {
                    self.kept.insert(name.to_owned(), came.clone());
                }
            }
        }
        Ok(())
    }

    async fn send(&self, line: &str) -> Result<Got, String> {
        let (head, body) = line.rsplit_once(" < ").map_or((line, None), |(head, body)| (head, Some(body)));
        let mut parts = head.split(" | ").map(str::trim);
        let (method, path) =
            parts.next().and_then(|first| first.split_once(' ')).expect("a method and a path");
        let mut request = self.rig.ask(method, &self.expand(path));
        for part in parts {
            let (header, value) = part.split_once(':').expect("a header and its value");
            request = request.header(header, self.expand(value.trim()));
        }
        if let Some(body) = body {
            request = request.body(self.part(body));
        }
        let response = request.send().await.map_err(|error| error.to_string())?;
        let text =
            |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(Got {
            head: method == "HEAD",
            status: response.status().as_u16(),
            headers: response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: response.bytes().await.map_err(|error| error.to_string())?.to_vec(),
        })
    }
}

struct Got {
    head: bool,
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Got {
    /// `STATUS` or `STATUS CODE`. What every answer must have is looked at, too.
    fn want(&self, wanted: &str) -> Result<(), String> {
        let text = || String::from_utf8_lossy(&self.body).into_owned();
        let (status, code) =
            wanted.trim().split_once(' ').map_or((wanted.trim(), None), |(s, c)| (s, Some(c)));
        if self.status.to_string() != status {
            return Err(format!("came with {}: {}", self.status, text()));
        }
        if self.headers.get("docker-distribution-api-version").map(String::as_str) != Some("registry/2.0") {
            return Err("it does not name the API".into());
        }
        if self.head && !self.body.is_empty() {
            return Err("a HEAD has a body".into());
        }
        let Some(code) = code.map(str::trim).filter(|_| !self.head) else { return Ok(()) };
        let body: Value =
            serde_json::from_slice(&self.body).map_err(|error| format!("{error}: {}", text()))?;
        let first = &body["errors"][0];
        let told = first["message"].as_str().is_some_and(|message| !message.is_empty());
        match first["code"].as_str() {
            Some(came) if came == code && told => Ok(()),
            _ => Err(format!("the error is {body}")),
        }
    }
}
