//! The difference as text.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::{By, Change, Decided, Difference, End, Kind, Sides};
use crate::cli::{Family, escape};
use crate::model::Cidr;

/// Names of a line; JSON has all.
const SHOWN: usize = 12;
/// Exceptions of a block.
const EXCEPTIONS: usize = 4;

pub(super) fn difference(out: &mut dyn Write, difference: &Difference) -> io::Result<()> {
    let Difference { changes, notes } = difference;
    if changes.is_empty() {
        writeln!(out, "no change: every verdict stays what it is, on every port")?;
    }
    let families: BTreeSet<Family> = changes
        .iter()
        .flat_map(|change| change.families.clone())
        .collect();
    for kind in [Kind::Lost, Kind::Gained] {
        let of_kind: Vec<&Change> = changes.iter().filter(|change| change.change == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        writeln!(out, "{}: {}", kind.as_str(), counted(&of_kind))?;
        for one in of_kind {
            change(out, one, families.len())?;
        }
    }
    for note in notes {
        writeln!(out, "note: {}", escape(note))?;
    }
    Ok(())
}

/// How many pairs are concerned.
fn counted(changes: &[&Change]) -> String {
    let mut pods: BTreeSet<(&End, &End)> = BTreeSet::new();
    let mut elsewhere: BTreeSet<&End> = BTreeSet::new();
    for change in changes {
        for (from, to) in change
            .from
            .iter()
            .flat_map(|from| change.to.iter().map(move |to| (from, to)))
        {
            match (from, to) {
                (End::Pod { .. }, End::Pod { .. }) if from != to => drop(pods.insert((from, to))),
                (End::Pod { .. }, End::Pod { .. }) => {}
                (End::Pod { .. }, _) => drop(elsewhere.insert(from)),
                _ => drop(elsewhere.insert(to)),
            }
        }
    }
    let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    match (pods.len(), elsewhere.len()) {
        (pods, 0) => plural(pods, "pair") + " of pods",
        (0, elsewhere) => plural(elsewhere, "pod") + " with what is no pod",
        (pods, elsewhere) => format!(
            "{} of pods, and {} with what is no pod",
            plural(pods, "pair"),
            plural(elsewhere, "pod")
        ),
    }
}

fn change(out: &mut dyn Write, change: &Change, all_families: usize) -> io::Result<()> {
    let Change {
        change: _,
        from,
        to,
        families,
        ports,
        egress,
        ingress,
    } = change;
    writeln!(out, "  from {}", names(from))?;
    writeln!(out, "  to   {}", names(to))?;
    let is_of_pods = |ends: &[End]| matches!(ends.first(), Some(End::Pod { .. }));
    match families.as_slice() {
        [family] if all_families > 1 && is_of_pods(from) && is_of_pods(to) => {
            writeln!(out, "       {ports}, {} only", family.as_str())?;
        }
        _ => writeln!(out, "       {ports}")?,
    }
    for (direction, sides) in [("egress", egress), ("ingress", ingress)] {
        if let Some(Sides { before, after }) = sides {
            writeln!(
                out,
                "       {direction}: {} -> {}",
                decided(before),
                decided(after)
            )?;
        }
    }
    writeln!(out)
}

fn names(ends: &[End]) -> String {
    listed(ends, SHOWN, name)
}

fn listed<T>(list: &[T], shown: usize, text: impl Fn(&T) -> String) -> String {
    let texts: Vec<String> = list.iter().take(shown).map(text).collect();
    match list.len().saturating_sub(shown) {
        0 => texts.join(", "),
        rest => format!("{} and {rest} more", texts.join(", ")),
    }
}

fn name(end: &End) -> String {
    match end {
        End::Pod { pod, address: None } => escape(pod),
        End::Pod {
            pod,
            address: Some(address),
        } => format!("{} ({address})", escape(pod)),
        End::Service { service, address } => format!("Service {} ({address})", escape(service)),
        End::Address { address } => address.to_string(),
        End::Block {
            block,
            except,
            address,
        } => {
            let except = match except.as_slice() {
                [] => String::new(),
                except => format!(" except {}", listed(except, EXCEPTIONS, Cidr::to_string)),
            };
            format!("{}{except} (as {address})", block.net())
        }
    }
}

fn decided(decided: &Decided) -> String {
    match &decided.by {
        By::Open => "allowed: no policy selects it".to_string(),
        By::Itself => "allowed: a pod reaches itself".to_string(),
        By::Rule { policy, rule } => format!("allowed by {} {rule}", escape(policy)),
        By::Audited { policies } => {
            format!(
                "allowed: in audit by {}",
                listed(policies, SHOWN, |policy| escape(policy))
            )
        }
        By::Isolated { policies } => {
            format!(
                "DENIED: isolated by {}",
                listed(policies, SHOWN, |policy| escape(policy))
            )
        }
    }
}
