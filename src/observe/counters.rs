//! What is read of the kernel at each scrape.

use crate::model::{Direction, ObjectId};

/// What became of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Allowed,
    Dropped,
    /// Passed, only because the policies that would drop it are in audit.
    Audited,
}

impl Outcome {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Dropped => "dropped",
            Self::Audited => "audit",
        }
    }
}

/// Which of a policy's rules of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// None, or it is not known which.
    #[default]
    Unnamed,
    /// Position in the policy's `ingress` or `egress` list.
    Index(u32),
    /// All those together that the policy no longer has.
    Removed,
}

/// Packets and bytes counted since the counter was made. Samples whose labels are equal are added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSample {
    pub direction: Direction,
    pub verdict: Outcome,
    /// The policy that decided; `None` where none did.
    pub policy: Option<ObjectId>,
    pub rule: Rule,
    /// Why, of a fixed small set, as in `rule`, `isolation`, `malformed`.
    pub reason: &'static str,
    pub packets: u64,
    pub bytes: u64,
}

/// How full a map is, in entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub name: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

/// The flows that conntrack knows of one family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// As last counted; `None`: not yet.
    pub entries: Option<u64>,
    pub capacity: u64,
    /// Since the map was made, as the others.
    pub recorded: u64,
    /// That the map did not take.
    pub refused: u64,
    /// Forgotten to make room.
    pub evicted: u64,
}

/// What a scrape reads. It is called on a thread that may block; it must not take a lock that a policy change holds or
/// waits for while anything is computed or written. Counters never fall, but for those whose policy is gone.
pub trait Counters: Send + Sync + 'static {
    fn read(&self) -> Vec<CounterSample>;
    fn maps(&self) -> Vec<MapFill>;
    fn flows(&self) -> Vec<Flows>;
    /// Events that the programs could not send; `None`: it cannot be read.
    fn events_lost(&self) -> Option<u64>;
}
