//! Evidence → places: which veth each pod is behind.
//!
//! - What made a pod's interface tells which it is: that goes above all, and no other pod is there.
//! - A host route (/32, /128) by a veth is an administrator's word and is followed whenever it changes.
//! - What a bridge has learnt is hearsay: any of its ports can claim another's address. So it places a pod that has no
//!   place, and otherwise moves it only where its veth is contested or it has lost an address. A place that nothing
//!   confirms any more (a quiet pod's bridge entry ages out after minutes) stands until its veth is gone.
//! - A veth has one pod. Who holds it keeps it; other claimants get no place, and each is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::Sought;
use super::evidence::{BRIDGE_REMEDY, Evidence, ROUTE_REMEDY};
use super::table::{Kind, Table};
use crate::model::Problem;

const CLAIM_REMEDY: &str =
    "correct the addresses, or remove the pod that no longer runs; who was first keeps the veth";

/// Where a pod is, kept from one time to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub ifindex: u32,
    incarnation: u64,
    /// The addresses that led to it.
    addresses: Vec<IpAddr>,
}

pub(super) type Places = BTreeMap<Arc<str>, Place>;

/// By veth: the pod that is there by the word of what made it.
type Owners<'a> = HashMap<u32, &'a Arc<str>>;

/// One veth that the evidence for a pod names.
#[derive(Clone, Copy)]
struct Claim {
    ifindex: u32,
    by_route: bool,
}

/// New places of `pods`, given what is known of their addresses, and what stands in the way of the others. `told`: pods whose
/// veth was named by what made it.
pub(super) fn settle(
    table: &Table,
    pods: &[Sought],
    known: &BTreeMap<IpAddr, Evidence>,
    told: &BTreeMap<&Arc<str>, u32>,
    before: &Places,
) -> (Places, Vec<Problem>) {
    let mut problems = Vec::new();
    let owners: Owners = told.iter().map(|(uid, ifindex)| (*ifindex, *uid)).collect();
    let claims = claims(table, pods, known, (told, &owners), &mut problems);
    let mut claimants: HashMap<u32, BTreeSet<&Arc<str>>> = HashMap::new();
    for (uid, claim) in &claims {
        claimants.entry(claim.ifindex).or_default().insert(uid);
    }
    let contested = |uid: &Arc<str>, ifindex| {
        claimants
            .get(&ifindex)
            .is_some_and(|by| by.len() > usize::from(by.contains(uid)))
    };
    let mut wanted: BTreeMap<u32, Vec<&Sought>> = BTreeMap::new();
    for pod in pods {
        let now = held(table, pod, before).filter(|place| !is_anothers(&owners, pod, place.ifindex));
        let want = match (now, claims.get(&pod.uid)) {
            (None, claim) => claim.map(|c| c.ifindex),
            (Some(now), Some(claim)) => {
                let stands = !claim.by_route
                    && !contested(&pod.uid, now.ifindex)
                    && now
                        .addresses
                        .iter()
                        .all(|address| pod.addresses.contains(address));
                Some(if stands { now.ifindex } else { claim.ifindex })
            }
            (Some(now), None) => Some(now.ifindex),
        };
        if let Some(ifindex) = want {
            wanted.entry(ifindex).or_default().push(pod);
        }
    }
    let places = assign(table, &wanted, before, &mut problems);
    for pod in pods
        .iter()
        .filter(|pod| !places.contains_key(&pod.uid) && !claims.contains_key(&pod.uid))
    {
        problems.extend(
            pod.addresses
                .iter()
                .filter_map(|address| obstacle(table, pod, *address, known)),
        );
    }
    problems.sort();
    problems.dedup();
    (places, problems)
}

