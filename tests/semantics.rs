//! The contract and the tests that pay it: docs/semantics.md against every test named `sN_…`.
//!
//! `make semantics` prints each line with its tests.

mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use sources::{code, root, rust};

/// What later work pays: kube-proxy on a cluster, the CNI plugin, the API server's watches, upgrades, and
/// ClusterNetworkPolicy.
const OWED: &[u32] = &[54, 55, 56, 57, 58];

#[test]
fn every_line_of_the_contract_that_is_due_has_a_test() {
    let lines = contract(&fs::read_to_string(root().join("docs/semantics.md")).expect("docs/semantics.md"));
    assert_eq!(
        lines.keys().copied().collect::<Vec<_>>(),
        (1..=58).collect::<Vec<_>>(),
        "the contract is numbered from 1 without gaps"
    );
    let mut paid: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in rust("src").into_iter().chain(rust("tests")) {
        for (line, name) in paying_tests(&text) {
            paid.entry(line)
                .or_default()
                .insert(format!("{}: {name}", file.display()));
        }
    }
    let unpaid: Vec<u32> = lines
        .keys()
        .copied()
        .filter(|n| !paid.contains_key(n) && !OWED.contains(n))
        .collect();
    println!("{}", table(&lines, &paid));
    println!("without a test: {unpaid:?}; owed to later work: {OWED:?}");
    let unknown: Vec<_> = paid.iter().filter(|(n, _)| !lines.contains_key(n)).collect();
    assert!(
        unknown.is_empty(),
        "tests of lines that the contract lacks: {unknown:?}"
    );
    assert!(
        unpaid.is_empty(),
        "lines of docs/semantics.md without a test: {unpaid:?}"
    );
}

/// The numbered sentences, each on one line.
fn contract(text: &str) -> BTreeMap<u32, String> {
    let mut lines: BTreeMap<u32, String> = BTreeMap::new();
    let mut last = None;
    for line in text.lines() {
        let numbered = line
            .split_once(". ")
            .and_then(|(number, sentence)| Some((number.parse::<u32>().ok()?, sentence)));
        match (numbered, last) {
            (Some((number, sentence)), _) => {
                let twice = lines.insert(number, sentence.to_string());
                assert_eq!(twice, None, "line {number} is there twice");
                last = Some(number);
            }
            (None, Some(number)) if line.starts_with("  ") => {
                let sentence = lines.get_mut(&number).expect("inserted above");
                sentence.push(' ');
                sentence.push_str(line.trim());
            }
            _ => last = None,
        }
    }
    lines
}

fn table(lines: &BTreeMap<u32, String>, paid: &BTreeMap<u32, BTreeSet<String>>) -> String {
    let mut out = String::new();
    for (number, sentence) in lines {
        let _ = writeln!(out, "{number}. {sentence}");
        match paid.get(number) {
            Some(tests) => {
                for test in tests {
                    let _ = writeln!(out, "      {test}");
                }
            }
            None if OWED.contains(number) => out.push_str("      owed\n"),
            None => out.push_str("      NO TEST\n"),
        }
    }
    out
}

/// Line number and name of each function `sN_…` that the test harness runs by default.
fn paying_tests(text: &str) -> Vec<(u32, String)> {
    let code = code(text);
    let mut tests = Vec::new();
    for (at, _) in code.match_indices("fn s") {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if code[..at].ends_with(is_word) {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| is_word(*c)).collect();
        let number = name[1..]
            .split_once('_')
            .filter(|(digits, rest)| !digits.starts_with('0') && !rest.is_empty())
            .and_then(|(digits, _)| digits.parse().ok());
        let attributes = attributes_before(&code[..at]);
        let runs = attributes.iter().any(|a| is_test(a));
        let ignored = attributes.iter().any(|a| a.starts_with("ignore"));
        if let Some(number) = number
            && runs
            && !ignored
        {
            tests.push((number, name));
        }
    }
    tests
}

/// `test`, `tokio::test`, `tokio::test(flavor = …)`; in `proptest!` too, functions carry `#[test]`.
fn is_test(attribute: &str) -> bool {
    let path: String = attribute
        .chars()
        .take_while(|c| *c != '(' && !c.is_whitespace())
        .collect();
    matches!(path.as_str(), "test" | "core::prelude::v1::test" | "tokio::test")
}

/// What is inside of the `#[…]` that directly precede.
fn attributes_before(code: &str) -> Vec<&str> {
    let mut rest = code.trim_end();
    loop {
        let before = ["async", "pub", "pub(crate)", "pub(super)"]
            .iter()
            .find_map(|word| rest.strip_suffix(word));
        match before {
            Some(shorter) => rest = shorter.trim_end(),
            None => break,
        }
    }
    let mut attributes = Vec::new();
    while let Some(inside) = rest.strip_suffix(']') {
        let mut depth = 1;
        let open = inside.char_indices().rev().find(|(_, c)| {
            match c {
                ']' => depth += 1,
                '[' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let Some((open, _)) = open else { break };
        let Some(before) = inside[..open].trim_end().strip_suffix('#') else {
            break;
        };
        attributes.push(inside[open + 1..].trim());
        rest = before.trim_end();
    }
    attributes
}

#[test]
fn only_tests_that_run_count() {
    let counted = [
        "#[test]\nfn s3_a() {}",
        "#[tokio::test(flavor = \"current_thread\")]\n#[cfg(unix)]\nasync fn s3_a() {}",
        "#[cfg(unix)]\n#[test] // because\n/// docs\npub fn s3_a() {}",
        "proptest! { #![proptest_config(x)]\n #[test]\n fn s3_a(x in 0..3) {} }",
    ];
    for text in counted {
        assert_eq!(paying_tests(text), [(3, "s3_a".to_string())], "{text}");
    }
    let not_counted = [
        "fn s3_a() {}",
        "// #[test]\n// fn s3_a() {}",
        "let x = \"#[test] fn s3_a() {}\";",
        "#[test]\n#[ignore = \"slow\"]\nfn s3_a() {}",
        "#[test]\nfn s03_a() {}",
        "#[test]\nfn s3_() {}",
        "#[test]\nfn select() {}",
        "#[cfg(test)]\nfn s3_a() {}",
        "#[test]\nfn other() {}\nfn s3_a() {}",
    ];
    for text in not_counted {
        assert_eq!(paying_tests(text), [], "{text}");
    }
}

#[test]
fn a_sentence_may_go_on_in_the_next_line() {
    let lines = contract("# T\nText. More.\n1. One\n   goes on.\n2. Two.\n\n3. Three. Yes\n");
    assert_eq!(
        lines.into_values().collect::<Vec<_>>(),
        ["One goes on.", "Two.", "Three. Yes"]
    );
}
