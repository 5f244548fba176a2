//! Counters and events, from packets to their readers.

mod kernel_support;

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use kernel_support::{Namespace, Pins, root, veth};
use palisade::bpf::{Count, Event, Frame, Kernel, Map, Reason};
use palisade::compile::{Op, PodDirection, PodImage, Psid, RuleInfo, RuleKey};
use palisade::model::{Direction, ObjectId};

const WAIT: Duration = Duration::from_secs(5);

/// UDP from 10.0.0.1:1000 to 10.0.0.2:53, 60 bytes.
fn datagram() -> [u8; 60] {
    let mut frame = [0; 60];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..16].copy_from_slice(&[0x45, 0]);
    frame[16..18].copy_from_slice(&46_u16.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..38].copy_from_slice(&[0x03, 0xe8, 0, 53]);
    frame[38..40].copy_from_slice(&26_u16.to_be_bytes());
    frame
}

const ISOLATION: RuleKey = RuleKey(77);

fn isolated_pod() -> [Op; 2] {
    let info = RuleInfo::Isolation {
        direction: Direction::Egress,
        policies: [ObjectId::new("shop", "deny")].into(),
    };
    let direction = |psid, denied_by| PodDirection {
        psid,
        denied_by,
        audited_by: None,
    };
    let pod = PodImage {
        id: ObjectId::new("shop", "web"),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        source_prefixes: Vec::new(),
        log_allowed: false,
        ingress: direction(Psid::OPEN, None),
        egress: direction(Psid(16), Some(ISOLATION)),
    };
    [Op::AddRule(ISOLATION, info), Op::SetPod("a".into(), pod)]
}

#[test]
fn what_is_denied_is_counted_by_who_denies_and_reported() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("pod0");
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    let (sender, receiver) = sync_channel(16);
    let reader = kernel
        .events(move |event| sender.try_send(event).is_ok())
        .unwrap();
    let frame = Frame {
        direction: Direction::Egress,
        ifindex,
        ingress_ifindex: ifindex,
        bytes: &datagram(),
    };

    assert!(kernel.test_run(frame).unwrap().dropped());
    let event: Event = receiver.recv_timeout(WAIT).unwrap();
    assert_eq!(
        (event.ifindex, event.reason, event.allowed),
        (ifindex, Reason::UnknownPod, false)
    );
    let count = Count {
        packets: 1,
        bytes: 60,
    };
    let unknown = (Reason::UnknownPod, Direction::Egress);
    assert_eq!(kernel.counters().unwrap().reasons[&unknown], count);

    kernel.apply(&isolated_pod()).unwrap();
    kernel.attach(&"a".into(), ifindex).unwrap();
    assert!(kernel.test_run(frame).unwrap().dropped());
    let counters = kernel.counters().unwrap();
    assert_eq!(counters.rules[&ISOLATION], count);
    assert_eq!(counters.reasons[&unknown], count);
    let event = receiver.recv_timeout(WAIT).unwrap();
    assert_eq!(event.source, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(event.destination, Some("10.0.0.2".parse().unwrap()));
    assert_eq!(
        (event.source_port, event.destination_port, event.protocol),
        (1000, 53, 17)
    );
    assert_eq!((event.direction, event.length), (Direction::Egress, 60));
    assert_eq!(kernel.pod_of_slot(event.slot).map(|uid| &**uid), Some("a"));
    assert!(matches!(
        kernel.rule_of_counter(event.counter),
        Some(RuleInfo::Isolation { .. })
    ));

    // Counters outlive a restart.
    drop(kernel);
    let kernel = Kernel::open(&pins.config()).unwrap();
    assert_eq!(kernel.counters().unwrap().rules[&ISOLATION], count);
    assert!(reader.is_running());
    reader.stop().unwrap();
}

