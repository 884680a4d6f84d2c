//! What a running cloud exports is what the list of metrics says, and passes Prometheus' checker.

use std::collections::BTreeSet;

use serde_json::json;
use switchyard::telemetry::names;

use crate::{
    support::{
        api::Api,
        cloud::{Cloud, Plan, SOON},
        image::Image,
        outside,
        scrape::{self, Families},
    },
    turn,
};

async fn scraped(of: &Api, role: &str) -> Families {
    let answer = of.get("/metrics").await;
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let families = scrape::read(&answer.text);
    let faults = scrape::faults(&families);
    assert!(faults.is_empty(), "{role}: {faults:#?}");
    let build = families.get(names::BUILD_INFO.name).expect("it says what it is");
    assert_eq!(build.series[0].1["role"], role);
    assert_eq!(scrape::promtool(&answer.text), "", "promtool on the metrics of the {role}");
    families
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_exports_what_the_list_says() {
    let _turn = turn().await;
    let cloud = Cloud::start("metrics", &Plan::default()).await;
    let image = Image::write(&cloud.place.path("image"), 1, 2, 1);
    let template = cloud.push(&image, "mac/sonoma", "v1").await;
    let id = cloud.run(json!({ "vmid": template })).await.remove(0);
    cloud.reaches(&id, &["Started"], SOON).await;
    let copy = cloud.place.path("copy");
    let pulled =
        outside::pull(&cloud.place, &format!("{}/mac/sonoma:v1", cloud.registries_front), &copy).await;
    assert!(pulled.ok, "{}", pulled.err);
    assert_eq!(cloud.api.get("/api/v1/no-such-thing").await.status, 404);

    let mut seen = BTreeSet::new();
    seen.extend(scraped(&cloud.admin, "proxy").await.into_keys());
    seen.extend(scraped(&cloud.controllers[0].api(), "controller").await.into_keys());
    seen.extend(scraped(&cloud.registry.api(), "registry").await.into_keys());
    // Each room has its own, and the ones that a day without trouble brings are there.
    for name in [
        names::HTTP_REQUESTS,
        names::HTTP_SECONDS,
        names::CONTROLLER_POLLS,
        names::CONTROLLER_READY,
        names::CONTROLLER_INSTANCES,
        names::CONTROLLER_NODES,
        names::REGISTRY_RECEIVED,
        names::REGISTRY_SENT,
        names::REGISTRY_MANIFESTS,
        names::REGISTRY_FREE,
        names::PROXY_REQUESTS,
        names::PROXY_UPSTREAM_REQUESTS,
        names::PROXY_FIRST_BYTE,
        names::PROXY_UPSTREAM_UP,
        names::PROXY_UPSTREAM_OUTSTANDING,
        names::PROXY_HELD,
        names::PROXY_CONNECTIONS,
        names::PROXY_OLD_PROCESSES,
        names::CONFIG_GENERATION,
        names::CONFIG_RELOAD_OK,
    ] {
        assert!(seen.contains(name.name), "{} is nowhere: {seen:?}", name.name);
    }
}

/// The reader finds what is wrong; else the test above would pass for nothing.
#[test]
fn the_checker_sees_what_is_wrong() {
    let faults = |text: &str| scrape::faults(&scrape::read(text)).join("; ");
    let info = names::BUILD_INFO;
    let good = format!(
        "# HELP {0} {1}\n# TYPE {0} gauge\n{0}{{role=\"proxy\",version=\"1\"}} 1\n",
        info.name, info.help
    );
    assert_eq!(faults(&good), "");
    let wrong = [
        (good.replace("role=", "job="), "has labels"),
        (good.replace("gauge", "counter"), "_total"),
        (good.replace(info.help, "x"), "its help is"),
        (good.replace("build_info", "wait_ms"), "base unit"),
        (good.replace("build_info", "things_count"), "kept for histograms"),
        (format!("{good}{}\n", good.lines().last().expect("a sample")), "is there twice"),
    ];
    assert!(!scrape::promtool(&good.replace("build_info", "build_total")).is_empty(), "it is asked");
    for (text, expected) in wrong {
        let said = faults(&text);
        assert!(said.contains(expected), "{text}\n{said}");
    }
    let seconds = names::HTTP_SECONDS;
    let histogram = |buckets: &str| {
        format!(
            "# HELP {0} {1}\n# TYPE {0} histogram\n{2}",
            seconds.name,
            seconds.help,
            buckets.replace("NAME", seconds.name)
        )
    };
    let rises = "NAME_bucket{role=\"x\",le=\"1\"} 1\nNAME_bucket{role=\"x\",le=\"+Inf\"} 2\nNAME_sum{role=\"x\"} 3\nNAME_count{role=\"x\"} 2\n";
    assert_eq!(faults(&histogram(rises)), "");
    assert!(faults(&histogram(&rises.replace("} 1\n", "} 3\n"))).contains("do not rise"));
    assert!(
        faults(&histogram(&rises.replace("_count{role=\"x\"} 2", "_count{role=\"x\"} 5")))
            .contains("end with all")
    );
}
