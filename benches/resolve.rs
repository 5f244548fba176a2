//! How long a large cluster takes to resolve from scratch, what memory that needs, and what one pod's
//! change costs.
//!
//! The cluster: 1,000 namespaces of 100 pods and 10 policies each, of which 6 have peers in their own
//! namespace, 2 reach 500 pods in 20 namespaces, 1 has an ipBlock with `except` and 1 denies everything;
//! and 20 policies whose peer is every pod. One thread. Writes `target/bench.resolve.json`.
//!
//! - `full_s`: median over 3 loads, each into an empty index: every object applied, every policy's slices
//!   made. `full_cpu_s` is the processor time of the same: what it takes where nothing else runs.
//! - `rss_mb`: VmHWM after the first load, in MB of 10^6 bytes: the whole process, with the objects that
//!   were loaded and the slices that came out.
//! - `one_pod_ms`: median over label changes, deletions and creations of pods, each with the new slices of
//!   every policy touched, while the slices of before are still held by whoever publishes them.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use palisade::model::{
    Change, Cidr, ContainerPort, Enforcement, Labels, Namespace, ObjectId, Operator, Peer, Pod, Policy,
    PortMatch, Protocol, Requirement, Rule, Selector,
};
use palisade::resolve::{Index, Resolution};

const NAMESPACES: usize = 1000;
const PODS: usize = 100;
const TEAM: usize = 20;
const APPS: usize = 4;
const CHANGES: usize = 600;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut index, mut resolution, first) = load();
    let mut loads = vec![first];
    let rss_mb = peak_memory()? as f64 / 1e6;
    let (policies, slices, entries) = size(&resolution);
    let mut one_pod = churn(&mut index, &mut resolution);
    drop((index, resolution));
    for _ in 0..2 {
        loads.push(load().2);
    }
    let full_s = median(loads.iter().map(|took| took.wall)).as_secs_f64();
    let full_cpu_s = median(loads.iter().map(|took| took.cpu)).as_secs_f64();
    let p99_ms = {
        one_pod.sort_unstable();
        one_pod[one_pod.len() * 99 / 100].as_secs_f64() * 1e3
    };
    let one_pod_ms = median(one_pod.iter().copied()).as_secs_f64() * 1e3;

    println!(
        "resolve: {} pods, {policies} policies, {entries} entries in {slices} slices",
        NAMESPACES * PODS
    );
    println!("  from scratch       {full_s:8.2} s   (target 3), {full_cpu_s:.2} s of processor time");
    println!("  peak memory        {rss_mb:8.0} MB  (target 1500)");
    println!("  one pod, median    {one_pod_ms:8.3} ms  (target 1)");
    println!("  one pod, p99       {p99_ms:8.3} ms");
    let json = serde_json::json!({"resolve": {
        "full_s": full_s, "full_cpu_s": full_cpu_s, "rss_mb": rss_mb, "one_pod_ms": one_pod_ms, "one_pod_p99_ms": p99_ms,
        "policies": policies, "slices": slices, "entries": entries,
    }});
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    std::fs::create_dir_all(&target)?;
    std::fs::write(target.join("bench.resolve.json"), format!("{json:#}\n"))?;
    Ok(())
}

struct Took {
    wall: Duration,
    cpu: Duration,
}

/// Processor time of this process.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn load() -> (Index, Resolution, Took) {
    let objects = cluster();
    let mut index = Index::new();
    let (start, start_cpu) = (Instant::now(), cpu());
    for object in objects {
        index.apply(object);
    }
    let resolution = index.resolution();
    let took = Took {
        wall: start.elapsed(),
        cpu: cpu() - start_cpu,
    };
    (index, resolution, took)
}

fn size(resolution: &Resolution) -> (usize, usize, usize) {
    let slices = || resolution.endpoints.values().flatten();
    let entries = slices()
        .map(|slice| slice.spec.ingress.len() + slice.spec.egress.len())
        .sum();
    (resolution.endpoints.len(), slices().count(), entries)
}

