//! Objects on a real API server, and what resolving says of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::watcher::Event;
use kube::{Api, Client, Resource};
use palisade::api::PolicyEndpoint;
use palisade::cluster::crds;
use palisade::cluster::ledger::Ledger;
use palisade::cluster::tree::{Tree, Watched};
use palisade::model::{Change, Snapshot};
use palisade::objects::Kind;
use palisade::resolve;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

/// How long anything may take that is to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
}

impl Cluster {
    /// With Palisade's definitions.
    pub async fn new(client: Client) -> Self {
        Self::with_definitions(client, crds::definitions().into()).await
    }

    pub async fn with_definitions(client: Client, of: Vec<CustomResourceDefinition>) -> Self {
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        for definition in of {
            definitions
                .create(&PostParams::default(), &definition)
                .await
                .unwrap();
        }
        let cluster = Self { client };
        let endpoints = cluster.all::<PolicyEndpoint>();
        until("the definitions are served", || async {
            endpoints.list(&ListParams::default()).await.is_ok()
        })
        .await;
        cluster
    }

    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub fn of<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn namespace(&self, name: &str) {
        let object = json!({"metadata": {"name": name, "labels": {"team": name}}});
        self.all::<Namespace>()
            .create(&PostParams::default(), &read(object))
            .await
            .unwrap();
    }

    /// A running pod on a node that is not there.
    pub async fn pod(&self, namespace: &str, name: &str, app: &str, address: &str) {
        let pods = self.of::<Pod>(namespace);
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": "node",
                "containers": [{
                    "name": "c", "image": "none",
                    "ports": [{"name": "http", "containerPort": 8080}],
                }],
            },
        });
        pods.create(&PostParams::default(), &read(pod)).await.unwrap();
        let status = json!({"status": {
            "phase": "Running", "hostIP": "192.0.2.1", "podIP": address, "podIPs": [{"ip": address}],
        }});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub async fn policy(&self, namespace: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        });
        self.of::<NetworkPolicy>(namespace)
            .patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object))
            .await
            .unwrap();
    }

    pub async fn delete<K>(&self, namespace: &str, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let now = kube::api::DeleteParams::default().grace_period(0);
        self.of::<K>(namespace).delete(name, &now).await.unwrap();
    }

    pub async fn endpoints(&self) -> Vec<PolicyEndpoint> {
        let list = self.all::<PolicyEndpoint>().list(&ListParams::default()).await;
        list.unwrap().items
    }

    /// Version of each PolicyEndpoint by name.
    pub async fn versions(&self) -> BTreeMap<String, String> {
        let versions = self.endpoints().await.into_iter().map(|endpoint| {
            let metadata = endpoint.metadata;
            (metadata.name.unwrap(), metadata.resource_version.unwrap())
        });
        versions.collect()
    }

    /// Waits until the PolicyEndpoints are, byte by byte, those that resolving from scratch says.
    pub async fn resolved(&self, slice_entries: usize) {
        let begun = Instant::now();
        loop {
            let wanted = self.wanted(slice_entries).await;
            let found: BTreeMap<_, _> = self.endpoints().await.iter().map(essence).collect();
            if wanted == found {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not as resolved:\nwanted {wanted:#?}\nfound {found:#?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wanted(&self, slice_entries: usize) -> BTreeMap<String, String> {
        let mut snapshot = Snapshot::default();
        self.read_into::<Namespace>(Kind::Namespace, &mut snapshot).await;
        self.read_into::<Pod>(Kind::Pod, &mut snapshot).await;
        self.read_into::<Service>(Kind::Service, &mut snapshot).await;
        self.read_into::<EndpointSlice>(Kind::EndpointSlice, &mut snapshot)
            .await;
        self.read_into::<NetworkPolicy>(Kind::Policy, &mut snapshot).await;
        let resolution = resolve::resolve_sliced(&snapshot, slice_entries);
        resolution
            .endpoints
            .values()
            .flatten()
            .map(|endpoint| essence(endpoint))
            .collect()
    }

    async fn read_into<K: Watched>(&self, kind: Kind, snapshot: &mut Snapshot) {
        let list = self.all::<Tree<K>>().list(&ListParams::default()).await.unwrap();
        let mut ledger = Ledger::new(kind);
        for tree in list.items {
            for change in ledger.take(Event::Apply(tree.untyped())) {
                match change {
                    Change::Namespace(object) => snapshot.namespaces.push(object),
                    Change::Pod(object) => snapshot.pods.push(object),
                    Change::Policy(object) => snapshot.policies.push(object),
                    Change::Service(object) => snapshot.services.push(object),
                    Change::EndpointSlice(object) => snapshot.endpoint_slices.push(object),
                    other => panic!("{other} in a list"),
                }
            }
        }
    }
}

/// Name, and all that a publisher says.
fn essence(endpoint: &PolicyEndpoint) -> (String, String) {
    let metadata = &endpoint.metadata;
    let bytes = json(&(&metadata.namespace, &metadata.owner_references, &endpoint.spec));
    (metadata.name.clone().unwrap_or_default(), bytes)
}

pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

pub fn read<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Panics when it is not so in time.
pub async fn until<F: Future<Output = bool>>(what: &str, is: impl Fn() -> F) -> Duration {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}
