//! `switchyard vm update` and `terminate`.

use clap::builder::NonEmptyStringValueParser;

use super::{Failure, Pair, Printer, metadata, wait};
use crate::{
    cli::cloud::{Told, usage},
    wire::vm::UpdateVm,
};

/// Arguments of `vm update`.
#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// The instance
    #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    told: Told,
    /// Another label
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Another free text
    #[arg(long, value_name = "TEXT")]
    external_id: Option<String>,
    /// Metadata, once for each key; all that there was goes
    #[arg(long = "metadata", value_name = "KEY=VALUE")]
    metadata: Vec<Pair>,
}

/// Arguments of `vm terminate`.
#[derive(Debug, clap::Args)]
pub(super) struct Terminate {
    /// The instances
    #[arg(value_name = "ID", required = true, value_parser = NonEmptyStringValueParser::new())]
    ids: Vec<String>,
    #[command(flatten)]
    told: Told,
    /// Wait until their nodes have deleted them
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    patience: wait::Patience,
}

pub(super) async fn update(args: &Update, printer: Printer) -> Result<(), Failure> {
    // What is empty is not given, to every controller.
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let ask = UpdateVm {
        name: given(&args.name),
        external_id: given(&args.external_id),
        metadata: metadata(&args.metadata),
    };
    if ask == UpdateVm::default() {
        return Err(usage("nothing was named to change", "say `--name`, `--external-id` or `--metadata`"));
    }
    let reach = &args.told.reach;
    let done = reach.client()?.update(&args.id, &ask).await;
    done.map_err(|error| reach.about("instance", &args.id, "switchyard vm list", &error))?;
    let ids = [args.id.clone()];
    args.told.done(printer, &wait::told(&ids), &format!("changed: {}", args.id))
}

pub(super) async fn terminate(args: &Terminate, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let (mut ids, mut failed) = (Vec::new(), None);
    for id in &args.ids {
        match client.terminate(id).await {
            Ok(()) => ids.push(id.clone()),
            Err(error) => {
                // One that is not there says nothing of the others.
                let of_it_alone = error.status() == Some(200);
                let failure = reach.about("instance", id, "switchyard vm list", &error);
                match &mut failed {
                    None => failed = Some(failure),
                    Some(_) => failure.show(printer),
                }
                if !of_it_alone {
                    break;
                }
            }
        }
    }
    if args.wait {
        wait::gone(&args.told, &args.patience, &client, printer, &ids).await?;
    }
    let what = if args.wait { "deleted" } else { "to be deleted" };
    if !ids.is_empty() {
        args.told.done(printer, &wait::told(&ids), &format!("{what}: {}", ids.join(", ")))?;
    }
    failed.map_or(Ok(()), Err)
}
