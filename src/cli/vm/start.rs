//! `switchyard vm start`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{Failure, Pair, Printer, metadata, wait};
use crate::{
    cli::cloud::{Told, find_node, find_template, usage},
    wire::vm::StartVm,
};

/// Longest script that is read: the most that a body may have at a controller, by default, once it is encoded.
const SCRIPT: u64 = 3_000_000;

/// Bytes of a file that are looked at for a password.
const PASSWORD: u64 = 1024;

/// Arguments of `vm start`.
#[derive(Debug, clap::Args)]
pub(super) struct Start {
    /// The template, by name or id; without a tag its newest version
    #[arg(value_name = "TEMPLATE[:TAG]")]
    template: String,
    #[command(flatten)]
    told: Told,
    /// This version, by number
    #[arg(long, value_name = "N")]
    version: Option<i64>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// A label
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Free text, such as the address of a job
    #[arg(long, value_name = "TEXT")]
    external_id: Option<String>,
    /// Metadata, once for each key
    #[arg(long = "metadata", value_name = "KEY=VALUE")]
    metadata: Vec<Pair>,
    /// On this node and no other, by name or id
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// On a node of this group, by name or id
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// The group whose permissions count, where resources are managed
    #[arg(long, value_name = "NAME")]
    permission_group: Option<String>,
    /// 1 to 10000: lower is sooner
    #[arg(long, value_name = "N")]
    priority: Option<i64>,
    /// A script that runs in the VM; `-` is standard input
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Run it at boot, and not once the network is up
    #[arg(long, requires = "script")]
    script_at_boot: bool,
    /// Its end counts: what fails puts the instance into Error, and its result is kept
    #[arg(long, requires = "script")]
    script_monitoring: bool,
    /// It may take so long
    #[arg(long, value_name = "TIME", requires = "script_monitoring", value_parser = crate::cli::words::time)]
    script_timeout: Option<Duration>,
    /// What becomes of the VM when it fails
    #[arg(long, value_enum, value_name = "WHAT", requires = "script_monitoring")]
    script_on_failure: Option<OnFailure>,
    /// The VM's own name, as a pattern: $template_name, $template_id, $instance_id, $node_id, $node_name, $ts
    #[arg(long, value_name = "TEXT")]
    name_template: Option<String>,
    /// Virtual processors, if not the template's
    #[arg(long, value_name = "N")]
    vcpu: Option<i64>,
    /// Memory in MB, if not the template's
    #[arg(long, value_name = "MB")]
    vram: Option<i64>,
    /// A disk of this size
    #[arg(long, value_name = "SIZE")]
    disk: Option<String>,
    /// Leave what is on the disk at its size
    #[arg(long, requires = "disk")]
    keep_container: bool,
    /// A MAC address
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
    /// A VLAN
    #[arg(long, value_name = "ID")]
    vlan: Option<String>,
    /// A USB device, by name or location
    #[arg(long, value_name = "DEVICE")]
    usb_device: Option<String>,
    /// `shared`, `host`, `bridge`, `disconnected` or `nat`
    #[arg(long, value_name = "MODE")]
    network_mode: Option<String>,
    /// `forceOn` or `forceOff`: other VMs of the host are reached
    #[arg(long, value_name = "MODE")]
    network_local: Option<String>,
    /// `fbuf` or `pg`
    #[arg(long, value_name = "MODE")]
    video_controller: Option<String>,
    /// `forceOn` or `forceOff`
    #[arg(long, value_name = "MODE")]
    hvapic: Option<String>,
    /// `forceOn`: system integrity protection as it is set there
    #[arg(long, value_name = "MODE")]
    csr_active_config: Option<String>,
    /// The serial number that the VM shows
    #[arg(long, value_name = "TEXT")]
    hw_serial: Option<String>,
    /// The UUID that the VM shows
    #[arg(long, value_name = "UUID")]
    hw_uuid: Option<String>,
    /// A file with the password of the VM's screen
    #[arg(long, value_name = "FILE")]
    vnc_password_file: Option<PathBuf>,
    /// Forward a port of the VM; without one of the host's a free one is taken. All rules of the template are replaced
    #[arg(long = "forward", value_name = "NAME=GUEST[:HOST]")]
    forward: Vec<Forward>,
    /// Wait until all of them run; fails when one of them does
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    patience: wait::Patience,
    /// Name this start: however often it is called with one name within a day, it is made once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum OnFailure {
    /// It is stopped
    Stop,
    /// It runs on
    Keep,
    /// It is deleted
    Delete,
}

#[derive(Debug, Clone)]
struct Forward {
    name: String,
    guest: u16,
    host: Option<u16>,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, ports) = text.split_once('=').ok_or("write NAME=GUEST or NAME=GUEST:HOST")?;
        let (guest, host) = ports.split_once(':').map_or((ports, None), |(guest, host)| (guest, Some(host)));
        let port = |text: &str| match text.parse::<u16>() {
            Ok(0) | Err(_) => Err(format!("`{text}` is no port: use 1 to 65535")),
            Ok(port) => Ok(port),
        };
        Ok(Self { name: name.to_owned(), guest: port(guest)?, host: host.map(port).transpose()? })
    }
}

