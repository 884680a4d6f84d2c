//! Asks DNS for the servers behind a name, again when what it said is too old.

use std::{
    collections::BTreeSet,
    future::pending,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, Record, RecordType},
};

use super::Teller;
use crate::{
    config::{
        Address,
        proxy::{Dns, Upstream},
    },
    model::UpstreamName,
};

/// An answer is good for its TTL, but never for less: a zone with a TTL of 0 would be asked without end.
const SHORTEST: Duration = Duration::from_secs(1);

/// Nor for more: who comes is to be found within a coffee.
const LONGEST: Duration = Duration::from_secs(300);

/// After a failure it is asked again so soon.
const AGAIN: Duration = Duration::from_secs(2);

/// For one question to one name server, and how often it is put.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

/// Targets of one service name whose addresses are asked for.
const TARGETS: usize = 64;

/// Asks until it is dropped.
pub(super) async fn watch(dns: &Dns, most: usize, teller: &Teller) {
    let resolver = match resolver(dns.resolver) {
        Ok(resolver) => resolver,
        Err(why) => {
            // A config that cannot be used stays so until the proxy is started again.
            teller.stands(Some(&format!("no resolver: {why}")));
            return pending().await;
        }
    };
    loop {
        let pause = match ask(&resolver, dns).await {
            Ok((found, ttl)) => {
                teller.stands(None);
                teller.tell(upstreams(found, most, &teller.service));
                ttl.clamp(SHORTEST, LONGEST)
            }
            // A name that is not there is a failure like any other: records are deleted by mistake, and whoever was there
            // is still probed.
            Err(why) => {
                teller.stands(Some(&why));
                AGAIN
            }
        };
        // A little early or late, so that many proxies do not ask at once.
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
    }
}

fn resolver(at: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let mut builder = match at {
        None => TokioResolver::builder_tokio().map_err(|error| error.to_string())?,
        Some(at) => {
            let mut server = NameServerConfig::udp_and_tcp(at.ip());
            for connection in &mut server.connections {
                connection.port = at.port();
            }
            let mut config = ResolverConfig::default();
            config.name_servers = vec![server];
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    // It is asked when the last answer is too old, so nothing is kept twice.
    options.cache_size = 0;
    options.timeout = PATIENCE;
    options.attempts = TRIES;
    builder.build().map_err(|error| error.to_string())
}

/// Every address with its port, and for how long that is good.
async fn ask(resolver: &TokioResolver, dns: &Dns) -> Result<(BTreeSet<(IpAddr, u16)>, Duration), String> {
    let Some(port) = dns.port else { return service(resolver, &dns.name).await };
    let (found, ttl) = host(resolver, &dns.name).await?;
    Ok((found.into_iter().map(|ip| (ip, port)).collect(), ttl))
}

async fn host(resolver: &TokioResolver, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
    let found = resolver.lookup_ip(name).await.map_err(|error| error.to_string())?;
    Ok((found.iter().collect(), ttl(found.as_lookup().answers())))
}

/// RFC 2782: of its targets, those of the lowest priority.
async fn service(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(BTreeSet<(IpAddr, u16)>, Duration), String> {
    let found = resolver.lookup(name, RecordType::SRV).await.map_err(|error| error.to_string())?;
    let of = |record: &Record| match &record.data {
        RData::SRV(srv) => Some((srv.priority, srv.port, srv.target.to_utf8())),
        _ => None,
    };
    let targets: BTreeSet<(u16, u16, String)> = found.answers().iter().filter_map(of).collect();
    let lowest = targets.first().map(|(priority, ..)| *priority);
    let (mut all, mut good, mut failed) = (BTreeSet::new(), ttl(found.answers()), None);
    let first = targets.iter().filter(|(priority, ..)| Some(*priority) == lowest);
    for (_, port, target) in first.take(TARGETS) {
        match host(resolver, target).await {
            Ok((found, ttl)) => {
                all.extend(found.into_iter().map(|ip| (ip, *port)));
                good = good.min(ttl);
            }
            // Half a list would take away who is behind the other half.
            Err(why) => failed = Some(format!("{target}: {why}")),
        }
    }
    match failed {
        Some(why) => Err(why),
        None => Ok((all, good)),
    }
}

fn ttl(records: &[Record]) -> Duration {
    Duration::from_secs(records.iter().map(|record| u64::from(record.ttl)).min().unwrap_or_default())
}

/// Each by its address, as one in the config that has no name.
fn upstreams(found: BTreeSet<(IpAddr, u16)>, most: usize, service: &str) -> Vec<Upstream> {
    let usable = |(ip, port): &(IpAddr, u16)| *port != 0 && !ip.is_unspecified() && !ip.is_multicast();
    let all: Vec<_> = found.into_iter().filter(usable).collect();
    if all.len() > most {
        tracing::warn!(
            service.name = service,
            found = all.len(),
            most,
            "more upstreams were found than are taken"
        );
    }
    let one = |(ip, port): (IpAddr, u16)| {
        let address = Address { host: ip.to_canonical().to_string(), port };
        let name = UpstreamName::parse(address.to_string().replace([':', '[', ']'], "-")).ok()?;
        Some(Upstream::plain(name, address))
    };
    all.into_iter().take(most).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_connected_to_is_left_out_and_no_more_than_so_many_are_taken() {
        let found =
            ["10.0.0.2:80", "10.0.0.1:80", "0.0.0.0:80", "224.0.0.1:80", "10.0.0.1:0", "[fd00::1]:80"];
        let found: BTreeSet<_> = found
            .iter()
            .map(|text| text.parse::<SocketAddr>().unwrap())
            .map(|a| (a.ip(), a.port()))
            .collect();
        let names = |most| -> Vec<String> {
            upstreams(found.clone(), most, "s").iter().map(|one| one.name.to_string()).collect()
        };
        assert_eq!(names(8), ["10.0.0.1-80", "10.0.0.2-80", "-fd00--1--80"]);
        assert_eq!(names(1), ["10.0.0.1-80"]);
    }
}
