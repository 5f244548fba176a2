//! A line of `palisade flows -o json`, or of the file that flows are written to → the question that it raises, and whether what
//! it tells is what policies say now.

use std::io::{BufRead, Read, stdin};
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Because, Explanation};
use crate::args::Packet;
use crate::cli::cluster::Cluster;
use crate::cli::{Target, Traffic, Verdict, escape};
use crate::model::{Direction, ObjectId, Protocol};

/// What the line tells of its packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// When the node judged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub verdict: Verdict,
    /// As the pod that was judged sees it: `ingress` or `egress`.
    pub direction: String,
    /// `rule`, `isolation`, or a reason on which policies have no say.
    pub reason: String,
    pub policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Whether policies give that side the same verdict now, and by the same policies. Absent where they have no say on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
}

/// The line as it is written: what is not known is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(rename = "type")]
    kind: Option<String>,
    time: Option<String>,
    node: Option<String>,
    verdict: Judged,
    direction: Side,
    reason: String,
    pod: Option<String>,
    #[serde(default)]
    policies: Vec<String>,
    rule: Option<String>,
    source: Option<End>,
    destination: Option<End>,
    protocol: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Judged {
    Allowed,
    Denied,
    /// Allowed, though policies in audit would deny it.
    Audit,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Ingress,
    Egress,
}

#[derive(Deserialize)]
struct End {
    address: IpAddr,
    port: Option<u16>,
}

/// The longest line that is read; a flow's has a few hundred bytes.
const LONGEST: u64 = 1 << 20;

pub(super) struct Question {
    pub packet: Packet,
    reported: Reported,
    direction: Direction,
    /// The addresses of its ends.
    ends: [IpAddr; 2],
    notes: Vec<String>,
}

/// `text`: the line, or `-` for the first one of standard input.
///
/// # Errors
/// It is no flow's line, or its packet is none that policies judge.
pub(super) fn read(text: &str, cluster: &Cluster) -> Result<Question> {
    let mut first = String::new();
    let text = match text {
        "-" => {
            let mut input = stdin().lock().take(LONGEST);
            input
                .read_line(&mut first)
                .context("cannot read standard input")?;
            first.as_str()
        }
        text => text,
    };
    question(text.trim(), cluster)
}

const WANTED: &str = "give one line of palisade flows -o json, or - to read it from standard input";

fn question(text: &str, cluster: &Cluster) -> Result<Question> {
    if let Ok(object) = serde_json::from_str::<serde_json::Value>(text)
        && object.get("type").and_then(serde_json::Value::as_str) == Some("lost")
    {
        bail!("the line tells of packets that were not reported, and not which they were; {WANTED}");
    }
    let line: Line =
        serde_json::from_str(text).with_context(|| format!("that is no flow's line; {WANTED}"))?;
    if line.kind.as_deref().is_some_and(|kind| kind != "flow") {
        bail!("that is no flow's line: its type is not flow; {WANTED}");
    }
    let (Some(source), Some(destination)) = (&line.source, &line.destination) else {
        bail!(
            "the packet was no IP packet but {}: no policy judges those; it was dropped because of {}, which docs/metrics.md explains",
            escape(&line.protocol),
            escape(&line.reason)
        );
    };
    let traffic = traffic(&line.protocol, destination.port)?;
    let ends = [source, destination].map(|end| end.address.to_canonical());
    let mut targets = ends.map(Target::Address);
    let mut notes = Vec::new();
    let (own, direction) = match line.direction {
        Side::Egress => (0, Direction::Egress),
        Side::Ingress => (1, Direction::Ingress),
    };
    if let Some((namespace, name)) = line.pod.as_deref().and_then(|pod| pod.split_once('/')) {
        let id = ObjectId::new(namespace, name);
        match cluster.pod(&id) {
            Ok(pod) if pod.addresses.contains(&ends[own]) && pod.is_live() => targets[own] = Target::Pod(id),
            Ok(_) => notes.push(format!("{} is not an address of pod {id}", ends[own])),
            Err(_) => notes.push(format!("there is no pod {id} any more")),
        }
    }
    let [source, destination] = targets;
    let reported = Reported {
        time: line.time,
        node: line.node,
        verdict: match line.verdict {
            Judged::Allowed => Verdict::Allow,
            Judged::Denied => Verdict::Deny,
            Judged::Audit => Verdict::Audit,
        },
        direction: direction.to_string(),
        reason: line.reason,
        policies: line.policies,
        rule: line.rule,
        agrees: None,
    };
    Ok(Question {
        packet: Packet {
            source,
            destination,
            traffic,
        },
        reported,
        direction,
        ends,
        notes,
    })
}

