//! What files come to: defaults, selectors, blocks and ports as the API server has them; limits; no panic, ever.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use palisade::files::{self, Loaded};
use palisade::model::{Cidr, Enforcement, Labels, Operator, Peer, Pod, Policy, PortMatch, Protocol};
use proptest::prelude::*;

fn load(text: &str) -> Loaded {
    load_files(&[("a.yaml", text.as_bytes())])
}

fn load_files(contents: &[(&str, &[u8])]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in contents {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    files::load(folder.path()).unwrap()
}

/// The one policy with this spec, in namespace `shop`; nothing about it may be a problem.
fn policy(spec: &str) -> Policy {
    let loaded = load(&format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}"
    ));
    assert_eq!(loaded.problems, [], "{spec}");
    loaded.snapshot.policies.into_iter().next().unwrap()
}

fn ports(spec: &str) -> Vec<PortMatch> {
    let policy = policy(&format!("{{podSelector: {{}}, ingress: [{{ports: {spec}}}]}}"));
    policy.ingress.unwrap()[0].ports.clone().unwrap()
}

fn peers(spec: &str) -> Vec<Peer> {
    let policy = policy(&format!("{{podSelector: {{}}, ingress: [{{from: {spec}}}]}}"));
    policy.ingress.unwrap()[0].peers.clone().unwrap()
}

fn pod(rest: &str) -> Pod {
    let loaded = load(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: w, namespace: shop}}\n{rest}"
    ));
    assert_eq!(loaded.problems, [], "{rest}");
    loaded.snapshot.pods.into_iter().next().unwrap()
}

