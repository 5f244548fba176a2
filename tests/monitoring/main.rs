//! The alerts and the dashboard: they name metrics and labels that there are, promtool finds nothing wrong, each alert fires and does
//! not fire where it should, and says what to do.

mod series;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use palisade::observe::reference::{self, Described};
use palisade::observe::{Format, PREFIX};
use prometheus_client::encoding::text::encode;
use serde_json::Value;

/// What a Prometheus server adds, as the monitors of `manifests/monitoring/` have it.
const OF_THE_TARGET: [&str; 5] = ["job", "instance", "node", "namespace", "pod"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn alerts() -> Vec<Value> {
    let file = yaml("manifests/monitoring/alerts.yaml");
    let groups = list(&file["groups"]).iter();
    groups.flat_map(|group| list(&group["rules"]).to_vec()).collect()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().expect("a name")
}

/// Every string under one of these keys, with the place that it is at.
fn under<'v>(value: &'v Value, keys: &[&str], found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if keys.contains(&&**key) => found.push(text),
                    _ => under(value, keys, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| under(item, keys, found)),
        _ => {}
    }
}

/// With values for Grafana's variables.
fn filled_in(expression: &str) -> String {
    let expression = expression.replace("$__rate_interval", "5m");
    ["$instance", "$namespace", "$policy"]
        .iter()
        .fold(expression, |text, variable| text.replace(variable, ".*"))
}

fn dashboard() -> Value {
    serde_json::from_str(&text("manifests/monitoring/dashboard.json")).expect("JSON")
}

/// Runs promtool; it must have nothing to say but this word.
fn promtool(arguments: &[&str], file: &Path, word: &str) {
    let Ok(output) = Command::new("promtool").args(arguments).arg(file).output() else {
        assert!(
            std::env::var("CI").is_err(),
            "CI must not skip promtool: make monitoring-packages"
        );
        return eprintln!("skipped: promtool is not there (make monitoring-packages)");
    };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains(word), "promtool: {said}");
}

