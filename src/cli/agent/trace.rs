//! `palisade trace`: some lines a packet, its way through the programs from top to bottom.

use std::io::{self, Write};

use anyhow::{Context, Result, bail};

use crate::args::TraceOutput;
use crate::cli::escape::{escape, escape_json};
use crate::introspect::trace::{
    Conntrack, Packet, PacketHeaders, Question, TraceEnd, TraceLine, TraceQuery, Why,
};
use crate::introspect::{Client, End, Verdict};

pub async fn trace(
    client: &Client,
    query: &TraceQuery,
    output: TraceOutput,
    out: &mut dyn Write,
) -> Result<()> {
    let mut lines = client.lines(&format!("/v1/trace?{}", query.encode())).await?;
    let mut ended = false;
    while let Some(line) = lines.next().await? {
        let mut next = Some(line);
        while let Some(line) = next {
            ended = write(&line, output, false, out)?;
            next = lines.ready();
        }
        out.flush()?;
    }
    if !ended {
        bail!(
            "the agent has ended in the middle of the trace; at its next start, it ends the trace in the kernel too"
        );
    }
    Ok(())
}

/// One line, as its line of JSON. Whether it was the last.
pub fn write(line: &str, output: TraceOutput, nodes: bool, out: &mut dyn Write) -> Result<bool> {
    let told: TraceLine = serde_json::from_str(line)
        .context("the agent's answer cannot be understood; is it of another version than this command?")?;
    match (&told, output) {
        (_, TraceOutput::Json) => writeln!(out, "{}", escape_json(line))?,
        // Only JSON tells it: whoever reads the text sees packets.
        (TraceLine::Begun { .. }, _) => {}
        (TraceLine::Packet(packet), _) => text(packet, nodes, out)?,
        (TraceLine::End(end), _) if nodes => writeln!(out, "{}: {}", escape(&end.node), summary(end))?,
        (TraceLine::End(end), _) => writeln!(out, "{}", summary(end))?,
    }
    Ok(matches!(told, TraceLine::End(_)))
}

fn summary(end: &TraceEnd) -> String {
    let why = match end.why {
        Why::Time => "its time is over (--for)",
        Why::Packets => "it was to tell of no more (--packets)",
        Why::Agent => "the agent has ended it",
    };
    format!(
        "{} of {} packets of the traced pods shown, {} lost: {why}",
        end.packets, end.seen, end.lost
    )
}

fn text(packet: &Packet, nodes: bool, out: &mut dyn Write) -> io::Result<()> {
    let pod = packet.pod.as_ref().map_or("-".into(), ToString::to_string);
    write!(out, "{:.6} ", packet.time)?;
    if nodes {
        write!(out, "{} ", escape(&packet.node))?;
    }
    writeln!(
        out,
        "{} {} {}, {} bytes",
        escape(&pod),
        packet.direction.field(),
        escape(&ends(&packet.headers)),
        packet.length,
    )?;
    let mut step = |name: &str, what: String| writeln!(out, "  {name:<10} {}", escape(&what));
    step("interface", interface(packet))?;
    step("headers", headers(packet))?;
    if let Some(quoted) = &packet.quoted {
        step("quotes", ends(quoted))?;
    }
    if packet.own_address == Some(false) {
        step("address", "on the pod's side not one of the pod's own".into())?;
    }
    if let Some(exempt) = &packet.exempt {
        let who = match &**exempt {
            "node" => "the node itself sends it",
            _ => "the pod sends it to itself",
        };
        step("exempt", format!("{who}: policy is not asked"))?;
    }
    step("conntrack", conntrack(packet))?;
    for question in &packet.policy {
        step("policy", policy(question))?;
    }
    step("verdict", verdict(packet))?;
    let next = match packet.verdict {
        Verdict::Denied => "dropped",
        Verdict::Allowed | Verdict::Audit => "passed on to what is attached next, then the node or the pod",
    };
    step("next", next.into())
}

/// As in `TCP SYN 10.0.0.9:4000 (shop/web) -> 10.0.0.2:80 (shop/api)`.
fn ends(headers: &PacketHeaders) -> String {
    let detail = match (&headers.tcp_flags, headers.icmp_type) {
        (Some(flags), _) => format!(" {flags}"),
        (None, Some(kind)) => format!(" type {kind}"),
        (None, None) => String::new(),
    };
    let end = |end: &Option<End>| {
        let Some(end) = end else { return "-".into() };
        match end.pod.as_ref().or(end.service.as_ref()) {
            Some(name) => format!("{} ({name})", end.address_and_port()),
            None => end.address_and_port(),
        }
    };
    format!(
        "{}{detail} {} -> {}",
        headers.protocol,
        end(&headers.source),
        end(&headers.destination)
    )
}