fn labels(of: &[(&str, &str)]) -> Labels {
    of.iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

fn addresses(of: &[&str]) -> Vec<IpAddr> {
    of.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn s6_absent_policy_types_are_ingress_and_egress_where_it_has_rules() {
    for (spec, ingress, egress) in [
        ("{podSelector: {}}", true, false),
        ("{podSelector: {}, policyTypes: []}", true, false),
        ("{podSelector: {}, egress: []}", true, false),
        ("{podSelector: {}, egress: [{}]}", true, true),
        (
            "{podSelector: {}, egress: [{}], policyTypes: [Ingress]}",
            true,
            false,
        ),
        ("{podSelector: {}, policyTypes: [Egress]}", false, true),
        ("{podSelector: {}, policyTypes: [Egress, Ingress]}", true, true),
        ("{}", true, false),
    ] {
        let policy = policy(spec);
        assert_eq!(
            (policy.ingress.is_some(), policy.egress.is_some()),
            (ingress, egress),
            "{spec}"
        );
    }
}

#[test]
fn s7_ingress_rules_of_an_egress_policy_are_ignored() {
    let policy = policy("{podSelector: {}, policyTypes: [Egress], ingress: [{}]}");
    assert_eq!((policy.ingress, policy.egress), (None, Some(vec![])));
}

#[test]
fn s8_null_rules_deny_all_and_one_empty_rule_allows_all() {
    for spec in ["ingress: null", "ingress: []", "ingress:"] {
        assert_eq!(
            policy(&format!("{{podSelector: {{}}, {spec}}}")).ingress,
            Some(vec![]),
            "{spec}"
        );
    }
    let rules = policy("{podSelector: {}, ingress: [{}]}").ingress.unwrap();
    assert_eq!((rules.len(), &rules[0].peers, &rules[0].ports), (1, &None, &None));
}

#[test]
fn s9_null_and_empty_peers_and_ports_restrict_nothing() {
    for rule in [
        "{from: null, ports: null}",
        "{from: [], ports: []}",
        "{from: [], ports:}",
    ] {
        let rules = policy(&format!("{{podSelector: {{}}, ingress: [{rule}]}}"))
            .ingress
            .unwrap();
        assert_eq!((&rules[0].peers, &rules[0].ports), (&None, &None), "{rule}");
    }
}

#[test]
fn s13_an_absent_selector_is_not_an_empty_one() {
    let shape = |peer: &Peer| match peer {
        Peer::Pods { namespaces, pods } => (
            namespaces.as_ref().map(|s| s.requirements().len()),
            pods.as_ref().map(|s| s.requirements().len()),
        ),
        Peer::Block { .. } => panic!("a block"),
    };
    let peers = peers(
        "[{podSelector: {}}, {namespaceSelector: {}}, {namespaceSelector: {matchLabels: {a: b}}, podSelector: {}}, \
         {podSelector: {matchLabels: {a: b}}, namespaceSelector: null}]",
    );
    let shapes: Vec<_> = peers.iter().map(shape).collect();
    assert_eq!(
        shapes,
        [
            (None, Some(0)),
            (Some(0), None),
            (Some(1), Some(0)),
            (None, Some(1))
        ]
    );
}

#[test]
fn s14_labels_and_expressions_of_every_operator_must_all_hold() {
    let selector = policy(
        "{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [b, a, b]}, \
         {key: env, operator: NotIn, values: [test]}, {key: team, operator: Exists}, {key: old, operator: DoesNotExist}]}}",
    )
    .pod_selector;
    let good = [("app", "web"), ("tier", "a"), ("team", "")];
    assert!(selector.matches(&labels(&good)));
    for extra in [("env", "test"), ("old", ""), ("tier", "c"), ("app", "db")] {
        assert!(
            !selector.matches(&labels(&[&good[..], &[extra]].concat())),
            "{extra:?}"
        );
    }
    assert!(!selector.matches(&labels(&good[..2])));
    assert!(
        selector
            .requirements()
            .iter()
            .any(|r| matches!(&r.operator, Operator::In(values) if values.len() == 2)),
        "values are sorted and distinct"
    );
}

#[test]
fn s15_a_namespace_always_has_its_name_as_a_label_declared_or_not() {
    let loaded = load(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: '', kubernetes.io/metadata.name: x}}}\n\
         ---\n{apiVersion: v1, kind: Pod, metadata: {name: w, namespace: other, labels: {empty: ''}}}\n\
         ---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}}}",
    );
    assert_eq!(loaded.problems, []);
    let of = |name: &str| {
        loaded
            .snapshot
            .namespaces
            .iter()
            .find(|n| &*n.name == name)
            .unwrap()
            .labels
            .clone()
    };
    assert_eq!(
        *of("shop"),
        labels(&[("team", ""), ("kubernetes.io/metadata.name", "shop")])
    );
    assert_eq!(*of("other"), labels(&[("kubernetes.io/metadata.name", "other")]));
    assert_eq!(
        *of("default"),
        labels(&[("kubernetes.io/metadata.name", "default")])
    );
    assert_eq!(*loaded.snapshot.pods[0].labels, labels(&[("empty", "")]));
}

#[test]
fn s18_an_invalid_label_value_stays_and_a_selector_with_one_matches_nothing() {
    let loaded = load(
        "{apiVersion: v1, kind: Pod, metadata: {name: w, labels: {app: 'a b'}}}\n---\n\
         {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, \
         spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: 'a b'}}}]}]}}",
    );
    assert_eq!(loaded.problems.len(), 2);
    assert_eq!(*loaded.snapshot.pods[0].labels, labels(&[("app", "a b")]));
    let rule = &loaded.snapshot.policies[0].ingress.as_ref().unwrap()[0];
    assert_eq!(rule.peers, Some(vec![]));
}

