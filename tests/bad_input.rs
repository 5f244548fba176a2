//! Bad input: what a user reads, and what stays in force. One file a case under `testdata/bad-input`; what it comes to
//! is in `NAME.expected` beside it. `UPDATE_GOLDEN=1` writes those anew; `--nocapture` prints the table.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use palisade::files::{self, Loaded};
use palisade::model::{Direction, Enforcement, ObjectId, Policy};

const NEIGHBOURS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour, namespace: shop}
status: {podIP: 10.8.8.8}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: neighbour, namespace: shop}
spec: {podSelector: {}, ingress: [{ports: [{port: 443}]}]}
";

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bad-input");
    let mut cases: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .collect();
    cases.sort();
    cases
}

/// The case alone in a folder with a file of sound objects before it and one after.
fn load(case: &Path) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0-neighbours.yaml"), NEIGHBOURS).unwrap();
    fs::copy(case, folder.path().join(case.file_name().unwrap())).unwrap();
    fs::write(
        folder.path().join("zz.yml"),
        "{apiVersion: v1, kind: Namespace, metadata: {name: last}}",
    )
    .unwrap();
    files::load(folder.path()).unwrap()
}

fn is_neighbour(id: &ObjectId) -> bool {
    &*id.name == "neighbour"
}

/// What is in force besides the neighbours.
fn in_force(loaded: &Loaded) -> String {
    let mut text = String::new();
    let snapshot = &loaded.snapshot;
    for namespace in &snapshot.namespaces {
        if namespace.enforcement == Enforcement::Audit {
            writeln!(text, "namespace {} in audit", namespace.name).unwrap();
        }
    }
    for policy in snapshot
        .policies
        .iter()
        .filter(|policy| !is_neighbour(&policy.id))
    {
        let (id, selected) = (&policy.id, selected(policy));
        let own = policy
            .enforcement
            .map_or(String::new(), |own| format!(", {own:?}"));
        writeln!(text, "policy {id} {selected}{own}").unwrap();
        for direction in Direction::ALL {
            match policy.rules(direction) {
                None => writeln!(text, "  {direction}: open").unwrap(),
                Some([]) => writeln!(text, "  {direction}: denied").unwrap(),
                Some(rules) => {
                    for rule in rules {
                        let (peers, ports) = (allowed(&rule.peers), allowed(&rule.ports));
                        writeln!(text, "  {direction}[{}]: {peers}, {ports}", rule.index).unwrap();
                    }
                }
            }
        }
    }
    for pod in snapshot.pods.iter().filter(|pod| !is_neighbour(&pod.id)) {
        let ports: Vec<_> = pod
            .ports
            .iter()
            .map(|port| (port.number, port.name.as_deref()))
            .collect();
        let (id, addresses, labels, prefixes) = (&pod.id, &pod.addresses, &pod.labels, &pod.source_prefixes);
        writeln!(
            text,
            "pod {id} {addresses:?} {labels:?} ports {ports:?} sends from {prefixes:?}"
        )
        .unwrap();
    }
    for service in &snapshot.services {
        writeln!(
            text,
            "service {} {:?} {:?}",
            service.id, service.cluster_ips, service.ports
        )
        .unwrap();
    }
    for slice in &snapshot.endpoint_slices {
        writeln!(
            text,
            "slice {} of {} ready {:?}",
            slice.id, slice.service, slice.ready
        )
        .unwrap();
    }
    text
}

fn selected(policy: &Policy) -> String {
    match policy.pod_selector.requirements() {
        [] => "selects every pod".to_string(),
        some => format!("selects {some:?}"),
    }
}

fn allowed<T: std::fmt::Debug>(members: &Option<Vec<T>>) -> String {
    match members {
        None => "any".to_string(),
        Some(members) => format!("{members:?}"),
    }
}

#[test]
fn each_bad_file_is_explained_and_costs_only_itself() {
    let cases = cases();
    assert!(cases.len() >= 50);
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut table = String::from("| case | what the user reads |\n|---|---|\n");
    let mut failures = Vec::new();
    for case in &cases {
        let name = case.file_name().unwrap().to_string_lossy().to_string();
        let loaded = load(case);
        assert!(!loaded.problems.is_empty(), "{name}: nothing is reported");
        let mut seen = String::new();
        for problem in &loaded.problems {
            let line = problem.to_string();
            assert!(line.contains(&name), "{name}: the file is not named in {line}");
            assert!(
                !problem.message.is_empty() && !problem.remedy.is_empty(),
                "{line}"
            );
            assert!(!line.chars().any(char::is_control), "{name}: {line:?}");
            assert!(line.len() < 1500, "{name}: {line}");
            writeln!(table, "| {name} | {} |", line.replace('|', "\\|")).unwrap();
            writeln!(seen, "{line}").unwrap();
        }
        write!(seen, "--\n{}", in_force(&loaded)).unwrap();
        let snapshot = &loaded.snapshot;
        assert!(
            snapshot.policies.iter().any(|policy| is_neighbour(&policy.id)),
            "{name}"
        );
        assert!(snapshot.pods.iter().any(|pod| is_neighbour(&pod.id)), "{name}");
        assert!(
            snapshot
                .namespaces
                .iter()
                .any(|namespace| &*namespace.name == "last"),
            "{name}"
        );

        let golden = case.with_extension("expected");
        if update {
            fs::write(&golden, &seen).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != seen {
            failures.push(format!("{name}:\n{seen}"));
        }
    }
    println!("{table}");
    assert!(
        failures.is_empty(),
        "differs from what is expected:\n{}",
        failures.join("\n")
    );
}
