//! The explanation as text.

use std::io::{self, Write};

use super::{Backend, Because, Deciding, Explanation, Flow, IsolatingPolicy, Party};
use crate::cli::{Verdict, escape};
use crate::model::Direction;

pub(super) fn explanation(out: &mut dyn Write, explanation: &Explanation) -> io::Result<()> {
    let Explanation {
        from,
        to,
        port,
        flows,
        notes,
    } = explanation;
    writeln!(out, "{} -> {} {port}", name(from), name(to))?;
    for alike in alike(flows) {
        print_flows(out, &alike, from, to)?;
    }
    for note in notes {
        writeln!(out, "note: {}", escape(note))?;
    }
    Ok(())
}

fn name(party: &Party) -> String {
    if let Some(pod) = &party.pod {
        return escape(pod);
    }
    let addresses: Vec<String> = party.addresses.iter().map(ToString::to_string).collect();
    match &party.service {
        Some(service) => format!("Service {} ({})", escape(service), addresses.join(", ")),
        None => addresses.join(", "),
    }
}

/// Flows of which the same is to be said, together.
fn alike(flows: &[Flow]) -> Vec<Vec<&Flow>> {
    let mut groups: Vec<Vec<&Flow>> = Vec::new();
    for flow in flows {
        let same =
            |group: &&mut Vec<&Flow>| group[0].egress == flow.egress && group[0].ingress == flow.ingress;
        match groups.iter_mut().find(same) {
            Some(group) => group.push(flow),
            None => groups.push(vec![flow]),
        }
    }
    groups
}

fn print_flows(out: &mut dyn Write, flows: &[&Flow], from: &Party, to: &Party) -> io::Result<()> {
    for flow in flows {
        let Flow {
            family,
            source,
            destination,
            egress: _,
            ingress: _,
            verdict,
        } = flow;
        writeln!(
            out,
            "{} {source} -> {destination}: {}",
            family.as_str(),
            said(*verdict)
        )?;
    }
    let Some(flow) = flows.first() else {
        return Ok(());
    };
    write!(out, "  egress of {}: ", name(from))?;
    deciding(out, Direction::Egress, &flow.egress, "    ")?;
    write!(out, "  ingress of {}: ", name(to))?;
    deciding(out, Direction::Ingress, &flow.ingress, "    ")
}

fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Audit => "allowed; policies in audit would deny it",
        Verdict::Deny => "DENIED",
    }
}

/// The rest of a line, and what belongs under it.
fn deciding(out: &mut dyn Write, direction: Direction, deciding: &Deciding, indent: &str) -> io::Result<()> {
    let Deciding { verdict, because } = deciding;
    let said = said(*verdict);
    match because {
        Because::NotSubject { detail } => writeln!(out, "not judged: {}", escape(detail)),
        Because::Service { backends, .. } if backends.is_empty() => {
            writeln!(out, "not judged: the Service has no ready backend for this port")
        }
        Because::Service { backends, .. } => {
            let every = match verdict {
                Verdict::Allow => "every ready backend lets it in",
                Verdict::Audit => "not of every ready backend",
                Verdict::Deny => "not every ready backend lets it in",
            };
            writeln!(out, "{said}: {every}")?;
            backends.iter().try_for_each(|one| backend(out, one, indent))
        }
        Because::Open => writeln!(out, "{said}: no policy selects it for {direction}"),
        Because::Itself => writeln!(out, "{said}: a pod always reaches itself"),
        Because::Rule { policy, rule } => writeln!(out, "{said} by policy {} {rule}", escape(policy)),
        Because::Isolated { policies } => {
            writeln!(out, "{said}: isolated, and no rule allows this")?;
            policies
                .iter()
                .try_for_each(|policy| isolating(out, direction, policy, indent))
        }
        Because::Audited { policies } => {
            let names: Vec<String> = policies.iter().map(|one| escape(&one.policy)).collect();
            let plural = if names.len() == 1 { "policy" } else { "policies" };
            writeln!(
                out,
                "allowed; would be denied by audited {plural} {}: no rule allows this",
                names.join(", ")
            )?;
            policies
                .iter()
                .try_for_each(|policy| isolating(out, direction, policy, indent))
        }
    }
}

fn backend(out: &mut dyn Write, backend: &Backend, indent: &str) -> io::Result<()> {
    let Backend {
        address,
        port,
        pod,
        ingress,
    } = backend;
    match pod {
        Some(pod) => write!(out, "{indent}backend {} ({address}) {port}: ", escape(pod))?,
        None => write!(out, "{indent}backend {address} {port}: ")?,
    }
    deciding(out, Direction::Ingress, ingress, &format!("{indent}  "))
}

fn isolating(
    out: &mut dyn Write,
    direction: Direction,
    policy: &IsolatingPolicy,
    indent: &str,
) -> io::Result<()> {
    let IsolatingPolicy {
        policy,
        rules,
        problems,
    } = policy;
    let policy = escape(policy);
    if rules.is_empty() {
        writeln!(out, "{indent}policy {policy}: it has no {direction} rules")?;
    }
    for rule in rules {
        writeln!(
            out,
            "{indent}policy {policy} {}: {}",
            rule.rule,
            escape(&rule.reason)
        )?;
    }
    if *problems {
        writeln!(
            out,
            "{indent}policy {policy}: not all of it counts as written; palisade check says what does not"
        )?;
    }
    Ok(())
}
