//! Which version we are, and whose API we speak.

/// Our own version, from `Cargo.toml`.
pub const OURS: &str = env!("CARGO_PKG_VERSION");

/// The vendor's API level we are compatible with; clients compare the digits before the dash.
pub const COMPATIBILITY: &str = "1.51.2";

/// What status answers say: `1.51.2-switchyard.<ours>`.
pub fn full() -> String {
    format!("{COMPATIBILITY}-switchyard.{OURS}")
}
