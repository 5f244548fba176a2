//! Golden cases: testdata/golden/<sentence>.yaml holds objects and, in its last document, what is expected of them.
//!
//! `verdicts` lists questions, `<from> to <to> <port>/<protocol>` or `… ICMP`, with their answers. An end is
//! `namespace/pod` or an address; where both ends have both families, both must answer alike or the answer gives each.
//! An end that is no pod, a ClusterIP for one, has no verdict of its own. `endpoints` is what each policy comes to and
//! `problems` what is reported. The oracle and `eval` must both give the answers.
//!
//! `UPDATE_GOLDEN=1` rewrites the answers of a case; the diff is then for a person to judge.

mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use oracle::{Oracle, Probe, Source, Verdict, Verdicts, verdict_of};
use palisade::api::{Entry, PolicyEndpoint, Port};
use palisade::compile::{self, Image};
use palisade::files;
use palisade::model::{Direction, ObjectId, Pod, Protocol, Snapshot, parse_address};
use palisade::resolve;
use serde::Deserialize;

/// Where the expectation begins: a document of its own, at the file's end.
const MARK: &str = "---\nverdicts:\n";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    verdicts: Vec<BTreeMap<String, String>>,
    #[serde(default)]
    endpoints: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    problems: Vec<String>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/golden")
}