#[test]
fn s20_blocks_are_masked_and_old_spellings_are_read() {
    for (text, read) in [
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("010.001.002.003/32", "10.1.2.3/32"),
        ("'::ffff:10.1.2.3/104'", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("'::/0'", "::/0"),
        ("'FD00::7/128'", "fd00::7/128"),
    ] {
        let cidr: Cidr = read.parse().unwrap();
        assert_eq!(
            peers(&format!("[{{ipBlock: {{cidr: {text}}}}}]")),
            [Peer::Block { cidr, except: vec![] }],
            "{text}"
        );
    }
    let nested = "[{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.1.2.0/24, 10.1.0.0/16]}}]";
    assert!(matches!(&peers(nested)[0], Peer::Block { except, .. } if except.len() == 3));
}

#[test]
fn s23_an_absent_protocol_is_tcp_and_an_absent_port_is_every_port_of_its_protocol() {
    let tcp = |first, last| PortMatch::Range {
        protocol: Protocol::Tcp,
        first,
        last,
    };
    assert_eq!(
        ports("[{port: 80}, {port: 80, protocol: null, endPort: null}]"),
        [tcp(80, 80), tcp(80, 80)]
    );
    assert_eq!(ports("[{protocol: UDP}]"), [PortMatch::Every(Protocol::Udp)]);
    assert_eq!(ports("[{}]"), [PortMatch::Every(Protocol::Tcp)]);
    assert_eq!(
        ports("[{protocol: SCTP, port: null}]"),
        [PortMatch::Every(Protocol::Sctp)]
    );
}

#[test]
fn s25_a_range_holds_both_its_ends_and_may_be_one_port() {
    let range = |first, last| PortMatch::Range {
        protocol: Protocol::Udp,
        first,
        last,
    };
    let spec = "[{protocol: UDP, port: 80, endPort: 90}, {protocol: UDP, port: 80, endPort: 80}, \
                {protocol: UDP, port: 1, endPort: 65535}]";
    assert_eq!(ports(spec), [range(80, 90), range(80, 80), range(1, 65535)]);
}

#[test]
fn s28_named_ports_of_containers_and_sidecars_count_but_not_of_other_init_containers() {
    let pod = pod(
        "spec:\n  containers:\n  - {name: a, ports: [{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}]}\n  \
         initContainers:\n  - {name: b, restartPolicy: Always, ports: [{containerPort: 9090, name: metrics}]}\n  \
         - {name: c, ports: [{containerPort: 1, name: once}]}",
    );
    let ports: Vec<_> = pod
        .ports
        .iter()
        .map(|p| (p.name.as_deref(), p.protocol, p.number))
        .collect();
    assert_eq!(
        ports,
        [
            (Some("http"), Protocol::Tcp, 80),
            (None, Protocol::Udp, 53),
            (Some("metrics"), Protocol::Tcp, 9090)
        ]
    );
    let named = PortMatch::Named {
        protocol: Protocol::Tcp,
        name: "http".into(),
    };
    assert_eq!(crate::ports("[{port: http}]"), [named]);
}

#[test]
fn s49_long_and_dotted_names_and_equal_names_in_two_namespaces_are_objects_of_their_own() {
    let long = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    let text: String = ["one", "two"]
        .map(|namespace| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {long}, namespace: {namespace}}}}}\n\
                 ---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {long}, namespace: {namespace}}}, \
                 spec: {{podSelector: {{}}}}}}\n"
            )
        })
        .concat();
    let loaded = load(&text);
    assert_eq!(loaded.problems, []);
    let mut uids: Vec<_> = loaded.snapshot.pods.iter().map(|pod| pod.uid.clone()).collect();
    uids.extend(loaded.snapshot.policies.iter().map(|policy| policy.uid.clone()));
    uids.sort();
    uids.dedup();
    assert_eq!(uids.len(), 4, "no two objects share a UID");
    assert!(loaded.snapshot.pods.iter().all(|pod| *pod.id.name == *long));
}

