//! Flags of what a running agent answers about itself, and of the commands that ask it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};

use super::help;
use crate::introspect::{
    self, CONNTRACK, ConntrackQuery, Destination, File, Filter, FlowQuery, Name, ObjectQuery, Verdict,
    reasons,
};
use crate::model::Direction;

/// What `run` keeps of flows, and where it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    pub socket: PathBuf,
    /// Records that are held.
    pub held: usize,
    /// Where records are written too.
    pub log: Option<Destination>,
}

/// A question to the agent of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub socket: PathBuf,
    pub question: Question,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    Flows(FlowQuery, FlowOutput),
    Status(DataOutput),
    Pods(ObjectQuery, DataOutput),
    Policies(ObjectQuery, DataOutput),
    Maps(DataOutput),
    Programs(DataOutput),
    Conntrack(ConntrackQuery, DataOutput),
    /// Where the archive goes; `None`: a name of its own in the current folder.
    Bugreport(Option<PathBuf>),
}

/// A question to the agents of a cluster, by way of kubectl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubectl {
    pub program: PathBuf,
    /// Flags of kubectl's own, that say which cluster.
    pub cluster: Vec<String>,
    /// Where the agents' pods are.
    pub namespace: String,
    /// `None`: all that can tell.
    pub node: Option<String>,
    pub question: Question,
}

/// How an answer of one piece is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DataOutput {
    #[default]
    Text,
    Json,
    Yaml,
}

/// How flows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FlowOutput {
    /// One line a packet, with names
    #[default]
    Text,
    /// Also node, addresses, flags, length and interface
    Wide,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(super) struct RawSocket {
    /// Unix socket on which the agent answers
    #[arg(long, value_name = "PATH", env = "PALISADE_API_SOCKET", default_value = introspect::SOCKET)]
    api_socket: PathBuf,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "What it answers")]
pub(super) struct RawFlowKeeping {
    #[command(flatten)]
    socket: RawSocket,
    /// Packets that palisade flows can still show
    #[arg(long, value_name = "COUNT", env = "PALISADE_FLOWS_HELD", default_value_t = introspect::FLOWS, value_parser = held)]
    flows_held: usize,
    /// File that packets are written to too, as JSON lines; - for standard output
    #[arg(long, value_name = "FILE", env = "PALISADE_FLOW_LOG")]
    flow_log: Option<PathBuf>,
    /// Size at which the file of packets makes room for a new one, in bytes
    #[arg(long, value_name = "BYTES", env = "PALISADE_FLOW_LOG_MAX_BYTES", default_value_t = 10 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    flow_log_max_bytes: u64,
    /// Old files of packets that are kept: FILE.1 is the newest
    #[arg(long, value_name = "COUNT", env = "PALISADE_FLOW_LOG_FILES", default_value_t = 4, value_parser = clap::value_parser!(u8).range(0..=100))]
    flow_log_files: u8,
}

/// Each takes some 500 bytes.
fn held(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "no number".to_string())?;
    match count {
        0..=1_000_000 => Ok(count),
        _ => Err("more than 1000000".into()),
    }
}

#[derive(Debug, Args)]
pub(super) struct RawFlows {
    #[command(flatten)]
    socket: RawSocket,
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// Show this many of those that are held [default: 100; with --follow: 10]
    #[arg(short, long, value_name = "COUNT")]
    last: Option<usize>,
    /// Only where this pod is judged, or at either end: NAMESPACE/NAME, or NAME in any namespace
    #[arg(long, value_name = "POD")]
    pod: Option<Name>,
    /// Only where a pod or Service of this namespace is judged, or at either end
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only those with this verdict
    #[arg(long, value_parser = Verdict::ALL.map(Verdict::as_str))]
    verdict: Option<String>,
    /// Only those that this policy allows, or helps to isolate from: NAMESPACE/NAME, or NAME in any namespace
    #[arg(long, value_name = "POLICY")]
    policy: Option<Name>,
    /// Only those of this direction, as the pod that is judged sees it
    #[arg(long, value_parser = Direction::ALL.map(Direction::field))]
    direction: Option<String>,
    /// Only those to this port
    #[arg(long)]
    port: Option<u16>,
    /// Only those with this reason
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(reasons()))]
    reason: Option<String>,
    /// How they are written
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        env = "PALISADE_OUTPUT",
        default_value_t
    )]
    output: FlowOutput,
}

