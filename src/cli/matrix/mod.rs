//! `palisade matrix`: which pod may reach which, for all pairs.
//!
//! A thousand pods make a million rows for each port and family, so rows are written as they are found, and a verdict
//! is asked once for each (rule set, class of peers), on which alone it depends.

mod print;
mod verdicts;

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use serde::Serialize;

use self::verdicts::Verdicts;
use super::cluster::Cluster;
use super::{Family, Outcome, Traffic, Verdict, as_text, warn};
use crate::args::{Matrix, Output};
use crate::model::{ObjectId, Pod};

/// One element of the array that `palisade matrix -o json` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row<'a> {
    #[serde(serialize_with = "as_text")]
    pub from: &'a ObjectId,
    #[serde(serialize_with = "as_text")]
    pub to: &'a ObjectId,
    pub family: Family,
    #[serde(serialize_with = "as_text")]
    pub port: Traffic,
    pub egress: Verdict,
    pub ingress: Verdict,
    /// Both.
    pub verdict: Verdict,
}

/// Fails where the folder or the output fails.
pub fn matrix(question: &Matrix, out: &mut dyn Write) -> Result<Outcome> {
    let Matrix { from, ports, output } = question;
    let cluster = Cluster::load(from)?;
    warn(&cluster.problems)?;
    let mut pairs = Pairs::new(&cluster, ports);
    match output {
        Output::Json => print::json(out, &mut pairs)?,
        Output::Text => print::text(out, &mut pairs)?,
    }
    Ok(Outcome::Done)
}

/// The pods between which there are packets to judge, by name.
struct Pairs<'a> {
    members: Vec<Member<'a>>,
    ports: &'a [Traffic],
    verdicts: Verdicts<'a>,
}

struct Member<'a> {
    pod: &'a Pod,
    /// The first of each family, in the order of [`Family::ALL`].
    addresses: [Option<IpAddr>; 2],
}

/// One pair, family and port.
#[derive(Clone, Copy)]
struct Place {
    from: usize,
    to: usize,
    /// Index in [`Family::ALL`].
    family: usize,
    /// Index in the ports asked for.
    port: usize,
}

impl<'a> Pairs<'a> {
    fn new(cluster: &'a Cluster, ports: &'a [Traffic]) -> Self {
        let live = |pod: &&Pod| pod.is_live() && !pod.addresses.is_empty();
        let mut members: Vec<Member<'_>> = (cluster.snapshot.pods.iter().filter(live))
            .map(|pod| Member {
                pod,
                addresses: Family::ALL.map(|family| {
                    pod.addresses
                        .iter()
                        .copied()
                        .find(|&address| Family::of(address) == family)
                }),
            })
            .collect();
        members.sort_by(|a, b| a.pod.id.cmp(&b.pod.id));
        Self {
            verdicts: Verdicts::new(&cluster.image, &members, ports),
            members,
            ports,
        }
    }

    /// All pairs, families and ports, in the order of the answer.
    fn places(&self) -> impl Iterator<Item = Place> + use<> {
        let (members, ports) = (self.members.len(), self.ports.len());
        let pairs = (0..members).flat_map(move |from| (0..members).map(move |to| (from, to)));
        pairs.flat_map(move |(from, to)| {
            (0..Family::ALL.len()).flat_map(move |family| {
                (0..ports).map(move |port| Place {
                    from,
                    to,
                    family,
                    port,
                })
            })
        })
    }

    /// `None`: a pod with itself, or a family that they have not both.
    fn row(&mut self, place: Place) -> Option<Row<'a>> {
        let Place {
            from,
            to,
            family,
            port,
        } = place;
        let (source, destination) = (&self.members[from], &self.members[to]);
        if from == to || source.addresses[family].is_none() || destination.addresses[family].is_none() {
            return None;
        }
        let [egress, ingress] = self.verdicts.of(&self.members, place);
        Some(Row {
            from: &self.members[from].pod.id,
            to: &self.members[to].pod.id,
            family: Family::ALL[family],
            port: self.ports[port],
            egress,
            ingress,
            verdict: egress.and(ingress),
        })
    }
}
