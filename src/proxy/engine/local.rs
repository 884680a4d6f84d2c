//! Connections that stay within this machine.
//!
//! What sends by a clock (BBR, which many machines have for the sake of their networks) does so over loopback too, where there
//! is no network to be spared: one timer for each 64 KiB or so, on the core that sends. It was half of all that a large body
//! cost (`docs/performance.md`). So sockets with both ends on this machine send by the oldest rule, which every kernel has and
//! everybody may choose: as much as the other side has room for, until something is lost.
//!
//! It has to be said before a connection is made: one that has begun with a clock keeps it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use tokio::net::{TcpSocket, TcpStream};

/// Connects; within this machine without a clock.
pub(super) async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    if !to.ip().to_canonical().is_loopback() {
        return TcpStream::connect(to).await;
    }
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    set(&socket);
    socket.connect(to).await
}

/// Who connects to a listening socket at this address from now on is sent to without a clock, if only this machine can.
pub(super) fn listens(socket: impl AsFd, at: IpAddr) {
    if at.to_canonical().is_loopback() {
        set(socket);
    }
}

/// Does nothing where it cannot be done: all goes on as the machine is set up.
#[cfg(target_os = "linux")]
fn set(socket: impl AsFd) {
    if let Err(error) = rustix::net::sockopt::set_tcp_congestion(socket, "reno") {
        tracing::debug!(error = %error, "a connection within this machine sends by the rule of all others");
    }
}

#[cfg(not(target_os = "linux"))]
fn set(_: impl AsFd) {}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::TcpListener;

    use rustix::net::sockopt::tcp_congestion;

    use super::*;

    #[tokio::test]
    async fn both_ends_within_the_machine_send_without_a_clock() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have one family only.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let at = listener.local_addr().unwrap();
            listens(&listener, at.ip());
            let ours = connect(at).await.unwrap();
            let (theirs, _) = listener.accept().unwrap();
            assert_eq!(tcp_congestion(&ours).unwrap(), "reno");
            assert_eq!(tcp_congestion(&theirs).unwrap(), "reno");
        }
    }

    #[test]
    fn a_socket_that_others_can_reach_stays_as_the_machine_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = tcp_congestion(&listener).unwrap();
        for at in ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            listens(&listener, at.parse().unwrap());
            assert_eq!(tcp_congestion(&listener).unwrap(), before);
        }
        // Where the machine has that very rule the rest tells nothing.
        for at in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listens(&listener, at.parse().unwrap());
            assert_eq!(tcp_congestion(&listener).unwrap(), "reno");
        }
    }
}
