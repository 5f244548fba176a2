//! Flags of `explain` and `diff`: packets, and edits of policies.

use std::path::PathBuf;

use clap::Args;

use super::agent::RawSocket;
use super::{Objects, Output, RawFrom, RawOutput};
use crate::cli::{Target, Traffic};
use crate::model::ObjectId;

/// `palisade explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    pub from: Objects,
    pub asked: Asked,
    /// Where the agent of this node answers, if there is one.
    pub socket: PathBuf,
    pub output: Output,
}

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Packet(Packet),
    /// A flow's line as JSON, or `-`: it is read from standard input.
    Flow(String),
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: Target,
    pub destination: Target,
    pub traffic: Traffic,
}

/// `palisade diff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    pub from: Objects,
    pub edit: Edit,
    pub output: Output,
}

/// What is to become of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// A folder whose NetworkPolicies replace those of the same names, or come anew.
    pub with: Option<PathBuf>,
    /// Whether those go that the folder does not have.
    pub replace: bool,
    /// Those that go besides.
    pub delete: Vec<ObjectId>,
}

#[derive(Debug, Args)]
pub(super) struct RawExplain {
    #[command(flatten)]
    from: RawFrom,
    /// NAMESPACE/POD or an address
    #[arg(value_name = "SRC", required_unless_present = "drop")]
    source: Option<Target>,
    /// NAMESPACE/POD or an address
    #[arg(value_name = "DST", required_unless_present = "drop")]
    destination: Option<Target>,
    /// As in 80/TCP, 53/UDP, ICMP
    #[arg(value_name = "PORT/PROTO", required_unless_present = "drop")]
    traffic: Option<Traffic>,
    /// Instead: the packet of this line of `palisade flows -o json`; -: of the first line of standard input
    #[arg(
        long,
        value_name = "FLOW",
        conflicts_with = "source",
        allow_hyphen_values = true
    )]
    drop: Option<String>,
    #[command(flatten)]
    socket: RawSocket,
    #[command(flatten)]
    output: RawOutput,
}

#[derive(Debug, Args)]
pub(super) struct RawDiff {
    #[command(flatten)]
    from: RawFrom,
    #[command(flatten)]
    edit: RawEdit,
    #[command(flatten)]
    output: RawOutput,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct RawEdit {
    /// Folder of edited policies: each replaces the NetworkPolicy of its namespace and name, or comes anew
    #[arg(long, value_name = "FOLDER")]
    with: Option<PathBuf>,
    /// NetworkPolicies that --with does not have go
    #[arg(long, requires = "with")]
    replace: bool,
    /// A NetworkPolicy that goes; may be repeated
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = policy_name)]
    delete: Vec<ObjectId>,
}

fn policy_name(text: &str) -> Result<ObjectId, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ObjectId::new(namespace, name))
        }
        _ => Err("write NAMESPACE/NAME".to_string()),
    }
}

impl RawEdit {
    fn checked(self) -> Edit {
        let Self {
            with,
            replace,
            delete,
        } = self;
        Edit {
            with,
            replace,
            delete,
        }
    }
}

impl RawExplain {
    pub(super) fn checked(self) -> Result<Explain, String> {
        let Self {
            from,
            source,
            destination,
            traffic,
            drop,
            socket,
            output,
        } = self;
        Ok(Explain {
            from: from.checked(),
            asked: match (source, destination, traffic, drop) {
                (_, _, _, Some(line)) => Asked::Flow(line),
                (Some(source), Some(destination), Some(traffic), None) => Asked::Packet(Packet {
                    source,
                    destination,
                    traffic,
                }),
                _ => return Err("explain needs SRC, DST and PORT/PROTO, or --drop".to_string()),
            },
            socket: socket.checked(),
            output: output.checked(),
        })
    }
}

impl RawDiff {
    pub(super) fn checked(self) -> Diff {
        let Self { from, edit, output } = self;
        Diff {
            from: from.checked(),
            edit: edit.checked(),
            output: output.checked(),
        }
    }
}
