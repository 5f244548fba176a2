//! Pods under fixed policies, and frames that run through the real programs. Each frame must raise exactly one counter, by one
//! packet and its own length: that counter is why it passed or fell.

use std::net::IpAddr;
use std::sync::Arc;

use palisade::bpf::{Config, Counters, Frame, Kernel, Reason};
use palisade::compile::{
    Class, Image, L4, L4Key, PodDirection, PodImage, Psid, Row, RuleInfo, RuleKey, diff,
};
use palisade::model::{Cidr, Direction, ObjectId, RuleId};

use crate::frame;
use crate::kernel_support::{Namespace, Pins, veth};

pub const IN: Direction = Direction::Ingress;
pub const OUT: Direction = Direction::Egress;

/// Last byte of an address of each family: see [`address`].
pub const OPEN: u8 = 1;
/// Isolated in both directions: everything with FRIEND, TCP 80 and UDP 53 with WEB.
pub const SHUT: u8 = 2;
/// May be reached by FRIEND; may itself begin nothing.
pub const LISTENS: u8 = 3;
/// May reach FRIEND; nobody may begin anything with it.
pub const CALLS: u8 = 4;
/// Isolated like SHUT; sends from 10.9.0.0/16 and fd09::/16 too.
pub const ROUTER: u8 = 5;
pub const PODS: [u8; 5] = [OPEN, SHUT, LISTENS, CALLS, ROUTER];
pub const STRANGER: u8 = 7;
pub const WEB: u8 = 8;
pub const FRIEND: u8 = 9;

/// A receiving link that is no pod's.
pub const ELSEWHERE: u32 = 1;
/// What the node itself sends has none.
pub const NODE: u32 = 0;

const FRIEND_CLASS: Class = Class(100);
const WEB_CLASS: Class = Class(101);
const BOTH_IN: Psid = Psid(20);
const BOTH_OUT: Psid = Psid(21);
pub const NONE: Psid = Psid(22);
const PORTS: L4Key = L4Key(5);

/// 10.0.0.n or fd00::n.
pub fn address(ipv6: bool, n: u8) -> IpAddr {
    if ipv6 {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])
    } else {
        IpAddr::from([10, 0, 0, n])
    }
}

