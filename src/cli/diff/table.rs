//! What the policies of one pod's direction say of one class of peers on every port, before and after.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::cli::Verdict;
use crate::compile::{Class, Image, Psid, Row, RuleKey, eval};
use crate::model::{Direction, Pod};

/// Of an address: in the image before, and in the one after.
pub(super) type Classes = [Class; 2];
/// Of a pod's direction, likewise; and whether it is in audit, where the same set is another verdict.
pub(super) type Sets = [(Psid, bool); 2];

/// What policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Decision {
    pub verdict: Verdict,
    /// Whose it is.
    pub by: Option<RuleKey>,
}

impl Decision {
    /// What is in audit passes.
    pub fn passes(self) -> bool {
        self.verdict != Verdict::Deny
    }
}

/// Before and after.
pub(super) type Judged = [Decision; 2];

/// Starts over `protocol << 16 | port`, each of which holds up to the next; the first is 0.
pub(super) struct Table {
    pub segments: Vec<(u32, Judged)>,
    /// Whether some verdict is another one after than before.
    pub changes: bool,
}

/// The tables that were asked for so far, each made once.
pub(super) struct Tables<'a> {
    images: [&'a Image; 2],
    known: BTreeMap<(Direction, Sets, Classes), Rc<Table>>,
    itself: Rc<Table>,
}

impl<'a> Tables<'a> {
    pub fn new(before: &'a Image, after: &'a Image) -> Self {
        Self {
            images: [before, after],
            known: BTreeMap::new(),
            itself: Rc::new(Table {
                segments: vec![(
                    0,
                    [Decision {
                        verdict: Verdict::Allow,
                        by: None,
                    }; 2],
                )],
                changes: false,
            }),
        }
    }

    pub fn classes(&self, address: IpAddr) -> Classes {
        self.images.map(|image| image.class_of(address))
    }

    pub fn sets(&self, pod: &Pod, direction: Direction) -> Sets {
        self.images.map(|image| {
            let pod = image.pods.get(&pod.uid);
            let own = pod.map(|pod| pod.direction(direction));
            own.map_or((Psid::UNKNOWN, false), |own| (own.psid, own.audited_by.is_some()))
        })
    }

    pub fn of(&mut self, pod: &Pod, direction: Direction, peer: IpAddr) -> Rc<Table> {
        // Whatever the class of its own addresses is.
        if pod.addresses.contains(&peer) {
            return self.itself.clone();
        }
        let key = (direction, self.sets(pod, direction), self.classes(peer));
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let (_, sets, classes) = key;
        let mut starts = vec![0];
        for ((image, (psid, _)), class) in self.images.iter().zip(sets).zip(classes) {
            if let Some(Row::L4(key)) = image.rows.get(&(psid, class))
                && let Some(l4) = image.l4.get(key)
            {
                starts.extend(l4.0.iter().map(|&(start, _)| start));
            }
        }
        starts.sort_unstable();
        starts.dedup();
        let mut segments: Vec<(u32, Judged)> = Vec::with_capacity(starts.len());
        for start in starts {
            let (protocol, port) = split(start);
            let judged = self.images.map(|image| {
                let decision = eval(image, &pod.uid, direction, peer, protocol, port);
                Decision {
                    verdict: decision.map_or(Verdict::Deny, Verdict::of),
                    by: decision.and_then(|decision| decision.by),
                }
            });
            if segments.last().is_none_or(|(_, last)| *last != judged) {
                segments.push((start, judged));
            }
        }
        let changes = segments
            .iter()
            .any(|(_, [before, after])| before.passes() != after.passes());
        let table = Rc::new(Table { segments, changes });
        self.known.insert(key, table.clone());
        table
    }
}

/// The protocol and the port of `protocol << 16 | port`.
fn split(key: u32) -> (u8, u16) {
    let [_, protocol, high, low] = key.to_be_bytes();
    (protocol, u16::from_be_bytes([high, low]))
}
