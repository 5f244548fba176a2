//! `palisade flows`: one line a packet.

use std::io::{self, Write};

use anyhow::{Context, Result};

use crate::args::FlowOutput;
use crate::cli::escape::{escape, escape_json};
use crate::introspect::{Client, End, Flow, FlowQuery, Record};

pub async fn flows(
    client: &Client,
    query: &FlowQuery,
    output: FlowOutput,
    out: &mut dyn Write,
) -> Result<()> {
    let mut lines = client.lines(&format!("/v1/flows?{}", query.encode())).await?;
    // A reader that waits sees all that there is.
    out.flush()?;
    while let Some(line) = lines.next().await? {
        let mut next = Some(line);
        while let Some(line) = next {
            write(&line, output, false, out)?;
            next = lines.ready();
        }
        out.flush()?;
    }
    Ok(())
}

/// One record, as its line of JSON.
pub fn write(line: &str, output: FlowOutput, nodes: bool, out: &mut dyn Write) -> Result<()> {
    if output == FlowOutput::Json {
        writeln!(out, "{}", escape_json(line))?;
        return Ok(());
    }
    let record: Record = serde_json::from_str(line)
        .context("the agent's answer cannot be understood; is it of another version than this command?")?;
    // Of one width, so that they sort as text.
    write!(out, "{:.6} ", record.time())?;
    if nodes || output == FlowOutput::Wide {
        write!(out, "{} ", escape(record.node()))?;
    }
    match (&record, output) {
        (Record::Flow(flow), FlowOutput::Wide) => wide(flow, out)?,
        (Record::Flow(flow), _) => text(flow, out)?,
        (Record::Lost(lost), _) => writeln!(out, "{lost}")?,
    }
    Ok(())
}

fn ends(flow: &Flow, end: impl Fn(&End) -> String) -> String {
    let end = |side: &Option<End>| side.as_ref().map_or("-".into(), |side| escape(&end(side)));
    format!("{} -> {}", end(&flow.source), end(&flow.destination))
}

/// As in `TCP SYN` or `ICMP type 8`.
fn protocol(flow: &Flow) -> String {
    match (&flow.tcp_flags, flow.icmp_type) {
        (Some(flags), _) => format!("{} {flags}", flow.protocol),
        (None, Some(kind)) => format!("{} type {kind}", flow.protocol),
        (None, None) => flow.protocol.to_string(),
    }
}

fn text(flow: &Flow, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<7} {:<7} {} {}: {}",
        flow.verdict.as_str(),
        flow.direction.field(),
        ends(flow, End::name_and_port),
        escape(&protocol(flow)),
        escape(&flow.because()),
    )
}

fn wide(flow: &Flow, out: &mut dyn Write) -> io::Result<()> {
    let both = |end: &End| match end.pod.is_some() || end.service.is_some() {
        true => format!("{} ({})", end.name_and_port(), end.address),
        false => end.address_and_port(),
    };
    let pod = flow.pod.as_ref().map_or("-".into(), ToString::to_string);
    writeln!(
        out,
        "{:<7} {:<7} pod {} {} {}, {} bytes, interface {}: {}: {}",
        flow.verdict.as_str(),
        flow.direction.field(),
        escape(&pod),
        ends(flow, both),
        escape(&protocol(flow)),
        flow.length,
        flow.ifindex,
        escape(&flow.reason),
        escape(&flow.because()),
    )
}
