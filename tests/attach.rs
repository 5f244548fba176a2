//! Real packets through real veths: what is attached drops and lets pass, in both layouts and by both kinds of attachment.

mod kernel_support;
mod netns;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kernel_support::Pins;
use netns::{Answer, Host, Layout, Pod, Protocol, Service, reach};
use palisade::bpf::{AttachKind, Config, Kernel, Reason};
use palisade::compile::{Class, Image, PodDirection, PodImage, Psid, Row, RuleInfo, RuleKey, diff};
use palisade::model::{Direction, ObjectId, RuleId};

const PATIENCE: Duration = Duration::from_millis(600);
const LISTENING: u16 = 8080;
const ALLOW: RuleKey = RuleKey(1);
const DENY: RuleKey = RuleKey(2);
const ISOLATED: Psid = Psid(20);

fn uid(pod: &Pod) -> Arc<str> {
    pod.veth.as_str().into()
}

/// `server` takes connections from `friend` alone; the others are open.
fn image(server: &Pod, friend: &Pod, others: &[&Pod]) -> Image {
    let mut image = Image::default();
    let policy = ObjectId::new("shop", "server");
    let allow = RuleId {
        policy: policy.clone(),
        direction: Direction::Ingress,
        index: Some(0),
    };
    let deny = RuleInfo::Isolation {
        direction: Direction::Ingress,
        policies: [policy].into(),
    };
    image.rules = [(ALLOW, RuleInfo::Rule(allow)), (DENY, deny)].into();
    image.rows.insert((ISOLATED, Class(9)), Row::Allow(ALLOW));
    let addresses = friend.addresses.list();
    image
        .addresses
        .extend(addresses.into_iter().map(|address| (address, Class(9))));
    let open = PodDirection::OPEN;
    let isolated = PodDirection {
        psid: ISOLATED,
        denied_by: Some(DENY),
        audited_by: None,
    };
    for pod in [&[server, friend][..], others].concat() {
        let ingress = if uid(pod) == uid(server) { isolated } else { open };
        let pod_image = PodImage {
            id: ObjectId::new("shop", &pod.veth),
            addresses: pod.addresses.list(),
            source_prefixes: Vec::new(),
            log_allowed: false,
            ingress,
            egress: open,
        };
        image.pods.insert(uid(pod), pod_image);
    }
    image
}

/// All of them wait at the same time: a drop is known only by waiting.
fn answers(askers: &[(&'static str, &netns::Namespace, Answer)], server: &Pod) {
    let server = server.addresses.list();
    std::thread::scope(|scope| {
        for (name, from, expected) in askers {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for to in server.iter().copied() {
                    scope.spawn(move || {
                        let seen = reach(from, protocol, to, LISTENING, PATIENCE);
                        assert_eq!(seen, *expected, "{name}, {protocol:?} to {to}");
                    });
                }
            }
        }
    });
}

fn enforced(layout: Layout, kind: AttachKind) {
    let pins = Pins::new();
    let host = Host::new(layout);
    let [server, friend, stranger] = ["server", "friend", "stranger"].map(|name| host.pod(name));
    let outside = host.outside();
    let _services = [Protocol::Tcp, Protocol::Udp].map(|p| Service::start(&server.namespace, p, LISTENING));
    let config = Config {
        attach: kind,
        ..pins.config()
    };
    let mut kernel = Kernel::open(&config).expect("the programs load");
    println!(
        "{layout:?}, by {}",
        if kernel.uses_tcx() { "tcx" } else { "clsact" }
    );
    let wanted = image(&server, &friend, &[&stranger]);
    kernel
        .apply(&diff(kernel.image(), &wanted))
        .expect("the image fits");
    let links: Vec<u32> = [&server, &friend, &stranger].map(|pod| host.ifindex(pod)).into();
    host.namespace.run(|| {
        for (pod, ifindex) in [&server, &friend, &stranger].into_iter().zip(&links) {
            kernel.attach(&uid(pod), *ifindex).expect("attached");
        }
    });
    answers(
        &[
            ("an allowed pod", &friend.namespace, Answer::Reached),
            ("another pod", &stranger.namespace, Answer::Dropped),
            // Forwarded: it has a receiving link.
            ("the world outside", &outside.namespace, Answer::Dropped),
            // The node's own sockets: it has none.
            ("the node", &host.namespace, Answer::Reached),
        ],
        &server,
    );
    let counters = kernel.counters().expect("counters");
    let node = counters.reasons[&(Reason::Node, Direction::Ingress)];
    assert!(
        node.packets >= 4,
        "what the node sent is counted as the node's: {node:?}"
    );
    assert!(counters.rules[&DENY].packets >= 8, "{:?}", counters.rules[&DENY]);
    // What leaves for an address that is no pod's own is dropped on the way out, be the pod open or not.
    let foreign: IpAddr = "192.0.2.77".parse().expect("an address");
    stranger
        .namespace
        .ip(&format!("addr add {foreign}/32 dev eth0\n"));
    let spoofed = (Reason::Spoofed, Direction::Egress);
    stranger.namespace.run(|| {
        let socket = std::net::UdpSocket::bind((foreign, 0)).expect("a socket");
        let to = server.addresses.v4.expect("IPv4");
        socket.send_to(b"x", (to, LISTENING)).expect("sent");
    });
    let deadline = std::time::Instant::now() + PATIENCE * 4;
    while kernel.counters().expect("counters").reasons[&spoofed].packets == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "nothing was dropped as spoofed"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // Taken off, everybody reaches it.
    host.namespace.run(|| {
        for ifindex in &links {
            kernel.detach(*ifindex).expect("detached");
        }
    });
    answers(&[("another pod", &stranger.namespace, Answer::Reached)], &server);
}

#[test]
fn s41_the_node_reaches_its_pods_and_what_is_forwarded_is_judged_by_the_best_attachment() {
    require_root!();
    for layout in Layout::ALL {
        enforced(layout, AttachKind::Auto);
    }
}

#[test]
fn s41_the_node_reaches_its_pods_and_what_is_forwarded_is_judged_by_clsact() {
    require_root!();
    for layout in Layout::ALL {
        enforced(layout, AttachKind::Clsact);
    }
}
