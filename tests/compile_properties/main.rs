//! What holds for every set of endpoints, and for every change from one to another.

mod naive;
mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use palisade::compile::{Image, Op, RuleInfo, compile, diff, eval};
use palisade::model::Direction;
use proptest::prelude::*;
use world::{ADDRESSES, PORTS, World};

/// `PROPTEST_CASES` sets how many cases there are.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn s4_the_image_allows_exactly_what_some_entry_allows(world in world::world()) {
        let compiled = compile(&world.endpoints, &world.pods());
        for pod in &world.pods {
            for direction in Direction::ALL {
                for address in ADDRESSES {
                    let peer = address.parse().unwrap();
                    for (protocol, port) in PORTS {
                        let decision = eval(&compiled.image, &pod.uid, direction, peer, protocol, port).unwrap();
                        let wanted = naive::allowed(&world.endpoints, pod, direction, peer, protocol, port);
                        prop_assert_eq!(
                            decision.allowed, wanted,
                            "{} {} {} {}/{}", pod.id, direction, address, port, protocol
                        );
                        let info = decision.by.map(|key| &compiled.image.rules[&key]);
                        let sound = match info {
                            None => decision.allowed,
                            Some(RuleInfo::Rule(rule)) => decision.allowed && rule.direction == direction,
                            Some(RuleInfo::Isolation { direction: d, .. }) => {
                                !decision.allowed && *d == direction
                            }
                        };
                        prop_assert!(sound, "{decision:?} by {info:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn s4_the_order_of_objects_and_pods_is_irrelevant(world in world::world()) {
        let mut turned = world.clone();
        turned.pods.reverse();
        turned.endpoints.values_mut().for_each(|objects| objects.reverse());
        prop_assert_eq!(
            compile(&world.endpoints, &world.pods()).image,
            compile(&turned.endpoints, &turned.pods()).image
        );
    }

    #[test]
    fn a_packet_meets_the_old_verdict_or_the_new_one((old, new) in world::change()) {
        check_change(&image(&old), &image(&new))?;
    }
}

fn image(world: &World) -> Image {
    compile(&world.endpoints, &world.pods()).image
}

#[derive(Debug)]
struct Probe {
    pod: Arc<str>,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
}

impl Probe {
    fn all(old: &Image, new: &Image) -> Vec<Self> {
        let pods: BTreeSet<&Arc<str>> = old.pods.keys().chain(new.pods.keys()).collect();
        let mut probes = Vec::new();
        for pod in pods {
            for direction in Direction::ALL {
                for address in ADDRESSES {
                    for (protocol, port) in PORTS.into_iter().step_by(2) {
                        probes.push(Self {
                            pod: pod.clone(),
                            direction,
                            peer: address.parse().unwrap(),
                            protocol,
                            port,
                        });
                    }
                }
            }
        }
        probes
    }

    /// A pod that is not known is denied.
    fn allowed(&self, image: &Image) -> bool {
        eval(
            image,
            &self.pod,
            self.direction,
            self.peer,
            self.protocol,
            self.port,
        )
        .is_some_and(|d| d.allowed)
    }
}

fn check_change(old: &Image, new: &Image) -> Result<(), TestCaseError> {
    let ops = diff(old, new);
    prop_assert_eq!(ops.is_empty(), old == new);
    let probes = Probe::all(old, new);
    let before: Vec<bool> = probes.iter().map(|p| p.allowed(old)).collect();
    let after: Vec<bool> = probes.iter().map(|p| p.allowed(new)).collect();
    // Whether the kernel may know a flow that it once allowed.
    let mut flows = before.clone();
    let mut state = old.clone();
    for (step, op) in ops.iter().enumerate() {
        state.apply(op);
        let judged_anew = |probe: &Probe| match op {
            Op::BumpEpoch => true,
            Op::SetPod(uid, _) | Op::RemovePod(uid) => *uid == probe.pod,
            _ => false,
        };
        for (index, probe) in probes.iter().enumerate() {
            let now = probe.allowed(&state);
            prop_assert!(
                now == before[index] || now == after[index],
                "{probe:?} is {now} after {op:?}, step {step} of {ops:#?}"
            );
            flows[index] = now || flows[index] && !judged_anew(probe);
        }
    }
    prop_assert!(&state == new, "{ops:#?} lead to {state:#?} instead of {new:#?}");
    for (index, probe) in probes.iter().enumerate() {
        prop_assert!(
            !flows[index] || after[index],
            "{probe:?} was cut, but its flow lives on: {ops:#?}"
        );
    }
    Ok(())
}
