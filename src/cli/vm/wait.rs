//! Waiting for instances, and how far they are.

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{Failure, Printer, look};
use crate::{
    cli::{
        cloud::{Told, look_on},
        output::plain,
    },
    client::Controllers,
    clock,
    model::InstanceState,
    wire::vm::Vm,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Lines that fit on a screen; of more instances the counts alone are shown.
const LINES: usize = 16;

/// How long is waited, and what is said meanwhile.
#[derive(Debug, clap::Args)]
pub(super) struct Patience {
    /// Wait no longer than this
    #[arg(long, value_name = "TIME", default_value = "1h", requires = "wait", value_parser = crate::cli::words::time)]
    wait_timeout: Duration,
    /// Say nothing while waiting
    #[arg(long, short, requires = "wait")]
    quiet: bool,
}

impl Patience {
    /// The longest that is waited.
    pub(super) fn longest(&self) -> Duration {
        self.wait_timeout
    }

    /// Says what is waited for.
    pub(super) fn note(&self, printer: Printer, id: &str, what: &str) {
        if !self.quiet {
            printer.note(format!("{id}: {what}"));
        }
    }
}

/// What became of an instance that is waited for.
#[derive(Debug, Clone, PartialEq)]
enum Is {
    /// Not there yet, in this state.
    OnItsWay(String),
    /// As it was to be.
    Reached,
    /// It will never be.
    Failed(String),
}

/// Waits until all of them run. Shows them at the end, those that failed as well.
pub(super) async fn started(
    told: &Told,
    patience: &Patience,
    client: &Controllers,
    printer: Printer,
    ids: &[String],
) -> Result<(), Failure> {
    let judge = |vm: Option<&Vm>| match vm {
        None => Is::Failed("it was deleted meanwhile".into()),
        Some(vm) => match vm.instance_state {
            InstanceState::Started => Is::Reached,
            InstanceState::Error => Is::Failed(vm.message.clone()),
            InstanceState::Terminating | InstanceState::Terminated => {
                Is::Failed("it was terminated meanwhile".into())
            }
            _ => Is::OnItsWay(step(vm)),
        },
    };
    let waits = until(told, patience, client, printer, ids, judge);
    let hint = format!(
        "the instances go on: `switchyard vm list` shows them; to have them deleted: switchyard vm terminate {}",
        named(ids)
    );
    let ended = or_interrupted(waits, "nobody waits for them any more", &hint).await;
    // Nothing else has told yet which they are.
    let ended = ended.map_err(|failure| failure.with_hint(&hint))?;
    let shown: Vec<&Vm> = ids.iter().filter_map(|id| ended.seen.get(id)).collect();
    told.output.print(printer, &shown, || look::started(&shown))?;
    ended.verdict("did not start", "`switchyard vm show ID` shows more of each")
}

/// Waits until all of them are deleted.
pub(super) async fn gone(
    told: &Told,
    patience: &Patience,
    client: &Controllers,
    printer: Printer,
    ids: &[String],
) -> Result<(), Failure> {
    let judge = |vm: Option<&Vm>| match vm {
        None => Is::Reached,
        Some(vm) if vm.instance_state == InstanceState::Terminated => Is::Reached,
        Some(vm) => Is::OnItsWay(step(vm)),
    };
    let waits = until(told, patience, client, printer, ids, judge);
    let hint = "they are deleted all the same: `switchyard vm list` shows those that are still there";
    let ended = or_interrupted(waits, "nobody waits for their end any more", hint).await?;
    ended.verdict("are not gone", "their nodes have to confirm it: `switchyard node list` shows which report")
}

/// Ids for a line that is to be typed; of very many the first ones.
fn named(ids: &[String]) -> String {
    let more = if ids.len() > LINES { " …" } else { "" };
    format!("{}{more}", ids.iter().take(LINES).map(String::as_str).collect::<Vec<_>>().join(" "))
}

/// Waits; interrupted, it says what goes on without anybody who waits.
pub(super) async fn or_interrupted<T>(
    waits: impl Future<Output = Result<T, Failure>>,
    error: &str,
    hint: &str,
) -> Result<T, Failure> {
    tokio::select! {
        done = waits => done,
        Ok(()) = tokio::signal::ctrl_c() => {
            Err(Failure::Interrupted { error: format!("interrupted: {error}"), hint: hint.to_owned() })
        }
    }
}

struct Ended {
    seen: BTreeMap<String, Vm>,
    failed: Vec<(String, String)>,
}

impl Ended {
    fn verdict(&self, what: &str, hint: &str) -> Result<(), Failure> {
        if self.failed.is_empty() {
            return Ok(());
        }
        let named = self.failed.iter().take(LINES).map(|(id, why)| format!("\n  {id}: {why}"));
        let more = self.failed.len().saturating_sub(LINES);
        let more = if more == 0 { String::new() } else { format!("\n  and {more} more") };
        let error =
            format!("{} of the instances {what}:{}{more}", self.failed.len(), named.collect::<String>());
        Err(Failure::Runtime { error, hint: Some(hint.to_owned()) })
    }
}

async fn until(
    told: &Told,
    patience: &Patience,
    client: &Controllers,
    printer: Printer,
    ids: &[String],
    judge: impl Fn(Option<&Vm>) -> Is,
) -> Result<Ended, Failure> {
    let until = clock::now() + patience.wait_timeout;
    let shown = Screen::new(patience.quiet, printer, ids);
    let mut ended = Ended { seen: BTreeMap::new(), failed: Vec::new() };
    let mut open: Vec<String> = ids.to_vec();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut still = Vec::new();
        for id in open {
            let vm = look_on(until, async || client.instance(&id).await).await;
            let vm = vm.map_err(|error| told.reach.failure(&error))?;
            let is = judge(vm.as_ref());
            shown.at(&id, vm.as_ref(), &is);
            if let Some(vm) = vm {
                ended.seen.insert(id.clone(), vm);
            }
            match is {
                Is::Reached => {}
                Is::Failed(why) => ended.failed.push((id, why)),
                Is::OnItsWay(step) => {
                    if last.get(&id) != Some(&step) {
                        shown.note(&id, &step);
                        last.insert(id.clone(), step);
                    }
                    still.push(id);
                }
            }
        }
        open = still;
        if open.is_empty() || clock::now() >= until {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    shown.end();
    let late = humantime::format_duration(patience.wait_timeout);
    for id in open {
        let step = last.remove(&id).unwrap_or_default();
        ended.failed.push((id, format!("not within {late}: {step}")));
    }
    Ok(ended)
}

/// Where it is, in words that change only when something happens.
fn step(vm: &Vm) -> String {
    let state = vm.instance_state.as_str();
    let on = if vm.node_id.is_empty() { String::new() } else { format!(" on {}", vm.node_id) };
    let why = if vm.message.is_empty() { String::new() } else { format!(": {}", vm.message) };
    plain(&format!("{state}{on}{why}")).into_owned()
}

/// Bars on a terminal, else a line for each step.
struct Screen {
    printer: Printer,
    quiet: bool,
    bars: Option<(MultiProgress, BTreeMap<String, ProgressBar>)>,
}

impl Screen {
    fn new(quiet: bool, printer: Printer, ids: &[String]) -> Self {
        let draws = !quiet && std::io::stderr().is_terminal() && ids.len() <= LINES;
        let bars = draws.then(|| {
            let style = ProgressStyle::with_template("  {prefix:36!} [{bar:24}] {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let bar = |id: &String| {
                let bar = all.add(ProgressBar::new(100).with_style(style.clone()).with_prefix(id.clone()));
                bar.tick();
                (id.clone(), bar)
            };
            let bars = ids.iter().map(bar).collect();
            (all, bars)
        });
        Self { printer, quiet, bars }
    }

    fn at(&self, id: &str, vm: Option<&Vm>, is: &Is) {
        let Some(bar) = self.bars.as_ref().and_then(|(_, bars)| bars.get(id)) else { return };
        let share = vm.and_then(|vm| serde_json::to_value(vm.progress).ok()?.as_f64()).unwrap_or(0.0);
        match is {
            Is::Reached => {
                bar.set_position(100);
                bar.set_message("done");
            }
            Is::Failed(why) => bar.set_message(plain(why).into_owned()),
            Is::OnItsWay(step) => {
                bar.set_position((share * 100.0) as u64);
                bar.set_message(step.clone());
            }
        }
    }

    fn note(&self, id: &str, step: &str) {
        if !self.quiet && self.bars.is_none() {
            self.printer.note(format!("{id}: {step}"));
        }
    }

    fn end(&self) {
        if let Some((all, bars)) = &self.bars {
            bars.values().for_each(ProgressBar::finish_and_clear);
            drop(all.clear());
        }
    }
}

/// What a change says of the instances it was about.
pub(super) fn told(ids: &[String]) -> Value {
    json!({ "instances": ids })
}