#[test]
fn the_monitors_find_the_daemonsets_pods_and_the_service() {
    let file = text("manifests/20-daemonset.yaml");
    let objects: Vec<Value> = file
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).expect("YAML"))
        .collect();
    let of = |kind: &str| {
        let found = objects.iter().find(|object| object["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    let (pods, service) = (&of("DaemonSet")["spec"]["template"], of("Service"));
    let pod_monitor = yaml("manifests/monitoring/podmonitor.yaml");
    let service_monitor = yaml("manifests/monitoring/servicemonitor.yaml");
    let ports = list(&pods["spec"]["containers"][0]["ports"]);
    for (monitor, endpoints, labels, ports) in [
        (
            &pod_monitor,
            "podMetricsEndpoints",
            &pods["metadata"]["labels"],
            ports,
        ),
        (
            &service_monitor,
            "endpoints",
            &service["metadata"]["labels"],
            list(&service["spec"]["ports"]),
        ),
    ] {
        let spec = &monitor["spec"];
        let selected = spec["selector"]["matchLabels"].as_object().expect("labels");
        assert!(!selected.is_empty());
        for (name, value) in selected {
            assert_eq!(&labels[name], value, "{name} in {labels}");
        }
        // The name of the job, as alerts have it.
        let job = spec["jobLabel"].as_str().expect("a label");
        assert_eq!(labels[job], "palisade");
        assert_eq!(
            monitor["metadata"]["namespace"],
            of("DaemonSet")["metadata"]["namespace"]
        );
        for endpoint in list(&spec[endpoints]) {
            assert!(
                ports.iter().any(|port| port["name"] == endpoint["port"]),
                "{endpoint}"
            );
            assert_eq!(endpoint["honorLabels"], true, "or `namespace` is Palisade's own");
        }
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_all_metrics_of_an_instance_in_a_cluster() {
    let mut registry = reference::example();
    let own = registry.sub_registry_with_prefix(PREFIX);
    let cluster = palisade::cluster::Metrics::default();
    cluster.register_watching(own);
    cluster.register_leading(own);
    let mut page = String::new();
    encode(&mut page, &registry).expect("text");
    let page = Format::Text.of_open_metrics(page);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("scrape.txt");
    std::fs::write(&path, &page).expect("written");
    // It reads from its standard input alone.
    let script = format!("exec promtool check metrics <{}", path.display());
    let Ok(output) = Command::new("sh").args(["-c", &script]).output() else {
        panic!("sh is there")
    };
    if output.status.code() == Some(127) {
        assert!(std::env::var("CI").is_err(), "CI must not skip promtool");
        return eprintln!("skipped: promtool is not there (make monitoring-packages)");
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() && said.is_empty(),
        "promtool: {said}\n{page}"
    );
}

#[test]
fn promtool_finds_nothing_wrong_with_the_alerts_and_they_fire_as_they_should() {
    promtool(
        &["check", "rules"],
        &path("manifests/monitoring/alerts.yaml"),
        "SUCCESS",
    );
    promtool(
        &["test", "rules"],
        &path("testdata/monitoring/alerts.test.yaml"),
        "SUCCESS",
    );
}

#[test]
fn each_alert_is_tested_where_it_fires_and_where_it_does_not() {
    let tests = yaml("testdata/monitoring/alerts.test.yaml");
    let mut seen: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for case in list(&tests["tests"])
        .iter()
        .flat_map(|test| list(&test["alert_rule_test"]))
    {
        let fires = !list(&case["exp_alerts"]).is_empty();
        *seen
            .entry((case["alertname"].as_str().expect("a name"), fires))
            .or_default() += 1;
    }
    for alert in alerts() {
        for fires in [true, false] {
            assert!(
                seen.contains_key(&(name(&alert), fires)),
                "{}: no test where fires is {fires}",
                name(&alert)
            );
        }
    }
}

#[test]
fn each_alert_says_what_to_do_and_nothing_else_is_said() {
    let alerts = alerts();
    let there_are: BTreeSet<&str> = alerts.iter().map(name).collect();
    assert_eq!(there_are.len(), alerts.len(), "each has its own name");
    let document = text("docs/monitoring.md");
    let documented: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    assert_eq!(there_are, documented, "docs/monitoring.md");
    for alert in &alerts {
        for field in ["summary", "description"] {
            assert!(alert["annotations"][field].is_string(), "{alert}");
        }
        let severity = alert["labels"]["severity"].as_str().expect("a severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{alert}");
    }
}

#[test]
fn the_operators_rule_holds_the_same_alerts() {
    let alerts = text("manifests/monitoring/alerts.yaml");
    let groups = &alerts[alerts.find("groups:").expect("groups")..];
    let mut expected = String::from(
        "# Of alerts.yaml, for the Prometheus operator: UPDATE_GOLDEN=1 cargo test --test monitoring writes it.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n\
         metadata:\n  name: palisade\n  namespace: kube-system\n  labels: {app.kubernetes.io/name: palisade}\nspec:\n",
    );
    for line in groups.lines() {
        expected += &format!("  {line}\n");
    }
    let file = path("manifests/monitoring/prometheusrule.yaml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &expected).expect("written");
    }
    assert_eq!(
        text("manifests/monitoring/prometheusrule.yaml"),
        expected,
        "UPDATE_GOLDEN=1 writes it"
    );
    let rule = yaml("manifests/monitoring/prometheusrule.yaml");
    assert_eq!(rule["spec"], yaml("manifests/monitoring/alerts.yaml"));
}

/// The words of an expression, as PromQL has them, without what is quoted; and what stands right behind each.
fn words(expression: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut quoted, mut word) = (None, String::new());
    for (at, character) in expression.char_indices().chain([(expression.len(), ' ')]) {
        let is_word = character.is_ascii_alphanumeric() || character == '_';
        match quoted {
            Some(quote) if character == quote => quoted = None,
            Some(_) => {}
            None if is_word => word.push(character),
            None => {
                if !word.is_empty() {
                    found.push((std::mem::take(&mut word), expression[at..].trim_start().into()));
                }
                if matches!(character, '"' | '\'' | '`') {
                    quoted = Some(character);
                }
            }
        }
    }
    found
}

/// What stands between a label and a value.
const MATCHES: [&str; 4] = ["=\"", "!=\"", "=~", "!~"];

/// Metrics and labels of an expression that there are not.
fn unknown(expression: &str, metrics: &[Described]) -> Vec<String> {
    let of = |name: &str| {
        metrics.iter().find(|metric| {
            let sample = name.strip_prefix(&*metric.name);
            sample == Some("")
                || metric.kind == "histogram" && matches!(sample, Some("_bucket" | "_sum" | "_count"))
        })
    };
    let mut wrong = Vec::new();
    let all: BTreeSet<&str> = metrics
        .iter()
        .flat_map(|metric| metric.labels.iter().map(String::as_str))
        .chain(OF_THE_TARGET)
        .chain(["le"])
        .collect();
    let mut latest: Option<&Described> = None;
    for (word, behind) in words(expression) {
        if word.starts_with("palisade_") || word.starts_with("process_") {
            latest = of(&word);
            if latest.is_none() {
                wrong.push(word);
            }
        } else if MATCHES.iter().any(|sign| behind.starts_with(sign)) {
            // A matcher of the metric before it.
            let has = |metric: &Described| metric.labels.contains(&word) || OF_THE_TARGET.contains(&&*word);
            if latest.is_some_and(|metric| !has(metric)) {
                wrong.push(format!("{} {{{word}}}", latest.map_or("", |metric| &metric.name)));
            }
        }
    }
    for (at, _) in expression.match_indices("by (") {
        let inner = expression[at + 4..].split(')').next().unwrap_or_default();
        let labels = inner
            .split(',')
            .map(str::trim)
            .filter(|label| !all.contains(label));
        wrong.extend(labels.map(|label| format!("by ({label})")));
    }
    wrong
}

#[test]
fn alerts_and_dashboard_name_only_metrics_and_labels_that_there_are() {
    let metrics = palisade::app::described().expect("the metrics");
    let dashboard = dashboard();
    let alerts = alerts();
    let mut expressions = Vec::new();
    under(&dashboard, &["expr", "query"], &mut expressions);
    alerts
        .iter()
        .for_each(|alert| under(alert, &["expr"], &mut expressions));
    assert!(expressions.len() > 50, "{}", expressions.len());
    let mut wrong = Vec::new();
    for expression in expressions {
        let unknown = unknown(expression, &metrics);
        if !unknown.is_empty() {
            wrong.push(format!("{expression}: {}", unknown.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A measurement of a metric that is no more would find nothing wrong.
#[test]
fn measurements_and_the_demo_read_metrics_that_there_are() {
    let metrics = palisade::app::described().expect("the metrics");
    let (mut wrong, mut read) = (Vec::new(), 0);
    for folder in ["e2e/measure", "examples/demo"] {
        for entry in std::fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
            let file = entry.expect("an entry").path();
            if file.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let source = std::fs::read_to_string(&file).expect("a source");
            // What begins a string, or is quoted in one.
            let quoted = source.split('"').filter(|piece| piece.starts_with("palisade_"));
            for name in quoted.map(|piece| piece.split('{').next().unwrap_or_default()) {
                read += 1;
                if !unknown(name, &metrics).is_empty() {
                    wrong.push(format!("{}: {name}", file.display()));
                }
            }
        }
    }
    assert!(read > 3 && wrong.is_empty(), "of {read}: {}", wrong.join("\n"));
}

#[test]
fn a_name_that_there_is_not_is_found() {
    let metrics = palisade::app::described().expect("the metrics");
    for (expression, expected) in [
        (
            "sum by (instance) (rate(palisade_nothing_total[5m]))",
            &["palisade_nothing_total"][..],
        ),
        (
            "palisade_map_entries{state!=\"x\"} != 1",
            &["palisade_map_entries {state}"],
        ),
        (
            "palisade_problems{source=\"files\", kind!~\"x\"}",
            &["palisade_problems {kind}"],
        ),
        ("sum by (instance, colour) (palisade_problems)", &["by (colour)"]),
        (
            "palisade_apply_duration_seconds_bucket{le=\"0.1\"}",
            &["palisade_apply_duration_seconds {le}"],
        ),
        ("palisade_leader_count > 0", &["palisade_leader_count"]),
        (
            "palisade_apply_duration_seconds_count{instance=\"palisade_x\"} == 1",
            &[],
        ),
    ] {
        assert_eq!(unknown(expression, &metrics), expected, "{expression}");
    }
}

#[test]
fn the_dashboards_expressions_are_read_by_promtool() {
    let dashboard = dashboard();
    let mut expressions = Vec::new();
    under(&dashboard, &["expr"], &mut expressions);
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            serde_json::json!({"record": format!("dashboard:{number}"), "expr": filled_in(expression)})
        })
        .collect();
    let file = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let folder = tempfile::tempdir().expect("a folder");
    // JSON is YAML.
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, file.to_string()).expect("written");
    promtool(&["check", "rules"], &path, "SUCCESS");
}
