//! What a trace tells of packets: each one's real way through the programs.

use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use palisade::bpf::{
    Answer, ClassSource, Entry, EventReader, Exemption, FlowState, Fragment, Kind, Lookup, Named, Outcome,
    Reason, Row, Standing, Trace, TraceFilter, TracePrograms, TraceScope, Traced,
};
use palisade::compile::{PodDirection, RuleInfo, RuleKey};
use palisade::model::Cidr;

use crate::frame::{self, ACK, Packet, SYN, UDP};
use crate::kernel_support::root;
use crate::lab::{
    ELSEWHERE, FRIEND, IN, LISTENS, Lab, NODE, NONE, OPEN, OUT, SHUT, STRANGER, TRACED, WEB, address, uid,
};
use crate::{FAMILIES, end, verified};

/// For a record to come.
const WAIT: Duration = Duration::from_secs(5);
/// For none to come. The reader wakes up at once where there is one.
const SILENCE: Duration = Duration::from_millis(50);

/// A trace of a lab's pods.
struct Following {
    lab: Lab,
    programs: TracePrograms,
    records: Receiver<Traced>,
    reader: EventReader,
}

impl Following {
    /// `None` where the kernel tests are skipped.
    fn new() -> Option<Self> {
        Self::begin(
            TraceScope::EveryPod,
            TraceFilter::default(),
            1000,
            Duration::from_secs(60),
        )
    }

    fn begin(scope: TraceScope, filter: TraceFilter, packets: u32, time: Duration) -> Option<Self> {
        if !root() || std::env::var_os(TRACED).is_some() {
            return None;
        }
        let mut lab = Lab::new();
        let programs = lab
            .kernel()
            .trace_source()
            .load()
            .expect("the tracing programs load");
        let (send, records) = sync_channel(64);
        let reader = programs
            .records(move |record| send.try_send(record).is_ok())
            .expect("a reader");
        let trace = Trace {
            scope,
            filter,
            packets,
            time,
        };
        lab.kernel_mut().begin_trace(&programs, &trace).expect("a trace");
        Some(Self {
            lab,
            programs,
            records,
            reader,
        })
    }

    /// What is told of a packet, with its names; `None`: this kernel does not run such a frame.
    fn from(
        &self,
        pod: u8,
        direction: palisade::model::Direction,
        from: u32,
        packet: &[u8],
    ) -> Option<(Traced, Named)> {
        self.lab.seen(pod, direction, from, packet)?;
        let record = self.records.recv_timeout(WAIT).expect("a record");
        assert_eq!(record.ifindex, self.lab.ifindex(pod));
        assert_eq!(record.direction, direction);
        assert_eq!(record.length as usize, packet.len());
        let names = self.lab.kernel().name_trace(&record);
        Some((record, names))
    }

    fn inward(&self, pod: u8, packet: &Packet) -> Option<(Traced, Named)> {
        self.from(pod, IN, ELSEWHERE, &packet.frame())
    }

    fn outward(&self, pod: u8, packet: &Packet) -> (Traced, Named) {
        self.from(pod, OUT, NODE, &packet.frame())
            .expect("frames of a pod run on every kernel")
    }

    fn silent(&self) -> bool {
        self.records.recv_timeout(SILENCE).is_err()
    }
}

fn found(record: &Traced) -> Entry {
    match record.lookup {
        Lookup::Found(entry) => entry,
        other => panic!("{other:?} in {record:?}"),
    }
}

fn policy_of(info: Option<&RuleInfo>) -> Option<String> {
    Some(match info? {
        RuleInfo::Rule(rule) => format!("rule of {}", rule.policy),
        RuleInfo::Isolation { policies, .. } => format!("isolated by {}", policies[0]),
        RuleInfo::Audit { policies, .. } => format!("audited by {}", policies[0]),
    })
}

#[test]
fn the_plain_programs_have_nothing_of_a_trace() {
    let [plain, tracing] = verified::maps();
    let of_a_trace = |names: &[String]| names.iter().filter(|name| name.starts_with("trace_")).count();
    assert_eq!((of_a_trace(&plain), of_a_trace(&tracing)), (0, 3));
}

#[test]
fn every_packet_table_holds_for_the_tracing_programs_too() {
    if !root() || std::env::var_os(TRACED).is_some() {
        return;
    }
    let own = std::env::current_exe().expect("this test");
    let run = Command::new(own)
        .arg("--test-threads=2")
        .env(TRACED, "1")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert!(
        said.contains("s36_replies_to_an_allowed_flow_pass_and_nothing_else_does ... ok"),
        "{said}"
    );
}

