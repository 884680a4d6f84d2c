//! The configs of the processes, and how each one is started.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use super::{
    super::{
        api::Api,
        cloud::Server,
        process::{BINARY, Process},
        relay::Relay,
    },
    Proxy, Registries, Registry,
};

/// Whom proxies with wires reach by them.
const WIRED: &str = "r1";

impl Registries {
    pub(super) fn prepare(&self, name: &str) -> Registry {
        let (address, address_file) = (self.place.address(), self.place.path(&format!("{name}.address")));
        let config = self.place.path(&format!("{name}.toml")).display().to_string();
        let (content, process) = match self.small(name) {
            None => {
                let arguments = ["registry", "-c", &config];
                (
                    self.place.path(&format!("{name}/content")),
                    Process::prepare_by(&self.place, name, BINARY, &arguments),
                )
            }
            Some((_, size, _)) => {
                let disk = self.place.path(&format!("{name}/disk/content"));
                let mount = disk.parent().unwrap_or(&disk).to_owned();
                fs::create_dir_all(&mount).expect("a directory to mount on");
                let script = "mount -t tmpfs -o size=$0 tmpfs $1 && shift && exec \"$@\"";
                let mount = mount.display().to_string();
                let arguments = ["-Urm", "sh", "-c", script, size, &mount, BINARY, "registry", "-c", &config];
                (disk, Process::prepare_by(&self.place, name, "unshare", &arguments))
            }
        };
        let server = Server::new(process, address, address_file);
        Registry { name: name.to_owned(), server, content, links: BTreeMap::new() }
    }

    pub(super) async fn prepare_proxy(&self, name: &str) -> Proxy {
        let (admin, front) = (self.place.address(), self.place.address());
        let config = self.place.path(&format!("{name}.toml")).display().to_string();
        let process = Process::prepare_by(&self.place, name, BINARY, &["proxy", "-c", &config]);
        let wire = match self.plan.wired {
            true => Some(Relay::to(self.registry(WIRED).server.address).await),
            false => None,
        };
        Proxy {
            name: name.to_owned(),
            server: Server::new(process, admin, self.place.path(&format!("{name}.address"))),
            front,
            api: Api::new(front),
            wire,
            access: self.place.path(&format!("{name}-access.log")),
        }
    }

    /// Gives a registry its wires to all others.
    pub(super) async fn link(&mut self, name: &str) {
        let others = self.all.iter().filter(|r| r.name != name);
        let others: Vec<_> = others.map(|r| (r.name.clone(), r.server.address)).collect();
        for (other, address) in others {
            if !self.registry(name).links.contains_key(&other) {
                let relay = Relay::to(address).await;
                self.registry_mut(name).links.insert(other, relay);
            }
        }
    }

    pub(super) fn write_registry(&self, name: &str) {
        let registry = self.registry(name);
        let limits = self.small(name).map_or("[limits]\nreserve = \"16MiB\"", |(_, _, lines)| lines);
        let mut text = format!(
            "[server]\nlisten = \"{}\"\nname = \"{name}\"\naddress_file = \"{}\"\n[shutdown]\ngrace = \"5s\"\n\
             [storage]\ndisk = \"{}\"\n{limits}\n[replication]\n",
            registry.server.address,
            self.place.path(&format!("{name}.address")).display(),
            registry.content.display(),
        );
        let more = if name == self.writer {
            "role = \"writer\"\n".to_owned()
        } else {
            let to = |other: &str| format!("\"http://{}\"", registry.links[other].address());
            let peers = registry.links.keys().filter(|other| **other != self.writer);
            let peers: Vec<String> = peers.map(|other| to(other)).collect();
            format!("role = \"replica\"\nwriter = {}\npeers = [{}]\n", to(&self.writer), peers.join(", "))
        };
        text.push_str(&more);
        self.place.write(&format!("{name}.toml"), &text);
    }

    pub(super) fn write_proxies(&self) {
        for proxy in &self.proxies {
            let address = |registry: &Registry| match &proxy.wire {
                Some(wire) if registry.name == WIRED => wire.address(),
                _ => registry.server.address,
            };
            let upstreams: Vec<String> = self
                .all
                .iter()
                .map(|r| format!("{{ name = \"{}\", address = \"{}\" }}", r.name, address(r)))
                .collect();
            let mut text = format!(
                "[proxy]\nthreads = 2\nrun_dir = \"{}\"\naddress_file = \"{}\"\n[admin]\nlisten = \"{}\"\n[log]\naccess = \"{}\"\n\
                 [shutdown]\ngrace = \"5s\"\n",
                self.place.path(&format!("{}-run", proxy.name)).display(),
                self.place.path(&format!("{}.address", proxy.name)).display(),
                proxy.server.address,
                proxy.access.display(),
            );
            write!(
                text,
                "[[listener]]\nname = \"registries\"\nbind = [\"{}\"]\nservice = \"registries\"\n\
                 [service.registries]\nkind = \"registry\"\nstorage = \"replicated\"\nwriter = \"{}\"\n\
                 freshness = \"position\"\nupstreams = [{}]\n{}\n\
                 [service.registries.health]\ninterval = \"500ms\"\ntimeout = \"500ms\"\n",
                proxy.front,
                self.writer,
                upstreams.join(", "),
                self.plan.service,
            )
            .expect("a text takes all");
            self.place.write(&format!("{}.toml", proxy.name), &text);
        }
    }

    fn small(&self, name: &str) -> Option<(&str, &str, &str)> {
        self.plan.small.filter(|(small, ..)| *small == name)
    }

    /// Where a registry's storage is seen from here: a disk of its own only through its process.
    pub(super) fn seen(&self, name: &str) -> PathBuf {
        let registry = self.registry(name);
        match (self.small(name), registry.server.process.pid()) {
            (Some(_), Some(pid)) => {
                let inside = registry.content.strip_prefix("/").unwrap_or(&registry.content);
                PathBuf::from(format!("/proc/{pid}/root")).join(inside)
            }
            _ => registry.content.clone(),
        }
    }
}
