//! Evidence → places: which veth each pod is behind, by what the FIB, the neighbours and the bridges say.
//!
//! - A host route (/32, /128) by a veth is an administrator's word and is followed whenever it changes.
//! - What a bridge has learnt is hearsay: any of its ports can claim another's address. So it places a pod that has no
//!   place, and otherwise moves it only where its veth is contested or it has lost an address. A place that nothing
//!   confirms any more (a quiet pod's bridge entry ages out after minutes) stands until its veth is gone.
//! - A veth has one pod. Who holds it keeps it; other claimants get no place, and each is reported.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
        Route::Unreachable { errno: 0 } => {
            return refused("the route to it refuses packets".into(), ROUTE_REMEDY);
        }
        Route::Unreachable { errno } => {
            let error = std::io::Error::from_raw_os_error(-errno);
            return refused(format!("the kernel knows no route to it: {error}"), ROUTE_REMEDY);
        }
    };
    let name = || table.name(oif);
    match table.links.get(&oif).map(|link| link.kind) {
        Some(Kind::Veth) if is_uplink(table, oif) => refused(
            format!(
                "the route to it goes by {}, which holds the default route",
                name()
            ),
            UPLINK_REMEDY,
        ),
        Some(Kind::Veth) if host => Evidence::Veth {
            ifindex: oif,
            by_route: true,
        },
        Some(Kind::Veth) => refused(
            format!(
                "{} is reached by a route to a whole network, so more than one pod may be behind it",
                name()
            ),
            ROUTE_REMEDY,
        ),
        Some(Kind::Bridge) => on_bridge(table, oif, address),
        Some(Kind::Other) | None => refused(
            format!("the route to it goes by {}, which is no veth", name()),
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

/// Where a pod is, kept from one time to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub ifindex: u32,
    incarnation: u64,
    /// The addresses that led to it.
    addresses: Vec<IpAddr>,
}

pub(super) type Places = BTreeMap<Arc<str>, Place>;

/// One veth that the evidence for a pod names.
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
    let claims = claims(table, pods, known, &mut problems);
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
        let now = held(table, pod, before);
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
    let mut places = Places::new();
    for (ifindex, by) in wanted {
        let holder = match by[..] {
            [only] => Some(only),
            _ => {
                let message = format!("veth {} is claimed by {}", table.name(ifindex), names(&by));
                problems.extend(
                    by.iter()
                        .map(|pod| problem(pod, &pod.addresses, message.clone(), CLAIM_REMEDY)),
                );
                by.into_iter()
                    .find(|pod| held(table, pod, before).is_some_and(|now| now.ifindex == ifindex))
            }
        };
        if let (Some(pod), Some(link)) = (holder, table.links.get(&ifindex)) {
            let (incarnation, addresses) = (link.incarnation, pod.addresses.clone());
            places.insert(
                pod.uid.clone(),
                Place {
                    ifindex,
                    incarnation,
                    addresses,
                },
            );
        }
    }
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

/// The veth of each pod whose addresses agree on one.
fn claims<'a>(
    table: &Table,
    pods: &'a [Sought],
    known: &BTreeMap<IpAddr, Evidence>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'a Arc<str>, Claim> {
    let mut claims = BTreeMap::new();
    for pod in pods {
        let mut veths: BTreeMap<u32, bool> = BTreeMap::new();
        for address in &pod.addresses {
            if let Some(Evidence::Veth { ifindex, by_route }) = known.get(address) {
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

/// Why an address leads nowhere; `None` while the bridge is being asked.
fn obstacle(
    table: &Table,
    pod: &Sought,
    address: IpAddr,
    known: &BTreeMap<IpAddr, Evidence>,
) -> Option<Problem> {
    match known.get(&address)? {
        Evidence::Refused { message, remedy } => Some(problem(pod, &[address], message.clone(), remedy)),
        Evidence::Unheard { bridge, ask: Some(_) } => {
            let message = format!("nothing on bridge {} answers for it yet", table.name(*bridge));
            Some(problem(pod, &[address], message, BRIDGE_REMEDY))
        }
        Evidence::Unheard { ask: None, .. } | Evidence::Veth { .. } => None,
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
