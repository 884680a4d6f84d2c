//! `switchyard drain`, `undrain`, `weight` and `maintenance`: what an operator says beside the config.

use std::{str::FromStr, time::Duration};

use super::{
    Failure, Printer,
    admin::{Output, Reach},
    role,
};
use crate::{
    clock,
    model::{ServiceName, UpstreamName},
    wire::orders::{Note, Order, Ordered, What},
};

/// Between two looks at what is left of a drain.
const LOOK: Duration = Duration::from_millis(500);

/// `SERVICE/UPSTREAM`.
#[derive(Debug, Clone)]
struct Target {
    service: ServiceName,
    upstream: UpstreamName,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, upstream) =
            text.split_once('/').ok_or("write `SERVICE/UPSTREAM`, like `controllers/c1`")?;
        let service = ServiceName::parse(service).map_err(|error| error.to_string())?;
        let upstream = UpstreamName::parse(upstream).map_err(|error| error.to_string())?;
        Ok(Self { service, upstream })
    }
}

/// What all of them take.
#[derive(Debug, clap::Args)]
struct Saying {
    /// Why: for the log, and for whoever looks at `status`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who says it [default: the user who runs this]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    reach: Reach,
    /// What to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl Saying {
    fn note(&self) -> Note {
        let user = || std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).ok();
        Note { by: self.by.clone().or_else(user).filter(|by| !by.is_empty()), reason: self.reason.clone() }
    }

    fn tell(&self, printer: Printer, done: &Ordered, text: String) -> Result<(), Failure> {
        self.output.print(printer, done, || text)?;
        if self.output == Output::Text {
            done.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
        }
        Ok(())
    }
}

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    /// The upstream
    #[arg(value_name = "SERVICE/UPSTREAM")]
    target: Target,
    /// Wait until nothing is under way there, at most for so long
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1h", require_equals = true, value_parser = crate::cli::words::time)]
    wait: Option<Duration>,
    #[command(flatten)]
    saying: Saying,
}

/// Arguments of `undrain`.
#[derive(Debug, clap::Args)]
pub(super) struct Undrain {
    /// The upstream
    #[arg(value_name = "SERVICE/UPSTREAM")]
    target: Target,
    #[command(flatten)]
    saying: Saying,
}

/// Arguments of `weight`.
#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    /// The upstream
    #[arg(value_name = "SERVICE/UPSTREAM")]
    target: Target,
    /// Its part of the requests beside the others', from 1 to 1000
    #[arg(value_name = "WEIGHT", required_unless_present = "by_config", conflicts_with = "by_config")]
    weight: Option<u32>,
    /// Take back what was said: the weight of the config
    #[arg(long)]
    by_config: bool,
    #[command(flatten)]
    saying: Saying,
}

/// Arguments of `maintenance`.
#[derive(Debug, clap::Args)]
pub(super) struct Maintenance {
    /// The service
    #[arg(value_name = "SERVICE", value_parser = |text: &str| ServiceName::parse(text))]
    service: ServiceName,
    /// Whether everything is answered 503
    #[arg(value_enum)]
    state: Switch,
    #[command(flatten)]
    saying: Saying,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    /// Everything is answered 503
    On,
    /// Nothing is
    Off,
    /// As the config says
    ByConfig,
}

pub(super) fn drain(args: &Drain, printer: Printer) -> Result<(), Failure> {
    let (target, saying) = (&args.target, &args.saying);
    let done = role::once(async {
        let (admin, note) = (saying.reach.client()?, saying.note());
        let say = || admin.drain(target.service.as_str(), target.upstream.as_str(), true, &note);
        let failure = |error| saying.reach.failure(&error);
        let mut done = say().await.map_err(failure)?;
        let Some(wait) = args.wait else { return Ok(done) };
        done.warnings.drain(..).for_each(|warning| printer.note(format!("warning: {warning}")));
        let (begun, mut told) = (clock::now(), u64::MAX);
        while done.outstanding > 0 {
            if done.outstanding != told {
                printer.note(left(done.outstanding));
                told = done.outstanding;
            }
            if begun.elapsed() >= wait {
                let hint = "it stays drained; `switchyard status` shows what is left";
                return Err(Failure::Runtime {
                    error: format!("{} requests were still under way after {wait:?}", done.outstanding),
                    hint: Some(hint.into()),
                });
            }
            tokio::time::sleep(LOOK).await;
            done = still(&admin.upstreams().await.map_err(failure)?, target, done)?;
        }
        Ok(done)
    })??;
    let left = left(done.outstanding);
    let (name, before) = (name(&done), if done.changed { "" } else { ", and was before" });
    saying.tell(printer, &done, format!("{name} takes nothing new{before}; {left}"))
}

