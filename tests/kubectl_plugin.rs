//! `kubectl palisade`: what is asked of kubectl, and what its answers become. kubectl is a script that answers from files, so that each
//! test says what a cluster has.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// Notes what it is called with; answers `get` from get-NAMESPACE-KIND, and `exec` from POD.out, POD.err and POD.code.
const KUBECTL: &str = r#"#!/bin/sh
cd "$FAKE" || exit 99
printf '%s ' "$@" >> calls; echo >> calls
case "$*" in
  *" exec "*) while [ "$1" != exec ]; do shift; done
    cat "$2.out"; [ -e "$2.err" ] && cat "$2.err" >&2
    while [ -e "$2.more" ]; do sleep 0.05; cat "$2.out"; done
    [ -e "$2.wait" ] && exec sleep 1000
    exit "$(cat "$2.code" 2>/dev/null || echo 0)" ;;
  *" get pods "*) cat pods ;;
  *" get pod "*) cat pod || { echo 'Error from server (NotFound): pods "web-9" not found' >&2; exit 1; } ;;
esac
"#;

struct Cluster(tempfile::TempDir);

impl Cluster {
    /// With an agent on each of two nodes, and pods that are not asked.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = Self(folder);
        cluster.put("kubectl", KUBECTL);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(cluster.file("kubectl"), mode).expect("a mode");
        let pod = |name: &str, node: &str, container: &str, phase: &str| {
            json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": container}]},
                "status": {"phase": phase}})
        };
        let pods = json!({"items": [
            pod("palisade-b", "node-b", "palisade", "Running"),
            pod("palisade-a", "node-a", "palisade", "Running"),
            pod("palisade-old", "node-c", "palisade", "Failed"),
            pod("palisade-uninstall", "node-c", "uninstall", "Running"),
        ]});
        cluster.put("pods", &pods.to_string());
        cluster
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("written");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let plugin = self.file("kubectl-palisade");
        if !plugin.exists() {
            symlink(env!("CARGO_BIN_EXE_palisade"), &plugin).expect("a link");
        }
        let mut command = Command::new(plugin);
        command
            .args(arguments)
            .env("FAKE", self.0.path())
            .env("PALISADE_KUBECTL", self.file("kubectl"))
            .current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("palisade")
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.file("calls")).expect("calls")
    }
}

fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn flow(node: &str, second: u32, pod: &str) -> String {
    let time = format!("2026-01-02T03:04:{second:02}.5Z");
    json!({"type": "flow", "time": time, "node": node, "verdict": "denied", "direction": "ingress", "reason": "spoofed", "pod": pod,
        "ifindex": 3, "protocol": "UDP", "length": 60, "source": {"address": "10.0.0.9", "port": 1},
        "destination": {"address": "10.0.0.1", "port": 2, "pod": pod}})
    .to_string()
        + "\n"
}

#[test]
fn flows_of_all_nodes_come_by_time_each_with_its_node_and_the_last_of_all_count() {
    let cluster = Cluster::new();
    cluster.put(
        "palisade-a.out",
        &[flow("node-a", 1, "shop/a"), flow("node-a", 3, "shop/a")].concat(),
    );
    let lost = json!({"type": "lost", "time": "2026-01-02T03:04:02.7Z", "node": "node-b", "lost": 9, "by": "kernel"});
    cluster.put(
        "palisade-b.out",
        &format!("{}{lost}\n", flow("node-b", 2, "shop/b\u{9b}")),
    );
    let (text, errors, code) = said(&cluster.run(&["flows", "--verdict", "denied"]));
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    let starts: Vec<String> = text
        .lines()
        .map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        starts,
        [
            "2026-01-02T03:04:01.500000Z node-a denied",
            "2026-01-02T03:04:02.500000Z node-b denied",
            "2026-01-02T03:04:02.700000Z node-b lost",
            "2026-01-02T03:04:03.500000Z node-a denied",
        ]
    );
    assert!(!text.contains('\u{9b}'), "{text:?}");
    assert!(
        cluster.calls().contains(
            "-n kube-system exec palisade-a -c palisade -- /palisade flows --verdict=denied --output=json"
        ),
        "{}",
        cluster.calls()
    );
    let (text, _, _) = said(&cluster.run(&["flows", "--last", "2", "-o", "json"]));
    let seconds: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["time"].clone())
        .collect();
    assert_eq!(seconds.len(), 3, "two flows and the loss between them: {text}");
}

#[test]
fn a_follower_sees_each_record_at_once_and_who_has_seen_enough_leaves_nothing_running() {
    let cluster = Cluster::new();
    for pod in ["palisade-a", "palisade-b"] {
        cluster.put(&format!("{pod}.out"), &flow(pod, 1, "shop/a"));
    }
    // One goes on, the other is silent: neither is waited for.
    cluster.put("palisade-a.more", "");
    cluster.put("palisade-b.wait", "");
    let mut command = cluster.command(&["flows", "--follow"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("palisade");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        let line = lines.next().expect("a line").expect("text");
        seen.insert(line.split(' ').nth(1).expect("a node").to_string());
    }
    drop(lines);
    assert!(child.wait().expect("ended").success());
    // The last of those that repeat a line sleeps for a moment.
    while !children(cluster.0.path()).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Processes that run in this folder.
fn children(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_number = name.chars().all(|c| c.is_ascii_digit());
        if is_number && fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder) {
            found.push(name);
        }
    }
    found
}