pub(super) async fn run(args: &Start, printer: Printer) -> Result<(), Failure> {
    let reach = &args.told.reach;
    let client = reach.client()?;
    let (vmid, tag) = find_template(reach, &client, &args.template).await?;
    if tag.is_some() && args.version.is_some() {
        return Err(usage("a tag and `--version` name one version each", "leave one of them out"));
    }
    let node = match &args.node {
        Some(node) => Some(find_node(reach, &client, node).await?.node_id),
        None => None,
    };
    let ask = ask(args, (vmid, tag), node)?;
    let key = args.idempotency_key.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let started = async { Ok(client.start(&ask, &key).await) };
    let again = format!("the same call with `--idempotency-key {key}` makes no second VM");
    let started = wait::or_interrupted(started, "whether it was done is not known", &again).await?;
    let ids =
        started.map_err(|error| match (reach.failure(&error), error.may_pass() && !error.is_unsent()) {
            (Failure::Runtime { error, .. }, true) => {
                Failure::Runtime { error, hint: Some(format!("whether it was done is not known; {again}")) }
            }
            (failure, _) => failure,
        })?;
    if args.wait {
        return wait::started(&args.told, &args.patience, &client, printer, &ids).await;
    }
    args.told.output.print(printer, &json!({ "instances": ids, "idempotency_key": key }), || ids.join("\n"))
}

fn ask(
    args: &Start,
    (vmid, tag): (String, Option<String>),
    node: Option<String>,
) -> Result<StartVm, Failure> {
    let forward = |rule: &Forward| {
        let mut keys = Map::new();
        keys.insert("name".into(), rule.name.clone().into());
        keys.insert("guest_port".into(), rule.guest.to_string().into());
        if let Some(host) = rule.host {
            keys.insert("host_port".into(), host.to_string().into());
        }
        keys
    };
    let on_failure = args.script_on_failure.map(|what| match what {
        OnFailure::Stop => 0,
        OnFailure::Keep => 1,
        OnFailure::Delete => 2,
    });
    Ok(StartVm {
        vmid: Some(vmid),
        tag,
        version: args.version,
        name: args.name.clone(),
        external_id: args.external_id.clone(),
        count: (args.count != 1).then_some(args.count.into()),
        node_id: node,
        startup_script: args.script.as_deref().map(script).transpose()?,
        startup_script_condition: args.script_at_boot.then_some(1),
        script_monitoring: args.script_monitoring.then_some(true),
        script_timeout: args.script_timeout.map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX)),
        script_fail_handler: on_failure,
        name_template: args.name_template.clone(),
        group: args.permission_group.clone(),
        group_id: args.group.clone(),
        priority: args.priority,
        usb_device: args.usb_device.clone(),
        vcpu: args.vcpu,
        vram: args.vram,
        metadata: metadata(&args.metadata),
        mac_address: args.mac_address.clone(),
        vlan_tag: args.vlan.clone(),
        disk: args.disk.as_ref().map(|size| disk(size, args.keep_container)),
        port_forwarding_override: (!args.forward.is_empty())
            .then(|| args.forward.iter().map(forward).collect()),
        network_mode: args.network_mode.clone(),
        network_local: args.network_local.clone(),
        video_controller: args.video_controller.clone(),
        hvapic: args.hvapic.clone(),
        csr_active_config: args.csr_active_config.clone(),
        hw_serial: args.hw_serial.clone(),
        hw_uuid: args.hw_uuid.clone(),
        vnc_password: args.vnc_password_file.as_deref().map(password).transpose()?,
    })
}

fn disk(size: &str, keep_container: bool) -> Map<String, Value> {
    let mut disk = Map::from_iter([("size".to_owned(), Value::from(size))]);
    if keep_container {
        disk.insert("skip_container_resize".into(), true.into());
    }
    disk
}

/// The first line of a file: among the arguments every user of this machine would see it.
fn password(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let read = std::fs::File::open(path).and_then(|file| {
        let mut text = String::new();
        file.take(PASSWORD).read_to_string(&mut text).map(|_| text)
    });
    let text = read.map_err(|error| {
        usage(format!("`--vnc-password-file` `{shown}` cannot be read: {error}"), "name a file with one line")
    })?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(usage(format!("`--vnc-password-file` `{shown}` is empty"), "name a file with one line")),
        line => Ok(line.to_owned()),
    }
}

/// A script, as it travels.
pub(super) fn script(path: &Path) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(SCRIPT + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(SCRIPT + 1).read_to_end(&mut bytes))
    };
    let shown = path.display();
    match read {
        Err(error) => {
            Err(usage(format!("`--script` `{shown}` cannot be read: {error}"), "name a file, or `-`"))
        }
        Ok(0) => Err(usage(format!("`--script` `{shown}` is empty"), "leave it out, or name another file")),
        Ok(read) if read as u64 > SCRIPT => Err(usage(
            format!("`--script` `{shown}` has over {SCRIPT} bytes"),
            "have it fetch what it needs when it runs",
        )),
        Ok(_) => Ok(STANDARD.encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_a_port_of_the_vm_and_perhaps_one_of_the_host() {
        let rule: Forward = "ssh=22".parse().unwrap();
        assert_eq!((rule.name.as_str(), rule.guest, rule.host), ("ssh", 22, None));
        assert_eq!("vnc=5900:10001".parse::<Forward>().unwrap().host, Some(10001));
        for bad in ["ssh", "ssh=", "ssh=99999", "ssh=0", "ssh=22:0", "ssh=22:x"] {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }
}
