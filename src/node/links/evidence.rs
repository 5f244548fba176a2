//! What the FIB, the neighbours and the bridges say of one address.

use std::net::IpAddr;

use super::netlink::{Ask, Route};
use super::table::{Kind, Neighbour, Table};

/// What is known of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    Veth {
        ifindex: u32,
        by_route: bool,
    },
    /// The bridge knows not where.
    Unheard {
        bridge: u32,
        /// What may help; `None` while that is under way, or where nothing does.
        ask: Option<Ask>,
        /// It was asked for in vain.
        silent: bool,
    },
    /// The route to it goes to another machine.
    Elsewhere,
    /// Where it is, no veth of a pod can be.
    Refused {
        message: String,
        remedy: &'static str,
    },
}

pub(super) const ROUTE_REMEDY: &str = "check that the pod runs on this node, and that its CNI plugin gives it a veth with a host route or a bridge port";
const UPLINK_REMEDY: &str = "correct the pod's address: policy is never enforced on the node's uplink";
pub(super) const BRIDGE_REMEDY: &str =
    "check that the pod's interface is up and has this address, and that its bridge port is a veth";

pub(super) fn evidence(table: &Table, address: IpAddr, route: Route) -> Evidence {
    let refused = |message: String, remedy| Evidence::Refused { message, remedy };
    let (oif, host) = match route {
        Route::OnLink { oif, host } => (oif, host),
        Route::Via { .. } => return Evidence::Elsewhere,
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
    let unheard = |ask, silent| Evidence::Unheard { bridge, ask, silent };
    let (mac, fixed) = match table.neighbours.get(&(bridge, address)) {
        Some(Neighbour::Known { mac, fixed }) => (*mac, *fixed),
        Some(Neighbour::Pending { silent }) => return unheard(None, *silent),
        Some(Neighbour::Failed) => return unheard(Some(Ask::Resolve), true),
        None => return unheard(Some(Ask::Resolve), false),
    };
    let ports: Vec<u32> = table.ports(bridge, mac).into_iter().collect();
    let refused = |message| Evidence::Refused {
        message,
        remedy: BRIDGE_REMEDY,
    };
    match ports[..] {
        // A fixed neighbour is never asked: only its own traffic can tell.
        [] if fixed => unheard(None, true),
        [] => unheard(Some(Ask::Confirm), false),
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

/// The first of these names that is a pod's veth: never the uplink, whatever was said.
pub(super) fn told(table: &Table, names: &[String]) -> Option<u32> {
    names.iter().find_map(|name| {
        let by_name = |(ifindex, link): (&u32, &super::table::Link)| {
            (link.name == *name && link.kind == Kind::Veth).then_some(*ifindex)
        };
        let ifindex = table.links.iter().find_map(by_name)?;
        (!is_uplink(table, ifindex)).then_some(ifindex)
    })
}

fn is_uplink(table: &Table, ifindex: u32) -> bool {
    table
        .uplinks
        .as_ref()
        .is_none_or(|uplinks| uplinks.contains(&ifindex))
}

#[cfg(test)]
pub(super) mod tests {
    use rtnetlink::packet_route::link::LinkFlags;

    use super::*;
    use crate::node::links::table::{Link, Mac};

    pub(in crate::node::links) const BRIDGE: u32 = 2;
    pub(in crate::node::links) const UPLINK: u32 = 3;
    pub(in crate::node::links) const VETH_A: u32 = 10;
    pub(in crate::node::links) const VETH_B: u32 = 11;
    pub(in crate::node::links) const MAC: Mac = [2, 0, 0, 0, 0, 1];

    /// A bridge, an uplink that is a veth as on a node in a container, and two pods' veths.
    pub(in crate::node::links) fn node() -> Table {
        let mut table = Table::default();
        table.uplinks = Some([UPLINK].into());
        for (ifindex, kind) in [
            (1, Kind::Other),
            (BRIDGE, Kind::Bridge),
            (UPLINK, Kind::Veth),
            (VETH_A, Kind::Veth),
            (VETH_B, Kind::Veth),
        ] {
            let link = Link {
                name: format!("if{ifindex}"),
                kind,
                mac: None,
                master: 0,
                flags: LinkFlags::Up,
                leads_elsewhere: true,
                incarnation: ifindex.into(),
            };
            table.links.insert(ifindex, link);
        }
        table
    }

    pub(in crate::node::links) fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub(in crate::node::links) fn heard(ifindex: u32) -> Evidence {
        Evidence::Veth {
            ifindex,
            by_route: false,
        }
    }

    pub(in crate::node::links) fn routed(ifindex: u32) -> Evidence {
        Evidence::Veth {
            ifindex,
            by_route: true,
        }
    }

    #[test]
    fn only_a_host_route_by_a_veth_that_is_no_uplink_is_evidence() {
        let mut table = node();
        let to = address("10.0.0.1");
        let on_link = |oif, host| Route::OnLink { oif, host };
        assert_eq!(evidence(&table, to, on_link(VETH_A, true)), routed(VETH_A));
        for (route, words) in [
            (on_link(VETH_A, false), "whole network"),
            (on_link(UPLINK, true), "default route"),
            (on_link(1, true), "no veth"),
            (on_link(99, true), "no veth"),
            (Route::Local, "node itself"),
            (Route::Unreachable { errno: 0 }, "refuses"),
            (Route::Unreachable { errno: -101 }, "Network is unreachable"),
        ] {
            match evidence(&table, to, route) {
                Evidence::Refused { message, remedy } => {
                    assert!(
                        message.contains(words) && !remedy.is_empty(),
                        "{route:?}: {message}"
                    );
                }
                other => panic!("{route:?}: {other:?}"),
            }
        }
        for oif in [Some(VETH_A), None] {
            assert_eq!(evidence(&table, to, Route::Via { oif }), Evidence::Elsewhere);
        }
        // As long as the uplinks are not known, none may pass for a pod's veth.
        table.uplinks = None;
        assert!(matches!(
            evidence(&table, to, on_link(VETH_A, true)),
            Evidence::Refused { .. }
        ));
    }

    #[test]
    fn a_bridge_is_asked_until_it_knows_the_one_veth() {
        let mut table = node();
        let to = address("10.0.0.1");
        let mut on_bridge = |neighbour: Option<Neighbour>, ports: &[(u16, u32)]| {
            table.neighbours = neighbour.map(|n| ((BRIDGE, to), n)).into_iter().collect();
            table.set_stations(BRIDGE, MAC, ports);
            evidence(
                &table,
                to,
                Route::OnLink {
                    oif: BRIDGE,
                    host: false,
                },
            )
        };
        let unheard = |ask, silent| Evidence::Unheard {
            bridge: BRIDGE,
            ask,
            silent,
        };
        let pending = |silent| Some(Neighbour::Pending { silent });
        let known = |fixed| Some(Neighbour::Known { mac: MAC, fixed });
        assert_eq!(on_bridge(None, &[]), unheard(Some(Ask::Resolve), false));
        assert_eq!(on_bridge(pending(false), &[]), unheard(None, false));
        assert_eq!(
            on_bridge(Some(Neighbour::Failed), &[]),
            unheard(Some(Ask::Resolve), true)
        );
        assert_eq!(on_bridge(pending(true), &[]), unheard(None, true));
        assert_eq!(on_bridge(known(false), &[]), unheard(Some(Ask::Confirm), false));
        assert_eq!(on_bridge(known(true), &[]), unheard(None, true));
        assert_eq!(on_bridge(known(false), &[(0, VETH_A)]), heard(VETH_A));
        assert_eq!(on_bridge(known(true), &[(1, VETH_A), (2, VETH_A)]), heard(VETH_A));
        for ports in [
            &[(1, VETH_A), (2, VETH_B)][..],
            &[(0, 1)],
            &[(0, UPLINK)],
            &[(0, 99)],
        ] {
            assert!(
                matches!(on_bridge(known(false), ports), Evidence::Refused { .. }),
                "{ports:?}"
            );
        }
    }
}
