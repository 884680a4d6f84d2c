//! Step 5: from method and path to what a request is: its class, and what may be done with it.
//!
//! The two tables below are the only place that knows routes. Where a table is silent a request is taken
//! for the worst: it may change something, may not be sent twice, and may take long.

pub mod vendor;

use ::http::Method;

use crate::{
    config::proxy::{Does, Kind, Rule},
    health::Access,
    model::{RepositoryName, RouteClass},
};

/// What a registry must have to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing in particular.
    Nothing,
    /// The newest state of the repository that the path names.
    Repository,
    /// The newest state of all repositories: lists, and what names a template by an id.
    All,
    /// A blob of the repository that the path names, or a layer file of the vendor's. Its name means the same bytes
    /// everywhere.
    Blob,
    /// It cannot be told. Where lists are compared, the newest state of all; by positions nothing.
    Unsaid,
    /// API keys, sessions, permissions. Registries of the vendor each have their own, and those of the writer count.
    Keys,
    /// The logs, which one registry collects.
    Logs,
}

impl Needs {
    /// The word of the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Repository => "repository",
            Self::All => "all-repositories",
            Self::Blob => "blob",
            Self::Unsaid => "unsaid",
            Self::Keys => "keys",
            Self::Logs => "logs",
        }
    }
}

/// How long an answer may take to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Under the one deadline, before real clients give up.
    Prompt,
    /// It waits on purpose: a poll.
    Parked,
    /// Bytes move for as long as they move; only standing still is limited.
    Bulk,
    /// Bulk, and the answer may take long after the last byte: the server makes it durable first.
    Commit,
}

impl Pace {
    /// The word of the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Parked => "parked",
            Self::Bulk => "bulk",
            Self::Commit => "commit",
        }
    }
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Its class.
    pub class: RouteClass,
    /// Whether it may change anything.
    pub access: Access,
    /// May be sent again although it may have run.
    pub repeatable: bool,
    /// Makes something new; harmless to repeat under one `Idempotency-Key`.
    pub creates: bool,
    /// Belongs to the write registry, if one is configured.
    pub to_writer: bool,
    /// How long the answer may take.
    pub pace: Pace,
    /// What a registry must have to answer.
    pub needs: Needs,
}

/// A request that no table was asked about yet.
pub const UNROUTED: Route = Route { pace: Pace::Bulk, repeatable: false, ..READ };

struct Row {
    methods: &'static [Method],
    /// Segments: `*` is any one, `**` is one or more.
    path: &'static str,
    route: Route,
}

const READ: Route = Route {
    class: RouteClass::ControllerApi,
    access: Access::Read,
    repeatable: true,
    creates: false,
    to_writer: false,
    pace: Pace::Prompt,
    needs: Needs::Nothing,
};
const WRITE: Route = Route { access: Access::Write, repeatable: false, ..READ };
const POLL: Route = Route { class: RouteClass::AgentPoll, pace: Pace::Parked, ..WRITE };
const HANDSHAKE: Route = Route { class: RouteClass::AuthHandshake, ..WRITE };
const R_READ: Route = Route { class: RouteClass::RegistryRead, ..READ };
const R_WRITE: Route = Route { class: RouteClass::RegistryWrite, to_writer: true, ..WRITE };
const R_OF_ONE: Route = Route { needs: Needs::Repository, ..R_READ };
const R_OF_ALL: Route = Route { needs: Needs::All, ..R_READ };
const R_BLOB: Route = Route { needs: Needs::Blob, ..R_READ };
const R_KEYS: Route = Route { needs: Needs::Keys, ..R_READ };
const R_SHAKE: Route = Route { needs: Needs::Keys, ..HANDSHAKE };
const LOG_ROW: Route = Route { needs: Needs::Logs, to_writer: false, ..R_WRITE };
const LOG_STREAM: Route = Route { needs: Needs::Logs, pace: Pace::Bulk, repeatable: false, ..R_READ };
const UPLOAD: Route = Route { class: RouteClass::RegistryUpload, pace: Pace::Commit, ..R_WRITE };

const GET: &[Method] = &[Method::GET, Method::HEAD];
const ONLY_GET: &[Method] = &[Method::GET];
const ONLY_HEAD: &[Method] = &[Method::HEAD];
const POST: &[Method] = &[Method::POST];
const PUT: &[Method] = &[Method::PUT];
const DELETE: &[Method] = &[Method::DELETE];
const ANY: &[Method] = &[];

