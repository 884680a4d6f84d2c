//! Strictness: whatever bytes a client sends, they are one request for proxy and upstream alike, or refused.
//!
//! [`origin`] records what reaches an upstream and forgives nothing, [`oracle`] says what the bytes of a client mean
//! by the letter, and [`judge`] sends a case with a sentinel behind it and holds the two against each other. The
//! rest are cases, a family of them per file.

pub mod origin;
mod oracle;
mod judge;

mod answers;
mod chunks;
mod fields;
mod framing;
mod limits;
mod lines;
mod mutations;
mod passing;
mod pipeline;
mod poison;

/// What an upstream says of a request, so that its client can tell whose answer it got.
fn echo(method: &str, target: &str, body: &[u8]) -> String {
    // FNV-1a.
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{method} {target} {} {hash:x}", body.len())
}
