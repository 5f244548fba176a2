//! Changes written by hand: the rare ones, and the counts.

use std::net::IpAddr;
use std::sync::Arc;

use palisade::compile::{Class, Image, L4, L4Key, Op, PodDirection, PodImage, Psid, Row, RuleKey, diff};
use palisade::model::{Cidr, Direction, ObjectId};

use crate::change::{Probe, check_change};

const PEER: &str = "10.0.0.9";

fn peer() -> IpAddr {
    PEER.parse().unwrap()
}

/// With a rule set: in audit.
const AUDITED: u32 = 1 << 31;

/// Pods as (UID, ingress rule set), rows as (rule set, class, TCP port that it allows).
fn image(
    pods: &[(&str, u32)],
    rows: &[(u32, u32, u16)],
    addresses: &[(&str, u32)],
    networks: &[(&str, u32)],
) -> Image {
    let mut image = Image::default();
    for &(uid, psid) in pods {
        let direction = |psid: u32| PodDirection {
            psid: Psid(psid & !AUDITED),
            denied_by: None,
            audited_by: (psid & AUDITED > 0).then_some(RuleKey(2)),
        };
        let pod = PodImage {
            id: ObjectId::new("shop", uid),
            addresses: Vec::new(),
            source_prefixes: Vec::new(),
            log_allowed: false,
            ingress: direction(psid),
            egress: direction(0),
        };
        image.pods.insert(uid.into(), pod);
    }
    for &(psid, class, port) in rows {
        let start = 6 << 16 | u32::from(port);
        let table = [(0, None), (start, Some(RuleKey(1))), (start + 1, None)];
        image.l4.insert(L4Key(port.into()), L4(Arc::new(table)));
        image
            .rows
            .insert((Psid(psid), Class(class)), Row::L4(L4Key(port.into())));
    }
    image.addresses = addresses
        .iter()
        .map(|&(a, class)| (a.parse().unwrap(), Class(class)))
        .collect();
    image.networks = networks
        .iter()
        .map(|&(n, class)| (n.parse().unwrap(), Class(class)))
        .collect();
    image
}

fn check(old: &Image, new: &Image) -> Vec<Op> {
    let mut probes = Vec::new();
    for pod in old.pods.keys() {
        for port in 79..90 {
            for peer in [PEER, "10.0.0.10", "10.0.1.1", "10.7.0.1"] {
                probes.push(Probe {
                    pod: pod.clone(),
                    direction: Direction::Ingress,
                    peer: peer.parse().unwrap(),
                    protocol: 6,
                    port,
                });
            }
        }
    }
    check_change(old, new, &probes).unwrap();
    diff(old, new)
}

fn sets(ops: &[Op]) -> usize {
    ops.iter()
        .filter(|op| matches!(op, Op::SetAddress(..) | Op::SetNetwork(..)))
        .count()
}

#[test]
fn nothing_changed_is_nothing_written() {
    let same = image(&[("a", 20)], &[(20, 5, 80)], &[(PEER, 5)], &[("10.0.0.0/8", 5)]);
    assert_eq!(diff(&same, &same.clone()), []);
}

#[test]
fn pods_that_trade_rule_sets_while_a_peer_changes_class_are_told_apart() {
    let old = image(
        &[("a", 20), ("b", 21)],
        &[(20, 5, 80), (21, 5, 81)],
        &[(PEER, 5)],
        &[],
    );
    let new = image(
        &[("a", 21), ("b", 20)],
        &[(20, 6, 82), (21, 6, 83)],
        &[(PEER, 6)],
        &[],
    );
    let ops = check(&old, &new);
    assert_eq!(sets(&ops), 2, "by way of a class of its own: {ops:#?}");
}

#[test]
fn a_pod_that_keeps_what_another_leaves_sees_one_change() {
    let old = image(&[("a", 20), ("b", 20)], &[(20, 5, 80)], &[(PEER, 5)], &[]);
    let new = image(
        &[("a", 20), ("b", 21)],
        &[(20, 6, 81), (21, 6, 82)],
        &[(PEER, 6)],
        &[],
    );
    check(&old, &new);
}

#[test]
fn one_pod_with_another_policy_is_one_flip_besides_rows() {
    let old = image(
        &[("a", 20), ("b", 21)],
        &[(20, 5, 80), (21, 5, 81)],
        &[(PEER, 5)],
        &[],
    );
    let new = image(
        &[("a", 22), ("b", 21)],
        &[(22, 5, 82), (21, 5, 81)],
        &[(PEER, 5)],
        &[],
    );
    let ops = check(&old, &new);
    let shape: Vec<&str> = ops
        .iter()
        .map(|op| match op {
            Op::AddL4(..) => "l4",
            Op::AddRow(..) => "row",
            Op::SetPod(..) => "flip",
            Op::RemoveRow(..) => "no row",
            Op::RemoveL4(..) => "no l4",
            _ => "other",
        })
        .collect();
    assert_eq!(shape, ["l4", "row", "flip", "no row", "no l4"]);
}

#[test]
fn an_address_that_gains_needs_no_epoch_and_one_that_loses_does() {
    let few = image(&[("a", 20)], &[(20, 5, 80)], &[("10.7.0.1", 5)], &[]);
    let more = image(&[("a", 20)], &[(20, 5, 80)], &[("10.7.0.1", 5), (PEER, 5)], &[]);
    assert_eq!(check(&few, &more), [Op::SetAddress(peer(), Class(5))]);
    assert_eq!(check(&more, &few), [Op::RemoveAddress(peer()), Op::BumpEpoch]);
}