fn traffic(protocol: &str, port: Option<u16>) -> Result<Traffic> {
    let with_ports = Protocol::ALL
        .into_iter()
        .find(|known| known.to_string() == protocol);
    match (with_ports, port) {
        (Some(protocol), Some(port)) => Ok(Traffic::Port(protocol, port)),
        // A fragment without its head, say.
        (Some(protocol), None) => bail!(
            "the line tells no destination port of a {protocol} packet, on which policies would judge it"
        ),
        (None, _) => match protocol.parse() {
            Ok(traffic) => Ok(traffic),
            Err(reason) => bail!("protocol {} of the line is {reason}", escape(protocol)),
        },
    }
}

impl Question {
    /// Adds to the answer what the line tells, and how they compare.
    pub fn compare(self, explanation: &mut Explanation) {
        let Self {
            packet: _,
            mut reported,
            direction,
            ends: [source, destination],
            notes,
        } = self;
        let flow =
            (explanation.flows.iter()).find(|flow| (flow.source, flow.destination) == (source, destination));
        let side = flow.map(|flow| match direction {
            Direction::Egress => &flow.egress,
            Direction::Ingress => &flow.ingress,
        });
        if let Some(side) = side {
            let same = match &side.because {
                Because::Rule { by, .. } => Some(
                    reported.policies == [by.policy.as_str()] && reported.rule.as_ref() == Some(&by.rule),
                ),
                Because::Isolated { policies, .. } | Because::Audited { policies, .. } => Some(
                    policies
                        .iter()
                        .map(|policy| &policy.policy)
                        .eq(&reported.policies),
                ),
                Because::Open => Some(reported.policies.is_empty()),
                Because::Itself => Some(true),
                Because::NotSubject { .. } | Because::Service { .. } => None,
            };
            let same = same.filter(|_| reported.is_by_policies());
            reported.agrees = same.map(|same| same && side.verdict == reported.verdict);
        }
        explanation.notes.extend(notes);
        explanation.reported = Some(reported);
    }
}

impl Reported {
    fn is_by_policies(&self) -> bool {
        matches!(self.reason.as_str(), "rule" | "isolation" | "open" | "self")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Snapshot;

    fn error(text: &str) -> String {
        let cluster = Cluster::new(Snapshot::default(), Vec::new(), BTreeMap::new());
        match question(text, &cluster) {
            Ok(_) => panic!("{text} is read"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_is_no_flow_says_what_to_give() {
        for (text, part) in [
            ("", "palisade flows -o json"),
            ("shop/web-0:80 denied", "palisade flows -o json"),
            ("{\"type\":\"flow\"}", "missing field"),
            ("{\"type\":\"lost\",\"lost\":4,\"by\":\"kernel\"}", "not reported"),
            (
                r#"{"type":"flow","verdict":"denied","direction":"egress","reason":"ethertype","protocol":"0x88cc","ifindex":3,"length":60}"#,
                "was no IP packet but 0x88cc",
            ),
            (
                r#"{"verdict":"denied","direction":"ingress","reason":"fragment","protocol":"UDP",
                    "source":{"address":"10.0.0.1"},"destination":{"address":"10.0.0.2"}}"#,
                "no destination port of a UDP packet",
            ),
        ] {
            assert!(error(text).contains(part), "{text}: {}", error(text));
        }
    }
}
