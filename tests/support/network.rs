//! Machines of their own: network namespaces on one bridge, whose wires can be cut one way or both.
//!
//! ```ignore
//! if !network::inside("what is tried", "module::name_of_the_test") { return; }
//! let network = Network::new(3);
//! network.cut(0, Side::Machine(1));   // what 0 sends to 1 arrives nowhere, and nobody is told
//! network.heal();
//! ```
//!
//! A cut is silent, as of a dead switch: the neighbour's hardware address is set to one that nobody has.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::Mutex,
};

use super::not_run;

/// Says to the test that it runs in namespaces of its own already.
const INSIDE: &str = "SWITCHYARD_TEST_INSIDE";

/// Nobody has this address: locally administered, and none of a veth that was made by the kernel's own chance.
const NOBODY: &str = "02:00:00:00:00:01";

/// Runs the test `name` of this program once more, in user, network and mount namespaces of its own, and passes on how that
/// ended. True: this is that run. Where it is not allowed the scenario is named as not run, or fails when the run is strict.
pub fn inside(scenario: &str, name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        // `ip netns` keeps its names there.
        run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let try_it = "mount -t tmpfs tmpfs /run && ip netns add a && ip link add v0 type veth peer name v1 netns a \
                  && ip link add b0 type bridge";
    let tried = Command::new("unshare")
        .args(["-Urnm", "sh", "-c", try_it])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !tried.is_ok_and(|status| status.success()) {
        not_run::list(scenario, "`unshare -Urnm` with `ip netns`, veth and a bridge, which are not there");
        return false;
    }
    let program = std::env::current_exe().expect("this program's path");
    let status = Command::new("unshare")
        .arg("-Urnm")
        .arg(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{name} in namespaces of its own: {status}");
    false
}

/// An end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// One of the machines.
    Machine(usize),
    /// Where the test itself is, with all that it starts beside them.
    Here,
}

/// Machines on a bridge. They end with the namespace that they were made in.
pub struct Network {
    machines: usize,
    /// Who sends to whom into the void.
    cuts: Mutex<Vec<(Side, Side)>>,
}

impl Network {
    /// So many machines; at most one network in a namespace.
    pub fn new(machines: usize) -> Self {
        run("ip", &["link", "add", "br0", "type", "bridge"]);
        run("ip", &["addr", "add", &format!("{}/24", address(Side::Here)), "dev", "br0"]);
        run("ip", &["link", "set", "br0", "up"]);
        for n in 0..machines {
            let (name, port) = (machine(n), format!("v{n}"));
            let at = format!("{}/24", address(Side::Machine(n)));
            run("ip", &["netns", "add", &name]);
            run("ip", &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name]);
            run("ip", &["link", "set", &port, "master", "br0", "up"]);
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
            run("ip", &["-n", &name, "addr", "add", &at, "dev", "eth0"]);
            run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
        }
        Self { machines, cuts: Mutex::default() }
    }

    /// Every machine, and the test's own side.
    pub fn sides(&self) -> impl Iterator<Item = Side> + '_ {
        (0..self.machines).map(Side::Machine).chain([Side::Here])
    }

    /// What `from` sends to `to` arrives nowhere from now on; what comes back is not touched.
    pub fn cut(&self, from: Side, to: Side) {
        self.neighbour(from, "replace", to, &["lladdr", NOBODY, "nud", "permanent"]);
        self.cuts.lock().expect("no holder panics").push((from, to));
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        for (from, to) in std::mem::take(&mut *self.cuts.lock().expect("no holder panics")) {
            self.neighbour(from, "del", to, &[]);
        }
    }

    fn neighbour(&self, of: Side, change: &str, who: Side, more: &[&str]) {
        let (name, who) =
            (if let Side::Machine(n) = of { machine(n) } else { String::new() }, address(who).to_string());
        let (within, device): (&[&str], _) =
            if name.is_empty() { (&[], "br0") } else { (&["-n", &name], "eth0") };
        run("ip", &[within, &["neigh", change, &who, "dev", device], more].concat());
    }
}

/// Where it is reached.
pub fn address(side: Side) -> Ipv4Addr {
    match side {
        Side::Here => Ipv4Addr::new(10, 99, 0, 1),
        Side::Machine(n) => Ipv4Addr::new(10, 99, 0, u8::try_from(10 + n).expect("few machines")),
    }
}

/// The command that becomes `program` on a machine.
pub fn on_machine(n: usize, program: &str) -> Vec<String> {
    ["ip", "netns", "exec", &machine(n), program].map(str::to_owned).to_vec()
}

fn machine(n: usize) -> String {
    format!("m{n}")
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}
