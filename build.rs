//! Tells the linker to put the functions that a proxy runs side by side: `scripts/order` has why, and makes the list.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=scripts/order.ld");
    if let Ok(here) = env::var("CARGO_MANIFEST_DIR")
        && is("PROFILE", "release")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && links_with_lld()
    {
        println!("cargo:rustc-link-arg-bins=-T{here}/scripts/order.ld");
    }
}

fn is(name: &str, value: &str) -> bool {
    env::var(name).is_ok_and(|found| found == value)
}

/// Whether the linker is the one that this target has by itself since Rust 1.90. That of GNU takes minutes over such a
/// list, and others do not know it.
fn links_with_lld() -> bool {
    let chosen = |flags: String| flags.contains("link");
    if env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(chosen) || env::var_os("RUSTC_LINKER").is_some() {
        return false;
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(said) = Command::new(rustc).arg("--version").output() else { return false };
    let said = String::from_utf8_lossy(&said.stdout);
    let minor = said.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 90)
}
