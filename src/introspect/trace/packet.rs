//! One packet's way, as JSON.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bpf::{
    Answer, ClassSource, Entry, Exemption, Headers, Kind, Lookup, Named, Outcome, Reason, Row, RuleSet,
    Standing, Traced,
};
use crate::compile::RuleInfo;
use crate::introspect::flow::{End, ISOLATION, RULE, Verdict};
use crate::introspect::spelling::{self, lowercase, name, names};
use crate::model::{Direction, ObjectId};

/// A packet, and what the programs did with it, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packet {
    /// When it was judged.
    pub time: Timestamp,
    pub node: Arc<str>,
    /// The pod that is judged. `None`: the interface is nobody's (any more).
    #[serde(with = "name", default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectId>,
    /// The pod's interface on the host.
    pub ifindex: u32,
    /// Where the host received it. `None`: the node itself sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_on: Option<u32>,
    /// As the pod sees it.
    #[serde(with = "lowercase")]
    pub direction: Direction,
    /// Bytes of the frame.
    pub length: u32,
    pub headers: PacketHeaders,
    /// What an ICMP error quotes, where conntrack and policy were asked of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quoted: Option<PacketHeaders>,
    /// Passed by its entry in conntrack alone; otherwise all the rest was looked at.
    pub established: bool,
    /// The address on the pod's side is the pod's own. `None`: nothing is known of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_address: Option<bool>,
    /// `node` or `self`: who sends is not asked for a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exempt: Option<Cow<'static, str>>,
    pub conntrack: Conntrack,
    /// What was asked of policy, and its answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<Question>,
    pub verdict: Verdict,
    /// What decided.
    pub by: By,
    /// Conntrack has a new entry for it.
    pub recorded: bool,
    /// What this first fragment says was kept for those that follow.
    pub first_kept: bool,
}

/// What the programs read of the headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketHeaders {
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, another IP protocol's number, or an ethertype such as `0x0806`.
    pub protocol: Cow<'static, str>,
    /// `None` where no addresses were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<End>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<End>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Of ICMP echo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<PartOf>,
    /// There is a VLAN tag.
    pub tagged: bool,
    /// `flow`, `stateless`, `neighbour`, `arp`, `icmpError`, `router` or `unread`.
    pub kind: Cow<'static, str>,
    /// Read in place, as plain TCP and UDP are; otherwise by walking all headers.
    pub in_place: bool,
    /// Why it cannot be judged as a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Cow<'static, str>>,
}

/// Which part of which datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOf {
    pub id: u32,
    /// Bytes; 0: the first part.
    pub offset: u16,
}

/// What conntrack said, before the packet changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lookup", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Conntrack {
    /// It was not asked.
    None,
    Miss,
    Hit {
        /// `current`, `old` (policy has changed since), `expired` or `foreign` (an earlier pod's).
        standing: Cow<'static, str>,
        /// `syn`, `established`, `closing`, `new`, `answered`, `sctp` or `echo`.
        state: Cow<'static, str>,
        /// In which direction it began.
        #[serde(with = "lowercase")]
        began: Direction,
        /// Who began it was not asked for a policy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exempt: Option<Cow<'static, str>>,
        /// Since its last packet.
        age_seconds: u64,
        stamp: u32,
        /// The stamp that holds now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp_now: Option<u32>,
        /// What took its packets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<By>,
    },
}

/// What policy says of a flow that begins in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    #[serde(with = "lowercase")]
    pub direction: Direction,
    /// `open`, `unknown`, or the number that names these rules.
    pub rule_set: String,
    /// What it does not allow passes.
    pub audited: bool,
    /// Policies that isolate the pod in this direction, as of when this was told.
    #[serde(with = "names", default, skip_serializing_if = "Vec::is_empty")]
    pub isolated_by: Vec<ObjectId>,
    /// Of the peer: which peers of rules it is one of. `None`: of none, or it was not looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// `address` or `block`: where the class was looked up last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_by: Option<Cow<'static, str>>,
    /// Of the rule set and the class: `allow`, `deny`, `table`, or `none`. `None`: it was not looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<Cow<'static, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    pub allows: bool,
    /// The rule that allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
}

