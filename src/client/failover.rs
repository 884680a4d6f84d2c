//! Several base URLs, tried in turn: the one that answered last is asked first.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::{config::BaseUrl, tls};

/// An HTTP client with these limits. No redirects: none of the APIs redirects, and a redirect could lead
/// credentials elsewhere.
pub fn http_client(connect: Duration) -> Result<reqwest::Client, reqwest::Error> {
    builder(connect).tls_backend_preconfigured(tls::untrusting()).build()
}

/// What all of them have.
pub(super) fn builder(connect: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(connect)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(60))
}

/// The URLs and which one comes first.
#[derive(Debug)]
pub struct Failover {
    urls: Vec<BaseUrl>,
    first: AtomicUsize,
}

impl Failover {
    /// Over these, in this order at first.
    pub fn new(urls: Vec<BaseUrl>) -> Self {
        Self { urls, first: AtomicUsize::new(0) }
    }

    /// All of them, the preferred one first, each with its place.
    pub fn in_order(&self) -> impl Iterator<Item = (usize, &BaseUrl)> {
        let first = self.first.load(Ordering::Relaxed);
        let count = self.urls.len();
        (0..count).map(move |step| (first + step) % count).filter_map(|at| Some((at, self.urls.get(at)?)))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.urls.len()).unwrap_or(u32::MAX)
    }

    /// This one failed: if it came first, the next one does from now on.
    pub fn avoid(&self, place: usize) {
        let next = (place + 1) % self.urls.len().max(1);
        // Another call may have found one that answers meanwhile.
        self.first.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    /// This one answered: ask it first from now on.
    pub fn prefer(&self, place: usize) {
        self.first.store(place, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_that_answered_is_asked_first_and_the_others_stay_in_turn() {
        let urls = ["http://a", "http://b", "http://c"].map(|u| u.parse().unwrap()).to_vec();
        let failover = Failover::new(urls);
        let order = || failover.in_order().map(|(_, url)| url.to_string()).collect::<Vec<_>>();
        assert_eq!(order(), ["http://a", "http://b", "http://c"]);
        failover.prefer(2);
        assert_eq!(order(), ["http://c", "http://a", "http://b"]);
        failover.avoid(1);
        assert_eq!(order()[0], "http://c");
        failover.avoid(2);
        assert_eq!(order(), ["http://a", "http://b", "http://c"]);
    }
}
