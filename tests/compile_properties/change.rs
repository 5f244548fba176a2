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
    fn allowed(&self, image: &Image) -> bool {
        eval(
            image,
            &self.pod,
            self.direction,
            self.peer,
            self.protocol,
            self.port,
        )
        .is_some_and(|d| d.allowed)
    }
}

/// Writes what leads from `old` to `new`, one by one: no probe ever meets a third verdict, no flow outlives its
/// permission, and the end is `new`.
pub fn check_change(old: &Image, new: &Image, probes: &[Probe]) -> Result<(), TestCaseError> {
    let ops = diff(old, new);
    prop_assert_eq!(ops.is_empty(), old == new);
    let before: Vec<bool> = probes.iter().map(|p| p.allowed(old)).collect();
    let after: Vec<bool> = probes.iter().map(|p| p.allowed(new)).collect();
    // Whether the kernel may know a flow that it once allowed.
    let mut flows = before.clone();
    let mut state = old.clone();
    for (step, op) in ops.iter().enumerate() {
        state.apply(op);
        let judged_anew = |probe: &Probe| match op {
            Op::BumpEpoch => true,
            Op::SetPod(uid, _) | Op::RemovePod(uid) => *uid == probe.pod,
            _ => false,
        };
        for (index, probe) in probes.iter().enumerate() {
            let now = probe.allowed(&state);
            prop_assert!(
                now == before[index] || now == after[index],
                "{probe:?} is {now} after {op:?}, step {step} of {ops:#?}"
            );
            flows[index] = now || flows[index] && !judged_anew(probe);
        }
    }
    prop_assert!(&state == new, "{ops:#?} lead to {state:#?} instead of {new:#?}");
    for (index, probe) in probes.iter().enumerate() {
        prop_assert!(
            !flows[index] || after[index],
            "{probe:?} was cut, but its flow lives on: {ops:#?}"
        );
    }
    Ok(())
}
