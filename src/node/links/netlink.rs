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

/// How often a dump is begun anew when the kernel says that something changed meanwhile.
const DUMP_ATTEMPTS: usize = 8;

// What a kernel without IPv6 answers (include/uapi/asm-generic/errno.h).
const EOPNOTSUPP: i32 = -95;
const EAFNOSUPPORT: i32 = -97;

/// What the FIB says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// On the link behind `oif`. `host`: the matching route is to this address alone.
    OnLink { oif: u32, host: bool },
    /// By a gateway, or by several interfaces at once.
    Via { oif: Option<u32> },
    /// It is this machine's own.
    Local,
    /// No route, or one that refuses: the kernel's error number, negative, or 0.
    Unreachable { errno: i32 },
}

impl Route {
    pub fn oif(self) -> Option<u32> {
        match self {
            Self::OnLink { oif, .. } => Some(oif),
            Self::Via { oif } => oif,
            Self::Local | Self::Unreachable { .. } => None,
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

/// What a dump brought.
#[derive(Debug)]
pub(super) struct Dump {
    pub messages: Vec<RouteNetlinkMessage>,
    /// `false`: it changed during each attempt, so something may be missing.
    pub whole: bool,
}

/// Links, neighbours of both families, and bridges' stations.
pub(super) async fn dump_all(handle: &Handle) -> Result<Dump> {
    let mut links = LinkMessage::default();
    links
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let neighbours = [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge].map(|family| {
        let mut neighbours = NeighbourMessage::default();
        neighbours.header.family = family;
        RouteNetlinkMessage::GetNeighbour(neighbours)
    });
    let [v4, v6, stations] = neighbours;
    dump_each(handle, [RouteNetlinkMessage::GetLink(links), v4, v6, stations]).await
}

/// Routes of both families and all tables.
pub(super) async fn dump_routes(handle: &Handle) -> Result<Dump> {
    let requests = [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
        let mut routes = RouteMessage::default();
        routes.header.address_family = family;
        RouteNetlinkMessage::GetRoute(routes)
    });
    dump_each(handle, requests).await
}

async fn dump_each(handle: &Handle, requests: impl IntoIterator<Item = RouteNetlinkMessage>) -> Result<Dump> {
    let mut all = Dump {
        messages: Vec::new(),
        whole: true,
    };
    for request in requests {
        let what = format!(
            "cannot list what netlink message {} asks for",
            request.message_type()
        );
        let Dump { messages, whole } = dump(handle, request).await.context(what)?;
        all.messages.extend(messages);
        all.whole &= whole;
    }
    Ok(all)
}

async fn dump(handle: &Handle, request: RouteNetlinkMessage) -> Result<Dump> {
    let mut all = Dump {
        messages: Vec::new(),
        whole: false,
    };
    for _ in 0..DUMP_ATTEMPTS {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = handle.clone().request(message)?;
        all = Dump {
            messages: Vec::new(),
            whole: true,
        };
        while let Some(answer) = answers.next().await {
            all.whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => all.messages.push(inner),
                NetlinkPayload::Error(error) if matches!(error.raw_code(), EOPNOTSUPP | EAFNOSUPPORT) => {}
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                NetlinkPayload::Overrun(_) => all.whole = false,
                _ => {}
            }
        }
        if all.whole {
            break;
        }
    }
    Ok(all)
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
        // One address that cannot be looked up is that pod's problem, not that of the others.
        NetlinkPayload::Error(error) => Ok(Route::Unreachable {
            errno: error.raw_code(),
        }),
        other => bail!("unexpected answer to the route lookup of {address}: {other:?}"),
    }
}

fn read(route: &RouteMessage, address: IpAddr) -> Route {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Route::Local,
        _ => return Route::Unreachable { errno: 0 },
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
