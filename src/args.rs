//! The command line and the environment, in two steps: what clap reads (`Raw…`), then what the program works with.
//!
//! The second step takes every raw struct apart field by field, so that a flag that nothing uses does not compile.

mod agent;
mod capacity;
mod cluster;
mod help;
mod questions;
mod trace;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use self::agent::{Ask, DataOutput, FlowOutput, Flows, Kubectl, Question};
use self::agent::{RawAsk, RawFlowKeeping, RawKubectl, RawSocket};
use self::capacity::RawCapacity;
pub use self::cluster::{Cluster, Node};
use self::cluster::{RawCluster, RawCniPaths};
pub use self::questions::{Asked, Diff, Edit, Explain, Packet};
use self::questions::{RawDiff, RawExplain};
pub use self::trace::TraceOutput;
use clap_complete::Shell;

use crate::bpf::{AttachKind, Config};
use crate::cli::Traffic;
use crate::cni::{Mode, install};
use crate::observe::Detail;

/// What to do, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run(Run),
    Check(Check),
    Explain(Explain),
    Matrix(Matrix),
    Diff(Diff),
    Clean(Clean),
    Uninstall(Uninstall),
    /// `palisade flows`, and the others that ask the running agent.
    Ask(Ask),
    Kubectl(Kubectl),
    Completion(Shell),
    /// `palisade crds`.
    Crds,
    /// `palisade metrics-reference`.
    MetricsReference,
}

/// `palisade run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub from: From,
    pub kernel: Config,
    /// Where /metrics, /healthz and /readyz answer.
    pub listen: SocketAddr,
    /// How finely /metrics tells traffic apart.
    pub detail: Detail,
    pub log_format: LogFormat,
    pub flows: Flows,
}

/// What says what is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A folder of YAML objects, watched.
    Folder(PathBuf),
    Cluster(Cluster),
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A folder of YAML objects.
    Folder(PathBuf),
    /// A cluster: that of `KUBECONFIG`, or of the pod that this runs in.
    ApiServer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `palisade check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub from: Objects,
    pub output: Output,
}

/// `palisade matrix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub from: Objects,
    /// At least one, in the order given, without duplicates.
    pub ports: Vec<Traffic>,
    pub output: Output,
}

/// `palisade clean`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clean {
    pub pin_path: PathBuf,
}

/// `palisade uninstall`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uninstall {
    pub pin_path: PathBuf,
    pub api_socket: PathBuf,
    pub cni: install::Config,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

impl Command {
    /// Reads arguments (the first is the program's name) and the environment. The error knows how to print itself and
    /// which exit code it has: 0 where help or the version was asked for.
    ///
    /// A program called kubectl-palisade, as kubectl calls its plugins, is `palisade kubectl`.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        if arguments.first().is_some_and(is_plugin) {
            arguments.insert(1, "kubectl".into());
        }
        let mut parser = Raw::command();
        let matches = parser.try_get_matches_from_mut(arguments)?;
        let Raw { command } = Raw::from_arg_matches(&matches)?;
        command
            .checked()
            .map_err(|invalid| parser.error(ErrorKind::ValueValidation, invalid))
    }
}

fn is_plugin(program: &OsString) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    matches!(name, Some("kubectl-palisade" | "kubectl_palisade"))
}

/// Writes the script that completes commands and flags in `shell`.
pub fn complete(shell: Shell, out: &mut dyn Write) {
    clap_complete::generate(shell, &mut Raw::command(), "palisade", &mut Writer(out));
}

/// What clap_complete takes for a writer.
struct Writer<'w>(&'w mut dyn Write);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Kubernetes NetworkPolicy, enforced with eBPF on each pod's host veth.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, after_help = help::COMMON, arg_required_else_help = true)]
struct Raw {
    #[command(subcommand)]
    command: RawCommand,
}