/// One pod to each veth: who has it keeps it, else the only one of its claimants that has no place yet gets it. Those that
/// lose stay where they are, unless another pod is there now.
fn assign(
    table: &Table,
    wanted: &BTreeMap<u32, Vec<&Sought>>,
    before: &Places,
    problems: &mut Vec<Problem>,
) -> Places {
    let (mut places, mut taken, mut losers) = (Places::new(), BTreeSet::new(), Vec::new());
    for (ifindex, by) in wanted {
        let now = |pod: &Sought| held(table, pod, before).map(|place| place.ifindex);
        let holder = by.iter().copied().find(|pod| now(pod) == Some(*ifindex));
        let newcomers: Vec<&Sought> = by.iter().copied().filter(|pod| now(pod).is_none()).collect();
        let winner = match (holder, &newcomers[..], &by[..]) {
            (Some(holder), ..) => Some(holder),
            (None, [only], _) | (None, [], [only]) => Some(*only),
            _ => None,
        };
        if by.len() > 1 {
            let message = format!("veth {} is claimed by {}", table.name(*ifindex), names(by));
            let of = |pod: &&Sought| problem(pod, &pod.addresses, message.clone(), CLAIM_REMEDY);
            problems.extend(by.iter().map(of));
        }
        losers.extend(
            by.iter()
                .filter(|pod| winner.is_none_or(|winner| winner.uid != pod.uid)),
        );
        if let (Some(pod), Some(link)) = (winner, table.links.get(ifindex)) {
            let (incarnation, addresses) = (link.incarnation, pod.addresses.clone());
            taken.insert(*ifindex);
            places.insert(
                pod.uid.clone(),
                Place {
                    ifindex: *ifindex,
                    incarnation,
                    addresses,
                },
            );
        }
    }
    for pod in losers {
        if let Some(now) = held(table, pod, before)
            && taken.insert(now.ifindex)
        {
            places.insert(pod.uid.clone(), now.clone());
        }
    }
    places
}

/// The veth of each pod whose addresses agree on one.
fn claims<'a>(
    table: &Table,
    pods: &'a [Sought],
    known: &BTreeMap<IpAddr, Evidence>,
    (told, owners): (&BTreeMap<&Arc<str>, u32>, &Owners),
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'a Arc<str>, Claim> {
    let mut claims = BTreeMap::new();
    for pod in pods {
        if let Some(&ifindex) = told.get(&pod.uid) {
            let by_route = true;
            claims.insert(&pod.uid, Claim { ifindex, by_route });
            continue;
        }
        let mut veths: BTreeMap<u32, bool> = BTreeMap::new();
        for address in &pod.addresses {
            if let Some(Evidence::Veth { ifindex, by_route }) = known.get(address)
                && !is_anothers(owners, pod, *ifindex)
            {
                *veths.entry(*ifindex).or_default() |= by_route;
            }
        }
        match veths.into_iter().collect::<Vec<_>>()[..] {
            [] => {}
            [(ifindex, by_route)] => {
                claims.insert(&pod.uid, Claim { ifindex, by_route });
            }
            [(first, _), (second, _), ..] => {
                let (first, second) = (table.name(first), table.name(second));
                let message = format!("its addresses lead to different veths, {first} and {second}");
                problems.push(problem(pod, &pod.addresses, message, ROUTE_REMEDY));
            }
        }
    }
    claims
}

/// Whether another pod is behind this veth by the word of what made it.
fn is_anothers(owners: &Owners, pod: &Sought, ifindex: u32) -> bool {
    owners.get(&ifindex).is_some_and(|owner| **owner != pod.uid)
}

/// A pod's place as long as its veth is the same one and it has an address of then.
fn held<'a>(table: &Table, pod: &Sought, before: &'a Places) -> Option<&'a Place> {
    before.get(&pod.uid).filter(|place| {
        let link = table.links.get(&place.ifindex);
        link.is_some_and(|link| link.kind == Kind::Veth && link.incarnation == place.incarnation)
            && place
                .addresses
                .iter()
                .any(|address| pod.addresses.contains(address))
    })
}

