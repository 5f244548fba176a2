//! The published PolicyEndpoints, followed by a watch as an agent would: in, the changes that the API server tells of; out,
//! what is published now, and how many objects and bytes each change took.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::cluster::Cluster;

/// Read as anything that watches them would, and not as Palisade's own types have them.
fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("networking.k8s.aws", "v1alpha1", "PolicyEndpoint"),
        "policyendpoints",
    )
}

/// What a change cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Objects created or changed. One object twice is two.
    pub written: u64,
    pub deleted: u64,
    /// Of these objects, as JSON: what each watcher is sent.
    pub bytes: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.deleted += other.deleted;
        self.bytes += other.bytes;
    }
}

/// All that is published in one namespace, or in all, and the watch that keeps it up to date.
pub struct Endpoints<'a> {
    cluster: &'a Cluster,
    api: Api<DynamicObject>,
    pub now: Published,
}

/// As of the last change that was seen.
pub struct Published {
    version: String,
    objects: BTreeMap<(Option<String>, String), DynamicObject>,
}

impl<'a> Endpoints<'a> {
    pub fn of(cluster: &'a Cluster, namespace: &str) -> Self {
        Self::read(
            cluster,
            Api::namespaced_with(cluster.client.clone(), namespace, &resource()),
        )
    }

    pub fn all(cluster: &'a Cluster) -> Self {
        Self::read(cluster, Api::all_with(cluster.client.clone(), &resource()))
    }

    fn read(cluster: &'a Cluster, api: Api<DynamicObject>) -> Self {
        let list = cluster
            .block_on(api.list(&ListParams::default()))
            .unwrap_or_else(|e| panic!("PolicyEndpoints: {e}"));
        Self {
            cluster,
            api,
            now: Published {
                version: list.metadata.resource_version.expect("a list has a version"),
                objects: list
                    .items
                    .into_iter()
                    .map(|object| (key(&object), object))
                    .collect(),
            },
        }
    }

    /// Follows the changes until `condition` holds, from the last one seen on. None when it does not in time.
    pub fn until(
        &mut self,
        patience: Duration,
        mut condition: impl FnMut(&Published) -> bool,
    ) -> Option<Cost> {
        let cluster = self.cluster;
        let deadline = Instant::now() + patience;
        let mut cost = Cost::default();
        cluster.block_on(async {
            while !condition(&self.now) {
                // The server ends a watch now and then; the next goes on where it ended.
                let watch = self.api.watch(&WatchParams::default(), &self.now.version).await;
                let mut watch = watch.unwrap_or_else(|e| panic!("PolicyEndpoints: {e}")).boxed();
                while let Some(event) = timeout_at(deadline, watch.next()).await.ok()? {
                    cost += self
                        .now
                        .take(event.unwrap_or_else(|e| panic!("PolicyEndpoints: {e}")));
                    if condition(&self.now) {
                        break;
                    }
                }
            }
            Some(cost)
        })
    }

    /// What comes in so much time.
    pub fn during(&mut self, time: Duration) -> Cost {
        let mut cost = Cost::default();
        let cluster = self.cluster;
        let deadline = Instant::now() + time;
        cluster.block_on(async {
            while Instant::now() < deadline {
                let watch = self.api.watch(&WatchParams::default(), &self.now.version).await;
                let mut watch = watch.unwrap_or_else(|e| panic!("PolicyEndpoints: {e}")).boxed();
                while let Ok(Some(event)) = timeout_at(deadline, watch.next()).await {
                    cost += self
                        .now
                        .take(event.unwrap_or_else(|e| panic!("PolicyEndpoints: {e}")));
                }
            }
        });
        cost
    }
}

impl Published {
    /// The published slices of a policy.
    pub fn slices<'b>(&'b self, policy: &'b str) -> impl Iterator<Item = &'b Value> {
        let specs = self.objects.values().filter_map(|object| object.data.get("spec"));
        specs.filter(move |spec| spec["policyRef"]["name"] == policy)
    }

