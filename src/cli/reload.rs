//! `switchyard reload`: a running proxy reads its config again.

use super::{
    Failure, Printer,
    admin::{Output, Reach},
    role,
};
use crate::client::ClientError;

/// Arguments of `reload`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let asked = role::once(async { Ok::<_, Failure>(args.reach.client()?.reload().await) })??;
    match asked {
        Ok(taken) => args.output.print(printer, &taken, || format!("config {} is in use", taken.generation)),
        // The faults are drawn whole, as `check` draws them.
        Err(ClientError::Refused { status: 422, message, .. }) => {
            printer.note(format!("{message}\n"));
            let hint = Some("correct that and try again; the old config serves on".into());
            Err(Failure::Runtime { error: "the config was not taken".into(), hint })
        }
        Err(error) => Err(args.reach.failure(&error)),
    }
}
