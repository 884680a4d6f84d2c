//! `switchyard check` opens what `tls` names, and says what is wrong where it is named.

use std::fs;

use crate::{
    certificates::{Authority, write},
    program::{Said, run, switchyard},
};

/// A folder with an authority, two servers' certificates and a list.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    write(folder.path(), "ca.pem", &ca.cert());
    write(folder.path(), "ca.crl", &ca.list(&[], 30));
    ca.leaf(&["front.example"]).write(folder.path(), "front");
    ca.leaf(&["other.example"]).write(folder.path(), "other");
    let strange = Authority::new("strange");
    write(folder.path(), "strange.crl", &strange.list(&[], 30));
    write(folder.path(), "junk", "no PEM\n");
    folder
}

fn checked(listener: &str, service: &str) -> (Option<i32>, String) {
    let folder = folder();
    let text = format!(
        "[[listener]]\nbind = [\"127.0.0.1:0\", \"[::1]:0\"]\nservice = \"controllers\"\n{listener}\n\
         [service.controllers]\nupstreams = [{{ address = \"127.0.0.1:1\" }}]\n{service}\n"
    );
    let file = folder.path().join("proxy.toml");
    fs::write(&file, text.replace("@", &format!("{}/", folder.path().display()))).unwrap();
    let said = run(&["check", file.to_str().unwrap()]);
    (said.code, said.err)
}

fn refused(listener: &str, service: &str, wanted: &[&str]) {
    let (code, said) = checked(listener, service);
    assert_eq!(code, Some(2), "{said}");
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in wanted {
        assert!(flat.contains(wanted), "no `{wanted}` in\n{said}");
    }
}

#[test]
fn what_is_right_passes() {
    for (listener, service) in [
        ("tls = { cert = \"@front.pem\", key = \"@front.key\" }", ""),
        ("tls = { certs = [{ cert = \"@front.pem\", key = \"@front.key\" }] }", ""),
        (
            "[listener.tls]\ncert = \"@front.pem\"\nkey = \"@front.key\"\nmin_version = \"1.3\"\n\
             certs = [{ cert = \"@other.pem\", key = \"@other.key\" }]\nclient_auth = \"required\"\n\
             client_ca = \"@ca.pem\"\ncrl = \"@ca.crl\"\nsuites = [\"TLS_AES_128_GCM_SHA256\"]",
            "tls = { ca = \"@ca.pem\", server_name = \"inner.example\", cert = \"@other.pem\", key = \"@other.key\" }\n\
             health = { kind = \"https\" }",
        ),
        ("", "tls = { verify = false }\nhealth = { kind = \"tcp\" }"),
    ] {
        let (code, said) = checked(listener, service);
        assert_eq!(code, Some(0), "{listener}: {said}");
    }
}

