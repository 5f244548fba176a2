//! Programs on interfaces: both kinds, adoption after a crash, and removal of ours alone.

mod kernel_support;

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender as Sends, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use kernel_support::{Namespace, Pins, ifindex, ip, root, veth};
use libbpf_rs::{MapCore, MapFlags};
use palisade::bpf::{AttachKind, Attachment, Config, Frame, Kernel, Written, clean};
use palisade::compile::{Image, Op, PodDirection, PodImage, Psid};
use palisade::model::{Direction, ObjectId};

const KINDS: [AttachKind; 2] = [AttachKind::Tcx, AttachKind::Clsact];

fn config(pins: &Pins, attach: AttachKind) -> Config {
    Config {
        attach,
        ..pins.config()
    }
}

fn uid(text: &str) -> Arc<str> {
    text.into()
}

/// What `tc` shows of an interface: filters, with their programs' names and ids, but no tcx links.
fn filters(name: &str) -> String {
    let mut seen = String::new();
    for hook in ["ingress", "egress"] {
        let output = Command::new("tc")
            .args(["filter", "show", "dev", name, hook])
            .output()
            .expect("tc");
        seen += &String::from_utf8_lossy(&output.stdout);
    }
    seen
}

/// Whether a bare IPv6 ethertype passes at an interface.
fn passes(kernel: &Kernel, direction: Direction, ifindex: u32, ingress_ifindex: u32) -> bool {
    let mut bytes = [0_u8; 60];
    bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    let frame = Frame {
        direction,
        ifindex,
        ingress_ifindex,
        bytes: &bytes,
    };
    !kernel.test_run(frame).unwrap().dropped()
}

fn open_pod(namespace: &str) -> PodImage {
    let open = PodDirection::OPEN;
    PodImage {
        id: ObjectId::new(namespace, "web"),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        source_prefixes: Vec::new(),
        log_allowed: false,
        ingress: open,
        egress: open,
    }
}

#[test]
fn attaching_twice_changes_nothing_and_detaching_forgets() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        let mut kernel = Kernel::open(&config(&pins, kind)).unwrap();
        let first = kernel.attach(&uid("a"), link).unwrap();
        assert!(first.map_writes > 0);
        assert_eq!(kernel.attach(&uid("a"), link).unwrap(), Written::default());
        let attached = Attachment {
            ifindex: link,
            uid: uid("a"),
        };
        assert_eq!(kernel.attachments(), [attached]);
        kernel.detach(link).unwrap();
        assert!(kernel.attachments().is_empty());
        assert!(!filters("pod0").contains("pod"), "{}", filters("pod0"));
        assert_eq!(std::fs::read_dir(pins.0.join("links")).unwrap().count(), 0);
        assert_eq!(kernel.detach(link).unwrap(), Written::default());
        assert!(kernel.attach(&uid("a"), 4_000_000).is_err());
    }
}

/// Sends one datagram from 10.0.0.1 in a namespace of its own to 10.0.0.254 whenever it is asked to.
struct Sender {
    ask: Option<Sends<()>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// `pod0p` moves into the sender's namespace.
    fn start() -> Self {
        let (ask, asked) = sync_channel::<()>(0);
        let (ready, named) = sync_channel(0);
        let (tell, done) = sync_channel(0);
        let thread = std::thread::spawn(move || {
            let namespace = Namespace::enter();
            ready.send(namespace.name().to_string()).unwrap();
            asked.recv().unwrap();
            ip(&["addr", "add", "10.0.0.1/24", "dev", "pod0p"]);
            ip(&["link", "set", "pod0p", "up"]);
            let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
            tell.send(()).unwrap();
            while asked.recv().is_ok() {
                socket.send_to(b"x", "10.0.0.254:9").unwrap();
                tell.send(()).unwrap();
            }
        });
        ip(&["link", "set", "pod0p", "netns", &named.recv().unwrap()]);
        let sender = Self {
            ask: Some(ask),
            done,
            thread: Some(thread),
        };
        sender.send();
        sender
    }

