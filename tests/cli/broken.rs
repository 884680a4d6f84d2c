//! Broken configs: each kind gives the right line, column, and word of help.

use std::fs;

use crate::program::run;

/// What is wrong, where the fault is (`line:column`, or empty when it is in no line), what it says, and the help.
struct Case {
    input: &'static str,
    at: &'static str,
    what: &'static str,
    right: &'static str,
}

const fn case(input: &'static str, at: &'static str, what: &'static str, right: &'static str) -> Case {
    Case { input, at, what, right }
}

/// A proxy with one thing after another wrong: `@` is replaced by the case's text.
const PROXY: &str = r#"[[listener]]
name = "front"
bind = ["127.0.0.1:8090"]
service = "controllers"
[service.controllers]
upstreams = [{ name = "c1", address = "10.0.1.4:8090" }]
"#;

const CONTROLLER: &str = "[server]\nlisten = \"0.0.0.0:8090\"\n[store]\nembedded = \"/x\"\n";

/// Added behind [`PROXY`], which has 6 lines.
const ADDED_TO_PROXY: &[Case] = &[
    case(
        "balanse = \"round-robin\"",
        "7:1",
        "unknown key `service.controllers.balanse`",
        "did you mean `balance`?",
    ),
    case(
        "[admin]\nlisten = \"0.0.0.0:9090\"",
        "8:10",
        "`admin.listen` is `0.0.0.0:9090`, which other machines reach, and nobody is asked for a token",
        "add `token_file = ",
    ),
    case(
        "[admin]\ntoken = \"0123456789abcdef\"",
        "",
        "`admin.token` is written in this file, for everybody who reads it",
        "name that in `token_file`",
    ),
    case(
        "[admin]\ntoken_file = \"/nowhere/token\"",
        "8:14",
        "`admin.token_file` is `/nowhere/token`, which cannot be read",
        "name a file with one line",
    ),
    case(
        "[admin]\ntoken = \"off\"\ntoken_file = \"Cargo.toml\"",
        "8:9",
        "`admin.token` is `off`, but `token_file` names one",
        "delete one of the two",
    ),
    case("[limit]", "7:1", "unknown table `limit`", "did you mean `limits`?"),
    case("[trace]\ncontext = \"follow\"", "8:11", "`trace.context` is `follow`", "`pass` or `join`"),
    case(
        "[trace]\notlp = \"http://10.0.0.9:4318\"",
        "8:8",
        "`trace.otlp` has no effect: no request is made part of a trace",
        "add `context = \"join\"`",
    ),
    case("[trace]\ncontext = \"join\"\nsample = 2.0", "9:10", "`trace.sample` is `2.0`", "0 to 1"),
    case(
        "[trace]\ncontext = \"join\"\notlp = \"10.0.0.9:4318\"",
        "9:8",
        "is `10.0.0.9:4318`",
        "write `http://10.0.0.9:4318`",
    ),
    case(
        "[trace]\ncontext = \"join\"\nservice = \"\"",
        "9:11",
        "`trace.service` is empty",
        "give it a value",
    ),
    case(
        "[limits]\nrate = { by = \"address\" }",
        "8:1",
        "`limits.rate.requests` is missing",
        "add `requests = \"100/s\"`",
    ),
    case(
        "[limits]\nrate = { requests = 100 }",
        "8:21",
        "`limits.rate.requests` is a number, not text",
        "in quotes",
    ),
    case(
        "[limits]\nrate = { requests = \"100 per second\" }",
        "8:21",
        "`limits.rate.requests` is `100 per second`",
        "write it like `\"100/s\"`, with `/s`, `/m` or `/h`",
    ),
    case(
        "[service.controllers.timeouts]\nfloor_rate = 4096",
        "8:14",
        "`service.controllers.timeouts.floor_rate` is a number, not text",
        "write it like `\"4KiB/s\"`, or `\"off\"`",
    ),
    case(
        "[service.controllers.timeouts]\nfloor_rate = \"4KiB\"",
        "8:14",
        "is `4KiB`",
        "write it like `\"4KiB/s\"`, or `\"off\"`",
    ),
    case(
        "[service.controllers.timeouts]\nfloor_rate = \"off\"\nfloor_window = \"2m\"",
        "9:16",
        "`service.controllers.timeouts.floor_window` is given, but `floor_rate` is `off`",
        "delete it",
    ),
    case(
        "[service.controllers.timeouts]\nfloor_window = \"1s\"",
        "8:16",
        "`service.controllers.timeouts.floor_window` is `1s`",
        "from `5s` to `1day`",
    ),
    case("[limits]\nrate = { requests = \"100/d\" }", "8:21", "is `100/d`", "with `/s`, `/m` or `/h`"),
    case("[limits]\nrate = { requests = \"0/s\" }", "8:21", "is `0/s`", "a number from 1 to 1000000"),
    case(
        "[limits]\nrate = { requests = \"1/s\", by = \"token\" }",
        "8:33",
        "`limits.rate.by` is `token`",
        "use `address`, `certificate` or `key`",
    ),
    case(
        "[limits]\nrate = { requests = \"1/s\", burst = 0 }",
        "8:36",
        "`limits.rate.burst` is `0`",
        "from 1",
    ),
    case(
        "[limits]\nrate = { request = \"1/s\" }",
        "8:10",
        "unknown key `limits.rate.request`",
        "did you mean `requests`?",
    ),
    case("[limits]\nrate = \"100/s\"", "8:8", "`limits.rate` is text, not a table", "write it as a table"),
    case("[limits]\nheld_bytes = \"64KiB\"", "8:14", "is `64KiB`", "use a size from 1.0 MiB to 1.0 TiB"),
    case(
        "[limits]\nconnections = 100\nper_client = 101",
        "9:14",
        "`limits.per_client` is `101`, which can never be reached",
        "write at most 100",
    ),
    case("[limits]\nper_client = 0", "8:14", "`limits.per_client` is `0`", "from 1 to 10000000"),
    case(
        "[limits]\ndeny = [\"10.0.0.1/8\"]",
        "8:9",
        "`limits.deny` has `10.0.0.1/8`",
        "the network is `10.0.0.0/8`",
    ),
    case(
        "[limits]\nallow = [\"fd00::/8\", \"10.1.0.0/16\"]\ndeny = [\"10.0.0.0/8\"]",
        "8:22",
        "`limits.allow` has `10.1.0.0/16`, which can never come",
        "`limits.deny` takes all of it (`10.0.0.0/8`)",
    ),
    case("[limits]\nipv6_prefix = 129", "8:15", "`limits.ipv6_prefix` is `129`", "from 16 to 128"),
    case("[limits]\nbody = { controller-api = 4096 }", "8:27", "is `4096` without a unit", "or `\"none\"`"),
    case(
        "[limits]\nbody = { controller_api = \"1MiB\" }",
        "8:10",
        "unknown key `limits.body.controller_api`",
        "did you mean `controller-api`?",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"127.0.0.1:1\"]\nservice = \"controllers\"\nlimits = { per_clients = 1 }",
        "11:12",
        "unknown key `listener.limits.per_clients`",
        "did you mean `per_client`?",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"127.0.0.1:1\"]\nservice = \"controllers\"\nlimits = { connections = 5, per_client = 6 }",
        "11:42",
        "`listener.limits.per_client` is `6`, which can never be reached",
        "write at most 5, what `listener.limits.connections` allows",
    ),
    case(
        "balance = \"random\"",
        "7:11",
        "`service.controllers.balance` is `random`",
        "use `round-robin`, `least-requests`, `peak-ewma` or `consistent-hash`",
    ),
    case(
        "balance = \"round_robin\"",
        "7:11",
        "`service.controllers.balance` is `round_robin`",
        "did you mean `round-robin`?",
    ),
    case(
        "balance = \"consistent-hash\"",
        "7:11",
        "`service.controllers.balance` is `consistent-hash`, and there is no `hash`",
        "`hash = { by = \"address\" }`",
    ),
    case(
        "hash = { by = \"address\" }",
        "7:8",
        "`service.controllers.hash` means nothing with `balance = \"least-requests\"`",
        "delete it",
    ),
    case(
        "balance = \"consistent-hash\"\nhash = { by = \"content\" }",
        "8:15",
        "`service.controllers.hash.by` is `content`, which only registries have",
        "use `address`",
    ),
    case(
        "balance = \"consistent-hash\"\nhash = { by = \"header\" }",
        "8:1",
        "`service.controllers.hash.name` is missing",
        "name = \"x-client\"",
    ),
    case(
        "sticky = { by = \"client\" }",
        "7:17",
        "`service.controllers.sticky.by` is `client`",
        "use `address`, `header` or `cookie`",
    ),
    case(
        "sticky = { name = \"x\" }",
        "7:1",
        "`service.controllers.sticky.by` is missing",
        "by = \"address\"",
    ),
    case(
        "sticky = { by = \"address\", name = \"x\" }",
        "7:35",
        "`service.controllers.sticky.name` means nothing with `by = \"address\"`",
        "delete it",
    ),
    case(
        "sticky = { by = \"cookie\", name = \"a;b\" }",
        "7:34",
        "`service.controllers.sticky.name` is `a;b`, no name of a cookie",
        "use letters",
    ),
    case(
        "sticky = { by = \"header\", name = \"Cookie\" }",
        "7:34",
        "`service.controllers.sticky.name` is `cookie`",
        "`by = \"cookie\"`",
    ),
    case("slow_start = 30", "7:14", "`service.controllers.slow_start` is `30` without a unit", "`\"30s\"`"),
    case("slow_start = \"2h\"", "7:14", "`service.controllers.slow_start` is `2h`", "from `0s` to `1h`"),
    case("max_requests = 0", "7:16", "`service.controllers.max_requests` is `0`", "from 1 to 1000000"),
    case("max_pending = 0", "7:15", "`service.controllers.max_pending` is `0`", "from 1 to 1000000"),
    case("max_connections = 100", "7:19", "is a number, not a table", "write it as a table"),
    case(
        "max_connections = { bulk = \"many\" }",
        "7:28",
        "`service.controllers.max_connections.bulk` is text, not a whole number",
        "from 1 to 1000000",
    ),
    case(
        "max_connections = { transfers = 5 }",
        "7:21",
        "unknown key `service.controllers.max_connections.transfers`",
        "`bulk`",
    ),
    case(
        "hold = { read = 4 }",
        "7:17",
        "`service.controllers.hold.read` is `4` without a unit",
        "write `\"4s\"`",
    ),
    case(
        "hold = { read = \"4 parsecs\" }",
        "7:17",
        "is `4 parsecs`, not a duration",
        "write it like `\"4s\"`",
    ),
    case(
        "proxy_protocol = \"on\"",
        "7:18",
        "`service.controllers.proxy_protocol` is `on`",
        "use `v1` or `v2`",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nproxy_protocol = \"v2\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "9:18",
        "`service.registries.proxy_protocol` is given, but the registries are followed without it",
        "use `freshness = \"none\"`",
    ),
    case("retry_status = [200]", "7:17", "`service.controllers.retry_status` has `200`", "use 400 to 599"),
    case("retry_status = [999]", "7:17", "is `999`", "use a whole number from 100 to 599"),
    case("maintenance = \"yes\"", "7:15", "is `yes`, not true or false", "without quotes"),
    case("writer = \"c1\"", "7:10", "`service.controllers.writer` is given for controllers", "delete it"),
    case(
        "freshness = \"position\"",
        "7:13",
        "`service.controllers.freshness` is given for controllers",
        "delete it",
    ),
    case("attempts = 0", "7:12", "`service.controllers.attempts` is `0`", "from 1 to 10"),
    case(
        "health = { interval = \"1s\", timeout = \"20s\" }",
        "7:39",
        "lets a probe last 20s while one is due each 1s",
        "use at most 10 intervals as `timeout`",
    ),
    case("health = { path = \"readyz\" }", "7:19", "is `readyz`", "begin it with a slash: `/readyz`"),
    case(
        "health = { kind = \"tcp\", path = \"/x\" }",
        "7:33",
        "means nothing with `kind = \"tcp\"`",
        "delete it",
    ),
    case("health = { method = \"POST\" }", "7:21", "`service.controllers.health.method` is `POST`", "`GET`"),
    case(
        "health = { method = \"HEAD\", text = \"ok\" }",
        "7:36",
        "`service.controllers.health.text` looks at a body, and the answer to `HEAD` has none",
        "use `method = \"GET\"`",
    ),
    case(
        "health = { headers = { Host = \"ci.example\" } }",
        "7:24",
        "`service.controllers.health.headers.Host` is set by the prober",
        "write it as `host`",
    ),
    case(
        "health = { headers = { \"a b\" = \"x\" } }",
        "7:24",
        "`service.controllers.health.headers.a b` is no name of a header",
        "letters, digits",
    ),
    case(
        "health = { headers = { Authorization = 7 } }",
        "7:24",
        "`service.controllers.health.headers.Authorization` is a number, not text",
        "write it in quotes",
    ),
    case("max_ejected = 1.5", "7:15", "`service.controllers.max_ejected` is `1.5`", "a number from 0 to 1"),
    case("panic_threshold = \"30%\"", "7:19", "`service.controllers.panic_threshold` is text", "from 0 to 1"),
    case(
        "passive = { failures = 0 }",
        "7:24",
        "`service.controllers.passive.failures` is `0`",
        "from 1 to 10000",
    ),
    case(
        "passive = { ejection = \"10m\" }",
        "7:24",
        "makes the longest ejection (5m) shorter than the first (10m)",
        "`longest` of at least `ejection`",
    ),
    case("health = { json = { \"body.status\" = 1 } }", "7:21", "is no JSON pointer", "\"/body/status\""),
    case(
        "[service.registries]\nupstreams = []",
        "8:13",
        "service `registries` has no upstreams",
        "name at least one, or delete [service.registries]",
    ),
    case(
        "[service.registries]\nwriter = \"r1\"\nupstreams = [{ name = \"r2\", address = \"a:1\" }]",
        "8:10",
        "`service.registries.writer` is `r1`, which is no upstream",
        "did you mean `r2`?",
    ),
    case(
        "[service.registries]\nstorage = \"replicatd\"\nupstreams = [{ address = \"a:1\" }]",
        "8:11",
        "`service.registries.storage` is `replicatd`",
        "did you mean `replicated`?",
    ),
    case(
        "[service.registries]\nstorage = \"replicated\"\nupstreams = [{ address = \"a:1\" }]",
        "8:11",
        "`service.registries.storage` is `replicated`, but there is no `writer`",
        "`writer = \"r1\"`",
    ),
    case(
        "[service.registries]\nstorage = \"shared\"\nwriter = \"a\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "9:10",
        "on shared storage every registry takes writes",
        "`storage = \"replicated\"`",
    ),
    case(
        "[service.registries]\nwrite_only = true\nupstreams = [{ address = \"a:1\" }]",
        "8:14",
        "`service.registries.write_only` is given without a `writer`",
        "`writer = \"r1\"`",
    ),
    case(
        "[service.registries]\nfreshness = \"catalogue\"\nupstreams = [{ address = \"a:1\" }]",
        "8:13",
        "is `catalogue`, but there is no `writer` to compare lists with",
        "`writer = \"r1\"`",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nfreshness = \"catalogue\"\nfresh_wait = \"1s\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "10:14",
        "`service.registries.fresh_wait` means nothing with `freshness = \"catalogue\"`",
        "delete it",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]\n[service.registries.catalogue]\ninterval = \"5s\"",
        "10:1",
        "`service.registries.catalogue` means nothing: reads do not go by lists",
        "use `freshness = \"catalogue\"`",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nfreshness = \"catalogue\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]\n[service.registries.catalogue]\ntoken_file = \"/nowhere/token\"",
        "12:14",
        "`service.registries.catalogue.token_file` is `/nowhere/token`, which cannot be read",
        "name a file with one line",
    ),
    case(
        "[service.registries]\nlogs = \"b\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "8:8",
        "`service.registries.logs` is `b`, which is no upstream",
        "did you mean `a`?",
    ),
    case("logs = \"a\"", "7:8", "`service.controllers.logs` is given for controllers", "delete it"),
    case(
        "[service.registries]\nfreshness = \"position\"\nupstreams = [{ address = \"a:1\" }]",
        "8:13",
        "is `position`, but shared storage has no positions",
        "use `none`",
    ),
    case(
        "[service.registries]\nfreshness = \"exact\"\nupstreams = [{ address = \"a:1\" }]",
        "8:13",
        "`service.registries.freshness` is `exact`",
        "use `position`, `catalogue` or `none`",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nstale_reads = \"always\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "9:15",
        "`service.registries.stale_reads` is `always`",
        "use `writer-lost`, `never` or `allow`",
    ),
    case(
        "[service.registries]\nstale_reads = \"never\"\nupstreams = [{ address = \"a:1\" }]",
        "8:15",
        "`service.registries.stale_reads` means nothing without positions",
        "use `freshness = \"position\"`",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nfresh_wait = \"5s\"\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "9:14",
        "`service.registries.fresh_wait` is `5s`",
        "from `0s` to `2s 500ms`",
    ),
    case(
        "[service.registries]\nwriter = \"a\"\nwrite_only = true\nupstreams = [{ name = \"a\", address = \"a:1\" }]",
        "9:14",
        "`service.registries.write_only` leaves nobody to read from",
        "name the replicas among the `upstreams`",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"a:1\" }, { address = \"a:2\" }]",
        "8:13",
        "`service.registries.upstreams` has 2 registries, and neither `writer` nor `storage` says what they are",
        "`storage = \"shared\"`",
    ),
    case(
        "[service.other]\nupstreams = [{ address = \"a:1\" }]",
        "7:1",
        "`service.other.kind` is missing",
        "add `kind = \"controller\"`",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"my_host:80\" }]",
        "8:26",
        "is `my_host:80`",
        "a host name has no underscore",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"host\" }]",
        "8:26",
        "is `host`",
        "the port is missing",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"http://a:80\" }]",
        "8:26",
        "is `http://a:80`",
        "write only `host:port`",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"a:80\", weight = 0 }]",
        "8:43",
        "`service.registries.upstreams.weight` is `0`",
        "use 1 to 1000; to send it nothing, delete it here",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"a:80\", zone = \"rack 1\" }]",
        "8:41",
        "`service.registries.upstreams.zone` is `rack 1`",
        "use letters, digits, `.`, `_`, `-`",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"a:80\", max_requests = -1 }]",
        "8:49",
        "`service.registries.upstreams.max_requests` is `-1`",
        "from 1 to 1000000",
    ),
    case(
        "[service.registries]\nupstreams = [\"a:80\"]",
        "8:14",
        "has text in it, not a table",
        "write `{ name = ",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"a:1\" }, { address = \"a:1\" }]",
        "8:47",
        "is `a:1` again",
        "name each server once",
    ),
    case(
        "[service.registries]\nupstreams = [{ name = \"r\", address = \"a:1\" }, { name = \"r\", address = \"a:2\" }]",
        "8:56",
        "is `r` again",
        "a name of its own",
    ),
    case(
        "[service.registries]\nupstreams = [{ address = \"127.0.0.1:8090\" }]",
        "8:26",
        "is this proxy's own listener `front`",
        "the server behind the proxy",
    ),
    case(
        "[[listener]]\nname = \"front\"\nbind = [\"0.0.0.0:1\"]\nservice = \"controllers\"",
        "8:8",
        "`listener.name` is `front` again",
        "a name of its own",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:8090\"]\nservice = \"controllers\"",
        "9:9",
        "collides with `127.0.0.1:8090` of listener `front`",
        "another port",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = []\nservice = \"controllers\"",
        "9:8",
        "`listener.bind` is empty",
        "name at least one",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\":8091\"]\nservice = \"controllers\"",
        "9:9",
        "is `:8091`, not an address to listen on",
        "write `0.0.0.0:8091`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nservice = \"controllers\"",
        "7:1",
        "`listener.bind` is missing",
        "add `bind = [\"0.0.0.0:8090\"]`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nservice = \"controler\"",
        "10:11",
        "there is no `[service.controler]`",
        "did you mean `controllers`? known: `controllers`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ service = \"controllers\" }, { path = \"/v2/\", service = \"controllers\" }]",
        "10:39",
        "this rule (path `/v2`) can never match",
        "(everything) takes all its requests",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/v2\", service = \"controllers\" }, { path = \"/v2/x\", service = \"controllers\" }]",
        "10:53",
        "this rule (path `/v2/x`) can never match",
        "(path `/v2`)",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/a\", deny = 403, service = \"controllers\" }]",
        "10:32",
        "`listener.rules.deny` is given beside `service`",
        "a rule sends requests on or refuses them",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/a\", deny = true }]",
        "10:32",
        "`listener.rules.deny` is true or false, not a whole number",
        "write the status that they are answered with: `403`, or `404`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/a\", deny = 500 }]",
        "10:32",
        "`listener.rules.deny` is `500`",
        "`403`, or `404`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/a\" }]",
        "10:10",
        "`listener.rules.service` is missing",
        "add `service = \"…\"` or `deny = 403`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/a\", deny = 404 }, { path = \"/a/b\", service = \"controllers\" }]",
        "10:39",
        "this rule (path `/a/b`) can never match",
        "(path `/a`) takes all its requests",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"/a\", deny = 403 }, { path = \"/b\", deny = 404 }]",
        "10:39",
        "every rule of this listener refuses",
        "add one that sends what is left on",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nrules = [{ path = \"v2\", service = \"controllers\" }]",
        "10:19",
        "is `v2`",
        "begin it with a slash: `/v2`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nservice = \"controllers\"\ntrusted = [\"10.0.0.1/8\"]",
        "11:12",
        "has `10.0.0.1/8`",
        "the network is `10.0.0.0/8`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nservice = \"controllers\"\nproxy_protocol = [\"lb1\"]",
        "11:19",
        "`listener.proxy_protocol` has `lb1`",
        "write an address or a network, like `10.0.0.0/8`",
    ),
    case(
        "[[listener]]\nname = \"b\"\nbind = [\"0.0.0.0:1\"]\nservice = \"controllers\"\nproxy_protocol = true",
        "11:18",
        "`listener.proxy_protocol` is true or false, not a list",
        "write it in brackets",
    ),
    case(
        "[admin]\nlisten = \"127.0.0.1:8090\"",
        "8:10",
        "`admin.listen` is `127.0.0.1:8090`, which collides",
        "another port",
    ),
    case("[proxy]\nthreads = -1", "8:11", "`proxy.threads` is `-1`", "from 1 to 1024"),
    case(
        "[proxy]\ngrace = \"5s\"",
        "8:1",
        "unknown key `proxy.grace`",
        "write it as `grace` in `[shutdown]`",
    ),
    case("[log]\naccess = \"stdoutt\"", "8:10", "`log.access` is `stdoutt`", "`./stdoutt`"),
    case("[log]\nprogress = \"30\"", "8:12", "`log.progress`", "or `\"off\"`"),
    case(
        "[log]\nprogress = \"10ms\"",
        "8:12",
        "`log.progress` is `10ms`",
        "from `1s` to `1day`, or `\"off\"`",
    ),
    case("[log]\nfilter = \"info,=\"", "8:10", "`log.filter` cannot be read", "write it like `info`"),
    case("[limits]\nheader_bytes = 32768", "8:16", "is `32768` without a unit", "`\"32768B\"`"),
    case(
        "[store]\netcd = []",
        "7:2",
        "a proxy's and a controller's at once",
        "`[[listener]]` makes it a proxy's",
    ),
];

/// Added behind [`CONTROLLER`], which has 4 lines.
const ADDED_TO_CONTROLLER: &[Case] = &[
    case("etcd = [\"http://a:2379\"]", "4:12", "`store.embedded` is given beside `store.etcd`", "delete one"),
    case(
        "[registries]\naddress = \"http://front:8089/\"",
        "6:11",
        "is `http://front:8089/`",
        "without the slash at its end: `http://front:8089`",
    ),
    case("[registries]\naddress = \"front:8089\"", "6:11", "is `front:8089`", "write `http://front:8089`"),
    case("[registries]\ntimeout = \"5s\"", "5:1", "`registries.address` is missing", "add `address = "),
    case("[timeouts]\npoll = \"2m\"", "6:8", "`timeouts.poll` is `2m`", "from `100ms` to `50s`"),
    case("[timeouts]\nscheduling = \"0s\"", "6:14", "`timeouts.scheduling` is `0s`", "from `1s` to `30days`"),
    case("[limits]\nattempts = 0", "6:12", "`limits.attempts` is `0`", "from 1 to 100000"),
    case(
        "[limits]\nunknown_vm_reports = 1",
        "6:22",
        "`limits.unknown_vm_reports` is `1`",
        "from 2 to 1000000",
    ),
    case("[timeouts]\nmass_absence = 30", "6:16", "`timeouts.mass_absence` is `30`", "from 0 to 1"),
];

const REGISTRY: &str = "[server]\nlisten = \"0.0.0.0:8089\"\n[storage]\ndisk = \"/x\"\n";

/// Added behind [`REGISTRY`], which has 4 lines.
const ADDED_TO_REGISTRY: &[Case] = &[
    case("[replication]\nrole = \"primary\"", "6:8", "`replication.role` is `primary`", "`writer`"),
    case("[replication]\nlog_keep = 100", "5:1", "`replication.role` is missing", "add `role = "),
    case("[replication]\nrole = \"replica\"", "5:1", "`replication.writer` is missing", "add `writer = "),
    case(
        "[replication]\nrole = \"replica\"\nwriter = \"10.0.1.4:8089\"",
        "7:10",
        "`replication.writer` is `10.0.1.4:8089`",
        "write `http://10.0.1.4:8089`",
    ),
    case(
        "[replication]\nrole = \"writer\"\nwriter = \"http://r1:8089\"",
        "7:10",
        "`replication.writer` is given for the writer itself",
        "delete it",
    ),
    case(
        "[replication]\nrole = \"writer\"\npeers = [\"http://r2:8089/\"]",
        "7:10",
        "is `http://r2:8089/`",
        "without the slash",
    ),
    case(
        "[replication]\nrole = \"writer\"\nlog_keep = 1",
        "7:12",
        "`replication.log_keep` is `1`",
        "from 16",
    ),
    case(
        "[replication]\nrole = \"writer\"\nwrite_ack = \"replicas:1\"",
        "7:13",
        "`replicas:1` is not supported by this version",
        "use `local`",
    ),
    case(
        "[replication]\nrole = \"writer\"\nwrite_ack = \"all\"",
        "7:13",
        "`replication.write_ack` is `all`",
        "use `local`",
    ),
    case("[replication]\nrole = \"writer\"\npear = []", "7:1", "unknown key `replication.pear`", "`peers`"),
    case(
        "shared = \"/mnt\"",
        "5:10",
        "`storage.shared` is given beside `storage.disk`",
        "delete one of them",
    ),
];

/// Whole files.
const WHOLE: &[Case] = &[
    case("[agent]\ndata = \"/x\"\n", "1:1", "`agent.controllers` is missing", "add `controllers = "),
    case("[agent]\ncontrollers = [\"http://a_b:1\"]\n", "2:16", "is `http://a_b:1`", "underscore"),
    case(
        "[agent]\ncontrollers = [\"http://a:1\"]\ndriver = \"qemu\"\n",
        "3:10",
        "`qemu` is not supported by this version",
        "use `process`",
    ),
    case("[agent]\ncontrollers = [\"http://a:1\"]\nreserve = \"95%\"\n", "3:11", "is `95%`", "`0%` to `90%`"),
    case(
        "[agent]\ncontrollers = [\"http://a:1\"]\nvm_prefix = \"my vms\"\n",
        "3:13",
        "is `my vms`",
        "no blanks",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[storage]\nshared = \"/mnt\"\n[replication]\nrole = \"writer\"\n",
        "5:1",
        "`[replication]` is given beside `storage.shared`",
        "delete `[replication]`",
    ),
    case("[storage]\ndisk = \"/x\"\n", "", "`server.listen` is missing", "add a table `[server]`"),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\n",
        "3:1",
        "`[store]` does not say where the state is",
        "`embedded = \"DIR\"`",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"https://a:2379\", \"http://b:2379\"]",
        "4:27",
        "`store.etcd` names `https://a:2379` and `http://b:2379`",
        "`https://` for all members",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"https://a\"]",
        "4:9",
        "is `https://a`",
        "the port is missing",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"http://a:2379\"]\nca = \"Cargo.toml\"",
        "5:6",
        "`store.ca` means nothing, for no URL of `etcd` begins with `https://`",
        "`https://a:2379`",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"https://a:2379\"]\nca = \"/nowhere/ca.pem\"",
        "5:6",
        "`store.ca` names `/nowhere/ca.pem`, which",
        "ca.pem",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"http://a:2379\"]\nusername = \"u\"",
        "3:1",
        "`store.password_file` is missing",
        "add `password_file = ",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"http://a:2379\"]\npassword_file = \"conf/controller.toml\"\nusername = \"u\"",
        "5:17",
        "`store.password_file` is `conf/controller.toml`, which has",
        "name a file with one line",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\netcd = [\"http://a:2379\"]\nusername = \"u\"\npassword = \"verySecret\"",
        "",
        "`store.password` is written in this file, for everybody who reads it",
        "name that in `password_file`",
    ),
    case(
        "[server]\nlisten = \"0.0.0.0:1\"\n[store]\nembedded = \"/x\"\nusername = \"u\"",
        "5:12",
        "`store.username` means nothing with `embedded`",
        "delete it",
    ),
    case("[listner]\n", "1:2", "unknown table `listner`", "did you mean `listener`?"),
    case("[log]\nformat = \"json\"\n", "", "no table says whose config this is", "`[storage]` a registry's"),
    case("", "", "the file is empty", "`[agent]` an agent's"),
    case("[storage]\ndisk = \"/x\n", "2:11", "invalid basic string", "not TOML"),
    case("[storage]\ndisk = /x\n", "2:8", "string values must be quoted", "in quotes"),
    case("[storage]\ndisk = \"/x\"\ndisk = \"/y\"\n", "3:1", "duplicate key", "not TOML"),
];

/// What is not as the case says; nothing if all is.
fn wrong(case: &Case, lines_before: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    fs::write(&file, format!("{lines_before}{}\n", case.input)).unwrap();
    let said = run(&["check", file.to_str().unwrap()]);
    let place = if case.at.is_empty() {
        format!("--> {}\n", file.display())
    } else {
        format!("--> {}:{}\n", file.display(), case.at)
    };
    // Each fault is drawn by itself: place, words and help must be of the same one.
    let fits =
        |fault: &str| fault.contains(case.what) && fault.contains(case.right) && fault.contains(&place);
    let one = said.err.split("\n\n").any(|fault| fits(&format!("{fault}\n")));
    let right = said.code == Some(2) && said.out.is_empty() && one;
    (!right).then(|| {
        format!("{}\nexpected `{}` at {}, with `{}`:\n{said:?}\n", case.input, case.what, case.at, case.right)
    })
}

fn check(cases: &[Case], lines_before: &str) {
    let wrong: Vec<String> = cases.iter().filter_map(|case| wrong(case, lines_before)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_kind_of_broken_proxy_says_where_and_what_would_be_right() {
    check(ADDED_TO_PROXY, PROXY);
}

#[test]
fn each_kind_of_broken_controller_says_where_and_what_would_be_right() {
    check(ADDED_TO_CONTROLLER, CONTROLLER);
}

#[test]
fn each_kind_of_broken_registry_says_where_and_what_would_be_right() {
    check(ADDED_TO_REGISTRY, REGISTRY);
}

#[test]
fn each_kind_of_broken_file_says_where_and_what_would_be_right() {
    check(WHOLE, "");
}

#[test]
fn what_the_cases_are_added_to_is_itself_right() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("p.toml", PROXY), ("c.toml", CONTROLLER), ("r.toml", REGISTRY)] {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        let said = run(&["check", file.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{}", said.err);
    }
}

#[test]
fn all_faults_come_in_one_run_as_the_file_goes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("many.toml");
    let text = "[proxy]\ntreads = 2\n[[listener]]\nbind = [\"x\"]\nservice = \"no\"\n[service.controllers]\nkind = \"c\"\nupstreams = [{ address = \"a_b:1\" }]\n[service.controllers.health]\nrise = 0\ninterval = 3\n";
    fs::write(&file, text).unwrap();
    let said = run(&["check", file.to_str().unwrap()]);
    let places: Vec<&str> =
        said.err.lines().filter_map(|line| line.split_once("many.toml:").map(|(_, place)| place)).collect();
    assert_eq!(places, ["2:1", "4:9", "5:11", "7:8", "8:26", "10:8", "11:12"], "{}", said.err);
}