#[test]
fn a_pod_is_read_with_all_that_resolving_needs() {
    let pod = pod(
        "spec: {nodeName: n1, hostNetwork: true}\nstatus: {phase: Failed, hostIP: 192.0.2.1, podIP: 10.0.0.1, \
         podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}",
    );
    assert_eq!(pod.addresses, addresses(&["10.0.0.1", "fd00::1"]));
    assert_eq!(
        (pod.node.as_deref(), pod.host_ip),
        (Some("n1"), Some("192.0.2.1".parse().unwrap()))
    );
    assert!(pod.host_network && pod.finished);
    let loaded = load(
        "{apiVersion: v1, kind: Pod, metadata: {name: w, uid: abc, creationTimestamp: '2024-01-01T00:00:10Z', \
         annotations: {palisade.dev/allowed-source-prefixes: ' 10.5.0.0/16,fd00::/64, '}}}",
    );
    let pod = &loaded.snapshot.pods[0];
    assert_eq!(
        (&*pod.id.namespace, pod.created),
        ("default", Some(1_704_067_210))
    );
    assert_eq!(
        pod.source_prefixes,
        ["10.5.0.0/16", "fd00::/64"].map(|c| c.parse::<Cidr>().unwrap())
    );
    assert_eq!(loaded.problems, []);
}

#[test]
fn services_with_addresses_and_slices_of_services_are_read() {
    let loaded = load(
        "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], \
         selector: {a: b}, ports: [{name: http, port: 80, targetPort: web}]}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, clusterIPs: [None]}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {type: ExternalName, externalName: example.com}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, labels: {kubernetes.io/service-name: s}}, \
         addressType: IPv4, ports: [{name: http, port: 8080}, {}], endpoints: [{addresses: [10.0.0.1]}, \
         {addresses: [10.0.0.2], conditions: {ready: false}}, {addresses: [10.0.0.3], conditions: {ready: true, serving: true}}]}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x}, addressType: FQDN, endpoints: [{addresses: [a.b]}]}",
    );
    assert_eq!(loaded.problems, []);
    let [service] = &loaded.snapshot.services[..] else {
        panic!("{:?}", loaded.snapshot.services)
    };
    assert_eq!(service.cluster_ips, addresses(&["10.96.0.1", "fd00::1"]));
    assert_eq!((&*service.ports[0].name, service.ports[0].port), ("http", 80));
    let [slice] = &loaded.snapshot.endpoint_slices[..] else {
        panic!("{:?}", loaded.snapshot.endpoint_slices)
    };
    assert_eq!(slice.ready, addresses(&["10.0.0.1", "10.0.0.3"]));
    assert_eq!(
        slice.ports.iter().map(|p| p.port).collect::<Vec<_>>(),
        [Some(8080), None]
    );
}

#[test]
fn files_of_every_name_and_shape_that_kubectl_takes_are_read_and_no_others() {
    let pod = |name: &str| {
        format!("{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}}}")
    };
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n",
        pod("c"),
        pod("d")
    );
    let typed = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: e}\n";
    let broken = b"kind: [".as_slice();
    let loaded = load_files(&[
        ("a.yml", pod("a").as_bytes()),
        ("sub/deep/b.json", format!("{}\n{}", pod("b"), pod("b2")).as_bytes()),
        ("list.yaml", list.as_bytes()),
        ("typed.yaml", typed.as_bytes()),
        ("bom.yaml", format!("\u{feff}{}", pod("f")).as_bytes()),
        ("others.yaml", b"kind: Deployment\napiVersion: apps/v1\n---\nkind: Deployment\napiVersion: apps/v1\n---\n# none\n---\nkind: NetworkPolicy\napiVersion: crd.projectcalico.org/v1\n"),
        ("empty.yaml", b""),
        (".hidden.yaml", broken),
        (".git/x.yaml", broken),
        ("a.yaml~", broken),
        (".a.yaml.swp", broken),
        ("4913", broken),
        ("README.md", broken),
    ]);
    assert_eq!(loaded.problems, []);
    let names: Vec<_> = loaded
        .snapshot
        .pods
        .iter()
        .map(|pod| pod.id.name.to_string())
        .collect();
    assert_eq!(names, ["a", "b", "b2", "c", "d", "e", "f"]);
    let skipped: Vec<_> = loaded
        .skipped
        .iter()
        .map(|(kind, count)| (kind.as_str(), *count))
        .collect();
    assert_eq!(
        skipped,
        [("Deployment", 2), ("NetworkPolicy.crd.projectcalico.org", 1)]
    );
}

