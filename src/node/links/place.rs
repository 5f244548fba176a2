//! Evidence → places: which veth each pod is behind, by what the FIB, the neighbours and the bridges say.
//!
//! - A host route (/32, /128) by a veth is an administrator's word and is followed whenever it changes.
//! - What a bridge has learnt is hearsay: any of its ports can claim another's address. So it places a pod that has no
//!   place, and otherwise moves it only where its veth is contested. A place that nothing confirms any more (a quiet
//!   pod's bridge entry ages out after minutes) stands until its veth is gone.
//! - A veth has one pod. Who holds it keeps it; other claimants get no place, and each is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::Sought;
use super::netlink::{Ask, Route};
use super::table::{Kind, Neighbour, Table};
use crate::model::Problem;

/// What is known of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    Veth {
        ifindex: u32,
        by_route: bool,
    },
    /// The bridge knows not where; it may by asking, unless that is under way.
    Unheard {
        bridge: u32,
        ask: Option<Ask>,
    },
    /// Where it is, no veth of a pod can be.
    Refused {
        message: String,
        remedy: &'static str,
    },
}

const ROUTE_REMEDY: &str = "check that the pod runs on this node, and that its CNI plugin gives it a veth with a host route or a bridge port";
const UPLINK_REMEDY: &str = "correct the pod's address: policy is never enforced on the node's uplink";
const BRIDGE_REMEDY: &str =
    "check that the pod's interface is up and has this address, and that its bridge port is a veth";
const CLAIM_REMEDY: &str =
    "correct the addresses, or remove the pod that no longer runs; who was first keeps the veth";

pub(super) fn evidence(table: &Table, address: IpAddr, route: Route) -> Evidence {
    let refused = |message: String, remedy| Evidence::Refused { message, remedy };
    let (oif, host) = match route {
        Route::OnLink { oif, host } => (oif, host),
        Route::Via { oif } => {
            let by = oif.map_or_else(String::new, |oif| format!(" by {}", table.name(oif)));
            return refused(
                format!("the route to it goes to another machine{by}"),
                ROUTE_REMEDY,
            );
        }
        Route::Local => {
            return refused(
                "it is an address of the node itself".into(),
                "correct the pod's address",
            );
        }
        Route::Unreachable => return refused("there is no route to it".into(), ROUTE_REMEDY),
    };
    let name = table.name(oif);
    match table.links.get(&oif).map(|link| link.kind) {
        Some(Kind::Veth) if is_uplink(table, oif) => refused(
            format!("the route to it goes by {name}, which holds the default route"),
            UPLINK_REMEDY,
        ),
        Some(Kind::Veth) if host => Evidence::Veth {
            ifindex: oif,
            by_route: true,
        },
        Some(Kind::Veth) => refused(
            format!("{name} is reached by a route to a whole network, so more than one pod may be behind it"),
            ROUTE_REMEDY,
        ),
        Some(Kind::Bridge) => on_bridge(table, oif, address),
        Some(Kind::Other) | None => refused(
            format!("the route to it goes by {name}, which is no veth"),
            ROUTE_REMEDY,
        ),
    }
}

fn on_bridge(table: &Table, bridge: u32, address: IpAddr) -> Evidence {
    let (mac, fixed) = match table.neighbours.get(&(bridge, address)) {
        Some(Neighbour::Known { mac, fixed }) => (*mac, *fixed),
        Some(Neighbour::Pending) => return Evidence::Unheard { bridge, ask: None },
        Some(Neighbour::Failed) | None => {
            return Evidence::Unheard {
                bridge,
                ask: Some(Ask::Resolve),
            };
        }
    };
    let ports: Vec<u32> = table.ports(bridge, mac).into_iter().collect();
    let refused = |message| Evidence::Refused {
        message,
        remedy: BRIDGE_REMEDY,
    };
    match ports[..] {
        [] => Evidence::Unheard {
            bridge,
            ask: (!fixed).then_some(Ask::Confirm),
        },
        [port] if is_uplink(table, port) || !table.is_veth(port) => refused(format!(
            "it is behind port {} of bridge {}, which is no pod's veth",
            table.name(port),
            table.name(bridge)
        )),
        [ifindex] => Evidence::Veth {
            ifindex,
            by_route: false,
        },
        [first, second, ..] => refused(format!(
            "its Ethernet address is behind two ports of bridge {}: {} and {}",
            table.name(bridge),
            table.name(first),
            table.name(second)
        )),
    }
}

