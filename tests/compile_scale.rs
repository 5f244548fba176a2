//! Ten thousand peers and more on a node of a hundred pods: how many writes a change takes. Times are printed, not judged
//! (`--nocapture`): they are those of the machine and the build.

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
