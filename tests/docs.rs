//! The documents name what there is, all of it and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use palisade::bpf::{Map, MapSizes, Reason};
use palisade::model::Direction;
use palisade::observe::{CounterSample, Counters, MapFill, Metrics, Outcome};
use prometheus_client::encoding::text::encode;

const METRICS: &str = include_str!("../docs/metrics.md");
const STANDALONE: &str = include_str!("../docs/standalone.md");

struct One;

impl Counters for One {
    fn read(&self) -> Vec<CounterSample> {
        vec![CounterSample {
            direction: Direction::Ingress,
            verdict: Outcome::Dropped,
            policy: None,
            reason: "spoofed",
            packets: 1,
            bytes: 1,
        }]
    }

    fn maps(&self) -> Vec<MapFill> {
        vec![MapFill {
            name: "row",
            entries: 1,
            capacity: 2,
        }]
    }
}

/// Cells of each row of the tables whose header begins with `head`.
fn rows<'d>(document: &'d str, head: &[&str]) -> Vec<Vec<&'d str>> {
    let cells = |line: &'d str| -> Vec<&'d str> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(str::trim).collect()
    };
    let mut rows = Vec::new();
    let mut within = false;
    for line in document.lines() {
        if !line.starts_with('|') {
            within = false;
        } else if cells(line).starts_with(head) {
            within = true;
        } else if within && !line.starts_with("|---") {
            rows.push(cells(line));
        }
    }
    assert!(!rows.is_empty(), "no table {head:?}");
    rows
}

fn plain(cell: &str) -> String {
    cell.trim_matches('`').to_string()
}

#[test]
fn the_documented_metrics_are_those_scraped_with_type_and_unit() {
    let metrics = Metrics::default();
    metrics.set_problems(BTreeMap::from([("files".into(), 1)]));
    metrics.set_skipped(BTreeMap::from([("Deployment".into(), 1)]));
    let mut text = String::new();
    let mut registry = metrics.registry(Some(Arc::new(One)));
    palisade::cluster::Metrics::default().register(&mut registry);
    encode(&mut text, &registry).expect("text");
    // OpenMetrics: samples of a counter end in _total, those of an info in _info.
    let ending = |kind: &str| match kind {
        "counter" => "_total",
        "info" => "_info",
        _ => "",
    };
    let scraped: BTreeSet<(String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (format!("{name}{}", ending(kind)), kind.to_string()))
        .collect();
    let units: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# UNIT ")?.split_once(' '))
        .collect();
    let rows = rows(METRICS, &["name", "type", "unit", "labels", "meaning"]);
    let documented = rows
        .iter()
        .map(|row| (plain(row[0]), row[1].to_string()))
        .collect();
    assert_eq!(scraped, documented);
    for row in rows {
        let name = plain(row[0]);
        let family = name.strip_suffix(ending(row[1])).expect("an ending").to_string();
        if let Some(unit) = units.get(&*family) {
            assert_eq!(*unit, row[2], "{name}");
        }
    }
}

#[test]
fn the_documented_reasons_are_those_of_the_programs_and_those_of_policies() {
    let verdict = |drops: bool| if drops { "dropped" } else { "allowed" };
    let mut expected: BTreeSet<(String, &str)> = Reason::ALL
        .iter()
        .filter(|reason| **reason != Reason::Policy)
        .map(|reason| (reason.name().to_string(), verdict(reason.drops())))
        .collect();
    expected.extend([
        ("rule".into(), "allowed"),
        ("isolation".into(), "dropped"),
        ("isolation".into(), "audit"),
    ]);
    let rows = rows(METRICS, &["reason", "verdict", "meaning"]);
    let documented = rows.iter().map(|row| (plain(row[0]), row[1])).collect();
    assert_eq!(expected, documented);
}

#[test]
fn the_documented_capacities_are_the_defaults_of_their_maps() {
    let sizes = MapSizes::default();
    let mut expected = BTreeSet::new();
    for map in Map::ALL.iter().filter(|map| map.flag().starts_with("--")) {
        // The map of notes is sized by several flags.
        if !map.flag().contains(' ') {
            expected.insert((map.name().to_string(), map.flag().to_string(), sizes.of(*map)));
        }
    }
    let mut documented = BTreeSet::new();
    for row in rows(STANDALONE, &["flag", "default", "maps", "entries are"]) {
        for map in row[2].split(", ") {
            documented.insert((map.to_string(), plain(row[0]), row[1].parse().expect("a number")));
        }
    }
    assert_eq!(expected, documented);
}
