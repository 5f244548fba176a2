//! The objects of a folder or of a cluster, what they come to, and the questions that the answers put to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::escape::escape;
use crate::args::Objects;
use crate::cluster::listing;
use crate::compile::{self, Image};
use crate::files;
use crate::model::{
    Change, Direction, EndpointPort, Enforcement, Labels, Namespace, ObjectId, Pod, Policy, Problem, Service,
    ServicePort, Snapshot,
};
use crate::resolve;

/// Everything that a folder or a cluster says, evaluated as if all its pods were local.
pub struct Cluster {
    pub snapshot: Snapshot,
    /// Those of reading, resolving and compiling; sorted, without duplicates.
    pub problems: Vec<Problem>,
    /// Those of reading alone.
    pub read_problems: Vec<Problem>,
    /// Objects that were passed over, by kind.
    pub skipped: BTreeMap<String, u64>,
    pub image: Image,
    /// Index of the pod that an address stands for.
    owners: HashMap<IpAddr, usize>,
    namespaces: HashMap<Arc<str>, Namespace>,
}

/// One ready address behind a Service's port, and the port there (`None`: every port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl Cluster {
    /// Fails where the folder cannot be read at all, or the cluster cannot be asked; what is wrong in it becomes a problem.
    pub fn load(objects: &Objects) -> Result<Self> {
        match objects {
            Objects::Folder(folder) => {
                let files::Loaded {
                    snapshot,
                    problems,
                    skipped,
                } = files::load(folder)?;
                Ok(Self::new(snapshot, problems, skipped))
            }
            Objects::ApiServer => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("cannot start the runtime")?;
                let listing::Listed { snapshot, problems } = runtime.block_on(listing::load())?;
                Ok(Self::new(snapshot, problems, BTreeMap::new()))
            }
        }
    }

    pub fn new(snapshot: Snapshot, problems: Vec<Problem>, skipped: BTreeMap<String, u64>) -> Self {
        let resolution = resolution(&snapshot);
        let pods: Vec<&Pod> = snapshot.pods.iter().collect();
        let compiled = compile::compile(&resolution.endpoints, &pods);
        let read_problems = problems;
        let problems: BTreeSet<Problem> = (read_problems.iter().cloned())
            .chain(resolution.problems)
            .chain(compiled.problems)
            .collect();
        Self {
            owners: owners(&snapshot.pods),
            namespaces: (snapshot.namespaces.iter())
                .map(|n| (n.name.clone(), n.clone()))
                .collect(),
            problems: problems.into_iter().collect(),
            read_problems,
            skipped,
            image: compiled.image,
            snapshot,
        }
    }

    /// The pod of this name, or an error that says which there are.
    pub fn pod(&self, id: &ObjectId) -> Result<&Pod> {
        if let Some(pod) = self.snapshot.pods.iter().find(|pod| pod.id == *id) {
            return Ok(pod);
        }
        let wanted = escape(&id.to_string());
        match near(id, self.snapshot.pods.iter().map(|pod| &pod.id)) {
            Some(near) => bail!("there is no pod {wanted}; there are {near}"),
            None => bail!("there is no pod {wanted}, and no other one"),
        }
    }

    /// The policy of this name, or an error that says which there are.
    pub fn known_policy(&self, id: &ObjectId) -> Result<&Policy> {
        if let Some(policy) = self.policy(id) {
            return Ok(policy);
        }
        let wanted = escape(&id.to_string());
        match near(id, self.snapshot.policies.iter().map(|policy| &policy.id)) {
            Some(near) => bail!("there is no NetworkPolicy {wanted}; there are {near}"),
            None => bail!("there is no NetworkPolicy {wanted}, and no other one"),
        }
    }

    /// The live pod that an address stands for: the newest of those that claim it.
    pub fn owner(&self, address: IpAddr) -> Option<&Pod> {
        self.owners.get(&address).map(|&index| &self.snapshot.pods[index])
    }

    /// `None`: there is no such Namespace object, and so no namespaceSelector matches its pods.
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name).map(|namespace| &*namespace.labels)
    }

    /// Whether the policy is in audit: by its own word, or else its namespace's.
    pub fn in_audit(&self, policy: &Policy) -> bool {
        let of_namespace = || self.namespaces.get(&policy.id.namespace).map(|n| n.enforcement);
        policy.enforcement.or_else(of_namespace) == Some(Enforcement::Audit)
    }

    /// The policies in audit that do not count for this pod in this direction, since others isolate it that are enforced.
    pub fn outvoted(&self, pod: &Pod, direction: Direction) -> Vec<&ObjectId> {
        let isolating = self.snapshot.policies.iter().filter(|policy| {
            policy.id.namespace == pod.id.namespace
                && policy.rules(direction).is_some()
                && policy.pod_selector.matches(&pod.labels)
        });
        let (audited, enforced): (Vec<&Policy>, Vec<_>) = isolating.partition(|policy| self.in_audit(policy));
        match enforced.is_empty() {
            true => Vec::new(),
            false => audited.into_iter().map(|policy| &policy.id).collect(),
        }
    }

    pub fn policy(&self, id: &ObjectId) -> Option<&Policy> {
        self.snapshot.policies.iter().find(|policy| policy.id == *id)
    }

    /// Whether something in the policy does not count as written.
    pub fn has_problems(&self, policy: &ObjectId) -> bool {
        let object = format!("NetworkPolicy {policy}");
        // Problems of files name the file after the object.
        let is_its = |problem: &Problem| {
            let rest = problem.object.strip_prefix(&object);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.problems.iter().any(is_its)
    }

    /// The Service that has this ClusterIP.
    pub fn service_at(&self, address: IpAddr) -> Option<&Service> {
        self.snapshot
            .services
            .iter()
            .find(|service| service.cluster_ips.contains(&address))
    }

    /// Addresses of all its ready backends, of either family.
    pub fn ready(&self, service: &Service) -> impl Iterator<Item = IpAddr> {
        let slices = self.snapshot.endpoint_slices.iter().filter(move |slice| {
            slice.id.namespace == service.id.namespace && slice.service == service.id.name
        });
        slices.flat_map(|slice| slice.ready.iter().copied())
    }

    /// Ready backends of one Service port, of the family of `cluster_ip`; sorted, without duplicates.
    pub fn backends(&self, service: &Service, port: &ServicePort, cluster_ip: IpAddr) -> Vec<Backend> {
        let is_target = |target: &&EndpointPort| target.name == port.name && target.protocol == port.protocol;
        let mut backends = BTreeSet::new();
        for slice in &self.snapshot.endpoint_slices {
            if slice.id.namespace != service.id.namespace || slice.service != service.id.name {
                continue;
            }
            for target in slice.ports.iter().filter(is_target) {
                let family = |address: &&IpAddr| address.is_ipv4() == cluster_ip.is_ipv4();
                backends.extend(slice.ready.iter().filter(family).map(|&address| Backend {
                    address,
                    port: target.port,
                }));
            }
        }
        backends.into_iter().collect()
    }
}

