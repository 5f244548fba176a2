//! A node as a namespace, its pods, and the world outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use super::Namespace;

/// How pods are joined to their host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A host route to each pod by its own veth; the gateway is 169.254.1.1 and fe80::1 on every veth.
    Routed,
    /// All veths are ports of bridge `br0`, which is 10.88.0.1/24 and fd88::1/64.
    Bridged,
}

impl Layout {
    pub const ALL: [Self; 2] = [Self::Routed, Self::Bridged];
}

/// An address of each family, or of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    pub fn new(v4: &str, v6: &str) -> Self {
        Self {
            v4: v4.parse().ok(),
            v6: v6.parse().ok(),
        }
    }

    pub fn list(&self) -> Vec<IpAddr> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
            .collect()
    }
}

/// A node: forwards between its pods and the outside.
#[derive(Debug)]
pub struct Host {
    pub namespace: Namespace,
    layout: Layout,
    next: AtomicU8,
}

/// A pod's namespace; `eth0` inside, `veth` on the host.
#[derive(Debug)]
pub struct Pod {
    pub namespace: Namespace,
    pub veth: String,
    pub addresses: Addresses,
}

impl Host {
    pub fn new(layout: Layout) -> Self {
        let namespace = Namespace::new("host");
        namespace.sysctl("net/ipv4/ip_forward", "1");
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1");
        if layout == Layout::Bridged {
            namespace.ip("link add br0 type bridge\n\
                          link set br0 up\n\
                          addr add 10.88.0.1/24 dev br0\n\
                          addr add fd88::1/64 dev br0 nodad\n");
        }
        Self {
            namespace,
            layout,
            next: AtomicU8::new(10),
        }
    }

    /// A pod with the next free address of each family.
    pub fn pod(&self, name: &str) -> Pod {
        let last = self.next.fetch_add(1, Ordering::Relaxed);
        let v4 = Ipv4Addr::new(10, 88, 0, last);
        let v6 = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, last.into());
        self.pod_at(
            name,
            Addresses {
                v4: Some(v4),
                v6: Some(v6),
            },
        )
    }

    /// `name` fits an interface name (11 bytes).
    pub fn pod_at(&self, name: &str, addresses: Addresses) -> Pod {
        let namespace = Namespace::new(name);
        let veth = format!("veth{name}");
        // Of a namespace just dropped, the veth may be there for another moment; mostly there is none.
        let _ = Command::new("ip")
            .args(["-n", self.namespace.name(), "link", "del", &veth])
            .stderr(Stdio::null())
            .status();
        self.namespace.ip(&format!(
            "link add {veth} type veth peer name eth0 netns {}\n",
            namespace.name()
        ));
        let pod = Pod {
            namespace,
            veth,
            addresses,
        };
        match self.layout {
            Layout::Routed => self.route(&pod),
            Layout::Bridged => self.bridge(&pod),
        }
        pod
    }

    fn route(&self, pod: &Pod) {
        let (veth, Addresses { v4, v6 }) = (&pod.veth, pod.addresses);
        let (mut host, mut inside) = (format!("link set {veth} up\n"), "link set eth0 up\n".to_string());
        if let Some(v4) = v4 {
            // Of a namespace just dropped, the veth and its route may be there for another moment.
            host += &format!("addr add 169.254.1.1/32 dev {veth}\nroute replace {v4}/32 dev {veth}\n");
            inside += &format!(
                "addr add {v4}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
                 route add default via 169.254.1.1 dev eth0\n"
            );
        }
        if let Some(v6) = v6 {
            host += &format!("addr add fe80::1/64 dev {veth} nodad\nroute replace {v6}/128 dev {veth}\n");
            inside += &format!("addr add {v6}/128 dev eth0 nodad\nroute add default via fe80::1 dev eth0\n");
        }
        pod.namespace.ip(&inside);
        self.namespace.ip(&host);
    }

    fn bridge(&self, pod: &Pod) {
        let Addresses { v4, v6 } = pod.addresses;
        let mut inside = "link set eth0 up\n".to_string();
        if let Some(v4) = v4 {
            inside += &format!("addr add {v4}/24 dev eth0\nroute add default via 10.88.0.1\n");
        }
        if let Some(v6) = v6 {
            inside += &format!("addr add {v6}/64 dev eth0 nodad\nroute add default via fd88::1 dev eth0\n");
        }
        let mut host = format!("link set {} master br0 up\n", pod.veth);
        // Who had an address before does not answer any more, but may still be remembered.
        for address in pod.addresses.list() {
            host += &format!("neigh flush dev br0 to {address}\n");
        }
        self.namespace.ip(&host);
        pod.namespace.ip(&inside);
    }

    /// The world outside: a machine at 192.0.2.2 and 2001:db8::2, which the host's default routes lead to. The host's
    /// `eth0` is a veth, as that of a node that is itself a container.
    pub fn outside(&self) -> Pod {
        let namespace = Namespace::new("outside");
        self.namespace.ip(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n",
            namespace.name()
        ));
        self.namespace.ip("link set eth0 up\n\
                           addr add 192.0.2.1/24 dev eth0\n\
                           addr add 2001:db8::1/64 dev eth0 nodad\n\
                           route add default via 192.0.2.2\n\
                           route add default via 2001:db8::2 dev eth0\n");
        namespace.ip("link set eth0 up\n\
                      addr add 192.0.2.2/24 dev eth0\n\
                      addr add 2001:db8::2/64 dev eth0 nodad\n\
                      route add default via 192.0.2.1\n\
                      route add default via 2001:db8::1 dev eth0\n");
        Pod {
            namespace,
            veth: "eth0".into(),
            addresses: Addresses::new("192.0.2.2", "2001:db8::2"),
        }
    }

    /// The host-side ifindex of a pod.
    pub fn ifindex(&self, pod: &Pod) -> u32 {
        self.namespace.ifindex(&pod.veth)
    }
}