/// Pods spread over the cluster change their app, go, and come back.
fn churn(index: &mut Index, resolution: &mut Resolution) -> Vec<Duration> {
    let mut times = Vec::new();
    for n in 0..CHANGES {
        let pod = n / 3 * 7919 % (NAMESPACES * PODS);
        let (namespace, number) = (pod / PODS, pod % PODS);
        let change = match n % 3 {
            0 => Change::Pod(mk_pod(namespace, number, number + 1)),
            1 => {
                let Pod { id, uid, .. } = mk_pod(namespace, number, number);
                Change::PodGone { id, uid }
            }
            _ => Change::Pod(mk_pod(namespace, number, number)),
        };
        let start = Instant::now();
        let touched = index.apply(change);
        let slices: Vec<_> = touched.iter().map(|uid| index.endpoints(uid)).collect();
        times.push(start.elapsed());
        assert!(
            touched.len() >= 20,
            "the policies whose peer is every pod are touched at least"
        );
        for (uid, slices) in touched.into_iter().zip(slices) {
            match slices {
                Some(slices) => resolution.endpoints.insert(uid, slices),
                None => resolution.endpoints.remove(&uid),
            };
        }
    }
    times
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Bytes.
fn peak_memory() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

fn cluster() -> Vec<Change> {
    let mut objects = Vec::new();
    for n in 0..NAMESPACES {
        let name = namespace_name(n);
        objects.push(Change::Namespace(Namespace {
            labels: mk_labels([("kubernetes.io/metadata.name", &*name), ("team", &team(n))]),
            name,
            enforcement: Enforcement::Enforce,
        }));
    }
    for n in 0..NAMESPACES {
        objects.extend((0..PODS).map(|number| Change::Pod(mk_pod(n, number, number))));
    }
    for n in 0..NAMESPACES {
        objects.extend(policies(n).map(Change::Policy));
    }
    for n in 0..20 {
        let everyone = Peer::Pods {
            namespaces: Some(Selector::everything()),
            pods: None,
        };
        objects.push(Change::Policy(mk_policy(
            n,
            "everyone".into(),
            n % APPS,
            vec![everyone],
            443,
        )));
    }
    objects
}

fn policies(n: usize) -> impl Iterator<Item = Policy> {
    let neighbours = (0..6).map(move |i| {
        let peer = Peer::Pods {
            namespaces: None,
            pods: Some(is("app", &app(i + 1))),
        };
        mk_policy(
            n,
            format!("neighbours-{i}"),
            i % APPS,
            vec![peer],
            8000 + i as u16,
        )
    });
    let team_mates = (0..2).map(move |i| {
        let namespaces = Some(is("team", &team(n + TEAM * i)));
        let peer = Peer::Pods {
            namespaces,
            pods: Some(is("app", &app(n + i))),
        };
        mk_policy(n, format!("team-{i}"), i, vec![peer], 9000 + i as u16)
    });
    let outside = Peer::Block {
        cidr: Cidr::new(IpAddr::from([192, 168, 0, 0]), 16).expect("a block"),
        except: vec![Cidr::new(IpAddr::from([192, 168, (n % 256) as u8, 0]), 24).expect("a block")],
    };
    let outside = mk_policy(n, "outside".into(), 3, vec![outside], 443);
    let mut deny = mk_policy(n, "deny".into(), 0, Vec::new(), 0);
    deny.pod_selector = Selector::everything();
    deny.ingress = Some(Vec::new());
    deny.egress = Some(Vec::new());
    neighbours.chain(team_mates).chain([outside, deny])
}

fn mk_policy(namespace: usize, name: String, subject: usize, peers: Vec<Peer>, port: u16) -> Policy {
    let namespace = namespace_name(namespace);
    Policy {
        uid: format!("policy-{namespace}-{name}").into(),
        id: ObjectId {
            namespace,
            name: name.into(),
        },
        pod_selector: is("app", &app(subject)),
        ingress: Some(vec![Rule {
            index: 0,
            peers: Some(peers),
            ports: Some(vec![PortMatch::Range {
                protocol: Protocol::Tcp,
                first: port,
                last: port,
            }]),
        }]),
        egress: None,
        enforcement: None,
    }
}

fn mk_pod(namespace: usize, number: usize, of_app: usize) -> Pod {
    let index = namespace * PODS + number;
    let namespace = namespace_name(namespace);
    let name: Arc<str> = format!("pod-{number}").into();
    let node = index % 1000;
    Pod {
        uid: format!("pod-{index}").into(),
        labels: mk_labels([
            ("app", &app(of_app)),
            ("pod-template-hash", "5d8f6b9c7d"),
            ("statefulset.kubernetes.io/pod-name", &*name),
        ]),
        id: ObjectId { namespace, name },
        node: Some(format!("node-{node}").into()),
        host_ip: Some(IpAddr::from([172, 16, (node >> 8) as u8, node as u8])),
        addresses: vec![IpAddr::from([
            10,
            (index >> 16) as u8,
            (index >> 8) as u8,
            index as u8,
        ])],
        ports: Arc::from([ContainerPort {
            name: Some("http".into()),
            protocol: Protocol::Tcp,
            number: 8080,
        }]),
        host_network: false,
        finished: false,
        created: Some(index as i64),
        source_prefixes: Vec::new(),
        log_allowed: false,
    }
}

fn namespace_name(n: usize) -> Arc<str> {
    format!("namespace-{n}").into()
}

fn team(n: usize) -> String {
    format!("team-{}", n / TEAM % (NAMESPACES / TEAM))
}

fn app(n: usize) -> String {
    format!("app-{}", n % APPS)
}

fn mk_labels<const N: usize>(labels: [(&str, &str); N]) -> Arc<Labels> {
    let labels: BTreeMap<_, _> = labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
    Arc::new(labels)
}

fn is(key: &str, value: &str) -> Selector {
    Selector::new([Requirement {
        key: key.into(),
        operator: Operator::In(Arc::from([value.into()])),
    }])
}
