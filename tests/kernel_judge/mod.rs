//! The kernel as a judge: the image goes into real maps, and each question becomes a frame that runs through the real
//! programs, dressed at random in what the wire allows: options, extension headers, fragments.

// Each test crate that includes this module uses its own share of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use palisade::bpf::{ApplyError, Frame, Judgement, Kernel};
use palisade::compile::{Image, Psid, RuleKey, diff};
use palisade::model::Direction;

use crate::frame::{self, Extension, Packet};
use crate::kernel_support::{Namespace, Pins, ip, veth};
use crate::oracle::{Judge, Question, Rng, Verdict};

/// Interfaces that pods take turns on: more than one cluster has pods, so that no two live pods share one.
const INTERFACES: usize = 20;
/// A receiving link that is no pod's. 0 would be the node itself.
const ELSEWHERE: u32 = 1;
/// Images between two removals of what nothing refers to any more: each takes tens of milliseconds.
const SETTLE: u64 = 64;

/// A connection, as the pod sees it. `client`: port, or echo identifier, of the one that opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub question: Question,
    pub local: IpAddr,
    pub client: u16,
    /// ICMP echo, or else some other ICMP, which is no flow.
    pub echo: bool,
}

/// Programs, maps and interfaces of its own, in a network namespace that it moves the calling thread into.
pub struct KernelJudge {
    kernel: Kernel,
    pins: Pins,
    counters: MapHandle,
    rule_index: MapHandle,
    _namespace: Namespace,
    interfaces: Vec<u32>,
    owners: BTreeMap<Arc<str>, u32>,
    attached: usize,
    loads: u64,
    serial: u32,
    /// Each datagram has an id of its own: a fragment belongs to whichever first one with its id passed.
    datagrams: u32,
    rng: Rng,
}

impl KernelJudge {
    pub fn new(seed: u64) -> Self {
        let pins = Pins::new();
        let namespace = Namespace::enter();
        ip(&["link", "set", "lo", "up"]);
        let interfaces = (0..INTERFACES).map(|i| veth(&format!("pod{i}"))).collect();
        let mut config = pins.config();
        config.sizes.rows = 1 << 14;
        config.sizes.tables = 1 << 13;
        config.sizes.rules = 1 << 13;
        config.sizes.flows4 = 1 << 15;
        config.sizes.flows6 = 1 << 15;
        config.sizes.fragments = 1 << 12;
        config.events_per_second = 0;
        let kernel = Kernel::open(&config).expect("the programs load");
        let map = |name: &str| {
            let path = pins.path(&format!("maps/{name}"));
            MapHandle::from_pinned_path(path).expect("a map of this name")
        };
        Self {
            kernel,
            counters: map("counters"),
            rule_index: map("rule_index"),
            pins,
            _namespace: namespace,
            interfaces,
            owners: BTreeMap::new(),
            attached: 0,
            loads: 0,
            serial: 0,
            datagrams: 0,
            rng: Rng::new(seed ^ 0x6b65_726e_656c),
        }
    }

    /// A connection that nothing in conntrack is about. `None`: the question is none for a packet (see `may_decline`).
    pub fn open(&mut self, q: &Question) -> Option<Flow> {
        let pod = self.kernel.image().pods.get(&q.pod_uid)?;
        let own: Vec<IpAddr> = pod
            .addresses
            .iter()
            .copied()
            .filter(|a| a.is_ipv4() == q.peer.is_ipv4())
            .collect();
        // In IPv6, next header 0 is not a protocol.
        if own.is_empty() || q.peer.is_ipv6() && q.protocol == 0 {
            return None;
        }
        self.serial += 1;
        let flow = Flow {
            question: q.clone(),
            // What goes to an address of one's own comes from it.
            local: if own.contains(&q.peer) {
                q.peer
            } else {
                *self.rng.pick(&own)
            },
            client: 1024 + (self.serial % 64_000) as u16,
            echo: self.rng.one_in(2),
        };
        Some(flow)
    }

