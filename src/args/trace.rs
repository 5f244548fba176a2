//! Flags of `palisade trace`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::agent::{Ask, Question, RawSocket};
use crate::introspect::trace::{PACKETS, TraceQuery};
use crate::introspect::{Name, Verdict, reasons};
use crate::model::Cidr;

/// How a trace is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TraceOutput {
    /// Some lines a packet, with names
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Args)]
pub(super) struct RawTrace {
    #[command(flatten)]
    socket: RawSocket,
    /// Only packets judged for this pod: NAMESPACE/NAME, or NAME in any namespace
    #[arg(long, value_name = "POD")]
    pod: Option<Name>,
    /// Only packets of flows from this address or block, both ways
    #[arg(long, value_name = "ADDRESS")]
    source: Option<Cidr>,
    /// Only packets of flows to this address or block, both ways
    #[arg(long, value_name = "ADDRESS")]
    destination: Option<Cidr>,
    /// Only packets of flows to this port, both ways
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only this protocol: TCP, UDP, SCTP, ICMP, ICMPv6 or an IP protocol's number
    #[arg(long, value_parser = TraceQuery::protocol)]
    protocol: Option<u8>,
    /// Only packets that pass or fall for this reason
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(reasons()))]
    reason: Option<String>,
    /// Only packets with this verdict
    #[arg(long, value_parser = Verdict::ALL.map(Verdict::as_str))]
    verdict: Option<String>,
    /// End after this time, as in 10s, 500ms or 2m; 10 minutes at most
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = TraceQuery::time)]
    time: Duration,
    /// End after so many packets
    #[arg(long, value_name = "COUNT", default_value_t = PACKETS, value_parser = TraceQuery::packets)]
    packets: u32,
    /// How they are written
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        env = "PALISADE_OUTPUT",
        default_value_t
    )]
    output: TraceOutput,
}

impl RawTrace {
    pub(super) fn checked(self) -> Ask {
        let Self {
            socket,
            pod,
            source,
            destination,
            port,
            protocol,
            reason,
            verdict,
            time,
            packets,
            output,
        } = self;
        let query = TraceQuery {
            pod,
            source,
            destination,
            port,
            protocol,
            reason: reason.map(Into::into),
            verdict: Verdict::ALL
                .into_iter()
                .find(|known| verdict.as_deref() == Some(known.as_str())),
            time,
            packets,
        };
        Ask {
            socket: socket.checked(),
            question: Question::Trace(query, output),
        }
    }
}
