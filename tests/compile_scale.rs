//! Ten thousand peers and more on a node of a hundred pods: how many writes a change takes. Times are printed, not judged
//! (`--nocapture`): they are those of the machine and the build.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use palisade::api::{Entry, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, Port};
use palisade::compile::{Compiled, Endpoints, Image, Op, compile, diff, eval};
use palisade::model::{Cidr, Direction, ObjectId, Pod};

const SLICE: usize = 200;

fn peer(index: usize) -> IpAddr {
    Ipv4Addr::from(0x0a10_0000 + u32::try_from(index).unwrap()).into()
}

fn tcp(port: u16) -> Arc<[Port]> {
    [Port {
        port: Some(port),
        ..Port::default()
    }]
    .into()
}

fn object(policy: &str, app: &str, ingress: Vec<Entry>) -> Arc<PolicyEndpoint> {
    let spec = PolicyEndpointSpec {
        policy_ref: PolicyRef {
            name: policy.into(),
            namespace: "shop".into(),
        },
        pod_selector: Some(LabelSelector {
            match_labels: Some([("app".to_string(), app.to_string())].into()),
            match_expressions: None,
        }),
        pod_isolation: vec![Direction::Ingress],
        ingress,
        ..PolicyEndpointSpec::default()
    };
    let mut object = PolicyEndpoint::new(policy, spec);
    object.metadata.namespace = Some("shop".to_string());
    Arc::new(object)
}

/// One policy whose only rule allows all peers on two ports, in slices.
fn wide(peers: usize) -> Vec<Arc<PolicyEndpoint>> {
    let entries: Vec<Entry> = (0..peers)
        .map(|index| entry(Cidr::single(peer(index)), 0, tcp(8080)))
        .collect();
    entries
        .chunks(SLICE)
        .map(|slice| object("wide", "web", slice.to_vec()))
        .collect()
}

fn entry(cidr: Cidr, rule: u32, ports: Arc<[Port]>) -> Entry {
    Entry {
        cidr,
        except: Arc::default(),
        ports,
        rule: Some(rule),
    }
}

/// A hundred pods in two kinds, and ten more policies with ten blocks each.
fn node(peers: usize) -> (Endpoints, Vec<Pod>) {
    let mut endpoints = Endpoints::new();
    endpoints.insert("wide".into(), wide(peers));
    for policy in 0..10u8 {
        let blocks = (0..10u8).map(|block| {
            let address = Ipv4Addr::new(10, 16 + policy, block * 4, 0).into();
            entry(
                Cidr::new(address, 22).unwrap(),
                block.into(),
                tcp(9000 + u16::from(block)),
            )
        });
        let name = format!("blocks-{policy}");
        let app = if policy % 2 == 0 { "web" } else { "api" };
        endpoints.insert(name.as_str().into(), vec![object(&name, app, blocks.collect())]);
    }
    let pods = (0..100u8).map(|index| Pod {
        id: ObjectId::new("shop", &format!("pod-{index}")),
        uid: format!("uid-{index}").into(),
        labels: Arc::new([("app".into(), if index % 2 == 0 { "web" } else { "api" }.into())].into()),
        node: None,
        host_ip: None,
        addresses: vec![Ipv4Addr::new(10, 99, 0, index).into()],
        ports: Arc::default(),
        host_network: false,
        finished: false,
        created: None,
        source_prefixes: Vec::new(),
        log_allowed: false,
    });
    (endpoints, pods.collect())
}

fn timed<T>(what: &str, mut run: impl FnMut() -> T) -> T {
    let mut best = f64::MAX;
    let mut result = None;
    for _ in 0..7 {
        let start = Instant::now();
        result = Some(run());
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what}: {:.2} ms", best * 1e3);
    result.unwrap()
}

fn compiled(endpoints: &Endpoints, pods: &[Pod]) -> Compiled {
    compile(endpoints, &pods.iter().collect::<Vec<_>>())
}