    /// What the maps say of it, read entry by entry. `None`: the pod is unknown.
    pub fn maps_say(&self, q: &Question) -> Option<bool> {
        let (slot, _) = self.kernel.slots().find(|(_, uid)| **uid == q.pod_uid)?;
        let inspector = self.kernel.inspector().expect("descriptors");
        let judged = inspector.judge(slot, q.direction, q.peer, q.protocol, q.port);
        Some(judged.expect("readable maps").verdict != Judgement::Denied)
    }

    /// Ports are new for each connection, but not all protocols have some.
    fn forget(&self, flow: &Flow) {
        let (map, key) = self.entry(flow, 0, 0);
        // Mostly there is none.
        let _ = map.delete(&key);
    }

    /// What conntrack has of a flow, for people.
    pub fn remembered(&self, flow: &Flow) -> String {
        let mut ports = match flow.question.protocol {
            frame::TCP | frame::UDP | frame::SCTP => [flow.question.port, flow.client],
            frame::ICMP if flow.echo && flow.local.is_ipv4() => [0, flow.client],
            frame::ICMPV6 if flow.echo && flow.local.is_ipv6() => [0, flow.client],
            _ => [0, 0],
        };
        if flow.question.direction == Direction::Egress {
            ports.reverse();
        }
        let (map, key) = self.entry(flow, ports[0], ports[1]);
        format!(
            "at interface {}: {:?}",
            self.owners[&flow.question.pod_uid],
            map.lookup(&key, MapFlags::ANY)
        )
    }

    /// Its key in conntrack: see bpf/abi.h.
    fn entry(&self, flow: &Flow, local_port: u16, remote_port: u16) -> (MapHandle, Vec<u8>) {
        let (name, mut key) = match flow.local {
            IpAddr::V4(_) => ("ct4", Vec::new()),
            IpAddr::V6(_) => ("ct6", Vec::new()),
        };
        key.extend(self.owners[&flow.question.pod_uid].to_ne_bytes());
        for address in [flow.local, flow.question.peer] {
            match address {
                IpAddr::V4(a) => key.extend(a.octets()),
                IpAddr::V6(a) => key.extend(a.octets()),
            }
        }
        key.extend(local_port.to_be_bytes());
        key.extend(remote_port.to_be_bytes());
        key.extend([flow.question.protocol, 0, 0, 0]);
        (self.map(name), key)
    }

    fn map(&self, name: &str) -> MapHandle {
        let path = self.pins.path(&format!("maps/{name}"));
        MapHandle::from_pinned_path(path).expect("a map of this name")
    }

    /// Packets that the counters of one audit have taken.
    fn audited(&self, by: Option<RuleKey>) -> u64 {
        let Some(RuleKey(key)) = by else { return 0 };
        let index = self.rule_index.lookup(&key.to_ne_bytes(), MapFlags::ANY);
        let index = index
            .expect("readable")
            .expect("the counters of an audit in force");
        let counts = self.counters.lookup_percpu(&index, MapFlags::ANY);
        let counts = counts.expect("readable").expect("a counter of this index");
        let packets = |count: &Vec<u8>| u64::from_ne_bytes(count[..8].try_into().expect("8 bytes"));
        counts.iter().map(packets).sum()
    }

    /// What becomes of the connection's first packet, or of one of a later moment from the one who opened it or the other. What
    /// is audited is known by who counts it: the policies in audit of the direction in which the connection was opened.
    pub fn verdict_of(&mut self, flow: &Flow, moment: Moment) -> Verdict {
        let own = |direction| {
            self.kernel
                .image()
                .pods
                .get(&flow.question.pod_uid)?
                .direction(direction)
                .audited_by
        };
        let audits = Direction::ALL.map(own);
        let before = audits.map(|by| self.audited(by));
        let passes = self.passes(flow, moment);
        let rose: Vec<Direction> = Direction::ALL
            .into_iter()
            .filter(|d| self.audited(audits[*d as usize]) > before[*d as usize])
            .collect();
        match (passes, &rose[..]) {
            // The end of a denied datagram is judged alone, and may pass in its own direction.
            (false, _) => Verdict::Denied,
            (true, []) => Verdict::Allowed,
            (true, [direction]) if *direction == flow.question.direction => Verdict::Audited,
            (passes, rose) => panic!("{moment:?} of {flow:?}: passes {passes}, audited in {rose:?}"),
        }
    }

