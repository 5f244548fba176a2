//! Reasons against verdicts: on random clusters, a rule that allows has nothing against the packet, and where all
//! is denied each rule has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::reason::Packet;
use crate::cli::Traffic;
use crate::cli::cluster::Cluster;
use crate::compile::{RuleInfo, eval};
use crate::model::{
    Cidr, ContainerPort, Direction, EndpointPort, EndpointSlice, Enforcement, Labels, Namespace, ObjectId,
    Operator, Peer, Pod, Policy, PortMatch, Protocol, Requirement, Rule, RuleId, Selector, Service,
    ServicePort, Snapshot,
};

const NAMESPACES: [&str; 2] = ["a", "b"];
const PORTS: [u16; 3] = [80, 81, 8080];

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// No pod's, but in some blocks.
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const CLUSTER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

fn labels() -> impl Strategy<Value = Arc<Labels>> {
    subsequence(vec![("app", "x"), ("app", "y"), ("tier", "z")], 0..=3).prop_map(|labels| {
        let labels: BTreeMap<Arc<str>, Arc<str>> =
            labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Arc::new(labels)
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || -> Arc<[Arc<str>]> { ["x".into(), "z".into()].into() };
    let operators = select(vec![
        Operator::In(["x".into()].into()),
        Operator::In(values()),
        Operator::NotIn(values()),
        Operator::Exists,
        Operator::DoesNotExist,
    ]);
    let requirement = (select(vec!["app", "tier"]), operators).prop_map(|(key, operator)| Requirement {
        key: key.into(),
        operator,
    });
    prop::collection::vec(requirement, 0..=2).prop_map(Selector::new)
}

fn namespace_selector() -> impl Strategy<Value = Selector> {
    let named = select(NAMESPACES.to_vec()).prop_map(|name| {
        Selector::new([Requirement {
            key: "kubernetes.io/metadata.name".into(),
            operator: Operator::In([name.into()].into()),
        }])
    });
    prop_oneof![named, Just(Selector::everything())]
}

fn peer() -> impl Strategy<Value = Peer> {
    let pods =
        (prop::option::of(namespace_selector()), selector()).prop_map(|(namespaces, pods)| Peer::Pods {
            namespaces,
            pods: Some(pods),
        });
    let blocks = select(vec![
        ("10.0.0.0/16", "10.0.0.0/30"),
        ("10.0.0.0/29", "10.0.0.2"),
        ("10.96.0.0/16", "10.96.1.0/24"),
    ]);
    let block = (blocks, any::<bool>()).prop_map(|((cidr, except), excepts)| Peer::Block {
        cidr: cidr.parse().expect("a block"),
        except: if excepts {
            vec![except.parse::<Cidr>().expect("a block")]
        } else {
            Vec::new()
        },
    });
    prop_oneof![pods, block]
}

fn port() -> impl Strategy<Value = PortMatch> {
    let protocol = || select(vec![Protocol::Tcp, Protocol::Udp]);
    prop_oneof![
        protocol().prop_map(PortMatch::Every),
        (protocol(), select(PORTS.to_vec()), 0..2u16).prop_map(|(protocol, first, more)| PortMatch::Range {
            protocol,
            first,
            last: first + more,
        }),
        (protocol(), select(vec!["http", "none"])).prop_map(|(protocol, name)| PortMatch::Named {
            protocol,
            name: name.into(),
        }),
    ]
}

fn rules() -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (
        prop::option::of(prop::collection::vec(peer(), 0..=3)),
        prop::option::of(prop::collection::vec(port(), 0..=3)),
    );
    let numbered = |rules: Vec<_>| {
        let rule = |(index, (peers, ports))| Rule { index, peers, ports };
        (0..).zip(rules).map(rule).collect()
    };
    prop::option::of(prop::collection::vec(rule, 0..=3).prop_map(numbered))
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let pod = (
        select(NAMESPACES.to_vec()),
        labels(),
        select(PORTS.to_vec()),
        0..8u8,
    );
    let enforcement = select(vec![
        None,
        None,
        Some(Enforcement::Enforce),
        Some(Enforcement::Audit),
    ]);
    let policy = (
        select(NAMESPACES.to_vec()),
        selector(),
        rules(),
        rules(),
        enforcement,
    );
    let backends = subsequence((1..=4u8).collect::<Vec<_>>(), 0..=2);
    (
        prop::collection::vec(pod, 4),
        prop::collection::vec(policy, 0..=4),
        backends,
    )
        .prop_map(build)
}

type PodSeed = (&'static str, Arc<Labels>, u16, u8);
type PolicySeed = (
    &'static str,
    Selector,
    Option<Vec<Rule>>,
    Option<Vec<Rule>>,
    Option<Enforcement>,
);

fn build((pods, policies, backends): (Vec<PodSeed>, Vec<PolicySeed>, Vec<u8>)) -> Snapshot {
    let pod = |(number, (namespace, labels, port, special)): (u8, PodSeed)| Pod {
        id: ObjectId::new(namespace, &format!("pod-{number}")),
        uid: format!("uid-{number}").into(),
        labels,
        node: None,
        host_ip: None,
        addresses: vec![address(number)],
        ports: [ContainerPort {
            name: Some("http".into()),
            protocol: Protocol::Tcp,
            number: port,
        }]
        .into(),
        host_network: special == 0,
        finished: special == 1,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    };
    let policy =
        |(number, (namespace, pod_selector, ingress, egress, enforcement)): (usize, PolicySeed)| Policy {
            id: ObjectId::new(namespace, &format!("policy-{number}")),
            uid: format!("policy-{number}").into(),
            pod_selector,
            ingress,
            egress,
            enforcement,
        };
    Snapshot {
        namespaces: (NAMESPACES.iter())
            .map(|&name| Namespace {
                name: name.into(),
                labels: Arc::new(Labels::from([(
                    "kubernetes.io/metadata.name".into(),
                    name.into(),
                )])),
                // The policies of the second one are in audit.
                enforcement: if name == NAMESPACES[1] {
                    Enforcement::Audit
                } else {
                    Enforcement::Enforce
                },
            })
            .collect(),
        pods: (1..).zip(pods).map(pod).collect(),
        policies: policies.into_iter().enumerate().map(policy).collect(),
        services: vec![Service {
            id: ObjectId::new("a", "service"),
            cluster_ips: vec![CLUSTER_IP],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 80,
            }],
        }],
        endpoint_slices: vec![EndpointSlice {
            id: ObjectId::new("a", "service-1"),
            service: "service".into(),
            ready: backends.into_iter().map(address).collect(),
            ports: vec![EndpointPort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: Some(8080),
            }],
        }],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn reasons_and_verdicts_agree(snapshot in snapshot()) {
        let cluster = Cluster::new(snapshot, Vec::new(), BTreeMap::new());
        let mut traffics = vec![Traffic::Icmp];
        for port in PORTS {
            traffics.extend([Protocol::Tcp, Protocol::Udp].map(|protocol| Traffic::Port(protocol, port)));
        }
        let peers: Vec<IpAddr> = (1..=4).map(address).chain([OUTSIDE, CLUSTER_IP]).collect();
        for subject in cluster.snapshot.pods.iter().filter(|pod| pod.is_live()) {
            for direction in Direction::ALL {
                for &peer in peers.iter().filter(|peer| !subject.addresses.contains(peer)) {
                    for &traffic in &traffics {
                        agree(&cluster, subject, direction, peer, traffic)?;
                    }
                }
            }
        }
    }
}

