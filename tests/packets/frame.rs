//! Frames, byte by byte: what a pod that does not keep to the rules can put on its veth is here too.

#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const GRE: u8 = 47;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PUSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const PROVIDER_VLAN: u16 = 0x88a8;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// What may stand between the IPv6 header and the transport. `units`: of 8 bytes beyond the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    HopByHop {
        units: u8,
    },
    Destination {
        units: u8,
    },
    Routing {
        units: u8,
        segments_left: u8,
    },
    /// `units`: of 4 bytes beyond the first 8.
    Authentication {
        units: u8,
    },
    Fragment(Fragment),
}

/// Which part of a datagram. `offset` in bytes, a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    pub offset: u16,
    pub more: bool,
}

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of what follows all headers of the network layer.
    pub protocol: u8,
    /// What follows all headers of the network layer.
    pub transport: Vec<u8>,
    pub hop_limit: u8,
    /// IPv4: a multiple of 4 bytes, 40 at most.
    pub options: Vec<u8>,
    /// IPv4.
    pub fragment: Option<Fragment>,
    /// IPv6.
    pub extensions: Vec<Extension>,
    /// Ethertype and tag, outermost first.
    pub tags: Vec<(u16, u16)>,
}

impl Packet {
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, transport: Vec<u8>) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4());
        Self {
            source,
            destination,
            protocol,
            transport,
            hop_limit: 64,
            options: Vec::new(),
            fragment: None,
            extensions: Vec::new(),
            tags: Vec::new(),
        }
    }

    /// With 40 bytes of payload, so that it can be fragmented behind its header.
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Self {
        let mut h = ports(from, to);
        h.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        h.extend([0x55; 40]);
        Self::new(from.ip(), to.ip(), TCP, h)
    }

    pub fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        let mut h = ports(from, to);
        h.extend([0, 48, 0, 0]);
        h.extend([0x55; 40]);
        Self::new(from.ip(), to.ip(), UDP, h)
    }

    pub fn sctp(from: SocketAddr, to: SocketAddr) -> Self {
        let mut h = ports(from, to);
        h.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        h.extend([0x55; 40]);
        Self::new(from.ip(), to.ip(), SCTP, h)
    }

    /// ICMP of the addresses' family; `rest` is what follows type, code and checksum.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Self {
        let mut h = vec![kind, code, 0, 0];
        h.extend(rest);
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        Self::new(source, destination, protocol, h)
    }

    pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16) -> Self {
        let kind = if source.is_ipv4() { 8 } else { 128 };
        Self::icmp(source, destination, kind, 0, &echo(id))
    }

    pub fn echo_reply(source: IpAddr, destination: IpAddr, id: u16) -> Self {
        let kind = if source.is_ipv4() { 0 } else { 129 };
        Self::icmp(source, destination, kind, 0, &echo(id))
    }

    /// An ICMP error of a type, with the beginning of what it is about.
    pub fn error(source: IpAddr, destination: IpAddr, kind: u8, quoted: &[u8]) -> Self {
        Self::icmp(source, destination, kind, 0, &[&[0; 4], quoted].concat())
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    pub fn options(mut self, words: usize) -> Self {
        // No operation, which a byte of options says alone.
        self.options = vec![1; words * 4];
        self
    }

    pub fn behind(mut self, extensions: &[Extension]) -> Self {
        self.extensions.extend(extensions);
        self
    }

    pub fn tagged(mut self, ethertype: u16, tag: u16) -> Self {
        self.tags.push((ethertype, tag));
        self
    }

    /// The part of it from `from` up to `to` (bytes of what is fragmented; past the end: all of it).
    pub fn part(&self, id: u32, from: usize, to: usize) -> Self {
        let (mut part, end) = (self.clone(), self.transport.len());
        let (from, to) = (from.min(end), to.min(end));
        part.transport = self.transport[from..to].to_vec();
        let fragment = Fragment {
            id,
            offset: from as u16,
            more: to < end,
        };
        match self.source {
            IpAddr::V4(_) => part.fragment = Some(fragment),
            IpAddr::V6(_) => part.extensions.push(Extension::Fragment(fragment)),
        }
        part
    }

    /// The same packet with its extension headers as part of what can be fragmented.
    pub fn folded(mut self) -> Self {
        let chain = self.chain();
        self.protocol = self.extensions.first().map_or(self.protocol, Extension::protocol);
        self.transport.splice(0..0, chain);
        self.extensions.clear();
        self
    }

    /// The extension headers' bytes.
    fn chain(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, extension) in self.extensions.iter().enumerate() {
            let next = self
                .extensions
                .get(i + 1)
                .map_or(self.protocol, Extension::protocol);
            bytes.extend(extension.bytes(next));
        }
        bytes
    }

    /// The packet without its frame.
    pub fn ip(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x40 | (5 + self.options.len() / 4) as u8, 0];
                let length = 20 + self.options.len() + self.transport.len();
                header.extend((length as u16).to_be_bytes());
                let (id, offset) = self.fragment.map_or((1, 0x4000), |f| {
                    (f.id as u16, (f.offset / 8) | if f.more { 0x2000 } else { 0 })
                });
                header.extend(id.to_be_bytes());
                header.extend(offset.to_be_bytes());
                header.extend([self.hop_limit, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                header.extend(&self.transport);
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut payload = self.chain();
                payload.extend(&self.transport);
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend((payload.len() as u16).to_be_bytes());
                packet.push(self.extensions.first().map_or(self.protocol, Extension::protocol));
                packet.push(self.hop_limit);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(payload);
                packet
            }
            _ => unreachable!("one family"),
        }
    }

    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let ethertype = if self.source.is_ipv4() { IPV4 } else { IPV6 };
        ethernet(&self.tags, ethertype, &self.ip())
    }
}

impl Extension {
    fn protocol(&self) -> u8 {
        match self {
            Self::HopByHop { .. } => 0,
            Self::Routing { .. } => 43,
            Self::Fragment(_) => 44,
            Self::Authentication { .. } => 51,
            Self::Destination { .. } => 60,
        }
    }

    fn bytes(&self, next: u8) -> Vec<u8> {
        match *self {
            Self::HopByHop { units } | Self::Destination { units } => padded(next, units),
            Self::Routing { units, segments_left } => {
                let mut bytes = padded(next, units);
                bytes[2] = 2;
                bytes[3] = segments_left;
                bytes
            }
            Self::Authentication { units } => {
                let mut bytes = vec![0; 8 + usize::from(units) * 4];
                bytes[0] = next;
                bytes[1] = units;
                bytes
            }
            Self::Fragment(Fragment { id, offset, more }) => {
                let mut bytes = vec![next, 0];
                bytes.extend((offset | u16::from(more)).to_be_bytes());
                bytes.extend(id.to_be_bytes());
                bytes
            }
        }
    }
}

fn padded(next: u8, units: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8 + usize::from(units) * 8];
    bytes[0] = next;
    bytes[1] = units;
    bytes
}

fn ports(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    [from.port().to_be_bytes(), to.port().to_be_bytes()].concat()
}

fn echo(id: u16) -> Vec<u8> {
    let mut rest = id.to_be_bytes().to_vec();
    rest.extend([0, 1]);
    rest.extend([0x55; 40]);
    rest
}

/// A broadcast frame, so that a bridge floods it.
pub fn ethernet(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    for (kind, tag) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An ARP packet of an operation (1 asks, 2 answers) for IPv4 over Ethernet.
pub fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend([2, 0, 0, 0, 0, 1]);
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend(target);
    ethernet(&[], ARP, &packet)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
