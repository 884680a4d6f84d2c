//! What a handshake costs a server, without its HTTP: one client goes through one before every call.
//!
//! `hand` draws a secret and encrypts it to the key's holder, with the key as it is stored; `shake` checks one and makes a
//! session; `session` is what every request with a session pays.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use switchyard::{
    auth::seal::Sealer,
    tls::rsa::{self, PublicKey},
};

const NOW: u64 = 1_790_000_000;

fn handshake(bench: &mut Criterion) {
    let sealer = Sealer::derive("0123456789abcdef", "controller");
    let (_, public) = rsa::generate().expect("a key can be made");
    let (generation, nonce) = ([1; 16], [2; 8]);
    let mut group = bench.benchmark_group("auth");
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("hand", |run| {
        run.iter(|| {
            let key = PublicKey::of(black_box(&public)).expect("it is one");
            key.encrypt(sealer.secret("ci-bot", &generation, NOW, &nonce).as_bytes())
        });
    });
    let secret = sealer.secret("ci-bot", &generation, NOW, &nonce);
    group.bench_function("shake", |run| {
        run.iter(|| {
            sealer.opened(black_box(&secret), "ci-bot", &generation, NOW).expect("it is good");
            sealer.token("ci-bot", "2e55c0de-0b0e-4a1d-41aa-6f00ba4f00ba", &generation, NOW + 300)
        });
    });
    let token = sealer.token("ci-bot", "s", &generation, NOW + 300);
    group.bench_function("session", |run| run.iter(|| sealer.session(black_box(&token), "ci-bot", "s", NOW)));
    group.bench_function("make a key", |run| run.iter(rsa::generate));
    group.finish();
}

criterion_group!(benches, handshake);
criterion_main!(benches);
