//! Upstreams that are found in DNS, asked of a real name server on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use switchyard::config::proxy::{Discovery, Dns as Ask, Kind, Proxy, Source};

use crate::{
    dns::{Dns, Say},
    front::{self, Front},
    upstream::{Upstream, ok},
};

/// Servers at one port of several addresses of loopback, as those behind a name are.
fn servers(count: u8) -> (u16, Vec<Upstream>) {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = |n: u8| SocketAddr::from((Ipv4Addr::new(127, 0, 0, n), port));
        if (1..=count).all(|n| TcpListener::bind(address(n)).is_ok()) {
            return (port, (1..=count).map(|n| Upstream::at(address(n), |_| ok("here"))).collect());
        }
    }
}

fn hosts(ttl: u32, last: &[u8]) -> Say {
    Say::Hosts(ttl, last.iter().map(|n| Ipv4Addr::new(127, 0, 0, *n)).collect())
}

fn config(dns: &Dns, name: &str, port: Option<u16>) -> Proxy {
    let mut config = front::config(Kind::Controller, &[]);
    let ask = Ask { name: format!("{name}."), port, resolver: Some(dns.address) };
    config.services[0].discovery = Some(Discovery { source: Source::Dns(ask), most: 8 });
    config
}

/// The addresses of the pool, without ports, and whether the name server can be asked.
fn pool(front: &Front) -> (Vec<String>, bool) {
    let service = front.view().services.remove(0);
    let host = |address: String| address.rsplit_once(':').unwrap().0.to_owned();
    let upstreams = service.upstreams.into_iter().filter(|one| one.health == "up");
    (upstreams.map(|one| host(one.address)).collect(), service.discovery.unwrap().well)
}

fn until(front: &Front, hosts: &[&str], well: bool) {
    front::eventually(&format!("{hosts:?} {well}"), || {
        let (seen, is_well) = pool(front);
        seen == hosts && is_well == well
    });
}

#[test]
fn the_addresses_of_a_name_are_the_pool_and_change_with_it() {
    let (dns, (port, _servers)) = (Dns::start(), servers(3));
    dns.says("cloud.test", hosts(1, &[1, 2]));
    let front = Front::start_unproven(config(&dns, "cloud.test", Some(port)));
    until(&front, &["127.0.0.1", "127.0.0.2"], true);
    assert_eq!(front.get("/api/v1/vm").text(), "here");
    dns.says("cloud.test", hosts(1, &[2, 3]));
    until(&front, &["127.0.0.2", "127.0.0.3"], true);
    assert!(front.metrics().contains(r#"switchyard_proxy_discovered_upstreams{service="pool"} 2"#));
    // Whatever goes wrong with the name takes nobody away.
    for (say, name) in [(Say::NoName, "NoName"), (Say::Fail, "Fail"), (hosts(1, &[]), "Empty")] {
        dns.says("cloud.test", say);
        front::eventually(name, || !pool(&front).1);
        assert_eq!(pool(&front).0, ["127.0.0.2", "127.0.0.3"], "{name}");
        dns.says("cloud.test", hosts(1, &[2, 3]));
        until(&front, &["127.0.0.2", "127.0.0.3"], true);
    }
    dns.says("cloud.test", Say::Silence);
    front::eventually("Silence", || !pool(&front).1);
    assert_eq!(front.get("/api/v1/vm").text(), "here");
    dns.says("cloud.test", hosts(1, &[1]));
    until(&front, &["127.0.0.1"], true);
}

#[test]
fn a_held_request_goes_to_a_server_that_was_found_meanwhile() {
    let (dns, (port, mut servers)) = (Dns::start(), servers(2));
    dns.says("cloud.test", hosts(1, &[1]));
    let front = Front::start_unproven(config(&dns, "cloud.test", Some(port)));
    until(&front, &["127.0.0.1"], true);
    drop(servers.remove(0));
    let address = front.address;
    let write = std::thread::spawn(move || {
        crate::raw::ask(address, &crate::raw::with_body("POST", "/api/v1/vm", "", "{}"))
    });
    front.wait_until("it is held", |view| view.services[0].held == 1);
    dns.says("cloud.test", hosts(1, &[1, 2]));
    assert_eq!(write.join().unwrap().text(), "here");
    front.wait_until("nobody is held", |view| view.services[0].held == 0);
}

#[test]
fn services_of_a_name_have_ports_of_their_own() {
    let dns = Dns::start();
    let servers: Vec<Upstream> = (0..3).map(|_| Upstream::start(|_| ok("here"))).collect();
    let target = |priority, at: usize| (priority, servers[at].address.port(), "one.test".to_owned());
    dns.says("one.test", hosts(60, &[1]));
    dns.says("_cloud._tcp.test", Say::Services(1, vec![target(5, 0), target(5, 1), target(9, 2)]));
    let front = Front::start_unproven(config(&dns, "_cloud._tcp.test", None));
    let ports = || -> Vec<u16> {
        let upstreams = front.view().services.remove(0).upstreams;
        let mut ports: Vec<u16> =
            upstreams.iter().map(|u| u.address.rsplit_once(':').unwrap().1.parse().unwrap()).collect();
        ports.sort_unstable();
        ports
    };
    let mut wanted = vec![servers[0].address.port(), servers[1].address.port()];
    wanted.sort_unstable();
    front::eventually("both of the lowest priority", || ports() == wanted);
    dns.says("_cloud._tcp.test", Say::Services(1, vec![target(9, 2)]));
    front::eventually("the only one there is", || ports() == [servers[2].address.port()]);
}
