//! Packets that the programs report, with what only the loop can tell of them: whose slot and whose counter it is at the moment.

use std::collections::HashMap;

use crate::bpf::{Event, Kernel};
use crate::compile::RuleInfo;
use crate::introspect::Seen;
use crate::model::ObjectId;

/// What numbers of events stand for, remembered from one event to the next: a flood has few of them.
#[derive(Debug, Default)]
pub struct Numbers {
    pods: HashMap<u32, Option<ObjectId>>,
    rules: HashMap<u32, Option<RuleInfo>>,
}

impl Numbers {
    /// To be called after each change of what the kernel holds.
    pub fn forget(&mut self) {
        self.pods.clear();
        self.rules.clear();
    }

    pub fn seen(&mut self, kernel: &Kernel, event: Event) -> Seen {
        let pod = self.pods.entry(event.slot).or_insert_with(|| {
            let uid = kernel.pod_of_slot(event.slot)?;
            Some(kernel.image().pods.get(uid)?.id.clone())
        });
        let rule = self
            .rules
            .entry(event.counter)
            .or_insert_with(|| kernel.rule_of_counter(event.counter).cloned());
        Seen {
            pod: pod.clone(),
            rule: rule.clone(),
            event,
        }
    }
}