fn is_uplink(table: &Table, ifindex: u32) -> bool {
    table
        .uplinks
        .as_ref()
        .is_none_or(|uplinks| uplinks.contains(&ifindex))
}

/// Where each pod is, kept from one time to the next.
pub(super) type Places = BTreeMap<Arc<str>, u32>;

/// One veth that the evidence for a pod names, and whether a route did.
#[derive(Clone, Copy)]
struct Claim {
    ifindex: u32,
    by_route: bool,
}

/// New places of `pods`, given what is known of their addresses, and what stands in the way of the others.
pub(super) fn settle(
    table: &Table,
    pods: &[Sought],
    known: &BTreeMap<IpAddr, Evidence>,
    before: &Places,
) -> (Places, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut claims: BTreeMap<&Arc<str>, Claim> = BTreeMap::new();
    for pod in pods {
        let veths: BTreeMap<u32, bool> = pod
            .addresses
            .iter()
            .filter_map(|address| match known.get(address) {
                Some(Evidence::Veth { ifindex, by_route }) => Some((*ifindex, *by_route)),
                _ => None,
            })
            .collect();
        match veths.iter().collect::<Vec<_>>()[..] {
            [] => {}
            [(ifindex, by_route)] => {
                claims.insert(
                    &pod.uid,
                    Claim {
                        ifindex: *ifindex,
                        by_route: *by_route,
                    },
                );
            }
            [(first, _), (second, _), ..] => problems.push(problem(
                pod,
                &pod.addresses,
                format!(
                    "its addresses lead to different veths, {} and {}",
                    table.name(*first),
                    table.name(*second)
                ),
                ROUTE_REMEDY,
            )),
        }
    }
    let mut claimants: BTreeMap<u32, BTreeSet<&Arc<str>>> = BTreeMap::new();
    for (uid, claim) in &claims {
        claimants.entry(claim.ifindex).or_default().insert(uid);
    }
    let held = |uid: &Arc<str>| before.get(uid).copied().filter(|ifindex| table.is_veth(*ifindex));
    let contested = |uid: &Arc<str>, ifindex| {
        claimants
            .get(&ifindex)
            .is_some_and(|by| by.iter().any(|other| *other != uid))
    };

    let mut wanted: BTreeMap<u32, Vec<&Sought>> = BTreeMap::new();
    for pod in pods {
        let want = match (held(&pod.uid), claims.get(&pod.uid)) {
            (None, claim) => claim.map(|c| c.ifindex),
            (Some(now), Some(claim)) if claim.by_route || contested(&pod.uid, now) => Some(claim.ifindex),
            (Some(now), _) => Some(now),
        };
        if let Some(ifindex) = want {
            wanted.entry(ifindex).or_default().push(pod);
        }
    }
    let mut places = Places::new();
    for (ifindex, by) in wanted {
        let holder = match by[..] {
            [only] => Some(only),
            _ => {
                let names: Vec<String> = by.iter().map(|pod| pod.id.to_string()).collect();
                problems.extend(by.iter().map(|pod| {
                    let message = format!(
                        "veth {} is claimed by pods {}",
                        table.name(ifindex),
                        names.join(" and ")
                    );
                    problem(pod, &pod.addresses, message, CLAIM_REMEDY)
                }));
                by.into_iter().find(|pod| held(&pod.uid) == Some(ifindex))
            }
        };
        if let Some(pod) = holder {
            places.insert(pod.uid.clone(), ifindex);
        }
    }
    for pod in pods
        .iter()
        .filter(|pod| !places.contains_key(&pod.uid) && !claims.contains_key(&pod.uid))
    {
        problems.extend(pod.addresses.iter().filter_map(|address| {
            let (message, remedy) = match known.get(address)? {
                Evidence::Refused { message, remedy } => (message.clone(), *remedy),
                Evidence::Unheard { bridge, ask: Some(_) } => (
                    format!("nothing on bridge {} answers for it yet", table.name(*bridge)),
                    BRIDGE_REMEDY,
                ),
                Evidence::Unheard { ask: None, .. } | Evidence::Veth { .. } => return None,
            };
            Some(problem(pod, &[*address], message, remedy))
        }));
    }
    problems.sort();
    problems.dedup();
    (places, problems)
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
