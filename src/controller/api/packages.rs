//! `GET /pkg/…`: what hosts install their agents from (C §2), the files of a directory of the operator's.
//!
//! Hosts ask for it before they have a credential, with plain `curl`, so nothing is asked of them.

use std::{io, path::Path as FilePath};

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{Response, StatusCode},
};
use http_body_util::BodyExt;
use tower_http::services::ServeFile;
use tracing::warn;

use super::{Api, answer::Fail};

/// Downloads at once. More: 503. Each is an open file, and they must leave room for what the cloud lives by.
pub(super) const DOWNLOADS: usize = 200;

/// Says at the start what would else be found by hosts that cannot install anything.
pub(super) fn look(directory: Option<&FilePath>) {
    let Some(directory) = directory else { return };
    if !directory.is_dir() {
        let why = "there is no such directory: `/pkg/` answers 404 until there is";
        warn!(directory = %directory.display(), "`packages` of `[web]`: {why}");
    }
}

pub(super) async fn download(
    State(api): State<Api>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response<Body>, Fail> {
    let missing = |why: String| Fail::new(StatusCode::NOT_FOUND, why);
    let Some(directory) = &api.app.ops.config().web.packages else {
        return Err(missing(
            "no packages are served here: name their directory as `packages` in `[web]`".into(),
        ));
    };
    let absent = || missing(format!("there is no file `{name}` in `packages` of `[web]`"));
    if !is_file_name(&name) {
        return Err(absent());
    }
    let file = directory.join(&name);
    match tokio::fs::metadata(&file).await {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(absent()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent()),
        Err(error) => return Err(unreadable(&name, &error)),
    }
    let Ok(place) = api.downloads.clone().try_acquire_owned() else {
        api.counts.refused("busy");
        return Err(Fail::soon("too many downloads of packages at once"));
    };
    let answer = ServeFile::new(&file).try_call(request).await.map_err(|error| unreadable(&name, &error))?;
    Ok(answer.map(|body| {
        // The place is free again when the last byte was taken, or nobody takes any more.
        let held = body.map_frame(move |frame| {
            let _held = &place;
            frame
        });
        Body::new(held)
    }))
}

/// Longest name that a file system has: a longer one is no file of anybody's, and no failure of this server.
const NAME: usize = 255;

/// Of a file in the directory itself, and not one that is hidden there.
fn is_file_name(name: &str) -> bool {
    name.len() <= NAME && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

fn unreadable(name: &str, error: &io::Error) -> Fail {
    warn!(package = name, %error, "package cannot be read");
    Fail::new(StatusCode::INTERNAL_SERVER_ERROR, format!("`{name}` cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_files_of_the_directory_itself_are_looked_for() {
        for good in ["AnkaAgent.pkg", "switchyard-aarch64", "a b"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in ["..", ".", ".hidden", "../x", "a/b", "/etc/passwd", "a\\b", "a\0"] {
            assert!(!is_file_name(bad), "{bad}");
        }
        assert!(is_file_name(&"n".repeat(NAME)) && !is_file_name(&"n".repeat(NAME + 1)));
    }
}
