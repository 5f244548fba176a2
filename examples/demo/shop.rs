//! The shop's pods as network namespaces, each listening on all ports, and three machines elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::answers::{Family, PORTS, Port};
use crate::netns::{Addresses, Host, Layout, Namespace, Pod, Service};

/// Pods of examples/shop/pods.yaml that have an interface of their own: name there, last word here, addresses.
const PODS: [(&str, &str, &str, &str); 7] = [
    ("shop/web-0", "web-0", "10.77.1.10", "fd77:1::10"),
    ("shop/web-canary", "web-canary", "10.77.1.11", "fd77:1::11"),
    ("shop/api-0", "api-0", "10.77.1.20", "fd77:1::20"),
    ("shop/db-0", "db-0", "10.77.1.30", "fd77:1::30"),
    ("monitoring/prometheus", "prometheus", "10.77.2.10", "fd77:2::10"),
    ("kube-system/dns", "dns", "10.77.3.10", "fd77:3::10"),
    ("guest/intruder", "intruder", "10.77.4.10", "fd77:4::10"),
];
/// Machines that no file knows. Policies see their addresses only.
const OUTSIDE: [(&str, &str, &str); 3] = [
    ("customer", "192.0.2.9", "2001:db8:1::9"),
    ("abuser", "198.51.100.9", "2001:db8:bad::9"),
    ("payments", "203.0.113.7", ""),
];
/// The node's own address, that of pods on the host network.
const NODE: &str = "10.77.0.1/32";
/// Listens outside: the payment provider.
pub const PAYMENTS: (&str, Port) = ("payments", Port::tcp(443));

/// All of it; gone when dropped.
pub struct Shop {
    // Listeners end before their namespaces go.
    _services: Vec<Service>,
    ends: BTreeMap<&'static str, Pod>,
    pub host: Host,
}

impl Shop {
    /// Panics where a namespace cannot be made; see [`crate::interrupt::caught`].
    pub fn open() -> Self {
        let host = Host::new(Layout::Routed);
        host.namespace.ip(&format!("addr add {NODE} dev lo"));
        let pods = PODS.iter().map(|(name, label, v4, v6)| (*name, *label, *v4, *v6));
        let outside = OUTSIDE.iter().map(|(name, v4, v6)| (*name, *name, *v4, *v6));
        let ends: BTreeMap<_, _> = pods
            .chain(outside)
            .map(|(name, label, v4, v6)| (name, host.pod_at(label, Addresses::new(v4, v6))))
            .collect();
        let mut services = Vec::new();
        for name in Self::pods() {
            for port in PORTS {
                services.push(Service::start(
                    &ends[name].namespace,
                    port.protocol.into(),
                    port.number,
                ));
            }
        }
        let (name, port) = PAYMENTS;
        services.push(Service::start(
            &ends[name].namespace,
            port.protocol.into(),
            port.number,
        ));
        Self {
            _services: services,
            ends,
            host,
        }
    }

    pub fn pods() -> impl Iterator<Item = &'static str> {
        PODS.iter().map(|(name, ..)| *name)
    }

    /// Who asks from elsewhere.
    pub fn visitors() -> impl Iterator<Item = &'static str> {
        OUTSIDE
            .iter()
            .map(|(name, ..)| *name)
            .filter(|name| *name != PAYMENTS.0)
    }

    /// Panics where there is no such end.
    pub fn namespace(&self, name: &str) -> &Namespace {
        &self.ends[name].namespace
    }

    /// `None` where it has none of this family.
    pub fn address(&self, name: &str, family: Family) -> Option<IpAddr> {
        let Addresses { v4, v6 } = self.ends.get(name)?.addresses;
        match family {
            Family::IPv4 => v4.map(IpAddr::V4),
            Family::IPv6 => v6.map(IpAddr::V6),
        }
    }
}
