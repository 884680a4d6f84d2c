//! `switchyard agent join|run|leave`, with the flags that operators know from the vendor's agent.

use std::{cell::Cell, fmt::Write, path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::{
    Failure, Printer,
    role::{self, Hooks, Setting},
    words::quoted,
};
use crate::{
    agent::{self, Agent, AgentError},
    client::ClientError,
    config::{self, Env, EnvNote, Flag, agent::Agent as Config},
    proxy::handover::Program,
    supervise::{Stage, Stop},
    telemetry,
};

/// Arguments of `agent`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Test the controllers and the registry, and make the node known
    Join(Settings),
    /// Take work and run VMs; joins first if the node is not known yet
    Run(Settings),
    /// Take the node out of the cloud
    Leave(Settings),
}

/// What can be said by file, by flags, or by both; flags go first.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Controllers: `http://front:8090` or `https://front:8090`, or several with commas between, tried in turn
    #[arg(value_name = "URL[,URL…]")]
    controllers: Option<String>,
    /// The config file; see conf/agent.toml
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the root token in it, for controllers and registries that ask for one
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// The API key by which it signs in, for controllers and registries that ask for a credential
    #[arg(long, value_name = "ID")]
    api_key_id: Option<String>,
    /// A file with the private half of that key
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<String>,
    /// The authority whose certificates it believes, for controllers and registries that are asked by https:// [default:
    /// those that the system trusts]
    #[arg(long, value_name = "FILE")]
    cacert: Option<String>,
    /// The certificate that it shows to them
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE")]
    cert_key: Option<String>,
    /// Directory for templates, VMs, the journal and the node's id
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// What runs the VMs
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// Node name [default: the host name]
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Address that CI clients are told [default: this machine's on its way out]
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// A node id of your own [default: made at the first join]
    #[arg(long, value_name = "ID")]
    node_id: Option<String>,
    /// Node groups by name, with commas between
    #[arg(short = 'G', long, value_name = "GROUPS")]
    groups: Option<String>,
    /// VMs at once
    #[arg(short, long, value_name = "NUMBER")]
    max_vm_count: Option<String>,
    /// `number` or `resource`
    #[arg(short = 'M', long, value_name = "MODE")]
    capacity_mode: Option<String>,
    /// Join without taking work
    #[arg(long)]
    drain_mode: bool,
    /// Time between status updates, like 5s
    #[arg(long, value_name = "DURATION")]
    heartbeat: Option<String>,
    /// Limit of one request, like 1m
    #[arg(long, value_name = "DURATION")]
    request_timeout: Option<String>,
    /// Limit of a TCP connect, like 15s
    #[arg(long, value_name = "DURATION")]
    dial_timeout: Option<String>,
    /// Limit for a VM's start, like 1m30s
    #[arg(long, value_name = "DURATION")]
    cli_start_timeout: Option<String>,
    /// Keep so much of the disk free when pulling: 20% or 45GB
    #[arg(long, value_name = "SIZE")]
    reserve_space: Option<String>,
    /// VM names begin with this and a dash
    #[arg(long, value_name = "PREFIX")]
    vm_prefix: Option<String>,
}

impl Settings {
    fn flags(&self) -> Vec<Flag> {
        let drain_mode = self.drain_mode.then(|| "true".to_owned());
        let secured = [
            ("--cacert", "ca", &self.cacert),
            ("--cert", "cert", &self.cert),
            ("--cert-key", "key", &self.cert_key),
        ];
        let all = [
            ("URL", "controllers", &self.controllers),
            ("--token-file", "token_file", &self.token_file),
            ("--api-key-id", "api_key_id", &self.api_key_id),
            ("--api-key-file", "api_key_file", &self.api_key_file),
            ("--data", "data", &self.data),
            ("--driver", "driver", &self.driver),
            ("--name", "name", &self.name),
            ("--host", "host", &self.host),
            ("--node-id", "node_id", &self.node_id),
            ("--groups", "groups", &self.groups),
            ("--max-vm-count", "capacity", &self.max_vm_count),
            ("--capacity-mode", "capacity_mode", &self.capacity_mode),
            ("--drain-mode", "drain_mode", &drain_mode),
            ("--heartbeat", "heartbeat", &self.heartbeat),
            ("--request-timeout", "request_timeout", &self.request_timeout),
            ("--dial-timeout", "dial_timeout", &self.dial_timeout),
            ("--cli-start-timeout", "start_timeout", &self.cli_start_timeout),
            ("--reserve-space", "reserve", &self.reserve_space),
            ("--vm-prefix", "vm_prefix", &self.vm_prefix),
        ];
        let of = |section| {
            move |(name, key, value): (_, _, &Option<String>)| {
                Some(Flag { name, section, key, value: value.clone()? })
            }
        };
        all.into_iter()
            .filter_map(of("agent"))
            .chain(secured.into_iter().filter_map(of("agent_tls")))
            .collect()
    }

    /// As a shell is given them once more.
    fn words(&self) -> String {
        let config = self.config.as_ref().map(|file| ("-c", file.display().to_string()));
        let flags = self.flags().into_iter().map(|flag| (flag.name, flag.value));
        let mut words = String::new();
        for (name, value) in config.into_iter().chain(flags) {
            // A string takes all that is written to it.
            let _ok = match name {
                "URL" => write!(words, " {}", quoted(&value)),
                "--drain-mode" => write!(words, " {name}"),
                _ => write!(words, " {name} {}", quoted(&value)),
            };
        }
        words
    }

