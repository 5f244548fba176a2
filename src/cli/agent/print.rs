//! Answers of one piece, for people and for scripts.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::table::Table;
use crate::args::DataOutput;
use crate::cli::escape::{escape, escape_json};
use crate::introspect::{
    Conntrack, Count, DirectionState, Isolation, MapState, PodState, PolicyState, ProgramState, Status,
};
use crate::model::ObjectId;

/// Names that a cell lists.
const LISTED: usize = 3;

/// What has a form for people. `nodes`: of several nodes.
pub trait Shown: Serialize {
    fn text(&self, nodes: bool, out: &mut dyn Write) -> io::Result<()>;
}

pub fn print(shown: &impl Shown, nodes: bool, output: DataOutput, out: &mut dyn Write) -> Result<()> {
    match output {
        DataOutput::Text => shown.text(nodes, out)?,
        DataOutput::Json => writeln!(out, "{}", escape_json(&serde_json::to_string_pretty(shown)?))?,
        DataOutput::Yaml => {
            let mut value = serde_json::to_value(shown)?;
            escape_strings(&mut value);
            let text = serde_saphyr::to_string(&value).context("the answer cannot be written as YAML")?;
            write!(out, "{text}")?;
        }
    }
    Ok(())
}

fn escape_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Array(list) => list.iter_mut().for_each(escape_strings),
        Value::Object(fields) => fields.values_mut().for_each(escape_strings),
        _ => {}
    }
}

fn listed(ids: &[ObjectId]) -> String {
    let mut names: Vec<String> = ids.iter().take(LISTED).map(ToString::to_string).collect();
    if ids.len() > LISTED {
        names.push(format!("and {} more", ids.len() - LISTED));
    }
    names.join(", ")
}

impl Shown for Vec<PodState> {
    fn text(&self, nodes: bool, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new(["NODE", "POD", "ADDRESSES", "INTERFACE", "INGRESS", "EGRESS"]);
        for pod in self {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let interfaces = pod.interfaces.iter();
            let interfaces: Vec<String> = interfaces
                .map(|interface| match &interface.name {
                    Some(name) => name.clone(),
                    None => format!("{} (gone)", interface.ifindex),
                })
                .collect();
            table.row([
                pod.node.to_string(),
                pod.pod.to_string(),
                addresses.join(","),
                interfaces.join(","),
                direction(&pod.ingress),
                direction(&pod.egress),
            ]);
        }
        table.write(nodes, out)
    }
}

fn direction(direction: &DirectionState) -> String {
    match direction.state {
        Isolation::Open => "open".into(),
        Isolation::Unknown => "unknown: denied".into(),
        Isolation::Audit => format!("in audit: {}", listed(&direction.policies)),
        Isolation::Isolated => format!("isolated by {}", listed(&direction.policies)),
    }
}

impl Shown for Vec<PolicyState> {
    fn text(&self, nodes: bool, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new([
            "NODE",
            "POLICY",
            "DIRECTIONS",
            "ALLOWED",
            "DENIED",
            "AUDIT",
            "SLICES",
            "ENTRIES",
            "PODS HERE",
        ]);
        for policy in self {
            table.row([
                policy.node.to_string(),
                policy.policy.to_string(),
                policy.directions.join(","),
                count(policy.allowed),
                count(policy.denied),
                count(policy.audited),
                policy.slices.to_string(),
                policy.entries.to_string(),
                listed(&policy.pods),
            ]);
        }
        table.write(nodes, out)
    }
}

fn count(count: Count) -> String {
    match count.packets {
        0 => "0".into(),
        packets => format!("{packets} ({})", bytes(count.bytes)),
    }
}

/// As in `12.3 MB`; powers of ten.
fn bytes(bytes: u64) -> String {
    let mut shown = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if shown < 1000.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{shown:.1} {unit}"),
            };
        }
        shown /= 1000.0;
    }
    format!("{shown:.1} TB")
}

