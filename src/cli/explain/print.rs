//! The explanation as text.

use std::io::{self, Write};

use super::{
    Backend, Because, Deciding, Explanation, Flow, IsolatingPolicy, Kernel, NamedRule, Nearest, Party,
    Reported,
};
use crate::cli::{Verdict, escape};
use crate::model::Direction;

pub(super) fn explanation(out: &mut dyn Write, explanation: &Explanation) -> io::Result<()> {
    let Explanation {
        from,
        to,
        port,
        flows,
        notes,
        reported,
    } = explanation;
    writeln!(out, "{} -> {} {port}", name(from), name(to))?;
    for alike in alike(flows) {
        print_flows(out, &alike, from, to)?;
    }
    for note in notes {
        writeln!(out, "note: {}", escape(note))?;
    }
    if let Some(reported) = reported {
        print_reported(out, reported)?;
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
    let Deciding {
        verdict,
        because,
        kernel,
    } = deciding;
    print_because(out, direction, *verdict, because, indent)?;
    kernel
        .iter()
        .try_for_each(|kernel| print_kernel(out, kernel, indent))
}

fn print_because(
    out: &mut dyn Write,
    direction: Direction,
    verdict: Verdict,
    because: &Because,
    indent: &str,
) -> io::Result<()> {
    let said = said(verdict);
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
        Because::Rule {
            by,
            others,
            isolated_by,
        } => {
            let only = if others.is_empty() {
                ", and by no other rule"
            } else {
                ""
            };
            writeln!(out, "{said} by policy {}{only}", named(by))?;
            if !others.is_empty() {
                writeln!(out, "{indent}and by {}", listed(others, named))?;
            }
            writeln!(
                out,
                "{indent}isolated by {}",
                listed(isolated_by, |policy| escape(policy))
            )
        }
        Because::Isolated { policies, nearest } => {
            writeln!(out, "{said}: isolated, and no rule allows this")?;
            policies
                .iter()
                .try_for_each(|policy| isolating(out, direction, policy, indent))?;
            nearest.iter().try_for_each(|rule| would(out, rule, indent))
        }
        Because::Audited { policies, nearest } => {
            let names: Vec<String> = policies.iter().map(|one| escape(&one.policy)).collect();
            let plural = if names.len() == 1 { "policy" } else { "policies" };
            writeln!(
                out,
                "allowed; would be denied by audited {plural} {}: no rule allows this",
                names.join(", ")
            )?;
            policies
                .iter()
                .try_for_each(|policy| isolating(out, direction, policy, indent))?;
            nearest.iter().try_for_each(|rule| would(out, rule, indent))
        }
    }
}

fn print_kernel(out: &mut dyn Write, kernel: &Kernel, indent: &str) -> io::Result<()> {
    let Kernel {
        node,
        verdict,
        reason,
        policies,
        rule,
        attached,
        agrees,
    } = kernel;
    write!(out, "{indent}kernel of {}: {}", escape(node), said(*verdict))?;
    match (reason.as_str(), rule) {
        (_, Some(rule)) => write!(
            out,
            " by policy {} {}",
            listed(policies, |one| escape(one)),
            escape(rule)
        )?,
        ("isolation", None) if !policies.is_empty() => {
            write!(out, ", isolated by {}", listed(policies, |one| escape(one)))?;
        }
        (reason, None) => write!(out, ", {}", escape(reason))?,
    }
    if !attached {
        write!(
            out,
            "; its interface lacks the program, so NOTHING IS ENFORCED there"
        )?;
    }
    match agrees {
        true => writeln!(out, "; the two agree"),
        false => writeln!(
            out,
            "; the two DIFFER: see palisade status, and that both read the same objects"
        ),
    }
}

fn print_reported(out: &mut dyn Write, reported: &Reported) -> io::Result<()> {
    let Reported {
        time,
        node,
        verdict,
        direction,
        reason,
        policies,
        rule,
        agrees,
    } = reported;
    write!(out, "reported: {direction} {}", said(*verdict))?;
    match (reason.as_str(), rule) {
        (_, Some(rule)) => write!(
            out,
            " by policy {} {}",
            listed(policies, |one| escape(one)),
            escape(rule)
        )?,
        ("isolation", None) if *verdict == Verdict::Audit => {
            write!(out, ": {}", listed(policies, |one| escape(one)))?;
        }
        ("isolation", None) => write!(out, ": isolated by {}", listed(policies, |one| escape(one)))?,
        (reason, None) => write!(out, ": {}", escape(reason))?,
    }
    for (before, part) in [(" on node", node), (" at", time)] {
        if let Some(part) = part {
            write!(out, "{before} {}", escape(part))?;
        }
    }
    match agrees {
        Some(true) => writeln!(out, "; policies say the same now"),
        Some(false) => writeln!(
            out,
            "; policies say otherwise now: they, or who has these addresses, changed since, or the node has not caught up"
        ),
        None => writeln!(out, "; policies have no say on that: see docs/metrics.md"),
    }
}

fn named(rule: &NamedRule) -> String {
    format!("{} {}", escape(&rule.policy), rule.rule)
}

/// Names of a line; JSON has all.
const SHOWN: usize = 8;

fn listed<T>(list: &[T], text: impl Fn(&T) -> String) -> String {
    let shown: Vec<String> = list.iter().take(SHOWN).map(text).collect();
    match list.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        rest => format!("{} and {rest} more", shown.join(", ")),
    }
}

/// What the nearest rule lacks.
fn would(out: &mut dyn Write, nearest: &Nearest, indent: &str) -> io::Result<()> {
    let Nearest {
        policy,
        rule,
        missing,
    } = nearest;
    let missing: Vec<String> = missing.iter().map(|one| escape(&one.to_string())).collect();
    writeln!(
        out,
        "{indent}nearest: policy {} {rule} would allow it if {}",
        escape(policy),
        missing.join(", and ")
    )
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