/// A walk through a table of ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub id: u32,
    pub protocol: Cow<'static, str>,
    pub port: u16,
    /// That were read.
    pub nodes: u8,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// `rule`, `isolation`, or one of the reasons that the metrics have.
    pub reason: Cow<'static, str>,
    /// Only because these policies are in audit it was not dropped.
    pub audit: bool,
    #[serde(with = "names", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ObjectId>,
    /// As in `spec.ingress[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl By {
    /// `reason`: where no policy decided, or what a packet in audit would be dropped for.
    fn new(rule: Option<&RuleInfo>, reason: Reason) -> Self {
        let audit = matches!(rule, Some(RuleInfo::Audit { .. }));
        let named = |name: &'static str| match reason {
            Reason::Policy => name,
            other => other.name(),
        };
        let (reason, policies, rule) = match rule {
            Some(RuleInfo::Rule(rule)) => (RULE, vec![rule.policy.clone()], Some(spelling::place(rule))),
            Some(RuleInfo::Isolation { policies, .. }) => (named(ISOLATION), policies.to_vec(), None),
            Some(RuleInfo::Audit { policies, .. }) => (named(ISOLATION), policies.to_vec(), None),
            None => (reason.name(), Vec::new(), None),
        };
        Self {
            reason: reason.into(),
            audit,
            policies,
            rule,
        }
    }
}

impl fmt::Display for By {
    /// As in `rule shop/web spec.ingress[0]`, `isolated by shop/db, shop/deny`, `in audit: shop/deny` or `spoofed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policies = spelling::listed(&self.policies);
        match (&*self.reason, &self.rule) {
            (_, Some(rule)) => write!(f, "rule {policies} {rule}"),
            (ISOLATION, None) if self.audit => write!(f, "in audit: {policies}"),
            (reason, None) if self.audit => write!(f, "in audit: {policies}; {reason}"),
            (ISOLATION, None) => write!(f, "isolated by {policies}"),
            (reason, None) => f.write_str(reason),
        }
    }
}

impl Packet {
    /// Without the names of addresses. `time`: the record's, by the machine's clock.
    pub(super) fn new(traced: &Traced, named: &Named, time: Timestamp, node: Arc<str>) -> Self {
        let question = |direction: Direction| {
            let answer = traced.answers[direction as usize].as_ref()?;
            Some(Question::new(direction, answer, named))
        };
        Self {
            time,
            node,
            pod: named.pod.clone(),
            ifindex: traced.ifindex,
            received_on: traced.received_on,
            direction: traced.direction,
            length: traced.length,
            headers: PacketHeaders::new(&traced.headers, traced.plain),
            quoted: (traced.quoted.as_ref()).map(|quoted| PacketHeaders::new(quoted, false)),
            established: traced.established,
            own_address: (traced.pod.as_ref())
                .filter(|_| traced.headers.source.is_some())
                .map(|pod| pod.own),
            exempt: traced.exempt.map(exemption),
            conntrack: match &traced.lookup {
                Lookup::None => Conntrack::None,
                Lookup::Missing => Conntrack::Miss,
                Lookup::Found(entry) => Conntrack::hit(entry, traced, named),
            },
            policy: Direction::ALL.into_iter().filter_map(question).collect(),
            verdict: match traced.outcome {
                Outcome::Dropped => Verdict::Denied,
                Outcome::Allowed => Verdict::Allowed,
                Outcome::Audited => Verdict::Audit,
            },
            by: By::new(named.rule.as_ref(), traced.reason),
            recorded: traced.recorded,
            first_kept: traced.first_kept,
        }
    }
}

