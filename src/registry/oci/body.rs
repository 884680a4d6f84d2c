//! Request bodies: into an upload session, or out of the way.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;

use crate::{
    clock,
    registry::content::{ContentError, Upload},
};

/// What a slow sender brought is put into its session so often, so that its status tells and it is not idle.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// A refused body is read on for so long at most…
const LINGER: Duration = Duration::from_secs(2);

/// …and so far at most.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Why a body did not become part of a session.
pub(super) enum Interrupted {
    /// The client went away, stalled, or sent a broken body. What came is in the session.
    Client(String),
    /// The storage refused; what is left of the body.
    Content(ContentError, Body),
    /// It is longer than its blob may be; what is left of the body.
    TooMuch(Body),
}

/// Feeds a body to an upload until its end, or until it brings nothing for `idle`. Whatever happens, what was taken is
/// flushed.
pub(super) async fn receive(
    mut body: Body,
    upload: &mut dyn Upload,
    (most, idle): (u64, Duration),
    mut count: impl FnMut(usize),
) -> Result<(), Interrupted> {
    let mut flushed = clock::now();
    let why = loop {
        let next = tokio::select! {
            next = tokio::time::timeout(idle, body.frame()) => next,
            () = upload.overtaken() => return Err(Interrupted::Content(ContentError::Overtaken, body)),
        };
        match next {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                count(data.len());
                if upload.received().saturating_add(data.len() as u64) > most {
                    return Err(Interrupted::TooMuch(body));
                }
                let mut taken = upload.write(data).await;
                if taken.is_ok() && clock::now() - flushed >= FLUSH_EVERY {
                    flushed = clock::now();
                    taken = upload.flush().await;
                }
                if let Err(error) = taken {
                    return Err(Interrupted::Content(error, body));
                }
            }
            Ok(None) => break None,
            Ok(Some(Err(_))) => break Some("the body ended before its time".to_owned()),
            Err(_) => {
                break Some(format!("the body brought nothing for {}", humantime::format_duration(idle)));
            }
        }
    };
    match (upload.flush().await, why) {
        (Err(error), _) => Err(Interrupted::Content(error, body)),
        (Ok(()), Some(why)) => Err(Interrupted::Client(why)),
        (Ok(()), None) => Ok(()),
    }
}

/// An answer whose connection lingers: the text is sent at once, and while its end is held back the request's
/// body is read and dropped. Closing at once would reset the connection, and the sender would never see why.
pub(super) fn lingering(text: Vec<u8>, unread: Body) -> Body {
    let rest = async move {
        let drain = async {
            let mut left = LINGER_BYTES;
            let mut data = unread.into_data_stream();
            while let Some(Ok(piece)) = data.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // In time or late: what matters is that we waited.
        drop(tokio::time::timeout(LINGER, drain).await);
        Ok(Bytes::new())
    };
    let first = stream::once(async { Ok::<_, Infallible>(Bytes::from(text)) });
    Body::from_stream(first.chain(stream::once(rest)))
}
