//! A packet's way through the programs, as its record says.

use std::net::IpAddr;
use std::time::Duration;

use crate::bpf::counters::Reason;
use crate::bpf::inspect::FlowState;
use crate::bpf::plain::Plain;
use crate::bpf::types::{trace, trace_answer, trace_headers};
use crate::bpf::{abi, keys};
use crate::model::Direction;

/// One packet, and how it was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// CLOCK_MONOTONIC.
    pub time: Duration,
    /// As the pod sees it.
    pub direction: Direction,
    /// The pod's host-side interface.
    pub ifindex: u32,
    /// Where the host received it; `None`: the node itself sent it.
    pub received_on: Option<u32>,
    /// Bytes of the frame.
    pub length: u32,
    pub headers: Headers,
    /// What an ICMP error quotes, where that decided: conntrack and policy were asked of it.
    pub quoted: Option<Headers>,
    /// Read in place: TCP or UDP right behind a plain IP header.
    pub plain: bool,
    /// `None`: the interface is nobody's.
    pub pod: Option<PodState>,
    /// Who sends is not asked for a policy.
    pub exempt: Option<Exemption>,
    pub lookup: Lookup,
    /// Passed by its entry in conntrack alone: nothing else was asked.
    pub established: bool,
    /// By direction, in which policy was asked.
    pub answers: [Option<Answer>; 2],
    pub outcome: Outcome,
    /// Why it passed or fell; of an audited one, why it would fall.
    pub reason: Reason,
    /// See [`Kernel::rule_of_counter`](crate::bpf::Kernel::rule_of_counter).
    pub counter: u32,
    /// Conntrack has a new entry for it, or a new one in the old one's place.
    pub recorded: bool,
    /// What a first fragment says was kept for those that follow.
    pub first_kept: bool,
}

/// What the programs read of the headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Behind VLAN tags; 0 of what is quoted.
    pub ethertype: u16,
    /// There is a VLAN tag.
    pub tagged: bool,
    /// `None` where no addresses were read.
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// IANA protocol number, behind extension headers.
    pub protocol: u8,
    /// 0 where there is none, or it was not read. Of ICMP echo: the identifier, on the side of the one that asks.
    pub source_port: u16,
    pub destination_port: u16,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub kind: Kind,
    pub fragment: Option<Fragment>,
    /// Why it cannot be judged as a flow.
    pub unfit: Option<Reason>,
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No addresses: not IP, or cut short before them.
    Unread,
    /// Has a key in conntrack.
    Flow,
    /// ICMP that is neither echo nor error: judged packet by packet.
    Stateless,
    /// Neighbour discovery, router solicitation, MLD.
    Neighbour,
    Arp,
    IcmpError,
    /// Router advertisement, redirect.
    Router,
}

/// Which part of a datagram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    /// Bytes; 0: the first.
    pub offset: u16,
}

/// The pod behind the interface, at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodState {
    /// See [`Kernel::pod_of_slot`](crate::bpf::Kernel::pod_of_slot).
    pub slot: u32,
    /// The packet's address on the pod's side is the pod's own.
    pub own: bool,
    /// By direction.
    pub rule_sets: [RuleSet; 2],
    /// By direction: rises with each change of the rule set. With `epoch`, the stamp of flows that hold.
    pub generations: [u32; 2],
    /// Rises when an address leaves a class.
    pub epoch: u32,
}

/// The rules that hold for a pod in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// 0: open, no policy selects it; 1: nothing is known yet.
    pub psid: u32,
    /// What it does not allow passes.
    pub audited: bool,
}

/// Whose traffic no policy is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// The node's own sockets'.
    Node,
    /// The pod's to itself.
    Itself,
}

/// What conntrack said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It was not asked.
    None,
    Missing,
    Found(Entry),
}

/// A flow's entry, before the packet changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub standing: Standing,
    pub state: FlowState,
    /// In which direction it began, as the pod sees it.
    pub began: Direction,
    /// Who began it was not asked for a policy.
    pub exempt: Option<Exemption>,
    /// Since its last packet, to a second.
    pub age: Duration,
    /// Generation plus epoch of when policy last allowed it.
    pub stamp: u32,
    /// What took its packets.
    pub counter: u32,
}