    fn passes(&mut self, flow: &Flow, moment: Moment) -> bool {
        if moment == Moment::First {
            self.forget(flow);
        }
        let packet = packet(flow, moment);
        let opener = flow.question.direction;
        let direction = match (moment, opener) {
            (Moment::First | Moment::Forth, direction) => direction,
            (Moment::Back, Direction::Ingress) => Direction::Egress,
            (Moment::Back, Direction::Egress) => Direction::Ingress,
        };
        self.datagrams += 1;
        let frames = dress(&mut self.rng, packet, self.datagrams);
        let image = self.kernel.image();
        let pod = image.pods.get(&flow.question.pod_uid);
        let open = pod.is_some_and(|pod| {
            let own = pod.direction(direction);
            own.psid == Psid::OPEN || own.audited_by.is_some()
        });
        let ifindex = self.owners[&flow.question.pod_uid];
        // What a pod sends to itself comes back on the link that it left by.
        let itself = flow.local == flow.question.peer;
        let ingress_ifindex = if itself { ifindex } else { ELSEWHERE };
        let mut parts = Vec::new();
        for bytes in frames {
            let frame = Frame {
                direction,
                ifindex,
                ingress_ifindex,
                bytes: &bytes,
            };
            parts.push(!self.kernel.test_run(frame).expect("BPF_PROG_TEST_RUN").dropped());
        }
        // A datagram has arrived when all of it has; and of one that is denied not even the end passes where a policy isolates.
        if open {
            parts.iter().all(|passed| *passed)
        } else {
            parts.last() == Some(&true)
        }
    }

    /// Each pod on an interface of its own, which it keeps while it lives.
    fn attach(&mut self) {
        let attachments = self.kernel.attachments();
        self.owners = attachments.into_iter().map(|a| (a.uid, a.ifindex)).collect();
        let pods: Vec<Arc<str>> = self.kernel.image().pods.keys().cloned().collect();
        for uid in &pods {
            if self.owners.contains_key(uid) {
                continue;
            }
            let taken = |ifindex: &u32| {
                self.owners
                    .iter()
                    .any(|(owner, i)| i == ifindex && pods.contains(owner))
            };
            let turn = self.interfaces.iter().cycle().skip(self.attached).copied();
            let ifindex = turn
                .take(INTERFACES)
                .find(|i| !taken(i))
                .expect("an interface that no live pod has");
            self.attached = (self.attached + 1) % INTERFACES;
            self.owners.retain(|_, i| *i != ifindex);
            self.kernel.attach(uid, ifindex).expect("attaching");
            self.owners.insert(uid.clone(), ifindex);
        }
    }
}

impl Judge for KernelJudge {
    fn name(&self) -> &'static str {
        "the kernel"
    }

    fn load(&mut self, image: &Image) {
        self.loads += 1;
        let ops = diff(self.kernel.image(), image);
        match self.kernel.publish(&ops) {
            Ok(_) => {}
            Err(ApplyError::Full { .. }) => self.loads = 0,
            Err(error) => panic!("{error}"),
        }
        if self.loads.is_multiple_of(SETTLE) {
            let ops = diff(self.kernel.image(), image);
            self.kernel.apply(&ops).expect("there is room for one image");
        }
        self.attach();
    }

    /// Pods without an address of the peer's family, and numbers that are no protocol.
    fn may_decline(&self) -> bool {
        true
    }

    fn verdict(
        &mut self,
        pod_uid: &str,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        let question = Question {
            pod_uid: pod_uid.into(),
            direction,
            peer,
            protocol,
            port,
        };
        let flow = self.open(&question)?;
        Some(self.verdict_of(&flow, Moment::First))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    First,
    /// Later, from the one who opened it.
    Forth,
    /// Later, from the other.
    Back,
}

