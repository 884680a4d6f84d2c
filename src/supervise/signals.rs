//! What the operating system asks of us.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A signal that means something to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM` or `SIGINT`: drain and stop; the second one stops at once.
    Stop,
    /// `SIGHUP`: reload the config.
    Reload,
    /// `SIGUSR1`: reopen log files.
    ReopenLogs,
    /// `SIGUSR2`: be replaced by the binary now on disk.
    Upgrade,
}

/// Listens for signals from now on. Must be called inside a runtime.
///
/// Errors when the handlers cannot be installed.
pub fn signals(tree: &super::Tree) -> std::io::Result<mpsc::Receiver<Signal>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let mut usr2 = signal(SignalKind::user_defined2())?;
    // Bounded: a burst of the same signal means no more than one of it.
    let (sender, receiver) = mpsc::channel(8);
    tree.handle().finish_at(super::Stage::Store, "signals", move |stop| async move {
        loop {
            let signal = tokio::select! {
                () = stop.requested() => break,
                _ = term.recv() => Signal::Stop,
                _ = int.recv() => Signal::Stop,
                _ = hup.recv() => Signal::Reload,
                _ = usr1.recv() => Signal::ReopenLogs,
                _ = usr2.recv() => Signal::Upgrade,
            };
            if sender.try_send(signal).is_err() && sender.is_closed() {
                break;
            }
        }
    });
    Ok(receiver)
}
