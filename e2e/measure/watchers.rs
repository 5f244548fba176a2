//! What a change sends to those that watch, agents with a subject on each node among them: by the counts of leader and API
//! server, and by a watch of our own.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::agents::{self, Metrics};
use crate::cluster::{Cluster, PATIENCE, Space};
use crate::endpoints::{Cost, Endpoints, Published};
use crate::fake_pods;
use crate::report::{Limit, Report, setting};

const POLICIES: u32 = 50;
/// How long what is written needlessly may come after what is needed.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// By the leader's own count.
const BYTES_WRITTEN: &str = "palisade_endpoint_bytes_written_total";

#[test]
fn what_agents_are_sent() {
    let Some(cluster) = Cluster::connect() else {
        return;
    };
    let peers = u32::try_from(setting("PALISADE_E2E_SLICED_PEERS", 2000)).expect("a count of pods");
    let changes = u32::try_from(setting("PALISADE_E2E_MOVES", 20)).expect("few");
    agents::agents(&cluster);
    let space = cluster.space("watchers");
    // A subject on each node, so that each agent watches this namespace.
    let [(one, _), (two, _)] = &cluster.nodes;
    space.pods(&[("web-1", one, "web"), ("web-2", two, "web")]);
    fake_pods::create(&space, 0..peers, |_| json!({ "app": "peer" }));
    space.policy("peers", &allow_from("peer"));
    for number in 0..POLICIES {
        space.policy(&special(number), &allow_from("special"));
    }
    let mut endpoints = Endpoints::of(&cluster, &space.name);
    let all = usize::try_from(peers).expect("a count");
    let published = endpoints.until(PATIENCE, |now| {
        now.sources("peers").count() == all && (0..POLICIES).all(|n| now.slices(&special(n)).count() == 1)
    });
    assert!(
        published.is_some(),
        "the policies were not published in {PATIENCE:?}"
    );
    endpoints.during(STRAGGLERS);
    let slices = endpoints.now.slices("peers").count();

    let mut one_pod = Cost::default();
    let (server, leader) = (sent(&cluster), leader_metrics(&cluster));
    for change in 0..changes {
        let moved = fake_pods::address(peers + change).to_string();
        let gone = if change == 0 {
            fake_pods::address(0).to_string()
        } else {
            fake_pods::address(peers + change - 1).to_string()
        };
        readdress(&space, 0, &moved);
        one_pod += follow(&mut endpoints, "the new address", |now| {
            let has = |address: &str| now.sources("peers").any(|source| source == address);
            has(&moved) && !has(&gone)
        });
    }
    let (server, leader) = (
        sent(&cluster) - server,
        leader_metrics(&cluster).sum(BYTES_WRITTEN) - leader.sum(BYTES_WRITTEN),
    );

    let last = fake_pods::address(1).to_string();
    cluster.block_on(fake_pods::label(&space, 1, "app", "special"));
    let label = follow(&mut endpoints, "the new label", |now| {
        !now.sources("peers").any(|source| source == last)
            && (0..POLICIES).all(|n| now.sources(&special(n)).any(|source| source == last))
    });

    let mut report = Report::new("watchers");
    let per_change = |total: f64| total / f64::from(changes);
    report.count("peers of the policy", peers.into(), Limit::None);
    report.count("its slices", u64::try_from(slices).expect("a count"), Limit::None);
    report.count(
        "changes of one pod's address",
        changes.into(),
        Limit::AtLeast(1.0),
    );
    // The slice that loses the old address, and the one that gains the new.
    report.figure(
        "objects written for each",
        per_change(exact(one_pod.written)),
        "",
        Limit::AtMost(2.0),
    );
    report.count("objects deleted", one_pod.deleted, Limit::AtMost(0.0));
    report.figure(
        "bytes to each watcher for each",
        per_change(exact(one_pod.bytes)),
        "B",
        Limit::None,
    );
    report.figure(
        "bytes written for each, as the leader counts",
        per_change(leader),
        "B",
        Limit::None,
    );
    if server > 0.0 {
        let others = server - exact(one_pod.bytes);
        report.figure(
            "bytes to all watchers for each, without ours",
            per_change(others),
            "B",
            Limit::None,
        );
    }
    report.count(
        "policies that one label change touches",
        u64::from(POLICIES) + 1,
        Limit::None,
    );
    report.count(
        "objects written for it",
        label.written,
        Limit::AtMost(f64::from(POLICIES + 1)),
    );
    report.count("objects deleted for it", label.deleted, Limit::AtMost(0.0));
    report.count("bytes to each watcher for it", label.bytes, Limit::None);
    report.finish();
}

