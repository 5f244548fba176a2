//! What holds for every set of endpoints, and for every change from one to another.

mod naive;
mod world;

use palisade::compile::{RuleInfo, compile, eval};
use palisade::model::Direction;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s4_the_image_allows_exactly_what_some_entry_allows(world in world::world()) {
        let compiled = compile(&world.endpoints, &world.pods());
        for pod in &world.pods {
            for direction in Direction::ALL {
                for address in world::ADDRESSES {
                    let peer = address.parse().unwrap();
                    for (protocol, port) in world::PORTS {
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
                            Some(RuleInfo::Isolation { direction: d, .. }) => !decision.allowed && *d == direction,
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
}
