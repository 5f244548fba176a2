//! What the kernel has said of links, neighbours and bridge ports: dumps and notifications in, lookups out.
//!
//! Every notification is applied in the order in which the kernel sent it, so the table ends at the kernel's state
//! whenever the queue is empty. [`Table::apply`] tells whether a pod's place can have changed by it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};

use super::netlink::{Route, destination, output_interfaces};
use crate::model::Cidr;

pub(super) type Mac = [u8; 6];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Veth,
    Bridge,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub name: String,
    pub kind: Kind,
    /// `None` where the link has no Ethernet address.
    pub mac: Option<Mac>,
    /// Bridge (or other master) that it is a port of; 0: none.
    pub master: u32,
    pub flags: LinkFlags,
    /// Its other end, or what it rests on, is in another network namespace.
    pub leads_elsewhere: bool,
    /// Another one for each link ever seen, also where an index is used again.
    pub incarnation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Asked for, no answer yet. `silent`: nor to the question before.
    Pending { silent: bool },
    /// Nobody answered.
    Failed,
    /// `fixed`: set by an administrator, the kernel never asks again.
    Known { mac: Mac, fixed: bool },
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// Links seen so far.
    pub incarnations: u64,
    pub links: BTreeMap<u32, Link>,
    /// By bridge and address.
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// Bridge, address and VLAN → port.
    stations: BTreeMap<(u32, Mac, u16), u32>,
    /// Raised whenever a bridge gains a port or learns a station: what did not answer before may do now.
    bridge_news: HashMap<u32, u64>,
    /// FIB lookups, until something changes that they may rest on.
    pub routes: HashMap<IpAddr, Route>,
    /// Raised whenever something is dropped from `routes`; an answer asked for before that is not kept.
    pub routes_epoch: u64,
    /// Interfaces of default routes; `None`: ask again.
    pub uplinks: Option<BTreeSet<u32>>,
    /// Raised whenever `uplinks` becomes outdated; a list begun before that is not kept.
    pub uplinks_epoch: u64,
    /// Addresses of the pods last asked for.
    pub sought: BTreeSet<IpAddr>,
}

impl Table {
    /// Takes a whole dump in place of what was known.
    pub fn refill(&mut self, dump: impl IntoIterator<Item = RouteNetlinkMessage>) {
        let before = std::mem::take(self);
        self.sought = before.sought;
        self.incarnations = before.incarnations;
        self.routes_epoch = before.routes_epoch + 1;
        self.uplinks_epoch = before.uplinks_epoch + 1;
        for message in dump {
            self.apply(message);
        }
        for (ifindex, link) in &mut self.links {
            // The same one, as far as can be told: its deletion may be among the notifications that were lost.
            let same = |old: &&Link| (&old.name, old.kind, old.mac) == (&link.name, link.kind, link.mac);
            if let Some(old) = before.links.get(ifindex).filter(same) {
                link.incarnation = old.incarnation;
            }
        }
        for (bridge, news) in before.bridge_news {
            *self.bridge_news.entry(bridge).or_default() += news + 1;
        }
    }