const CONTROLLER: &[Row] = &[
    Row { methods: GET, path: "/api/v1/**", route: READ },
    Row { methods: POST, path: "/api/v1/vm", route: Route { creates: true, ..WRITE } },
    Row { methods: DELETE, path: "/api/v1/vm", route: Route { repeatable: true, ..WRITE } },
    Row { methods: ANY, path: "/api/v1/**", route: WRITE },
    Row { methods: ONLY_GET, path: "/switchyard/v1/tasks", route: POLL },
    // Changes as they happen: it goes on for as long as both sides are there.
    Row {
        methods: ONLY_GET,
        path: "/switchyard/v1/watch",
        route: Route { pace: Pace::Bulk, repeatable: false, ..READ },
    },
    Row { methods: GET, path: "/switchyard/v1/**", route: READ },
    Row { methods: ANY, path: "/switchyard/v1/**", route: WRITE },
    // Queue clients wait for a task as nodes do; of the vendor's queue only two paths are public.
    Row { methods: ONLY_GET, path: "/queue/v1/**", route: POLL },
    Row { methods: ANY, path: "/queue/v1/**", route: WRITE },
    Row { methods: ANY, path: "/tap/v1/**", route: HANDSHAKE },
    Row { methods: GET, path: "/config/v1/auth", route: READ },
    // A code is good once, and for the controller that has sent the browser for it.
    Row { methods: ANY, path: "/oidc/**", route: HANDSHAKE },
    Row { methods: GET, path: "/admin/v1/api/permission/**", route: READ },
    Row { methods: GET, path: "/admin/api/v1/permission/**", route: READ },
    Row { methods: ANY, path: "/admin/v1/api/permission/**", route: WRITE },
    Row { methods: ANY, path: "/admin/api/v1/permission/**", route: WRITE },
    // The other spelling of the API in one of the vendor's pages.
    Row { methods: ANY, path: "/v1/node/update", route: WRITE },
    // Agents' packages and the web page: files of one version of the controller.
    Row { methods: GET, path: "/pkg/**", route: Route { pace: Pace::Bulk, ..READ } },
    Row { methods: GET, path: "/", route: Route { pace: Pace::Bulk, ..READ } },
    Row { methods: GET, path: "/livez", route: READ },
    Row { methods: GET, path: "/healthz", route: READ },
    Row { methods: GET, path: "/readyz", route: READ },
];

const REGISTRY: &[Row] = &[
    Row { methods: GET, path: "/v2", route: R_READ },
    Row { methods: GET, path: "/v2/_catalog", route: R_OF_ALL },
    Row { methods: ANY, path: "/v2/**/blobs/uploads", route: UPLOAD },
    Row { methods: ANY, path: "/v2/**/blobs/uploads/*", route: UPLOAD },
    // Part of a push: a replica that lacks the blob would make the client send it again.
    Row { methods: ONLY_HEAD, path: "/v2/**/blobs/*", route: Route { to_writer: true, ..R_BLOB } },
    Row { methods: ONLY_GET, path: "/v2/**/blobs/*", route: Route { pace: Pace::Bulk, ..R_BLOB } },
    Row { methods: DELETE, path: "/v2/**/blobs/*", route: R_WRITE },
    Row { methods: GET, path: "/v2/**/manifests/*", route: R_OF_ONE },
    Row { methods: ANY, path: "/v2/**/manifests/*", route: Route { pace: Pace::Commit, ..R_WRITE } },
    Row { methods: GET, path: "/v2/**/tags/list", route: R_OF_ONE },
    Row { methods: GET, path: "/v2/**/referrers/*", route: R_OF_ONE },
    Row { methods: GET, path: "/registry/status", route: R_READ },
    Row { methods: GET, path: "/registry/disk", route: R_READ },
    Row { methods: GET, path: "/registry/vm", route: R_OF_ALL },
    Row { methods: GET, path: "/registry/v2/vm", route: R_OF_ALL },
    // It names a template by its id, and which repository that is only a registry knows.
    Row { methods: GET, path: "/registry/vm/info", route: R_OF_ALL },
    Row { methods: DELETE, path: "/registry/vm", route: R_WRITE },
    Row { methods: DELETE, path: "/registry/revert", route: R_WRITE },
    Row { methods: PUT, path: "/registry/vm/arch", route: R_WRITE },
    Row { methods: GET, path: "/v1/apikey", route: R_KEYS },
    Row { methods: ANY, path: "/v1/apikey", route: R_WRITE },
    Row { methods: GET, path: "/admin/v1/api/permission/**", route: R_KEYS },
    Row { methods: GET, path: "/admin/api/v1/permission/**", route: R_KEYS },
    Row { methods: ANY, path: "/admin/v1/api/permission/**", route: R_WRITE },
    Row { methods: ANY, path: "/admin/api/v1/permission/**", route: R_WRITE },
    Row { methods: ANY, path: "/tap/v1/**", route: R_SHAKE },
    Row { methods: POST, path: "/log", route: LOG_ROW },
    Row { methods: GET, path: "/log/**", route: LOG_STREAM },
    Row { methods: GET, path: "/", route: Route { pace: Pace::Bulk, ..R_READ } },
    Row { methods: GET, path: "/livez", route: R_READ },
    Row { methods: GET, path: "/healthz", route: R_READ },
    Row { methods: GET, path: "/readyz", route: R_READ },
];

/// What a request without a query to a service of this kind is.
pub fn route(kind: Kind, method: &Method, path: &str) -> Route {
    of_target(kind, method, path, "")
}