fn packet(flow: &Flow, moment: Moment) -> Packet {
    let Question {
        direction,
        peer,
        protocol,
        port,
        ..
    } = flow.question;
    let (opener, other) = match direction {
        Direction::Egress => (flow.local, peer),
        Direction::Ingress => (peer, flow.local),
    };
    let opener = SocketAddr::new(opener, flow.client);
    let other = SocketAddr::new(other, port);
    let (from, to) = match moment {
        Moment::Back => (other, opener),
        Moment::First | Moment::Forth => (opener, other),
    };
    match protocol {
        frame::TCP if moment == Moment::First => Packet::tcp(from, to, frame::SYN),
        frame::TCP => Packet::tcp(from, to, frame::ACK | frame::PUSH),
        frame::UDP => Packet::udp(from, to),
        frame::SCTP => Packet::sctp(from, to),
        frame::ICMP | frame::ICMPV6 if peer.is_ipv4() == (protocol == frame::ICMP) => {
            match (flow.echo, moment) {
                (true, Moment::Back) => Packet::echo_reply(from.ip(), to.ip(), flow.client),
                (true, _) => Packet::echo_request(from.ip(), to.ip(), flow.client),
                // A timestamp, a node information query.
                (false, _) => {
                    let kind = if peer.is_ipv4() { 13 } else { 139 };
                    Packet::icmp(from.ip(), to.ip(), kind, 0, &[0x55; 44])
                }
            }
        }
        _ => Packet::new(from.ip(), to.ip(), protocol, vec![0x55; 48]),
    }
}

/// The frames that carry a packet, in their order, with what may stand in front of a transport header.
fn dress(rng: &mut Rng, mut packet: Packet, id: u32) -> Vec<Vec<u8>> {
    let fragmented = rng.one_in(5);
    if packet.source.is_ipv4() {
        if rng.one_in(3) {
            packet = packet.options(rng.between(1, 10));
        }
        return if fragmented {
            let at = 8 * rng.between(3, 5);
            [packet.part(id, 0, at), packet.part(id, at, usize::MAX)]
                .map(|part| part.frame())
                .to_vec()
        } else {
            vec![packet.frame()]
        };
    }
    let mut headers: Vec<Extension> = Vec::new();
    if rng.one_in(2) {
        let number = rng.between(1, 7);
        headers.extend((0..number).map(|_| extension(rng)));
    }
    if !fragmented {
        if rng.one_in(5) {
            let whole = frame::Fragment {
                id,
                offset: 0,
                more: false,
            };
            let place = rng.between(0, headers.len());
            headers.insert(place, Extension::Fragment(whole));
        }
        return vec![packet.behind(&headers).frame()];
    }
    let (outer, inner) = headers.split_at(rng.between(0, headers.len()));
    let packet = packet.behind(inner).folded();
    let at = packet.transport.len() - 8 * rng.between(1, 3) - packet.transport.len() % 8;
    let carried = |part: Packet| {
        let mut all = outer.to_vec();
        all.extend(&part.extensions);
        Packet {
            extensions: all,
            ..part
        }
        .frame()
    };
    vec![
        carried(packet.part(id, 0, at)),
        carried(packet.part(id, at, usize::MAX)),
    ]
}

fn extension(rng: &mut Rng) -> Extension {
    let units = rng.between(0, 3) as u8;
    match rng.below(4) {
        0 => Extension::HopByHop { units },
        1 => Extension::Destination { units },
        2 => Extension::Routing {
            units,
            segments_left: 0,
        },
        _ => Extension::Authentication { units },
    }
}