fn rules() -> [(RuleKey, &'static str, RuleInfo); 6] {
    let rule = |name: &str, direction| {
        RuleInfo::Rule(RuleId {
            policy: ObjectId::new("shop", name),
            direction,
            index: Some(0),
        })
    };
    let isolation = |direction| RuleInfo::Isolation {
        direction,
        policies: [ObjectId::new("shop", "deny")].into(),
    };
    let audit = |direction| RuleInfo::Audit {
        direction,
        policies: [ObjectId::new("shop", "deny")].into(),
    };
    [
        (RuleKey(1), "friend", rule("friend", IN)),
        (RuleKey(2), "web", rule("web", IN)),
        (RuleKey(3), "isolated-in", isolation(IN)),
        (RuleKey(4), "isolated-out", isolation(OUT)),
        (RuleKey(5), "audit-in", audit(IN)),
        (RuleKey(6), "audit-out", audit(OUT)),
    ]
}

pub fn image() -> Image {
    let mut image = Image::default();
    for (key, _, info) in rules() {
        image.rules.insert(key, info);
    }
    let port = |protocol: u8, port: u16| u32::from(protocol) << 16 | u32::from(port);
    let web = Some(RuleKey(2));
    let table = [
        (0, None),
        (port(frame::TCP, 80), web),
        (port(frame::TCP, 81), None),
        (port(frame::UDP, 53), web),
        (port(frame::UDP, 54), None),
    ];
    image.l4.insert(PORTS, L4(table.into()));
    for psid in [BOTH_IN, BOTH_OUT] {
        image.rows.insert((psid, FRIEND_CLASS), Row::Allow(RuleKey(1)));
        image.rows.insert((psid, WEB_CLASS), Row::L4(PORTS));
    }
    for ipv6 in [false, true] {
        image.addresses.insert(address(ipv6, FRIEND), FRIEND_CLASS);
        image.addresses.insert(address(ipv6, WEB), WEB_CLASS);
    }
    for n in PODS {
        let (ingress, egress) = match n {
            OPEN => (Psid::OPEN, Psid::OPEN),
            LISTENS => (BOTH_IN, NONE),
            CALLS => (NONE, BOTH_OUT),
            _ => (BOTH_IN, BOTH_OUT),
        };
        let widened = ["10.9.0.0/16", "fd09::/16"].map(|text| {
            let (net, prefix) = text.split_once('/').expect("a prefix");
            Cidr::new(net.parse().expect("an address"), prefix.parse().expect("bits")).expect("a block")
        });
        let side = |psid, key| PodDirection {
            psid,
            denied_by: (psid != Psid::OPEN).then_some(RuleKey(key)),
            audited_by: None,
        };
        let pod = PodImage {
            id: ObjectId::new("shop", &format!("pod-{n}")),
            addresses: vec![address(false, n), address(true, n)],
            source_prefixes: if n == ROUTER { widened.to_vec() } else { Vec::new() },
            log_allowed: false,
            ingress: side(ingress, 3),
            egress: side(egress, 4),
        };
        image.pods.insert(uid(n), pod);
    }
    image
}

pub fn uid(n: u8) -> Arc<str> {
    format!("uid-{n}").into()
}

pub struct Lab {
    /// None while one version gives way to another.
    kernel: Option<Kernel>,
    pins: Pins,
    _namespace: Namespace,
    interfaces: Vec<u32>,
    /// The kernel runs frames that were received on some link (5.16 and later).
    receives: bool,
    wrong: Vec<String>,
    skipped: usize,
}

impl Lab {
    pub fn new() -> Self {
        let pins = Pins::new();
        let namespace = Namespace::enter();
        // The interfaces' own neighbour discovery would be counted too.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("a sysctl");
        let interfaces: Vec<u32> = PODS.iter().map(|n| veth(&format!("pod{n}"))).collect();
        let mut lab = Self {
            kernel: None,
            pins,
            _namespace: namespace,
            interfaces,
            receives: true,
            wrong: Vec::new(),
            skipped: 0,
        };
        let probe = frame::ethernet(&[], 0x88b5, &[0; 46]);
        lab.open(&lab.pins.config(), &image());
        lab.receives = lab.run(SHUT, IN, ELSEWHERE, &probe).is_some();
        lab
    }

    fn open(&mut self, config: &Config, image: &Image) {
        let mut kernel = Kernel::open(config).expect("the programs load");
        kernel
            .apply(&diff(kernel.image(), image))
            .expect("the image fits");
        for (n, ifindex) in PODS.iter().zip(&self.interfaces) {
            kernel.attach(&uid(*n), *ifindex).expect("attached");
        }
        self.kernel = Some(kernel);
    }

    pub fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("open")
    }

    /// Another state of affairs, taken up at once.
    pub fn change(&mut self, change: impl FnOnce(&mut Image)) {
        let kernel = self.kernel.as_mut().expect("open");
        let mut image = kernel.image().clone();
        change(&mut image);
        kernel
            .apply(&diff(kernel.image(), &image))
            .expect("the image fits");
    }

    /// The policies of an isolated pod go into audit, or out of it. Stores by which its directions took that up.
    pub fn audit(&mut self, pod: u8, on: bool) -> u64 {
        let kernel = self.kernel.as_mut().expect("open");
        let mut image = kernel.image().clone();
        let own = image.pods.get_mut(&uid(pod)).expect("the pod");
        for (side, isolation, audit) in [(&mut own.ingress, 3, 5), (&mut own.egress, 4, 6)] {
            side.denied_by = (!on).then_some(RuleKey(isolation));
            side.audited_by = on.then_some(RuleKey(audit));
        }
        let applied = kernel.apply(&diff(kernel.image(), &image));
        applied.expect("the image fits").flips
    }

    /// Another version of the maps takes over, by so many later than this build's, with another state of affairs.
    pub fn upgrade(&mut self, later: u32, change: impl FnOnce(&mut Image)) {
        let mut image = self.kernel().image().clone();
        change(&mut image);
        self.kernel = None;
        let own = self.pins.config();
        let config = Config {
            abi_version: own.abi_version + later,
            ..own
        };
        self.open(&config, &image);
    }

    pub fn ifindex(&self, pod: u8) -> u32 {
        self.interfaces[PODS.iter().position(|n| *n == pod).expect("a pod")]
    }

    fn run(&self, pod: u8, direction: Direction, ingress_ifindex: u32, bytes: &[u8]) -> Option<bool> {
        let frame = Frame {
            direction,
            ifindex: self.ifindex(pod),
            ingress_ifindex,
            bytes,
        };
        self.kernel().test_run(frame).ok().map(|ran| !ran.dropped())
    }

    /// `pass WHY` or `drop WHY`. `None`: this kernel cannot run it.
    pub fn seen(&self, pod: u8, direction: Direction, from: u32, bytes: &[u8]) -> Option<String> {
        let before = self.kernel().counters().expect("counters");
        let passed = self.run(pod, direction, from, bytes)?;
        let after = self.kernel().counters().expect("counters");
        let why = risen(&before, &after, direction, bytes.len() as u64);
        Some(format!("{} {why}", if passed { "pass" } else { "drop" }))
    }

    /// A frame at a pod's interface and what must come of it.
    pub fn case(&mut self, name: &str, pod: u8, direction: Direction, bytes: &[u8], expected: &str) {
        let from = if direction == IN { ELSEWHERE } else { NODE };
        self.case_from(name, pod, direction, from, bytes, expected);
    }

    /// One whose verdict hangs on a received frame before it, which this kernel may not have run.
    pub fn follows(&mut self, name: &str, pod: u8, direction: Direction, bytes: &[u8], expected: &str) {
        if self.receives {
            self.case(name, pod, direction, bytes, expected);
        } else {
            self.skipped += 1;
        }
    }

    pub fn case_from(
        &mut self,
        name: &str,
        pod: u8,
        direction: Direction,
        from: u32,
        bytes: &[u8],
        expected: &str,
    ) {
        match self.seen(pod, direction, from, bytes) {
            Some(seen) if seen == expected => {}
            Some(seen) => self.wrong.push(format!(
                "{name} ({direction} of pod {pod}): {seen}, not {expected}"
            )),
            None if from != NODE && !self.receives => self.skipped += 1,
            None => self.wrong.push(format!("{name}: BPF_PROG_TEST_RUN refused it")),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.skipped > 0 {
            println!(
                "{} frames skipped: this kernel's test runs take no receiving link",
                self.skipped
            );
        }
        if !std::thread::panicking() {
            assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
        }
    }
}

/// Names the one counter that rose.
fn risen(before: &Counters, after: &Counters, direction: Direction, length: u64) -> String {
    let mut names = Vec::new();
    for (key, count) in &after.reasons {
        let old = before.reasons[key];
        if *count != old {
            let (reason, way) = key;
            let exact = count.packets == old.packets + 1 && count.bytes == old.bytes + length;
            let name = if *reason == Reason::Policy {
                "policy"
            } else {
                reason.name()
            };
            names.push(format!(
                "{name}{}{}",
                if exact { "" } else { " (miscounted)" },
                if *way == direction {
                    ""
                } else {
                    " (of the other direction)"
                }
            ));
        }
    }
    for (key, name, _) in rules() {
        let (old, new) = (before.rules[&key], after.rules[&key]);
        if old != new {
            let exact = new.packets == old.packets + 1 && new.bytes == old.bytes + length;
            names.push(format!("{name}{}", if exact { "" } else { " (miscounted)" }));
        }
    }
    names.join(" and ")
}
