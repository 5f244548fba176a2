//! What the kernel's maps must hold, in kernel-independent form: ids are content hashes, so that equal policies
//! give equal images after a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Cidr, Direction, ObjectId, RuleId};

/// Set of peer matchers that an address satisfies. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u32);

/// Canonical list of rules that applies to one (pod, direction). The highest bit is never set: the kernel says there whether
/// the direction is in audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Psid(pub u32);

impl Psid {
    /// No policy selects the pod in this direction.
    pub const OPEN: Self = Self(0);
    /// Nothing is known of the interface's pod: all is denied but what the node itself sends.
    pub const UNKNOWN: Self = Self(1);
    /// Hashes are kept from here on.
    pub const FIRST: u32 = 16;
}

/// Hash of a rule's identity; the key of its counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey(pub u64);

/// Hash of a table's intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4Key(pub u64);

/// All that one node enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// By pod UID.
    pub pods: BTreeMap<Arc<str>, PodImage>,
    /// Exact addresses, each with the class of everything that covers it. Absent: see `networks`.
    pub addresses: BTreeMap<IpAddr, Class>,
    /// Longest prefix wins and carries its whole class (a class of 0 where an `except` ends all matches).
    pub networks: BTreeMap<Cidr, Class>,
    /// Absent: denied.
    pub rows: BTreeMap<(Psid, Class), Row>,
    pub l4: BTreeMap<L4Key, L4>,
    pub rules: BTreeMap<RuleKey, RuleInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodImage {
    pub id: ObjectId,
    pub addresses: Vec<IpAddr>,
    /// What it may send from besides `addresses`.
    pub source_prefixes: Vec<Cidr>,
    /// First packets that it is allowed are reported too.
    pub log_allowed: bool,
    pub ingress: PodDirection,
    pub egress: PodDirection,
}

impl PodImage {
    pub fn direction(&self, direction: Direction) -> PodDirection {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodDirection {
    pub psid: Psid,
    /// Whose counters take what is denied here: a [`RuleInfo::Isolation`]; `None` while nothing is.
    pub denied_by: Option<RuleKey>,
    /// In audit: what `psid` does not allow passes, and the counters of this [`RuleInfo::Audit`] take it.
    pub audited_by: Option<RuleKey>,
}

impl PodDirection {
    /// No policy has a say.
    pub const OPEN: Self = Self {
        psid: Psid::OPEN,
        denied_by: None,
        audited_by: None,
    };
}

/// What one class of peers may do with one set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Every port of every protocol.
    Allow(RuleKey),
    L4(L4Key),
}

/// Sorted starts over `protocol << 16 | port`; each holds up to the next. The first start is 0, so that every value
/// has a verdict. `None`: denied. Protocols without ports are looked up at port 0 of their number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L4(pub Arc<[(u32, Option<RuleKey>)]>);

/// Whose packets a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleInfo {
    /// Allowed by this rule, the first of the policies' rules that allows.
    Rule(RuleId),
    /// Denied because these policies isolate and none allows.
    Isolation {
        direction: Direction,
        policies: Arc<[ObjectId]>,
    },
    /// Passed because these policies, which isolate and none of which allows, are in audit, and no other isolates.
    Audit {
        direction: Direction,
        policies: Arc<[ObjectId]>,
    },
}