#[test]
fn events_over_the_budget_and_events_not_taken_are_counted_as_lost() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("pod0");
    let mut config = pins.config();
    config.events_per_second = 5;
    let kernel = Kernel::open(&config).unwrap();
    let (sender, receiver) = sync_channel(2);
    let reader = kernel
        .events(move |event| sender.try_send(event).is_ok())
        .unwrap();
    let frame = Frame {
        direction: Direction::Egress,
        ifindex,
        ingress_ifindex: ifindex,
        bytes: &datagram(),
    };
    kernel.test_run_repeated(frame, 100).unwrap();
    let started = std::time::Instant::now();
    let seen = || kernel.events_lost().unwrap() + reader.refused() + 2;
    while seen() < 100 && started.elapsed() < WAIT {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(seen(), 100);
    // A second may have begun anew meanwhile.
    assert!((3..=8).contains(&reader.refused()), "{}", reader.refused());
    assert_eq!(receiver.try_iter().count(), 2);
}

#[test]
fn map_fill_follows_what_is_written() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("pod0");
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    let entries = |kernel: &Kernel, map| kernel.fill().iter().find(|fill| fill.map == map).unwrap().entries;
    assert_eq!(entries(&kernel, Map::PodState), 0);
    kernel.apply(&isolated_pod()).unwrap();
    kernel.attach(&"a".into(), ifindex).unwrap();
    for map in [Map::PodState, Map::PodIf, Map::RuleIndex] {
        assert_eq!(entries(&kernel, map), 1, "{map:?}");
    }
    let [flows4, _] = kernel.flow_fill().unwrap();
    assert_eq!((flows4.entries, flows4.capacity), (0, 1024));
}

#[test]
fn the_first_packet_of_an_audited_flow_is_reported_and_all_are_counted() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("pod0");
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    let (sender, receiver) = sync_channel(16);
    let reader = kernel
        .events(move |event| sender.try_send(event).is_ok())
        .unwrap();
    let audit = RuleInfo::Audit {
        direction: Direction::Egress,
        policies: [ObjectId::new("shop", "deny")].into(),
    };
    let [_, Op::SetPod(uid, mut pod)] = isolated_pod() else {
        panic!("a rule and a pod");
    };
    pod.egress.denied_by = None;
    pod.egress.audited_by = Some(ISOLATION);
    let ops = [
        Op::AddRule(ISOLATION, audit.clone()),
        Op::SetPod(uid.clone(), pod),
    ];
    kernel.apply(&ops).unwrap();
    kernel.attach(&uid, ifindex).unwrap();
    let frame = Frame {
        direction: Direction::Egress,
        ifindex,
        ingress_ifindex: ifindex,
        bytes: &datagram(),
    };
    for _ in 0..5 {
        assert!(!kernel.test_run(frame).unwrap().dropped());
    }
    let event = receiver.recv_timeout(WAIT).unwrap();
    assert_eq!(
        (event.allowed, event.audited, event.reason),
        (true, true, Reason::Policy)
    );
    assert_eq!(kernel.rule_of_counter(event.counter), Some(&audit));
    let count = Count {
        packets: 5,
        bytes: 300,
    };
    assert_eq!(kernel.counters().unwrap().rules[&ISOLATION], count);

    // What takes the slow way is looked up anew each time, and is no news either: here, four bytes of IP options.
    let mut slow = datagram();
    slow.copy_within(34..42, 38);
    slow[14] = 0x46;
    slow[34..38].copy_from_slice(&[1; 4]);
    slow[42..44].copy_from_slice(&22_u16.to_be_bytes());
    let with_options = Frame {
        bytes: &slow,
        ..frame
    };
    for _ in 0..2 {
        assert!(!kernel.test_run(with_options).unwrap().dropped());
    }
    assert_eq!(kernel.counters().unwrap().rules[&ISOLATION].packets, 7);

    // What an isolated direction drops unread is reported with the reason.
    let mut odd = datagram();
    odd[12..14].copy_from_slice(&[0x88, 0xb5]);
    let frame = Frame { bytes: &odd, ..frame };
    assert!(!kernel.test_run(frame).unwrap().dropped());
    let event = receiver.recv_timeout(WAIT).unwrap();
    assert_eq!(
        (event.allowed, event.audited, event.reason),
        (true, true, Reason::Ethertype)
    );
    assert_eq!(kernel.rule_of_counter(event.counter), Some(&audit));
    reader.stop().unwrap();
    assert!(receiver.try_recv().is_err(), "the others are no news");
}
