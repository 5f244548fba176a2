//! The command line and the environment, in two steps: what clap reads (`Raw…`), then what the program works with.
//!
//! The second step takes every raw struct apart field by field, so that a flag that nothing uses does not compile.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::cli::{Target, Traffic};

/// What to do, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run(Run),
    Check(Check),
    Explain(Explain),
    Matrix(Matrix),
    Clean(Clean),
}

/// `palisade run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Folder of YAML objects, watched.
    pub from: PathBuf,
    /// Folder in a bpffs, of this instance alone.
    pub pin_path: PathBuf,
    /// Where /metrics, /healthz and /readyz answer.
    pub listen: SocketAddr,
    pub log_format: LogFormat,
    /// Report first packets allowed too, not only denied ones.
    pub log_allowed: bool,
    /// A second and CPU; the others are counted as lost.
    pub events_per_second: u32,
    pub attach: Attach,
    pub capacity: Capacity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// How programs are attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// tcx where the kernel has it, else clsact
    #[default]
    Auto,
    /// tcx links (kernel 6.6 and later)
    Tcx,
    /// clsact filters (kernel 5.10 and later)
    Clsact,
}

/// Entries that the kernel maps can hold; the ring in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub pods: u32,
    pub addresses: u32,
    pub networks: u32,
    pub sources: u32,
    pub rows: u32,
    pub tables: u32,
    pub rules: u32,
    pub flows4: u32,
    pub flows6: u32,
    pub fragments: u32,
    pub event_ring_bytes: u32,
}

/// `palisade check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub from: PathBuf,
    pub output: Output,
}

/// `palisade explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    pub from: PathBuf,
    pub source: Target,
    pub destination: Target,
    pub traffic: Traffic,
    pub output: Output,
}

/// `palisade matrix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    pub from: PathBuf,
    /// At least one, in the order given, without duplicates.
    pub ports: Vec<Traffic>,
    pub output: Output,
}

/// `palisade clean`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clean {
    pub pin_path: PathBuf,
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
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut parser = Raw::command();
        let matches = parser.try_get_matches_from_mut(arguments)?;
        let Raw { command } = Raw::from_arg_matches(&matches)?;
        command
            .checked()
            .map_err(|invalid| parser.error(ErrorKind::ValueValidation, invalid))
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; for check: no problem found
  1  check: problems found; run, clean: failed
  2  wrong usage, or the folder cannot be read

Environment:
  PALISADE_LOG  what is logged to stderr, as in info or palisade::node=debug (default: info)
  Each flag can be set by the variable that its help names; the command line wins.";

/// Kubernetes NetworkPolicy, enforced with eBPF on each pod's host veth.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Raw {
    #[command(subcommand)]
    command: RawCommand,
}

#[derive(Debug, Subcommand)]
enum RawCommand {
    /// Enforce the policies of a folder on this machine's pods
    #[command(after_help = RUN_HELP)]
    Run(RawRun),
    /// Say what in a folder cannot be enforced as written
    #[command(after_help = CHECK_HELP)]
    Check(RawCheck),
    /// Say whether one pod or address may reach another, and which policy and rule decide
    #[command(after_help = EXPLAIN_HELP)]
    Explain(RawExplain),
    /// Say for all pairs of pods which may reach which
    #[command(after_help = MATRIX_HELP)]
    Matrix(RawMatrix),
    /// Remove everything that `run` left in the kernel: links, filters, maps, pins
    #[command(after_help = CLEAN_HELP)]
    Clean(RawClean),
}

const RUN_HELP: &str = "\
Reads Namespace, Pod, NetworkPolicy, Service and EndpointSlice objects, follows every edit, and finds the pods'
interfaces by their addresses. SIGTERM and SIGINT stop the process and leave enforcement in place; `palisade clean`
removes it.

Example:
  palisade run --from examples/shop --listen 127.0.0.1:9810

Exit codes: 0 stopped by a signal; 1 failed; 2 wrong usage.";

