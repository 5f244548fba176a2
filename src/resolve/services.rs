//! Services and their ready backends, found by the backends' addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use crate::model::{Cidr, EndpointSlice, ObjectId, Protocol, Service, ServicePort};

#[derive(Default)]
pub(super) struct Services {
    services: BTreeMap<ObjectId, ServiceState>,
    /// EndpointSlice → its Service.
    service_of: HashMap<ObjectId, ObjectId>,
    /// Ready address → Services, whether or not their object is there.
    by_backend: BTreeMap<IpAddr, BTreeSet<ObjectId>>,
}

#[derive(Default)]
struct ServiceState {
    service: Option<Service>,
    slices: BTreeMap<ObjectId, EndpointSlice>,
}

/// One Service port at one ClusterIP, with the addresses and ports of its ready backends in that family. A
/// port of `None` stands for every port.
pub(super) struct FrontEnd {
    pub service: ObjectId,
    pub port: ServicePort,
    pub cluster_ip: IpAddr,
    pub backends: BTreeSet<(IpAddr, Option<u16>)>,
    /// Of the Service's ready backends, whatever their ports.
    pub addresses: Rc<BTreeSet<IpAddr>>,
}

impl Services {
    pub fn is_empty(&self) -> bool {
        self.by_backend.is_empty()
    }

    pub fn backend_count(&self) -> usize {
        self.by_backend.len()
    }

    pub fn service(&self, id: &ObjectId) -> Option<&Service> {
        self.services.get(id)?.service.as_ref()
    }

    pub fn endpoint_slice(&self, id: &ObjectId) -> Option<&EndpointSlice> {
        self.services.get(self.service_of.get(id)?)?.slices.get(id)
    }

    /// The Service that the slice belongs to now.
    pub fn service_of(&self, slice: &ObjectId) -> Option<&ObjectId> {
        self.service_of.get(slice)
    }

    pub fn backends_of(&self, id: &ObjectId) -> BTreeSet<IpAddr> {
        let slices = self.services.get(id).into_iter().flat_map(|s| s.slices.values());
        slices.flat_map(|slice| slice.ready.iter().copied()).collect()
    }

    pub fn at(&self, backend: IpAddr) -> impl Iterator<Item = &ObjectId> {
        self.by_backend.get(&backend).into_iter().flatten()
    }

    pub fn within(&self, block: Cidr) -> impl Iterator<Item = &ObjectId> {
        let net = block.net();
        let range = self.by_backend.range(net.network()..=net.broadcast());
        range.flat_map(|(_, services)| services)
    }

    /// The ClusterIPs in `cidr` that stand for a ready backend in `except`, which is part of it.
    pub fn standing_for(&self, cidr: Cidr, except: Cidr) -> impl Iterator<Item = IpAddr> {
        let services = self.within(except).filter_map(|id| self.service(id));
        let cluster_ips = services.flat_map(|service| service.cluster_ips.iter().copied());
        cluster_ips.filter(move |cluster_ip| cidr.contains(*cluster_ip))
    }

    pub fn backends(&self) -> impl Iterator<Item = (IpAddr, &BTreeSet<ObjectId>)> {
        self.by_backend
            .iter()
            .map(|(address, services)| (*address, services))
    }

    pub fn put_service(&mut self, id: &ObjectId, service: Option<Service>) {
        self.services.entry(id.clone()).or_default().service = service;
        self.forget_empty(id);
    }

    pub fn put_slice(&mut self, slice: EndpointSlice) {
        self.remove_slice(&slice.id);
        let service = ObjectId {
            namespace: slice.id.namespace.clone(),
            name: slice.service.clone(),
        };
        for address in &slice.ready {
            let services = self.by_backend.entry(*address).or_default();
            services.insert(service.clone());
        }
        self.service_of.insert(slice.id.clone(), service.clone());
        let state = self.services.entry(service).or_default();
        state.slices.insert(slice.id.clone(), slice);
    }

    pub fn remove_slice(&mut self, id: &ObjectId) {
        let Some(service) = self.service_of.remove(id) else {
            return;
        };
        let Some(state) = self.services.get_mut(&service) else {
            return;
        };
        let Some(slice) = state.slices.remove(id) else {
            return;
        };
        for address in slice.ready {
            let elsewhere = state.slices.values().any(|s| s.ready.contains(&address));
            if !elsewhere && let Some(services) = self.by_backend.get_mut(&address) {
                services.remove(&service);
                if services.is_empty() {
                    self.by_backend.remove(&address);
                }
            }
        }
        self.forget_empty(&service);
    }

    fn forget_empty(&mut self, id: &ObjectId) {
        if (self.services.get(id)).is_some_and(|s| s.service.is_none() && s.slices.is_empty()) {
            self.services.remove(id);
        }
    }

    /// Those with ready backends.
    pub fn front_ends(&self, id: &ObjectId) -> Vec<FrontEnd> {
        let mut front_ends = Vec::new();
        let Some(state) = self.services.get(id) else {
            return front_ends;
        };
        let Some(service) = &state.service else {
            return front_ends;
        };
        let addresses = Rc::new(self.backends_of(id));
        for port in &service.ports {
            let targets = state.backends(&port.name, port.protocol);
            for cluster_ip in &service.cluster_ips {
                let of_family =
                    |(address, _): &&(IpAddr, Option<u16>)| address.is_ipv4() == cluster_ip.is_ipv4();
                let backends: BTreeSet<_> = targets.iter().filter(of_family).copied().collect();
                if !backends.is_empty() {
                    front_ends.push(FrontEnd {
                        service: id.clone(),
                        port: port.clone(),
                        cluster_ip: *cluster_ip,
                        backends,
                        addresses: addresses.clone(),
                    });
                }
            }
        }
        front_ends
    }
}

impl ServiceState {
    fn backends(&self, port: &str, protocol: Protocol) -> BTreeSet<(IpAddr, Option<u16>)> {
        let mut backends = BTreeSet::new();
        for slice in self.slices.values() {
            for target in &slice.ports {
                if *target.name == *port && target.protocol == protocol {
                    backends.extend(slice.ready.iter().map(|address| (*address, target.port)));
                }
            }
        }
        backends
    }
}
