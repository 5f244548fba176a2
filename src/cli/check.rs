//! `palisade check`: what in a folder cannot be enforced as written.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::cluster::Cluster;
use super::{Outcome, escape, write_json};
use crate::args::{Check, Output};
use crate::model::Problem;

/// What `palisade check -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Sorted by object, field and value.
    pub problems: Vec<Problem>,
    /// Objects that count, by kind, those among them that stand in for what could not be read; every kind is there.
    pub read: BTreeMap<&'static str, usize>,
    /// Objects of other kinds, which were passed over.
    pub skipped: BTreeMap<String, u64>,
}

/// Fails where the folder or the output fails.
pub fn check(question: &Check, out: &mut dyn Write) -> Result<Outcome> {
    let Check { from, output } = question;
    let report = Report::of(Cluster::load(from)?);
    match output {
        Output::Json => write_json(out, &report)?,
        Output::Text => report.print(out)?,
    }
    Ok(if report.problems.is_empty() {
        Outcome::Done
    } else {
        Outcome::ProblemsFound
    })
}

impl Report {
    fn of(cluster: Cluster) -> Self {
        let snapshot = &cluster.snapshot;
        Self {
            read: BTreeMap::from([
                ("Namespace", snapshot.namespaces.len()),
                ("Pod", snapshot.pods.len()),
                ("NetworkPolicy", snapshot.policies.len()),
                ("Service", snapshot.services.len()),
                ("EndpointSlice", snapshot.endpoint_slices.len()),
            ]),
            problems: cluster.problems,
            skipped: cluster.skipped,
        }
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for problem in &self.problems {
            writeln!(out, "{}", escape(&problem.to_string()))?;
        }
        let counts = |counts: Vec<String>| match counts.len() {
            0 => "nothing".to_string(),
            _ => counts.join(", "),
        };
        let read = self
            .read
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(out, "read: {}", counts(read))?;
        let skipped = (self.skipped.iter())
            .map(|(kind, count)| format!("{} {count}", escape(kind)))
            .collect();
        writeln!(out, "skipped: {}", counts(skipped))?;
        match self.problems.len() {
            0 => writeln!(out, "no problems"),
            1 => writeln!(out, "1 problem"),
            count => writeln!(out, "{count} problems"),
        }
    }
}
