//! Tests with ids of few bits, so that different contents want the same id.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::ids::Space;
use super::names::Spaces;
use super::{Endpoints, Image, Psid, Row, compile, compile_within, diff};
use crate::api::{Entry, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, Port};
use crate::model::{Cidr, Direction, ObjectId, Pod};

fn narrow() -> Spaces {
    let space = |first| Space { first, mask: 0x7f };
    Spaces {
        matchers: Space { first: 1, mask: 0xff },
        classes: space(1),
        psids: space(Psid::FIRST.into()),
        keys: Space { first: 1, mask: 0xff },
    }
}

fn peer(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, index).into()
}

/// Policy `i` lets peer `i` reach pod `i % 16` on port `i + 1`.
fn endpoints(policies: impl Iterator<Item = u8>) -> Endpoints {
    let policy = |index: u8| {
        let entry = Entry {
            cidr: Cidr::single(peer(index)),
            except: Arc::default(),
            ports: Arc::new([Port {
                port: Some(u16::from(index) + 1),
                ..Port::default()
            }]),
            rule: Some(0),
        };
        let spec = PolicyEndpointSpec {
            policy_ref: PolicyRef {
                name: format!("policy-{index}").into(),
                namespace: format!("space-{}", index % 16).into(),
            },
            pod_isolation: vec![Direction::Ingress],
            ingress: vec![entry],
            ..PolicyEndpointSpec::default()
        };
        let object = Arc::new(PolicyEndpoint::new("object", spec));
        (Arc::from(format!("uid-{index}")), vec![object])
    };
    policies.map(policy).collect()
}

fn pods() -> Vec<Pod> {
    let pod = |index: u8| Pod {
        id: ObjectId::new(&format!("space-{index}"), "pod"),
        uid: format!("pod-{index}").into(),
        labels: Arc::default(),
        node: None,
        host_ip: None,
        addresses: Vec::new(),
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    };
    (0..16).map(pod).collect()
}

fn squeezed(endpoints: &Endpoints) -> Image {
    let pods = pods();
    compile_within(endpoints, &pods.iter().collect::<Vec<_>>(), &narrow()).image
}

/// (pod, peer, port), read from the tables: each rule allows one port.
fn allowed(image: &Image) -> BTreeSet<(u8, u8, u32)> {
    let mut allowed = BTreeSet::new();
    for pod in 0..16 {
        let psid = image.pods[format!("pod-{pod}").as_str()].ingress.psid;
        for from in 0..100 {
            match image.rows.get(&(psid, image.class_of(peer(from)))) {
                Some(Row::L4(key)) => {
                    let open = image.l4[key].0.iter().filter(|(_, rule)| rule.is_some());
                    allowed.extend(open.map(|(start, _)| (pod, from, start & 0xffff)));
                }
                Some(Row::Allow(_)) => panic!("no rule allows everything"),
                None => {}
            }
        }
    }
    allowed
}

#[test]
fn ids_that_collide_change_no_verdict() {
    let endpoints = endpoints(0..60);
    let pods = pods();
    let wide = compile(&endpoints, &pods.iter().collect::<Vec<_>>()).image;
    let image = squeezed(&endpoints);
    let unsalted: BTreeSet<u32> = wide.addresses.values().map(|class| class.0 & 0x7f).collect();
    assert!(unsalted.len() < 60, "the test must force a collision");
    let classes: BTreeSet<_> = image.addresses.values().collect();
    assert_eq!((classes.len(), image.addresses.len()), (60, 60));
    let expected: BTreeSet<_> = (0..60u8).map(|i| (i % 16, i, u32::from(i) + 1)).collect();
    assert_eq!(allowed(&image), expected);
    assert_eq!(allowed(&wide), expected);
}

#[test]
fn a_change_from_ids_to_others_that_collide_is_never_wider_than_both() {
    for shift in [1, 5, 30] {
        let (old, new) = (
            squeezed(&endpoints(0..60)),
            squeezed(&endpoints(shift..60 + shift)),
        );
        let either = &allowed(&old) | &allowed(&new);
        let mut state = old.clone();
        for op in diff(&old, &new) {
            state.apply(&op);
            let wider: Vec<_> = allowed(&state).difference(&either).copied().collect();
            assert!(wider.is_empty(), "{wider:?} after {op:?}");
        }
        assert_eq!(state, new);
    }
}
