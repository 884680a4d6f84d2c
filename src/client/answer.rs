//! Reading an answer without trusting its length.

use bytes::{Bytes, BytesMut};

use super::ClientError;

/// How much of a strange answer is quoted.
const EXCERPT: usize = 200;

/// The whole body, if it is at most `most` bytes long.
pub(super) async fn read_bounded(
    url: &str,
    mut response: reqwest::Response,
    most: usize,
) -> Result<Bytes, ClientError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|source| ClientError::transport(url, source))? {
        if bytes.len() + chunk.len() > most {
            let why = format!("it is longer than {most} bytes");
            return Err(ClientError::Strange { url: url.to_owned(), why });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// How much of a refusal of ours is shown: the faults of a config, say, with their lines.
const WORDS: usize = 64 * 1024;

/// A refusal of one of our own servers, as it was said: its lines are to be seen.
pub(super) fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(WORDS)]);
    let text: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    text.trim().to_owned()
}

/// The beginning of a text that was not understood, fit for a log line.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