#[test]
fn an_address_that_stands_out_of_its_block_with_less_raises_the_epoch() {
    let rows = [(20, 5, 80), (20, 6, 81)];
    let around = [("10.0.0.0/8", 5)];
    let old = image(&[("a", 20)], &rows, &[("10.7.0.1", 6)], &around);
    let new = image(&[("a", 20)], &rows, &[("10.7.0.1", 6), (PEER, 6)], &around);
    assert_eq!(
        check(&old, &new),
        [Op::SetAddress(peer(), Class(6)), Op::BumpEpoch]
    );
}

#[test]
fn blocks_come_from_the_longest_and_go_from_the_shortest() {
    let rows = [(20, 5, 80), (20, 6, 81), (20, 7, 82)];
    let pods = [("a", 20)];
    let old = image(
        &pods,
        &rows,
        &[("10.7.0.1", 6), ("10.7.0.2", 7)],
        &[("10.0.0.0/8", 5)],
    );
    let nested = [("10.0.0.0/8", 5), ("10.0.0.0/16", 6), ("10.0.0.0/24", 7)];
    let new = image(&pods, &rows, &[("10.7.0.1", 6), ("10.7.0.2", 7)], &nested);
    let block = |text: &str| text.parse::<Cidr>().unwrap();
    let (wide, narrow) = (block("10.0.0.0/16"), block("10.0.0.0/24"));
    assert_eq!(
        check(&old, &new),
        [
            Op::SetNetwork(narrow, Class(7)),
            Op::SetNetwork(wide, Class(6)),
            Op::BumpEpoch
        ]
    );
    assert_eq!(
        check(&new, &old),
        [Op::RemoveNetwork(wide), Op::RemoveNetwork(narrow), Op::BumpEpoch]
    );
}

#[test]
fn an_id_with_two_meanings_is_denied_until_all_is_in_place() {
    let old = image(
        &[("a", 20)],
        &[(20, 5, 80), (20, 6, 81)],
        &[(PEER, 5)],
        &[("10.7.0.0/16", 6)],
    );
    let new = image(
        &[("a", 20)],
        &[(20, 5, 81), (20, 6, 80)],
        &[(PEER, 6)],
        &[("10.7.0.0/16", 5)],
    );
    let mut state = old.clone();
    let ops = diff(&old, &new);
    for op in &ops {
        state.apply(op);
        for port in [80, 81] {
            let now = palisade::compile::eval(&state, "a", Direction::Ingress, peer(), 6, port).unwrap();
            assert!(!now.allowed || port == 80, "{op:?} in {ops:#?}");
        }
    }
    assert_eq!(state, new);
    assert!(ops.contains(&Op::BumpEpoch));
}

#[test]
fn rows_that_a_crash_left_behind_do_not_count() {
    let mut old = image(&[("a", 20)], &[(20, 5, 80)], &[("10.7.0.1", 5)], &[]);
    // The class 6 is on no address: its row is a leftover of a change that never came to an end.
    old.rows.insert((Psid(20), Class(6)), Row::Allow(RuleKey(9)));
    let new = image(
        &[("a", 20)],
        &[(20, 5, 80), (20, 6, 81)],
        &[("10.7.0.1", 5), (PEER, 6)],
        &[],
    );
    check(&old, &new);
}

#[test]
fn a_pod_that_comes_starts_with_all_in_place_and_one_that_goes_is_first() {
    let old = image(&[("a", 20)], &[(20, 5, 80)], &[(PEER, 5)], &[]);
    let new = image(&[("b", 21)], &[(21, 6, 81)], &[(PEER, 6)], &[]);
    let ops = check(&old, &new);
    assert_eq!(ops.first(), Some(&Op::RemovePod("a".into())));
    let comes = ops.iter().position(|op| matches!(op, Op::SetPod(..))).unwrap();
    let moves = ops
        .iter()
        .position(|op| matches!(op, Op::SetAddress(..)))
        .unwrap();
    assert!(moves < comes && sets(&ops) == 1);
}

#[test]
fn to_leave_audit_and_to_enter_it_is_one_flip() {
    let with = |psid| {
        image(
            &[("a", psid), ("b", 21)],
            &[(20, 5, 80), (21, 5, 81)],
            &[(PEER, 5)],
            &[],
        )
    };
    let (audited, enforced) = (with(20 | AUDITED), with(20));
    for (old, new) in [(&audited, &enforced), (&enforced, &audited)] {
        assert_eq!(
            check(old, new),
            [Op::SetPod("a".into(), new.pods["a"].clone())],
            "rules and addresses stay"
        );
    }
}

#[test]
fn a_pod_that_leaves_audit_while_a_peer_changes_class_meets_no_third_verdict() {
    let pods = |psid| [("a", psid), ("b", 20 | AUDITED), ("c", 20)];
    let old = image(&pods(20 | AUDITED), &[(20, 5, 80)], &[(PEER, 5)], &[]);
    let new = image(&pods(20), &[(20, 6, 81)], &[(PEER, 6)], &[]);
    check(&old, &new);
    check(&new, &old);
}

#[test]
fn what_is_counted_otherwise_in_audit_is_judged_anew() {
    let few = image(&[("a", 20 | AUDITED)], &[(20, 5, 80)], &[("10.7.0.1", 5)], &[]);
    let more = image(
        &[("a", 20 | AUDITED)],
        &[(20, 5, 80)],
        &[("10.7.0.1", 5), (PEER, 5)],
        &[],
    );
    assert_eq!(
        check(&few, &more),
        [Op::SetAddress(peer(), Class(5)), Op::BumpEpoch]
    );
    assert_eq!(check(&more, &few), [Op::RemoveAddress(peer()), Op::BumpEpoch]);
}
