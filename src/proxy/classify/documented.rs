//! Every route of the vendor's that is documented, and our own: what it is, in one table.
//!
//! The marks say what may be done with it. `r` repeatable, `c` creates, `w` the writer's; how long it may take: `p`
//! prompt, `k` parked, `b` bulk, `u` commit; what it needs of a registry: `-` nothing, `o` one repository, `a` all, `f`
//! a file by its name, `?` it cannot be told, `s` keys and sessions, `l` the logs.

use super::{Needs, Pace, Route, of_target};
use crate::{config::proxy::Kind, health::Access, model::RouteClass};

const FILE: &str = "0123456789abcdef0123456789abcdef.ank";

fn marks(route: Route) -> String {
    let mut marks = String::new();
    for (is, mark) in [(route.repeatable, 'r'), (route.creates, 'c'), (route.to_writer, 'w')] {
        marks.extend(is.then_some(mark));
    }
    marks.push(match route.pace {
        Pace::Prompt => 'p',
        Pace::Parked => 'k',
        Pace::Bulk => 'b',
        Pace::Commit => 'u',
    });
    marks.push(match route.needs {
        Needs::Nothing => '-',
        Needs::Repository => 'o',
        Needs::All => 'a',
        Needs::Blob => 'f',
        Needs::Unsaid => '?',
        Needs::Keys => 's',
        Needs::Logs => 'l',
    });
    marks
}

fn check(kind: Kind, rows: &[(&str, RouteClass, Access, &str)]) {
    for (line, class, access, wanted) in rows {
        let (method, target) = line.split_once(' ').unwrap();
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let path = path.replace("FILE", FILE);
        let route = of_target(kind, &method.parse().unwrap(), &path, &query.replace("FILE", FILE));
        assert_eq!((route.class, route.access, marks(route).as_str()), (*class, *access, *wanted), "{line}");
    }
}

#[test]
fn every_documented_route_of_a_controller() {
    use Access::{Read, Write};
    use RouteClass::{AgentPoll as Poll, AuthHandshake as Shake, ControllerApi as Api};
    check(
        Kind::Controller,
        &[
            ("GET /livez", Api, Read, "rp-"),
            ("GET /readyz", Api, Read, "rp-"),
            ("GET /healthz", Api, Read, "rp-"),
            ("GET /api/v1/status", Api, Read, "rp-"),
            ("GET /api/v1/stats", Api, Read, "rp-"),
            ("POST /api/v1/vm", Api, Write, "cp-"),
            ("GET /api/v1/vm", Api, Read, "rp-"),
            ("GET /api/v1/vm?id=x", Api, Read, "rp-"),
            ("PUT /api/v1/vm?id=x", Api, Write, "p-"),
            ("DELETE /api/v1/vm", Api, Write, "rp-"),
            ("POST /api/v1/rpc/vm/restart", Api, Write, "p-"),
            ("GET /api/v1/node?id=x", Api, Read, "rp-"),
            ("POST /api/v1/node/config", Api, Write, "p-"),
            ("DELETE /api/v1/node", Api, Write, "p-"),
            ("PUT /api/v1/node/update", Api, Write, "p-"),
            ("PUT /v1/node/update", Api, Write, "p-"),
            ("POST /api/v1/node/group", Api, Write, "p-"),
            ("DELETE /api/v1/node/group", Api, Write, "p-"),
            ("GET /api/v1/registry/vm?apiVer=v1", Api, Read, "rp-"),
            ("DELETE /api/v1/registry/vm?id=x", Api, Write, "p-"),
            ("DELETE /api/v1/registry/revert?id=x", Api, Write, "p-"),
            ("DELETE /api/v1/registry/vm/remove?id=x", Api, Write, "p-"),
            ("POST /api/v1/registry/vm/distribute", Api, Write, "p-"),
            ("GET /api/v1/registry/vm/distribute", Api, Read, "rp-"),
            ("DELETE /api/v1/registry/vm/distribute?id=x", Api, Write, "p-"),
            ("GET /api/v1/registry/disk", Api, Read, "rp-"),
            ("POST /api/v1/image", Api, Write, "p-"),
            ("GET /api/v1/image?id=x", Api, Read, "rp-"),
            ("POST /api/v1/group", Api, Write, "p-"),
            ("GET /api/v1/group", Api, Read, "rp-"),
            ("PUT /api/v1/group?id=x", Api, Write, "p-"),
            ("DELETE /api/v1/group?id=x", Api, Write, "p-"),
            ("GET /api/v1/usb", Api, Read, "rp-"),
            ("GET /api/v1/macaddr?count=1", Api, Read, "rp-"),
            ("PUT /api/v1/macaddr", Api, Write, "p-"),
            ("DELETE /api/v1/macaddr", Api, Write, "p-"),
            ("GET /api/v1/vlan", Api, Read, "rp-"),
            ("GET /api/v1/apikey", Api, Read, "rp-"),
            ("POST /api/v1/apikey", Api, Write, "p-"),
            ("PUT /api/v1/apikey", Api, Write, "p-"),
            ("DELETE /api/v1/apikey", Api, Write, "p-"),
            ("GET /admin/v1/api/permission/resources/permissions", Api, Read, "rp-"),
            ("GET /admin/v1/api/permission/group/g/resources", Api, Read, "rp-"),
            ("POST /admin/v1/api/permission/group/g/resources", Api, Write, "p-"),
            ("GET /admin/api/v1/permission/group/g/resources", Api, Read, "rp-"),
            ("POST /admin/api/v1/permission/group/g/resources", Api, Write, "p-"),
            ("POST /tap/v1/hand", Shake, Write, "p-"),
            ("POST /tap/v1/shake", Shake, Write, "p-"),
            ("GET /config/v1/auth", Api, Read, "rp-"),
            ("GET /oidc/v1/callback?code=x&state=y", Shake, Write, "p-"),
            ("GET /pkg/AnkaAgent.pkg", Api, Read, "rb-"),
            ("GET /pkg/AnkaAgentArm.pkg", Api, Read, "rb-"),
            ("GET /queue/v1/cmd/task", Poll, Write, "k-"),
            ("GET /queue/v1/anything/else", Poll, Write, "k-"),
            ("POST /queue/v1/controller/task", Api, Write, "p-"),
            ("GET /", Api, Read, "rb-"),
            ("GET /admin/ui", Api, Read, "b-"),
            ("GET /static/js/main.0a1b.js", Api, Read, "rb-"),
            ("GET /logs/stream", Api, Read, "b-"),
            ("POST /anything", Api, Write, "u-"),
            ("GET /switchyard/v1/tasks", Poll, Write, "k-"),
            ("POST /switchyard/v1/report", Api, Write, "p-"),
            ("GET /switchyard/v1/instances?limit=5", Api, Read, "rp-"),
            ("GET /switchyard/v1/instances/i-1/why", Api, Read, "rp-"),
            ("GET /switchyard/v1/nodes/n-1/why", Api, Read, "rp-"),
            ("GET /switchyard/v1/watch?from=7", Api, Read, "b-"),
        ],
    );
}

