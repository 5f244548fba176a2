use std::borrow::Cow;

use jiff::Timestamp;

use super::*;
use crate::introspect::{Flow, Loser, Lost, Name, Verdict};
use crate::model::Direction;

fn flow(number: u16, pod: &str) -> Record {
    let end = |port| {
        Some(End {
            address: [10, 0, 0, 1].into(),
            port: Some(port),
            pod: None,
            service: None,
        })
    };
    Record::Flow(Flow {
        time: Timestamp::UNIX_EPOCH,
        node: "here".into(),
        verdict: Verdict::Denied,
        direction: Direction::Ingress,
        reason: Cow::Borrowed("isolation"),
        pod: Some(ObjectId::new("shop", pod)),
        ifindex: 3,
        policies: vec![ObjectId::new("shop", "deny")],
        rule: None,
        source: end(40_000),
        destination: end(number),
        protocol: Cow::Borrowed("TCP"),
        tcp_flags: None,
        icmp_type: None,
        length: 60,
    })
}

fn lost(count: u64) -> Record {
    Record::Lost(Lost {
        time: Timestamp::UNIX_EPOCH,
        node: "here".into(),
        lost: count,
        by: Loser::Kernel,
    })
}

/// Ports of flows, and losses as their negative.
fn shown(records: &[Arc<Record>]) -> Vec<i64> {
    let number = |record: &Arc<Record>| match &**record {
        Record::Flow(flow) => flow
            .destination
            .as_ref()
            .and_then(|end| end.port)
            .map_or(0, i64::from),
        Record::Lost(lost) => -i64::try_from(lost.lost).expect("small"),
    };
    records.iter().map(number).collect()
}

fn of_pod(name: &str) -> Filter {
    Filter {
        pod: Some(name.parse().expect("a name")),
        ..Filter::default()
    }
}

#[test]
fn the_oldest_go_first_and_the_last_of_those_that_fit_are_read() {
    let journal = Journal::new(4);
    for (number, pod) in (1..).zip(["web", "api", "web", "api", "web"]) {
        journal.push(flow(number, pod));
    }
    let read = |filter: &Filter, last| shown(&journal.read(filter, last).0);
    assert_eq!(read(&Filter::default(), 100), [2, 3, 4, 5]);
    assert_eq!(read(&Filter::default(), 2), [4, 5]);
    assert_eq!(read(&of_pod("shop/web"), 1), [5]);
    assert_eq!(read(&of_pod("api"), 100), [2, 4]);
    assert_eq!(read(&Filter::default(), 0), [0_i64; 0]);
}

#[test]
fn losses_are_shown_between_the_flows_and_count_as_none() {
    let journal = Journal::new(10);
    for record in [flow(1, "web"), lost(7), flow(2, "web"), lost(8)] {
        journal.push(record);
    }
    assert_eq!(shown(&journal.read(&Filter::default(), 1).0), [2, -8]);
    assert_eq!(shown(&journal.read(&of_pod("web"), 2).0), [1, -7, 2, -8]);
}

#[test]
fn who_begins_to_follow_misses_none_and_sees_none_twice() {
    let journal = Arc::new(Journal::new(100_000));
    let writer = std::thread::spawn({
        let journal = journal.clone();
        move || {
            for number in 1..=1000 {
                journal.push(flow(number, "web"));
            }
        }
    });
    let (mut records, mut new) = journal.read(&Filter::default(), usize::MAX);
    writer.join().expect("the writer");
    while let Ok(record) = new.try_recv() {
        records.push(record);
    }
    assert_eq!(shown(&records), (1..=1000).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_is_behind_loses_records_and_the_writer_waits_for_none() {
    let journal = Journal::new(1);
    let (_, mut slow) = journal.read(&Filter::default(), 0);
    let more = u16::try_from(BEHIND).expect("small") + 5;
    for number in 1..=more {
        journal.push(flow(number, "web"));
    }
    assert!(matches!(
        slow.try_recv(),
        Err(broadcast::error::TryRecvError::Lagged(5))
    ));
    assert_eq!(shown(&[slow.try_recv().expect("the next")]), [6]);
}

#[test]
fn what_no_record_and_nothing_known_has_is_refused_with_what_is_there() {
    let journal = Journal::new(10);
    journal.push(flow(1, "web-7"));
    let policy = ObjectId::new("shop", "allow-dns");
    let check = |filter: &Filter| journal.check(filter, [&policy].into_iter());
    // Gone from the node, though not from the records.
    assert_eq!(check(&of_pod("shop/web-7")), Ok(()));
    let named = |name: &str| Filter {
        policy: Some(name.parse::<Name>().expect("a name")),
        ..Filter::default()
    };
    assert_eq!(check(&named("deny")), Ok(()));
    assert_eq!(check(&named("allow-dns")), Ok(()));
    let refused = check(&named("alow-dns")).expect_err("no such policy");
    assert_eq!(refused.status, 404);
    assert_eq!(
        refused.to_string(),
        "this node knows no policy \"alow-dns\"; it knows shop/allow-dns"
    );
    let refused = check(&of_pod("web\u{1b}[2J")).expect_err("no such pod");
    assert!(!refused.to_string().contains('\u{1b}'), "{refused}");
}
