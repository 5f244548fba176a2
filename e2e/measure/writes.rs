//! What the API server is asked to write, and has to send to who watches: for one pod's change in a policy of many peers,
//! and for one label's change that many policies feel.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::json;

use crate::agents::{self, within};
use crate::cluster::{Cluster, PATIENCE, Space, apply, policy};
use crate::failover::endpoint_kind;
use crate::fake_pods;
use crate::report::{Limit, Report, setting};

/// As long as no further object is written, all are.
const QUIET: Duration = Duration::from_secs(3);
/// What a slice of peers may come to, with room for the object around it.
const SLICE: f64 = 200_000.0;

#[derive(Debug, Default)]
struct Written {
    objects: u64,
    bytes: u64,
    last: Duration,
}

impl Written {
    fn report(&self, report: &mut Report, change: &str, most: f64) {
        report.count(
            format!("{change}: objects written"),
            self.objects,
            Limit::AtMost(most),
        );
        report.count(
            format!("{change}: their bytes as JSON, to each watcher"),
            self.bytes,
            Limit::AtMost(SLICE * most),
        );
        report.figure(
            format!("{change}: until the last was seen"),
            self.last.as_secs_f64() * 1000.0,
            "ms",
            Limit::None,
        );
    }
}

/// What a watch of the space's endpoints sees of a change.
fn watched(space: &Space, change: impl Future<Output = ()>) -> Written {
    let client = space.cluster.client.clone();
    let api = Api::<DynamicObject>::namespaced_with(client, &space.name, &endpoint_kind());
    space.cluster.block_on(async {
        let now = api.list(&ListParams::default()).await.expect("endpoints");
        let version = now.metadata.resource_version.expect("a version");
        let events = api
            .watch(&WatchParams::default().timeout(290), &version)
            .await
            .expect("a watch");
        let mut events = events.boxed();
        let since = Instant::now();
        change.await;
        let mut written = Written::default();
        while let Ok(event) = tokio::time::timeout(QUIET, events.try_next()).await {
            match event.expect("a watch") {
                Some(
                    WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object),
                ) => {
                    written.objects += 1;
                    written.bytes += serde_json::to_string(&object).expect("it was JSON").len() as u64;
                    written.last = since.elapsed();
                }
                Some(_) => {}
                None => break,
            }
        }
        written
    })
}

#[test]
fn few_objects_are_written() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let peers = u32::try_from(setting("PALISADE_E2E_SLICED_PEERS", 2000)).expect("a count of pods");
    let policies = setting("PALISADE_E2E_TOUCHED_POLICIES", 50);
    agents::agents(&cluster);
    let space = cluster.space("writes");
    fake_pods::create(&space, 0..peers, |_| json!({ "app": "peer" }));
    fake_pods::create(&space, peers..peers + 1, |_| json!({ "app": "server" }));
    let api = space.api::<NetworkPolicy>();
    cluster.block_on(async {
        apply(&api, "many-peers", &policy("many-peers", &spec("peer", 80))).await;
        for number in 0..policies {
            let name = format!("touched-{number}");
            let port = 1000 + number;
            apply(&api, &name, &policy(&name, &spec("moved", port))).await;
        }
    });
    let endpoints =
        Api::<DynamicObject>::namespaced_with(cluster.client.clone(), &space.name, &endpoint_kind());
    within(PATIENCE, "all is published", || {
        let list = cluster.block_on(endpoints.list(&ListParams::default())).ok()?;
        let text = serde_json::to_string(&list.items).expect("it was JSON");
        let last = format!("\"{}\"", fake_pods::address(peers - 1));
        (text.contains(&last) && list.items.len() as u64 > policies).then_some(())
    });
    watched(&space, std::future::ready(()));

    let mut report = Report::new("writes");
    report.count("peers of the policy", peers.into(), Limit::None);
    let added = watched(&space, async {
        fake_pods::create_one(&space.api(), peers + 1, json!({ "app": "peer" })).await;
    });
    added.report(&mut report, "one pod more", 1.0);
    let removed = watched(&space, fake_pods::delete(&space, peers + 1));
    removed.report(&mut report, "one pod less", 1.0);
    report.count("policies that a label touches", policies, Limit::None);
    let label = fake_pods::label(&space, 0, "role", "moved");
    let most = f64::from(u32::try_from(policies).expect("few"));
    watched(&space, label).report(&mut report, "that label of one pod", most);
    report.finish();
}

fn spec(of: &str, port: u64) -> serde_json::Value {
    let key = if of == "moved" { "role" } else { "app" };
    json!({
        "podSelector": { "matchLabels": { "app": "server" } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { key: of } } }], "ports": [{ "protocol": "TCP", "port": port }] }],
    })
}
