//! The verdicts of all pairs, each asked of the image once.

use std::collections::BTreeMap;

use super::{Member, Place};
use crate::cli::{Family, Traffic, Verdict};
use crate::compile::{Class, Image, PodImage, Psid, eval};
use crate::model::Direction;

/// A verdict depends on the pod's rule set and whether it is in audit, the peer's class, the port and the family (ICMP's number), so those are
/// what it is kept under; rule sets and classes are numbered from 0 to make the keys an index.
pub(super) struct Verdicts<'a> {
    image: &'a Image,
    ports: &'a [Traffic],
    /// By member, then in the order of [`Direction::ALL`].
    rule_sets: Vec<[usize; 2]>,
    /// By member, then family.
    classes: Vec<[usize; 2]>,
    class_count: usize,
    /// By rule set, class, family and port.
    known: Vec<Option<Verdict>>,
}

/// Numbers things in the order in which they come.
struct Numbering<T>(BTreeMap<T, usize>);

impl<T: Ord> Numbering<T> {
    fn of(&mut self, thing: T) -> usize {
        let next = self.0.len();
        *self.0.entry(thing).or_insert(next)
    }
}

impl<'a> Verdicts<'a> {
    pub fn new(image: &'a Image, members: &[Member<'_>], ports: &'a [Traffic]) -> Self {
        let mut sets = Numbering::<(Psid, bool)>(BTreeMap::new());
        let mut classes = Numbering::<Class>(BTreeMap::new());
        let rule_sets = |member: &Member<'_>| {
            Direction::ALL.map(|direction| {
                let pod = image.pods.get(&member.pod.uid);
                let own = pod.map(|pod| pod.direction(direction));
                sets.of(own.map_or((Psid::UNKNOWN, false), |own| (own.psid, own.audited_by.is_some())))
            })
        };
        let rule_sets = members.iter().map(rule_sets).collect();
        let class = |member: &Member<'_>| {
            member
                .addresses
                .map(|address| address.map_or(0, |address| classes.of(image.class_of(address))))
        };
        let class_numbers = members.iter().map(class).collect();
        let class_count = classes.0.len();
        let places = sets.0.len() * class_count * Family::ALL.len() * ports.len();
        Self {
            image,
            ports,
            rule_sets,
            classes: class_numbers,
            class_count,
            known: vec![None; places],
        }
    }

    /// Whether some direction of some pod is in audit.
    pub fn any_audit(&self) -> bool {
        let in_audit = |pod: &PodImage| {
            Direction::ALL
                .iter()
                .any(|d| pod.direction(*d).audited_by.is_some())
        };
        self.image.pods.values().any(in_audit)
    }

    /// Egress of the source and ingress of the destination; both have an address of the family.
    pub fn of(&mut self, members: &[Member<'_>], place: Place) -> [Verdict; 2] {
        let Place { from, to, .. } = place;
        [
            self.one(members, Direction::Egress, from, to, place),
            self.one(members, Direction::Ingress, to, from, place),
        ]
    }

    fn one(
        &mut self,
        members: &[Member<'_>],
        direction: Direction,
        own: usize,
        peer: usize,
        place: Place,
    ) -> Verdict {
        let Some(address) = members[peer].addresses[place.family] else {
            return Verdict::Deny;
        };
        let pod = members[own].pod;
        let traffic = self.ports[place.port];
        let judge = || {
            let protocol = traffic.protocol(address.is_ipv4());
            let decision = eval(self.image, &pod.uid, direction, address, protocol, traffic.port());
            decision.map_or(Verdict::Deny, Verdict::of)
        };
        // Two pods that claim one address: what is let through as the pod's own says nothing about others of the class.
        if pod.addresses.contains(&address) {
            return judge();
        }
        let set = self.rule_sets[own][direction as usize];
        let class = self.classes[peer][place.family];
        let index = ((set * self.class_count + class) * Family::ALL.len() + place.family) * self.ports.len()
            + place.port;
        let verdict = self.known[index].unwrap_or_else(judge);
        self.known[index] = Some(verdict);
        verdict
    }
}
