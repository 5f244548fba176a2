//! Two edits of a policy file while connections carry traffic: what they allow goes on, what they forbid is cut.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::answers::{self, Family, Palisade, Question};
use crate::flow::Flow;
use crate::shop::Shop;
use crate::{agree, interrupt, table, wait_until};

/// How long an edit may take to be seen; it takes some milliseconds.
const IN_FORCE: Duration = Duration::from_secs(5);
/// How long a connection that is cut is watched: TCP repeats itself after 0.2, 0.6 and 1.4 s.
const WATCHED: Duration = Duration::from_secs(2);
/// A connection that goes on is never silent that long, even on a busy machine.
const SILENCE: Duration = Duration::from_millis(900);

struct Edit {
    what: &'static str,
    /// Text of policies.yaml and what takes its place.
    replaced: [(&'static str, &'static str); 2],
}

const LOOSER: Edit = Edit {
    what: "policy shop/api admits monitoring on 9000 to 9110 instead of 9100 to 9110",
    replaced: [("    - port: 9100\n", "    - port: 9000\n"), ("", "")],
};
const TIGHTER: Edit = Edit {
    what: "policy shop/web excepts the intruder's blocks, 10.77.4.0/24 and fd77:4::/32",
    replaced: [
        (
            "        - 198.51.100.0/24\n",
            "        - 198.51.100.0/24\n        - 10.77.4.0/24\n",
        ),
        (
            "        - 2001:db8:bad::/48\n",
            "        - 2001:db8:bad::/48\n        - fd77:4::/32\n",
        ),
    ],
};

/// Connections that both edits leave alone, and those that the second one cuts.
const KEPT: [(&str, &str, Family, &str); 4] = [
    ("shop/web-0", "shop/api-0", Family::IPv4, "9000/TCP"),
    ("shop/api-0", "shop/db-0", Family::IPv6, "5432/TCP"),
    ("customer", "shop/web-0", Family::IPv6, "8080/TCP"),
    ("shop/web-0", "kube-system/dns", Family::IPv4, "53/UDP"),
];
const CUT: [(&str, &str, Family, &str); 2] = [
    ("guest/intruder", "shop/web-0", Family::IPv4, "8080/TCP"),
    ("guest/intruder", "shop/web-0", Family::IPv6, "8080/TCP"),
];

/// What the first edit opens.
const OPENED: (&str, &str, Family, &str) = ("monitoring/prometheus", "shop/api-0", Family::IPv4, "9000/TCP");

pub fn under_traffic(palisade: &Palisade, shop: &Shop) -> Result<()> {
    println!("\n2  A policy file is edited under live traffic");
    let open = |ends: &[(&str, &str, Family, &str)]| -> Result<Vec<Flow>> {
        let flows = ends.iter().map(|(from, to, family, port)| {
            interrupt::check()?;
            Flow::open(shop, Question::new(from, to, *family, port)?)
        });
        flows.collect()
    };
    let (kept, cut) = (open(&KEPT)?, open(&CUT)?);
    let all: Vec<&Flow> = kept.iter().chain(&cut).collect();
    flowing(&all)?;

    println!("\n   edit: {}", LOOSER.what);
    let before = answers::between_pods(palisade)?;
    let renamed = make(palisade, &LOOSER)?;
    opened(shop, renamed)?;
    let before = confirm(palisade, shop, before)?;
    went_on(&all)?;

    all.iter().for_each(|flow| flow.reset_longest());
    println!("\n   edit: {}", TIGHTER.what);
    let renamed = make(palisade, &TIGHTER)?;
    were_cut(&cut, renamed)?;
    confirm(palisade, shop, before)?;
    went_on(&kept.iter().collect::<Vec<_>>())
}

/// Edits the file as an editor does: aside, then renamed. Returns when it was renamed.
fn make(palisade: &Palisade, edit: &Edit) -> Result<Instant> {
    let path = palisade.folder.join("policies.yaml");
    let mut text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (before, after) in edit.replaced {
        if !text.contains(before) {
            bail!("{} does not contain {before:?}", path.display());
        }
        text = text.replacen(before, after, 1);
    }
    let aside = palisade.folder.join(".policies.yaml.new");
    fs::write(&aside, text).with_context(|| aside.display().to_string())?;
    let renamed = Instant::now();
    fs::rename(&aside, &path).with_context(|| path.display().to_string())?;
    Ok(renamed)
}

/// Waits until what the looser policy opens answers.
fn opened(shop: &Shop, renamed: Instant) -> Result<()> {
    let (from, to, family, port) = OPENED;
    let question = Question::new(from, to, family, port)?;
    if wait_until(IN_FORCE, || Ok(question.ask(shop, Duration::from_millis(20))))?.is_none() {
        bail!("{question} is still closed {IN_FORCE:?} after the edit");
    }
    println!(
        "   opened   {question}: {} ms after the rename",
        renamed.elapsed().as_millis()
    );
    Ok(())
}

/// What `palisade matrix` says has changed, by new connections. Returns what it says now.
fn confirm(
    palisade: &Palisade,
    shop: &Shop,
    before: BTreeMap<Question, bool>,
) -> Result<BTreeMap<Question, bool>> {
    let now = answers::between_pods(palisade)?;
    let mut changed = now.clone();
    changed.retain(|question, allowed| before.get(question) != Some(allowed));
    let seen = table::ask(shop, changed.keys())?;
    let seen = table::ask_again(shop, &changed, seen)?;
    if changed.is_empty() {
        bail!("the edit changes no answer");
    }
    agree(&changed, &seen)?;
    println!(
        "   {} answers of `palisade matrix` change; new connections see the same",
        changed.len()
    );
    Ok(now)
}

/// Each has had answers since now.
fn flowing(flows: &[&Flow]) -> Result<()> {
    for flow in flows {
        let before = flow.seen().answered;
        if wait_until(IN_FORCE, || Ok(flow.seen().answered > before + 10))?.is_none() {
            bail!("{}: no answers in {IN_FORCE:?}", flow.question);
        }
    }
    Ok(())
}

fn went_on(flows: &[&Flow]) -> Result<()> {
    flowing(flows)?;
    for flow in flows {
        let seen = flow.seen();
        println!(
            "   goes on  {}: {} answers, {} lost, longest wait {} ms",
            flow.question,
            seen.answered,
            seen.lost,
            seen.longest.as_millis()
        );
        if seen.lost > 0 || seen.longest > SILENCE {
            bail!("{}: the edit has disturbed it", flow.question);
        }
    }
    Ok(())
}

fn were_cut(flows: &[Flow], renamed: Instant) -> Result<()> {
    // In force once all are silent for as long as TCP takes to repeat itself.
    let silent = |flow: &Flow| flow.seen().last.elapsed() > WATCHED;
    if wait_until(IN_FORCE + WATCHED, || Ok(flows.iter().all(silent)))?.is_none() {
        bail!("a connection that the edit forbids goes on");
    }
    for flow in flows {
        let last = flow.seen().last;
        println!(
            "   cut      {}: last answer {} ms after the rename, none in {:.1} s since",
            flow.question,
            last.saturating_duration_since(renamed).as_millis(),
            last.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
