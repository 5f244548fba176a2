//! `palisade diff`: what a folder of edited policies would change, before anything is applied.
//!
//! Nothing is sampled. A verdict depends on the pod's rule set, the class of the address at the other end, and where the port
//! is among the intervals of that pair; so ends that agree on the first two, before and after, are judged once
//! ([`ends`]), and each pair of them at the start of every interval of either side ([`table`]).

mod edit;
mod ends;
mod pairs;
mod print;
mod table;

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use serde::{Serialize, Serializer};

use self::edit::Edited;
use super::cluster::Cluster;
use super::ports::Ports;
use super::{Family, Outcome, Verdict, warn, write_json};
use crate::args::{Diff, Output};
use crate::model::Cidr;

/// What `palisade diff -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Lost first; then by who is concerned. No two speak of the same packet.
    pub changes: Vec<Change>,
    /// What else is to know.
    pub notes: Vec<String>,
}

/// From each of `from` to each of `to`, a pod with itself aside, on all of `ports` in each of `families`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub change: Kind,
    pub from: Vec<End>,
    pub to: Vec<End>,
    pub families: Vec<Family>,
    pub ports: Ports,
    /// On the side of `from`; absent where those are no pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Sides>,
    /// On the side of `to`; absent where those are no pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Sides>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Allowed before, denied after.
    Lost,
    /// Denied before, allowed after.
    Gained,
}

/// Who sends or receives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum End {
    Pod {
        /// `namespace/name`.
        pod: String,
        /// Which of its addresses is meant, where it has several of one family.
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    },
    /// A ClusterIP, before it is translated; only as a destination.
    Service {
        /// `namespace/name`.
        service: String,
        address: IpAddr,
    },
    /// One that policies name, and no pod has.
    Address { address: IpAddr },
    /// What is left of a block without `except`, and without the addresses of pods and Services.
    Block {
        #[serde(serialize_with = "in_full")]
        block: Cidr,
        /// Smaller blocks in it, of which other things hold.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        except: Vec<Cidr>,
        /// One address of it, as an example.
        address: IpAddr,
    },
}

/// The verdict of one direction's policies, before and after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Sides {
    pub before: Decided,
    pub after: Decided,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Decided {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub by: By,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "because", rename_all = "camelCase")]
pub enum By {
    /// No policy selects the pod in this direction.
    Open,
    /// A pod reaches itself, by its own Service too.
    Itself,
    /// The first rule that allows.
    Rule {
        /// `namespace/name`.
        policy: String,
        /// Path in the policy, as in `spec.ingress[0]`.
        rule: String,
    },
    /// These would isolate the pod and none would allow, but all are in audit: it passes.
    Audited {
        /// `namespace/name`.
        policies: Vec<String>,
    },
    /// These isolate the pod, and none allows.
    Isolated {
        /// `namespace/name`.
        policies: Vec<String>,
    },
}

/// Fails where a folder, an edit or the output fails, and where the edited folder cannot be read as it is written: the API
/// server would refuse it, and what it would come to is anybody's guess.
pub fn diff(question: &Diff, out: &mut dyn Write) -> Result<Outcome> {
    let Diff { from, edit, output } = question;
    let before = Cluster::load(from)?;
    let Edited { snapshot, notes } = edit::apply(&before, edit)?;
    let after = Cluster::new(snapshot, before.read_problems.clone(), before.skipped.clone());
    let new = |problem: &&crate::model::Problem| !before.problems.contains(problem);
    warn(&after.problems.iter().filter(new).cloned().collect::<Vec<_>>())?;
    let text = *output == Output::Text;
    let mut difference = pairs::difference(&before, &after, !text);
    difference.notes.extend(notes);
    match output {
        Output::Json => write_json(out, &difference)?,
        Output::Text => print::difference(out, &difference)?,
    }
    Ok(match difference.changes.is_empty() {
        true => Outcome::Done,
        false => Outcome::Changes,
    })
}

impl Difference {
    /// Of two clusters that differ in their policies alone: the pods, Namespaces, Services and EndpointSlices are those of
    /// both.
    pub fn between(before: &Cluster, after: &Cluster) -> Self {
        pairs::difference(before, after, true)
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Gained => "gained",
        }
    }
}

/// With its prefix length, be it a single address.
fn in_full<S: Serializer>(block: &Cidr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&block.net())
}