    /// Each `cidr` of the policy's ingress entries; that of one address without its length.
    pub fn sources<'b>(&'b self, policy: &'b str) -> impl Iterator<Item = &'b str> {
        let entries = self.slices(policy).filter_map(|spec| spec["ingress"].as_array());
        let cidrs = entries.flatten().filter_map(|entry| entry["cidr"].as_str());
        cidrs.map(|cidr| cidr.strip_suffix("/32").unwrap_or(cidr))
    }

    /// Whether each ingress entry of the policy names this port, and there is one.
    pub fn opens(&self, policy: &str, port: u16) -> bool {
        let entries = self.slices(policy).filter_map(|spec| spec["ingress"].as_array());
        let mut entries = entries.flatten().peekable();
        entries.peek().is_some()
            && entries.all(|entry| {
                let ports = entry["ports"].as_array();
                ports.is_some_and(|ports| ports.iter().any(|p| p["port"] == port))
            })
    }

    fn take(&mut self, event: WatchEvent<DynamicObject>) -> Cost {
        let (object, gone) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(mark) => {
                self.version = mark.metadata.resource_version;
                return Cost::default();
            }
            WatchEvent::Error(status) => panic!("PolicyEndpoints: {status:?}"),
        };
        self.version = object.resource_version().expect("an object has a version");
        let bytes = serde_json::to_vec(&object).expect("it was JSON").len();
        let cost = Cost {
            written: u64::from(!gone),
            deleted: u64::from(gone),
            bytes: u64::try_from(bytes).expect("a size"),
        };
        if gone {
            self.objects.remove(&key(&object));
        } else {
            self.objects.insert(key(&object), object);
        }
        cost
    }
}

fn key(object: &DynamicObject) -> (Option<String>, String) {
    (object.namespace(), object.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, version: &str, ports: &[u16]) -> DynamicObject {
        let entry =
            |port: &u16| json!({ "cidr": "10.0.0.1/32", "ports": [{ "protocol": "TCP", "port": port }] });
        let entries: Vec<Value> = ports.iter().map(entry).collect();
        let object = json!({
            "apiVersion": "networking.k8s.aws/v1alpha1", "kind": "PolicyEndpoint",
            "metadata": { "namespace": "shop", "name": name, "resourceVersion": version },
            "spec": { "policyRef": { "namespace": "shop", "name": "web" }, "ingress": entries },
        });
        serde_json::from_value(object).expect("an object")
    }

    fn nothing() -> Published {
        Published {
            version: "1".into(),
            objects: BTreeMap::new(),
        }
    }

    #[test]
    fn a_port_is_open_when_each_slice_says_so() {
        let mut now = nothing();
        assert!(!now.opens("web", 80), "nothing is published");
        now.take(WatchEvent::Added(object("web-a", "2", &[80])));
        assert!(now.opens("web", 80));
        now.take(WatchEvent::Added(object("web-b", "3", &[81])));
        assert!(!now.opens("web", 80), "the other slice is of before");
        now.take(WatchEvent::Modified(object("web-b", "4", &[80, 80])));
        assert!(now.opens("web", 80));
        assert_eq!(now.sources("web").collect::<Vec<_>>(), ["10.0.0.1"; 3]);
        assert_eq!(now.slices("other").count(), 0);
    }

    #[test]
    fn each_change_counts_and_the_watch_goes_on_after_it() {
        let mut now = nothing();
        let mut cost = now.take(WatchEvent::Added(object("web-a", "2", &[80])));
        cost += now.take(WatchEvent::Modified(object("web-a", "5", &[81])));
        assert_eq!((cost.written, cost.deleted, now.version.as_str()), (2, 0, "5"));
        let bytes = serde_json::to_vec(&object("web-a", "5", &[81]))
            .expect("JSON")
            .len();
        assert_eq!(cost.bytes, 2 * u64::try_from(bytes).expect("a size"));
        cost += now.take(WatchEvent::Deleted(object("web-a", "7", &[81])));
        assert_eq!((cost.written, cost.deleted, now.version.as_str()), (2, 1, "7"));
        assert_eq!(now.slices("web").count(), 0);
    }
}
