//! ClusterPolicyEndpoint: what a policy of the whole cluster comes to. Shape and meaning are those of the same group's kind of
//! that name: rules are ordered, and each says what becomes of what it matches.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PodEndpoint, PolicyEndpointStatus, Port, Slice, no_ports};
use crate::model::Cidr;

#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.k8s.aws",
    version = "v1alpha1",
    kind = "ClusterPolicyEndpoint",
    doc = "What a policy of the whole cluster comes to: addresses and ports, resolved, and what becomes of them.",
    plural = "clusterpolicyendpoints",
    shortname = "cpe",
    derive = "PartialEq",
    status = "PolicyEndpointStatus",
    printcolumn = r#"{"name": "Policy", "type": "string", "jsonPath": ".spec.policyRef.name"}"#,
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier"}"#,
    printcolumn = r#"{"name": "Priority", "type": "integer", "jsonPath": ".spec.priority"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPolicyEndpointSpec {
    pub policy_ref: ClusterPolicyRef,
    pub tier: Tier,
    /// Lower comes first. 0 to 1000.
    #[schemars(range(max = 1000))]
    pub priority: u32,
    /// Absent: the pods are those of `podSelectorEndpoints`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_selector_endpoints: Vec<PodEndpoint>,
    /// In the order in which they count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<ClusterEntry>,
    /// In the order in which they count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<ClusterEntry>,
    /// Absent: this object is the whole policy, or its publisher does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
}

/// The policy; it has no namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ClusterPolicyRef {
    #[schemars(length(min = 1, max = 253))]
    pub name: Arc<str>,
}

/// The pods that the policy is about: those with these labels, in namespaces with these labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    #[serde(default)]
    pub pod_selector: LabelSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// After NetworkPolicies, where none isolates the pod.
    Baseline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    Accept,
    Deny,
    /// On to the next tier.
    Pass,
}

/// Addresses and ports, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEntry {
    /// A block, or one address of a pod or a Service. Absent: the entry is about `domainName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<Cidr>,
    /// Of other publishers: Palisade neither writes nor resolves names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<Arc<str>>,
    /// Empty: every port of every protocol.
    #[serde(default = "no_ports", skip_serializing_if = "super::is_empty")]
    pub ports: Arc<[Port]>,
    pub action: Action,
    /// Position of the rule in the policy's list, for counters and explanations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
}