fn agree(
    cluster: &Cluster,
    subject: &Pod,
    direction: Direction,
    peer: IpAddr,
    traffic: Traffic,
) -> Result<(), TestCaseError> {
    let asked = format!("{direction} of {} with {peer} {traffic}", subject.id);
    let decision = eval(
        &cluster.image,
        &subject.uid,
        direction,
        peer,
        traffic.protocol(true),
        traffic.port(),
    );
    let decision = decision.expect("all pods are local");
    let objection = |id: &ObjectId, index: u32| {
        let policy = cluster.policy(id).expect("a policy that decides exists");
        let packet = Packet {
            cluster,
            policy,
            direction,
            subject,
            peer,
            traffic,
        };
        let rule = policy
            .rules(direction)
            .and_then(|rules| rules.iter().find(|rule| rule.index == index));
        packet.against(rule.expect("a rule that decides exists"))
    };
    match decision.by.map(|key| &cluster.image.rules[&key]) {
        None | Some(RuleInfo::Rule(RuleId { index: None, .. })) => prop_assert!(decision.allowed, "{asked}"),
        Some(RuleInfo::Rule(RuleId {
            policy,
            index: Some(index),
            ..
        })) => {
            prop_assert!(decision.allowed, "{asked}");
            prop_assert_eq!(
                objection(policy, *index),
                None,
                "{} by {} {}",
                asked,
                policy,
                index
            );
        }
        Some(info @ (RuleInfo::Isolation { policies, .. } | RuleInfo::Audit { policies, .. })) => {
            let in_audit = matches!(info, RuleInfo::Audit { .. });
            prop_assert_eq!(
                (decision.allowed, decision.audited),
                (in_audit, in_audit),
                "{}",
                asked
            );
            for id in policies.iter() {
                let rules = cluster.policy(id).and_then(|policy| policy.rules(direction));
                for rule in rules.expect("an isolating policy has this direction") {
                    prop_assert!(
                        objection(id, rule.index).is_some(),
                        "{} despite {} {}",
                        asked,
                        id,
                        rule.index
                    );
                }
            }
        }
    }
    Ok(())
}
