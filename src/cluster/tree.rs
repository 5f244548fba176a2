//! Objects as an API server sends them: trees of JSON, cut down while they are parsed to the fields that are read.
//!
//! A tree is whatever JSON object there is in an object's place, so that one with an odd field costs itself and not the list
//! or the watch that it comes in. What its fields mean is read afterwards, field by field.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::api::PolicyEndpoint;
use crate::objects::enforcement;

/// What of a tree is kept. A list passes on what is kept of its elements.
#[derive(Debug)]
pub enum Keep {
    All,
    Fields(&'static [(&'static str, Keep)]),
}

/// A kind that is watched as trees.
pub trait Watched: Resource<DynamicType = ()> + Send + Sync + 'static {
    const KEEP: Keep;
}

const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("uid", Keep::All),
    ("resourceVersion", Keep::All),
    ("creationTimestamp", Keep::All),
    ("labels", Keep::All),
    (
        "annotations",
        Keep::Fields(&[
            ("palisade.dev/allowed-source-prefixes", Keep::All),
            (enforcement::ANNOTATION, Keep::All),
        ]),
    ),
]);
const CONTAINERS: Keep = Keep::Fields(&[("ports", Keep::All), ("restartPolicy", Keep::All)]);

impl Watched for Pod {
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", METADATA),
        (
            "spec",
            Keep::Fields(&[
                ("nodeName", Keep::All),
                ("hostNetwork", Keep::All),
                ("containers", CONTAINERS),
                ("initContainers", CONTAINERS),
            ]),
        ),
        (
            "status",
            Keep::Fields(&[
                ("phase", Keep::All),
                ("hostIP", Keep::All),
                ("podIP", Keep::All),
                ("podIPs", Keep::All),
            ]),
        ),
    ]);
}

impl Watched for Namespace {
    const KEEP: Keep = Keep::Fields(&[("metadata", METADATA)]);
}

impl Watched for Service {
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", METADATA),
        (
            "spec",
            Keep::Fields(&[
                ("type", Keep::All),
                ("clusterIP", Keep::All),
                ("clusterIPs", Keep::All),
                ("ports", Keep::All),
            ]),
        ),
    ]);
}

impl Watched for EndpointSlice {
    const KEEP: Keep = Keep::Fields(&[
        ("metadata", METADATA),
        ("addressType", Keep::All),
        (
            "endpoints",
            Keep::Fields(&[("addresses", Keep::All), ("conditions", Keep::All)]),
        ),
        ("ports", Keep::All),
    ]);
}

/// All of the spec: a field of a newer API could narrow the policy, so that it must not be overlooked.
impl Watched for NetworkPolicy {
    const KEEP: Keep = Keep::Fields(&[("metadata", METADATA), ("spec", Keep::All)]);
}

impl Watched for Lease {
    const KEEP: Keep = Keep::Fields(&[("metadata", METADATA), ("spec", Keep::All)]);
}

impl Watched for PolicyEndpoint {
    const KEEP: Keep = Keep::Fields(&[
        (
            "metadata",
            Keep::Fields(&[
                ("name", Keep::All),
                ("namespace", Keep::All),
                ("uid", Keep::All),
                ("resourceVersion", Keep::All),
                ("ownerReferences", Keep::All),
                ("deletionTimestamp", Keep::All),
                ("managedFields", Keep::Fields(&[("manager", Keep::All)])),
            ]),
        ),
        ("spec", Keep::All),
        ("status", Keep::All),
    ]);
}

/// One object of kind `K`.
pub struct Tree<K> {
    /// Name, namespace, UID and resource version; an absent one, or one that is no string, is `None`.
    pub meta: ObjectMeta,
    /// The whole object, cut down.
    pub fields: Map<String, Value>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Tree<K> {
    /// The tree without its kind, for those that handle several alike.
    pub fn untyped(self) -> Tree<()> {
        Tree {
            meta: self.meta,
            fields: self.fields,
            kind: PhantomData,
        }
    }

    pub fn new(fields: Map<String, Value>) -> Self {
        let text = |key| {
            let value = fields.get("metadata").and_then(|metadata| metadata.get(key));
            value.and_then(Value::as_str).map(str::to_string)
        };
        Self {
            meta: ObjectMeta {
                name: text("name"),
                namespace: text("namespace"),
                uid: text("uid"),
                resource_version: text("resourceVersion"),
                ..ObjectMeta::default()
            },
            fields,
            kind: PhantomData,
        }
    }
}

impl<K> Clone for Tree<K> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            fields: self.fields.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Tree<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.meta.name.as_deref().unwrap_or_default();
        write!(f, "{}/{name}", self.meta.namespace.as_deref().unwrap_or_default())
    }
}

impl<K: Watched> Resource for Tree<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<'de, K: Watched> Deserialize<'de> for Tree<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Cut(const { &K::KEEP }).deserialize(deserializer)? {
            Value::Object(fields) => Ok(Self::new(fields)),
            _ => Ok(Self::new(Map::new())),
        }
    }
}

/// Parses a value, and keeps of it what is to be kept.
#[derive(Clone, Copy)]
struct Cut(&'static Keep);

impl<'de> DeserializeSeed<'de> for Cut {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Keep::All => Value::deserialize(deserializer),
            Keep::Fields(_) => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Cut {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = mapping.next_key::<Cow<'de, str>>()? {
            let kept = match self.0 {
                Keep::All => Some(&Keep::All),
                Keep::Fields(known) => known.iter().find(|(name, _)| *name == key).map(|(_, keep)| keep),
            };
            match kept {
                Some(keep) => {
                    fields.insert(key.into_owned(), mapping.next_value_seed(Cut(keep))?);
                }
                None => {
                    mapping.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = sequence.next_element_seed(self)? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_cut_down_to_what_is_read() {
        let pod = json!({
            "kind": "Pod",
            "metadata": {
                "name": "a", "namespace": "b", "uid": "c", "resourceVersion": "4",
                "managedFields": [{"manager": "x"}],
                "annotations": {
                    "other": "1", "palisade.dev/allowed-source-prefixes": "10.0.0.0/8",
                    "palisade.dev/enforcement": "audit",
                },
            },
            "spec": {
                "nodeName": "n", "volumes": [{}],
                "containers": [{"name": "x", "image": "y", "ports": [{"containerPort": 80}]}],
            },
            "status": {"phase": "Running", "conditions": [{}], "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let tree: Tree<Pod> = serde_json::from_str(&pod.to_string()).unwrap();
        assert_eq!(
            Value::Object(tree.fields),
            json!({
                "metadata": {
                    "name": "a", "namespace": "b", "uid": "c", "resourceVersion": "4",
                    "annotations": {
                        "palisade.dev/allowed-source-prefixes": "10.0.0.0/8", "palisade.dev/enforcement": "audit",
                    },
                },
                "spec": {"nodeName": "n", "containers": [{"ports": [{"containerPort": 80}]}]},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
            })
        );
        assert_eq!(tree.meta.resource_version.as_deref(), Some("4"));
    }

    #[test]
    fn whatever_stands_in_a_fields_place_the_list_is_read() {
        for odd in [
            json!(null),
            json!({}),
            json!({"metadata": 1, "spec": "x"}),
            json!({"metadata": {"name": 1, "labels": [1.5, true]}, "spec": [{"containers": null}]}),
        ] {
            let list = json!([odd, {"metadata": {"name": "good"}}]);
            let trees: Vec<Tree<Pod>> = serde_json::from_str(&list.to_string()).unwrap();
            assert_eq!(trees[1].meta.name.as_deref(), Some("good"), "{odd}");
        }
    }
}