const CHECK_HELP: &str = "\
One line a problem: object: field = value: what is wrong; what to do. Then what was read and what was passed over.

Example:
  palisade check --from examples/shop

JSON: {\"problems\":[{\"object\",\"field\",\"value\",\"message\",\"remedy\"}],\"read\":{KIND:COUNT},\"skipped\":{KIND:COUNT}}

Exit codes: 0 no problem; 1 problems; 2 wrong usage, or the folder cannot be read.";

const EXPLAIN_HELP: &str = "\
SRC and DST are NAMESPACE/POD or an address; an address that a pod has stands for that pod, and DST may be a
Service's ClusterIP. PORT/PROTO is the destination port and TCP, UDP or SCTP, as in 80/TCP; for protocols without
ports, ICMP (ICMPv6 between IPv6 addresses) or another IP protocol's number.

Examples:
  palisade explain --from examples/shop shop/web-0 shop/api-0 9000/TCP
  palisade explain --from examples/shop 203.0.113.9 shop/web-0 8080/TCP -o json
  palisade explain --from examples/shop guest/intruder shop/db-0 ICMP

JSON: see `flows`: one for each pair of addresses of one family, with `egress`, `ingress` and `verdict`.

Exit codes: 0 answered, whatever the answer is; 2 wrong usage, no such pod, or the folder cannot be read.
Problems in the folder go to stderr.";

const MATRIX_HELP: &str = "\
A row for each ordered pair of pods, each family that both have, and each --port. A pod with itself, pods of the host
network, finished pods, and pods without an address are left out. A pod with several addresses of one family counts
with the first.

Examples:
  palisade matrix --from examples/shop --port 8080/TCP
  palisade matrix --from examples/shop --port 53/UDP --port ICMP -o json

JSON: [{\"from\",\"to\",\"family\",\"port\",\"egress\",\"ingress\",\"verdict\"}], family IPv4 or IPv6, the last three allow or deny;
sorted by from, to and family, ports in the order given.

Exit codes: 0 answered; 2 wrong usage, or the folder cannot be read. Problems in the folder go to stderr.";

const CLEAN_HELP: &str = "\
Works after a crash too. Where nothing is left, it does nothing.

Exit codes: 0 nothing is left; 1 something could not be removed; 2 wrong usage.";

/// Folder of YAML files with the objects
#[derive(Debug, Args)]
struct RawFrom {
    /// Folder of YAML files: Namespace, Pod, NetworkPolicy, Service, EndpointSlice
    #[arg(long, value_name = "FOLDER", env = "PALISADE_FROM")]
    from: PathBuf,
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
    #[arg(short, long, value_enum, env = "PALISADE_OUTPUT", default_value_t)]
    output: Output,
}

#[derive(Debug, Args)]
struct RawRun {
    #[command(flatten)]
    from: RawFrom,
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
    /// How log lines are written to stderr
    #[arg(long, value_enum, env = "PALISADE_LOG_FORMAT", default_value_t)]
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
    #[arg(long, value_enum, env = "PALISADE_ATTACH", default_value_t)]
    attach: Attach,
    #[command(flatten)]
    capacity: RawCapacity,
}

/// A map's capacity: zero would hold nothing, and above 2³⁰ the kernel's arithmetic ends.
fn entries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 30)
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Capacity of the kernel maps, in entries")]
struct RawCapacity {
    /// Local pods
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_PODS", default_value_t = 1024, value_parser = entries())]
    max_pods: u32,
    /// Single peer addresses, for each family
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_ADDRESSES", default_value_t = 262_144, value_parser = entries())]
    max_addresses: u32,
    /// Peer blocks, for each family
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_NETWORKS", default_value_t = 65_536, value_parser = entries())]
    max_networks: u32,
    /// Prefixes that local pods may send from besides their first addresses, for each family
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_SOURCES", default_value_t = 4096, value_parser = entries())]
    max_sources: u32,
    /// Pairs of a rule set and a class of peers
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_ROWS", default_value_t = 262_144, value_parser = entries())]
    max_rows: u32,
    /// Port tables, in pieces of 32 intervals
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_TABLES", default_value_t = 16_384, value_parser = entries())]
    max_tables: u32,
    /// Rules and isolations that are counted, and 64 for the reasons
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_RULES", default_value_t = 16_384, value_parser = entries())]
    max_rules: u32,
    /// Tracked IPv4 flows; the least recently used is forgotten when there is no room
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_FLOWS4", default_value_t = 262_144, value_parser = entries())]
    max_flows4: u32,
    /// Tracked IPv6 flows, likewise
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_FLOWS6", default_value_t = 131_072, value_parser = entries())]
    max_flows6: u32,
    /// Fragmented datagrams under way
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_FRAGMENTS", default_value_t = 16_384, value_parser = entries())]
    max_fragments: u32,
    /// Ring of reported packets, in bytes: a power of two, 4096 or more
    #[arg(long, value_name = "BYTES", env = "PALISADE_EVENT_RING_BYTES", default_value_t = 1 << 20, value_parser = entries())]
    event_ring_bytes: u32,
}

#[derive(Debug, Args)]
struct RawCheck {
    #[command(flatten)]
    from: RawFrom,
    #[command(flatten)]
    output: RawOutput,
}

#[derive(Debug, Args)]
struct RawExplain {
    #[command(flatten)]
    from: RawFrom,
    /// NAMESPACE/POD or an address
    #[arg(value_name = "SRC")]
    source: Target,
    /// NAMESPACE/POD or an address
    #[arg(value_name = "DST")]
    destination: Target,
    /// As in 80/TCP, 53/UDP, ICMP
    #[arg(value_name = "PORT/PROTO")]
    traffic: Traffic,
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

impl RawCommand {
    fn checked(self) -> Result<Command, String> {
        Ok(match self {
            Self::Run(raw) => Command::Run(raw.checked()?),
            Self::Check(RawCheck { from, output }) => Command::Check(Check {
                from: from.checked(),
                output: output.checked(),
            }),
            Self::Explain(RawExplain {
                from,
                source,
                destination,
                traffic,
                output,
            }) => Command::Explain(Explain {
                from: from.checked(),
                source,
                destination,
                traffic,
                output: output.checked(),
            }),
            Self::Matrix(RawMatrix { from, ports, output }) => Command::Matrix(Matrix {
                from: from.checked(),
                ports: without_duplicates(ports),
                output: output.checked(),
            }),
            Self::Clean(RawClean { pin_path }) => Command::Clean(Clean {
                pin_path: pin_path.checked(),
            }),
        })
    }
}

impl RawFrom {
    fn checked(self) -> PathBuf {
        let Self { from } = self;
        from
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
            log_format,
            log_allowed,
            events_per_second,
            attach,
            capacity,
        } = self;
        Ok(Run {
            from: from.checked(),
            pin_path: pin_path.checked(),
            listen,
            log_format,
            log_allowed,
            events_per_second,
            attach,
            capacity: capacity.checked()?,
        })
    }
}

impl RawCapacity {
    fn checked(self) -> Result<Capacity, String> {
        let Self {
            max_pods,
            max_addresses,
            max_networks,
            max_sources,
            max_rows,
            max_tables,
            max_rules,
            max_flows4,
            max_flows6,
            max_fragments,
            event_ring_bytes,
        } = self;
        if !event_ring_bytes.is_power_of_two() || event_ring_bytes < 4096 {
            return Err(format!(
                "--event-ring-bytes {event_ring_bytes} is not a power of two of at least 4096; the default is 1048576"
            ));
        }
        Ok(Capacity {
            pods: max_pods,
            addresses: max_addresses,
            networks: max_networks,
            sources: max_sources,
            rows: max_rows,
            tables: max_tables,
            rules: max_rules,
            flows4: max_flows4,
            flows6: max_flows6,
            fragments: max_fragments,
            event_ring_bytes,
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
