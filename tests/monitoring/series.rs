//! In how many series many policies show.

use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use palisade::api::{Entry, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, Port};
use palisade::bpf::{Count, Map, Reason};
use palisade::compile::{Compiled, Endpoints, compile};
use palisade::model::{Cidr, Direction, ObjectId, Pod};
use palisade::node::sample_of;
use palisade::observe::{CounterSample, Counters, Detail, Flows, MapFill, Metrics, Outcome, Rule};
use prometheus_client::encoding::text::encode;

/// A node's rules, each of which has counted something.
struct Node {
    samples: Vec<CounterSample>,
}

impl Counters for Node {
    fn read(&self) -> Vec<CounterSample> {
        self.samples.clone()
    }

    fn maps(&self) -> Vec<MapFill> {
        let map = |map: &Map| MapFill {
            name: map.name(),
            entries: 1,
            capacity: 2,
        };
        Map::ALL.iter().map(map).collect()
    }

    fn flows(&self) -> Vec<Flows> {
        let of = |family| Flows {
            family,
            entries: Some(1),
            capacity: 2,
            recorded: 3,
            refused: 0,
            evicted: 1,
        };
        vec![of("ipv4"), of("ipv6")]
    }

    fn events_lost(&self) -> Option<u64> {
        Some(0)
    }
}

/// Policies with two rules in each direction; each pod is selected by as many as any other.
fn node(policies: u16, pods: u8) -> Node {
    let port = |port| -> Arc<[Port]> {
        [Port {
            port: Some(port),
            ..Port::default()
        }]
        .into()
    };
    let entries = |number: u16| -> Vec<Entry> {
        let [high, low] = number.to_be_bytes();
        let entry = |rule: u8| Entry {
            cidr: Cidr::single(Ipv4Addr::new(10, high, low, rule).into()),
            except: Arc::default(),
            ports: port(8000 + u16::from(rule)),
            rule: Some(rule.into()),
        };
        (0..2).map(entry).collect()
    };
    let endpoints: Endpoints = (0..policies)
        .map(|number| {
            let name = format!("policy-{number}");
            let app = format!("app-{}", number % u16::from(pods));
            let spec = PolicyEndpointSpec {
                policy_ref: PolicyRef {
                    name: name.as_str().into(),
                    namespace: "shop".into(),
                },
                pod_selector: Some(LabelSelector {
                    match_labels: Some([("app".to_string(), app)].into()),
                    match_expressions: None,
                }),
                pod_isolation: Direction::ALL.to_vec(),
                ingress: entries(number),
                egress: entries(number),
                ..PolicyEndpointSpec::default()
            };
            let mut object = PolicyEndpoint::new(&name, spec);
            object.metadata.namespace = Some("shop".into());
            (name.as_str().into(), vec![Arc::new(object)])
        })
        .collect();
    let pods: Vec<Pod> = (0..pods)
        .map(|index| Pod {
            id: ObjectId::new("shop", &format!("pod-{index}")),
            uid: format!("uid-{index}").into(),
            labels: Arc::new([("app".into(), format!("app-{index}").as_str().into())].into()),
            node: None,
            host_ip: None,
            addresses: vec![Ipv4Addr::new(10, 99, 0, index).into()],
            ports: Arc::default(),
            host_network: false,
            finished: false,
            created: None,
            source_prefixes: Vec::new(),
            log_allowed: false,
        })
        .collect();
    let Compiled { image, problems } = compile(&endpoints, &pods.iter().collect::<Vec<_>>());
    assert!(problems.is_empty());
    let count = Count {
        packets: 123_456,
        bytes: 123_456_789,
    };
    let rules = image.rules.values().map(|info| sample_of(info, count));
    let reasons = Reason::ALL.iter().flat_map(|reason| {
        Direction::ALL.map(|direction| CounterSample {
            direction,
            verdict: if reason.drops() {
                Outcome::Dropped
            } else {
                Outcome::Allowed
            },
            policy: None,
            rule: Rule::Unnamed,
            reason: reason.name(),
            packets: 1,
            bytes: 60,
        })
    });
    Node {
        samples: rules.chain(reasons).collect(),
    }
}

/// Series of traffic and of everything, and bytes of the scrape.
fn series(node: Node, detail: Detail) -> (usize, usize, usize) {
    let mut page = String::new();
    encode(
        &mut page,
        &Metrics::default().registry(Some(Arc::new(node)), detail),
    )
    .expect("text");
    let samples = || page.lines().filter(|line| !line.starts_with('#'));
    let traffic = samples()
        .filter(|line| line.starts_with("palisade_traffic_"))
        .count();
    (traffic, samples().count(), page.len())
}

#[test]
fn a_thousand_policies_and_a_hundred_pods_show_in_a_bounded_number_of_series() {
    let by_policy = Detail::default();
    let by_rule = Detail {
        rules: true,
        ..by_policy
    };
    let [policies, rules, capped] = [
        (1000, by_policy),
        (1000, by_rule),
        (3000, by_rule),
    ]
    .map(|(policies, detail)| {
        let (traffic, all, bytes) = series(node(policies, 100), detail);
        println!(
            "{policies} policies with 2 rules a direction, 100 pods, by {}: {traffic} series of traffic, {all} in all, {bytes} bytes",
            if detail.rules { "rule" } else { "policy" }
        );
        (traffic, all)
    });
    let reasons = 2 * Reason::ALL.len();
    // A policy is a series in each direction; who is denied is counted under one policy of each pod and direction.
    assert_eq!(policies.0, 2 * (2 * 1000 + 2 * 100 + reasons));
    // Two rules in each direction, up to the limit.
    let named = |sets: usize| sets.min(by_rule.policies);
    assert!(rules.0 >= 2 * (named(4 * 1000 + 2 * 100) + reasons));
    // However many there are: the limit, and one sum for each direction and verdict.
    for (traffic, all) in [rules, capped] {
        assert!(traffic <= 2 * (by_rule.policies + 4 + reasons), "{traffic}");
        assert!(all - traffic < 200, "{all}");
    }
}
