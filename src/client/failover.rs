//! Several base URLs, tried in turn: the one that answered last is asked first.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::config::BaseUrl;

/// An HTTP client with these limits. No redirects: none of the APIs redirects, and a redirect could lead
/// credentials elsewhere.
pub fn http_client(connect: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .connect_timeout(connect)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(60))
        .build()
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
    }
}
