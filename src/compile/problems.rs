//! What in an endpoint cannot be enforced as written, in words for its reader.

use std::fmt::Debug;

use super::ports;
use super::subject;
use crate::api::{Entry, PolicyEndpoint, Port};
use crate::model::{Direction, Problem};

/// Characters of a value that are shown.
const SHOWN: usize = 80;

#[derive(Default)]
pub(super) struct Report(Vec<Problem>);

impl Report {
    /// Sorted, without duplicates.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.0.sort();
        self.0.dedup();
        self.0
    }

    /// The pod selector cannot be read, or the object claims another namespace's policy.
    pub fn subject(&mut self, object: &PolicyEndpoint) {
        if let Err((field, value)) = subject::selector(object.spec.pod_selector.as_ref()) {
            self.add(
                object,
                format!("spec.podSelector.{field}"),
                &value,
                "is not an operator that goes with these values; every pod of the namespace is isolated, none of the rules counts",
                "use In or NotIn with values, Exists or DoesNotExist without",
            );
        } else {
            self.add(
                object,
                "spec.policyRef.namespace".to_string(),
                &*object.spec.policy_ref.namespace,
                "is not the object's own namespace; every pod that it selects is isolated, none of its rules counts",
                "publish endpoints in the namespace of their policy",
            );
        }
    }

    pub fn ports(&mut self, object: &PolicyEndpoint, direction: Direction, entry: usize, list: &[Port]) {
        for (index, port) in list.iter().enumerate() {
            if let Err(message) = ports::range(port) {
                self.add(
                    object,
                    format!("spec.{direction}[{entry}].ports[{index}]"),
                    &(port.port, port.end_port, port.name.as_deref()),
                    &format!("{message}; it allows nothing"),
                    "give a port from 1 to 65535, and an endPort that is not below it",
                );
            }
        }
    }

    pub fn except(&mut self, object: &PolicyEndpoint, direction: Direction, index: usize, entry: &Entry) {
        self.add(
            object,
            format!("spec.{direction}[{index}].except"),
            &entry.except,
            &format!("is not inside {}; what it shares with it is denied", entry.cidr),
            "list only smaller blocks inside the entry's cidr",
        );
    }

    pub fn self_service(&mut self, object: &PolicyEndpoint, index: usize) {
        self.add(
            object,
            format!("spec.selfServices[{index}].port"),
            &0,
            "port 0 does not exist; it allows nothing",
            "give a port from 1 to 65535",
        );
    }

    fn add(
        &mut self,
        object: &PolicyEndpoint,
        field: String,
        value: &(impl Debug + ?Sized),
        message: &str,
        remedy: &str,
    ) {
        let namespace = object
            .metadata
            .namespace
            .as_deref()
            .unwrap_or(&object.spec.policy_ref.namespace);
        let name = object
            .metadata
            .name
            .as_deref()
            .unwrap_or(&object.spec.policy_ref.name);
        self.0.push(Problem {
            object: format!("PolicyEndpoint {namespace}/{name}"),
            field,
            value: format!("{value:?}").chars().take(SHOWN).collect(),
            message: message.to_string(),
            remedy: remedy.to_string(),
        });
    }
}
