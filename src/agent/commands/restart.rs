//! Restarts a VM in its place: it is told as running all the while.

use std::{sync::Arc, time::Duration};

use tracing::info;

use crate::{
    agent::{act::Left, driver::VmKey, join::with_causes, node::Node, settle::One},
    clock,
    wire::{agent::VmPhase, command::RestartVm, vm::VmInfo},
};

/// A VM that somebody else is busy with is waited for so long.
const BUSY: Duration = Duration::from_secs(2);

/// A VM that nobody else does anything with meanwhile. Dropping it gives it free, however its command ends.
pub(super) struct Seized<'a> {
    node: &'a Arc<Node>,
    pub(super) key: VmKey,
}

impl<'a> Seized<'a> {
    /// Takes a VM that runs. Whoever has just brought it up may be busy with it for a moment more.
    pub(super) async fn take(node: &'a Arc<Node>, key: VmKey) -> Result<Self, String> {
        let until = clock::now() + BUSY;
        while !node.vms.seize(&key) {
            if clock::now() >= until {
                return Err(format!("no VM of instance `{}` runs here that could be taken", key.instance));
            }
            tokio::time::sleep(BUSY / 20).await;
        }
        Ok(Self { node, key })
    }

    /// Goes on with this unless the VM is to be stopped: that goes before.
    pub(super) async fn unless_unwanted<T>(&self, work: impl Future<Output = T>) -> Result<T, String> {
        let unwanted = || "the instance was terminated".to_owned();
        let wanted = self.node.vms.follow(&self.key).ok_or_else(unwanted)?;
        tokio::select! {
            biased;
            () = crate::agent::settle::unwanted(wanted) => Err(unwanted()),
            done = work => Ok(done),
        }
    }
}

impl Drop for Seized<'_> {
    fn drop(&mut self) {
        self.node.vms.release(&self.key);
    }
}

pub(super) async fn restart(node: &Arc<Node>, order: &RestartVm) -> Result<(), String> {
    let vm = Seized::take(node, VmKey { instance: order.instance.clone(), attempt: order.attempt }).await?;
    let one = One::new(node.clone(), vm.key.clone());
    let before = node.vms.info(&vm.key);
    let again = async {
        let mut spec = one.spec().ok_or_else(|| "its template is no longer on the disk".to_owned())?;
        let hardware = &mut spec.task.hardware;
        for (of, given) in
            [(&mut hardware.usb_device, &order.usb_device), (&mut hardware.vnc_password, &order.vnc_password)]
        {
            if !given.is_empty() {
                of.clone_from(given);
            }
        }
        node.driver.stop(&vm.key).await.map_err(|error| with_causes(&error))?;
        let limit = node.config.start_timeout;
        match tokio::time::timeout(limit, node.driver.start(&spec)).await {
            Ok(Ok(info)) => Ok((info, spec.task)),
            Ok(Err(error)) => Err(with_causes(&error)),
            Err(_) => Err(format!("the VM did not start within {limit:?}")),
        }
    };
    match vm.unless_unwanted(again).await? {
        Ok((info, task)) => {
            // The same VM: only when it was started is another time.
            let (uuid, creation_date) = match before {
                Some(before) => (before.uuid, before.creation_date),
                None => (info.uuid.clone(), info.creation_date),
            };
            let info = VmInfo { uuid, creation_date, ..info };
            let entry = node.vms.change(&vm.key, |vm| {
                vm.info = Some(info);
                // The next restart begins with what this one has brought.
                vm.task = Arc::new(task);
                vm.entry(VmPhase::Running)
            });
            if let Some(entry) = entry
                && let Err(error) = node.write(entry).await
            {
                // The next run finds the VM dead and says so, whatever is written of it.
                tracing::warn!(vm = %vm.key, error = %error, "the journal could not be written");
            }
            info!(vm = %vm.key, "vm was restarted");
            Ok(())
        }
        Err(why) => {
            let why = format!("it could not be restarted: {why}");
            one.fail(why.clone(), Left::Stopped).await;
            Err(why)
        }
    }
}
