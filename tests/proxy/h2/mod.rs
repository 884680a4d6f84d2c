//! HTTP/2 as clients speak it to the proxy, frame by frame: [`peer`] writes them by hand and checks all that comes back,
//! [`hpack`] knows the fields. What reaches the upstream is what the strict origin records.

pub mod hpack;
pub mod peer;

mod answers;
mod passing;
mod rules;
mod mutations;
mod streams;
mod windows;
mod floods;
mod ending;

use switchyard::config::proxy::{Kind, Proxy};

use crate::front::{self, Front};

/// A front of controllers that speaks HTTP/2.
fn config(kind: Kind, addresses: &[std::net::SocketAddr]) -> Proxy {
    let mut config = front::config(kind, addresses);
    config.listeners[0].http2 = true;
    config
}

fn controllers(addresses: &[std::net::SocketAddr]) -> Front {
    Front::start(config(Kind::Controller, addresses))
}
