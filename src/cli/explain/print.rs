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
    } = flow;
    writeln!(
        out,
        "{} {source} -> {destination}: {}",
        family.as_str(),
        said(*verdict)
    )?;
    side(out, Direction::Egress, &name(from), egress)?;
    side(out, Direction::Ingress, &name(to), ingress)?;
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
    let said = said(*verdict);
    write!(out, "  {direction} of {whose}: ")?;
    match because {
        Because::NotSubject { detail } => writeln!(out, "not judged: {}", escape(detail)),
        Because::Service { backends, .. } if backends.is_empty() => {
            writeln!(out, "not judged: the Service has no ready backend for this port")
        }
        Because::Service { backends, .. } => {
            writeln!(out, "{said}: that of every backend")?;
            backends.iter().try_for_each(|one| backend(out, one))
        }
        Because::Open => writeln!(out, "{said}: no policy selects it for {direction}"),
        Because::Itself => writeln!(out, "{said}: a pod always reaches itself"),
        Because::Rule { policy, rule } => writeln!(out, "{said} by policy {} {rule}", escape(policy)),
        Because::Isolated { policies } => {
            writeln!(out, "{said}: isolated, and no rule allows this")?;
            policies
                .iter()
                .try_for_each(|policy| isolating(out, direction, policy))
        }
    }
}

fn backend(out: &mut dyn Write, backend: &Backend) -> io::Result<()> {
    let Backend {
        address,
        port,
        pod,
        ingress,
    } = backend;
    let whose = match pod {
        Some(pod) => format!("backend {} ({address}) {port}", escape(pod)),
        None => format!("backend {address} {port}"),
    };
    side(out, Direction::Ingress, &whose, ingress)
}

fn isolating(out: &mut dyn Write, direction: Direction, policy: &IsolatingPolicy) -> io::Result<()> {
    let IsolatingPolicy {
        policy,
        rules,
        problems,
    } = policy;
    let policy = escape(policy);
    if rules.is_empty() {
        writeln!(out, "    policy {policy}: it has no {direction} rules")?;
    }
    for rule in rules {
        writeln!(out, "    policy {policy} {}: {}", rule.rule, escape(&rule.reason))?;
    }
    if *problems {
        writeln!(
            out,
            "    policy {policy}: not all of it counts as written; palisade check says what does not"
        )?;
    }
    Ok(())
}
