//! Requests over one netlink socket: whole dumps, FIB lookups, and asking the kernel to resolve a neighbour.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

/// How often a dump that the kernel calls inconsistent is begun again.
const DUMP_ATTEMPTS: usize = 16;

// What an FIB lookup answers for a destination that has no usable route (include/uapi/asm-generic/errno*.h).
const EACCES: i32 = -13;
const EINVAL: i32 = -22;
const ENETUNREACH: i32 = -101;
const EHOSTUNREACH: i32 = -113;

/// What the FIB says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// On the link behind `oif`. `host`: the matching route is to this address alone.
    OnLink { oif: u32, host: bool },
    /// By a gateway, or by several interfaces at once.
    Via { oif: Option<u32> },
    /// It is this machine's own.
    Local,
    /// No route, or one that refuses.
    Unreachable,
}

impl Route {
    pub fn oif(self) -> Option<u32> {
        match self {
            Self::OnLink { oif, .. } => Some(oif),
            Self::Via { oif } => oif,
            Self::Local | Self::Unreachable => None,
        }
    }
}

/// How a neighbour is brought to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// As if a packet were sent to it.
    Resolve,
    /// It is known, but its bridge port is not: have it confirm itself, and the bridge learns the port from that.
    Confirm,
}

/// Links, neighbours of both families, and bridges' stations.
pub(super) async fn dump_all(handle: &Handle) -> Result<Vec<RouteNetlinkMessage>> {
    let mut links = LinkMessage::default();
    links
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut all = dump(handle, RouteNetlinkMessage::GetLink(links))
        .await
        .context("cannot list links")?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
        let mut neighbours = NeighbourMessage::default();
        neighbours.header.family = family;
        all.extend(
            dump(handle, RouteNetlinkMessage::GetNeighbour(neighbours))
                .await
                .with_context(|| format!("cannot list {family:?} neighbours"))?,
        );
    }
    Ok(all)
}

/// Routes of both families and all tables.
pub(super) async fn dump_routes(handle: &Handle) -> Result<Vec<RouteNetlinkMessage>> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut routes = RouteMessage::default();
        routes.header.address_family = family;
        all.extend(
            dump(handle, RouteNetlinkMessage::GetRoute(routes))
                .await
                .with_context(|| format!("cannot list {family:?} routes"))?,
        );
    }
    Ok(all)
}

async fn dump(handle: &Handle, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
    'attempt: for _ in 0..DUMP_ATTEMPTS {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = handle.clone().request(message)?;
        let (mut all, mut interrupted) = (Vec::new(), false);
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => all.push(inner),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                NetlinkPayload::Overrun(_) => continue 'attempt,
                _ => {}
            }
        }
        if !interrupted {
            return Ok(all);
        }
    }
    bail!("it changed during each of {DUMP_ATTEMPTS} attempts")
}

/// Asks the FIB, as the kernel would for a packet of this machine.
pub(super) async fn lookup(handle: &Handle, address: IpAddr) -> Result<Route> {
    let mut request = RouteMessage::default();
    request.header.address_family = family(address);
    request.header.destination_prefix_length = bits(address);
    // The route itself, not the host entry made from it: it tells the prefix.
    request.header.flags = RouteFlags::FibMatch;
    request
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request));
    message.header.flags = NLM_F_REQUEST;
    let answer = handle.clone().request(message)?.next().await;
    match answer.context("the netlink connection has ended")?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => Ok(read(&route, address)),
        NetlinkPayload::Error(error) => match error.raw_code() {
            EACCES | EINVAL | ENETUNREACH | EHOSTUNREACH => Ok(Route::Unreachable),
            _ => Err(error.to_io()).with_context(|| format!("cannot look up the route to {address}")),
        },
        other => bail!("unexpected answer to the route lookup of {address}: {other:?}"),
    }
}

fn read(route: &RouteMessage, address: IpAddr) -> Route {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Route::Local,
        _ => return Route::Unreachable,
    }
    let oifs = output_interfaces(route);
    let gateway = route.attributes.iter().any(|a| {
        matches!(
            a,
            RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::MultiPath(_)
                | RouteAttribute::Encap(_)
        )
    });
    match oifs.as_slice() {
        [oif] if !gateway => Route::OnLink {
            oif: *oif,
            host: route.header.destination_prefix_length == bits(address)
                && destination(route).is_none_or(|to| to == address),
        },
        oifs => Route::Via {
            oif: oifs.first().copied(),
        },
    }
}

/// Of a route: one, or those of all its next hops.
pub(super) fn output_interfaces(route: &RouteMessage) -> Vec<u32> {
    route
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(oif) => vec![*oif],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
        .collect()
}

pub(super) fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })
}

/// Has the kernel ask `address` on `ifindex`. The answer, or its absence, comes as a notification.
///
/// # Errors
/// Fails without CAP_NET_ADMIN, and where the interface or the neighbour is gone by now.
pub(super) async fn ask(handle: &Handle, ifindex: u32, address: IpAddr, how: Ask) -> Result<()> {
    let mut request = NeighbourMessage::default();
    request.header.family = family(address);
    request.header.ifindex = ifindex;
    request
        .attributes
        .push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(a) => NeighbourAddress::Inet(a),
            IpAddr::V6(a) => NeighbourAddress::Inet6(a),
        }));
    let mut flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
    match how {
        Ask::Resolve => {
            request.header.flags = NeighbourFlags::Use;
            flags |= NLM_F_CREATE;
        }
        Ask::Confirm => request.header.state = NeighbourState::Probe,
    }
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(request));
    message.header.flags = flags;
    let mut answers = handle.clone().request(message)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io()).with_context(|| format!("cannot ask for the neighbour {address}"));
        }
    }
    Ok(())
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