fn interface(packet: &Packet) -> String {
    let from = match packet.received_on {
        Some(link) if link == packet.ifindex => "from the pod".into(),
        Some(link) => format!("received on interface {link}"),
        None => "sent by the node".into(),
    };
    format!("{}, {from}", packet.ifindex)
}

fn headers(packet: &Packet) -> String {
    let headers = &packet.headers;
    let kind = match &*headers.kind {
        "flow" => "of a flow",
        "stateless" => "ICMP that is judged packet by packet",
        "neighbour" => "neighbour discovery",
        "arp" => "ARP",
        "icmpError" => "an ICMP error",
        "router" => "a router's advertisement or redirect",
        _ => "without addresses",
    };
    let mut told = vec![
        match headers.in_place {
            true => "read in place",
            false => "walked",
        }
        .to_string(),
        kind.into(),
    ];
    if headers.tagged {
        told.push("VLAN tag".into());
    }
    if let Some(echo) = headers.echo {
        told.push(format!("echo identifier {echo}"));
    }
    if let Some(part) = headers.fragment {
        told.push(match part.offset {
            0 => format!("first fragment of datagram {}", part.id),
            offset => format!("fragment at byte {offset} of datagram {}", part.id),
        });
        if part.offset > 0 && headers.unfit.is_none() {
            told.push("ports as the first one said".into());
        }
    }
    if let Some(unfit) = &headers.unfit {
        told.push(format!("cannot be judged as a flow: {unfit}"));
    }
    told.join(", ")
}

fn conntrack(packet: &Packet) -> String {
    match &packet.conntrack {
        Conntrack::None => "not asked".into(),
        Conntrack::Miss => "miss".into(),
        Conntrack::Hit {
            standing,
            state,
            began,
            exempt,
            age_seconds,
            stamp,
            stamp_now,
            by,
        } => {
            let stamp_now = stamp_now.map_or("-".into(), |now| now.to_string());
            let holds = match &**standing {
                "current" => format!("stamp {stamp} is current"),
                "old" => format!("stamp {stamp} is old, now {stamp_now}: policy has changed since"),
                "expired" => "too old to count".into(),
                _ => "of an earlier pod at this interface: does not count".into(),
            };
            let exempt = match exempt.as_deref() {
                Some("node") => ", begun by the node",
                Some(_) => ", the pod's to itself",
                None => "",
            };
            let by = by.as_ref().map(|by| format!(", {by}")).unwrap_or_default();
            format!(
                "hit: {state}, began {}, {age_seconds} s ago, {holds}{exempt}{by}",
                began.field()
            )
        }
    }
}

fn policy(question: &Question) -> String {
    let Question {
        direction,
        rule_set,
        audited,
        isolated_by,
        class,
        class_by,
        row,
        table,
        allows,
        by,
    } = question;
    let mut told = vec![match isolated_by.is_empty() {
        true => format!("rule set {rule_set}"),
        false => {
            let policies: Vec<String> = isolated_by.iter().map(ToString::to_string).collect();
            format!("rule set {rule_set} ({})", policies.join(", "))
        }
    }];
    if *audited {
        told.push("in audit".into());
    }
    match (class, class_by.as_deref()) {
        (Some(class), Some(by)) => told.push(format!("peer is of class {class}, by {by}")),
        (None, Some(_)) => told.push("peer is of no class: no rule on this node names it".into()),
        _ => {}
    }
    match (row.as_deref(), table) {
        (Some("none"), _) => told.push("no row for this class".into()),
        (_, Some(table)) => told.push(format!(
            "table {} by {}/{}, nodes read: {}",
            table.id, table.port, table.protocol, table.nodes
        )),
        (Some(row), None) => told.push(format!("row: {row}")),
        (None, None) => {}
    }
    let answer = match (allows, by) {
        (true, Some(by)) => format!("allowed by {by}"),
        (true, None) => "allowed: nothing isolates".into(),
        (false, _) => "no rule allows".into(),
    };
    format!("{}: {}: {answer}", direction.field(), told.join(", "))
}

fn verdict(packet: &Packet) -> String {
    let mut told = format!("{}: {}", packet.verdict, packet.by);
    if packet.established {
        told += ", by conntrack alone";
    }
    if packet.recorded {
        told += ", conntrack has a new entry";
    }
    if packet.first_kept {
        told += ", ports kept for the fragments that follow";
    }
    told
}