    fn send(&self) {
        self.ask.as_ref().unwrap().send(()).unwrap();
        self.done.recv().unwrap();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.ask = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// From the sender to the host's end of `pod0`.
struct Line {
    sender: Sender,
    host: UdpSocket,
}

impl Line {
    fn new() -> Self {
        ip(&["addr", "add", "10.0.0.254/24", "dev", "pod0"]);
        let sender = Sender::start();
        let host = UdpSocket::bind("10.0.0.254:9").unwrap();
        host.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        Self { sender, host }
    }

    fn arrives(&self) -> bool {
        self.sender.send();
        self.host.recv_from(&mut [0; 16]).is_ok()
    }
}

#[test]
fn real_packets_are_judged_from_attach_to_detach() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        let line = Line::new();
        let arrives = || line.arrives();
        let mut kernel = Kernel::open(&config(&pins, kind)).unwrap();
        assert!(arrives());
        kernel.attach(&uid("a"), link).unwrap();
        assert!(!arrives(), "{kind:?}: nobody's interface");
        kernel.apply(&[Op::SetPod(uid("a"), open_pod("shop"))]).unwrap();
        assert!(arrives(), "{kind:?}: an open pod");
        drop(kernel);
        assert!(arrives(), "{kind:?}: nobody runs");
        let mut kernel = Kernel::open(&config(&pins, kind)).unwrap();
        let mut denied = open_pod("shop");
        denied.egress.psid = Psid(16);
        kernel.apply(&[Op::SetPod(uid("a"), denied)]).unwrap();
        assert!(!arrives(), "{kind:?}: a live flow that is no longer allowed");
        kernel.apply(&[Op::RemovePod(uid("a"))]).unwrap();
        assert!(!arrives(), "{kind:?}: a pod that is gone");
        kernel.detach(link).unwrap();
        assert!(arrives(), "{kind:?}: detached");
    }
}

#[test]
fn a_placeholder_lets_pass_until_the_programs_take_its_place() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let link = veth("pod0");
    let line = Line::new();
    let arrives = || line.arrives();
    let mut kernel = Kernel::open(&config(&pins, AttachKind::Tcx)).unwrap();
    let source = kernel.placeholders().unwrap().expect("this kernel has tcx");
    assert!(source.attach(4_000_000).is_err());
    kernel.hold(source.attach(link).unwrap());
    assert!(arrives(), "a placeholder");
    kernel.attach(&uid("a"), link).unwrap();
    assert!(!arrives(), "nobody's interface");
    kernel.release(link);
    assert!(!arrives(), "the placeholder has become the pod's");
    drop(kernel);
    assert!(!arrives(), "nobody runs");
    let mut kernel = Kernel::open(&config(&pins, AttachKind::Tcx)).unwrap();
    kernel.detach(link).unwrap();
    // One that nobody claims, and one of an interface whose index another one has by now.
    kernel.hold(source.attach(link).unwrap());
    kernel.release(link);
    assert!(arrives(), "released");
    kernel.hold(source.attach(link).unwrap());
    ip(&["link", "del", "pod0"]);
    ip(&[
        "link",
        "add",
        "pod1",
        "index",
        &link.to_string(),
        "type",
        "veth",
        "peer",
        "name",
        "pod1p",
    ]);
    kernel.attach(&uid("b"), link).unwrap();
    let [ingress, egress] = linked(&pins, link);
    assert_ne!(ingress, egress);
    assert!(
        Kernel::open(&config(&pins, AttachKind::Clsact)).is_err(),
        "one instance at a time"
    );
    drop(kernel);
    let kernel = Kernel::open(&config(&pins, AttachKind::Clsact)).unwrap();
    assert!(
        kernel.placeholders().unwrap().is_none(),
        "clsact waits for nothing"
    );
}

#[test]
fn another_version_takes_over_and_never_only_watches() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        let line = Line::new();
        let arrives = || line.arrives();
        let old = config(&pins, kind);
        let mut kernel = Kernel::open(&old).unwrap();
        kernel.apply(&[Op::SetPod(uid("a"), open_pod("shop"))]).unwrap();
        kernel.attach(&uid("a"), link).unwrap();
        assert!(arrives());
        drop(kernel);
        let new = Config {
            abi_version: old.abi_version + 1,
            ..old
        };
        let mut kernel = Kernel::open(&new).unwrap();
        let mut denied = open_pod("shop");
        denied.egress.psid = Psid(16);
        kernel.apply(&[Op::SetPod(uid("a"), denied)]).unwrap();
        assert!(arrives(), "{kind:?}: the other version judges");
        kernel.attach(&uid("a"), link).unwrap();
        assert!(!arrives(), "{kind:?}: ours do, and only they");
        kernel.sweep().unwrap();
        assert_eq!(
            filters("pod0").matches("name from_pod").count(),
            usize::from(kind == AttachKind::Clsact)
        );
        // As if the process had died while its programs stood beside the other's.
        let path = pins.0.join(format!("v{}/maps/pod_if", new.abi_version));
        let map = libbpf_rs::MapHandle::from_pinned_path(path).unwrap();
        let interface = |set: Option<u32>| {
            let mut value = map.lookup(&link.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
            if let Some(flags) = set {
                value[4..8].copy_from_slice(&flags.to_ne_bytes());
                map.update(&link.to_ne_bytes(), &value, MapFlags::ANY).unwrap();
            }
            u32::from_ne_bytes(value[4..8].try_into().unwrap())
        };
        assert_eq!(interface(None), 0);
        interface(Some(1));
        assert!(arrives(), "{kind:?}: who watches drops nothing");
        drop(kernel);
        let _kernel = Kernel::open(&new).unwrap();
        assert_eq!(interface(None), 0);
        assert!(!arrives(), "{kind:?}: a start ends the watch");
    }
}

