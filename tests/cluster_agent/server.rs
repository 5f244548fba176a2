//! A real API server on this machine's loopback, with the kinds that the agent reads.

use std::path::PathBuf;
use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::api_server::ApiServer;

/// Leaves the test where there is no API server to start; continuous integration must not skip.
#[macro_export]
macro_rules! require_server {
    () => {
        $crate::require_root!();
        if !$crate::api_server::is_built() {
            return;
        }
    };
}

/// Ends on drop, and leaves nothing.
pub struct Server {
    api: ApiServer,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Server {
    /// With PolicyEndpoints as Palisade defines them.
    pub fn with_our_definitions() -> Self {
        let server = Self::start();
        server.define();
        server
    }

    /// PolicyEndpoints as Palisade defines them.
    pub fn define(&self) {
        for definition in palisade::cluster::crds::definitions() {
            self.put(serde_json::to_value(definition).expect("JSON"));
        }
        self.until_served();
    }

    /// With PolicyEndpoints as another publisher may define them: any field goes.
    pub fn with_open_definitions() -> Self {
        let server = Self::start();
        server.define_policy_endpoints();
        server.until_served();
        server
    }

    fn start() -> Self {
        let api = ApiServer::start();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let client = runtime.block_on(api.client());
        api.grant();
        Self { api, runtime, client }
    }

    /// Of Palisade's ServiceAccount: it may do what the manifests let it do.
    pub fn own_kubeconfig(&self) -> PathBuf {
        self.api.own_kubeconfig()
    }

    /// What only the fixture knows.
    pub fn fixture(&self) -> &ApiServer {
        &self.api
    }

    /// Ends the API server, not what it has stored.
    pub fn stop(&self) {
        self.api.stop();
    }

    pub fn go_on(&self) {
        self.api.go_on();
    }

    pub fn port(&self) -> u16 {
        self.api.port()
    }

    fn define_policy_endpoints(&self) {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        self.put(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "policyendpoints.networking.k8s.aws"},
            "spec": {
                "group": "networking.k8s.aws",
                "scope": "Namespaced",
                "names": {"kind": "PolicyEndpoint", "plural": "policyendpoints", "singular": "policyendpoint"},
                "versions": [{
                    "name": "v1alpha1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": open}, "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        }));
    }

    fn until_served(&self) {
        let served = (0..200).any(|_| {
            let list = self
                .runtime
                .block_on(self.api("PolicyEndpoint", "default").list(&Default::default()));
            list.is_ok() || {
                std::thread::sleep(Duration::from_millis(50));
                false
            }
        });
        assert!(served, "PolicyEndpoints are not served");
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "PolicyEndpoint" => ("networking.k8s.aws", "v1alpha1"),
            "NetworkPolicy" => ("networking.k8s.io", "v1"),
            "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1"),
            _ => ("", "v1"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    fn api_of(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
        let api = self.api(&kind, &text(&metadata["namespace"]));
        (api, text(&metadata["name"]))
    }

    /// Makes it, or makes it so.
    pub fn put(&self, object: Value) {
        let (api, name) = self.api_of(&object);
        let parameters = PatchParams::apply("test").force();
        let patch = Patch::Apply(&object);
        let put = api.patch(&name, &parameters, &patch);
        self.runtime
            .block_on(put)
            .unwrap_or_else(|e| panic!("{object}: {e}"));
    }

    /// The UID that it was given.
    pub fn create(&self, object: Value) -> String {
        let (api, _) = self.api_of(&object);
        let new = serde_json::from_value(object.clone()).expect("an object");
        let create = self.runtime.block_on(api.create(&PostParams::default(), &new));
        let created = create.unwrap_or_else(|e| panic!("{object}: {e}"));
        created.metadata.uid.expect("a UID")
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let at_once = DeleteParams::default().grace_period(0);
        let delete = self.api(kind, namespace);
        let deleted = self.runtime.block_on(delete.delete(name, &at_once));
        deleted.unwrap_or_else(|e| panic!("{kind} {namespace}/{name}: {e}"));
    }

    pub fn namespace(&self, name: &str) {
        self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }

    /// A pod that runs on `node`, labelled `app: NAME`.
    pub fn pod(&self, namespace: &str, name: &str, node: &str, addresses: &[std::net::IpAddr]) {
        self.bound_pod(namespace, name, node);
        self.status(namespace, name, addresses, "Running");
    }

    /// A pod that is to run on `node`, and has no address yet; its UID.
    pub fn bound_pod(&self, namespace: &str, name: &str, node: &str) -> String {
        self.create(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "example.com/main"}]},
        }))
    }

    /// The UID that it has given to an object.
    pub fn uid(&self, kind: &str, namespace: &str, name: &str) -> String {
        let get = self.runtime.block_on(self.api(kind, namespace).get(name));
        let object = get.unwrap_or_else(|e| panic!("{kind} {namespace}/{name}: {e}"));
        object.metadata.uid.expect("a UID")
    }

    pub fn status(&self, namespace: &str, name: &str, addresses: &[std::net::IpAddr], phase: &str) {
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {"phase": phase, "podIP": addresses.first(), "podIPs": ips}});
        let api = self.api("Pod", namespace);
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&status));
        let patch = api.patch_status(name, &parameters, &patch);
        self.runtime
            .block_on(patch)
            .unwrap_or_else(|e| panic!("status of {name}: {e}"));
    }
}