fn golden(sentence: &str) {
    let path = folder().join(format!("{sentence}.yaml"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (objects, expectation) = text
        .split_once(MARK)
        .unwrap_or_else(|| panic!("{sentence}: no document that begins with `verdicts:`"));
    let expected: Expected = serde_saphyr::from_str(&format!("verdicts:\n{expectation}"))
        .unwrap_or_else(|e| panic!("{sentence}: {e}"));
    let questions: Vec<String> = expected
        .verdicts
        .iter()
        .flat_map(|one| one.keys().cloned())
        .collect();
    assert!(!questions.is_empty(), "{sentence} asks nothing");
    let case = Case::read(objects);
    let found = render(&case, &questions);
    let wanted = format!("verdicts:\n{expectation}");
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1") {
        fs::write(&path, format!("{objects}---\n{found}")).expect("a writable case");
    } else {
        assert_eq!(
            found, wanted,
            "{sentence} (left: found, right: written); UPDATE_GOLDEN=1 rewrites it"
        );
    }
    // What a parser reads of the file is what was compared as text.
    let reread: Expected = serde_saphyr::from_str(&found).expect("what is rendered can be read");
    assert_eq!(reread.verdicts.len(), questions.len());
    assert_eq!(reread.endpoints.len(), case.endpoints.len());
    assert_eq!(reread.problems, case.problems.iter().cloned().collect::<Vec<_>>());
}

struct Case {
    snapshot: Snapshot,
    endpoints: compile::Endpoints,
    problems: BTreeSet<String>,
    image: Image,
}

impl Case {
    fn read(objects: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("objects.yaml"), objects).expect("a writable folder");
        let loaded = files::load(folder.path()).expect("a readable folder");
        assert_eq!(
            loaded.skipped,
            BTreeMap::new(),
            "every object is of a kind that is read"
        );
        let resolution = resolve::resolve(&loaded.snapshot);
        let pods: Vec<&Pod> = loaded.snapshot.pods.iter().filter(|p| p.is_live()).collect();
        let compiled = compile::compile(&resolution.endpoints, &pods);
        assert_eq!(compiled.problems, [], "compile takes all that resolve yields");
        let problems = loaded.problems.iter().chain(&resolution.problems);
        Self {
            problems: problems.map(ToString::to_string).collect(),
            endpoints: resolution.endpoints,
            image: compiled.image,
            snapshot: loaded.snapshot,
        }
    }

    fn pod(&self, name: &str) -> Option<&Pod> {
        let (namespace, name) = name.split_once('/')?;
        let id = ObjectId::new(namespace, name);
        self.snapshot.pods.iter().find(|p| p.id == id)
    }

    /// The pod, if it is one, and the addresses.
    fn end(&self, text: &str) -> (Option<&Pod>, Vec<IpAddr>) {
        match (self.pod(text), parse_address(text)) {
            (Some(pod), _) => (Some(pod), pod.addresses.clone()),
            (None, Some(address)) => (None, vec![address]),
            (None, None) => panic!("{text:?} is neither a pod of the case nor an address"),
        }
    }

    fn answer(&self, question: &str) -> String {
        let parts: Vec<&str> = question.split(' ').collect();
        let [from, "to", to, traffic] = parts[..] else {
            panic!("{question:?} is not of the form `<from> to <to> <port>/<protocol>`");
        };
        let (from_pod, from_addresses) = self.end(from);
        let (_, to_addresses) = self.end(to);
        let mut answers: Vec<(&str, String)> = Vec::new();
        for (source, destination) in from_addresses
            .iter()
            .flat_map(|a| to_addresses.iter().map(move |b| (*a, *b)))
            .filter(|(a, b)| a.is_ipv4() == b.is_ipv4())
        {
            let (protocol, port) = numbers(traffic, destination);
            let probe = Probe {
                source: match from_pod {
                    Some(pod) => Source::Pod {
                        uid: pod.uid.to_string(),
                        address: source,
                    },
                    None => Source::Address(source),
                },
                destination,
                protocol,
                port,
            };
            let verdicts = Oracle::new(&self.snapshot).probe(&probe);
            assert_eq!(
                self.enforced(&probe),
                verdicts,
                "eval (left) and oracle (right): {question}"
            );
            let family = if destination.is_ipv4() { "IPv4" } else { "IPv6" };
            answers.push((family, words(verdicts).to_string()));
        }
        match answers.as_slice() {
            [] => "no common family".to_string(),
            [(_, only)] => only.clone(),
            [(_, first), rest @ ..] if rest.iter().all(|(_, a)| a == first) => first.clone(),
            all => all
                .iter()
                .map(|(f, a)| format!("{f} {a}"))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    fn enforced(&self, probe: &Probe) -> Verdicts {
        let eval = |uid: &str, direction, peer| {
            compile::eval(&self.image, uid, direction, peer, probe.protocol, probe.port).map(verdict_of)
        };
        let (egress, source) = match &probe.source {
            Source::Pod { uid, address } => (eval(uid, Direction::Egress, probe.destination), *address),
            Source::Address(address) => (None, *address),
        };
        let live = |p: &&Pod| p.is_live() && p.addresses.contains(&probe.destination);
        let ingress = (self.snapshot.pods.iter())
            .find(live)
            .and_then(|to| eval(&to.uid, Direction::Ingress, source));
        Verdicts { egress, ingress }
    }
}

/// Protocol number and port.
fn numbers(traffic: &str, destination: IpAddr) -> (u8, u16) {
    match (traffic.split_once('/'), destination) {
        (None, IpAddr::V4(_)) if traffic == "ICMP" => (1, 0),
        (None, IpAddr::V6(_)) if traffic == "ICMP" => (58, 0),
        (Some((port, protocol)), _) => (
            protocol.parse::<Protocol>().expect("a protocol").number(),
            port.parse().expect("a port"),
        ),
        _ => panic!("{traffic:?} is neither <port>/<protocol> nor ICMP"),
    }
}

fn words(verdicts: Verdicts) -> &'static str {
    use Verdict::{Audited, Denied};
    match (verdicts.egress, verdicts.ingress) {
        (None, None) => "no pod of ours",
        (Some(Denied), Some(Denied)) => "deny at both",
        (Some(Denied), _) => "deny at egress",
        (_, Some(Denied)) => "deny at ingress",
        (Some(Audited), Some(Audited)) => "audit at both",
        (Some(Audited), _) => "audit at egress",
        (_, Some(Audited)) => "audit at ingress",
        _ => "allow",
    }
}

fn render(case: &Case, questions: &[String]) -> String {
    let mut out = String::from("verdicts:\n");
    for question in questions {
        let _ = writeln!(out, "- {question}: {}", case.answer(question));
    }
    out.push_str("endpoints:\n");
    for slices in case.endpoints.values() {
        let head = &slices[0].spec;
        let name = format!("{}/{}", head.policy_ref.namespace, head.policy_ref.name);
        let _ = writeln!(out, "  {name}:");
        let lines: BTreeSet<String> = slices.iter().flat_map(|s| endpoint_lines(s)).collect();
        for line in lines {
            let _ = writeln!(out, "  - {line}");
        }
    }
    if !case.problems.is_empty() {
        out.push_str("problems:\n");
        for problem in &case.problems {
            let _ = writeln!(out, "- {}", serde_json::to_string(problem).expect("text"));
        }
    }
    out
}

fn endpoint_lines(slice: &PolicyEndpoint) -> Vec<String> {
    let spec = &slice.spec;
    let mut lines = Vec::new();
    for direction in &spec.pod_isolation {
        lines.push(format!("isolates {direction}"));
    }
    if !spec.enforcement.is_enforce() {
        lines.push("is in audit".to_string());
    }
    for subject in &spec.pod_selector_endpoints {
        lines.push(format!(
            "selects {}/{} {}",
            subject.namespace, subject.name, subject.pod_ip
        ));
    }
    lines.extend(spec.ingress.iter().map(|e| entry_line(Direction::Ingress, e)));
    lines.extend(spec.egress.iter().map(|e| entry_line(Direction::Egress, e)));
    for own in &spec.self_services {
        lines.push(format!(
            "self {} through {} {}/{}",
            own.pod_ip, own.cluster_ip, own.port, own.protocol
        ));
    }
    lines
}

fn entry_line(direction: Direction, entry: &Entry) -> String {
    let index = entry.rule.map_or("?".to_string(), |i| i.to_string());
    let mut line = format!("{direction} {index} allows {}", entry.cidr);
    if !entry.except.is_empty() {
        let except: Vec<String> = entry.except.iter().map(ToString::to_string).collect();
        let _ = write!(line, " except {}", except.join(" "));
    }
    let ports: Vec<String> = entry.ports.iter().map(port_words).collect();
    let _ = write!(
        line,
        " at {}",
        if ports.is_empty() {
            "any port".to_string()
        } else {
            ports.join(" ")
        }
    );
    line
}

fn port_words(port: &Port) -> String {
    let protocol = port.protocol.unwrap_or_default();
    let numbers = match (port.port, port.end_port) {
        (None, _) => "every".to_string(),
        (Some(port), None) => port.to_string(),
        (Some(port), Some(last)) => format!("{port}-{last}"),
    };
    let name = port.name.as_ref().map_or(String::new(), |n| format!("({n})"));
    format!("{numbers}/{protocol}{name}")
}

#[test]
fn every_case_has_a_test() {
    let source = include_str!("golden.rs");
    let mut cases = 0;
    for entry in fs::read_dir(folder()).expect("testdata/golden") {
        let path = entry.expect("a readable folder").path();
        let case = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        assert!(
            source.contains(&format!("golden(\"{case}\")")),
            "{case} is run by no test"
        );
        cases += 1;
    }
    assert!(cases > 0);
}

#[test]
fn s3_deny_all_ingress_is_an_empty_pod_selector_without_rules() {
    golden("deny-all-ingress-is-an-empty-pod-selector-without-rules");
}

#[test]
fn s4_policies_add_up_whatever_their_order() {
    golden("policies-add-up-whatever-their-order");
}

#[test]
fn s4_a_policy_in_audit_denies_nothing_and_allows_nothing_more() {
    golden("a-policy-in-audit-denies-nothing-and-allows-nothing-more");
}

#[test]
fn s5_both_sides_must_allow() {
    golden("both-sides-must-allow");
}

#[test]
fn s7_deny_all_egress_leaves_ingress_open() {
    golden("deny-all-egress-leaves-ingress-open");
}

#[test]
fn s8_one_empty_rule_allows_everything() {
    golden("one-empty-rule-allows-everything");
}

#[test]
fn s10_two_selectors_in_two_peers_may_each_match() {
    golden("two-selectors-in-two-peers-may-each-match");
}

#[test]
fn s11_what_cannot_be_read_isolates_and_allows_nothing() {
    golden("what-cannot-be-read-isolates-and-allows-nothing");
}

#[test]
fn s13_two_selectors_in_one_peer_must_both_match() {
    golden("two-selectors-in-one-peer-must-both-match");
}

#[test]
fn s14_not_in_and_does_not_exist_match_pods_without_the_key() {
    golden("not-in-and-does-not-exist-match-pods-without-the-key");
}

#[test]
fn s15_a_namespace_is_selected_by_its_name() {
    golden("a-namespace-is-selected-by-its-name");
}

#[test]
fn s17_host_network_and_finished_pods_are_neither_subject_nor_peer() {
    golden("host-network-and-finished-pods-are-neither-subject-nor-peer");
}

#[test]
fn s19_an_except_carves_only_out_of_its_own_block() {
    golden("an-except-carves-only-out-of-its-own-block");
}

#[test]
fn s21_each_family_has_its_own_everything() {
    golden("each-family-has-its-own-everything");
}

#[test]
fn s22_a_block_of_a_pods_address_reaches_it_through_its_service() {
    golden("a-block-of-a-pods-address-reaches-it-through-its-service");
}

#[test]
fn s24_egress_reaches_pods_through_their_service() {
    golden("egress-reaches-pods-through-their-service");
}

#[test]
fn s25_an_end_port_is_included() {
    golden("an-end-port-is-included");
}

#[test]
fn s26_a_named_port_is_each_selected_pods_own() {
    golden("a-named-port-is-each-selected-pods-own");
}

#[test]
fn s27_a_named_port_of_egress_is_each_destinations_own() {
    golden("a-named-port-of-egress-is-each-destinations-own");
}

#[test]
fn s28_a_named_port_of_a_sidecar_counts() {
    golden("a-named-port-of-a-sidecar-counts");
}

#[test]
fn s43_a_pod_reaches_itself_through_its_own_service() {
    golden("a-pod-reaches-itself-through-its-own-service");
}

#[test]
fn s50_labels_of_pods_of_one_deployment_may_differ() {
    golden("labels-of-pods-of-one-deployment-may-differ");
}

#[test]
fn s51_both_addresses_of_a_pod_are_peers_and_subjects() {
    golden("both-addresses-of-a-pod-are-peers-and-subjects");
}
