//! Every documented call of the vendor's registry API, one row for each case of `reference/registry-api.md` §2-§4.
//!
//! The rows run in order against one registry with one template of four versions; what a row changes, the next see.

use reqwest::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::rig::{Rig, noise};

const ID: &str = "c0ffee11-2233-4455-8677-8899aabbccdd";

/// What is asked, and what must be said to it: status, message, and parts of the body by JSON pointer.
struct Row {
    what: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    message: &'static str,
    shows: Vec<(&'static str, Value)>,
}

fn ok(what: &'static str, ask: (&'static str, &'static str), shows: Vec<(&'static str, Value)>) -> Row {
    Row { what, method: ask.0, path: ask.1, body: "", status: 200, message: "", shows }
}

fn fail(what: &'static str, ask: (&'static str, &'static str), status: u16, message: &'static str) -> Row {
    Row { what, method: ask.0, path: ask.1, body: "", status, message, shows: Vec::new() }
}

impl Row {
    fn with(self, body: &'static str) -> Self {
        Self { body, ..self }
    }
}

fn rows() -> Vec<Row> {
    let null = || vec![("", Value::Null)];
    let tags = |tags: &[&str]| {
        let one = |(n, tag): (usize, &&str)| json!({ "number": n, "tag": tag });
        vec![("/versions#number,tag", tags.iter().enumerate().map(one).collect::<Value>())]
    };
    const ONE: &str = "/registry/v2/vm?id=c0ffee11-2233-4455-8677-8899aabbccdd";
    const INFO: &str = "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd";
    vec![
        // Status and disk.
        ok("status", ("GET", "/registry/status"), vec![("/status", json!("Running"))]),
        fail("status takes no POST", ("POST", "/registry/status"), 405, "Method not allowed"),
        ok("disk", ("GET", "/registry/disk"), vec![("#keys", json!(["free", "total"]))]),
        fail("disk takes no DELETE", ("DELETE", "/registry/disk"), 405, "Method not allowed"),
        // Lists.
        ok("v1 list", ("GET", "/registry/vm"), vec![("", json!([{ ID: "sonoma-xcode" }]))]),
        ok(
            "v2 list",
            ("GET", "/registry/v2/vm"),
            vec![
                ("/0/id", json!(ID)),
                ("/0/name", json!("sonoma-xcode")),
                ("/0/arch", json!("arm64")),
                ("/0#keys", json!(["arch", "id", "last_pull", "last_push", "name", "size"])),
            ],
        ),
        ok("an empty id lists", ("GET", "/registry/v2/vm?id="), vec![("/0/id", json!(ID))]),
        fail("v2 list takes no DELETE", ("DELETE", "/registry/v2/vm"), 405, "Method not allowed"),
        // One template.
        ok("one template", ("GET", ONE), tags(&["base", "v3+ssh", "vanilla+port:22", "last"])),
        ok(
            "a version's fields",
            ("GET", ONE),
            vec![
                ("/versions/1/config_file", json!(format!("{ID}.yaml"))),
                ("/versions/1/nvram", json!("nvram")),
                ("/versions/1/arch", json!("")),
                ("/versions/1/state_files", json!([])),
                ("/versions/1/state_file", json!("")),
                ("/versions/1/description", json!("")),
                ("/versions/1/last_pull", json!(0)),
            ],
        ),
        ok(
            "v1 has no times",
            ("GET", "/registry/vm?id=c0ffee11-2233-4455-8677-8899aabbccdd"),
            vec![
                ("#keys", json!(["arch", "id", "name", "repository", "size", "versions"])),
                ("/versions/0/tag", json!("base")),
                ("/versions/0/last_push", json!(null)),
            ],
        ),
        fail("v1: no such template", ("GET", "/registry/vm?id=nope"), 404, "Not found"),
        fail("v2: no such template", ("GET", "/registry/v2/vm?id=nope"), 404, "Not found"),
        fail("what cannot be an id", ("GET", "/registry/v2/vm?id=a%2F..%2Fb"), 404, "Not found"),
        // A version's config.
        ok("info: the newest", ("GET", INFO), vec![("/ram", json!("11G"))]),
        ok(
            "info by tag",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=base"),
            vec![("/ram", json!("8G"))],
        ),
        ok(
            "info: a raw plus",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=v3+ssh"),
            vec![("/ram", json!("9G"))],
        ),
        ok(
            "info: an escaped plus",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=v3%2Bssh"),
            vec![("/ram", json!("9G"))],
        ),
        ok(
            "info: a plus that somebody decoded",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=v3%20ssh"),
            vec![("/ram", json!("9G"))],
        ),
        ok(
            "info: plus and colon",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=vanilla+port:22"),
            vec![("/ram", json!("10G"))],
        ),
        ok(
            "info by number",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&version=1"),
            vec![("/ram", json!("9G"))],
        ),
        fail(
            "info: no such tag is not the newest",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=nope"),
            404,
            "Not found",
        ),
        fail(
            "info: no such number",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&version=99"),
            404,
            "Not found",
        ),
        fail(
            "info: no number at all",
            ("GET", "/registry/vm/info?id=c0ffee11-2233-4455-8677-8899aabbccdd&version=x"),
            400,
            "version is not a whole number",
        ),
        fail("info without an id", ("GET", "/registry/vm/info"), 400, "id is missing"),
        fail("info of nothing", ("GET", "/registry/vm/info?id=nope"), 404, "Not found"),
        // Architecture.
        ok("arch", ("PUT", "/registry/vm/arch"), null())
            .with(r#"{"id":"c0ffee11-2233-4455-8677-8899aabbccdd","arch":"amd64"}"#),
        ok("arch is shown", ("GET", "/registry/v2/vm"), vec![("/0/arch", json!("amd64"))]),
        ok("arch again", ("PUT", "/registry/vm/arch"), null())
            .with(r#"{"id":"c0ffee11-2233-4455-8677-8899aabbccdd","arch":"arm64","extra":[1]}"#),
        fail("another arch", ("PUT", "/registry/vm/arch"), 400, "arch must be arm64 or amd64")
            .with(r#"{"id":"c0ffee11-2233-4455-8677-8899aabbccdd","arch":"sparc"}"#),
        fail("no arch", ("PUT", "/registry/vm/arch"), 400, "arch must be arm64 or amd64")
            .with(r#"{"id":"c0ffee11-2233-4455-8677-8899aabbccdd"}"#),
        fail("arch of nothing", ("PUT", "/registry/vm/arch"), 404, "Not found")
            .with(r#"{"id":"nope","arch":"arm64"}"#),
        fail("arch of no id", ("PUT", "/registry/vm/arch"), 400, "id is missing").with(r#"{"arch":"arm64"}"#),
        fail("arch: no JSON", ("PUT", "/registry/vm/arch"), 400, "body is not valid JSON: ").with("{"),
        fail("arch takes no GET", ("GET", "/registry/vm/arch"), 405, "Method not allowed"),
        // Revert, in every spelling.
        fail(
            "revert: no such tag",
            ("DELETE", "/registry/revert?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=nope"),
            400,
            "Did not find any versions with tag nope",
        ),
        fail(
            "revert: no such number",
            ("DELETE", "/registry/revert?id=c0ffee11-2233-4455-8677-8899aabbccdd&number=9"),
            400,
            "Did not find any versions with number 9",
        ),
        fail(
            "revert: a tag and another number",
            ("DELETE", "/registry/revert?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag=v1&version=5"),
            400,
            "a tag and a number are given: give one of them",
        ),
        fail(
            "revert: an empty tag is not the newest",
            ("DELETE", "/registry/revert?id=c0ffee11-2233-4455-8677-8899aabbccdd&tag="),
            400,
            "`tag` is empty: say which version, or leave it out for the newest",
        ),
        fail("revert of nothing", ("DELETE", "/registry/revert?id=nope"), 404, "Not found"),
        fail("revert without an id", ("DELETE", "/registry/revert"), 400, "id is missing"),
        fail("revert takes no POST", ("POST", "/registry/revert"), 405, "Method not allowed"),
        ok(
            "revert: the newest",
            ("DELETE", "/registry/revert?id=c0ffee11-2233-4455-8677-8899aabbccdd"),
            null(),
        ),
        ok("the newest went", ("GET", ONE), tags(&["base", "v3+ssh", "vanilla+port:22"])),
        ok("revert: body, tag with a plus", ("DELETE", "/registry/revert"), null())
            .with(r#"{"id":"c0ffee11-2233-4455-8677-8899aabbccdd","tag":"vanilla+port:22"}"#),
        ok("that one went", ("GET", ONE), tags(&["base", "v3+ssh"])),
        ok(
            "revert: number",
            ("DELETE", "/registry/revert?id=c0ffee11-2233-4455-8677-8899aabbccdd&number=1"),
            null(),
        ),
        ok("the second went", ("GET", ONE), tags(&["base"])),
        ok("revert: version as text in a body", ("DELETE", "/registry/revert"), null())
            .with(r#"{"id":"c0ffee11-2233-4455-8677-8899aabbccdd","version":"0"}"#),
        ok("with the first the template went", ("GET", "/registry/v2/vm"), vec![("", json!([]))]),
        ok("from the v1 list, too", ("GET", "/registry/vm"), vec![("", json!([]))]),
        fail("it is no more", ("GET", ONE), 404, "Not found"),
        // Delete.
        fail("delete without an id", ("DELETE", "/registry/vm"), 400, "id is missing"),
        fail("delete nothing", ("DELETE", "/registry/vm?id=nope"), 404, "Not found"),
        // Log rows.
        ok("a log row", ("POST", "/log"), null())
            .with(r#"{"machine_name":"mac-07","service":"agent","host":"10.0.0.7","content":"up\nagain"}"#),
        ok("a row with less", ("POST", "/log"), null()).with("{}"),
        fail("no row", ("POST", "/log"), 400, "body is not a log row: ").with("up again"),
        fail("log takes no GET", ("GET", "/log"), 405, "Method not allowed"),
    ]
}

/// By JSON pointer; `#keys` gives an object's keys, `#a,b` those keys of each element of a list.
fn part(body: &Value, at: &str) -> Value {
    let (pointer, keys) = at.split_once('#').unwrap_or((at, ""));
    let found = body.pointer(pointer).cloned().unwrap_or(Value::Null);
    match (keys, &found) {
        ("", _) => found,
        ("keys", Value::Object(map)) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            json!(keys)
        }
        (keys, Value::Array(list)) => {
            let one = |of: &Value| keys.split(',').map(|key| (key.to_owned(), of[key].clone())).collect();
            list.iter().map(one).collect::<Vec<serde_json::Map<_, _>>>().into()
        }
        _ => panic!("{at} of {body}"),
    }
}

async fn four_versions(rig: &Rig) {
    let base = noise(1, 1000);
    for (n, tag) in ["base", "v3+ssh", "vanilla+port:22", "last"].into_iter().enumerate() {
        let config =
            format!(r#"{{"switchyard.template.id":"{ID}","architecture":"arm64","ram":"{}G"}}"#, 8 + n);
        let top = noise(n as u64 + 2, 100);
        rig.image_with("sonoma-xcode", tag, &config, &[&base, &top]).await;
    }
}

#[tokio::test]
async fn every_documented_call_is_answered_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    four_versions(&rig).await;
    for row in rows() {
        let what = row.what;
        let answer = rig.ask(row.method, row.path).body(row.body).send().await.unwrap();
        let (status, head) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        assert_eq!(status, row.status, "{what}: {text}");
        assert_eq!(head[CONTENT_TYPE], "application/json", "{what}");
        assert_eq!(head[ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{what}");
        let said = if row.status == 200 { "OK" } else { "FAIL" };
        let order = [format!(r#"{{"status":"{said}","body":"#), r#","message":""#.to_owned()];
        assert!(text.starts_with(&order[0]) && text.contains(&order[1]), "{what}: {text}");
        let envelope: Value = serde_json::from_str(&text).unwrap();
        let message = envelope["message"].as_str().unwrap();
        let same =
            message == row.message || (row.message.ends_with(": ") && message.starts_with(row.message));
        assert!(same, "{what}: {message}");
        for (at, expected) in row.shows {
            assert_eq!(part(&envelope["body"], at), expected, "{what}: {at} of {text}");
        }
    }
}

#[tokio::test]
async fn sizes_count_each_layer_once_and_times_follow_pushes_and_pulls() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    four_versions(&rig).await;
    let config = format!(r#"{{"switchyard.template.id":"{ID}","architecture":"arm64","ram":"8G"}}"#).len();
    let of = |path: &'static str| {
        let rig = &rig;
        async move { rig.json(path).await["body"].clone() }
    };
    const ONE: &str = "/registry/v2/vm?id=c0ffee11-2233-4455-8677-8899aabbccdd";
    let before = of(ONE).await;
    // Two of the four configs are one byte longer: 10G, 11G.
    assert_eq!(before["size"], 1000 + 4 * 100 + 4 * config + 2, "{before}");
    assert_eq!(before["versions"][0]["size"], 1000 + 100 + config);
    assert_eq!(of("/registry/v2/vm").await[0]["size"], before["size"]);
    assert!(before["last_push"].as_i64().unwrap() >= before["versions"][0]["last_push"].as_i64().unwrap());
    assert_eq!((&before["last_pull"], &before["versions"][1]["last_pull"]), (&json!(0), &json!(0)));
    rig.get("/v2/sonoma-xcode/manifests/v3+ssh").await;
    let after = of(ONE).await;
    assert!(after["versions"][1]["last_pull"].as_i64().unwrap() > 0, "{after}");
    assert_eq!(after["versions"][0]["last_pull"], 0);
    assert_eq!(after["last_pull"], after["versions"][1]["last_pull"]);
    assert_eq!(of("/registry/v2/vm").await[0]["last_pull"], after["last_pull"]);
}

#[tokio::test]
async fn the_address_opened_in_a_browser_says_what_it_is_and_health_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::new(dir.path()).await;
    let page = rig.get("/").await;
    assert_eq!(page.status(), 200);
    assert!(page.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    assert!(page.text().await.unwrap().contains("/registry/v2/vm"));
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(rig.get(path).await.status(), 200, "{path}");
    }
    let ready = rig.json("/readyz").await;
    assert_eq!((&ready["read"], &ready["write"]), (&json!(true), &json!(true)));
    // A browser that asks for leave to change something from another origin is not given it.
    let leave =
        rig.ask("OPTIONS", "/registry/vm").header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(leave.status(), 405);
    assert!(!leave.headers().contains_key("access-control-allow-methods"));
}

#[tokio::test]
async fn every_request_is_counted_by_api_and_kind_and_a_refusal_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::with(
        dir.path(),
        switchyard::config::registry::Limits { manifest: 2048, ..crate::rig::limits() },
    )
    .await;
    rig.image("counted", "a", &[b"layer"]).await;
    rig.get("/registry/v2/vm").await;
    rig.get("/v2/counted/manifests/a").await;
    let long = rig.ask("PUT", "/v2/counted/manifests/b").body(vec![b' '; 4096]).send().await.unwrap();
    assert_eq!(long.status(), 413);
    let text = rig.get("/metrics").await.text().await.unwrap();
    for line in [
        r#"switchyard_registry_requests_total{api="oci",class="upload",status="2xx"} 2"#,
        r#"switchyard_registry_requests_total{api="oci",class="write",status="2xx"} 1"#,
        r#"switchyard_registry_requests_total{api="oci",class="write",status="4xx"} 1"#,
        r#"switchyard_registry_requests_total{api="oci",class="read",status="2xx"} 1"#,
        r#"switchyard_registry_requests_total{api="vendor",class="read",status="2xx"} 1"#,
        r#"switchyard_registry_request_seconds_count{api="vendor",class="read"} 1"#,
        r#"switchyard_registry_refused_total{api="oci",reason="too_large"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
}