/// The cost of a change until `condition` holds, and of what follows needlessly.
fn follow(endpoints: &mut Endpoints, what: &str, condition: impl FnMut(&Published) -> bool) -> Cost {
    let cost = endpoints.until(PATIENCE, condition);
    let mut cost = cost.unwrap_or_else(|| panic!("{what}: not published in {PATIENCE:?}"));
    cost += endpoints.during(STRAGGLERS);
    cost
}

fn special(number: u32) -> String {
    format!("special-{number}")
}

fn allow_from(app: &str) -> Value {
    json!({
        "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
        "ingress": [{
            "from": [{ "podSelector": { "matchLabels": { "app": app } } }],
            "ports": [{ "protocol": "TCP", "port": 8080 }],
        }],
    })
}

fn readdress(space: &Space, number: u32, address: &str) {
    let status = Patch::Merge(json!({ "status": { "podIP": address, "podIPs": [{ "ip": address }] } }));
    let name = fake_pods::name(number);
    let pods = space.api::<k8s_openapi::api::core::v1::Pod>();
    let patched = space
        .cluster
        .block_on(pods.patch_status(&name, &PatchParams::default(), &status));
    patched.unwrap_or_else(|e| panic!("{name}: {e}"));
}

fn leader_metrics(cluster: &Cluster) -> Metrics {
    agents::leader(cluster).metrics()
}

/// Bytes of PolicyEndpoints that the API server says it has sent to watchers, ours among them. 0 where it does not count them.
fn sent(cluster: &Cluster) -> f64 {
    let request = axum::http::Request::get("/metrics")
        .body(Vec::new())
        .expect("a request");
    let text = cluster
        .block_on(cluster.client.request_text(request))
        .unwrap_or_default();
    sent_by(&text)
}

fn sent_by(text: &str) -> f64 {
    let of_endpoints = |series: &str| {
        series.starts_with("apiserver_watch_events_sizes_sum")
            && ["\"policyendpoints\"", "\"PolicyEndpoint\""]
                .iter()
                .any(|name| series.contains(name))
    };
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let values = lines
        .filter(|(series, _)| of_endpoints(series))
        .filter_map(|(_, value)| value.parse::<f64>().ok());
    values.sum()
}

/// Counts stay exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn exact(count: u64) -> f64 {
    count as f64
}

#[test]
fn only_what_is_sent_of_policy_endpoints_counts() {
    let text = "\
# TYPE apiserver_watch_events_sizes histogram
apiserver_watch_events_sizes_sum{group=\"networking.k8s.aws\",resource=\"policyendpoints\",version=\"v1alpha1\"} 1200
apiserver_watch_events_sizes_count{group=\"networking.k8s.aws\",resource=\"policyendpoints\",version=\"v1alpha1\"} 3
apiserver_watch_events_sizes_sum{group=\"networking.k8s.aws\",resource=\"clusterpolicyendpoints\",version=\"v1alpha1\"} 50
apiserver_watch_events_sizes_sum{group=\"\",resource=\"pods\",version=\"v1\"} 9000
";
    assert!((sent_by(text) - 1200.0).abs() < f64::EPSILON);
    assert!(sent_by("").abs() < f64::EPSILON);
}