#[test]
fn a_first_packet_is_asked_of_policy_and_the_next_ones_of_conntrack_alone() {
    let Some(f) = Following::new() else { return };
    for v6 in FAMILIES {
        let (friend, own) = (end(v6, FRIEND, 4000), end(v6, SHUT, 80));
        let Some((first, names)) = f.inward(SHUT, &Packet::tcp(friend, own, SYN)) else {
            return;
        };
        assert_eq!(
            (first.headers.source, first.headers.source_port),
            (Some(friend.ip()), 4000)
        );
        assert_eq!(
            (first.headers.destination, first.headers.destination_port),
            (Some(own.ip()), 80)
        );
        assert_eq!(
            (first.headers.protocol, first.headers.tcp_flags),
            (frame::TCP, SYN)
        );
        assert_eq!(
            (first.headers.kind, first.plain, first.established),
            (Kind::Flow, true, false)
        );
        assert_eq!((first.received_on, first.exempt), (Some(ELSEWHERE), None));
        assert_eq!((first.lookup, first.recorded), (Lookup::Missing, true));
        let [Some(answer), None] = first.answers else {
            panic!("{:?}", first.answers)
        };
        assert_eq!((answer.rule_set.psid, answer.rule_set.audited), (20, false));
        assert_eq!((answer.class, answer.by), (Some(100), Some(ClassSource::Address)));
        assert_eq!((answer.row, answer.counter), (Row::Allow, Some(first.counter)));
        assert_eq!((first.outcome, first.reason), (Outcome::Allowed, Reason::Policy));
        assert!(first.pod.is_some_and(|pod| pod.own));
        assert_eq!(
            names.pod.as_ref().map(ToString::to_string).as_deref(),
            Some("shop/pod-2")
        );
        assert_eq!(
            policy_of(names.rule.as_ref()).as_deref(),
            Some("rule of shop/friend")
        );
        assert_eq!(
            policy_of(names.isolation[0].as_ref()).as_deref(),
            Some("isolated by shop/deny")
        );

        let (reply, names) = f.outward(SHUT, &Packet::tcp(own, friend, SYN | ACK));
        assert!(reply.established && reply.plain && !reply.recorded);
        assert_eq!((reply.answers, reply.counter), ([None, None], first.counter));
        let entry = found(&reply);
        assert_eq!(
            (entry.state, entry.standing, entry.began),
            (FlowState::TcpSyn, Standing::Current, IN)
        );
        assert_eq!((entry.age, entry.counter), (Duration::ZERO, first.counter));
        let pod = reply.pod.expect("its pod");
        assert_eq!(entry.stamp, pod.generations[0].wrapping_add(pod.epoch));
        assert_eq!(
            policy_of(names.flow.as_ref()).as_deref(),
            Some("rule of shop/friend")
        );
        let (more, _) = f
            .inward(SHUT, &Packet::tcp(friend, own, ACK))
            .expect("run before");
        assert_eq!(
            (more.established, found(&more).state),
            (true, FlowState::TcpEstablished)
        );
    }
    assert!(f.silent());
    assert_eq!(f.programs.counts().expect("counts").seen, 6);
    f.reader.stop().expect("it ran until now");
}