fn left(outstanding: u64) -> String {
    match outstanding {
        0 => "nothing is under way there".to_owned(),
        1 => "1 request is under way there".to_owned(),
        left => format!("{left} requests are under way there"),
    }
}

/// What is left; an error if somebody has undrained it meanwhile.
fn still(
    view: &crate::wire::upstreams::Upstreams,
    target: &Target,
    done: Ordered,
) -> Result<Ordered, Failure> {
    let service = view.services.iter().find(|service| service.name == target.service.as_str());
    let upstream = service.and_then(|service| {
        service.upstreams.iter().find(|upstream| upstream.name == target.upstream.as_str())
    });
    match upstream {
        Some(upstream) if !upstream.drained => Err(Failure::Runtime {
            error: format!("{}/{} was undrained by somebody else", target.service, target.upstream),
            hint: None,
        }),
        // One that is not there any more has nothing under way.
        upstream => Ok(Ordered { outstanding: upstream.map_or(0, |upstream| upstream.outstanding), ..done }),
    }
}

pub(super) fn undrain(args: &Undrain, printer: Printer) -> Result<(), Failure> {
    let (target, saying) = (&args.target, &args.saying);
    let done = role::once(async {
        let (admin, note) = (saying.reach.client()?, saying.note());
        let done = admin.drain(target.service.as_str(), target.upstream.as_str(), false, &note).await;
        done.map_err(|error| saying.reach.failure(&error))
    })??;
    let was = if done.changed { "takes requests again" } else { "was not drained" };
    saying.tell(printer, &done, format!("{} {was}", name(&done)))
}

pub(super) fn weight(args: &Weight, printer: Printer) -> Result<(), Failure> {
    let (target, saying) = (&args.target, &args.saying);
    let done = role::once(async {
        let (service, upstream) = (target.service.as_str(), target.upstream.as_str());
        let done = saying.reach.client()?.weigh(service, upstream, args.weight, saying.note()).await;
        done.map_err(|error| saying.reach.failure(&error))
    })??;
    let said = args
        .weight
        .map_or_else(|| "the weight of the config".to_owned(), |weight| format!("weight {weight}"));
    saying.tell(printer, &done, format!("{} has {said}", name(&done)))
}

pub(super) fn maintenance(args: &Maintenance, printer: Printer) -> Result<(), Failure> {
    let saying = &args.saying;
    let on = match args.state {
        Switch::On => Some(true),
        Switch::Off => Some(false),
        Switch::ByConfig => None,
    };
    let done = role::once(async {
        let done = saying.reach.client()?.maintain(args.service.as_str(), on, saying.note()).await;
        done.map_err(|error| saying.reach.failure(&error))
    })??;
    let said = match on {
        Some(true) => "everything is answered 503",
        Some(false) => "requests are taken",
        None => "it goes by its config",
    };
    saying.tell(printer, &done, format!("{}: {said}", done.service))
}

fn name(done: &Ordered) -> String {
    format!("{}/{}", done.service, done.upstream.as_deref().unwrap_or("?"))
}

/// What was said, in a few words.
pub(super) fn words(order: &Order) -> String {
    let mut text = match order.what {
        What::Drained => "drained".to_owned(),
        What::Weight(weight) => format!("weight {weight}"),
        What::Maintenance(true) => "maintenance on".to_owned(),
        What::Maintenance(false) => "maintenance off".to_owned(),
    };
    text.push_str(&format!(" since {}", order.since));
    for (word, said) in [(" by ", &order.by), (" from ", &order.from), (": ", &order.reason)] {
        if let Some(said) = said {
            text.push_str(word);
            text.push_str(said);
        }
    }
    if !order.differs {
        text.push_str(" (as the config says)");
    }
    text
}
