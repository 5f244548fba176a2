//! `make demo`: a small shop in network namespaces, and `palisade run` between them.
//!
//! What `palisade matrix` and `palisade explain` answer from the YAML is held against what sockets see; then a policy is
//! edited under live traffic, an answer is explained, and the counters are read. Any difference fails. All that it makes is
//! removed again, also when it is interrupted or fails; what a killed run has left is removed by the next one.

mod answers;
mod edit;
mod enforcement;
mod flow;
mod interrupt;
mod leftovers;
#[path = "../../tests/netns/mod.rs"]
mod netns;
mod shop;
mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::answers::{Palisade, Question};
use self::enforcement::{Counter, Enforcement};
use self::interrupt::Interrupt;
use self::leftovers::Scratch;
use self::shop::Shop;

/// Exit code after a signal, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;
/// The pair that is explained, and asked again after the end.
const DENIED: (&str, &str, &str) = ("guest/intruder", "shop/db-0", "5432/TCP");

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "the demo makes network namespaces and loads BPF programs, which needs root: run it as root, or install sudo \
             and run `make demo` again"
        );
        return ExitCode::FAILURE;
    }
    let result = Interrupt::listen().and_then(|listening| {
        let result = demo();
        drop(listening);
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt::came() => {
            eprintln!("\ninterrupted; all that the demo made is removed");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let begun = Instant::now();
    // The first to be made is the last to be dropped.
    let scratch = Scratch::new()?;
    let palisade = Palisade::beside_this_program(&scratch)?;
    let shop = interrupt::caught(Shop::open)?;
    leftovers::unpin(&palisade, &shop)?;
    let mut enforcement = Enforcement::start(&palisade, &shop, &scratch)?;
    let result = steps(&palisade, &shop, &mut enforcement);
    if let (Err(_), false) = (&result, interrupt::came()) {
        eprintln!("\nthe end of palisade's log:\n{}", enforcement.log_end());
    }
    result?;
    println!("\nNo difference. {:.1} s.", begun.elapsed().as_secs_f64());
    Ok(())
}

fn steps(palisade: &Palisade, shop: &Shop, enforcement: &mut Enforcement) -> Result<()> {
    let denied = who_reaches_whom(palisade, shop)?;
    edit::under_traffic(palisade, shop)?;
    why_not(palisade)?;
    counted(enforcement, denied)?;
    the_end(shop, enforcement)
}

/// Asks everything; returns how many answers were to be denied.
fn who_reaches_whom(palisade: &Palisade, shop: &Shop) -> Result<u64> {
    println!("\n1  Who reaches whom: open ports, from row to column, by real connections");
    println!("   expected by `palisade matrix` and, from and to the outside, `palisade explain`\n");
    let begun = Instant::now();
    let expected = answers::all(palisade, shop)?;
    let seen = table::ask(shop, expected.keys())?;
    let seen = table::ask_again(shop, &expected, seen)?;
    table::print(shop, &expected, &seen);
    let allowed = expected.values().filter(|allowed| **allowed).count();
    println!(
        "\n   {} questions in {:.1} s, both families, TCP and UDP: {allowed} expected open, {} expected closed",
        expected.len(),
        begun.elapsed().as_secs_f64(),
        expected.len() - allowed,
    );
    agree(&expected, &seen)?;
    println!("   seen: the same");
    Ok((expected.len() - allowed) as u64)
}

fn agree(expected: &BTreeMap<Question, bool>, seen: &BTreeMap<Question, bool>) -> Result<()> {
    let word = |open: bool| if open { "open" } else { "closed" };
    let mut differences = 0;
    for (question, expected) in expected {
        let seen = seen
            .get(question)
            .with_context(|| format!("{question} was not asked"))?;
        if seen != expected {
            differences += 1;
            println!(
                "   DIFFERENT: {question}: expected {}, seen {}",
                word(*expected),
                word(*seen)
            );
        }
    }
    if differences > 0 {
        bail!(
            "{differences} of {} answers differ from what was expected",
            expected.len()
        );
    }
    Ok(())
}

fn why_not(palisade: &Palisade) -> Result<()> {
    let (from, to, port) = DENIED;
    println!("\n3  Why not?  $ palisade explain --from shop {from} {to} {port}\n");
    let text = palisade.answer(&["explain", from, to, port])?;
    for line in text.lines() {
        println!("   {line}");
    }
    Ok(())
}

fn counted(enforcement: &Enforcement, denied: u64) -> Result<()> {
    println!("\n4  Dropped packets, from /metrics\n");
    let mut drops: Vec<Counter> = enforcement.counters()?;
    drops.retain(|counter| counter.is("verdict", "dropped") && counter.value > 0);
    drops.sort_by_key(|counter| std::cmp::Reverse(counter.value));
    for counter in &drops {
        println!(
            "   {:>6}  {}",
            counter.value,
            counter.shown(&["direction", "reason", "namespace", "policy"])
        );
    }
    let total: u64 = drops.iter().map(|counter| counter.value).sum();
    if total < denied {
        bail!("{total} packets were counted as dropped, but {denied} questions were dropped");
    }
    Ok(())
}

/// Enforcement outlives the process; `clean` ends it.
fn the_end(shop: &Shop, enforcement: &mut Enforcement) -> Result<()> {
    let (from, to, port) = DENIED;
    let question = Question::new(from, to, answers::Family::IPv4, port)?;
    let open = |when: &str, wanted: bool| {
        let patience = if wanted { table::PATIENT } else { table::PATIENCE };
        if question.ask(shop, patience) == wanted {
            return Ok(());
        }
        bail!("{when}: {question} is {}", if wanted { "closed" } else { "open" })
    };
    println!("\n5  The end");
    enforcement.stop()?;
    open("after SIGTERM", false)?;
    println!("   SIGTERM: palisade has ended, and the kernel goes on enforcing ({from} does not reach {to})");
    let said = enforcement.clean()?;
    open("after palisade clean", true)?;
    println!("   palisade clean: {}; nothing is enforced any more", said.trim());
    Ok(())
}

/// Looks every few milliseconds whether `done`, for `patience`; `None` where it never was. Fails when interrupted.
fn wait_until(patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<Option<Duration>> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        interrupt::check()?;
        if done()? {
            return Ok(Some(begun.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(None)
}
