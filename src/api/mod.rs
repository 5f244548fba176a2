//! The custom resources: PolicyEndpoint, which `resolve` yields and `compile` reads, and its kin for policies of the whole
//! cluster.
//!
//! Group, kind, field names and meaning are those of `networking.k8s.aws/v1alpha1`, so that endpoints of either
//! controller can be enforced by either agent. Fields that only Palisade writes are optional and safe to ignore:
//! who ignores one never allows more.

mod cluster_policy_endpoint;

use std::net::IpAddr;
use std::sync::Arc;

pub use cluster_policy_endpoint::*;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Cidr, Direction, Enforcement, Protocol};

#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.k8s.aws",
    version = "v1alpha1",
    kind = "PolicyEndpoint",
    doc = "What a NetworkPolicy comes to: the addresses and ports that its rules allow, resolved.",
    plural = "policyendpoints",
    namespaced,
    shortname = "pe",
    derive = "PartialEq",
    status = "PolicyEndpointStatus",
    printcolumn = r#"{"name": "Policy", "type": "string", "jsonPath": ".spec.policyRef.name"}"#,
    printcolumn = r#"{"name": "Isolates", "type": "string", "jsonPath": ".spec.podIsolation"}"#,
    printcolumn = r#"{"name": "Enforcement", "type": "string", "jsonPath": ".spec.enforcement"}"#,
    printcolumn = r#"{"name": "Slices", "type": "integer", "jsonPath": ".spec.slice.count", "priority": 1}"#,
    printcolumn = r#"{"name": "Resolved", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Resolved\")].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEndpointSpec {
    pub policy_ref: PolicyRef,
    /// Absent: selects every pod of the namespace, as an empty selector does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_isolation: Vec<Direction>,
    /// Absent: what the policy does not allow is dropped. `Audit`: it passes, and is counted and reported.
    #[serde(default, skip_serializing_if = "Enforcement::is_enforce")]
    pub enforcement: Enforcement,
    /// For people and for other agents: Palisade's agent matches `podSelector` itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_selector_endpoints: Vec<PodEndpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Entry>,
    /// Services through which a selected pod reaches itself, where egress isolation would deny the ClusterIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub self_services: Vec<SelfService>,
    /// Absent: this object is the whole policy, or its publisher does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRef {
    #[schemars(length(min = 1, max = 253))]
    pub name: Arc<str>,
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodEndpoint {
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    #[serde(rename = "podIP")]
    pub pod_ip: IpAddr,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}

/// Addresses and ports that one rule allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// A block, or one address of a pod or a Service.
    pub cidr: Cidr,
    /// Carved out of this entry's `cidr` only.
    #[serde(default = "no_cidrs", skip_serializing_if = "is_empty")]
    pub except: Arc<[Cidr]>,
    /// Empty: every port of every protocol.
    #[serde(default = "no_ports", skip_serializing_if = "is_empty")]
    pub ports: Arc<[Port]>,
    /// Position of the rule in the policy's list, for counters and explanations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Absent: TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Absent: every port of the protocol.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Inclusive. Absent: `port` alone.
    #[schemars(range(min = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    /// `port` came from this named port: it counts only for selected pods with a container port of this name,
    /// protocol and number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
}

/// One Service port of which the pod that owns `pod_ip` is the only ready backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfService {
    #[serde(rename = "podIP")]
    pub pod_ip: IpAddr,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: IpAddr,
    pub protocol: Protocol,
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// Which share of a policy's entries an object carries: the entries whose 64-bit hash, read from its most significant
/// bit, begins with the `log2(count)` bits of `index`. Counts are powers of two and may differ between the slices of
/// one policy; a policy is complete when the sum of `1/count` over its distinct slices is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Slice {
    pub index: u32,
    #[schemars(range(min = 1))]
    pub count: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyEndpointStatus {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

fn no_cidrs() -> Arc<[Cidr]> {
    Arc::default()
}

fn no_ports() -> Arc<[Port]> {
    Arc::default()
}

fn is_empty<T>(list: &Arc<[T]>) -> bool {
    list.is_empty()
}