#[derive(Debug, Subcommand)]
enum RawCommand {
    /// Enforce the policies of a cluster, or of a folder, on this machine's pods
    #[command(after_help = help::RUN)]
    Run(RawRun),
    /// Say what cannot be enforced as written
    #[command(after_help = help::CHECK)]
    Check(RawCheck),
    /// Say whether one pod or address may reach another, and which policy and rule decide
    #[command(after_help = help::EXPLAIN)]
    Explain(RawExplain),
    /// Say for all pairs of pods which may reach which
    #[command(after_help = help::MATRIX)]
    Matrix(RawMatrix),
    /// Say what a folder of edited policies would change: pairs and ports gained and lost
    #[command(after_help = help::DIFF)]
    Diff(RawDiff),
    #[command(flatten)]
    Ask(RawAsk),
    /// Ask the agents of a cluster, from wherever kubectl works; as kubectl palisade too
    #[command(after_help = help::KUBECTL)]
    Kubectl(RawKubectl),
    /// Print a script that completes palisade's commands and flags in a shell
    #[command(after_help = help::COMPLETION)]
    Completion(RawCompletion),
    /// Remove everything that `run` left in the kernel: links, filters, maps, pins
    #[command(after_help = help::CLEAN)]
    Clean(RawClean),
    /// Remove everything from this node: the CNI plugin and its entry, the socket, and what `clean` removes
    #[command(after_help = help::UNINSTALL)]
    Uninstall(RawUninstall),
    /// Print the CustomResourceDefinitions, as manifests/crds.yaml has them
    #[command(hide = true)]
    Crds,
    /// Print the table of metrics, as docs/metrics.md has it
    #[command(hide = true)]
    MetricsReference,
}

#[derive(Debug, Args)]
struct RawFrom {
    /// Folder of YAML files: Namespace, Pod, NetworkPolicy, Service, EndpointSlice; without it, the API server of KUBECONFIG or
    /// of the pod that this runs in is asked
    #[arg(long, value_name = "FOLDER", env = "PALISADE_FROM")]
    from: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RawPinPath {
    /// Folder in a bpffs that holds this instance's links and maps
    #[arg(
        long,
        value_name = "PATH",
        env = "PALISADE_PIN_PATH",
        default_value = "/sys/fs/bpf/palisade"
    )]
    pin_path: PathBuf,
}

#[derive(Debug, Args)]
struct RawOutput {
    /// How the answer is written
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        env = "PALISADE_OUTPUT",
        default_value_t
    )]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RawAttach {
    /// tcx where the kernel has it, else clsact
    Auto,
    /// tcx links (kernel 6.6 and later)
    Tcx,
    /// clsact filters (kernel 5.10 and later)
    Clsact,
}

#[derive(Debug, Args)]
struct RawRun {
    /// Folder of YAML files: Namespace, Pod, NetworkPolicy, Service, EndpointSlice; without it, the API server of KUBECONFIG or
    /// of the pod that this runs in
    #[arg(long, value_name = "FOLDER", env = "PALISADE_FROM")]
    from: Option<PathBuf>,
    #[command(flatten)]
    pin_path: RawPinPath,
    /// Where /metrics, /healthz and /readyz answer
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "PALISADE_LISTEN",
        default_value = "127.0.0.1:9810"
    )]
    listen: SocketAddr,
    /// Count traffic by rule in /metrics, not only by policy
    #[arg(long, env = "PALISADE_METRICS_PER_RULE")]
    metrics_per_rule: bool,
    /// Series of traffic in /metrics that name a policy, for packets and bytes each; the rest is summed up under _overflow
    #[arg(
        long,
        value_name = "COUNT",
        env = "PALISADE_METRICS_MAX_POLICY_SERIES",
        default_value_t = Detail::default().policies as u32
    )]
    metrics_max_policy_series: u32,
    /// How log lines are written to stderr
    #[arg(
        long,
        value_name = "FORMAT",
        value_enum,
        env = "PALISADE_LOG_FORMAT",
        default_value_t
    )]
    log_format: LogFormat,
    /// Log each flow's first packet also where it is allowed
    #[arg(long, env = "PALISADE_LOG_ALLOWED")]
    log_allowed: bool,
    /// Packets reported a second and CPU; the others are counted as lost
    #[arg(
        long,
        value_name = "COUNT",
        env = "PALISADE_EVENTS_PER_SECOND",
        default_value_t = 100
    )]
    events_per_second: u32,
    /// How programs are attached to the pods' interfaces
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        env = "PALISADE_ATTACH",
        default_value = "auto"
    )]
    attach: RawAttach,
    /// Layout of the pinned maps as which this build's are taken, for tests of upgrades
    #[arg(long, value_name = "NUMBER", env = "PALISADE_ABI_VERSION", default_value_t = Config::default().abi_version, hide = true)]
    abi_version: u32,
    #[command(flatten)]
    cluster: RawCluster,
    #[command(flatten)]
    flows: RawFlowKeeping,
    #[command(flatten)]
    capacity: RawCapacity,
}

