//! The files by which an agent speaks TLS: looked at again and again, so that renewed ones are taken while it works.

use tracing::{error, warn};

use super::node::Node;
use crate::{
    clock,
    tls::{self, Told},
};

/// The table that names them.
const OF: &str = "agent.tls";

/// Looks until the agent ends.
pub(super) async fn watch(node: &Node) {
    let Some(files) = node.credentials().tls() else { return };
    let ending = node.ending.stop();
    let (mut told, mut looks) = (Told::default(), 0_u32);
    loop {
        let of = files.clone();
        // Reading blocks, and may for long where files are far away.
        match tokio::task::spawn_blocking(move || of.refresh()).await {
            Ok(looked) => told.say(OF, looked),
            Err(gone) => error!(error = %gone, "looking at the files of certificates failed"),
        }
        let until = files.certificate_until();
        if looks.is_multiple_of(tls::LOOKS_A_DAY)
            && let Some(until) = until.filter(|until| tls::ends_soon(*until, clock::wall()))
        {
            warn!(tls.of = OF, until = %until, "it ends soon or has ended: renew it");
        }
        looks = looks.wrapping_add(1);
        tokio::select! {
            () = ending.requested() => return,
            () = tokio::time::sleep(tls::LOOK) => {}
        }
    }
}