/// What an entry is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Policy has not changed since it was allowed.
    Current,
    /// Policy has changed: the flow is judged anew.
    Old,
    /// Too old to count.
    Expired,
    /// An earlier pod's at the same interface.
    Foreign,
}

/// What policy said of a flow that begins in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub rule_set: RuleSet,
    /// Of the peer; `None`: no rule on this node names it, or the rule set is open and it was not looked up.
    pub class: Option<u32>,
    /// Where the class was looked up last.
    pub by: Option<ClassSource>,
    /// Of the rule set and the class.
    pub row: Row,
    /// Counters index of what lets it begin; `None`: nothing does.
    pub counter: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassSource {
    /// The exact address.
    Address,
    /// The longest block that it is in.
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// It was not looked up.
    None,
    /// There is none, which denies.
    Missing,
    Deny,
    Allow,
    /// The port decides.
    Table {
        /// Of its topmost node.
        table: u32,
        protocol: u8,
        port: u16,
        /// Of the table, that were read.
        nodes: u8,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outcome {
    Dropped = abi::OUTCOME_DROPPED,
    Allowed = abi::OUTCOME_ALLOWED,
    /// Passed only because the policies that would deny it are in audit.
    Audited = abi::OUTCOME_AUDITED,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Allowed, Self::Audited];
}

impl Traced {
    /// `None` for what no version of the programs sends. `hertz`: jiffies a second.
    pub(super) fn decode(bytes: &[u8], hertz: u32) -> Option<Self> {
        let raw = trace::read(bytes.get(..size_of::<trace>())?)?;
        let has = |step: u32| raw.steps & step != 0;
        let answer = |direction: Direction| Answer::decode(&raw.answer[direction as usize]);
        Some(Self {
            time: Duration::from_nanos(raw.time),
            direction: direction(raw.direction)?,
            ifindex: raw.ifindex,
            received_on: (raw.ingress_ifindex != 0).then_some(raw.ingress_ifindex),
            length: raw.length,
            headers: Headers::decode(&raw.headers)?,
            quoted: match has(abi::TRACE_QUOTED) {
                true => Some(Headers::decode(&raw.quoted)?),
                false => None,
            },
            plain: has(abi::TRACE_PLAIN),
            pod: has(abi::TRACE_POD).then(|| PodState {
                slot: raw.slot,
                own: has(abi::TRACE_OWN),
                rule_sets: raw.psid.map(RuleSet::new),
                generations: raw.generation,
                epoch: raw.epoch,
            }),
            exempt: exemption(raw.exempt),
            lookup: match (has(abi::TRACE_ASKED), has(abi::TRACE_FOUND)) {
                (false, _) => Lookup::None,
                (true, false) => Lookup::Missing,
                (true, true) => Lookup::Found(Entry::decode(&raw, hertz)?),
            },
            established: has(abi::TRACE_ESTABLISHED),
            answers: [answer(Direction::Ingress), answer(Direction::Egress)],
            outcome: Outcome::ALL
                .into_iter()
                .find(|outcome| *outcome as u32 == u32::from(raw.outcome))?,
            reason: Reason::from_number(raw.reason.into())?,
            counter: raw.counter,
            recorded: has(abi::TRACE_RECORDED),
            first_kept: has(abi::TRACE_FIRST_KEPT),
        })
    }
}

impl Headers {
    fn decode(raw: &trace_headers) -> Option<Self> {
        let address = |be: [u32; 4]| match raw.family {
            4 => Some(IpAddr::V4(keys::v4_from(be[0]))),
            6 => Some(IpAddr::V6(keys::v6_from(be))),
            _ => None,
        };
        let fragment = Fragment {
            id: match raw.family {
                // 16 bits, as they stand in the header.
                4 => u16::from_be(raw.id_be as u16).into(),
                _ => u32::from_be(raw.id_be),
            },
            offset: if u32::from(raw.fragment) == abi::FRAGMENT_LATER {
                raw.fragment_offset
            } else {
                0
            },
        };
        Some(Self {
            ethertype: u16::from_be(raw.ethertype_be),
            tagged: raw.tagged != 0,
            source: address(raw.source_be),
            destination: address(raw.destination_be),
            protocol: raw.protocol,
            source_port: u16::from_be(raw.source_port_be),
            destination_port: u16::from_be(raw.destination_port_be),
            tcp_flags: raw.tcp_flags,
            icmp_type: raw.icmp_type,
            kind: match raw.kind.into() {
                abi::KIND_UNREAD => Kind::Unread,
                abi::KIND_FLOW => Kind::Flow,
                abi::KIND_STATELESS => Kind::Stateless,
                abi::KIND_NEIGHBOUR => Kind::Neighbour,
                abi::KIND_ARP => Kind::Arp,
                abi::KIND_ICMP_ERROR => Kind::IcmpError,
                abi::KIND_ROUTER => Kind::Router,
                _ => return None,
            },
            fragment: (u32::from(raw.fragment) != abi::FRAGMENT_NONE).then_some(fragment),
            unfit: match raw.reason {
                0 => None,
                reason => Some(Reason::from_number(reason.into())?),
            },
        })
    }
}

impl RuleSet {
    fn new(word: u32) -> Self {
        Self {
            psid: word & !abi::AUDITED,
            audited: word & abi::AUDITED != 0,
        }
    }

    /// No policy selects the pod.
    pub fn is_open(self) -> bool {
        self.psid == abi::PSID_OPEN
    }

    /// Nothing is known yet of the pod.
    pub fn is_unknown(self) -> bool {
        self.psid == abi::PSID_UNKNOWN
    }
}

impl Entry {
    fn decode(raw: &trace, hertz: u32) -> Option<Self> {
        let flow = &raw.flow;
        let has = |step: u32| raw.steps & step != 0;
        // Another CPU's may be a little later than our now.
        let jiffies = u32::try_from(raw.now.wrapping_sub(flow.seen).cast_signed()).unwrap_or(0);
        Some(Self {
            standing: if has(abi::TRACE_FOREIGN) {
                Standing::Foreign
            } else if has(abi::TRACE_EXPIRED) {
                Standing::Expired
            } else if has(abi::TRACE_CURRENT) {
                Standing::Current
            } else {
                Standing::Old
            },
            state: FlowState::from_number(flow.state)?,
            began: direction(flow.direction)?,
            exempt: exemption(flow.flags),
            age: Duration::from_secs(u64::from(jiffies / hertz.max(1))),
            stamp: flow.stamp,
            counter: flow.counter,
        })
    }
}

impl Answer {
    fn decode(raw: &trace_answer) -> Option<Self> {
        let has = |question: u32| u32::from(raw.question) & question != 0;
        let row = match raw.l4 {
            _ if raw.class_id == 0 => Row::None,
            _ if !has(abi::QUESTION_ROW) => Row::Missing,
            abi::L4_DENY => Row::Deny,
            abi::L4_ALLOW => Row::Allow,
            table => Row::Table {
                table,
                protocol: (raw.place >> 16) as u8,
                port: raw.place as u16,
                nodes: raw.nodes,
            },
        };
        has(abi::QUESTION_ASKED).then_some(Self {
            rule_set: RuleSet::new(raw.psid),
            class: (raw.class_id != 0).then_some(raw.class_id),
            by: if has(abi::QUESTION_ADDRESS) {
                Some(ClassSource::Address)
            } else {
                has(abi::QUESTION_NETWORK).then_some(ClassSource::Block)
            },
            row,
            counter: (raw.counter != 0).then_some(raw.counter),
        })
    }
}

fn direction(number: u8) -> Option<Direction> {
    Direction::ALL.get(usize::from(number)).copied()
}

fn exemption(flags: u8) -> Option<Exemption> {
    match flags.into() {
        abi::CT_NODE => Some(Exemption::Node),
        abi::CT_SELF => Some(Exemption::Itself),
        _ => None,
    }
}