/// Why an address leads nowhere; `None` while the bridge is asked for the first time.
fn obstacle(
    table: &Table,
    pod: &Sought,
    address: IpAddr,
    known: &BTreeMap<IpAddr, Evidence>,
) -> Option<Problem> {
    match known.get(&address)? {
        Evidence::Refused { message, remedy } => Some(problem(pod, &[address], message.clone(), remedy)),
        Evidence::Unheard {
            bridge, silent: true, ..
        } => {
            let message = format!("nothing on bridge {} answers for it", table.name(*bridge));
            Some(problem(pod, &[address], message, BRIDGE_REMEDY))
        }
        Evidence::Unheard { silent: false, .. } | Evidence::Veth { .. } | Evidence::Elsewhere => None,
    }
}

/// Some of the pods, for a message.
fn names(pods: &[&Sought]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = pods
        .iter()
        .take(SHOWN)
        .map(|pod| format!("pod {}", pod.id))
        .collect();
    if pods.len() > SHOWN {
        names.push(format!("{} more", pods.len() - SHOWN));
    }
    names.join(" and ")
}

fn problem(pod: &Sought, addresses: &[IpAddr], message: String, remedy: &str) -> Problem {
    let value: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Problem {
        object: format!("Pod {}", pod.id),
        field: "status.podIPs".into(),
        value: value.join(", "),
        message,
        remedy: remedy.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectId;
    use crate::node::links::evidence::tests::{BRIDGE, VETH_A, VETH_B, address, heard, node, routed};
    use crate::node::links::netlink::Ask;

    fn pod(name: &str, addresses: &[&str]) -> Sought {
        let addresses = addresses.iter().map(|a| address(a)).collect();
        Sought {
            uid: name.into(),
            id: ObjectId::new("shop", name),
            addresses,
            interfaces: Vec::new(),
        }
    }

    type Found = (BTreeMap<String, u32>, Vec<Problem>);

    /// Pods, and what is known of their addresses.
    type Time<'a> = (&'a [Sought], &'a [(&'a str, Evidence)]);

    /// Settles pods one time after another, each time with other evidence, and shows what the last comes to.
    fn settled(table: &Table, times: &[Time]) -> Found {
        let (mut places, mut problems) = (Places::new(), Vec::new());
        for (pods, known) in times {
            let known = known
                .iter()
                .map(|(a, evidence)| (address(a), evidence.clone()))
                .collect();
            (places, problems) = settle(table, pods, &known, &BTreeMap::new(), &places);
        }
        (
            places
                .iter()
                .map(|(uid, place)| (uid.to_string(), place.ifindex))
                .collect(),
            problems,
        )
    }

    fn at(places: &[(&str, u32)]) -> BTreeMap<String, u32> {
        places
            .iter()
            .map(|(uid, ifindex)| (uid.to_string(), *ifindex))
            .collect()
    }

    #[test]
    fn hearsay_does_not_move_a_pod_but_a_route_does() {
        let web = [pod("web", &["10.0.0.1"])];
        let first = (&web[..], &[("10.0.0.1", heard(VETH_A))][..]);
        let found = settled(&node(), &[first, (&web, &[("10.0.0.1", heard(VETH_B))])]);
        assert_eq!(found, (at(&[("web", VETH_A)]), vec![]));
        let unheard = Evidence::Unheard {
            bridge: BRIDGE,
            ask: Some(Ask::Resolve),
            silent: false,
        };
        let found = settled(&node(), &[first, (&web, &[("10.0.0.1", unheard)])]);
        assert_eq!(found, (at(&[("web", VETH_A)]), vec![]));
        let found = settled(&node(), &[first, (&web, &[("10.0.0.1", routed(VETH_B))])]);
        assert_eq!(found, (at(&[("web", VETH_B)]), vec![]));
    }

    #[test]
    fn who_was_misplaced_by_hearsay_moves_when_its_veth_is_claimed() {
        // The bridge first believed that web was where thief is.
        let (web, thief) = (pod("web", &["10.0.0.1"]), pod("thief", &["10.0.0.2"]));
        let found = settled(
            &node(),
            &[
                (std::slice::from_ref(&web), &[("10.0.0.1", heard(VETH_B))]),
                (
                    &[web.clone(), thief],
                    &[("10.0.0.1", heard(VETH_A)), ("10.0.0.2", heard(VETH_B))],
                ),
            ],
        );
        assert_eq!(found, (at(&[("thief", VETH_B), ("web", VETH_A)]), vec![]));
    }

    #[test]
    fn who_made_a_veth_says_whose_it_is_above_routes_bridges_and_earlier_places() {
        let (old, new) = (pod("old", &["10.0.0.1"]), pod("new", &["10.0.0.1"]));
        let known = BTreeMap::from([(address("10.0.0.1"), routed(VETH_A))]);
        let nobody = BTreeMap::new();
        // The old one has been found there, and still has the address that the new one was given.
        let (before, _) = settle(
            &node(),
            std::slice::from_ref(&old),
            &known,
            &nobody,
            &Places::new(),
        );
        assert_eq!(before["old"].ifindex, VETH_A);
        let uid: Arc<str> = "new".into();
        for veth in [VETH_A, VETH_B] {
            let told = BTreeMap::from([(&uid, veth)]);
            let (places, _) = settle(&node(), &[old.clone(), new.clone()], &known, &told, &before);
            assert_eq!(places["new"].ifindex, veth);
            let stays = (veth == VETH_B).then_some(VETH_A);
            assert_eq!(places.get("old").map(|place| place.ifindex), stays);
        }
    }

    #[test]
    fn a_pod_with_its_addresses_on_two_veths_has_no_place() {
        let web = [pod("web", &["10.0.0.1", "fd00::1"])];
        let split = [("10.0.0.1", routed(VETH_A)), ("fd00::1", routed(VETH_B))];
        let (places, problems) = settled(&node(), &[(&web, &split)]);
        assert_eq!(places, at(&[]));
        assert!(
            problems.len() == 1 && problems[0].message.contains("if10 and if11"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_terminating_pod_stays_where_it_is_when_its_address_is_given_to_another() {
        let (old, new) = (pod("old", &["10.0.0.1"]), pod("new", &["10.0.0.1"]));
        let (places, problems) = settled(
            &node(),
            &[
                (std::slice::from_ref(&old), &[("10.0.0.1", routed(VETH_A))]),
                (&[old.clone(), new], &[("10.0.0.1", routed(VETH_B))]),
            ],
        );
        assert_eq!(places, at(&[("new", VETH_B), ("old", VETH_A)]));
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn a_claim_by_many_is_reported_for_each_with_a_short_list() {
        let pods: Vec<Sought> = (1..=9)
            .map(|n| pod(&format!("p{n}"), &[&format!("10.0.0.{n}")]))
            .collect();
        let names: Vec<String> = (1..=9).map(|n| format!("10.0.0.{n}")).collect();
        let known: Vec<(&str, Evidence)> = names.iter().map(|a| (a.as_str(), heard(VETH_A))).collect();
        let (places, problems) = settled(&node(), &[(&pods, &known)]);
        assert_eq!((places, problems.len()), (at(&[]), 9));
        assert!(
            problems[0].message.ends_with("pod shop/p4 and 5 more"),
            "{}",
            problems[0]
        );
    }

    #[test]
    fn a_pod_that_loses_all_its_addresses_loses_its_place() {
        let first = [pod("web", &["10.0.0.1"])];
        let unheard = Evidence::Unheard {
            bridge: BRIDGE,
            ask: None,
            silent: false,
        };
        let before = (&first[..], &[("10.0.0.1", heard(VETH_A))][..]);
        let other = [pod("web", &["10.0.0.2"])];
        assert_eq!(
            settled(&node(), &[before, (&other, &[("10.0.0.2", unheard.clone())])]),
            (at(&[]), vec![])
        );
        // One more is no loss.
        let both = [pod("web", &["10.0.0.1", "fd00::1"])];
        let known = [("10.0.0.1", unheard), ("fd00::1", heard(VETH_B))];
        assert_eq!(
            settled(&node(), &[before, (&both, &known)]),
            (at(&[("web", VETH_A)]), vec![])
        );
    }
}
