//! Two proxies in front of the same servers tie a client to the same one, without talking to each other: by its address, by a
//! header and by a cookie. One of them has its servers in another order, is restarted, and has one ejected that the other has not.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    raw::{Answer, Wire},
    rig::{text, until},
    support::{place::Place, process::Process},
    upstream::{Seen, Upstream, ok},
};

const NAMES: [&str; 4] = ["s1", "s2", "s3", "s4"];

/// The ways in which a client is tied, each a service and a front of its own.
const WAYS: [&str; 3] = ["address", "header", "cookie"];

/// Requests with this line fail at this server.
fn sick(name: &str) -> String {
    format!("X-Sick: {name}\r\n")
}

struct Proxy {
    fronts: [SocketAddr; 3],
    admin: SocketAddr,
    process: Process,
}

struct Two {
    a: Proxy,
    b: Proxy,
    _servers: Vec<Upstream>,
    _place: Place,
}

impl Two {
    fn start(name: &str) -> Self {
        let place = Place::new(name);
        let server = |name: &'static str| {
            Upstream::start(move |seen: &Seen| match seen.head.get("x-sick") {
                Some(sick) if sick == name => "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n".into(),
                _ => ok(name),
            })
        };
        let servers: Vec<Upstream> = NAMES.into_iter().map(server).collect();
        let mut taken = Vec::new();
        let mut free = || {
            let found = until("a free port", || Some(place.address()).filter(|at| !taken.contains(at)));
            taken.push(found);
            found
        };
        // The same names and weights, in another order: as discovery may find them.
        let [a, b] = [("a", [0, 1, 2, 3]), ("b", [2, 0, 3, 1])].map(|(name, order)| {
            let (fronts, admin) = (WAYS.map(|_| free()), free());
            let upstreams = order.map(|at| {
                let weight = if at == 3 { 2 } else { 1 };
                format!(
                    "{{ name = \"{}\", address = \"{}\", weight = {weight} }}",
                    NAMES[at], servers[at].address
                )
            });
            let service = |(way, front): (&str, &SocketAddr)| {
                let named = if way == "header" { ", name = \"X-Client\"" } else { "" };
                format!(
                    "[[listener]]\nname = \"{way}\"\nbind = [\"{front}\"]\nservice = \"{way}\"\n[service.{way}]\n\
                     kind = \"controller\"\nbalance = \"round-robin\"\nsticky = {{ by = \"{way}\"{named} }}\n\
                     upstreams = [{}]\n[service.{way}.passive]\nfailures = 3\nejection = \"30s\"\n\
                     [service.{way}.health]\nkind = \"tcp\"\ninterval = \"200ms\"\n",
                    upstreams.join(", ")
                )
            };
            let services: String = WAYS.into_iter().zip(&fronts).map(service).collect();
            let config = format!(
                "[proxy]\nthreads = 1\nrun_dir = \"{}\"\n[admin]\nlisten = \"{admin}\"\n[log]\naccess = \"off\"\n{services}",
                place.dir().join(format!("run-{name}")).display()
            );
            let file = place.write(&format!("{name}.toml"), &config);
            let process = Process::start(&place, name, &["proxy", "-c", text(&file)]);
            Proxy { fronts, admin, process }
        });
        let two = Self { a, b, _servers: servers, _place: place };
        two.a.up();
        two.b.up();
        two
    }
}

impl Proxy {
    fn view(&self) -> Option<Value> {
        let tcp = std::net::TcpStream::connect(self.admin).ok()?;
        Some(Wire::new(tcp).ask("GET /admin/v1/upstreams HTTP/1.1\r\nHost: a\r\n\r\n").ok()?.json())
    }

    fn upstreams(&self) -> Option<Vec<Value>> {
        let view = self.view()?;
        let all = view["services"].as_array()?.iter().flat_map(|service| service["upstreams"].as_array());
        Some(all.flatten().cloned().collect())
    }

    fn up(&self) {
        until("all are up", || {
            let all = self.upstreams()?;
            (all.len() == 12 && all.iter().all(|one| one["health"] == "up")).then_some(())
        });
    }

