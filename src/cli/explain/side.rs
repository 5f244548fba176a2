//! Who is at one end: a live pod, a pod that policies do not apply to, a Service, or just an address.

use std::net::IpAddr;

use anyhow::Result;

use super::Party;
use crate::cli::Target;
use crate::cli::cluster::Cluster;
use crate::model::{Pod, Service};

pub(super) struct Side<'a> {
    /// The pod that was named, or that the address stands for.
    pub pod: Option<&'a Pod>,
    /// The Service whose ClusterIP it is.
    pub service: Option<&'a Service>,
    /// What packets of this side can have as their address.
    pub addresses: Vec<IpAddr>,
}

impl<'a> Side<'a> {
    pub fn find(cluster: &'a Cluster, target: &Target) -> Result<Self> {
        Ok(match target {
            Target::Address(address) => Self::at(cluster, *address),
            Target::Pod(id) => {
                let pod = cluster.pod(id)?;
                Self {
                    pod: Some(pod),
                    service: None,
                    // A finished pod's address may be another's by now.
                    addresses: if pod.finished {
                        Vec::new()
                    } else {
                        pod.addresses.clone()
                    },
                }
            }
        })
    }

    /// Whoever has this address.
    pub fn at(cluster: &'a Cluster, address: IpAddr) -> Self {
        let pod = cluster.owner(address);
        Self {
            pod,
            service: if pod.is_none() {
                cluster.service_at(address)
            } else {
                None
            },
            addresses: vec![address],
        }
    }

    /// The pod, where policies apply to it.
    pub fn subject(&self) -> Option<&'a Pod> {
        self.pod.filter(|pod| pod.is_live())
    }

    /// Why policies do not decide on this side.
    pub fn not_subject(&self) -> String {
        match (self.pod, self.service) {
            (Some(pod), _) => format!(
                "policies do not apply to {}, which is on the host network",
                pod.id
            ),
            (None, Some(service)) => format!("it is the ClusterIP of Service {}", service.id),
            (None, None) => "it is no pod's address".to_string(),
        }
    }

    pub fn party(&self) -> Party {
        Party {
            pod: self.pod.map(|pod| pod.id.to_string()),
            service: self.service.map(|service| service.id.to_string()),
            addresses: self.addresses.clone(),
        }
    }

    /// What is special about it; `role` is source or destination.
    pub fn notes(&self, cluster: &Cluster, role: &str) -> Vec<String> {
        let Some(pod) = self.pod else {
            return Vec::new();
        };
        let id = &pod.id;
        if pod.finished {
            return vec![format!(
                "the {role} {id} has finished (phase Succeeded or Failed): its address is released, policies do not \
                 apply to it, and it neither sends nor receives"
            )];
        }
        let mut notes = Vec::new();
        if pod.host_network {
            notes.push(format!(
                "the {role} {id} is on the host network: policies do not apply to it, selectors do not match it, and \
                 to other pods it is its node's address"
            ));
        }
        for address in pod.addresses.iter().filter(|_| pod.is_live()) {
            if let Some(owner) = cluster.owner(*address).filter(|owner| owner.id != pod.id) {
                notes.push(format!(
                    "the {role} {id} shares {address} with the newer pod {}: as a peer, the address stands for that one",
                    owner.id
                ));
            }
        }
        if pod.addresses.is_empty() {
            notes.push(format!(
                "the {role} {id} has no address yet (status.podIPs): nothing can be said of its packets"
            ));
        }
        notes
    }
}
