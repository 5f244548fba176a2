//! What packets meet while a change is written.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use palisade::compile::{Image, Op, diff, eval};
use palisade::model::{Direction, Pod};
use proptest::prelude::*;

use crate::world::{ADDRESSES, PORTS};

#[derive(Debug)]
pub struct Probe {
    pub pod: Arc<str>,
    pub direction: Direction,
    pub peer: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

impl Probe {
    /// Of every pod, with all sorts of peers and ports.
    pub fn all(old: &[Pod], new: &[Pod]) -> Vec<Self> {
        let pods: BTreeSet<&Arc<str>> = old.iter().chain(new).map(|p| &p.uid).collect();
        let mut probes = Vec::new();
        for pod in pods {
            for direction in Direction::ALL {
                for address in ADDRESSES {
                    for (protocol, port) in PORTS.into_iter().step_by(2) {
                        probes.push(Self {
                            pod: pod.clone(),
                            direction,
                            peer: address.parse().unwrap(),
                            protocol,
                            port,
                        });
                    }
                }
            }
        }
        probes
    }

    /// A pod that is not known is denied.
    fn verdict(&self, image: &Image) -> Verdict {
        eval(
            image,
            &self.pod,
            self.direction,
            self.peer,
            self.protocol,
            self.port,
        )
        .map_or(Verdict::Denied, |decision| {
            match (decision.allowed, decision.audited) {
                (false, _) => Verdict::Denied,
                (true, true) => Verdict::Audited,
                (true, false) => Verdict::Allowed,
            }
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Denied,
    Audited,
    Allowed,
}

/// Writes what leads from `old` to `new`, one by one: no probe ever meets a third verdict, no flow outlives its
/// permission or is counted as what it is not, and the end is `new`.
pub fn check_change(old: &Image, new: &Image, probes: &[Probe]) -> Result<(), TestCaseError> {
    let ops = diff(old, new);
    prop_assert_eq!(ops.is_empty(), old == new);
    let before: Vec<Verdict> = probes.iter().map(|p| p.verdict(old)).collect();
    let after: Vec<Verdict> = probes.iter().map(|p| p.verdict(new)).collect();
    // As what the kernel may know a flow that it once let through.
    let known = |verdict: Verdict| Vec::from_iter((verdict != Verdict::Denied).then_some(verdict));
    let mut flows: Vec<Vec<Verdict>> = before.iter().copied().map(known).collect();
    let mut state = old.clone();
    for (step, op) in ops.iter().enumerate() {
        state.apply(op);
        let judged_anew = |probe: &Probe| match op {
            Op::BumpEpoch => true,
            Op::SetPod(uid, _) | Op::RemovePod(uid) => *uid == probe.pod,
            _ => false,
        };
        for (index, probe) in probes.iter().enumerate() {
            let now = probe.verdict(&state);
            prop_assert!(
                now == before[index] || now == after[index],
                "{probe:?} is {now:?} after {op:?}, step {step} of {ops:#?}"
            );
            if judged_anew(probe) {
                flows[index].clear();
            }
            flows[index].extend(known(now));
        }
    }
    prop_assert!(&state == new, "{ops:#?} lead to {state:#?} instead of {new:#?}");
    for (index, probe) in probes.iter().enumerate() {
        prop_assert!(
            flows[index].iter().all(|known| *known == after[index]),
            "{probe:?} is {:?}, but its flow lives on: {ops:#?}",
            after[index]
        );
    }
    Ok(())
}