    /// Whether it can have moved a pod.
    pub fn apply(&mut self, message: RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewLink(m) => self.link(m),
            RouteNetlinkMessage::DelLink(m) => self.link_gone(&m),
            RouteNetlinkMessage::NewNeighbour(m) if m.header.family == AddressFamily::Bridge => {
                self.station(&m, true)
            }
            RouteNetlinkMessage::DelNeighbour(m) if m.header.family == AddressFamily::Bridge => {
                self.station(&m, false)
            }
            RouteNetlinkMessage::NewNeighbour(m) => self.neighbour(&m, true),
            RouteNetlinkMessage::DelNeighbour(m) => self.neighbour(&m, false),
            RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m) => self.route(&m),
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
                self.forget_routes(|_, _| true);
                true
            }
            _ => false,
        }
    }

    /// Notes that the kernel is about to ask, so that another failure is seen as one: not all kernels announce that they
    /// ask.
    pub fn asking(&mut self, bridge: u32, address: IpAddr) {
        let known = matches!(
            self.neighbours.get(&(bridge, address)),
            Some(Neighbour::Known { .. })
        );
        if !known {
            let pending = self.pending(bridge, address);
            self.neighbours.insert((bridge, address), pending);
        }
    }

    /// Takes back [`asking`](Self::asking).
    pub fn not_asked(&mut self, bridge: u32, address: IpAddr) {
        if let Some(Neighbour::Pending { .. }) = self.neighbours.get(&(bridge, address)) {
            self.neighbours.remove(&(bridge, address));
        }
    }

    fn pending(&self, ifindex: u32, address: IpAddr) -> Neighbour {
        let before = self.neighbours.get(&(ifindex, address));
        let silent = matches!(
            before,
            Some(Neighbour::Failed | Neighbour::Pending { silent: true })
        );
        Neighbour::Pending { silent }
    }

    /// Counts what has happened on a bridge, to tell whether asking again is worthwhile.
    pub fn bridge_news(&self, bridge: u32) -> u64 {
        self.bridge_news.get(&bridge).copied().unwrap_or_default()
    }

    /// Ports behind which a bridge has learnt an address: one, unless VLANs repeat it.
    pub fn ports(&self, bridge: u32, mac: Mac) -> BTreeSet<u32> {
        self.stations
            .range((bridge, mac, 0)..=(bridge, mac, u16::MAX))
            .map(|(_, port)| *port)
            .collect()
    }

    /// Replaces what a bridge has learnt of one address: VLAN and port.
    #[cfg(test)]
    pub fn set_stations(&mut self, bridge: u32, mac: Mac, ports: &[(u16, u32)]) {
        self.stations = ports
            .iter()
            .map(|(vlan, port)| ((bridge, mac, *vlan), *port))
            .collect();
    }

    pub fn is_veth(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_some_and(|l| l.kind == Kind::Veth)
    }

    /// For messages: the interface's name, or its number where it is gone.
    pub fn name(&self, ifindex: u32) -> String {
        match self.links.get(&ifindex) {
            Some(link) => link.name.clone(),
            None => format!("interface {ifindex}"),
        }
    }

    fn forget_routes(&mut self, mut which: impl FnMut(&IpAddr, &Route) -> bool) {
        self.routes_epoch += 1;
        self.routes.retain(|address, route| !which(address, route));
    }

    fn link(&mut self, message: LinkMessage) -> bool {
        // Bridges also announce their ports in messages of their own family, which carry neither kind nor master.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let ifindex = message.header.index;
        let before = self.links.get(&ifindex).cloned();
        // Some notifications carry but a few attributes: what is absent stays, except the master, whose absence
        // means none in all that tell the kind.
        let mut link = before.clone().unwrap_or_else(|| {
            self.incarnations += 1;
            Link {
                name: String::new(),
                kind: Kind::Other,
                mac: None,
                master: 0,
                flags: LinkFlags::empty(),
                leads_elsewhere: false,
                incarnation: self.incarnations,
            }
        });
        link.flags = message.header.flags & (LinkFlags::Up | LinkFlags::LowerUp);
        let (mut kind, mut master, mut leads_elsewhere) = (None, 0, false);
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
                LinkAttribute::Controller(of) => master = of,
                LinkAttribute::LinkNetNsId(_) => leads_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(InfoKind::Veth) => Some(Kind::Veth),
                        LinkInfo::Kind(InfoKind::Bridge) => Some(Kind::Bridge),
                        LinkInfo::Kind(_) => Some(Kind::Other),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        if let Some(kind) = kind {
            (link.kind, link.master, link.leads_elsewhere) = (kind, master, leads_elsewhere);
        }
        if before.as_ref() == Some(&link) {
            return false;
        }
        if link.master != 0 {
            *self.bridge_news.entry(link.master).or_default() += 1;
        }
        self.links.insert(ifindex, link);
        // Taking an IPv4 interface down removes its routes without a word on any of them, and an address that led elsewhere
        // may be behind an interface that comes up.
        self.forget_routes(|_, route| route.oif() == Some(ifindex) || !matches!(route, Route::OnLink { .. }));
        true
    }

    fn link_gone(&mut self, message: &LinkMessage) -> bool {
        // In the bridge's own family this says only that the port has left.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let gone = message.header.index;
        self.forget_routes(|_, route| route.oif() == Some(gone));
        self.neighbours.retain(|(ifindex, _), _| *ifindex != gone);
        self.stations
            .retain(|(bridge, ..), port| *bridge != gone && *port != gone);
        self.bridge_news.remove(&gone);
        if let Some(uplinks) = &mut self.uplinks {
            uplinks.remove(&gone);
        }
        self.links.remove(&gone).is_some()
    }

    fn neighbour(&mut self, message: &NeighbourMessage, exists: bool) -> bool {
        let ifindex = message.header.ifindex;
        if self.links.get(&ifindex).is_some_and(|l| l.kind != Kind::Bridge) {
            return false;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                _ => {}
            }
        }
        let Some(address) = address else { return false };
        let now = match (exists, message.header.state) {
            (false, _) | (true, NeighbourState::None) => None,
            (true, NeighbourState::Failed) => Some(Neighbour::Failed),
            (true, NeighbourState::Incomplete) => Some(self.pending(ifindex, address)),
            (true, state) => Some(mac.map_or(Neighbour::Failed, |mac| Neighbour::Known {
                mac,
                fixed: matches!(state, NeighbourState::Permanent | NeighbourState::Noarp),
            })),
        };
        let before = match now {
            Some(now) => self.neighbours.insert((ifindex, address), now),
            None => self.neighbours.remove(&(ifindex, address)),
        };
        before != now && !matches!(now, Some(Neighbour::Pending { .. })) && self.sought.contains(&address)
    }

    fn station(&mut self, message: &NeighbourMessage, exists: bool) -> bool {
        let port = message.header.ifindex;
        let (mut bridge, mut mac, mut vlan) = (None, None, 0);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Controller(ifindex) => bridge = Some(*ifindex),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                NeighbourAttribute::Vlan(id) => vlan = *id,
                _ => {}
            }
        }
        // Without a bridge it is a device's own filter; permanent ones are the bridge's own addresses.
        let (Some(bridge), Some(mac)) = (bridge, mac) else {
            return false;
        };
        if message.header.state == NeighbourState::Permanent {
            return false;
        }
        if exists {
            let moved = self.stations.insert((bridge, mac, vlan), port) != Some(port);
            if moved {
                *self.bridge_news.entry(bridge).or_default() += 1;
            }
            moved
        } else {
            // An aged-out station says nothing: what is placed stays, what is not is asked for.
            self.stations.remove(&(bridge, mac, vlan));
            false
        }
    }

    fn route(&mut self, message: &RouteMessage) -> bool {
        if message.header.flags.contains(RouteFlags::Cloned) {
            return false;
        }
        let prefix = message.header.destination_prefix_length;
        let Some(block) = destination(message)
            .and_then(|to| Cidr::new(to, prefix))
            .or_else(|| everything(message))
        else {
            return false;
        };
        if prefix == 0 {
            self.uplinks = None;
            self.uplinks_epoch += 1;
        }
        self.forget_routes(|address, _| block.contains(*address));
        let net = block.net();
        self.sought
            .range(net.network()..=net.broadcast())
            .next()
            .is_some()
    }
}

