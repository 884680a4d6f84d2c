//! `switchyard dump-config`: what a running proxy goes by, as a file that says all of it.

use super::{Failure, Printer, admin::Reach, role};

/// Arguments of `dump-config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// In which form
    #[arg(long, value_enum, default_value_t = Form::Toml)]
    output: Form,
}

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A file that `check` takes, unless a secret is left out of it
    Toml,
    /// For programs, with the generation
    Json,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let text = role::once(async {
        match args.output {
            Form::Toml => client.config_file().await.map_err(|error| args.reach.failure(&error)),
            Form::Json => {
                let config = client.config().await.map_err(|error| args.reach.failure(&error))?;
                serde_json::to_string_pretty(&config)
                    .map_err(|error| Failure::runtime("the answer could not be printed", &error))
            }
        }
    })??;
    printer.data(text.trim_end());
    Ok(())
}