/// What a request to a service of this kind is. `path` is in the form of [`super::guard::path::normalise`], `query`
/// as it came.
pub fn of_target(kind: Kind, method: &Method, path: &str, query: &str) -> Route {
    let table = match kind {
        Kind::Controller => CONTROLLER,
        Kind::Registry => REGISTRY,
    };
    let bare = path.strip_suffix('/').unwrap_or(path);
    // A slash at the end is another path to some servers: nothing that changes something becomes repeatable
    // by leaving it out.
    let fits = |row: &&Row| {
        (row.methods.is_empty() || row.methods.iter().any(|other| other == method))
            && (matches(row.path, path)
                || (bare.len() < path.len()
                    && (row.route.access == Access::Read || !(row.route.repeatable || row.route.creates))
                    && matches(row.path, bare)))
    };
    table.iter().find(fits).map_or_else(|| unknown(kind, method, path, query), |row| row.route)
}

/// What the tables do not know: web pages, log streams, the vendor's own transfer protocol. Only what is told by the
/// name of a file is taken for more than the worst.
fn unknown(kind: Kind, method: &Method, path: &str, query: &str) -> Route {
    let looks = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let gets = matches!(*method, Method::GET | Method::HEAD);
    match kind {
        Kind::Controller if gets && vendor::is_asset(path) => Route { pace: Pace::Bulk, ..READ },
        Kind::Controller if looks => Route { pace: Pace::Bulk, repeatable: false, ..READ },
        Kind::Controller => Route { pace: Pace::Commit, ..WRITE },
        // A question that brings no content asks what a push need not bring.
        Kind::Registry if *method == Method::HEAD => {
            Route { pace: Pace::Bulk, repeatable: false, to_writer: true, ..R_READ }
        }
        Kind::Registry if gets && vendor::layer(path, query).is_some() => {
            Route { pace: Pace::Bulk, ..R_BLOB }
        }
        Kind::Registry if looks => {
            Route { pace: Pace::Bulk, repeatable: false, needs: Needs::Unsaid, ..R_READ }
        }
        // A file of a push, of any size and in one body.
        Kind::Registry => UPLOAD,
    }
}

/// The repository that a path of the OCI API names; `None` when it names none that there can be.
pub fn repository(path: &str) -> Option<RepositoryName> {
    let rest = path.strip_prefix("/v2/")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let name = match session_id(path) {
        Some(_) => rest.rsplitn(4, '/').nth(3),
        None => rest.rsplitn(3, '/').nth(2),
    };
    RepositoryName::parse(name?).ok()
}

/// The registry that an upload session's path names: ids are `<registry>.<uuid>`, and there is no dot in a uuid.
pub fn session(path: &str) -> Option<&str> {
    let (registry, _) = session_id(path)?.rsplit_once('.')?;
    (!registry.is_empty()).then_some(registry)
}

fn session_id(path: &str) -> Option<&str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    matches("/v2/**/blobs/uploads/*", path).then(|| path.rsplit('/').next())?
}

/// Matches a pattern of whole segments.
fn matches(pattern: &str, path: &str) -> bool {
    // Looked for by a single byte: the tables are gone through for every request.
    let Some(at) = pattern.bytes().position(|byte| byte == b'*') else { return pattern == path };
    let (before, stars) = pattern.split_at(at);
    let Some(rest) = path.strip_prefix(before) else { return false };
    let Some(after) = stars.strip_prefix("**") else { return same(stars, rest) };
    if after.is_empty() {
        return !rest.is_empty();
    }
    // The part behind `**` is matched from the end; at least one segment is left for `**` itself.
    let wanted = after.matches('/').count();
    let Some((at, _)) = rest.rmatch_indices('/').nth(wanted - 1) else { return false };
    at > 0 && same(after, &rest[at..])
}

fn same(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("*"), Some(segment)) if !segment.is_empty() => {}
            (Some(wanted), Some(segment)) if wanted == segment => {}
            _ => return false,
        }
    }
}

/// What the first rule that fits does; `None` when none does. If that refuses, the service of the first that does not
/// comes beside it: whom it would have been for decides in which form it is told.
///
/// `host` is without port, in any case.
pub fn does(rules: &[Rule], host: &str, path: &str) -> Option<(Does, Option<usize>)> {
    let mut fitting = rules.iter().filter(|rule| fits(rule, host, path).is_ok());
    let first = fitting.next()?;
    Some((first.does, first.service().or_else(|| fitting.find_map(Rule::service))))
}

/// For what a rule does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It is for another host.
    Host,
    /// It is for another path.
    Path,
}

/// Whether a rule fits.
pub fn fits(rule: &Rule, host: &str, path: &str) -> Result<(), Misfit> {
    if rule.host.as_deref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(host)) {
        return Err(Misfit::Host);
    }
    if rule.path.as_deref().is_some_and(|prefix| !below(prefix, path)) {
        return Err(Misfit::Path);
    }
    Ok(())
}

/// Whether `path` is `prefix` or below it, on segment borders.
fn below(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Paths of our own servers that a front keeps to itself unless the listener exposes them.
const HIDDEN: [&str; 2] = ["/metrics", "/replication"];

/// Whether a front answers 404 to `path`.
pub fn is_hidden(path: &str, expose: &[String]) -> bool {
    HIDDEN.iter().any(|hidden| below(hidden, path)) && !expose.iter().any(|open| below(open, path))
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
