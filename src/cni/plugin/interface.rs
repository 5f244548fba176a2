//! The host's side of the pod's interface.
//!
//! The plugins before this one name the host's interfaces; the kernel says which of them is the other end of the pod's.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::failure::{Code, Failure};

const REMEDY: &str = "Palisade enforces on veths, as ptp, bridge, kindnet, flannel, Calico and the AWS VPC CNI make them; check \
                      which plugin comes before it in the CNI configuration";

/// A link as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    is_veth: bool,
    /// Index of its other end, in the namespace of that.
    peer: Option<u32>,
}

/// Names of the host's interfaces that may be the pod's: one, where the pod's namespace can be entered.
///
/// # Errors
/// There is none, or it cannot be told which.
pub fn find(named: &[String], netns: &Path, ifname: &str) -> Result<Vec<String>, Failure> {
    let unknown = |message: String| Failure::new(Code::NoInterface, message, REMEDY);
    let host = Links::open().map_err(|error| Failure::new(Code::InputOutput, format!("{error:#}"), ""))?;
    let there: Vec<Link> = named
        .iter()
        .filter_map(|name| host.by_name(name).ok().flatten())
        .collect();
    let pods = match in_namespace(netns, || Links::open()?.by_name(ifname)) {
        Ok(Some(link)) => link,
        Ok(None) => {
            return Err(unknown(format!(
                "there is no interface {ifname} in {}",
                netns.display()
            )));
        }
        // Named alone, it is taken at its word.
        Err(error) => {
            let mut veths = there.into_iter().filter(|link| link.is_veth);
            return match (veths.next(), veths.next()) {
                (Some(only), None) => Ok(vec![only.name]),
                _ => Err(unknown(format!(
                    "prevResult.interfaces names no single veth of the host, and {ifname} cannot be looked at: {error:#}"
                ))),
            };
        }
    };
    if !pods.is_veth {
        return Err(unknown(format!("{ifname} of the pod is no veth")));
    }
    let other_end = pods.peer.and_then(|index| host.by_index(index).ok().flatten());
    let Some(other_end) = other_end.filter(|link| link.is_veth && link.peer == Some(pods.index)) else {
        return Err(unknown(format!("the other end of {ifname} is not on the host")));
    };
    if !there.is_empty() && !there.contains(&other_end) {
        let names: Vec<&str> = there.iter().map(|link| &*link.name).collect();
        return Err(unknown(format!(
            "prevResult.interfaces: the other end of {ifname} is {}, not {}",
            other_end.name,
            names.join(" or ")
        )));
    }
    Ok(vec![other_end.name])
}

/// Does `work` on a thread that has entered the namespace, and ends there.
fn in_namespace<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let netns_file = File::open(netns).with_context(|| format!("cannot open {}", netns.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(netns_file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", netns.display()))?;
            work()
        });
        inside
            .join()
            .unwrap_or_else(|_| bail!("the thread in {} panicked", netns.display()))
    })
}

/// The links of the namespace that it was opened in.
struct Links(Socket);

impl Links {
    fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        Ok(Self(socket))
    }

    fn by_name(&self, name: &str) -> Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.into()));
        self.get(request)
    }

    fn by_index(&self, index: u32) -> Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.get(request)
    }

    fn get(&self, mut request: LinkMessage) -> Result<Option<Link>> {
        request
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(request));
        message.header.flags = NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).context("cannot ask for a link")?;
        let (answer, _) = self.0.recv_from_full().context("cannot read a link")?;
        let answer =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).context("cannot read a link")?;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(read(link))),
            NetlinkPayload::Error(error) if error.raw_code() == -rustix::io::Errno::NODEV.raw_os_error() => {
                Ok(None)
            }
            NetlinkPayload::Error(error) => Err(error.to_io()).context("cannot look at a link"),
            other => bail!("unexpected answer of the kernel: {other:?}"),
        }
    }
}

fn read(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        is_veth: false,
        peer: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    link
}
