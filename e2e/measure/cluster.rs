//! The cluster under test: in, objects to apply and conditions to wait for; out, what the API server says. What a test
//! makes lies in a namespace of its own and goes with it, also when the test fails.

use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::netns::Netns;

const KUBECONFIG: &str = "PALISADE_E2E_KUBECONFIG";
const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
/// Of what tests wait for; pods of an image that the nodes have.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Field manager of what tests apply.
const WRITER: &str = "palisade-measure";

pub struct Cluster {
    runtime: Runtime,
    pub client: Client,
    /// The first two nodes with a kubelet, by name, and their addresses.
    pub nodes: [(String, IpAddr); 2],
}

impl Cluster {
    /// None, with a message, where no cluster is named.
    pub fn connect() -> Option<Self> {
        let Ok(path) = std::env::var(KUBECONFIG) else {
            eprintln!("skipped: {KUBECONFIG} names no kubeconfig");
            return None;
        };
        assert!(
            rustix::process::geteuid().is_root(),
            "needs root, for pods' network namespaces"
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (client, nodes) = runtime.block_on(async {
            let file = Kubeconfig::read_from(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            let config = config.unwrap_or_else(|e| panic!("{path}: {e}"));
            let client = Client::try_from(config).unwrap_or_else(|e| panic!("{path}: {e}"));
            let list = Api::<Node>::all(client.clone())
                .list(&ListParams::default())
                .await;
            let nodes = list.expect("nodes").items.into_iter().filter_map(|node| {
                let addresses = node.status?.addresses?;
                let internal = addresses.iter().find(|a| a.type_ == "InternalIP")?;
                Some((node.metadata.name?, internal.address.parse().ok()?))
            });
            (client, nodes.collect::<Vec<(String, IpAddr)>>())
        });
        assert!(nodes.len() >= 2, "two nodes are needed, there are {nodes:?}");
        let mut nodes = nodes.into_iter();
        let nodes = [nodes.next(), nodes.next()].map(|node| node.expect("counted"));
        Some(Self {
            runtime,
            client,
            nodes,
        })
    }

    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }

    /// Waits until `condition` holds for the object of this name.
    pub fn wait<K>(&self, api: Api<K>, name: &str, what: &str, condition: impl Condition<K>)
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
    {
        self.block_on(async {
            let waited = tokio::time::timeout(PATIENCE, await_condition(api, name, condition)).await;
            waited
                .unwrap_or_else(|_| panic!("{name}: {what}: not within {PATIENCE:?}"))
                .unwrap_or_else(|e| panic!("{name}: {what}: {e}"));
        });
    }

    /// An empty namespace; one that an earlier run left is removed first.
    pub fn space(&self, name: &str) -> Space<'_> {
        let space = Space {
            cluster: self,
            name: format!("measure-{name}"),
        };
        space.remove(true);
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": space.name } });
        self.block_on(apply::<Namespace>(
            &Api::all(self.client.clone()),
            &space.name,
            &object,
        ));
        // Pods are refused before their account is there.
        let accounts =
            Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(self.client.clone(), &space.name);
        self.wait(
            accounts,
            "default",
            "its account",
            |a: Option<&k8s_openapi::api::core::v1::ServiceAccount>| a.is_some(),
        );
        space
    }
}

/// Server-side apply.
pub async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> K
where
    K: Clone + Debug + DeserializeOwned,
{
    let parameters = PatchParams::apply(WRITER).force();
    let applied = api.patch(name, &parameters, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A namespace of a test; removed on drop.
pub struct Space<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl Space<'_> {
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client.clone(), &self.name)
    }

    pub fn policy(&self, name: &str, spec: &Value) {
        let object = policy(name, spec);
        self.cluster
            .block_on(apply(&self.api::<NetworkPolicy>(), name, &object));
    }

    /// Pods that do nothing, each on its node and of one label `app`, when they run.
    pub fn pods(&self, wanted: &[(&str, &str, &str)]) -> Vec<RunningPod> {
        for (name, node, app) in wanted {
            let object = pod(name, node, app, &["pause"], "Always");
            self.cluster.block_on(apply(&self.api::<Pod>(), name, &object));
        }
        wanted.iter().map(|(name, _, _)| self.running(name)).collect()
    }

    /// Waits until it runs and has its address.
    pub fn running(&self, name: &str) -> RunningPod {
        self.cluster
            .wait(self.api::<Pod>(), name, "runs", |pod: Option<&Pod>| {
                pod.is_some_and(|pod| container_of(pod).is_some() && addresses_of(pod).next().is_some())
            });
        let pod = self
            .cluster
            .block_on(self.api::<Pod>().get(name))
            .expect("the pod");
        let container = container_of(&pod).unwrap_or_else(|| panic!("{name}: it has ended"));
        RunningPod {
            address: addresses_of(&pod).next().expect("waited for"),
            netns: Netns::of_container(&container)
                .unwrap_or_else(|| panic!("{name}: no process of {container}")),
        }
    }

    /// No panic, for it may follow another.
    fn remove(&self, wait: bool) {
        let client = self.cluster.client.clone();
        let removed = self.cluster.block_on(async {
            let spaces = Api::<Namespace>::all(client.clone());
            if spaces.get_opt(&self.name).await?.is_none() {
                return Ok::<_, kube::Error>(());
            }
            let at_once = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            let pods = Api::<Pod>::namespaced(client, &self.name);
            pods.delete_collection(&at_once, &ListParams::default()).await?;
            spaces.delete(&self.name, &DeleteParams::default()).await?;
            Ok(())
        });
        if let Err(error) = removed {
            eprintln!("{}: not removed: {error}", self.name);
        } else if wait {
            let spaces = Api::<Namespace>::all(self.cluster.client.clone());
            self.cluster
                .wait(spaces, &self.name, "is gone", |s: Option<&Namespace>| s.is_none());
        }
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        self.remove(false);
    }
}

/// A pod with its network namespace.
pub struct RunningPod {
    pub address: IpAddr,
    pub netns: Netns,
}

pub fn policy(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name }, "spec": spec })
}

/// A pod of one container on a node, without the scheduler.
pub fn pod(name: &str, node: &str, app: &str, args: &[&str], restart: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": app } },
        "spec": {
            "nodeName": node, "restartPolicy": restart, "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": IMAGE, "args": args }],
        },
    })
}

/// The ID of its first container, when that runs.
pub fn container_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.running.as_ref()?;
    let (_, id) = status.container_id.as_ref()?.split_once("://")?;
    Some(id.to_owned())
}

pub fn addresses_of(pod: &Pod) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.status.iter();
    let addresses = status.flat_map(|status| status.pod_ips.iter().flatten());
    addresses.filter_map(|address| address.ip.parse().ok())
}