#[test]
fn a_pod_that_goes_leaves_its_interface_and_slot_denied() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let link = veth("pod0");
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    kernel.attach(&uid("a"), link).unwrap();
    kernel.apply(&[Op::SetPod(uid("a"), open_pod("shop"))]).unwrap();
    kernel.apply(&[Op::RemovePod(uid("a"))]).unwrap();
    assert!(kernel.attachments().is_empty());
    assert!(!passes(&kernel, Direction::Egress, link, link));
    // The next pod on that interface starts as unknown, whatever the last one was allowed.
    kernel.attach(&uid("b"), link).unwrap();
    assert_eq!(kernel.image(), &Image::default());
    assert!(!passes(&kernel, Direction::Ingress, link, 77));
}

#[test]
fn a_crash_loses_no_attachment_and_the_next_run_adopts_it_without_a_write() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        let config = config(&pins, kind);
        let mut kernel = Kernel::open(&config).unwrap();
        kernel.apply(&[Op::SetPod(uid("a"), open_pod("shop"))]).unwrap();
        kernel.attach(&uid("a"), link).unwrap();
        let before = (kernel.attachments(), kernel.image().clone(), filters("pod0"));
        drop(kernel);
        let mut kernel = Kernel::open(&config).unwrap();
        let after = (kernel.attachments(), kernel.image().clone(), filters("pod0"));
        assert_eq!(before, after);
        assert_eq!(kernel.attach(&uid("a"), link).unwrap(), Written::default());
        assert_eq!(filters("pod0"), before.2);
    }
}

#[test]
fn what_went_with_its_interface_is_forgotten_at_the_next_start() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        let config = config(&pins, kind);
        let mut kernel = Kernel::open(&config).unwrap();
        kernel.attach(&uid("a"), link).unwrap();
        drop(kernel);
        ip(&["link", "del", "pod0"]);
        let kernel = Kernel::open(&config).unwrap();
        assert!(kernel.attachments().is_empty());
        assert_eq!(std::fs::read_dir(pins.0.join("links")).unwrap().count(), 0);
    }
}

#[test]
fn s48_a_reused_interface_inherits_nothing_and_a_late_delete_undoes_nothing() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    ip(&[
        "link", "add", "pod0", "index", "700", "type", "veth", "peer", "name", "p0",
    ]);
    let mut kernel = Kernel::open(&config(&pins, AttachKind::Tcx)).unwrap();
    kernel.attach(&uid("a"), 700).unwrap();
    ip(&["link", "del", "pod0"]);
    ip(&[
        "link", "add", "pod1", "index", "700", "type", "veth", "peer", "name", "p1",
    ]);
    kernel.attach(&uid("b"), 700).unwrap();
    assert_eq!(kernel.attachments()[0].uid, uid("b"));
    // Removal of the old pod, late, does not undo the new one's interface.
    kernel.apply(&[Op::RemovePod(uid("a"))]).unwrap();
    assert_eq!(kernel.attachments()[0].uid, uid("b"));
    drop(kernel);
    assert_eq!(clean(&pins.0).unwrap().links, 2);
}

