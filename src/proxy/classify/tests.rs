use proptest::prelude::*;

use super::*;

fn of(kind: Kind, line: &str) -> Route {
    let (method, path) = line.split_once(' ').unwrap();
    route(kind, &method.parse().unwrap(), path)
}

#[test]
fn every_documented_route_has_its_class() {
    use Kind::{Controller as C, Registry as R};
    use RouteClass as K;
    for (kind, line, class) in [
        (C, "GET /api/v1/status", K::ControllerApi),
        (C, "POST /api/v1/vm", K::ControllerApi),
        (C, "GET /switchyard/v1/tasks", K::AgentPoll),
        (C, "GET /queue/v1/cmd/task", K::AgentPoll),
        (C, "POST /queue/v1/controller/task", K::ControllerApi),
        (C, "POST /switchyard/v1/report", K::ControllerApi),
        (C, "POST /tap/v1/hand", K::AuthHandshake),
        (C, "GET /pkg/AnkaAgent.pkg", K::ControllerApi),
        (C, "GET /", K::ControllerApi),
        (R, "GET /v2/", K::RegistryRead),
        (R, "GET /v2", K::RegistryRead),
        (R, "GET /v2/a/manifests/latest", K::RegistryRead),
        (R, "HEAD /v2/a/b/manifests/sha256:1", K::RegistryRead),
        (R, "PUT /v2/a/manifests/latest", K::RegistryWrite),
        (R, "DELETE /v2/a/manifests/latest", K::RegistryWrite),
        (R, "GET /v2/a/b/c/blobs/sha256:1", K::RegistryRead),
        (R, "POST /v2/a/blobs/uploads/", K::RegistryUpload),
        (R, "POST /v2/a/blobs/uploads", K::RegistryUpload),
        (R, "PATCH /v2/a/b/blobs/uploads/u-1", K::RegistryUpload),
        (R, "GET /v2/a/b/blobs/uploads/u-1", K::RegistryUpload),
        (R, "GET /v2/a/tags/list", K::RegistryRead),
        (R, "GET /registry/v2/vm", K::RegistryRead),
        (R, "DELETE /registry/revert", K::RegistryWrite),
        (R, "POST /tap/v1/shake", K::AuthHandshake),
        (R, "POST /upload/whatever", K::RegistryUpload),
    ] {
        assert_eq!(of(kind, line).class, class, "{line}");
    }
}

#[test]
fn exactly_these_are_repeatable() {
    use Kind::{Controller as C, Registry as R};
    for (kind, line, repeatable) in [
        (C, "GET /api/v1/vm", true),
        (C, "HEAD /api/v1/status", true),
        (C, "GET /api/v1/registry/vm", true),
        (C, "DELETE /api/v1/vm", true),
        (C, "DELETE /api/v1/vm/", false),
        (C, "POST /api/v1/vm", false),
        (C, "PUT /api/v1/vm", false),
        (C, "DELETE /api/v1/node", false),
        (C, "DELETE /api/v1/registry/revert", false),
        (C, "DELETE /api/v1/registry/vm", false),
        (C, "GET /switchyard/v1/tasks", false),
        (C, "GET /queue/v1/cmd/task", false),
        (C, "POST /switchyard/v1/report", false),
        (C, "POST /tap/v1/hand", false),
        (C, "GET /pkg/AnkaAgent.pkg", true),
        (R, "GET /v2/a/blobs/sha256:1", true),
        (R, "HEAD /v2/a/blobs/sha256:1", true),
        (R, "GET /v2/a/manifests/x", true),
        (R, "GET /registry/vm", true),
        (R, "DELETE /registry/revert", false),
        (R, "DELETE /registry/vm", false),
        (R, "PUT /v2/a/manifests/x", false),
        (R, "PATCH /v2/a/blobs/uploads/1", false),
        (R, "GET /v2/a/blobs/uploads/1", false),
        (R, "GET /unknown", false),
    ] {
        assert_eq!(of(kind, line).repeatable, repeatable, "{line}");
    }
}

#[test]
fn only_a_start_creates() {
    assert!(of(Kind::Controller, "POST /api/v1/vm").creates);
    for line in ["POST /api/v1/image", "POST /api/v1/vm/x", "PUT /api/v1/vm", "POST /switchyard/v1/report"] {
        assert!(!of(Kind::Controller, line).creates, "{line}");
    }
}

#[test]
fn writes_uploads_and_unknown_changes_belong_to_the_writer() {
    for (line, to_writer) in [
        ("PUT /v2/a/manifests/x", true),
        ("POST /v2/a/blobs/uploads/", true),
        ("POST /strange", true),
        ("HEAD /v2/a/blobs/sha256:1", true),
        ("GET /v2/a/blobs/sha256:1", false),
        ("GET /registry/vm", false),
        ("GET /strange", false),
    ] {
        assert_eq!(of(Kind::Registry, line).to_writer, to_writer, "{line}");
    }
}

