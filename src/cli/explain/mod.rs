//! `switchyard explain METHOD PATH`: where a request would go if it came now, and why; `--request ID`: what became of one.

mod decision;
mod way;

use super::{
    Failure, Printer,
    admin::{Output, Reach},
    role,
};
use crate::{
    client::{Admin, ClientError},
    model::RequestId,
    wire::explain::Ask,
};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The method of the request, like GET
    #[arg(value_name = "METHOD", required_unless_present = "request")]
    method: Option<String>,
    /// Its path with its query, or a whole URL, whose host then counts
    #[arg(value_name = "PATH", required_unless_present = "request")]
    path: Option<String>,
    /// Instead: what was decided about a request that is over, by its id (`x-request-id` of its answer, `request` in the
    /// access log)
    #[arg(
        long,
        value_name = "ID",
        conflicts_with_all = ["method", "path", "listener", "headers", "client"],
        value_parser = |text: &str| RequestId::parse(text)
    )]
    request: Option<RequestId>,
    /// As if it came to this listener; without it every one that would route it is explained
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// A header of the request; as often as needed
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// As if it came from this address; default: loopback
    #[arg(long, value_name = "IP")]
    client: Option<String>,
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    if let Some(request) = &args.request {
        let decided = asked(args, async |admin| admin.decided(request).await)?;
        return args.output.print(printer, &decided, || decision::all(&decided));
    }
    let ask = Ask {
        method: args.method.clone().unwrap_or_default(),
        path: args.path.clone().unwrap_or_default(),
        listener: args.listener.clone(),
        headers: args.headers.clone(),
        client: args.client.clone(),
    };
    let explained = asked(args, async |admin| admin.explain(&ask).await)?;
    args.output.print(printer, &explained, || way::all(&ask, &explained))
}

/// What the proxy answers.
fn asked<T>(args: &Args, ask: impl AsyncFnOnce(Admin) -> Result<T, ClientError>) -> Result<T, Failure> {
    role::once(async { ask(args.reach.client()?).await.map_err(|error| args.reach.failure(&error)) })?
}