impl Shown for Vec<MapState> {
    fn text(&self, nodes: bool, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new([
            "NODE", "MAP", "ID", "KIND", "ENTRIES", "CAPACITY", "FULL", "MEMORY", "FLAG",
        ]);
        for map in self {
            let full = map.entries.filter(|_| map.capacity > 0);
            let full = full.map(|entries| 100.0 * entries as f64 / f64::from(map.capacity));
            table.row([
                map.node.to_string(),
                map.map.clone(),
                map.id.to_string(),
                map.kind.clone(),
                map.entries.map(|entries| entries.to_string()).unwrap_or_default(),
                map.capacity.to_string(),
                full.map(|percent| format!("{percent:.1} %")).unwrap_or_default(),
                map.memory_bytes.map(bytes).unwrap_or_default(),
                map.flag.clone(),
            ]);
        }
        table.write(nodes, out)
    }
}

impl Shown for Vec<ProgramState> {
    fn text(&self, nodes: bool, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new([
            "NODE",
            "PROGRAM",
            "JUDGES",
            "ID",
            "TAG",
            "LOADED",
            "VERIFIED",
            "JITED",
            "RUNS",
            "INTERFACES",
        ]);
        for program in self {
            table.row([
                program.node.to_string(),
                program.program.clone(),
                program.direction.to_string(),
                program.id.to_string(),
                program.tag.clone(),
                format!("{:.0}", program.loaded),
                match program.verified_instructions {
                    0 => String::new(),
                    instructions => format!("{instructions} instructions"),
                },
                bytes(program.jited_bytes.into()),
                match program.runs {
                    0 => String::new(),
                    runs => format!("{runs}, {} ns each", program.run_nanoseconds / runs),
                },
                program.interfaces.len().to_string(),
            ]);
        }
        table.write(nodes, out)?;
        for program in self {
            if !program.missing.is_empty() {
                writeln!(
                    out,
                    "{} is missing on {}: their pods are not judged by it",
                    escape(&program.program),
                    escape(&program.missing.join(", "))
                )?;
            }
        }
        Ok(())
    }
}

impl Shown for Conntrack {
    fn text(&self, nodes: bool, out: &mut dyn Write) -> io::Result<()> {
        let mut table = Table::new([
            "NODE",
            "POD",
            "DIRECTION",
            "SOURCE",
            "DESTINATION",
            "PROTOCOL",
            "STATE",
            "IDLE",
            "BY",
        ]);
        for flow in &self.flows {
            let by = match &flow.rule {
                Some(rule) => format!("{} {rule}", listed(&flow.policies)),
                None => flow.reason.clone(),
            };
            table.row([
                flow.node.to_string(),
                flow.pod.as_ref().map(ToString::to_string).unwrap_or_default(),
                flow.direction.to_string(),
                flow.source.name_and_port(),
                flow.destination.name_and_port(),
                flow.protocol.clone(),
                match flow.current {
                    true => flow.state.clone(),
                    false => format!("{}, stale", flow.state),
                },
                format!("{} s", flow.idle_seconds),
                by,
            ]);
        }
        table.write(nodes, out)?;
        if self.more {
            writeln!(out, "There are more: name a pod or a port, or a higher --limit.")?;
        }
        Ok(())
    }
}

impl Shown for Status {
    fn text(&self, _: bool, out: &mut dyn Write) -> io::Result<()> {
        self::status(self, out)
    }
}

impl Shown for Vec<Status> {
    fn text(&self, _: bool, out: &mut dyn Write) -> io::Result<()> {
        for (number, one) in self.iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            status(one, out)?;
        }
        Ok(())
    }
}