#[derive(Debug, Args)]
struct RawData {
    #[command(flatten)]
    socket: RawSocket,
    /// How the answer is written
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        env = "PALISADE_OUTPUT",
        default_value_t
    )]
    output: DataOutput,
}

/// Questions to a running agent.
#[derive(Debug, Subcommand)]
pub(super) enum RawAsk {
    /// Say how the agent is: what it enforces, what it waits for, what is wrong
    #[command(after_help = help::STATUS)]
    Status(RawPlain),
    /// Show packets that were denied, or allowed where that is asked for
    #[command(after_help = help::FLOWS)]
    Flows(RawFlows),
    /// Show the pods that are enforced, and which policies isolate them
    #[command(after_help = help::PODS)]
    Pods(RawPods),
    /// Show policies, whom they isolate on a node, and what they allowed and denied there
    #[command(after_help = help::POLICIES)]
    Policies(RawPolicies),
    /// Show the flows that the kernel tracks
    #[command(after_help = help::CONNTRACK)]
    Conntrack(RawConntrack),
    /// Show the kernel's maps, how full they are, and which flag makes them larger
    #[command(after_help = help::MAPS)]
    Maps(RawPlain),
    /// Show the kernel's programs and the interfaces that have them
    #[command(after_help = help::PROGS)]
    Progs(RawPlain),
    /// Put all that the agent tells into one archive
    #[command(after_help = help::BUGREPORT)]
    Bugreport(RawBugreport),
}