#[test]
fn lists_of_all_nodes_are_one_and_a_node_that_fails_is_named() {
    let cluster = Cluster::new();
    let map = |node: &str| {
        json!([{"node": node, "map": "row", "id": 1, "kind": "hash", "keyBytes": 8, "valueBytes": 8, "entries": 5, "capacity": 10,
            "flag": "--max-rows"}])
        .to_string()
    };
    cluster.put("palisade-a.out", &map("node-a"));
    cluster.put("palisade-b.out", &map("node-b"));
    let (text, _, code) = said(&cluster.run(&["maps"]));
    assert_eq!(code, Some(0));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(rows, [["NODE", "MAP"], ["node-a", "row"], ["node-b", "row"]]);
    cluster.put("palisade-b.out", "");
    cluster.put("palisade-b.err", "error: unable to upgrade connection\u{1b}[2J\n");
    cluster.put("palisade-b.code", "1");
    let (text, errors, code) = said(&cluster.run(&["maps", "-o", "json"]));
    assert_eq!(code, Some(1), "{errors}");
    assert_eq!(
        serde_json::from_str::<Value>(&text)
            .expect("JSON")
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    assert_eq!(
        errors,
        "palisade: node node-b: error: unable to upgrade connection\\u{1b}[2J\n"
    );
    let (_, errors, code) = said(&cluster.run(&["--node", "node-b", "maps"]));
    assert_eq!(code, Some(2), "{errors}");
}

#[test]
fn a_pod_is_asked_of_its_own_node_and_a_bare_name_of_all() {
    let cluster = Cluster::new();
    for pod in ["palisade-a", "palisade-b"] {
        cluster.put(&format!("{pod}.out"), "[]");
    }
    cluster.put(
        "pod",
        &json!({"metadata": {"name": "web-0"}, "spec": {"nodeName": "node-b"}}).to_string(),
    );
    let (_, errors, code) = said(&cluster.run(&["--context=prod", "pods", "shop/web-0"]));
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    let calls = cluster.calls();
    assert!(
        calls.contains("--context=prod -n shop get pod -o json -- web-0"),
        "{calls}"
    );
    assert!(
        calls.contains("exec palisade-b") && !calls.contains("exec palisade-a"),
        "{calls}"
    );

    cluster.put("palisade-a.out", "");
    cluster.put(
        "palisade-a.err",
        "palisade: this node knows no pod \"web-0\"; it knows shop/db\ncommand terminated with exit code 2\n",
    );
    cluster.put("palisade-a.code", "2");
    let (_, errors, code) = said(&cluster.run(&["pods", "web-0"]));
    assert_eq!((errors.as_str(), code), ("", Some(0)), "it is on another node");

    fs::remove_file(cluster.file("pod")).expect("removed");
    let (_, errors, code) = said(&cluster.run(&["flows", "--pod", "shop/web-9"]));
    assert_eq!(code, Some(2));
    assert!(errors.contains("pods \"web-9\" not found"), "{errors}");
}

#[test]
fn without_agents_or_a_node_or_kubectl_an_error_says_what_to_do() {
    let cluster = Cluster::new();
    let (_, errors, code) = said(&cluster.run(&["--node", "node-z", "status"]));
    assert_eq!(code, Some(2));
    assert!(
        errors.contains("no agent runs on node node-z; there is one on node-a, node-b"),
        "{errors}"
    );
    cluster.put("pods", r#"{"items": []}"#);
    let (_, errors, code) = said(&cluster.run(&["status"]));
    assert_eq!(code, Some(2));
    assert!(errors.contains("--palisade-namespace"), "{errors}");
    let (_, errors, code) = said(&cluster.run(&["--kubectl", "/nonexistent/kubectl", "status"]));
    assert_eq!(code, Some(2));
    assert!(
        errors.contains("is it installed? --kubectl names another"),
        "{errors}"
    );
}

#[test]
fn each_node_has_an_archive_of_its_own() {
    let cluster = Cluster::new();
    cluster.put("palisade-a.out", "archive of a");
    cluster.put("palisade-b.out", "archive of b");
    let (text, errors, code) = said(&cluster.run(&["bugreport"]));
    assert_eq!((errors.as_str(), code), ("", Some(0)));
    let mut contents = Vec::new();
    for line in text.lines() {
        assert!(
            line.starts_with("palisade-node-") && line.ends_with(".tar.gz"),
            "{line}"
        );
        let mut content = String::new();
        let file = fs::File::open(cluster.file(line));
        file.expect("the archive")
            .read_to_string(&mut content)
            .expect("text");
        contents.push(content);
    }
    assert_eq!(contents, ["archive of a", "archive of b"]);
    let (_, errors, code) = said(&cluster.run(&["bugreport", "--file", "x"]));
    assert_eq!(code, Some(2));
    assert!(errors.contains("--node"), "{errors}");
}

#[test]
fn the_scripts_that_complete_in_shells_name_the_commands() {
    let cluster = Cluster::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(env!("CARGO_BIN_EXE_palisade"))
            .args(["completion", shell])
            .output()
            .expect("palisade");
        let (text, errors, code) = said(&output);
        assert_eq!((errors.as_str(), code), ("", Some(0)));
        assert!(
            text.contains("conntrack") && text.contains("log-allowed"),
            "{shell}"
        );
    }
    drop(cluster);
}
