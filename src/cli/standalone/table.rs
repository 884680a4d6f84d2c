//! What a newcomer sees: where everything is, and lines to copy that work.

use std::{fmt::Write, io, net::SocketAddr, path::Path};

use serde::Serialize;

use super::{Args, data::Data};
use crate::cli::words::{counted, quoted};

/// Where everything listens, as reached from this machine.
#[derive(Debug, Serialize)]
pub(super) struct Addresses {
    /// The controllers' front.
    pub(super) controllers: SocketAddr,
    /// The registries' front.
    pub(super) registries: SocketAddr,
    /// The proxy's admin API.
    pub(super) admin: SocketAddr,
    /// Each controller behind the front.
    pub(super) controller: Vec<SocketAddr>,
    /// Each registry behind the front.
    pub(super) registry: Vec<SocketAddr>,
}

impl Addresses {
    /// Writes them as JSON, complete at once: beside, then renamed.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::rename(&beside, path)
    }
}

/// The table and the next steps.
pub(super) fn table(addresses: &Addresses, data: &Data, args: &Args) -> String {
    let Addresses { controllers, registries, admin, .. } = addresses;
    let dir = quoted(&data.dir().display().to_string());
    let state = match args.etcd.as_slice() {
        [] => dir.clone(),
        [first, ..] => format!("etcd at {first}; templates and nodes in {dir}"),
    };
    let mut text = format!(
        "switchyard standalone is running: {}, {} and {} behind one proxy

  controllers   http://{controllers}
  registries    http://{registries}
  admin         http://{admin}     in a browser: what runs, what is wrong and what to do; /metrics, /readyz
  state         {state}

Try in another terminal:
",
        counted(args.controllers.into(), "controller"),
        counted(args.registries.into(), "registry"),
        counted(args.agents.into(), "node"),
    );
    let sample = quoted(&data.sample().display().to_string());
    let api = format!("http://{controllers}/api/v1");
    let steps = [
        (
            "push a template: a tiny image that lies there for it",
            format!("skopeo copy --dest-tls-verify=false oci:{sample} docker://{registries}/sample:v1"),
        ),
        (
            "start a VM from it, and see it",
            format!(
                "T=$(curl -s {api}/registry/vm | grep -o '\"id\":\"[^\"]*\",\"name\":\"sample\"' | cut -d'\"' -f4)\n  \
                 ID=$(curl -s {api}/vm -d \"{{\\\"vmid\\\":\\\"$T\\\"}}\" | grep -o '[0-9a-f-]\\{{36\\}}')\n  \
                 curl -s \"{api}/vm?id=$ID\""
            ),
        ),
        ("list VMs and nodes", format!("curl -s {api}/vm; curl -s {api}/node")),
        (
            "see how the registries stand: one takes pushes, the others copy it",
            format!("{} registry status --admin http://{admin}", program()),
        ),
        (
            "where a pull would go now, and why",
            format!(
                "{} explain GET /v2/sample/manifests/v1 --listener registries --admin http://{admin}",
                program()
            ),
        ),
        ("end it", format!("curl -s -X DELETE {api}/vm -d \"{{\\\"id\\\":\\\"$ID\\\"}}\"")),
    ];
    for (what, line) in steps {
        // A string takes all that is written to it.
        let _ok = writeln!(text, "  # {what}\n  {line}");
    }
    text.push_str("\nCtrl-C stops it; the same command goes on where it was.");
    text
}

/// This program, as a shell finds it.
fn program() -> String {
    std::env::current_exe().map_or_else(|_| "switchyard".into(), |path| quoted(&path.display().to_string()))
}
