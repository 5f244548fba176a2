//! Asks many questions at once by sockets, and prints what was expected and seen.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::answers::{Family, PORTS, Port, Protocol, Question};
use crate::interrupt;
use crate::shop::{PAYMENTS, Shop};

/// How long silence must last to count; an answer takes less than a millisecond on an idle machine.
pub const PATIENCE: Duration = Duration::from_millis(800);
/// The same on a machine that is busy: room for a second and third SYN.
pub const PATIENT: Duration = Duration::from_secs(5);
/// Questions under way at once; most of them wait in silence.
const AT_ONCE: usize = 96;

/// Whether each was answered.
pub fn ask<'q>(
    shop: &Shop,
    questions: impl Iterator<Item = &'q Question>,
) -> Result<BTreeMap<Question, bool>> {
    ask_for(shop, questions, PATIENCE)
}

/// Questions whose answer is not the expected one are asked once more, with more patience: a busy machine is not a policy.
pub fn ask_again(
    shop: &Shop,
    expected: &BTreeMap<Question, bool>,
    mut seen: BTreeMap<Question, bool>,
) -> Result<BTreeMap<Question, bool>> {
    let silent = expected
        .iter()
        .filter(|(question, expected)| **expected && seen.get(question) == Some(&false));
    seen.extend(ask_for(shop, silent.map(|(question, _)| question), PATIENT)?);
    Ok(seen)
}

fn ask_for<'q>(
    shop: &Shop,
    questions: impl Iterator<Item = &'q Question>,
    patience: Duration,
) -> Result<BTreeMap<Question, bool>> {
    let questions: Vec<&Question> = questions.collect();
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(BTreeMap::new());
    interrupt::caught(|| {
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(questions.len()) {
                scope.spawn(|| {
                    while let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if interrupt::came() {
                            return;
                        }
                        let answered = question.ask(shop, patience);
                        let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        seen.insert((*question).clone(), answered);
                    }
                });
            }
        });
    })?;
    interrupt::check()?;
    Ok(seen.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Rows ask, columns are asked; a cell names the ports that answered, `!` where that is not what was expected.
pub fn print(shop: &Shop, expected: &BTreeMap<Question, bool>, seen: &BTreeMap<Question, bool>) {
    let rows: Vec<&str> = Shop::pods().chain(Shop::visitors()).collect();
    let columns: Vec<&str> = Shop::pods().chain([PAYMENTS.0]).collect();
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(columns.iter().map(|name| short(name).to_string()));
    lines[0].extend(["open".to_string(), "closed".to_string()]);
    for from in rows {
        let mut line = vec![short(from).to_string()];
        for to in &columns {
            line.push(cell(shop, from, to, expected, seen));
        }
        for open in [true, false] {
            let count = |answers: &BTreeMap<Question, bool>| {
                answers
                    .iter()
                    .filter(|(question, answer)| question.from == *from && **answer == open)
                    .count()
            };
            let (wanted, got) = (count(expected), count(seen));
            line.push(format!("{got} of {wanted}"));
        }
        lines.push(line);
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        println!("   {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!(
        "\n   all: every port; . none; - itself, or not asked; open, closed: answers seen of those expected"
    );
}

fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn cell(
    shop: &Shop,
    from: &str,
    to: &str,
    expected: &BTreeMap<Question, bool>,
    seen: &BTreeMap<Question, bool>,
) -> String {
    let between = |question: &&Question| question.from == from && question.to == to;
    let asked: Vec<&Question> = expected.keys().filter(between).collect();
    let Some(first) = asked.first() else {
        return "-".into();
    };
    let answered = |question: &Question| seen.get(question) == Some(&true);
    let differs = asked
        .iter()
        .any(|question| seen.get(*question) != expected.get(*question));
    let families = Family::BOTH
        .into_iter()
        .filter(|family| shop.address(from, *family).is_some() && shop.address(to, *family).is_some());
    let families: Vec<Family> = families.collect();
    let mut open = Vec::new();
    for port in ports(&asked) {
        let of = |family: &&Family| {
            answered(&Question {
                port,
                family: **family,
                ..(*first).clone()
            })
        };
        match families.iter().filter(of).collect::<Vec<_>>()[..] {
            [] => {}
            [one] if families.len() > 1 => open.push(format!("{}({one:?})", named(port))),
            _ => open.push(named(port)),
        }
    }
    let text = match asked.iter().filter(|question| answered(question)).count() {
        0 => ".".to_string(),
        all if all == PORTS.len() * Family::BOTH.len() => "all".to_string(),
        _ => open.join(" "),
    };
    if differs { text + "!" } else { text }
}

fn ports(questions: &[&Question]) -> Vec<Port> {
    let mut ports: Vec<Port> = questions.iter().map(|question| question.port).collect();
    ports.sort();
    ports.dedup();
    ports
}

/// TCP goes without saying.
fn named(port: Port) -> String {
    match port.protocol {
        Protocol::Tcp => port.number.to_string(),
        Protocol::Udp => port.to_string(),
    }
}
