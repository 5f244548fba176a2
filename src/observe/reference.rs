//! What metrics there are, as a table for people: made from what a scrape shows, so that it says what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::counters::{CounterSample, Counters, Flows, MapFill, Outcome, Rule};
use super::{Detail, Metrics};
use crate::model::{Direction, ObjectId};

/// One metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// As its samples are named; of a histogram, without the endings of its samples.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// Empty for plain numbers.
    pub unit: String,
    pub help: String,
    /// All that a sample may have, in the order in which they are written.
    pub labels: Vec<String>,
}

/// The metrics of an agent that shows a sample of each, with every label that there can be.
pub fn example() -> Registry {
    let metrics = Metrics::default();
    metrics.set_problems(BTreeMap::from([("files".into(), 1)]));
    metrics.set_skipped(BTreeMap::from([("Deployment".into(), 1)]));
    let detail = Detail {
        rules: true,
        ..Detail::default()
    };
    metrics.registry(Some(std::sync::Arc::new(Example)), detail)
}

/// What a registry shows, in its order. Labels are known of what has a sample.
///
/// # Errors
/// It cannot be written as text.
pub fn describe(registry: &Registry) -> Result<Vec<Described>, fmt::Error> {
    let mut page = String::new();
    text::encode(&mut page, registry)?;
    let mut all: Vec<Described> = Vec::new();
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), help) => all.push(Described {
                name: name.into(),
                help: help.unwrap_or_default().trim_end_matches('.').into(),
                ..Described::default()
            }),
            (Some("#"), Some("TYPE"), Some(_), Some(kind)) => {
                if let Some(last) = all.last_mut() {
                    last.kind = kind.into();
                    last.name += match kind {
                        "counter" => "_total",
                        "info" => "_info",
                        _ => "",
                    };
                }
            }
            (Some("#"), Some("UNIT"), Some(_), Some(unit)) => {
                if let Some(last) = all.last_mut() {
                    last.unit = unit.into();
                }
            }
            (Some("#"), ..) => {}
            _ => {
                if let Some(last) = all.last_mut() {
                    for label in labels(line) {
                        if label != "le" && !last.labels.contains(&label) {
                            last.labels.push(label);
                        }
                    }
                }
            }
        }
    }
    let names: BTreeSet<&str> = all.iter().map(|described| &*described.name).collect();
    debug_assert_eq!(names.len(), all.len(), "each is described once");
    Ok(all)
}

/// Names of a sample's labels. Values of [`example`] have no quotes in them.
fn labels(sample: &str) -> Vec<String> {
    let inner = sample.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
    let pairs = inner.map_or("", |(inner, _)| inner).split("\",");
    pairs
        .filter_map(|pair| Some(pair.split_once('=')?.0.to_string()))
        .collect()
}

/// A Markdown table.
pub fn table(described: &[Described]) -> String {
    let mut text = String::from("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for Described {
        name,
        kind,
        unit,
        help,
        labels,
    } in described
    {
        let labels = labels.join(", ");
        text += &format!("| `{name}` | {kind} | {unit} | {labels} | {help}. |\n");
    }
    text
}

/// One of each.
struct Example;

impl Counters for Example {
    fn read(&self) -> Vec<CounterSample> {
        vec![CounterSample {
            direction: Direction::Ingress,
            verdict: Outcome::Allowed,
            policy: Some(ObjectId::new("shop", "web")),
            rule: Rule::Index(0),
            reason: "rule",
            packets: 1,
            bytes: 60,
        }]
    }

    fn maps(&self) -> Vec<MapFill> {
        vec![MapFill {
            name: "row",
            entries: 1,
            capacity: 2,
        }]
    }

    fn flows(&self) -> Vec<Flows> {
        vec![Flows {
            family: "ipv4",
            entries: Some(1),
            capacity: 2,
            recorded: 3,
            refused: 0,
            evicted: 1,
        }]
    }

    fn events_lost(&self) -> Option<u64> {
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_types_units_and_labels_are_those_of_the_samples() {
        let all = describe(&example()).unwrap();
        let of = |name: &str| {
            let found = all.iter().find(|described| described.name == name);
            let Described {
                kind, unit, labels, ..
            } = found.unwrap_or_else(|| panic!("{name} in {all:?}"));
            (&**kind, &**unit, labels.join(" "))
        };
        let traffic = "direction verdict namespace policy rule reason".to_string();
        assert_eq!(
            of("palisade_traffic_packets_total"),
            ("counter", "packets", traffic)
        );
        assert_eq!(
            of("palisade_cni_request_duration_seconds"),
            ("histogram", "seconds", "result".into())
        );
        assert_eq!(of("palisade_build_info"), ("info", "", "version".into()));
        assert_eq!(of("palisade_pods_attached"), ("gauge", "", String::new()));
        for described in &all {
            assert!(!described.help.is_empty(), "{described:?}");
        }
    }
}