#[test]
fn a_denied_packet_shows_what_was_missing() {
    let Some(f) = Following::new() else { return };
    for v6 in FAMILIES {
        let (stranger, web, own) = (end(v6, STRANGER, 4000), end(v6, WEB, 4000), end(v6, SHUT, 81));
        let (nobody, names) = f.outward(SHUT, &Packet::tcp(own, stranger, SYN));
        let [None, Some(answer)] = nobody.answers else {
            panic!("{:?}", nobody.answers)
        };
        assert_eq!(
            (answer.class, answer.row, answer.counter),
            (None, Row::None, None)
        );
        assert_eq!(
            (nobody.outcome, nobody.reason, nobody.recorded),
            (Outcome::Dropped, Reason::Policy, false)
        );
        assert_eq!(
            policy_of(names.rule.as_ref()).as_deref(),
            Some("isolated by shop/deny")
        );

        for (port, expected) in [(80, Outcome::Allowed), (81, Outcome::Dropped)] {
            let to = end(v6, WEB, port);
            let (record, _) = f.outward(SHUT, &Packet::tcp(own, to, SYN));
            let answer: Answer = record.answers[1].expect("policy was asked");
            let Row::Table {
                protocol,
                port: asked,
                nodes,
                ..
            } = answer.row
            else {
                panic!("{:?}", answer.row)
            };
            assert_eq!((protocol, asked, nodes), (frame::TCP, port, 1));
            assert_eq!((record.outcome, answer.counter.is_some()), (expected, port == 80));
        }
        // A class, but no row of this rule set.
        let (record, _) = f.outward(LISTENS, &Packet::tcp(end(v6, LISTENS, 1), web, SYN));
        let answer = record.answers[1].expect("policy was asked");
        assert_eq!((answer.class, answer.row), (Some(101), Row::Missing));
        // From an address that is not the pod's own, policy is not asked.
        let (record, _) = f.outward(SHUT, &Packet::udp(stranger, web));
        assert_eq!(
            (record.outcome, record.reason),
            (Outcome::Dropped, Reason::Spoofed)
        );
        assert_eq!((record.answers, record.lookup), ([None, None], Lookup::None));
        assert!(record.pod.is_some_and(|pod| !pod.own));
        // In the middle of a connection that is not known, both directions are asked.
        let (record, _) = f.outward(SHUT, &Packet::tcp(own, stranger, ACK));
        assert!(record.answers.iter().all(Option::is_some) && record.lookup == Lookup::Missing);
    }
}

#[test]
fn fragments_are_judged_by_what_the_first_one_said() {
    let Some(f) = Following::new() else { return };
    for v6 in FAMILIES {
        let whole = Packet::udp(end(v6, SHUT, 53), end(v6, FRIEND, 4000));
        let (first, _) = f.outward(SHUT, &whole.part(7, 0, 16));
        assert_eq!(first.headers.fragment, Some(Fragment { id: 7, offset: 0 }));
        assert!(first.first_kept && first.recorded && !first.plain);
        assert_eq!(first.headers.destination_port, 4000);
        let (later, _) = f.outward(SHUT, &whole.part(7, 16, 99));
        assert_eq!(later.headers.fragment, Some(Fragment { id: 7, offset: 16 }));
        assert_eq!(
            (later.headers.source_port, later.headers.destination_port),
            (53, 4000)
        );
        assert_eq!(
            (later.headers.protocol, later.headers.unfit, later.first_kept),
            (UDP, None, false)
        );
        assert_eq!(found(&later).standing, Standing::Current);
        assert_eq!((later.outcome, later.established), (Outcome::Allowed, false));
        let (orphan, _) = f.outward(SHUT, &whole.part(8, 16, 99));
        assert_eq!(orphan.headers.unfit, Some(Reason::Fragment));
        assert_eq!(
            (orphan.outcome, orphan.reason),
            (Outcome::Dropped, Reason::Fragment)
        );
        assert_eq!((orphan.lookup, orphan.answers), (Lookup::None, [None, None]));
    }
}

#[test]
fn an_icmp_error_is_judged_by_the_flow_that_it_quotes() {
    let Some(f) = Following::new() else { return };
    for v6 in FAMILIES {
        let (own, friend, stranger) = (end(v6, SHUT, 5000), end(v6, FRIEND, 53), end(v6, STRANGER, 53));
        let unreachable = if v6 { 1 } else { 3 };
        let sent = Packet::udp(own, friend);
        f.outward(SHUT, &sent);
        let router = address(v6, STRANGER);
        let error = Packet::error(router, own.ip(), unreachable, &sent.ip());
        let Some((related, _)) = f.inward(SHUT, &error) else {
            return;
        };
        assert_eq!(
            (related.headers.kind, related.headers.icmp_type),
            (Kind::IcmpError, unreachable)
        );
        let quoted = related.quoted.clone().expect("what it quotes");
        assert_eq!(
            (quoted.source, quoted.destination),
            (Some(own.ip()), Some(friend.ip()))
        );
        assert_eq!(
            (quoted.source_port, quoted.destination_port, quoted.protocol),
            (5000, 53, UDP)
        );
        let entry = found(&related);
        assert_eq!((entry.began, entry.standing), (OUT, Standing::Current));
        assert_eq!(
            (related.outcome, related.reason),
            (Outcome::Allowed, Reason::IcmpError)
        );
        let error = Packet::error(router, own.ip(), unreachable, &Packet::udp(own, stranger).ip());
        let (unrelated, _) = f.inward(SHUT, &error).expect("run before");
        assert_eq!(
            (unrelated.outcome, unrelated.reason),
            (Outcome::Dropped, Reason::Unrelated)
        );
        assert_eq!(unrelated.lookup, Lookup::Missing);
        assert!(
            unrelated
                .answers
                .iter()
                .all(|answer| answer.is_some_and(|answer| answer.counter.is_none()))
        );
    }
}

