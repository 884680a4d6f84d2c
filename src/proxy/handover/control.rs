//! The control socket: who may speak, and what they want.

use std::{sync::Arc, time::Duration};

use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

use super::{
    frame,
    upgrade::{Arrival, Handover},
};
use crate::{
    proxy::limit::gate::Gate,
    supervise::{Handle as Tasks, Stop},
    wire::handover::{Ask, FAILED, Inventory, Outcome, PROTOCOL, TAKE_OVER, UPGRADE},
};

/// Conversations at once. Full: the next is closed at once.
const AT_ONCE: usize = 16;

/// Who connects has said so soon what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// After a failed accept it is tried again so much later.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves until `stop`.
pub(in crate::proxy) async fn serve(
    listener: UnixListener,
    handover: Arc<Handover>,
    tasks: Tasks,
    stop: Stop,
) {
    let gate = Gate::default();
    loop {
        let accepted = tokio::select! {
            () = stop.requested() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(error = %error, "the control socket could not accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(inside) = gate.enter(AT_ONCE) else { continue };
        let handover = handover.clone();
        tasks.finish("control", async move {
            if let Err(error) = answer(stream, &handover).await {
                debug!(error = %error, "a conversation over the control socket broke off");
            }
            drop(inside);
        });
    }
}

async fn answer(mut stream: UnixStream, handover: &Handover) -> std::io::Result<()> {
    let peer = stream.peer_cred()?;
    let us = rustix::process::geteuid().as_raw();
    // The directory keeps others out; this is for when somebody has opened it.
    if peer.uid() != us && peer.uid() != 0 {
        warn!(peer.user = peer.uid(), "the control socket was spoken to by another user");
        return Ok(());
    }
    let asked = tokio::time::timeout(PATIENCE, frame::receive::<Ask>(&mut stream)).await??;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let why = match asked.ask.as_str() {
        FAILED => {
            handover.arrived(Arrival::Failed { pid, why: asked.why });
            return Ok(());
        }
        UPGRADE | TAKE_OVER if asked.protocol != PROTOCOL => format!(
            "the running proxy is version {} and speaks protocol {PROTOCOL}, you are version {} and speak {}: restart it \
             instead",
            crate::model::OURS,
            asked.version,
            asked.protocol
        ),
        UPGRADE => {
            let outcome = handover.upgrade().await;
            return frame::send(&mut stream, &handover.outcome(outcome)).await;
        }
        TAKE_OVER => match handover.arrived(Arrival::TakesOver { pid, stream }) {
            Some(Arrival::TakesOver { stream: back, .. }) => {
                stream = back;
                "no successor was started".to_owned()
            }
            Some(Arrival::Failed { .. }) | None => return Ok(()),
        },
        other => format!("`{other}` is not known to version {}", crate::model::OURS),
    };
    match asked.ask.as_str() {
        TAKE_OVER => frame::send(&mut stream, &Inventory::refused(why)).await,
        _ => frame::send(&mut stream, &Outcome { why, ..handover.state() }).await,
    }
}
