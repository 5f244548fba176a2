//! Counters and events, from packets to their readers.

mod kernel_support;

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use kernel_support::{Namespace, Pins, root, veth};
use palisade::bpf::{Account, ApplyError, Count, Event, Frame, Kernel, Map, Reason};
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
        ingress_ifindex: 0,
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
        ingress_ifindex: 0,
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
    let reader = kernel.counter_reader();
    assert_eq!(reader.count_flows().unwrap(), [0, 0]);
    assert_eq!(reader.flows().unwrap().map(|flows| flows.capacity), [1024, 1024]);
}

/// An isolation by `deny` and these others.
fn isolation(others: &[&str]) -> RuleInfo {
    let policies = std::iter::once(&"deny").chain(others);
    RuleInfo::Isolation {
        direction: Direction::Egress,
        policies: policies.map(|name| ObjectId::new("shop", name)).collect(),
    }
}

/// The pod of [`isolated_pod`] is denied by this rule from now on, and by none of the others.
fn denied_by(kernel: &mut Kernel, key: RuleKey, others: &[&str]) {
    let [_, Op::SetPod(uid, mut pod)] = isolated_pod() else {
        unreachable!("it ends with the pod")
    };
    pod.egress = PodDirection {
        psid: Psid(key.0 as u32),
        denied_by: Some(key),
        audited_by: None,
    };
    let mut ops = vec![Op::AddRule(key, isolation(others)), Op::SetPod(uid, pod)];
    let before = kernel.image().rules.keys().copied();
    ops.extend(before.filter(|rule| *rule != key).map(Op::RemoveRule));
    kernel.apply(&ops).unwrap();
}

/// What was denied by rules that there are, and by those that are gone, on the account of `deny`.
fn denied(kernel: &Kernel) -> (u64, u64) {
    let counters = kernel.counters().unwrap();
    let account = Account::of(&isolation(&[]));
    let closed = counters.closed.get(&account).copied().unwrap_or_default();
    assert!(counters.closed.len() <= 1, "{:?}", counters.closed);
    assert_eq!(closed.bytes, closed.packets * 60);
    (
        counters.rules.values().map(|count| count.packets).sum(),
        closed.packets,
    )
}

#[test]
fn what_a_rule_has_counted_outlives_it_on_its_policys_account_also_across_a_restart() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("pod0");
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    kernel.apply(&isolated_pod()).unwrap();
    kernel.attach(&"a".into(), ifindex).unwrap();
    let frame = Frame {
        direction: Direction::Egress,
        ifindex,
        ingress_ifindex: 0,
        bytes: &datagram(),
    };
    let send = |kernel: &Kernel, packets| {
        for _ in 0..packets {
            assert!(kernel.test_run(frame).unwrap().dropped());
        }
    };
    send(&kernel, 3);
    assert_eq!(denied(&kernel), (3, 0));

    let reader = kernel.counter_reader();
    assert!(reader.is_current());
    denied_by(&mut kernel, RuleKey(78), &["more"]);
    assert!(!reader.is_current(), "its places mean something else now");
    send(&kernel, 2);
    assert_eq!(denied(&kernel), (2, 3));

    for _ in 0..2 {
        drop(kernel);
        kernel = Kernel::open(&pins.config()).unwrap();
        assert_eq!(
            kernel.sweep().unwrap().entries,
            0,
            "nothing of it is a crash's leaving"
        );
        assert_eq!(denied(&kernel), (2, 3));
    }

    denied_by(&mut kernel, RuleKey(79), &["more", "yet"]);
    send(&kernel, 1);
    assert_eq!(denied(&kernel), (1, 5));
    drop(kernel);
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    assert_eq!(denied(&kernel), (1, 5));

    // Of no rule that there is: the account ends, and what comes later under its name begins at 0.
    let [_, Op::SetPod(uid, mut pod)] = isolated_pod() else {
        unreachable!("it ends with the pod")
    };
    pod.egress = pod.ingress;
    kernel
        .apply(&[Op::SetPod(uid, pod), Op::RemoveRule(RuleKey(79))])
        .unwrap();
    assert_eq!(denied(&kernel), (0, 0));
    denied_by(&mut kernel, RuleKey(77), &[]);
    send(&kernel, 4);
    assert_eq!(denied(&kernel), (4, 0));
    let entries = |map| kernel.fill().iter().find(|fill| fill.map == map).unwrap().entries;
    assert_eq!(entries(Map::RuleIndex), 1, "nothing is left of those before");
}

#[test]
fn where_there_is_no_room_for_a_rule_the_past_is_forgotten_not_the_change() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let mut config = pins.config();
    config.sizes.rules = 64 + 2;
    let mut kernel = Kernel::open(&config).unwrap();
    denied_by(&mut kernel, RuleKey(20), &[]);
    denied_by(&mut kernel, RuleKey(21), &["more"]);
    let third = Op::AddRule(RuleKey(22), isolation(&["third"]));
    let refused = kernel.apply(std::slice::from_ref(&third));
    assert!(matches!(refused, Err(ApplyError::Full { .. })), "{refused:?}");
    assert!(kernel.forget_closed().unwrap());
    kernel.apply(&[third]).unwrap();
    assert!(!kernel.forget_closed().unwrap());
}

#[test]
fn flows_that_make_room_for_others_are_counted_as_evicted_also_across_a_restart() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("pod0");
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    let [rule, Op::SetPod(uid, mut pod)] = isolated_pod() else {
        unreachable!("it ends with the pod")
    };
    pod.egress = pod.ingress;
    kernel.apply(&[rule, Op::SetPod(uid.clone(), pod)]).unwrap();
    kernel.attach(&uid, ifindex).unwrap();
    let begin = |kernel: &Kernel, ports: std::ops::Range<u16>| {
        for port in ports {
            let mut bytes = datagram();
            bytes[34..36].copy_from_slice(&port.to_be_bytes());
            let frame = Frame {
                direction: Direction::Egress,
                ifindex,
                ingress_ifindex: 0,
                bytes: &bytes,
            };
            // The second packet belongs to the flow of the first.
            kernel.test_run_repeated(frame, 2).unwrap();
        }
    };
    begin(&kernel, 1000..1500);
    let reader = kernel.counter_reader();
    assert_eq!(reader.count_flows().unwrap(), [500, 0]);
    let [flows, none] = reader.flows().unwrap();
    assert_eq!((flows.recorded, flows.refused, flows.evicted), (500, 0, 0));
    assert_eq!((none.recorded, none.evicted), (0, 0));

    begin(&kernel, 2000..4500);
    let [held, _] = reader.count_flows().unwrap();
    let [flows, _] = reader.flows().unwrap();
    assert!(held <= 1024 && held > 500, "{held}");
    assert_eq!((flows.recorded, flows.evicted), (3000, 3000 - held));

    drop((kernel, reader));
    let kernel = Kernel::open(&pins.config()).unwrap();
    let reader = kernel.counter_reader();
    assert_eq!(reader.flows().unwrap()[0], flows);
    assert_eq!(reader.count_flows().unwrap(), [held, 0]);
    assert_eq!(reader.flows().unwrap()[0], flows);
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