#[test]
fn every_documented_route_of_a_registry() {
    use Access::{Read, Write};
    use RouteClass::{
        AuthHandshake as Shake, RegistryRead as Look, RegistryUpload as Push, RegistryWrite as Change,
    };
    check(
        Kind::Registry,
        &[
            ("GET /livez", Look, Read, "rp-"),
            ("GET /readyz", Look, Read, "rp-"),
            ("GET /registry/status", Look, Read, "rp-"),
            ("GET /registry/disk", Look, Read, "rp-"),
            ("GET /registry/vm", Look, Read, "rpa"),
            ("GET /registry/vm?id=x", Look, Read, "rpa"),
            ("GET /registry/v2/vm", Look, Read, "rpa"),
            ("GET /registry/v2/vm?id=x", Look, Read, "rpa"),
            ("GET /registry/vm/info?id=x&tag=t", Look, Read, "rpa"),
            ("DELETE /registry/vm?id=x", Change, Write, "wp-"),
            ("DELETE /registry/revert?id=x", Change, Write, "wp-"),
            ("PUT /registry/vm/arch", Change, Write, "wp-"),
            ("GET /v1/apikey", Look, Read, "rps"),
            ("POST /v1/apikey", Change, Write, "wp-"),
            ("PUT /v1/apikey", Change, Write, "wp-"),
            ("DELETE /v1/apikey", Change, Write, "wp-"),
            ("GET /admin/v1/api/permission/group/g/resources", Look, Read, "rps"),
            ("POST /admin/v1/api/permission/group/g/resources", Change, Write, "wp-"),
            ("GET /admin/api/v1/permission/group/g/resources", Look, Read, "rps"),
            ("POST /admin/api/v1/permission/group/g/resources", Change, Write, "wp-"),
            ("POST /tap/v1/hand", Shake, Write, "ps"),
            ("POST /tap/v1/shake", Shake, Write, "ps"),
            ("POST /log", Change, Write, "pl"),
            ("GET /log/stream", Look, Read, "bl"),
            ("GET /", Look, Read, "rb-"),
            // The transfer protocol is not public: what is not known goes where it can do no harm.
            ("GET /files/images_dir/FILE", Look, Read, "rbf"),
            ("GET /registry/download?file=FILE", Look, Read, "rbf"),
            ("GET /registry/pull?id=x", Look, Read, "b?"),
            ("GET /files/nvram", Look, Read, "b?"),
            ("HEAD /files/images_dir/FILE", Look, Read, "wb-"),
            ("HEAD /registry/push?id=x", Look, Read, "wb-"),
            ("POST /registry/push?id=x", Push, Write, "wu-"),
            ("PUT /files/images_dir/FILE", Push, Write, "wu-"),
            ("PATCH /anything", Push, Write, "wu-"),
            ("GET /v2/a/blobs/sha256:1", Look, Read, "rbf"),
            ("HEAD /v2/a/blobs/sha256:1", Look, Read, "rwpf"),
            ("PUT /v2/a/manifests/x", Change, Write, "wu-"),
        ],
    );
}