    fn load(&self) -> Result<(Config, Vec<EnvNote>), config::Faults> {
        config::load_agent(self.config.as_deref(), &Env::of_process(), &self.flags())
    }

    fn checked(&self, printer: Printer) -> Result<(Config, Vec<EnvNote>), Failure> {
        let named = self.config.is_some() || self.controllers.is_some();
        if !named && Env::of_process().get("SWITCHYARD_AGENT_CONTROLLERS").is_none() {
            let hint =
                "`switchyard agent run http://front:8090`, or `-c FILE` with `controllers` in `[agent]`";
            return Err(Failure::Usage { error: "no controller is named".into(), hint: Some(hint.into()) });
        }
        self.load().map_err(|faults| printer.refused(&faults))
    }
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Command::Join(settings) => join(settings, printer),
        Command::Run(settings) => work(settings, printer),
        Command::Leave(settings) => leave(settings, printer),
    }
}

struct Running<'a> {
    settings: &'a Settings,
    config: Config,
    outdated: Stop,
    /// Set when the newer program may begin.
    become_it: &'a Cell<bool>,
}

impl Hooks for Running<'_> {
    fn reload(&mut self) {
        role::checked_only(self.settings.load(), &self.config);
    }

    async fn outdated(&self) {
        self.outdated.requested().await;
    }

    fn become_it(&mut self) {
        self.become_it.set(true);
    }
}

fn work(settings: &Settings, printer: Printer) -> Result<(), Failure> {
    // Early: later the file may be another one.
    let program = Program::of_process()
        .map_err(|error| Failure::runtime("it is not known which program this is", &error))?;
    let become_it = Cell::new(false);
    let (config, notes) = settings.checked(printer)?;
    let setting = Setting { log: config.log.clone(), notes, grace: config.grace, threads: None };
    role::run(&setting, printer, async |tree| {
        let agent =
            Agent::open(config.clone(), tree.handle()).await.map_err(|error| failed("run", &error))?;
        let outdated = agent.replaceable(program.path().to_owned());
        let name = format!("agent {}", agent.node_id());
        tree.handle().start_vital(Stage::Edge, name, |stop| agent.run(stop));
        Ok((tree, Running { settings, config, outdated, become_it: &become_it }))
    })?;
    if !become_it.get() {
        return Ok(());
    }
    // Comes back only if it could not.
    let error = program.become_it();
    let path = program.path().display().to_string();
    Err(Failure::Runtime {
        error: format!("the newer agent `{path}` could not be begun: {error}"),
        hint: Some("start it again: nothing was lost".into()),
    })
}

fn join(settings: &Settings, printer: Printer) -> Result<(), Failure> {
    let (config, _) = settings.checked(printer)?;
    let joined = role::once(async { agent::join(&config).await })?.map_err(|error| {
        if let AgentError::Unconnected { checks } = &error {
            checks.iter().for_each(|check| printer.note(check));
        }
        failed("join", &error)
    })?;
    for check in &joined.checks {
        printer.note(check);
    }
    printer.data(format!("node {} ({}) has joined", joined.node, joined.name));
    // It keeps the node's id and nothing else: `run` has to be told the same.
    printer.note(format!("it takes work when this runs: switchyard agent run{}", settings.words()));
    Ok(())
}

fn leave(settings: &Settings, printer: Printer) -> Result<(), Failure> {
    let (config, _) = settings.checked(printer)?;
    let left = role::once(async { agent::leave(&config).await })?.map_err(|error| failed("leave", &error))?;
    printer.data(format!("node {} has left", left.node));
    Ok(())
}

fn failed(what: &str, error: &AgentError) -> Failure {
    let hint = match error {
        AgentError::Client(ClientError::Untrusted { .. }) => Some(
            "`tls` in `[agent]`, or `--cacert`, `--cert` and `--cert-key`, say whom it trusts and what it shows",
        ),
        AgentError::Client(ClientError::Refused { status: 403, .. }) => {
            Some("whoever has the root token gives one of its groups that permission (docs/permissions.md)")
        }
        AgentError::Unconnected { .. } | AgentError::Client(_) => {
            Some("`curl http://FRONT:8090/api/v1/status` shows whether a controller can be reached from here")
        }
        AgentError::NotJoined { .. } => Some("name the directory of the node with `--data` or `-c`"),
        AgentError::InUse { .. } if what != "run" => {
            Some("stop the agent first: it holds the node's journal")
        }
        _ => None,
    };
    Failure::Runtime {
        error: format!("cannot {what}: {}", telemetry::chain(error)),
        hint: hint.map(Into::into),
    }
}

/// What stands for a VM; started by the agent alone.
#[derive(Debug, clap::Args)]
pub(super) struct VmProcess {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(super) fn vm_process(vm: &VmProcess) -> ExitCode {
    agent::driver::process::vm_process_main(&vm.args).into()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn what_a_join_was_told_is_said_again_for_a_run() {
        let words = |line: &[&str]| Line::parse_from([&["join"], line].concat()).settings.words();
        assert_eq!(words(&["-c", "conf/agent.toml"]), " -c conf/agent.toml");
        assert_eq!(
            words(&[
                "-n",
                "mini 7",
                "http://a:1,http://b:2",
                "--drain-mode",
                "--cacert=ca.pem",
                "--reserve-space",
                "20%"
            ]),
            " http://a:1,http://b:2 --name 'mini 7' --drain-mode --reserve-space 20% --cacert ca.pem"
        );
    }
}
