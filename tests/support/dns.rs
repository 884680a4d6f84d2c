//! A name server on loopback that says what a test tells it to.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// What it says to a name.
#[derive(Debug, Clone)]
pub enum Say {
    /// These addresses, good for so many seconds.
    Hosts(u32, Vec<Ipv4Addr>),
    /// These targets: priority, port, name.
    Services(u32, Vec<(u16, u16, String)>),
    /// There is no such name.
    NoName,
    /// It cannot say.
    Fail,
    /// Nothing at all.
    Silence,
}

/// A running name server. Ends when dropped.
pub struct Dns {
    pub address: SocketAddr,
    says: Arc<Mutex<BTreeMap<String, Say>>>,
    stop: Arc<AtomicBool>,
}

impl Dns {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let address = socket.local_addr().expect("an address");
        let (says, stop) = (Arc::<Mutex<BTreeMap<String, Say>>>::default(), Arc::<AtomicBool>::default());
        let (known, stopped) = (says.clone(), stop.clone());
        thread::spawn(move || {
            let mut question = [0; 1500];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                let answer = answer(&question[..length], &known.lock().expect("whole"));
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).ok();
                }
            }
        });
        Self { address, says, stop }
    }

    /// From now on; names without the dot at the end.
    pub fn says(&self, name: &str, say: Say) {
        self.says.lock().expect("whole").insert(name.to_owned(), say);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// RFC 1035, section 4.1.
fn answer(question: &[u8], says: &BTreeMap<String, Say>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while let Some(length @ 1..) = question.get(at).map(|length| usize::from(*length)) {
        labels.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_lowercase());
        at += length + 1;
    }
    let end = at + 5;
    let kind = u16::from_be_bytes([*question.get(at + 1)?, *question.get(at + 2)?]);
    let say = says.get(&labels.join(".")).cloned().unwrap_or(Say::NoName);
    let (code, records): (u8, Vec<(u32, Vec<u8>)>) = match (say, kind) {
        (Say::Silence, _) => return None,
        (Say::Fail, _) => (2, Vec::new()),
        (Say::NoName, _) => (3, Vec::new()),
        (Say::Hosts(ttl, all), 1) => (0, all.iter().map(|ip| (ttl, ip.octets().to_vec())).collect()),
        (Say::Services(ttl, all), 33) => (0, all.iter().map(|one| (ttl, target(one))).collect()),
        _ => (0, Vec::new()),
    };
    let mut out = question.get(..2)?.to_vec();
    out.extend([0x85, 0x80 | code, 0, 1]);
    out.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(question.get(12..end)?);
    for (ttl, data) in records {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

fn target((priority, port, name): &(u16, u16, String)) -> Vec<u8> {
    let mut out = priority.to_be_bytes().to_vec();
    out.extend([0, 0]);
    out.extend(port.to_be_bytes());
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or_default());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}
