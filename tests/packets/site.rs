//! A node with the pod `shop/subject` on it, and two elsewhere, `shop/friend` and `shop/stranger`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use palisade::bpf::{Frame, Kernel};
use palisade::compile::{Image, compile, diff};
use palisade::model::{Direction, Pod};
use palisade::{files, resolve};

use crate::frame::{Packet, ethernet};
use crate::kernel_support::{Namespace, Pins, ip, veth};
use crate::lab::trace_if_asked;

/// A receiving link that is no pod's.
const ELSEWHERE: u32 = 1;

/// No policy at all.
pub const OPEN: &str = "";
/// Nothing in, nothing out.
pub const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: subject}}, policyTypes: [Ingress, Egress]}
";
/// TCP 80 and SCTP 80 in from the friend, UDP 53 and TCP 443 out to it.
pub const WEB: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: subject}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 80}, {port: 80, protocol: SCTP}]
  egress:
  - to: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: 53, protocol: UDP}, {port: 443}]
";
/// Everything from and to the friend.
pub const FRIEND: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: subject}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
  egress: [{to: [{podSelector: {matchLabels: {app: friend}}}]}]
";
/// Nothing in, anything out.
pub const NO_INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: no-ingress, namespace: shop}
spec: {podSelector: {matchLabels: {app: subject}}, policyTypes: [Ingress]}
";

const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: subject, namespace: shop, labels: {app: subject}}
status: {podIPs: [{ip: 10.1.0.1}, {ip: 'fd00:1::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, namespace: shop, labels: {app: friend}}
status: {podIPs: [{ip: 10.1.0.2}, {ip: 'fd00:1::2'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: shop, labels: {app: stranger}}
status: {podIPs: [{ip: 10.1.0.3}, {ip: 'fd00:1::3'}]}
---
";

/// One address family's names.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub subject: IpAddr,
    pub friend: IpAddr,
    pub stranger: IpAddr,
}

pub fn families() -> [Addresses; 2] {
    let ip = |text: &str| text.parse().unwrap();
    [
        Addresses {
            subject: ip("10.1.0.1"),
            friend: ip("10.1.0.2"),
            stranger: ip("10.1.0.3"),
        },
        Addresses {
            subject: ip("fd00:1::1"),
            friend: ip("fd00:1::2"),
            stranger: ip("fd00:1::3"),
        },
    ]
}

pub fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

pub struct Site {
    kernel: Kernel,
    subject: u32,
    // In the order in which they must go.
    _pins: Pins,
    _namespace: Namespace,
}

impl Site {
    /// `None` where the tests are skipped: for a plain user, and on kernels (5.10) whose test runs take no receiving link.
    pub fn new(policies: &str) -> Option<Self> {
        if !crate::kernel_support::root() {
            return None;
        }
        let pins = Pins::new();
        let namespace = Namespace::enter();
        ip(&["link", "set", "lo", "up"]);
        let subject = veth("subject");
        let kernel = Kernel::open(&pins.config()).expect("the programs load");
        let mut site = Self {
            kernel,
            subject,
            _pins: pins,
            _namespace: namespace,
        };
        site.enforce(policies);
        let uids: BTreeMap<String, Arc<str>> = (site.kernel.image().pods.iter())
            .map(|(uid, pod)| (pod.id.name.to_string(), uid.clone()))
            .collect();
        site.kernel.attach(&uids["subject"], subject).expect("attach");
        trace_if_asked(&mut site.kernel);
        let probe = ethernet(&[], 0x88b5, &[0; 46]);
        if site.run(Direction::Ingress, &probe).is_none() {
            eprintln!("skipped: this kernel's test runs take no receiving link");
            return None;
        }
        Some(site)
    }

    /// Brings other policies into force.
    pub fn enforce(&mut self, policies: &str) {
        let image = image(policies);
        let ops = diff(self.kernel.image(), &image);
        self.kernel.apply(&ops).expect("it fits");
    }

    /// Whether a frame passes; `None` where the kernel does not run it.
    fn run(&self, direction: Direction, bytes: &[u8]) -> Option<bool> {
        let frame = Frame {
            direction,
            ifindex: self.subject,
            ingress_ifindex: if direction == Direction::Ingress {
                ELSEWHERE
            } else {
                0
            },
            bytes,
        };
        self.kernel.test_run(frame).ok().map(|ran| !ran.dropped())
    }

    fn frame(&self, direction: Direction, bytes: &[u8]) -> bool {
        self.run(direction, bytes).expect("BPF_PROG_TEST_RUN")
    }

    /// From the subject.
    pub fn outward(&self, packet: &Packet) -> bool {
        self.frame(Direction::Egress, &packet.frame())
    }

    /// To the subject, forwarded from elsewhere.
    pub fn inward(&self, packet: &Packet) -> bool {
        self.frame(Direction::Ingress, &packet.frame())
    }
}

fn image(policies: &str) -> Image {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("site.yaml"), format!("{PODS}{policies}")).expect("written");
    let loaded = files::load(folder.path()).expect("read");
    assert_eq!(loaded.problems, []);
    let local = |pod: &&Pod| &*pod.id.name == "subject";
    let local: Vec<&Pod> = loaded.snapshot.pods.iter().filter(local).collect();
    let resolution = resolve::resolve(&loaded.snapshot);
    compile(&resolution.endpoints, &local).image
}
