//! What `palisade check`, `explain`, `matrix` and `diff` print, and their exit codes: the built binary on folders of YAML.
//!
//! Transcripts (`testdata/cli/*.transcript`) hold commands and all that they print; `UPDATE_GOLDEN=1` rewrites them.

mod agreement;
mod transcript;

use std::path::Path;
use std::process::{Command, Output};

/// Runs the binary at the root of the sources, with nothing of the caller's environment that could change an answer.
fn palisade(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(arguments)
        .current_dir(root())
        .env_clear()
        .output()
        .expect("the binary runs")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn transcript(name: &str) {
    transcript::check(&root().join("testdata/cli").join(name));
}

#[test]
fn check_prints_each_problem_and_what_was_read() {
    transcript("check.transcript");
}

#[test]
fn explain_names_the_rule_that_allows_or_why_none_does() {
    transcript("explain.transcript");
}

#[test]
fn explain_answers_in_json() {
    transcript("explain-json.transcript");
}

#[test]
fn explain_looks_through_services() {
    transcript("services.transcript");
}

#[test]
fn matrix_prints_tables_and_json_rows() {
    transcript("matrix.transcript");
}

#[test]
fn explain_takes_a_flows_line() {
    transcript("drop.transcript");
}

#[test]
fn explain_reads_the_first_line_of_standard_input() {
    let lines = "{\"type\":\"flow\",\"verdict\":\"denied\",\"direction\":\"ingress\",\"reason\":\"isolation\",\"pod\":\"shop/db-0\",\
                 \"policies\":[\"shop/db\",\"shop/default-deny\"],\"source\":{\"address\":\"10.77.4.10\",\"port\":49152},\
                 \"destination\":{\"address\":\"10.77.1.30\",\"port\":5432},\"protocol\":\"TCP\"}\n{\"type\":\"flow\"\n";
    let mut child = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args(["explain", "--from", "examples/shop", "--drop", "-", "-o", "json"])
        .current_dir(root())
        .env_clear()
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut input = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, lines.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["to"]["pod"], "shop/db-0");
    assert_eq!(answer["port"], "5432/TCP");
    assert_eq!(answer["reported"]["agrees"], true);
}

#[test]
fn diff_prints_what_is_lost_and_gained() {
    transcript("diff.transcript");
}

#[test]
fn what_policies_in_audit_would_deny_is_told_apart_from_what_is_denied() {
    transcript("audit.transcript");
}

#[test]
fn wrong_usage_says_what_is_wrong_and_exits_2() {
    transcript("usage.transcript");
}

#[test]
fn the_version_is_the_packages() {
    let output = palisade(&["--version"]);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("palisade {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn names_that_a_terminal_would_act_on_are_escaped() {
    let output = palisade(&[
        "explain",
        "--from",
        "examples/shop",
        "shop/\u{1b}]0;x\u{7}",
        "shop/db-0",
        "80/TCP",
    ]);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("there is no pod shop/\\u{1b}]0;x\\u{7};"),
        "{stderr}"
    );
    assert!(!stderr.contains(['\u{1b}', '\u{7}']), "{stderr}");
}

#[test]
fn the_environment_sets_what_the_command_line_does_not() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_palisade"))
            .args(arguments)
            .current_dir(root())
            .env_clear()
            .env("PALISADE_FROM", "examples/shop")
            .env("PALISADE_OUTPUT", "json")
            .output()
            .expect("the binary runs")
    };
    let report: serde_json::Value = serde_json::from_slice(&run(&["check"]).stdout).expect("JSON");
    assert_eq!(report["read"]["Pod"], 9);
    let text = run(&["check", "--from", "testdata/cli/folders/empty", "-o", "text"]).stdout;
    assert!(String::from_utf8_lossy(&text).ends_with("no problems\n"));
}

/// `palisade matrix | head` ends well, whatever is left unread.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_palisade"))
        .args([
            "matrix",
            "--from",
            "examples/shop",
            "--port",
            "80/TCP",
            "-o",
            "json",
        ])
        .current_dir(root())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