fn change(peers: usize) {
    let (endpoints, pods) = node(peers);
    let Compiled { image, problems } =
        timed(&format!("compile {peers} peers"), || compiled(&endpoints, &pods));
    assert!(problems.is_empty());
    assert_eq!(image.addresses.len(), peers);
    let first = timed(&format!("diff of nothing and {peers} peers"), || {
        diff(&Image::default(), &image)
    });
    assert!(first.len() > peers);

    let mut more = endpoints.clone();
    let slices = more.get_mut("wide").unwrap();
    slices.push(object(
        "wide",
        "web",
        vec![entry(Cidr::single(peer(peers)), 0, tcp(8080))],
    ));
    let grown = timed("compile with one peer more", || compiled(&more, &pods)).image;
    let ops = timed("diff", || diff(&image, &grown));
    let class = grown.class_of(peer(peers));
    assert_eq!(ops, [Op::SetAddress(peer(peers), class)]);
    assert_eq!(
        diff(&grown, &image),
        [Op::RemoveAddress(peer(peers)), Op::BumpEpoch]
    );

    let mut other_port = more.clone();
    for slice in other_port.get_mut("wide").unwrap() {
        let mut edited = PolicyEndpoint::clone(slice);
        for entry in &mut edited.spec.ingress {
            entry.ports = tcp(8081);
        }
        *slice = Arc::new(edited);
    }
    let edited = timed("compile with another port", || compiled(&other_port, &pods)).image;
    let ops = timed("diff", || diff(&grown, &edited));
    let count = |test: fn(&Op) -> bool| ops.iter().filter(|op| test(op)).count();
    assert_eq!(
        count(|op| matches!(op, Op::SetAddress(..) | Op::SetNetwork(..))),
        0
    );
    assert_eq!(count(|op| matches!(op, Op::SetPod(..))), 50);
    let allowed = |image, port| {
        eval(image, "uid-0", Direction::Ingress, peer(7), 6, port)
            .unwrap()
            .allowed
    };
    assert!(allowed(&grown, 8080) && !allowed(&edited, 8080) && allowed(&edited, 8081));

    let mut rule = more.clone();
    let slices = rule.get_mut("wide").unwrap();
    slices.extend((0..peers / SLICE).map(|slice| {
        let peers =
            (slice * SLICE..slice * SLICE + SLICE / 2).map(|p| entry(Cidr::single(peer(p)), 1, tcp(1)));
        object("wide", "web", peers.collect())
    }));
    let added = timed("compile with a second rule for half of the peers", || {
        compiled(&rule, &pods)
    })
    .image;
    let ops = timed("diff", || diff(&grown, &added));
    let set = ops.iter().filter(|op| matches!(op, Op::SetAddress(..))).count();
    assert_eq!(set, peers / 2, "one write for each address whose class changes");
    let ops = timed("diff back", || diff(&added, &grown));
    let set = ops.iter().filter(|op| matches!(op, Op::SetAddress(..))).count();
    assert_eq!(set, peers / 2, "one write for each address whose class changes");
}

#[test]
fn s29_ten_thousand_peers_one_more_is_one_write() {
    change(10_000);
}

#[test]
fn s29_fifty_thousand_peers_one_more_is_one_write() {
    change(50_000);
}

#[test]
fn s29_ten_thousand_rules_are_all_there() {
    let (mut endpoints, pods) = node(200);
    let rules = |count: usize| -> Vec<Entry> {
        (0..count)
            .map(|rule| {
                entry(
                    Cidr::single(peer(rule)),
                    u32::try_from(rule).unwrap(),
                    tcp(1 + rule as u16),
                )
            })
            .collect()
    };
    let slices = |entries: Vec<Entry>| {
        entries
            .chunks(SLICE)
            .map(|e| object("rules", "web", e.to_vec()))
            .collect()
    };
    endpoints.insert("rules".into(), slices(rules(10_000)));
    let image = timed("compile 10000 rules", || compiled(&endpoints, &pods)).image;
    for rule in [0, 1, 4_999, 9_999] {
        let allowed = |port| {
            eval(&image, "uid-0", Direction::Ingress, peer(rule), 6, port)
                .unwrap()
                .allowed
        };
        let port = 1 + rule as u16;
        assert!(allowed(port) && !allowed(port + 1), "rule {rule}");
    }
    endpoints.insert("rules".into(), slices(rules(9_999)));
    let fewer = timed("compile one rule less", || compiled(&endpoints, &pods)).image;
    let ops = timed("diff", || diff(&image, &fewer));
    let count = |test: fn(&Op) -> bool| ops.iter().filter(|op| test(op)).count();
    assert_eq!(count(|op| matches!(op, Op::SetPod(..))), 50);
    assert_eq!(count(|op| matches!(op, Op::RemoveAddress(..))), 1);
    assert_eq!(count(|op| matches!(op, Op::SetAddress(..))), 0);
}

#[test]
fn s29_a_hundred_pods_with_a_policy_each_and_a_thousand_classes_of_peers() {
    let (mut endpoints, mut pods) = node(0);
    for (index, pod) in pods.iter_mut().enumerate() {
        let app = format!("app-{index}");
        pod.labels = Arc::new([("app".into(), app.as_str().into())].into());
        // Each policy allows every tenth peer, or so: peers differ in who lets them in.
        let peers = (0..1_000).filter(|peer| ((peer + 1) * (index + 1) * 7_919) % 1_009 < 100);
        let entries = peers.map(|p| entry(Cidr::single(peer(p)), 0, tcp(80))).collect();
        endpoints.insert(app.as_str().into(), vec![object(&app, &app, entries)]);
    }
    let image = timed("compile 100 rule sets, 1000 classes", || {
        compiled(&endpoints, &pods)
    })
    .image;
    let meet: BTreeSet<_> = endpoints
        .iter()
        .filter(|(name, _)| name.starts_with("app"))
        .flat_map(|(name, objects)| {
            objects[0]
                .spec
                .ingress
                .iter()
                .map(move |e| (name, e.cidr.net().addr()))
        })
        .map(|(name, peer)| (name, image.class_of(peer)))
        .collect();
    assert_eq!(
        image.rows.len(),
        meet.len(),
        "a row for each pair that meets, and no other"
    );
    let mut more = endpoints.clone();
    more.insert(
        "other".into(),
        vec![object(
            "other",
            "app-7",
            vec![entry(Cidr::single(peer(5)), 0, tcp(81))],
        )],
    );
    let grown = timed("compile with one policy more", || compiled(&more, &pods)).image;
    let ops = timed("diff", || diff(&image, &grown));
    let count = |test: fn(&Op) -> bool| ops.iter().filter(|op| test(op)).count();
    assert_eq!(count(|op| matches!(op, Op::SetPod(..))), 1);
    assert_eq!(count(|op| matches!(op, Op::SetAddress(..))), 1);
}
