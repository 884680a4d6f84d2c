//! Orders in `run_dir`, for the next start: a proxy that was killed must not send requests to a server that an operator is
//! working on.

use std::{fs, io::Read, path::Path};

use tracing::warn;

use crate::wire::orders::Order;

/// The file in `run_dir`.
const FILE: &str = "orders.json";

/// A longer file is none of ours.
const LONGEST: u64 = 4 << 20;

/// What was kept; nothing if there is none that can be read.
pub(in crate::proxy) fn recall(run_dir: &Path) -> Vec<Order> {
    let Ok(file) = fs::File::open(run_dir.join(FILE)) else { return Vec::new() };
    let mut text = String::new();
    let read = file.take(LONGEST).read_to_string(&mut text).map_err(|error| error.to_string());
    match read.and_then(|_| serde_json::from_str(&text).map_err(|error| error.to_string())) {
        Ok(kept) => kept,
        Err(why) => {
            warn!(file = FILE, why, "what operators had said could not be read, so the config alone counts");
            Vec::new()
        }
    }
}

/// Keeps them. They are whole or as they were, whenever the machine goes down.
pub(super) fn keep(run_dir: &Path, said: &[Order]) {
    let (file, next) = (run_dir.join(FILE), run_dir.join(format!("{FILE}.next")));
    let text = serde_json::to_vec(said).unwrap_or_default();
    if let Err(error) = fs::write(&next, text).and_then(|()| fs::rename(&next, &file)) {
        warn!(file = FILE, error = %error, "what an operator has said could not be kept for the next start");
    }
}
