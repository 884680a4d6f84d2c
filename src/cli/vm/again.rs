//! `switchyard vm restart` and `save`: what is done to a VM that runs.

use std::{path::PathBuf, time::Duration};

use clap::builder::NonEmptyStringValueParser;
use serde_json::json;

use super::{Failure, Printer, start, wait};
use crate::{
    cli::cloud::{Told, find_template, look_on, usage},
    client::{Controllers, SaveAsk},
    clock,
    model::{CommandId, InstanceState, Timestamp},
    wire::{command::CommandState, image::ImageStatus, vm::Vm},
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `vm restart`.
#[derive(Debug, clap::Args)]
pub(super) struct Restart {
    /// The instance
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    told: Told,
    /// The USB device that it has from then on, by its name
    #[arg(long, value_name = "NAME")]
    usb_device: Option<String>,
    /// Wait until it runs again
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    patience: wait::Patience,
}

/// Arguments of `vm save`.
#[derive(Debug, clap::Args)]
pub(super) struct Save {
    /// The instance; its VM is stopped for it, and is gone afterwards
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    told: Told,
    /// The tag of the new version
    #[arg(long, value_name = "TAG")]
    tag: String,
    /// The template that gets the version, by name or id
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "new_template")]
    template: Option<String>,
    /// Or a new template of this name
    #[arg(long, value_name = "NAME")]
    new_template: Option<String>,
    /// Shown with the version
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A script that runs in the VM before; `-` is standard input
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Save nothing if the script fails
    #[arg(long, requires = "script")]
    cancel_on_script_failure: bool,
    /// Take the template's newest version back before
    #[arg(long, requires = "template")]
    revert: bool,
    /// Take this version and every later one back before
    #[arg(long, value_name = "TAG", requires = "template")]
    revert_tag: Option<String>,
    /// Wait until the version is in the registry
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    patience: wait::Patience,
}

pub(super) async fn restart(args: &Restart, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let about = |error: &_| reach.about("instance", &args.id, "switchyard vm list", error);
    let before = client.instance(&args.id).await.map_err(|error| about(&error))?;
    let Some(before) = before else { return Err(reach.missing("instance", &args.id, "switchyard vm list")) };
    let known = client.last_restart(&before.node_id, &args.id).await.map_err(|error| about(&error))?;
    let done = client.restart(&args.id, args.usb_device.as_deref()).await;
    done.map_err(|error| about(&error))?;
    if args.wait {
        let begun = Begun { known: known.map(|one| one.id), started: started(&before) };
        runs_again(args, &client, printer, &begun).await?;
    }
    let what = if args.wait { "restarted" } else { "to be restarted" };
    args.told.done(printer, &wait::told(std::slice::from_ref(&args.id)), &format!("{what}: {}", args.id))
}

/// What was known before the restart.
struct Begun {
    known: Option<CommandId>,
    started: Option<Timestamp>,
}

fn started(vm: &Vm) -> Option<Timestamp> {
    vm.vminfo.as_ref().and_then(|info| info.start_date)
}

/// Waits until the node has done it; where nobody says that, until the VM was started at another time than before.
async fn runs_again(
    args: &Restart,
    client: &Controllers,
    printer: Printer,
    before: &Begun,
) -> Result<(), Failure> {
    let failed = |why: String| Failure::Runtime {
        error: format!("{} was not restarted: {why}", args.id),
        hint: Some("`switchyard vm show ID` shows more of it".into()),
    };
    args.patience.note(printer, &args.id, "is stopped and started again");
    let until = clock::now() + args.patience.longest();
    loop {
        let vm = look_on(until, async || client.instance(&args.id).await).await;
        let vm = vm.map_err(|error| args.told.reach.failure(&error))?;
        match vm {
            None => return Err(failed("it was deleted meanwhile".into())),
            Some(vm) if vm.instance_state != InstanceState::Started => {
                return Err(failed(
                    format!("it is {} {}", vm.instance_state.as_str(), vm.message).trim().to_owned(),
                ));
            }
            Some(vm) => {
                let last = look_on(until, async || client.last_restart(&vm.node_id, &args.id).await).await;
                let last = last.map_err(|error| args.told.reach.failure(&error))?;
                match last.filter(|one| before.known.as_ref() != Some(&one.id)) {
                    Some(one) if one.state == CommandState::Done => return Ok(()),
                    Some(one) if one.state == CommandState::Failed => return Err(failed(one.message)),
                    Some(_) => {}
                    None if started(&vm) != before.started => return Ok(()),
                    None => {}
                }
            }
        }
        if clock::now() >= until {
            let longest = humantime::format_duration(args.patience.longest());
            return Err(failed(format!("not within {longest}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(super) async fn save(args: &Save, printer: Printer) -> Result<(), Failure> {
    if args.template.is_none() && args.new_template.is_none() {
        return Err(usage(
            "nothing says which template gets the version",
            "say `--template TEMPLATE`, or `--new-template NAME`",
        ));
    }
    let script = args.script.as_deref().map(start::script).transpose()?;
    let reach = &args.told.reach;
    let client = reach.client()?;
    let template = match &args.template {
        Some(template) => Some(find_template(reach, &client, template).await?.0),
        None => None,
    };
    let ask = SaveAsk {
        id: &args.id,
        tag: &args.tag,
        target_vm_id: template.as_deref(),
        new_template_name: args.new_template.as_deref(),
        description: args.description.as_deref(),
        // Nothing here can suspend.
        suspend: false,
        script,
        cancel_on_script_failure: args.cancel_on_script_failure,
        revert_before_push: args.revert || args.revert_tag.is_some(),
        revert_tag: args.revert_tag.as_deref(),
    };
    let asked = client.save(&ask).await;
    let request = asked.map_err(|error| reach.about("instance", &args.id, "switchyard vm list", &error))?;
    if args.wait {
        args.patience.note(printer, &args.id, &format!("is saved as {}", args.tag));
        let until = clock::now() + args.patience.longest();
        loop {
            let image = look_on(until, async || client.image(&request).await).await;
            let image = image.map_err(|error| reach.failure(&error))?;
            let failed = |why: String| Failure::Runtime {
                error: format!("{} was not saved: {why}", args.id),
                hint: Some(format!(
                    "if `switchyard vm show {}` has it as Started, its VM was not touched and it can be asked for again; \
                     in Error, the VM's files are on its node until it is terminated",
                    args.id
                )),
            };
            match image {
                None => return Err(failed("the controllers have forgotten it".into())),
                Some(image) => match image.status {
                    ImageStatus::Done => break,
                    ImageStatus::Error => {
                        return Err(failed(image.error.map_or_else(String::new, |error| error.message)));
                    }
                    ImageStatus::Pending => {}
                },
            }
            if clock::now() >= until {
                let longest = humantime::format_duration(args.patience.longest());
                return Err(failed(format!("not within {longest}; it goes on")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let what = if args.wait { "saved" } else { "to be saved" };
    args.told.done(
        printer,
        &json!({ "request_id": request }),
        &format!("{what}: {} as {}", args.id, args.tag),
    )
}
