//! The explanation as text.

use std::io::{self, Write};

use super::{Because, Deciding, Explanation, Flow, IsolatingPolicy, Party};
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
    for flow in flows {
        print_flow(out, flow, from, to)?;
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

fn print_flow(out: &mut dyn Write, flow: &Flow, from: &Party, to: &Party) -> io::Result<()> {
    let Flow {
        family,
        source,
        destination,
        egress,
        ingress,
        verdict,
        backends,
    } = flow;
    writeln!(
        out,
        "{} {source} -> {destination}: {}",
        family.as_str(),
        said(*verdict)
    )?;
    side(out, Direction::Egress, &name(from), egress)?;
    side(out, Direction::Ingress, &name(to), ingress)?;
    for backend in backends {
        let pod = match &backend.pod {
            Some(pod) => format!("{} ({})", escape(pod), backend.address),
            None => backend.address.to_string(),
        };
        side(
            out,
            Direction::Ingress,
            &format!("backend {pod} {}", backend.port),
            &backend.ingress,
        )?;
    }
    Ok(())
}

fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "DENIED",
    }
}

fn side(out: &mut dyn Write, direction: Direction, whose: &str, deciding: &Deciding) -> io::Result<()> {
    let Deciding { verdict, because } = deciding;
    write!(out, "  {direction} of {whose}: {}", said(*verdict))?;
    match because {
        Because::NotSubject { detail } => writeln!(out, ": {}", escape(detail)),
        Because::Open => writeln!(out, ": no policy selects it for {direction}"),
        Because::Itself => writeln!(out, ": a pod always reaches itself"),
        Because::Rule { policy, rule } => writeln!(out, " by policy {} {rule}", escape(policy)),
        Because::Isolated { policies } => {
            writeln!(out, ": isolated, and no rule allows this")?;
            policies
                .iter()
                .try_for_each(|policy| isolating(out, direction, policy))
        }
    }
}

fn isolating(out: &mut dyn Write, direction: Direction, policy: &IsolatingPolicy) -> io::Result<()> {
    let IsolatingPolicy { policy, rules } = policy;
    let policy = escape(policy);
    if rules.is_empty() {
        return writeln!(
            out,
            "    policy {policy}: has no {direction} rule that could be read"
        );
    }
    for rule in rules {
        writeln!(out, "    policy {policy} {}: {}", rule.rule, escape(&rule.reason))?;
    }
    Ok(())
}