#[test]
fn a_change_of_policy_shows_as_a_stamp_that_is_old() {
    let Some(mut f) = Following::new() else { return };
    let (own, friend) = (end(false, SHUT, 5000), end(false, FRIEND, 53));
    f.outward(SHUT, &Packet::udp(own, friend));
    f.lab.change(|image| {
        let pod = image.pods.get_mut(&uid(SHUT)).expect("the pod");
        pod.egress = PodDirection {
            psid: NONE,
            denied_by: Some(RuleKey(4)),
            audited_by: None,
        };
    });
    let (cut, names) = f.outward(SHUT, &Packet::udp(own, friend));
    assert_eq!((found(&cut).standing, cut.established), (Standing::Old, false));
    let answer = cut.answers[1].expect("policy was asked again");
    assert_eq!((answer.rule_set.psid, answer.row), (NONE.0, Row::Missing));
    assert_eq!(cut.outcome, Outcome::Dropped);
    assert_eq!(
        policy_of(names.rule.as_ref()).as_deref(),
        Some("isolated by shop/deny")
    );
}

#[test]
fn what_only_an_audit_lets_pass_is_told_as_such_the_known_flow_too() {
    let Some(mut f) = Following::new() else { return };
    f.lab.audit(SHUT, true);
    let (own, stranger) = (end(false, SHUT, 5000), end(false, STRANGER, 53));
    for established in [false, true] {
        let (record, names) = f.outward(SHUT, &Packet::udp(own, stranger));
        assert_eq!(
            (record.established, record.outcome),
            (established, Outcome::Audited)
        );
        assert_eq!(
            policy_of(names.rule.as_ref()).as_deref(),
            Some("audited by shop/deny")
        );
        assert!(record.pod.is_some_and(|pod| pod.rule_sets[1].audited));
    }
}

#[test]
fn who_is_exempt_is_not_asked_for_a_policy() {
    let Some(f) = Following::new() else { return };
    let own = end(false, SHUT, 80);
    let probe = Packet::tcp(end(false, STRANGER, 4000), own, SYN);
    let (record, _) = f
        .from(SHUT, IN, NODE, &probe.frame())
        .expect("what the node sends runs everywhere");
    assert_eq!((record.exempt, record.received_on), (Some(Exemption::Node), None));
    assert_eq!((record.answers, record.reason), ([None, None], Reason::Node));
    let (answer, _) = f.outward(SHUT, &Packet::tcp(own, end(false, STRANGER, 4000), SYN | ACK));
    assert_eq!(
        (found(&answer).exempt, answer.established),
        (Some(Exemption::Node), true)
    );
    let (record, _) = f.outward(SHUT, &Packet::tcp(own, end(false, SHUT, 81), SYN));
    assert_eq!(
        (record.exempt, record.reason),
        (Some(Exemption::Itself), Reason::Itself)
    );
}

