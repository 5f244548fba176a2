//! The matrix as an array of JSON rows, as tables, or as lines where a table would be too wide.

use std::io::{self, Write};

use super::{Pairs, Place};
use crate::cli::{Family, Verdict, escape};

/// Characters of a table's line; where the pods' names do not fit, the columns are numbered.
const NAMED_WIDTH: usize = 110;
/// Pods of a table; more become lines. Columns are numbered with two digits.
const NUMBERED: usize = 60;

/// One row a line; the array is complete JSON even where it has no rows.
pub(super) fn json(out: &mut dyn Write, pairs: &mut Pairs<'_>) -> io::Result<()> {
    // Names are escaped once, not once a row.
    let quoted = |text: &str| serde_json::to_string(text).map_err(io::Error::from);
    let names = (pairs.members.iter())
        .map(|member| quoted(&member.pod.id.to_string()))
        .collect::<io::Result<Vec<_>>>()?;
    let ports = pairs
        .ports
        .iter()
        .map(|port| quoted(&port.to_string()))
        .collect::<io::Result<Vec<_>>>()?;
    write!(out, "[")?;
    let mut separator = "\n";
    for place in pairs.places() {
        let Some(row) = pairs.row(place) else {
            continue;
        };
        for part in [
            separator,
            "{\"from\":",
            &names[place.from],
            ",\"to\":",
            &names[place.to],
            ",\"family\":\"",
            row.family.as_str(),
            "\",\"port\":",
            &ports[place.port],
            ",\"egress\":\"",
            row.egress.as_str(),
            "\",\"ingress\":\"",
            row.ingress.as_str(),
            "\",\"verdict\":\"",
            row.verdict.as_str(),
            "\"}",
        ] {
            out.write_all(part.as_bytes())?;
        }
        separator = ",\n";
    }
    writeln!(out, "\n]")
}

/// A table for each port and family.
pub(super) fn text(out: &mut dyn Write, pairs: &mut Pairs<'_>) -> io::Result<()> {
    let names: Vec<String> = pairs
        .members
        .iter()
        .map(|member| escape(&member.pod.id.to_string()))
        .collect();
    if names.is_empty() {
        return writeln!(out, "no pod has an address");
    }
    if names.len() > NUMBERED {
        return lines(out, pairs, &names);
    }
    writeln!(
        out,
        "From the pod at the left to the pod above. ok: allowed; E: denied by the egress policies of the left one; \
         I: by the ingress policies of the one above; EI: by both{}",
        if pairs.verdicts.any_audit() {
            "; e, i: allowed, policies in audit would deny it"
        } else {
            ""
        }
    )?;
    for port in 0..pairs.ports.len() {
        for family in 0..Family::ALL.len() {
            let mut having = Vec::new();
            having
                .extend((0..names.len()).filter(|&member| pairs.members[member].addresses[family].is_some()));
            if !having.is_empty() {
                writeln!(out, "\n{} {}", pairs.ports[port], Family::ALL[family].as_str())?;
                table(out, pairs, &names, &having, (family, port))?;
            }
        }
    }
    Ok(())
}

fn table(
    out: &mut dyn Write,
    pairs: &mut Pairs<'_>,
    names: &[String],
    members: &[usize],
    (family, port): (usize, usize),
) -> io::Result<()> {
    let width = |text: &str| text.chars().count();
    let names_width = members
        .iter()
        .map(|&member| width(&names[member]))
        .max()
        .unwrap_or_default();
    let all: usize = members.iter().map(|&member| width(&names[member]) + 2).sum();
    let named = names_width + all <= NAMED_WIDTH;
    let (rows, columns): (Vec<String>, Vec<String>) = (members.iter().enumerate())
        .map(|(number, &member)| match named {
            true => (names[member].clone(), names[member].clone()),
            false => (
                format!("{:>2} {}", number + 1, names[member]),
                (number + 1).to_string(),
            ),
        })
        .unzip();
    let gap = if named { "  " } else { " " };
    let left = rows.iter().map(|row| width(row)).max().unwrap_or_default();
    let cells = |first: &str, cells: Vec<&str>| {
        let mut line = format!("{first:left$}");
        for (cell, column) in cells.into_iter().zip(&columns) {
            let width = width(column).max(CELL);
            line.push_str(gap);
            line.push_str(&format!("{cell:width$}"));
        }
        line.truncate(line.trim_end().len());
        line
    };
    writeln!(out, "{}", cells("", columns.iter().map(String::as_str).collect()))?;
    for (row, &from) in rows.iter().zip(members) {
        let cell = |&to: &usize| {
            let row = pairs.row(Place {
                from,
                to,
                family,
                port,
            });
            row.map_or("-", |row| symbol(row.egress, row.ingress))
        };
        let found: Vec<&str> = members.iter().map(cell).collect();
        writeln!(out, "{}", cells(row, found))?;
    }
    Ok(())
}

/// Width of the widest [`symbol`].
const CELL: usize = 2;

fn symbol(egress: Verdict, ingress: Verdict) -> &'static str {
    use Verdict::{Allow, Audit, Deny};
    match (egress, ingress) {
        (Allow, Allow) => "ok",
        (Audit, Allow) => "e",
        (Deny, Allow) => "E",
        (Allow, Audit) => "i",
        (Audit, Audit) => "ei",
        (Deny, Audit) => "Ei",
        (Allow, Deny) => "I",
        (Audit, Deny) => "eI",
        (Deny, Deny) => "EI",
    }
}

fn lines(out: &mut dyn Write, pairs: &mut Pairs<'_>, names: &[String]) -> io::Result<()> {
    let ports: Vec<String> = pairs.ports.iter().map(ToString::to_string).collect();
    for place in pairs.places() {
        let Some(row) = pairs.row(place) else {
            continue;
        };
        let sides = |verdict| match (row.egress == verdict, row.ingress == verdict) {
            (true, true) => "egress and ingress",
            (true, false) => "egress",
            _ => "ingress",
        };
        let verdict = match row.verdict {
            Verdict::Allow => "allowed".to_string(),
            Verdict::Audit => format!("allowed; audit would deny {}", sides(Verdict::Audit)),
            Verdict::Deny => format!("denied by {}", sides(Verdict::Deny)),
        };
        let (from, to) = (&names[place.from], &names[place.to]);
        let (family, port) = (row.family.as_str(), &ports[place.port]);
        writeln!(out, "{from} -> {to} {family} {port}: {verdict}")?;
    }
    Ok(())
}
