//! Callers whose certificates a proxy in front has seen: `reference/authentication.md` §3, as rows.

use serde_json::json;
use switchyard::{
    config::{
        auth::{Auth, Certificates},
        proxy::Network,
    },
    tls::{Callers, Trust},
};

use crate::{
    auth::{TOKEN, asked, basic, refused},
    certificates::{self, Authority, Wanted},
    cloud::{Cloud, PATIENCE, Plan, raw},
    support::api::Answer,
};

/// As nginx encodes it.
fn escaped(pem: &str) -> String {
    pem.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// What a proxy says of a good certificate.
fn verified(cert: &str) -> [(&str, &str); 2] {
    [("ssl-client-verify", "SUCCESS"), ("ssl-client-cert", cert)]
}

async fn status(cloud: &Cloud, headers: &[(&str, &str)]) -> Answer {
    raw(cloud.api(), "GET", "/api/v1/status", "", headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_word_counts_only_if_it_is_named_and_the_certificate_is_good_here_too() {
    let place = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
    let file = certificates::write(place.path(), "ca.pem", &ca.cert());
    let crl = certificates::write(place.path(), "ca.crl", &ca.list(&[], 30));
    let callers = Callers::load(Trust { ca: file, crl: Some(crl) }).unwrap();
    let plan = |from: &str, bits: u8| {
        let trusted = vec![Network { address: from.parse().unwrap(), bits }];
        let certificates = Some(Certificates { callers: callers.clone(), trusted, signed: None });
        Plan { auth: Auth { certificates, ..asked() }, ..Plan::default() }
    };
    let cloud = Cloud::planned(plan("127.0.0.1", 32)).await;
    let good = ca.subject(&[("CN", "ci"), ("O", "builders")]);
    let (good, forged) = (escaped(&good), escaped(&other.subject(&[("CN", "ci"), ("O", "builders")])));
    let (good, forged) = (good.as_str(), forged.as_str());
    assert_eq!(status(&cloud, &verified(good)).await.status, 200);
    for (verify, cert) in [
        ("NONE", good),
        ("FAILED:certificate revoked", good),
        ("success", good),
        ("", good),
        ("SUCCESS", forged),
        ("SUCCESS", ""),
        ("SUCCESS", "x"),
        ("SUCCESS", "%0"),
        ("SUCCESS", &good[..good.len() / 2]),
    ] {
        refused(&status(&cloud, &[("ssl-client-verify", verify), ("ssl-client-cert", cert)]).await);
    }
    for nameless in [&[("CN", "ci")][..], &[("O", "builders")]] {
        refused(&status(&cloud, &verified(&escaped(&ca.subject(nameless)))).await);
    }
    let server = ca.make(&Wanted { cn: "front", ..Wanted::default() }).cert;
    refused(&status(&cloud, &verified(&escaped(&server))).await);
    refused(&status(&cloud, &[("ssl-client-cert", good)]).await);
    refused(&status(&cloud, &[&verified(good)[..], &[("ssl-client-cert", good)]].concat()).await);
    refused(&status(&cloud, &[("ssl_client_verify", "SUCCESS"), ("ssl_client_cert", good)]).await);
    // What stands in `Authorization` goes first, for better and for worse.
    let (root, wrong) = (basic("root", TOKEN), basic("root", "wrong-token"));
    refused(&status(&cloud, &[&verified(good)[..], &[("authorization", &*wrong)]].concat()).await);
    assert_eq!(
        status(&cloud, &[&verified(forged)[..], &[("authorization", &*root)]].concat()).await.status,
        200
    );
    let body = json!({"id": "more", "ttl": 5, "groups": []}).to_string();
    assert_eq!(raw(cloud.api(), "POST", "/api/v1/apikey", &body, &verified(good)).await.status, 403);
    // Revoked from now on; then a list that is too old, with which nobody is believed but whoever has the token.
    let revoked = ca.make(&Wanted {
        cn: "gone",
        purpose: rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ..Wanted::default()
    });
    assert_eq!(status(&cloud, &verified(&escaped(&revoked.cert))).await.status, 200);
    let shown = escaped(&revoked.cert);
    let watch = cloud.api().http().get(format!("{}/switchyard/v1/watch", cloud.api().base()));
    let watch = verified(&shown).into_iter().fold(watch, |watch, (name, value)| watch.header(name, value));
    let watch = watch.send().await.unwrap();
    assert_eq!(watch.status(), 200);
    certificates::write(place.path(), "ca.crl", &ca.list(&[revoked.serial], 30));
    callers.refresh().unwrap();
    let told = tokio::time::timeout(PATIENCE, watch.text()).await.expect("the watch ends").unwrap();
    assert!(told.contains("\"why\":\"unauthorized\""), "{told}");
    refused(&status(&cloud, &verified(&escaped(&revoked.cert))).await);
    assert_eq!(status(&cloud, &verified(good)).await.status, 200);
    certificates::write(place.path(), "ca.crl", &ca.list(&[], -1));
    callers.refresh().unwrap();
    refused(&status(&cloud, &verified(good)).await);
    assert_eq!(status(&cloud, &[("authorization", &*root)]).await.status, 200);
    certificates::write(place.path(), "ca.crl", &ca.list(&[], 30));
    callers.refresh().unwrap();
    cloud.stop().await;

    let elsewhere = Cloud::planned(plan("10.0.0.0", 8)).await;
    refused(&status(&elsewhere, &verified(good)).await);
    assert_eq!(status(&elsewhere, &[("authorization", &*root)]).await.status, 200);
    elsewhere.stop().await;
}