#[test]
fn real_fields_that_are_not_read_are_no_problem() {
    let pod = pod(
        "spec:\n  serviceAccountName: x\n  tolerations: [{key: a, operator: Exists}]\n  containers:\n  - name: c\n    image: nginx\n    \
         resources: {limits: {cpu: 100m}}\n    livenessProbe: {httpGet: {path: /, port: http}}\n    volumeMounts: [{name: v, mountPath: /v}]\n  \
         volumes: [{name: v, emptyDir: {}}]\nstatus: {phase: Running, qosClass: Burstable, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}",
    );
    assert_eq!(pod.addresses, addresses(&["10.0.0.1"]));
}

#[test]
fn what_a_cluster_exports_is_read_without_a_problem() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/files");
    let loaded = files::load(&folder).unwrap();
    assert_eq!((loaded.problems, loaded.skipped.len()), (vec![], 0));
    let snapshot = loaded.snapshot;
    assert_eq!(snapshot.pods[0].addresses, addresses(&["10.0.0.7", "fd00::7"]));
    assert_eq!(snapshot.services[0].cluster_ips.len(), 2);
    assert_eq!(snapshot.endpoint_slices[0].ready, addresses(&["10.0.0.7"]));
    assert_eq!((snapshot.policies.len(), snapshot.namespaces.len()), (1, 1));
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_says_what_to_do() {
    let error = format!(
        "{:#}",
        files::load(Path::new("/nonexistent\u{1b}[31m")).unwrap_err()
    );
    assert!(
        error.contains("cannot read the folder") && error.contains("name one that exists"),
        "{error}"
    );
    assert!(!error.contains('\u{1b}'));
}

#[test]
fn what_is_no_file_never_blocks_and_what_is_too_large_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(
        at("good.yaml"),
        "{apiVersion: v1, kind: Pod, metadata: {name: good}}",
    )
    .unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe.yaml"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("device.yaml")).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", at("unreadable.yaml")).unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling.yaml")).unwrap();
    std::os::unix::fs::symlink("self.yaml", at("self.yaml")).unwrap();
    std::os::unix::fs::symlink(".", at("loop")).unwrap();
    std::os::unix::fs::symlink("..", at("up")).unwrap();
    fs::write(at("large.yaml"), vec![b'#'; 10 << 20]).unwrap();
    fs::write(at("odd\u{1b}[2J.yaml"), b"\xff").unwrap();
    let started = Instant::now();
    let loaded = files::load(folder.path()).unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(loaded.snapshot.pods.len(), 1);
    for (name, says) in [
        ("pipe.yaml", "is a named pipe, not a file"),
        ("socket.yaml", "is a socket, not a file"),
        ("device.yaml", "is a device, not a file"),
        ("unreadable.yaml", "cannot be read: Input/output error"),
        ("dangling.yaml", "cannot be read: No such file or directory"),
        ("self.yaml", "cannot be read: Too many levels of symbolic links"),
        (
            "large.yaml",
            "has 10485760 bytes, more than the 8388608 that are read",
        ),
        ("odd\\u{1b}[2J.yaml", "is not UTF-8 (line 1)"),
    ] {
        let found = loaded
            .problems
            .iter()
            .any(|problem| problem.object == name && problem.message == says);
        assert!(found, "{name}: {:#?}", loaded.problems);
    }
}

#[test]
fn a_large_file_of_many_objects_is_read_whole() {
    let text: String = (0..5000)
        .map(|n| format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}}}\n"))
        .collect();
    let loaded = load(&text);
    assert_eq!((loaded.snapshot.pods.len(), loaded.problems.len()), (5000, 0));
}