impl RawAsk {
    pub(super) fn checked(self) -> Ask {
        match self {
            Self::Status(raw) => raw.checked(Question::Status),
            Self::Flows(raw) => raw.checked(),
            Self::Pods(raw) => raw.checked(),
            Self::Policies(raw) => raw.checked(),
            Self::Conntrack(raw) => raw.checked(),
            Self::Maps(raw) => raw.checked(Question::Maps),
            Self::Progs(raw) => raw.checked(Question::Programs),
            Self::Bugreport(raw) => raw.checked(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RawKubectl {
    /// Only the agent of this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Context of the kubeconfig, as kubectl takes it
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig, as kubectl takes it
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Namespace of Palisade's own pods
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    palisade_namespace: String,
    /// The kubectl that is run
    #[arg(
        long,
        value_name = "PROGRAM",
        env = "PALISADE_KUBECTL",
        default_value = "kubectl"
    )]
    kubectl: PathBuf,
    #[command(subcommand)]
    ask: RawAsk,
}

impl RawKubectl {
    pub(super) fn checked(self) -> Kubectl {
        let Self {
            node,
            context,
            kubeconfig,
            palisade_namespace,
            kubectl,
            ask,
        } = self;
        let cluster = [("context", context), ("kubeconfig", kubeconfig)];
        let flag = |(name, value): (&str, Option<String>)| Some(format!("--{name}={}", value?));
        // The socket is that of the machine where the agent is.
        let Ask { socket: _, question } = ask.checked();
        Kubectl {
            program: kubectl,
            cluster: cluster.into_iter().filter_map(flag).collect(),
            namespace: palisade_namespace,
            node,
            question,
        }
    }
}

/// `status`, `maps`, `progs`.
#[derive(Debug, Args)]
pub(super) struct RawPlain {
    #[command(flatten)]
    data: RawData,
}

#[derive(Debug, Args)]
pub(super) struct RawPods {
    /// Only this pod: NAMESPACE/NAME, or NAME in any namespace
    #[arg(value_name = "POD")]
    name: Option<Name>,
    /// Only those of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    data: RawData,
}

#[derive(Debug, Args)]
pub(super) struct RawPolicies {
    /// Only this policy: NAMESPACE/NAME, or NAME in any namespace
    #[arg(value_name = "POLICY")]
    name: Option<Name>,
    /// Only those of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    data: RawData,
}

#[derive(Debug, Args)]
pub(super) struct RawConntrack {
    /// Show this many at most
    #[arg(long, value_name = "COUNT", default_value_t = CONNTRACK)]
    limit: usize,
    /// Only flows of this pod: NAMESPACE/NAME, or NAME in any namespace
    #[arg(long, value_name = "POD")]
    pod: Option<Name>,
    /// Only flows of pods of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only flows to this port
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    data: RawData,
}

#[derive(Debug, Args)]
pub(super) struct RawBugreport {
    /// File that the archive is written to; - for standard output [default: palisade-NODE-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    socket: RawSocket,
}

impl RawData {
    fn asks(self, question: impl FnOnce(DataOutput) -> Question) -> Ask {
        let Self { socket, output } = self;
        Ask {
            socket: socket.checked(),
            question: question(output),
        }
    }
}

impl RawPlain {
    pub(super) fn checked(self, question: fn(DataOutput) -> Question) -> Ask {
        let Self { data } = self;
        data.asks(question)
    }
}

fn objects(name: Option<Name>, namespace: Option<String>) -> ObjectQuery {
    ObjectQuery {
        name,
        namespace: namespace.map(Arc::from),
    }
}

impl RawPods {
    pub(super) fn checked(self) -> Ask {
        let Self {
            name,
            namespace,
            data,
        } = self;
        data.asks(|output| Question::Pods(objects(name, namespace), output))
    }
}

impl RawPolicies {
    pub(super) fn checked(self) -> Ask {
        let Self {
            name,
            namespace,
            data,
        } = self;
        data.asks(|output| Question::Policies(objects(name, namespace), output))
    }
}

impl RawConntrack {
    pub(super) fn checked(self) -> Ask {
        let Self {
            limit,
            pod,
            namespace,
            port,
            data,
        } = self;
        let query = ConntrackQuery {
            limit,
            pod,
            namespace: namespace.map(Arc::from),
            port,
        };
        data.asks(|output| Question::Conntrack(query, output))
    }
}

impl RawBugreport {
    pub(super) fn checked(self) -> Ask {
        let Self { file, socket } = self;
        Ask {
            socket: socket.checked(),
            question: Question::Bugreport(file),
        }
    }
}

impl RawSocket {
    pub(super) fn checked(self) -> PathBuf {
        let Self { api_socket } = self;
        api_socket
    }
}

impl RawFlowKeeping {
    pub(super) fn checked(self) -> Flows {
        let Self {
            socket,
            flows_held,
            flow_log,
            flow_log_max_bytes,
            flow_log_files,
        } = self;
        Flows {
            socket: socket.checked(),
            held: flows_held,
            log: flow_log.map(|path| match path.as_os_str() == "-" {
                true => Destination::StandardOutput,
                false => Destination::File(File {
                    path,
                    max_bytes: flow_log_max_bytes,
                    keep: flow_log_files.into(),
                }),
            }),
        }
    }
}

/// What `--follow` shows of what was before.
const LAST_FOLLOWED: usize = 10;

impl RawFlows {
    pub(super) fn checked(self) -> Ask {
        let Self {
            socket,
            follow,
            last,
            pod,
            namespace,
            verdict,
            policy,
            direction,
            port,
            reason,
            output,
        } = self;
        let filter = Filter {
            pod,
            namespace: namespace.map(Arc::from),
            verdict: Verdict::ALL
                .into_iter()
                .find(|known| verdict.as_deref() == Some(known.as_str())),
            policy,
            direction: Direction::ALL
                .into_iter()
                .find(|known| direction.as_deref() == Some(known.field())),
            port,
            reason: reason.map(Arc::from),
        };
        let query = FlowQuery {
            last: last.or(follow.then_some(LAST_FOLLOWED)),
            follow,
            filter,
        };
        Ask {
            socket: socket.checked(),
            question: Question::Flows(query, output),
        }
    }
}
