//! Keys that operators may know from the design or from newer versions: refused with a word that helps.

/// Keys of later versions; `*` stands for a name. A key leaves this list when its code arrives.
const PLANNED: &[&str] =
    &["service.*.transfer", "service.*.upstreams.public_url", "storage.s3", "oidc", "events"];

/// Keys that are written elsewhere.
const MOVED: &[(&str, &str)] = &[
    ("proxy.grace", "write it as `grace` in `[shutdown]`"),
    ("server.grace", "write it as `grace` in `[shutdown]`"),
    ("agent.grace", "write it as `grace` in `[shutdown]`"),
    ("proxy.log", "write it as a table `[log]`"),
    ("proxy.listen", "write it as `bind` in `[[listener]]`"),
    ("proxy.admin", "write it as `listen` in `[admin]`"),
    ("listener.listen", "write `bind = [\"…\"]`"),
    ("listener.address", "write `bind = [\"…\"]`"),
    ("server.bind", "write `listen = \"…\"`"),
    ("server.address", "write `listen = \"…\"`"),
    ("agent.controller", "write `controllers = [\"…\"]`"),
    ("services", "write `[service.NAME]`"),
];

/// Whether a later version has this key.
pub(super) fn is(shape: &str) -> bool {
    PLANNED.contains(&shape)
}

/// Where this key belongs.
pub(super) fn moved(shape: &str) -> Option<&'static str> {
    MOVED.iter().find(|(from, _)| *from == shape).map(|(_, to)| *to)
}