#[test]
fn the_kind_of_attachment_can_change_between_runs() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let link = veth("pod0");
    for kind in [AttachKind::Clsact, AttachKind::Tcx, AttachKind::Clsact] {
        let mut kernel = Kernel::open(&config(&pins, kind)).unwrap();
        kernel.attach(&uid("a"), link).unwrap();
        let (ours, links) = match kind {
            AttachKind::Clsact => (true, 0),
            _ => (false, 2),
        };
        assert_eq!(filters("pod0").contains("from_pod"), ours, "{}", filters("pod0"));
        assert_eq!(std::fs::read_dir(pins.0.join("links")).unwrap().count(), links);
    }
}

/// Program ids behind the links of an interface: from_pod's, to_pod's.
fn linked(pins: &Pins, ifindex: u32) -> [u32; 2] {
    ["ingress", "egress"].map(|hook| {
        let path = pins.0.join("links").join(format!("{ifindex}-{hook}"));
        libbpf_rs::Link::open(path).unwrap().info().unwrap().prog_id
    })
}

#[test]
fn a_new_build_takes_over_links_and_filters_in_place() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        let mut config = config(&pins, kind);
        let mut kernel = Kernel::open(&config).unwrap();
        kernel.attach(&uid("a"), link).unwrap();
        kernel.apply(&[Op::SetPod(uid("a"), open_pod("shop"))]).unwrap();
        let image = kernel.image().clone();
        let seen = || match kind {
            AttachKind::Tcx => format!("{:?}", linked(&pins, link)),
            _ => filters("pod0"),
        };
        let before = seen();
        drop(kernel);
        // Another switch makes other programs, as another build would.
        config.events_per_second += 1;
        let mut kernel = Kernel::open(&config).unwrap();
        assert!(kernel.opened().adopted && kernel.opened().verified);
        assert_eq!(kernel.image(), &image);
        let after = seen();
        assert_ne!(before, after);
        assert_eq!(kernel.attach(&uid("a"), link).unwrap(), Written::default());
        assert_eq!(seen(), after);
        // A map that grows takes its content along.
        drop(kernel);
        config.sizes.pods *= 2;
        config.sizes.rules *= 2;
        config.sizes.addresses *= 2;
        let kernel = Kernel::open(&config).unwrap();
        assert_eq!(kernel.image(), &image);
        assert_eq!(kernel.attachments()[0].uid, uid("a"));
        assert_ne!(seen(), after);
    }
}

#[test]
fn clean_removes_all_of_ours_and_nothing_of_others() {
    if !root() {
        return;
    }
    for kind in KINDS {
        let pins = Pins::new();
        let _namespace = Namespace::enter();
        let link = veth("pod0");
        tc(&["qdisc", "add", "dev", "pod0", "clsact"]);
        let accept = "1,6 0 0 4294967295";
        tc(&[
            "filter", "add", "dev", "pod0", "ingress", "prio", "7", "bpf", "bytecode", accept,
        ]);
        let mut kernel = Kernel::open(&config(&pins, kind)).unwrap();
        kernel.attach(&uid("a"), link).unwrap();
        let error = clean(&pins.0).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error:#}");
        drop(kernel);
        let foreign = pins.0.join("theirs");
        std::fs::create_dir(&foreign).unwrap();
        let cleaned = clean(&pins.0).unwrap();
        match kind {
            AttachKind::Tcx => assert_eq!((cleaned.links, cleaned.filters), (2, 0)),
            _ => assert_eq!((cleaned.links, cleaned.filters), (0, 2)),
        }
        assert!(cleaned.pins > 15);
        assert_eq!(cleaned.foreign, std::slice::from_ref(&foreign));
        let left = filters("pod0");
        assert!(
            left.contains("bytecode") && !left.contains("from_pod") && !left.contains("to_pod"),
            "{left}"
        );
        std::fs::remove_dir(foreign).unwrap();
        assert_eq!(clean(&pins.0).unwrap().pins, 0);
        assert!(!pins.0.exists());
        assert_eq!(ifindex("pod0"), link);
    }
}

fn tc(arguments: &[&str]) {
    let status = Command::new("tc").args(arguments).status().expect("tc");
    assert!(status.success(), "tc {arguments:?}");
}

#[test]
fn other_abi_versions_are_swept_and_cleaned() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    let old = pins.0.join("v0");
    std::fs::create_dir_all(old.join("maps")).unwrap();
    std::fs::create_dir_all(old.join("programs")).unwrap();
    assert_eq!(kernel.sweep().unwrap().versions, 1);
    assert!(!old.exists());
    std::fs::create_dir_all(old.join("maps")).unwrap();
    drop(kernel);
    clean(&pins.0).unwrap();
    assert!(!pins.0.exists());
}