#[test]
fn each_read_needs_what_it_is_about() {
    use Needs::{All, Blob, Nothing, Repository, Unsaid};
    for (line, needs, name) in [
        ("GET /v2/a/manifests/latest", Repository, Some("a")),
        ("HEAD /v2/team/app/manifests/sha256:1", Repository, Some("team/app")),
        ("GET /v2/a/tags/list", Repository, Some("a")),
        ("GET /v2/a/tags/list/", Repository, Some("a")),
        ("GET /v2/a/b/referrers/sha256:1", Repository, Some("a/b")),
        ("GET /v2/a/blobs/sha256:1", Blob, Some("a")),
        ("HEAD /v2/a/b/blobs/sha256:1", Blob, Some("a/b")),
        ("GET /v2/a/blobs/uploads/manifests/x", Repository, Some("a/blobs/uploads")),
        ("PUT /v2/a/manifests/latest", Nothing, Some("a")),
        ("POST /v2/a/blobs/uploads/", Nothing, Some("a")),
        ("PATCH /v2/a/b/blobs/uploads/r1.u", Nothing, Some("a/b")),
        ("GET /v2/_catalog", All, None),
        ("GET /registry/vm", All, None),
        ("GET /registry/v2/vm", All, None),
        ("GET /registry/vm/info", All, None),
        ("GET /registry/status", Nothing, None),
        ("GET /v2/", Nothing, None),
        ("GET /readyz", Nothing, None),
        ("GET /strange", Unsaid, None),
        ("DELETE /registry/vm", Nothing, None),
        ("GET /v2/%C3%BC/manifests/x", Repository, None),
    ] {
        let path = line.split_once(' ').unwrap().1;
        assert_eq!(of(Kind::Registry, line).needs, needs, "{line}");
        assert_eq!(repository(path).as_ref().map(RepositoryName::as_str), name, "{line}");
    }
}

#[test]
fn an_upload_session_names_its_registry() {
    for (path, registry) in [
        ("/v2/a/blobs/uploads/r1.0a1b-2c", Some("r1")),
        ("/v2/a/b/blobs/uploads/reg.eu-1.0a1b-2c/", Some("reg.eu-1")),
        ("/v2/a/blobs/uploads/0a1b-2c", None),
        ("/v2/a/blobs/uploads/.0a1b", None),
        ("/v2/a/blobs/uploads/", None),
        ("/v2/a/blobs/r1.0a1b", None),
        ("/v2/a/manifests/r1.x", None),
    ] {
        assert_eq!(session(path), registry, "{path}");
    }
}

#[test]
fn a_repository_may_be_named_like_a_route() {
    let route = of(Kind::Registry, "GET /v2/a/blobs/uploads/manifests/x");
    assert_eq!((route.class, route.pace), (RouteClass::RegistryRead, Pace::Prompt));
    assert!(!of(Kind::Registry, "GET /v2/blobs/x").repeatable);
}

#[test]
fn rules_go_by_host_and_whole_segments_and_the_first_wins() {
    let rule = |host: Option<&str>, path: Option<&str>, does| Rule {
        host: host.map(Into::into),
        path: path.map(Into::into),
        does,
    };
    let rules = [
        rule(Some("ci.example"), Some("/v2/private"), Does::Forbid),
        rule(Some("ci.example"), Some("/v2/"), Does::Send(0)),
        rule(None, Some("/registry/log"), Does::Hide),
        rule(None, Some("/registry"), Does::Send(1)),
        rule(Some("ci.example"), None, Does::Send(2)),
        rule(None, Some("/closed"), Does::Forbid),
    ];
    let to = |service| Some((Does::Send(service), Some(service)));
    for (host, path, wanted) in [
        ("ci.example", "/v2/a", to(0)),
        ("ci.example", "/v2", to(0)),
        ("ci.example", "/v2a", to(2)),
        ("ci.example", "/v2/private/x", Some((Does::Forbid, Some(0)))),
        ("ci.example", "/v2/privates", to(0)),
        ("other", "/v2/private", None),
        ("other", "/v2/a", None),
        ("other", "/registry/vm", to(1)),
        ("other", "/registry/log", Some((Does::Hide, Some(1)))),
        ("other", "/registryx", None),
        ("other", "/closed", Some((Does::Forbid, None))),
        ("ci.example", "/closed", to(2)),
    ] {
        assert_eq!(does(&rules, host, path), wanted, "{host}{path}");
    }
}

#[test]
fn our_own_paths_are_hidden_unless_exposed() {
    let none: &[String] = &[];
    for (path, hidden) in [
        ("/metrics", true),
        ("/metrics/", true),
        ("/replication/v1/log", true),
        ("/metricsx", false),
        ("/admin/v1/api/permission", false),
    ] {
        assert_eq!(is_hidden(path, none), hidden, "{path}");
    }
    assert!(!is_hidden("/metrics", &["/metrics".into()]));
    assert!(!is_hidden("/replication/v1/log", &["/replication/".into()]));
    assert!(is_hidden("/metrics", &["/replication/".into()]));
}

proptest! {
    #[test]
    fn no_revert_is_ever_repeatable(before in "(/[a-z0-9]{1,4}){0,3}", after in "(/[a-z]{0,3}){0,2}") {
        let path = format!("{before}/revert{after}");
        for kind in [Kind::Controller, Kind::Registry] {
            for method in [Method::DELETE, Method::POST, Method::PUT] {
                prop_assert!(!route(kind, &method, &path).repeatable, "{}", path);
            }
        }
    }

    #[test]
    fn any_path_has_a_route(path in "/[a-z0-9/*.%]{0,40}", method in "[A-Z]{1,8}") {
        let method: Method = method.parse().unwrap();
        let safe = matches!(method, Method::GET | Method::HEAD);
        for kind in [Kind::Controller, Kind::Registry] {
            let route = route(kind, &method, &path);
            let of_all = matches!(route.needs, Needs::Nothing | Needs::Keys | Needs::Logs);
            prop_assert!(of_all || route.access == Access::Read);
            let _names = (repository(&path), session(&path));
            prop_assert!(safe || !route.repeatable || (method == Method::DELETE && path == "/api/v1/vm"));
        }
    }
}
