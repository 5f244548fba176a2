//! What holds for every set of endpoints, and for every change from one to another.

mod change;
mod exact;
mod naive;
mod world;

use change::{Probe, check_change};
use palisade::compile::{Image, RuleInfo, compile, eval};
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
        check_image(&world)?;
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
        let probes = Probe::all(&old.pods, &new.pods);
        check_change(&image(&old), &image(&new), &probes)?;
    }

    #[test]
    fn a_packet_meets_the_old_verdict_or_the_new_one_when_much_changes_at_once(
        (old, new) in world::dense_change()
    ) {
        let probes = Probe::all(&old.pods, &new.pods);
        check_change(&image(&old), &image(&new), &probes)?;
    }

    #[test]
    fn s19_nested_blocks_and_exceptions_come_out_as_their_entries_say((world, _) in world::dense_change()) {
        check_image(&world)?;
    }
}

fn check_image(world: &World) -> Result<(), TestCaseError> {
    let compiled = compile(&world.endpoints, &world.pods());
    for pod in &world.pods {
        for direction in Direction::ALL {
            for address in ADDRESSES {
                let peer = address.parse().unwrap();
                for (protocol, port) in PORTS {
                    let decision = eval(&compiled.image, &pod.uid, direction, peer, protocol, port).unwrap();
                    let wanted = naive::allowed(&world.endpoints, pod, direction, peer, protocol, port);
                    prop_assert_eq!(
                        (decision.allowed, decision.allowed && !decision.audited),
                        (wanted.0, wanted.0 && wanted.1),
                        "{} {} {} {}/{}",
                        pod.id,
                        direction,
                        address,
                        port,
                        protocol
                    );
                    let info = decision.by.map(|key| &compiled.image.rules[&key]);
                    let sound = match info {
                        None => decision.allowed && !decision.audited,
                        Some(RuleInfo::Rule(rule)) => {
                            decision.allowed && !decision.audited && rule.direction == direction
                        }
                        Some(RuleInfo::Audit { direction: d, .. }) => decision.audited && *d == direction,
                        Some(RuleInfo::Isolation { direction: d, .. }) => {
                            !decision.allowed && *d == direction
                        }
                    };
                    prop_assert!(sound, "{decision:?} by {info:?}");
                }
            }
        }
    }
    Ok(())
}

fn image(world: &World) -> Image {
    compile(&world.endpoints, &world.pods()).image
}