impl PacketHeaders {
    fn new(headers: &Headers, in_place: bool) -> Self {
        // What is quoted has no frame around it.
        let protocol = match headers.source {
            Some(_) => spelling::protocol_number(headers.protocol),
            None => spelling::protocol(headers.ethertype, headers.protocol),
        };
        let is_icmp = protocol == spelling::ICMP || protocol == spelling::ICMPV6;
        let end = |address: Option<std::net::IpAddr>, port: u16| {
            address.map(|address| End {
                address,
                port: (port != 0 && !is_icmp).then_some(port),
                pod: None,
                service: None,
            })
        };
        let first = headers.fragment.is_none_or(|fragment| fragment.offset == 0);
        let echo = headers.source_port | headers.destination_port;
        Self {
            source: end(headers.source, headers.source_port),
            destination: end(headers.destination, headers.destination_port),
            tcp_flags: (protocol == "TCP" && first && headers.unfit.is_none() && headers.tcp_flags != 0)
                .then(|| spelling::tcp_flags(headers.tcp_flags)),
            icmp_type: is_icmp.then_some(headers.icmp_type),
            echo: (is_icmp && headers.kind == Kind::Flow).then_some(echo),
            fragment: headers.fragment.map(|fragment| PartOf {
                id: fragment.id,
                offset: fragment.offset,
            }),
            tagged: headers.tagged,
            kind: kind(headers.kind).into(),
            in_place,
            unfit: headers.unfit.map(|reason| reason.name().into()),
            protocol,
        }
    }
}

impl Conntrack {
    fn hit(entry: &Entry, traced: &Traced, named: &Named) -> Self {
        let stamp_now =
            (traced.pod.as_ref()).map(|pod| pod.generations[entry.began as usize].wrapping_add(pod.epoch));
        let standing = match entry.standing {
            Standing::Current => "current",
            Standing::Old => "old",
            Standing::Expired => "expired",
            Standing::Foreign => "foreign",
        };
        Self::Hit {
            standing: standing.into(),
            state: entry.state.name().into(),
            began: entry.began,
            exempt: entry.exempt.map(exemption),
            age_seconds: entry.age.as_secs(),
            stamp: entry.stamp,
            stamp_now,
            by: named
                .flow
                .as_ref()
                .map(|rule| By::new(Some(rule), Reason::Policy)),
        }
    }
}

impl Question {
    fn new(direction: Direction, answer: &Answer, named: &Named) -> Self {
        let isolation = match &named.isolation[direction as usize] {
            Some(RuleInfo::Isolation { policies, .. } | RuleInfo::Audit { policies, .. }) => {
                policies.to_vec()
            }
            _ => Vec::new(),
        };
        let table = match answer.row {
            Row::Table {
                table,
                protocol,
                port,
                nodes,
            } => Some(Table {
                id: table,
                protocol: spelling::protocol_number(protocol),
                port,
                nodes,
            }),
            _ => None,
        };
        let by = named.answers[direction as usize].as_ref();
        Self {
            direction,
            rule_set: rule_set(answer.rule_set),
            audited: answer.rule_set.audited,
            isolated_by: isolation,
            class: answer.class.map(|class| format!("{class:#010x}")),
            class_by: answer.by.map(|by| match by {
                ClassSource::Address => "address".into(),
                ClassSource::Block => "block".into(),
            }),
            row: match answer.row {
                Row::None => None,
                Row::Missing => Some("none".into()),
                Row::Deny => Some("deny".into()),
                Row::Allow => Some("allow".into()),
                Row::Table { .. } => Some("table".into()),
            },
            table,
            allows: answer.counter.is_some(),
            by: by.map(|rule| By::new(Some(rule), Reason::Policy)),
        }
    }
}

fn rule_set(set: RuleSet) -> String {
    if set.is_open() {
        "open".into()
    } else if set.is_unknown() {
        "unknown".into()
    } else {
        format!("{:#010x}", set.psid)
    }
}

fn exemption(exemption: Exemption) -> Cow<'static, str> {
    match exemption {
        Exemption::Node => "node".into(),
        Exemption::Itself => "self".into(),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Unread => "unread",
        Kind::Flow => "flow",
        Kind::Stateless => "stateless",
        Kind::Neighbour => "neighbour",
        Kind::Arp => "arp",
        Kind::IcmpError => "icmpError",
        Kind::Router => "router",
    }
}
