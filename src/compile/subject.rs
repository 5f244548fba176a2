//! Whom an endpoint selects: its namespace, its pod selector and the directions that it isolates.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::api::PolicyEndpoint;
use crate::model::{Direction, ObjectId, Operator, Pod, Requirement, Selector};

/// Objects of one policy with equal subjects are read as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub policy: ObjectId,
    pub namespace: Arc<str>,
    /// `None`: the selector cannot be read. Every pod of the namespace is isolated and no rule counts.
    pub selector: Option<Selector>,
    isolates: [bool; 2],
}

impl Subject {
    pub fn of(endpoint: &PolicyEndpoint) -> Self {
        let policy = ObjectId {
            namespace: endpoint.spec.policy_ref.namespace.clone(),
            name: endpoint.spec.policy_ref.name.clone(),
        };
        let namespace = match &endpoint.metadata.namespace {
            Some(own) if own.as_str() != &*policy.namespace => own.as_str().into(),
            _ => policy.namespace.clone(),
        };
        Self {
            selector: selector(endpoint.spec.pod_selector.as_ref())
                .ok()
                .filter(|_| namespace == policy.namespace),
            policy,
            namespace,
            isolates: Direction::ALL.map(|d| endpoint.spec.pod_isolation.contains(&d)),
        }
    }

    pub fn isolates(&self, direction: Direction) -> bool {
        self.isolates[direction as usize]
    }

    pub fn selects(&self, pod: &Pod) -> bool {
        pod.id.namespace == self.namespace && self.selector.as_ref().is_none_or(|s| s.matches(&pod.labels))
    }
}

/// `Err` names the part that cannot be read, as (field below `spec.podSelector`, value).
pub(super) fn selector(raw: Option<&LabelSelector>) -> Result<Selector, (String, String)> {
    let Some(raw) = raw else {
        return Ok(Selector::everything());
    };
    let labels = raw.match_labels.iter().flatten().map(|(key, value)| {
        Ok(Requirement {
            key: key.as_str().into(),
            operator: Operator::In([value.as_str().into()].into()),
        })
    });
    let expressions = raw
        .match_expressions
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, expression)| {
            let values = || -> Arc<[Arc<str>]> {
                expression
                    .values
                    .iter()
                    .flatten()
                    .map(|v| v.as_str().into())
                    .collect()
            };
            let empty = expression.values.as_ref().is_none_or(Vec::is_empty);
            let operator = match (expression.operator.as_str(), empty) {
                ("In", false) => Operator::In(values()),
                ("NotIn", false) => Operator::NotIn(values()),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                (other, _) => {
                    return Err((format!("matchExpressions[{index}].operator"), other.to_string()));
                }
            };
            Ok(Requirement {
                key: expression.key.as_str().into(),
                operator,
            })
        });
    let requirements: Result<Vec<_>, _> = labels.chain(expressions).collect();
    requirements.map(Selector::new)
}