fn status(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let yes = |is: bool| if is { "yes" } else { "no" };
    writeln!(
        out,
        "node:        {}, palisade {}, since {:.0}",
        escape(&status.node),
        escape(&status.version),
        status.started
    )?;
    let waiting = match status.waiting_for.is_empty() {
        true => String::new(),
        false => format!(", waiting for {}", status.waiting_for.join(", ")),
    };
    writeln!(out, "ready:       {}{}", yes(status.ready), escape(&waiting))?;
    if let Some(leader) = status.leader {
        writeln!(out, "leader:      {}", yes(leader))?;
    }
    writeln!(
        out,
        "enforces:    {}: {} pods on {} interfaces; {} of {} policies concern pods here",
        escape(&status.source),
        status.pods,
        status.interfaces,
        status.policies_in_force,
        status.policies
    )?;
    let kernel = &status.kernel;
    writeln!(
        out,
        "kernel:      {}, attached by {}, pinned under {}, ABI {}{}",
        escape(&kernel.release),
        escape(&kernel.attach),
        escape(&kernel.pin_path),
        kernel.abi_version,
        if kernel.adopted {
            ", maps of an earlier process taken up"
        } else {
            ""
        }
    )?;
    for notice in &kernel.notices {
        writeln!(out, "             {}", escape(notice))?;
    }
    match &status.last_change {
        Some(change) => writeln!(
            out,
            "last change: {:.3}, in force after {:.3} ms; {} map writes, {} flips",
            change.time, change.took_milliseconds, change.map_writes, change.flips
        )?,
        None => writeln!(out, "last change: none since the start")?,
    }
    writeln!(out, "queue:       {}", queue(status))?;
    if let Some(watches) = &status.watches {
        writeln!(
            out,
            "watches:     {}, {} failing, {} failures since the start",
            watches.watches, watches.failing, watches.errors
        )?;
    }
    let flows = &status.flows;
    writeln!(
        out,
        "flows:       {} held, {} lost by the kernel, {} by the agent",
        flows.held, flows.lost_by_kernel, flows.lost_by_agent
    )?;
    writeln!(out, "metrics:     {}", escape(&status.metrics))?;
    match status.problems.len() {
        0 => writeln!(out, "problems:    none"),
        count => {
            writeln!(out, "problems:    {count}")?;
            let mut problems = status.problems.iter();
            problems.try_for_each(|problem| writeln!(out, "  {}", escape(&problem.to_string())))
        }
    }
}

fn queue(status: &Status) -> String {
    let queue = &status.queue;
    let mut parts = Vec::new();
    if queue.incomplete {
        parts.push("the API server has not told all yet; what is pinned goes on".to_string());
    }
    if queue.refused {
        parts.push("the last change was refused; what was in force before stays".to_string());
    }
    if queue.retry {
        parts.push("something is tried again each second".to_string());
    }
    if queue.waiting_pods > 0 {
        parts.push(format!("{} pods wait to start", queue.waiting_pods));
    }
    if queue.untidy {
        parts.push("unused entries wait for a lull".to_string());
    }
    if parts.is_empty() {
        return "empty".into();
    }
    parts.join("; ")
}

/// Whether it does what it should.
pub fn is_well(status: &Status) -> bool {
    status.ready && !status.queue.refused && !status.queue.incomplete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_powers_of_ten() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1500), "1.5 kB");
        assert_eq!(bytes(2_000_000_000_000_000), "2000.0 TB");
    }

    #[test]
    fn what_is_printed_is_safe_in_every_format() {
        let pods = vec![PolicyState {
            node: "here".into(),
            policy: ObjectId::new("shop", "a\u{9b}2J\u{202e}"),
            directions: vec!["ingress".into()],
            pods: vec![ObjectId::new("shop", "b\u{1b}[31m")],
            slices: 1,
            entries: 2,
            allowed: Count::default(),
            denied: Count {
                packets: 3,
                bytes: 4096,
            },
            audited: Count::default(),
        }];
        for output in [DataOutput::Text, DataOutput::Json, DataOutput::Yaml] {
            let mut out = Vec::new();
            print(&pods, true, output, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            let unsafe_char = |c: &char| *c != '\n' && escape(&c.to_string()) != c.to_string();
            assert_eq!(text.chars().find(unsafe_char), None, "{text}");
            assert!(text.contains("shop/a"), "{text}");
        }
        let mut out = Vec::new();
        print(&pods, false, DataOutput::Json, &mut out).unwrap();
        assert_eq!(serde_json::from_slice::<Vec<PolicyState>>(&out).unwrap(), pods);
    }
}
