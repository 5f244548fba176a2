//! The documents name what there is, all of it and nothing else.

use std::collections::BTreeSet;

use palisade::bpf::{Map, MapSizes, Reason};

const METRICS: &str = include_str!("../docs/metrics.md");
const STANDALONE: &str = include_str!("../docs/standalone.md");

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

/// `UPDATE_GOLDEN=1` writes it anew: make metrics-reference.
#[test]
fn the_documented_metrics_are_those_that_there_are() {
    const BEGIN: &str = "<!-- metrics: begin -->\n";
    const END: &str = "<!-- metrics: end -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let document = std::fs::read_to_string(path).expect("docs/metrics.md");
    let (before, rest) = document.split_once(BEGIN).expect("a beginning");
    let (documented, after) = rest.split_once(END).expect("an end");
    let there_are = palisade::app::metrics_reference().expect("the table");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let document = [before, BEGIN, &there_are, END, after].concat();
        return std::fs::write(path, document).expect("written");
    }
    assert_eq!(documented, there_are, "make metrics-reference writes it anew");
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
