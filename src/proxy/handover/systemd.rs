//! Sockets that the service manager has opened: systemd.socket(5), sd_listen_fds(3).

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::{Inherited, successor::is_listening};
use crate::{
    config::proxy::Proxy,
    proxy::engine::{Spot, Taken},
};

/// The name of a socket that is for the admin listener, unless a listener has that name.
const ADMIN: &str = "admin";

/// A socket that was passed.
#[derive(Debug)]
pub struct Passed {
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

/// Why what was passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// It is something else.
    #[error(
        "the service manager passed `{name}` as descriptor {number}, which is no TCP socket that listens: use `ListenStream=` with address and port, and `Accept=no`"
    )]
    NoListener {
        /// Its `FileDescriptorName=`.
        name: String,
        /// Which.
        number: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody would accept from it.
    #[error(
        "the service manager passed `{name}` on {address}, which no listener binds: add it to a `bind`, or name it after a listener by `FileDescriptorName=`; known are {known}"
    )]
    Unplaced {
        /// Its `FileDescriptorName=`.
        name: String,
        /// Where it listens.
        address: SocketAddr,
        /// What could be had.
        known: String,
    },
}

/// What was passed to this process. To be asked once, before there are threads: it takes the variables away, so that no
/// child believes they are meant for it.
pub fn passed() -> Result<Vec<Passed>, PassedError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut given = listenfd::ListenFd::from_env();
    let count = given.len();
    let mut take = |at: usize| {
        let name = names.get(at).copied().unwrap_or("unknown").to_owned();
        let no_listener = |source| PassedError::NoListener { name: name.clone(), number: at + 3, source };
        let socket = given.take_tcp_listener(at).map_err(no_listener)?;
        let socket = socket.ok_or_else(|| no_listener(io::ErrorKind::NotFound.into()))?;
        if !is_listening(&socket) {
            return Err(no_listener(io::ErrorKind::InvalidInput.into()));
        }
        let address = socket.local_addr().map_err(no_listener)?;
        Ok(Passed { name: name.clone(), address, socket })
    };
    (0..count).map(&mut take).collect()
}

impl Inherited {
    /// Finds the place of each socket: the listener of its name, else the one of its address.
    pub fn passed(config: &Proxy, passed: Vec<Passed>) -> Result<Self, PassedError> {
        let mut inherited = Self::default();
        let spots = Spot::all(&config.listeners);
        for Passed { name, address, socket } in passed {
            let taken = |spot: &Spot, listeners: &[Taken]| {
                // Several of one port are one spot: each of them is served.
                listeners.iter().any(|taken| {
                    taken.spot == *spot
                        && taken.sockets.first().and_then(|first| first.local_addr().ok()) != Some(address)
                })
            };
            let free = |spot: &&Spot| !taken(spot, &inherited.listeners);
            let named = || spots.iter().filter(|spot| spot.listener == name);
            let exact = named().find(|spot| spot.bind == address).or_else(|| named().find(free));
            let spot = exact.or_else(|| spots.iter().find(|spot| spot.bind == address)).cloned();
            match spot {
                Some(spot) => match inherited.listeners.iter_mut().find(|taken| taken.spot == spot) {
                    Some(taken) => taken.sockets.push(socket),
                    None => inherited.listeners.push(Taken { spot, sockets: vec![socket] }),
                },
                None if inherited.admin.is_none() && (address == config.admin || name == ADMIN) => {
                    inherited.admin = Some(socket);
                }
                None => {
                    let of = |spot: &Spot| format!("`{}` on {}", spot.listener, spot.bind);
                    let known: Vec<String> = spots.iter().map(of).collect();
                    let known = format!("{}, and `admin` on {}", known.join(", "), config.admin);
                    return Err(PassedError::Unplaced { name, address, known });
                }
            }
        }
        Ok(inherited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::proxy::{Endings, Limits, Listener},
        telemetry::Access,
    };

    fn socket(name: &str) -> Passed {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        Passed { name: name.into(), address: socket.local_addr().unwrap(), socket }
    }

    fn config(binds: &[(&str, &[SocketAddr])], admin: SocketAddr) -> Proxy {
        let listener = |(name, bind): &(&str, &[SocketAddr])| Listener {
            name: (*name).into(),
            bind: bind.to_vec(),
            rules: Vec::new(),
            trusted: Vec::new(),
            proxy_protocol: Vec::new(),
            tls: None,
            http2: false,
            expose: Vec::new(),
            limits: Default::default(),
        };
        Proxy {
            threads: 1,
            zone: None,
            zero_copy: true,
            log: Default::default(),
            access: Access::Off,
            progress: Some(Proxy::PROGRESS),
            trace: None,
            admin,
            entry: Default::default(),
            decisions: 0,
            address_file: None,
            listeners: binds.iter().map(listener).collect(),
            services: Vec::new(),
            limits: Limits::default(),
            endings: Endings::default(),
            run_dir: None,
        }
    }

    /// Listener, its address in the config, and how many sockets it got.
    fn placed(inherited: &Inherited) -> Vec<(String, SocketAddr, usize)> {
        let of = |taken: &Taken| (taken.spot.listener.clone(), taken.spot.bind, taken.sockets.len());
        inherited.listeners.iter().map(of).collect()
    }

    #[test]
    fn a_name_goes_before_an_address_and_each_place_is_taken_once() {
        let (a, b, c, admin) = (socket("web"), socket("web"), socket("unknown"), socket("x"));
        let elsewhere: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let config = config(&[("web", &[elsewhere, b.address]), ("other", &[c.address])], admin.address);
        let (second, third) = (b.address, c.address);
        let inherited = Inherited::passed(&config, vec![a, b, c, admin]).unwrap();
        assert_eq!(
            placed(&inherited),
            [("web".into(), elsewhere, 1), ("web".into(), second, 1), ("other".into(), third, 1)]
        );
        assert!(inherited.admin.is_some());
    }

    #[test]
    fn several_sockets_of_one_port_are_all_served() {
        let one = socket("web");
        let same =
            Passed { name: "web".into(), address: one.address, socket: one.socket.try_clone().unwrap() };
        let address = one.address;
        let config = config(&[("web", &[address])], "127.0.0.1:1".parse().unwrap());
        let inherited = Inherited::passed(&config, vec![one, same]).unwrap();
        assert_eq!(placed(&inherited), [("web".into(), address, 2)]);
    }

    #[test]
    fn what_fits_nowhere_is_named_with_what_would() {
        let (one, two) = (socket("admin"), socket("admin"));
        let config = config(&[("web", &["127.0.0.1:80".parse().unwrap()])], "127.0.0.1:1".parse().unwrap());
        let error = Inherited::passed(&config, vec![one, two]).unwrap_err().to_string();
        for part in ["`admin` on 127.0.0.1:", "known are `web` on 127.0.0.1:80, and `admin` on 127.0.0.1:1"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