/// By the index: a cluster may have thousands of each kind.
fn resolution(snapshot: &Snapshot) -> resolve::Resolution {
    let Snapshot {
        namespaces,
        pods,
        policies,
        services,
        endpoint_slices,
    } = snapshot;
    let mut index = resolve::Index::new();
    let objects = (namespaces.iter().cloned().map(Change::Namespace))
        .chain(pods.iter().cloned().map(Change::Pod))
        .chain(services.iter().cloned().map(Change::Service))
        .chain(endpoint_slices.iter().cloned().map(Change::EndpointSlice))
        .chain(policies.iter().cloned().map(Change::Policy));
    for change in objects {
        index.apply(change);
    }
    index.resolution()
}

/// Objects that an error names when the wanted one does not exist.
const SUGGESTED: usize = 5;

/// Those whose names are most like the wanted one; `None`: there are none at all.
fn near<'a>(wanted: &ObjectId, known: impl Iterator<Item = &'a ObjectId>) -> Option<String> {
    let wanted = wanted.to_string();
    let mut near: Vec<(usize, &ObjectId)> = known
        .map(|id| (strsim::damerau_levenshtein(&wanted, &id.to_string()), id))
        .collect();
    near.sort();
    let names = near.iter().take(SUGGESTED).map(|(_, id)| escape(&id.to_string()));
    let names: Vec<String> = names.collect();
    match near.len() - names.len() {
        _ if names.is_empty() => None,
        0 => Some(names.join(", ")),
        rest => Some(format!("{} and {rest} more", names.join(", "))),
    }
}

fn owners(pods: &[Pod]) -> HashMap<IpAddr, usize> {
    let seniority = |pod: &Pod| (pod.created, pod.uid.clone(), pod.id.clone());
    let mut owners: HashMap<IpAddr, usize> = HashMap::with_capacity(pods.len());
    for (index, pod) in pods.iter().enumerate().filter(|(_, pod)| pod.is_live()) {
        for &address in &pod.addresses {
            let owner = owners.entry(address).or_insert(index);
            if seniority(pod) > seniority(&pods[*owner]) {
                *owner = index;
            }
        }
    }
    owners
}