#[test]
fn a_filter_takes_a_flow_both_ways_with_what_quotes_it_and_nothing_else() {
    let block = |text: &str| -> Option<Cidr> { Some(text.parse().expect("a block")) };
    let nothing = TraceFilter::default();
    // Of: the first packet, its reply, an error that quotes it, another port, another protocol, what is denied, IPv6, ARP.
    let cases = [
        (nothing, "11111111"),
        (
            TraceFilter {
                source: block("10.0.0.2"),
                ..nothing
            },
            "11111100",
        ),
        (
            TraceFilter {
                source: block("10.0.0.2/31"),
                destination: block("10.0.0.9"),
                ..nothing
            },
            "11111000",
        ),
        (
            TraceFilter {
                destination: block("10.0.0.2"),
                ..nothing
            },
            "11111100",
        ),
        (
            TraceFilter {
                source: block("10.0.0.9"),
                port: Some(53),
                ..nothing
            },
            "00000000",
        ),
        (
            TraceFilter {
                destination: block("10.0.0.8/30"),
                port: Some(53),
                ..nothing
            },
            "11101000",
        ),
        (
            TraceFilter {
                destination: block("0.0.0.0/0"),
                ..nothing
            },
            "11111100",
        ),
        (
            TraceFilter {
                source: block("fd00::/8"),
                ..nothing
            },
            "00000010",
        ),
        (
            TraceFilter {
                protocol: Some(UDP),
                ..nothing
            },
            "11110110",
        ),
        (
            TraceFilter {
                protocol: Some(frame::ICMP),
                ..nothing
            },
            "00100000",
        ),
        (
            TraceFilter {
                verdicts: &[Outcome::Dropped],
                ..nothing
            },
            "00000100",
        ),
        (
            TraceFilter {
                verdicts: &[Outcome::Allowed],
                ..nothing
            },
            "11111011",
        ),
        (
            TraceFilter {
                reason: Some(Reason::Neighbour),
                ..nothing
            },
            "00000001",
        ),
        (
            TraceFilter {
                reason: Some(Reason::Policy),
                verdicts: &[Outcome::Allowed],
                ..nothing
            },
            "11011010",
        ),
    ];
    for (filter, expected) in cases {
        let Some(f) = Following::begin(TraceScope::EveryPod, filter, 1000, Duration::from_secs(60)) else {
            return;
        };
        let (own, friend, stranger) = (
            end(false, SHUT, 5000),
            end(false, FRIEND, 53),
            end(false, STRANGER, 99),
        );
        let sent = Packet::udp(own, friend);
        let frames = [
            (OUT, sent.frame()),
            (IN, Packet::udp(friend, own).frame()),
            (IN, Packet::error(friend.ip(), own.ip(), 3, &sent.ip()).frame()),
            (OUT, Packet::udp(own, end(false, FRIEND, 54)).frame()),
            (OUT, Packet::tcp(own, friend, SYN).frame()),
            (OUT, Packet::udp(own, stranger).frame()),
            (
                OUT,
                Packet::udp(end(true, SHUT, 5000), end(true, FRIEND, 999)).frame(),
            ),
            (OUT, frame::arp(1, [10, 0, 0, SHUT], [10, 0, 0, 1])),
        ];
        let mut told = String::new();
        for (direction, bytes) in frames {
            let from = if direction == IN { ELSEWHERE } else { NODE };
            if f.lab.seen(SHUT, direction, from, &bytes).is_none() {
                return;
            }
            told.push(if f.silent() { '0' } else { '1' });
        }
        assert_eq!(told, expected, "{filter:?}");
        assert_eq!(f.programs.counts().expect("counts").seen, 8);
    }
}

#[test]
fn a_trace_tells_no_more_than_so_many_and_for_no_longer_than_its_time() {
    for (packets, time, expected) in [(2, Duration::from_secs(60), 2), (1000, Duration::ZERO, 0)] {
        let Some(f) = Following::begin(TraceScope::EveryPod, TraceFilter::default(), packets, time) else {
            return;
        };
        for _ in 0..5 {
            let packet = Packet::udp(end(false, OPEN, 1), end(false, FRIEND, 2));
            f.lab.seen(OPEN, OUT, NODE, &packet.frame()).expect("it runs");
        }
        f.reader.stop().expect("it ran until now");
        assert_eq!(f.records.try_iter().count(), expected);
        assert_eq!(f.programs.counts().expect("counts").seen, 5);
    }
}

#[test]
fn what_is_not_traced_is_judged_by_the_plain_programs() {
    let scope = TraceScope::Pods([uid(SHUT)].into());
    let Some(mut f) = Following::begin(scope, TraceFilter::default(), 1000, Duration::from_secs(60)) else {
        return;
    };
    let packet = |n| Packet::udp(end(false, n, 1), end(false, FRIEND, 2)).frame();
    f.lab.seen(OPEN, OUT, NODE, &packet(OPEN)).expect("it runs");
    assert!(f.silent());
    f.lab.seen(SHUT, OUT, NODE, &packet(SHUT)).expect("it runs");
    assert!(!f.silent());
    let other = f
        .lab
        .kernel()
        .trace_source()
        .load()
        .expect("the tracing programs load");
    let again = Trace {
        scope: TraceScope::EveryPod,
        filter: TraceFilter::default(),
        packets: 1,
        time: WAIT,
    };
    let error = f
        .lab
        .kernel_mut()
        .begin_trace(&other, &again)
        .expect_err("one at a time");
    assert!(error.to_string().contains("one at a time"), "{error:#}");
    f.lab.kernel_mut().end_trace().expect("its end");
    f.lab.seen(SHUT, OUT, NODE, &packet(SHUT)).expect("it runs");
    assert!(f.silent());
    assert_eq!(f.programs.counts().expect("counts").seen, 1);
    f.lab
        .kernel_mut()
        .begin_trace(&other, &again)
        .expect("the next one");
}
