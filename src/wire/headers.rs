//! Header names of ours, lower case, once.

/// A client's key that makes a repeated create harmless.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Names a request in logs and error bodies.
pub const REQUEST_ID: &str = "x-request-id";
/// Milliseconds that are left of the request's one deadline when the proxy sent it on.
pub const DEADLINE: &str = "switchyard-deadline";
/// An answer that may be behind: why, in a word or two (`store-unavailable`, `unknown`).
pub const STALE: &str = "switchyard-stale";
/// A registry's position when it answered, or a write's position.
pub const POSITION: &str = "switchyard-position";
/// The position at which what was read last changed: a reader that has seen it never goes back behind it.
pub const CHANGED: &str = "switchyard-changed";
/// Bytes of the whole blob whose chunk list is answered.
pub const BLOB_SIZE: &str = "switchyard-blob-size";
/// Every header of ours begins so; the proxy removes them from requests of the outside.
pub const PREFIX: &str = "switchyard-";
/// What became of a client's certificate at the proxy: `SUCCESS`, `NONE` or `FAILED:` and why, as nginx writes it.
pub const CLIENT_VERIFY: &str = "ssl-client-verify";
/// The client's certificate, only if it is good: PEM, percent-encoded.
pub const CLIENT_CERT: &str = "ssl-client-cert";
/// What a proxy says of its client, signed.
pub const SIGNATURE: &str = "switchyard-signature";
/// The server's time, in seconds since 1970, with an answer to a signature of another time.
pub const TIME: &str = "switchyard-time";
/// With a 503: nothing was done, so another server may be asked at once, whatever was asked; why, in a word (`starting`).
pub const NOT_DONE: &str = "switchyard-not-done";
/// On every answer of a proxy's admin listener: the version of its API. Whoever was asked without it is something else.
pub const ADMIN: &str = "switchyard-admin";
/// Who answers for the request: proxy-made error answers carry it, upstream answers do not.
pub const ANSWERED_BY: &str = "switchyard-answered-by";