#[test]
fn files_are_opened_and_what_is_wrong_is_said_where_they_are_named() {
    let listener = |more: &str| format!("tls = {{ cert = \"@front.pem\", {more} }}");
    refused(&listener("key = \"@none.key\""), "", &["`listener.tls.key` names", "cannot be read"]);
    refused(
        &listener("key = \"@other.key\""),
        "",
        &["is not the key of the certificate", "name the key that the certificate was made with"],
    );
    refused(&listener("key = \"@junk\""), "", &["has no private key in PEM"]);
    refused(
        "tls = { cert = \"@junk\", key = \"@front.key\" }",
        "",
        &["`listener.tls.cert`", "no certificate in PEM"],
    );
    let asks = |more: &str| listener(&format!("key = \"@front.key\", client_auth = \"optional\", {more}"));
    refused(&asks("client_ca = \"@junk\""), "", &["`listener.tls.client_ca`", "no certificate in PEM"]);
    refused(
        &asks("client_ca = \"@ca.pem\", crl = \"@junk\""),
        "",
        &["`listener.tls.crl`", "no revocation list"],
    );
    refused(
        &asks("client_ca = \"@ca.pem\", crl = \"@strange.crl\""),
        "",
        &["has no list of an authority of `client_ca`"],
    );
    refused(
        "tls = { certs = [{ cert = \"@front.pem\", key = \"@other.key\" }] }",
        "",
        &["`listener.tls.key` names", "is not the key"],
    );
    refused("", "tls = { ca = \"@junk\" }", &["`service.controllers.tls.ca`", "no certificate in PEM"]);
    refused(
        "",
        "tls = { ca = \"@ca.pem\", cert = \"@front.pem\", key = \"@other.key\" }",
        &["`service.controllers.tls.key`", "is not the key"],
    );
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let pair = "cert = \"@front.pem\", key = \"@front.key\"";
    let with = |more: &str| format!("tls = {{ {pair}, {more} }}");
    refused("tls = {}", "", &["`listener.tls.cert` is missing"]);
    refused("tls = { certs = [] }", "", &["`listener.tls.cert` is missing"]);
    refused("tls = { cert = \"@front.pem\" }", "", &["`listener.tls.key` is missing"]);
    refused("tls = { key = \"@front.key\" }", "", &["`listener.tls.cert` is missing"]);
    refused(&with("client_auth = \"optional\""), "", &["`listener.tls.client_ca` is missing"]);
    refused(&with("client_ca = \"@ca.pem\""), "", &["means nothing without `client_auth`"]);
    refused(&with("client_auth = \"maybe\""), "", &["use `off`, `optional` or `required`"]);
    refused(&with("min_version = \"1.1\""), "", &["`listener.tls.min_version` is `1.1`"]);
    refused(&with("suites = []"), "", &["`listener.tls.suites` is empty"]);
    refused(
        &with("suites = [\"TLS_AES_128_GCM_SHA265\"]"),
        "",
        &["none that is safe and known", "did you mean `TLS_AES_128_GCM_SHA256`?"],
    );
    refused(
        &with("min_version = \"1.3\", suites = [\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]"),
        "",
        &["has none that `min_version = \"1.3\"` leaves"],
    );
    refused(&with("cret = \"x\""), "", &["unknown key `listener.tls.cret`", "did you mean `cert`?"]);
    refused("", "tls = { verify = false, ca = \"@ca.pem\" }", &["means nothing with `verify = false`"]);
    refused(
        "",
        "tls = { ca = \"@ca.pem\" }\nhealth = { kind = \"http\" }",
        &["write `https` or delete the key"],
    );
    refused("", "health = { kind = \"https\" }", &["the service has no `tls`"]);
}

#[test]
fn a_name_that_is_none_never_means_that_no_name_is_checked() {
    let with = |name: &str| format!("tls = {{ ca = \"@ca.pem\", server_name = \"{name}\" }}");
    refused("", &with(""), &["`service.controllers.tls.server_name` is empty", "write the name"]);
    refused("", &with(" "), &["`service.controllers.tls.server_name` is empty"]);
    refused("", &with("10.0.0.1"), &["an address"]);
    refused("", &with("https://a"), &["without scheme and port"]);
    refused("", &with("*.example"), &["write the host name"]);
}