    fn ejected(&self) -> usize {
        self.upstreams().unwrap().iter().filter(|one| !one["ejected"].is_null()).count()
    }

    fn ask(&self, way: usize, client: &Client, more: &str) -> Answer {
        client
            .wire(self.fronts[way])
            .ask(&format!("GET /api/v1/vm HTTP/1.1\r\nHost: a\r\n{more}\r\n"))
            .unwrap()
    }

    /// Which server it is sent to.
    fn server(&self, way: usize, client: &Client) -> String {
        let answer = self.ask(way, client, &client.tie(way));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        assert!(answer.head.get("set-cookie").is_none(), "it has a cookie of this service");
        answer.text()
    }

    /// Where all clients of all ways are sent.
    fn all(&self, clients: &[Client]) -> Vec<String> {
        let ways = (0..WAYS.len()).flat_map(|way| clients.iter().map(move |client| (way, client)));
        ways.map(|(way, client)| self.server(way, client)).collect()
    }
}

struct Client {
    number: u8,
    cookie: String,
}

impl Client {
    fn wire(&self, to: SocketAddr) -> Wire {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tcp = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 9, self.number], 0).into()).unwrap();
            socket.connect(to).await.unwrap().into_std().unwrap()
        });
        tcp.set_nonblocking(false).unwrap();
        Wire::new(tcp)
    }

    fn tie(&self, way: usize) -> String {
        match WAYS[way] {
            "header" => format!("X-Client: {}\r\n", self.number),
            "cookie" => format!("Cookie: x=y; {}\r\n", self.cookie),
            _ => String::new(),
        }
    }
}

#[test]
fn both_tie_a_client_to_the_same_server_in_any_order_after_a_restart_and_but_for_what_one_has_ejected() {
    let mut two = Two::start("agreement");
    // Cookies are given by one proxy and read by the other.
    let given = |number| {
        let (by, name) =
            (if number % 2 == 0 { &two.a } else { &two.b }, Client { number, cookie: String::new() });
        let answer = by.ask(2, &name, "");
        let cookie = answer.head.get("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        Client { number, cookie }
    };
    let clients: Vec<Client> = (1..=16).map(given).collect();
    let before = two.a.all(&clients);
    assert_eq!(before, two.b.all(&clients));
    for (way, of) in before.chunks(clients.len()).enumerate() {
        assert!(NAMES.iter().all(|name| of.iter().any(|one| one == name)), "{}: {of:?}", WAYS[way]);
    }

    two.b.process.kill();
    two.b.process.spawn();
    two.b.up();
    assert_eq!(two.b.all(&clients), before, "nothing was remembered, and nothing has to be");

    // One of them sees `s2` fail, and the other does not.
    for (way, of) in before.chunks(clients.len()).enumerate() {
        let mine = clients.iter().zip(of).find(|(_, server)| *server == "s2").unwrap().0;
        let other = clients.iter().zip(of).find(|(_, server)| *server != "s2").unwrap().0;
        until("it is ejected", || {
            two.a.ask(way, mine, &(mine.tie(way) + &sick("s2")));
            two.a.server(way, other);
            (two.a.ejected() == way + 1).then_some(())
        });
    }
    assert_eq!(two.b.ejected(), 0);
    let (at_a, at_b) = (two.a.all(&clients), two.b.all(&clients));
    assert_eq!(at_b, before);
    for (now, before) in at_a.iter().zip(&before) {
        assert_ne!(now, "s2");
        assert!(now == before || before == "s2", "{before} has not failed, and its client moved to {now}");
    }

    // The other one ejects it as well: those that stand in are the same ones.
    for (way, of) in before.chunks(clients.len()).enumerate() {
        let mine = clients.iter().zip(of).find(|(_, server)| *server == "s2").unwrap().0;
        let other = clients.iter().zip(of).find(|(_, server)| *server != "s2").unwrap().0;
        until("it is ejected", || {
            two.b.ask(way, mine, &(mine.tie(way) + &sick("s2")));
            two.b.server(way, other);
            (two.b.ejected() == way + 1).then_some(())
        });
    }
    assert_eq!(two.b.all(&clients), at_a);
}
