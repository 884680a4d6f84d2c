//! What the library knows of a connection inside TLS, one side or the other, and what becomes of it step by step.

use rustls::{
    CommonState, Error,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};

/// Either side.
pub(super) enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What a look at the session's state came to.
pub(super) enum Step {
    /// There is more to look at.
    Again,
    /// All that came was used.
    Used,
    /// Bytes of the caller's were encrypted into so many.
    Wrote(usize),
    /// Nothing more comes.
    Ended,
}

/// Bytes to be encrypted, and where to.
pub(super) type Wanted<'a> = Option<(&'a [u8], &'a mut [u8])>;

/// Deals with one state of either kind of session.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    out: &mut Vec<u8>,
    plain: &mut impl FnMut(&[u8]),
    wanted: Wanted<'_>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let stepped = state.and_then(|state| {
        Ok(match state {
            ConnectionState::ReadTraffic(mut records) => {
                while let Some(record) = records.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain(record.payload);
                }
                Step::Again
            }
            ConnectionState::EncodeTlsData(mut message) => {
                let at = out.len();
                let encoded = match message.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(short)) => {
                        out.resize(at + short.required_size, 0);
                        message.encode(&mut out[at..])
                    }
                    other => other,
                };
                let length = encoded.map_err(|error| Error::General(error.to_string()))?;
                out.truncate(at + length);
                Step::Again
            }
            ConnectionState::TransmitTlsData(message) => {
                // It goes out before anything that comes after it.
                message.done();
                Step::Again
            }
            ConnectionState::WriteTraffic(mut traffic) => match wanted {
                Some((bytes, to)) => {
                    let encrypted = traffic.encrypt(bytes, to);
                    Step::Wrote(encrypted.map_err(|error| Error::General(error.to_string()))?)
                }
                None => Step::Used,
            },
            ConnectionState::BlockedHandshake => Step::Used,
            ConnectionState::PeerClosed | ConnectionState::Closed => Step::Ended,
            // Data before the end of a handshake is not allowed by any config of ours.
            other => return Err(Error::General(format!("unexpected state {other:?}"))),
        })
    });
    (discard, stepped)
}

impl Session {
    /// What was agreed on, and what the other side has shown.
    pub(super) fn common(&self) -> &CommonState {
        match self {
            Self::Server(session) => session,
            Self::Client(session) => session,
        }
    }

    /// One step. `came` is what was not used of what came, whole, even if there is nothing new: the session knows places
    /// in it.
    pub(super) fn step(
        &mut self,
        came: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut impl FnMut(&[u8]),
        wanted: Wanted<'_>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Server(session) => step(session.process_tls_records(came), out, plain, wanted),
            Self::Client(session) => step(session.process_tls_records(came), out, plain, wanted),
        }
    }

    /// Uses what came as far as it is whole records; how many bytes that were, and whether nothing more comes.
    pub(super) fn open(
        &mut self,
        came: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut impl FnMut(&[u8]),
    ) -> Result<(usize, bool), Error> {
        let mut used = 0;
        loop {
            // Always the rest, even if it was looked at before: the session knows places in it.
            let rest = came.get_mut(used..).unwrap_or_default();
            let (discard, stepped) = self.step(rest, out, plain, None);
            used += discard;
            match stepped {
                Ok(Step::Again) => {}
                Ok(Step::Used | Step::Wrote(_)) => return Ok((used, false)),
                Ok(Step::Ended) => return Ok((used, true)),
                Err(error) => {
                    // What the other side is told of it; after that the session may not be asked for anything.
                    while self.common().wants_write()
                        && let (_, Ok(Step::Again)) = self.step(&mut [], out, plain, None)
                    {
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Encrypts that nothing more is said; how many bytes that takes.
    pub(super) fn end(&mut self, came: &mut [u8], to: &mut [u8]) -> usize {
        match self {
            Self::Server(session) => end(session.process_tls_records(came), to),
            Self::Client(session) => end(session.process_tls_records(came), to),
        }
    }
}

/// The end of what is said, if it can be said.
fn end<Data>(status: UnbufferedStatus<'_, '_, Data>, to: &mut [u8]) -> usize {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => traffic.queue_close_notify(to).unwrap_or(0),
        _ => 0,
    }
}
