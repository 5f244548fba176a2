//! What an operator types: `check`, `explain`, `matrix`, `diff`, and how their answers print.
//!
//! In: checked arguments and a folder. Out: an answer on the writer given, text or JSON; warnings about the folder on
//! standard error. Nothing here touches a kernel: the verdicts are those of [`compile::eval`](crate::compile::eval).

mod agent;
mod check;
mod cluster;
mod diff;
mod escape;
mod example;
mod explain;
mod kubectl;
mod matrix;
mod ports;
mod target;
mod traffic;

use std::io::{self, Write};

pub use agent::ask;
pub use check::{Report, check};
pub use cluster::Cluster;
pub use diff::{By, Change, Decided, Difference, End, Kind, Sides, diff};
pub use escape::escape;
pub use explain::{
    Backend, Because, Deciding, Explanation, Flow, IsolatingPolicy, Kernel, Missing, NamedRule, Nearest,
    Party, Reported, RuleReason, Whose, explain,
};
pub use kubectl::kubectl;
pub use matrix::{Row, matrix};
pub use ports::Ports;
use serde::{Serialize, Serializer};
pub use target::Target;
pub use traffic::Traffic;

use crate::compile::Decision;
use crate::model::{Direction, Problem};

/// How an answer ended, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Done,
    /// `check` found problems.
    ProblemsFound,
    /// `diff` found changes.
    Changes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    /// Allowed, only because the policies that would deny it are in audit.
    Audit,
    Deny,
}

impl Verdict {
    fn of(decision: Decision) -> Self {
        match decision {
            Decision { audited: true, .. } => Self::Audit,
            Decision { allowed: true, .. } => Self::Allow,
            _ => Self::Deny,
        }
    }

    /// Allowed where both allow, and an audit's where one is.
    fn and(self, other: Self) -> Self {
        self.max(other)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Warnings that a person still reads; `check` has them all.
const WARNINGS: usize = 20;

/// Problems of a folder, beside an answer that holds in spite of them.
fn warn(problems: &[Problem]) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    for problem in problems.iter().take(WARNINGS) {
        writeln!(stderr, "warning: {}", escape(&problem.to_string()))?;
    }
    if problems.len() > WARNINGS {
        writeln!(
            stderr,
            "warning: and {} more problems; palisade check lists them",
            problems.len() - WARNINGS
        )?;
    }
    Ok(())
}

/// Serialises what prints as JSON does: one value, indented, with a newline.
fn write_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Where in a policy a rule is.
fn rule_path(direction: Direction, index: u32) -> String {
    format!("spec.{direction}[{index}]")
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}