/// A file of another role, with `@` for the folder: what `check` says.
fn checked_whole(text: &str) -> (Option<i32>, String) {
    let folder = folder();
    let file = folder.path().join("role.toml");
    fs::write(&file, text.replace("@", &format!("{}/", folder.path().display()))).unwrap();
    let said = run(&["check", file.to_str().unwrap()]);
    (said.code, said.err.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn whoever_asks_other_servers_opens_its_files_and_names_what_is_wrong_with_them() {
    let server = "[server]\nlisten = \"127.0.0.1:0\"\n";
    let controller = format!("{server}[store]\nembedded = \"@state\"\n");
    let registry = format!("{server}[storage]\ndisk = \"@disk\"\n");
    for (role, table, url) in [
        (&controller, "registries", "address = \"https://front:8089\""),
        (&controller, "events", "url = \"https://hooks/x\""),
        (&registry, "replication", "role = \"replica\"\nwriter = \"https://r1:8089\""),
        (&registry, "replication", "role = \"writer\"\npeers = [\"https://r2:8089\"]"),
        (&String::new(), "agent", "controllers = [\"http://a:1\", \"https://b:1\"]"),
    ] {
        let with =
            |url: &str, tls: &str| checked_whole(&format!("{role}[{table}]\n{url}\ntls = {{ {tls} }}\n"));
        let (code, said) = with(url, "ca = \"@ca.pem\", cert = \"@front.pem\", key = \"@front.key\"");
        assert_eq!(code, Some(0), "{said}");
        for (tls, told) in [
            ("ca = \"@none.pem\"", "cannot be read"),
            ("ca = \"@junk\"", "no certificate in PEM"),
            (
                "ca = \"@ca.pem\", cert = \"@front.pem\", key = \"@other.key\"",
                "is not the key of the certificate",
            ),
            ("ca = \"@ca.pem\", cert = \"@front.pem\"", ".tls.key` is missing"),
            ("ca = \"@ca.pem\", server_name = \"\"", ".tls.server_name` is empty"),
            ("ca = \"@ca.pem\", cret = \"x\"", "did you mean `cert`?"),
        ] {
            let (code, said) = with(url, tls);
            assert!(
                code == Some(2) && said.contains(told) && said.contains(&format!("{table}.tls")),
                "{said}"
            );
        }
        if table == "agent" {
            // Registries may be asked so, which the controllers name.
            assert_eq!(with("controllers = [\"http://a:1\"]", "ca = \"@ca.pem\"").0, Some(0));
        } else {
            let (code, said) = with(&url.replace("https://", "http://"), "ca = \"@ca.pem\"");
            assert!(
                code == Some(2) && said.contains("means nothing") && said.contains("write `https://`"),
                "{said}"
            );
        }
    }
    let trace = "[[listener]]\nbind = [\"127.0.0.1:0\"]\nservice = \"controllers\"\n[service.controllers]\n\
                 upstreams = [{ address = \"127.0.0.1:1\" }]\n[trace]\ncontext = \"join\"\notlp = \"https://a:1\"\n";
    let (code, said) = checked_whole(trace);
    assert!(code == Some(2) && said.contains("TLS is not spoken there"), "{said}");
}

#[test]
fn the_command_line_says_which_of_its_files_is_wrong_before_it_asks_anybody() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("front.pem"), path("front.key"));
    let (junk, other) = (path("junk"), path("other.key"));
    let list = ["vm", "list", "--controller", "https://127.0.0.1:1"];
    for (flags, told) in [
        (&["--ca", &junk][..], "`--ca`"),
        (&["--ca", &ca, "--cert", &cert, "--key", &other], "is not the key of the certificate"),
        (&["--ca", &ca, "--cert", &junk, "--key", &junk], "`--key`"),
        (&["--ca", &ca, "--cert", &cert], "`--key FILE`, or SWITCHYARD_KEY"),
        (&["--ca", &ca, "--key", &key], "`--cert FILE`, or SWITCHYARD_CERT"),
    ] {
        let said = run(&[&list, flags].concat());
        assert!(said.code == Some(2) && said.err.contains(told), "{flags:?}: {}", said.err);
    }
    // A variable does the same; one that is empty is none, and nobody reads files for who is asked plainly.
    let with = |variable: &str, value: &str, args: &[&str]| -> Said {
        switchyard().env(variable, value).args(args).output().unwrap().into()
    };
    assert_eq!(with("SWITCHYARD_CA", &junk, &list).code, Some(2));
    for (value, scheme) in [("", "https"), (junk.as_str(), "http")] {
        let url = format!("{scheme}://127.0.0.1:1");
        let trusted = ["registry", "status", "--registry", &url];
        let said = with("SWITCHYARD_CERT", value, &[&trusted, &["--ca", &ca][..]].concat());
        assert!(said.code == Some(1) && said.err.contains("cannot be reached"), "{}", said.err);
    }
    // Agents have the words of their config, and where it is from.
    let data = path("agent");
    let join = ["agent", "join", "https://127.0.0.1:1", "--data", &data];
    let said = run(&[&join, &["--cacert", &junk][..]].concat());
    assert!(
        said.code == Some(2) && said.err.contains("`agent.tls.ca`") && said.err.contains("flag --cacert"),
        "{said:?}"
    );
    let said = run(&[&join, &["--cacert", &ca, "--cert", &cert][..]].concat());
    assert!(said.code == Some(2) && said.err.contains("`agent.tls.key` is missing"), "{said:?}");
    let said = with("SWITCHYARD_AGENT_TLS_CA", &junk, &join);
    assert!(said.code == Some(2) && said.err.contains("variable SWITCHYARD_AGENT_TLS_CA"), "{said:?}");
    // Who speaks no TLS says so.
    let said = run(&["status", "--admin", "https://127.0.0.1:1"]);
    assert!(said.code == Some(2) && said.err.contains("TLS is not spoken there"), "{said:?}");
}