#[derive(Debug, Args)]
struct RawCheck {
    #[command(flatten)]
    from: RawFrom,
    #[command(flatten)]
    output: RawOutput,
}

#[derive(Debug, Args)]
struct RawMatrix {
    #[command(flatten)]
    from: RawFrom,
    /// As in 80/TCP, 53/UDP, ICMP; may be repeated
    #[arg(long = "port", value_name = "PORT/PROTO", required = true)]
    ports: Vec<Traffic>,
    #[command(flatten)]
    output: RawOutput,
}

#[derive(Debug, Args)]
struct RawClean {
    #[command(flatten)]
    pin_path: RawPinPath,
}

#[derive(Debug, Args)]
struct RawUninstall {
    #[command(flatten)]
    pin_path: RawPinPath,
    #[command(flatten)]
    cni_paths: RawCniPaths,
    #[command(flatten)]
    api_socket: RawSocket,
}

#[derive(Debug, Args)]
struct RawCompletion {
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

impl RawCommand {
    fn checked(self) -> Result<Command, String> {
        Ok(match self {
            Self::Run(raw) => Command::Run(raw.checked()?),
            Self::Check(RawCheck { from, output }) => Command::Check(Check {
                from: from.checked(),
                output: output.checked(),
            }),
            Self::Explain(raw) => Command::Explain(raw.checked()?),
            Self::Matrix(RawMatrix { from, ports, output }) => Command::Matrix(Matrix {
                from: from.checked(),
                ports: without_duplicates(ports),
                output: output.checked(),
            }),
            Self::Diff(raw) => Command::Diff(raw.checked()),
            Self::Clean(RawClean { pin_path }) => Command::Clean(Clean {
                pin_path: pin_path.checked(),
            }),
            Self::Uninstall(RawUninstall {
                pin_path,
                cni_paths,
                api_socket,
            }) => Command::Uninstall(Uninstall {
                pin_path: pin_path.checked(),
                api_socket: api_socket.checked(),
                // Whatever the mode is: the entry goes.
                cni: cni_paths.checked(Mode::Strict),
            }),
            Self::Ask(raw) => Command::Ask(raw.checked()),
            Self::Kubectl(raw) => Command::Kubectl(raw.checked()),
            Self::Completion(RawCompletion { shell }) => Command::Completion(shell),
            Self::Crds => Command::Crds,
            Self::MetricsReference => Command::MetricsReference,
        })
    }
}

impl RawFrom {
    fn checked(self) -> Objects {
        let Self { from } = self;
        from.map_or(Objects::ApiServer, Objects::Folder)
    }
}

impl RawPinPath {
    fn checked(self) -> PathBuf {
        let Self { pin_path } = self;
        pin_path
    }
}

impl RawOutput {
    fn checked(self) -> Output {
        let Self { output } = self;
        output
    }
}

impl RawRun {
    fn checked(self) -> Result<Run, String> {
        let Self {
            from,
            pin_path,
            listen,
            metrics_per_rule,
            metrics_max_policy_series,
            log_format,
            log_allowed,
            events_per_second,
            attach,
            cluster,
            abi_version,
            flows,
            capacity,
        } = self;
        Ok(Run {
            from: match from {
                Some(folder) => From::Folder(folder),
                None => From::Cluster(cluster.checked()?),
            },
            kernel: Config {
                pin_path: pin_path.checked(),
                sizes: capacity.checked()?,
                log_allowed,
                events_per_second,
                attach: match attach {
                    RawAttach::Auto => AttachKind::Auto,
                    RawAttach::Tcx => AttachKind::Tcx,
                    RawAttach::Clsact => AttachKind::Clsact,
                },
                abi_version,
            },
            listen,
            detail: Detail {
                policies: metrics_max_policy_series as usize,
                rules: metrics_per_rule,
            },
            log_format,
            flows: flows.checked(),
        })
    }
}

fn without_duplicates(ports: Vec<Traffic>) -> Vec<Traffic> {
    let mut seen = Vec::with_capacity(ports.len());
    for port in ports {
        if !seen.contains(&port) {
            seen.push(port);
        }
    }
    seen
}

#[cfg(test)]
mod tests;