#[test]
fn what_is_made_to_be_slow_or_to_fill_memory_is_not() {
    let size = 1 << 19;
    let repeat = |text: &str| text.repeat(size / text.len());
    for (name, text) in [
        ("documents", repeat("- a\n---\n")),
        ("blank documents", repeat("---\n")),
        ("brackets", repeat("[")),
        ("braces", repeat("{")),
        ("dashes", repeat("- ")),
        ("question marks", repeat("? ")),
        ("colons", repeat("a: ")),
        ("quote", format!("a: \"{}", repeat("x"))),
        ("word", repeat("x")),
        ("spaces", repeat(" ")),
        (
            "anchors",
            (0..size / 16).map(|n| format!("k{n}: &a{n} x\n")).collect(),
        ),
        ("tags", repeat("!<x> ")),
        (
            "unknown fields",
            format!(
                "kind: Pod\nmetadata: {{name: a}}\n{}",
                (0..50_000).map(|n| format!("k{n}: 1\n")).collect::<String>()
            ),
        ),
        ("comments", repeat("#\n")),
    ] {
        let started = Instant::now();
        let loaded = load(&text);
        println!(
            "{name}: {:?}, {} problems",
            started.elapsed(),
            loaded.problems.len()
        );
        assert!(loaded.problems.len() <= 101, "{name}");
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{name}: {:?}",
            started.elapsed()
        );
    }
}

const SOUND: &str = "# shop\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  namespace: shop\n  labels: &l {app: web}\n\
  annotations: {palisade.dev/allowed-source-prefixes: 10.0.0.0/8}\nspec:\n  containers: [{name: c, ports: [{name: http, containerPort: 80}]}]\n\
status: {podIPs: [{ip: 10.0.0.1}]}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  \
podSelector: {matchLabels: {app: web}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from:\n    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}\n    \
ports: [{port: 80, endPort: 90}, {port: http}]\n  egress: [{to: [{namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}]}]\n---\n\
apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}\n";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_mutation_or_truncation_of_a_file_panics_or_lets_a_control_character_through(
        edits in prop::collection::vec((0..SOUND.len(), 0..3u8, any::<u8>()), 0..6),
        end in 0..=SOUND.len(),
        json in any::<bool>(),
    ) {
        let mut bytes = SOUND.as_bytes().to_vec();
        bytes.truncate(end);
        for (at, edit, byte) in edits {
            if at < bytes.len() {
                match edit {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
        }
        let loaded = load_files(&[(if json { "a.json" } else { "a.yaml" }, &bytes)]);
        for problem in &loaded.problems {
            prop_assert!(!problem.to_string().chars().any(char::is_control), "{problem:?}");
        }
    }
}

#[test]
fn a_policy_declared_twice_is_in_audit_only_if_all_its_versions_are() {
    let file = |annotations: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: p, namespace: shop, annotations: {annotations}}}\nspec: {{podSelector: {{}}}}"
        )
    };
    let [audit, enforce] =
        ["audit", "enforce"].map(|word| file(&format!("{{palisade.dev/enforcement: {word}}}")));
    let none = file("{}");
    for (one, two, expected) in [
        (&audit, &audit, Some(Enforcement::Audit)),
        (&audit, &enforce, Some(Enforcement::Enforce)),
        (&none, &enforce, Some(Enforcement::Enforce)),
        // As its namespace says, which one of them leaves it to.
        (&audit, &none, None),
    ] {
        for (one, two) in [(one, two), (two, one)] {
            let loaded = load_files(&[("a.yaml", one.as_bytes()), ("b.yaml", two.as_bytes())]);
            assert_eq!(loaded.snapshot.policies[0].enforcement, expected, "{one}\n{two}");
        }
    }
}

#[test]
fn an_enforcement_that_cannot_be_read_enforces_and_the_rest_of_its_object_counts() {
    let namespace = |word: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{team: a}}, annotations: {{palisade.dev/enforcement: {word}}}}}"
        )
    };
    let loaded = load(&namespace("audit"));
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.snapshot.namespaces[0].enforcement, Enforcement::Audit);
    let loaded = load(&namespace("[audit]"));
    assert_eq!(loaded.snapshot.namespaces[0].enforcement, Enforcement::Enforce);
    assert!(loaded.snapshot.namespaces[0].labels.contains_key("team"));
    assert!(
        loaded.problems[0].field.contains("palisade.dev/enforcement"),
        "{:?}",
        loaded.problems
    );
}