/// A default route has no destination attribute.
fn everything(message: &RouteMessage) -> Option<Cidr> {
    let [v4, v6] = Cidr::everything();
    match message.header.address_family {
        AddressFamily::Inet => Some(v4),
        AddressFamily::Inet6 => Some(v6),
        _ => None,
    }
}

/// Interfaces of the default routes of a dump.
pub(super) fn uplinks(dump: &[RouteNetlinkMessage]) -> BTreeSet<u32> {
    dump.iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(m) => Some(m),
            _ => None,
        })
        .filter(|m| m.header.destination_prefix_length == 0)
        .filter(|m| {
            m.attributes
                .iter()
                .all(|a| !matches!(a, RouteAttribute::Destination(_)))
        })
        .flat_map(output_interfaces)
        .collect()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteAddress;

    use super::*;

    fn link(ifindex: u32, family: AddressFamily, kind: Option<InfoKind>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.interface_family = family;
        message.attributes = vec![LinkAttribute::IfName(format!("if{ifindex}"))];
        message
            .attributes
            .extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        message
    }

    fn route(to: Option<&str>, prefix: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix;
        let to = to.map(|a| RouteAttribute::Destination(RouteAddress::Inet(a.parse().unwrap())));
        message.attributes = to.into_iter().collect();
        message
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_still_a_link() {
        let mut table = Table::default();
        assert!(table.apply(RouteNetlinkMessage::NewLink(link(
            7,
            AddressFamily::Unspec,
            Some(InfoKind::Veth)
        ))));
        assert!(!table.apply(RouteNetlinkMessage::DelLink(link(7, AddressFamily::Bridge, None))));
        assert!(table.is_veth(7));
        // Nor does a message that does not tell the kind make it another one.
        assert!(!table.apply(RouteNetlinkMessage::NewLink(link(7, AddressFamily::Unspec, None))));
        assert!(table.is_veth(7));
        assert!(table.apply(RouteNetlinkMessage::DelLink(link(7, AddressFamily::Unspec, None))));
        assert!(!table.is_veth(7));
    }

    #[test]
    fn a_route_matters_to_the_addresses_that_it_covers() {
        let pod: IpAddr = "10.1.2.3".parse().unwrap();
        let on_link = Route::OnLink { oif: 7, host: true };
        for (message, matters) in [
            (route(Some("10.1.2.3"), 32), true),
            (route(Some("10.1.0.0"), 16), true),
            (route(None, 0), true),
            (route(Some("10.1.2.4"), 32), false),
            (route(Some("10.2.0.0"), 16), false),
        ] {
            let mut table = Table {
                uplinks: Some(BTreeSet::new()),
                ..Table::default()
            };
            table.sought.insert(pod);
            table.routes.insert(pod, on_link);
            let default = message.header.destination_prefix_length == 0;
            for message in [
                RouteNetlinkMessage::DelRoute(message.clone()),
                RouteNetlinkMessage::NewRoute(message),
            ] {
                table.routes.insert(pod, on_link);
                assert_eq!(table.apply(message.clone()), matters, "{message:?}");
                assert_eq!(table.routes.contains_key(&pod), !matters, "{message:?}");
            }
            assert_eq!(table.uplinks.is_none(), default);
        }
    }

    #[test]
    fn listing_anew_keeps_a_link_that_is_the_same_and_none_that_is_gone() {
        let mut table = Table::default();
        let seen = |ifindex| {
            RouteNetlinkMessage::NewLink(link(ifindex, AddressFamily::Unspec, Some(InfoKind::Veth)))
        };
        table.refill([seen(7), seen(8)]);
        let before = table.links[&7].incarnation;
        let mut renamed = link(8, AddressFamily::Unspec, Some(InfoKind::Veth));
        renamed.attributes[0] = LinkAttribute::IfName("other".into());
        let old = table.links[&8].incarnation;
        table.refill([seen(7), RouteNetlinkMessage::NewLink(renamed)]);
        assert_eq!(table.links[&7].incarnation, before);
        assert_ne!(table.links[&8].incarnation, old);
        table.refill([seen(8)]);
        assert!(!table.is_veth(7));
    }
}
