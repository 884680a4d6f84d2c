//! What was found, behind what the config lists. Pure.

use crate::config::{Address, proxy::Upstream};

/// The pool: what is listed, in its order, then what was found. And whom of those it has no place for, with the reason.
///
/// What is listed wins: nobody who may write to a source takes the name or the place of a server that an operator has
/// listed. `own` tells an address of this very proxy: forwarding to it would go round until sockets run out.
pub fn merge(
    listed: &[Upstream],
    found: &[Upstream],
    own: impl Fn(&Address) -> bool,
) -> (Vec<Upstream>, Vec<(Upstream, &'static str)>) {
    let (mut pool, mut refused) = (listed.to_vec(), Vec::new());
    for one in found {
        let taken = |pool: &[Upstream]| pool.iter().any(|other| other.name == one.name);
        let known = |pool: &[Upstream]| pool.iter().any(|other| other.address == one.address);
        // A listed one that is found as well is the listed one.
        if known(listed) {
            continue;
        }
        let why = if own(&one.address) {
            "it is a listener of this proxy"
        } else if taken(&pool) {
            "another upstream has its name"
        } else if known(&pool) {
            "another upstream has its address"
        } else {
            pool.push(one.clone());
            continue;
        };
        refused.push((one.clone(), why));
    }
    (pool, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UpstreamName;

    fn upstreams(text: &str) -> Vec<Upstream> {
        let one = |word: &str| {
            let (name, port) = word.split_once(':').unwrap();
            let address = format!("10.0.0.1:{port}").parse().unwrap();
            Upstream::plain(UpstreamName::parse(name).unwrap(), address)
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn what_is_listed_comes_first_and_wins() {
        let own = |address: &Address| address.port == 9;
        let (pool, refused) = merge(&upstreams("a:1 b:2"), &upstreams("c:3 a:4 x:2 d:3 me:9 e:5"), own);
        assert_eq!(pool, upstreams("a:1 b:2 c:3 e:5"));
        let refused: Vec<_> = refused.iter().map(|(one, why)| (one.name.as_str(), *why)).collect();
        let why = |word| format!("another upstream has its {word}");
        assert_eq!(refused[0], ("a", why("name").as_str()), "a stranger under the name of a listed one");
        assert_eq!(refused[1], ("d", why("address").as_str()));
        assert_eq!(refused[2], ("me", "it is a listener of this proxy"));
        assert_eq!(refused.len(), 3, "x is b");
    }
}
