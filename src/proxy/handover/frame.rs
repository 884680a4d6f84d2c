//! Messages and descriptors over a Unix socket: a length and JSON; then descriptors, so many to a message, each message
//! with their number as its one byte.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

/// Bytes of one message at most: all that an inventory may hold, several times over. Larger is an error.
pub(super) const MOST: usize = 16 * 1024 * 1024;

/// Descriptors in one message. The system takes 253.
pub(super) const BATCH: usize = 64;

/// Descriptors in all, far above what any config has.
pub(super) const DESCRIPTORS: usize = 65_536;

/// Sends a message.
pub(super) async fn send<T: Serialize>(stream: &mut UnixStream, message: &T) -> io::Result<()> {
    stream.write_all(&encode(message)?).await
}

/// A message as it is sent.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    if text.len() > MOST {
        return Err(invalid(format!("a message of {} bytes is too large", text.len())));
    }
    let length = u32::try_from(text.len()).map_err(|_| invalid("a message is too large"))?;
    Ok([&length.to_be_bytes()[..], &text].concat())
}

/// Receives a message.
pub(super) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let length = stream.read_u32().await?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MOST {
        return Err(invalid(format!("a message of {length} bytes was announced")));
    }
    let mut text = Vec::new();
    // Grows with what comes, not with what was announced.
    stream.take(length as u64).read_to_end(&mut text).await?;
    if text.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&text).map_err(|error| invalid(format!("a message cannot be read: {error}")))
}

/// Sends descriptors, in as many messages as it takes.
pub(super) async fn send_fds(stream: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in fds.chunks(BATCH) {
        let count = [u8::try_from(batch.len()).map_err(|_| invalid("a batch is too large"))?];
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(batch)) {
                    return Err(invalid("a batch does not fit"));
                }
                sendmsg(stream, &[IoSlice::new(&count)], &mut control, SendFlags::empty())?;
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// Receives `count` descriptors.
pub(super) async fn receive_fds(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    if count > DESCRIPTORS {
        return Err(invalid(format!("{count} descriptors were announced")));
    }
    let mut all = Vec::new();
    while all.len() < count {
        let batch = stream.async_io(Interest::READABLE, || receive_batch(stream.as_fd())).await?;
        if batch.is_empty() || all.len() + batch.len() > count {
            return Err(invalid("other descriptors came than were announced"));
        }
        all.extend(batch);
    }
    Ok(all)
}

fn receive_batch(stream: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut announced = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut announced)], &mut control, RECEIVE)?;
    let mut batch = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            batch.extend(fds);
        }
    }
    #[cfg(target_vendor = "apple")]
    for fd in &batch {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // The system drops what it has no room for: the process is out of descriptors, say.
    if got.flags.contains(ReturnFlags::CTRUNC) || batch.len() != usize::from(announced[0]) {
        return Err(invalid(format!(
            "{} of {} descriptors came: is the limit reached?",
            batch.len(),
            announced[0]
        )));
    }
    Ok(batch)
}

#[cfg(not(target_vendor = "apple"))]
const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;
// There it is set on each after it came.
#[cfg(target_vendor = "apple")]
const RECEIVE: RecvFlags = RecvFlags::empty();

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::wire::handover::{Ask, PROTOCOL, UPGRADE};

    #[tokio::test]
    async fn messages_and_more_descriptors_than_one_message_takes_arrive_in_order() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let sockets: Vec<TcpListener> =
            (0..2 * BATCH + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ask = Ask { protocol: PROTOCOL, version: "1".into(), ask: UPGRADE.into(), why: String::new() };
        let sending = async {
            send(&mut a, &ask).await.unwrap();
            let fds: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
            send_fds(&a, &fds).await.unwrap();
            send(&mut a, &ask).await.unwrap();
        };
        let receiving = async {
            assert_eq!(receive::<Ask>(&mut b).await.unwrap(), ask);
            let fds = receive_fds(&b, sockets.len()).await.unwrap();
            assert_eq!(receive::<Ask>(&mut b).await.unwrap(), ask);
            fds
        };
        let ((), fds) = tokio::join!(sending, receiving);
        for (fd, socket) in fds.into_iter().zip(&sockets) {
            assert_eq!(TcpListener::from(fd).local_addr().unwrap(), socket.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn what_is_too_large_half_or_no_message_is_an_error() {
        for (bytes, says) in [
            (u32::MAX.to_be_bytes().to_vec(), "announced"),
            (vec![0, 0, 0, 9, b'{'], "end of file"),
            (vec![0, 0, 0, 1, b'{'], "cannot be read"),
        ] {
            let (mut a, mut b) = UnixStream::pair().unwrap();
            a.write_all(&bytes).await.unwrap();
            drop(a);
            let error = receive::<Ask>(&mut b).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert!(receive_fds(&b, 1).await.is_err());
        assert!(receive_fds(&b, DESCRIPTORS + 1).await.is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_is_read_or_refused(bytes: Vec<u8>, length in 0_u32..64) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for bytes in [bytes.clone(), [&length.to_be_bytes()[..], &bytes].concat()] {
                    let (mut a, mut b) = UnixStream::pair().unwrap();
                    a.write_all(&bytes).await.unwrap();
                    drop(a);
                    if let Ok(ask) = receive::<Ask>(&mut b).await {
                        assert!(!encode(&ask).unwrap().is_empty());
                    }
                }
            });
        }
    }
}
