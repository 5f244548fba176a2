//! What `palisade explain` says, against whoever else knows: on random clusters and packets, the verdict is that of the oracle, of
//! `eval` and of the kernel; the rule that it names decides, or is said not to be the only one; and with what the nearest rule lacks, that
//! rule allows.
//!
//! `PALISADE_SEED` repeats a run, `PALISADE_PACKETS` sets its length.

#[path = "packets/frame.rs"]
mod frame;
mod kernel_judge;
mod kernel_support;
mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kernel_judge::KernelJudge;
use oracle::{Judge, Oracle, Prober, Question, Rng, random_cluster, show};
use palisade::args::Packet;
use palisade::cli::{
    Because, Cluster, Deciding, Explanation, Missing, NamedRule, Nearest, Target, Traffic, Verdict, Whose,
};
use palisade::compile::{self, eval};
use palisade::model::{ContainerPort, Direction, Labels, ObjectId, Pod, Protocol, Snapshot};

/// Asked of one cluster before the next is drawn.
const PACKETS: usize = 30;

fn knob(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.replace('_', "")
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

fn cluster(snapshot: &Snapshot) -> Cluster {
    Cluster::new(snapshot.clone(), Vec::new(), BTreeMap::new())
}

/// Whether the answer hangs on which of two pods with one address is meant by "itself".
fn disputed(snapshot: &Snapshot, pod: &Pod) -> bool {
    let oracle = Oracle::new(snapshot);
    let lost = |a: &IpAddr| oracle.owner(*a).is_some_and(|owner| owner.uid != pod.uid);
    pod.addresses.iter().any(lost)
}

fn traffic(q: &Question) -> Traffic {
    match (
        Protocol::ALL.into_iter().find(|p| p.number() == q.protocol),
        q.protocol,
    ) {
        (Some(protocol), _) => Traffic::Port(protocol, q.port),
        (None, 1) if q.peer.is_ipv4() => Traffic::Icmp,
        (None, 58) if !q.peer.is_ipv4() => Traffic::Icmp,
        (None, other) => Traffic::Other(other),
    }
}

/// The side of the pod that is asked about; `None`: it has no address of the family.
fn explained(cluster: &Cluster, pod: &Pod, q: &Question) -> Option<Deciding> {
    let own = pod.addresses.iter().find(|a| a.is_ipv4() == q.peer.is_ipv4())?;
    let (subject, peer) = (Target::Pod(pod.id.clone()), Target::Address(q.peer));
    let (from, to) = match q.direction {
        Direction::Egress => (subject, peer),
        Direction::Ingress => (peer, subject),
    };
    let explanation = Explanation::of(
        cluster,
        &Packet {
            source: from,
            destination: to,
            traffic: traffic(q),
        },
    )
    .expect("the pod is there");
    let flow = explanation.flows.into_iter().find(|flow| match q.direction {
        Direction::Egress => flow.source == *own,
        Direction::Ingress => flow.destination == *own,
    });
    let flow = flow.expect("a flow for each pair of addresses");
    Some(match q.direction {
        Direction::Egress => flow.egress,
        Direction::Ingress => flow.ingress,
    })
}

fn allowed(cluster: &Cluster, q: &Question) -> bool {
    let decision = eval(
        &cluster.image,
        &q.pod_uid,
        q.direction,
        q.peer,
        q.protocol,
        q.port,
    );
    decision.expect("every live pod is in the image").allowed
}

/// Not only because what would deny it is in audit.
fn outright(cluster: &Cluster, q: &Question) -> bool {
    let decision = eval(
        &cluster.image,
        &q.pod_uid,
        q.direction,
        q.peer,
        q.protocol,
        q.port,
    );
    decision.is_some_and(|decision| decision.allowed && !decision.audited)
}

fn without(snapshot: &Snapshot, direction: Direction, rules: &[&NamedRule]) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for policy in &mut snapshot.policies {
        let id = policy.id.to_string();
        let list = match direction {
            Direction::Ingress => &mut policy.ingress,
            Direction::Egress => &mut policy.egress,
        };
        let named = |index: u32| {
            let path = format!("spec.{direction}[{index}]");
            rules.iter().any(|rule| rule.policy == id && rule.rule == path)
        };
        list.iter_mut()
            .for_each(|list| list.retain(|rule| !named(rule.index)));
    }
    snapshot
}

fn allowing(snapshot: &Snapshot, q: &Question, in_audit: bool) -> BTreeSet<NamedRule> {
    let pod = snapshot
        .pods
        .iter()
        .find(|pod| pod.uid == q.pod_uid)
        .expect("the pod");
    let oracle = Oracle::new(snapshot);
    let rules = oracle.allowing_rules(pod, q.direction, q.peer, q.protocol, q.port);
    rules
        .filter(|(policy, _)| oracle.in_audit(policy) == in_audit)
        .map(|(policy, rule)| NamedRule {
            policy: policy.id.to_string(),
            rule: format!("spec.{}[{}]", q.direction, rule.index),
        })
        .collect()
}

/// The cluster, and the question, with all that was missing.
fn with(rng: &mut Rng, snapshot: &Snapshot, q: &Question, missing: &[Missing]) -> (Snapshot, Question) {
    let (mut snapshot, mut q) = (snapshot.clone(), q.clone());
    let asked = q.clone();
    let new = |address: &IpAddr| ObjectId::new("", &format!("pod-missing-at-{address}"));
    let missing_pods = missing.iter().filter_map(|one| match one {
        Missing::Pod { address } => Some(address),
        _ => None,
    });
    for address in missing_pods {
        snapshot.pods.push(Pod {
            id: new(address),
            uid: format!("uid-missing-at-{address}").into(),
            labels: Arc::default(),
            node: None,
            host_ip: None,
            addresses: vec![*address],
            ports: [].into(),
            host_network: false,
            finished: false,
            created: None,
            source_prefixes: Vec::new(),
            log_allowed: false,
        });
    }
    let of = |whose: &Whose| match whose {
        Whose::Pod(id) => id.clone(),
        Whose::PodAt(address) => new(address),
        Whose::Namespace(name) => panic!("namespace {name} is no pod"),
    };
    let mut moves = Vec::new();
    for one in missing {
        match one {
            Missing::Port { has, wanted } => {
                assert_eq!(*has, traffic(&asked));
                let edges: Vec<(u8, u16)> = wanted.edges().collect();
                (q.protocol, q.port) = *rng.pick(&edges);
            }
            Missing::TargetPort { service, wanted } => {
                let edges: Vec<(u8, u16)> = wanted.edges().collect();
                let (protocol, number) = *rng.pick(&edges);
                assert_eq!(protocol, asked.protocol);
                let service = snapshot
                    .services
                    .iter()
                    .find(|known| known.id.to_string() == *service);
                let service = service.expect("the Service");
                let is_asked = |p: &&palisade::model::ServicePort| {
                    p.protocol.number() == protocol && p.port == asked.port
                };
                let port = service.ports.iter().find(is_asked).expect("the Service's port");
                for slice in &mut snapshot.endpoint_slices {
                    if slice.id.namespace == service.id.namespace && slice.service == service.id.name {
                        let targets = slice.ports.iter_mut();
                        targets
                            .filter(|target| target.name == port.name && target.protocol == port.protocol)
                            .for_each(|target| target.port = Some(number));
                    }
                }
            }
            Missing::ContainerPort {
                pod,
                name,
                protocol,
                number,
            } => {
                let pod = snapshot
                    .pods
                    .iter_mut()
                    .find(|known| known.id == *pod)
                    .expect("the pod");
                let more = ContainerPort {
                    name: Some(name.clone()),
                    protocol: *protocol,
                    number: *number,
                };
                pod.ports = pod.ports.iter().cloned().chain([more]).collect();
            }
            Missing::Label {
                of: whose,
                key,
                has,
                set,
                ..
            } => {
                let labels = match whose {
                    Whose::Namespace(name) => {
                        let found = snapshot.namespaces.iter_mut().find(|known| known.name == *name);
                        &mut found.expect("the namespace").labels
                    }
                    whose => {
                        let id = of(whose);
                        let found = snapshot.pods.iter_mut().find(|known| known.id == id);
                        &mut found.expect("the pod").labels
                    }
                };
                let labels: &mut Labels = Arc::make_mut(labels);
                assert_eq!(labels.get(key), has.as_ref());
                match set {
                    Some(value) => drop(labels.insert(key.clone(), value.clone())),
                    None => drop(labels.remove(key)),
                }
            }
            // Labels name the pod as it is, so that it moves last.
            Missing::Namespace { of: whose, wanted } => moves.push((of(whose), rng.pick(wanted).clone())),
            Missing::Pod { .. } => {}
            Missing::Address {
                address,
                block,
                except,
                such,
            } => {
                assert_eq!(*address, asked.peer);
                assert!(block.contains(*such) && !except.iter().any(|except| except.contains(*such)));
                q.peer = *such;
            }
        }
    }
    for (id, namespace) in moves {
        let pod = snapshot
            .pods
            .iter_mut()
            .find(|known| known.id == id)
            .expect("the pod");
        pod.id.namespace = namespace;
    }
    (snapshot, q)
}

#[derive(Default)]
struct Tally {
    packets: u64,
    kernel: u64,
    open: u64,
    alone: u64,
    with_others: u64,
    denied: u64,
    without_rules: u64,
    nearest: BTreeMap<usize, u64>,
    nothing_near: u64,
}

/// What is wrong with the answer.
fn wrong(
    rng: &mut Rng,
    tally: &mut Tally,
    snapshot: &Snapshot,
    cluster: &Cluster,
    q: &Question,
) -> Result<(), String> {
    let oracle = Oracle::new(snapshot);
    let pod = snapshot
        .pods
        .iter()
        .find(|pod| pod.uid == q.pod_uid)
        .expect("the pod");
    let Some(Deciding { verdict, because, .. }) = explained(cluster, pod, q) else {
        return Ok(());
    };
    tally.packets += 1;
    let expected = oracle.verdict(&q.pod_uid, q.direction, q.peer, q.protocol, q.port);
    let of_oracle = match verdict {
        Verdict::Allow => oracle::Verdict::Allowed,
        Verdict::Audit => oracle::Verdict::Audited,
        Verdict::Deny => oracle::Verdict::Denied,
    };
    if Some(of_oracle) != expected || (verdict != Verdict::Deny) != allowed(cluster, q) {
        return Err(format!("the verdict is {verdict:?}, wanted is {expected:?}"));
    }
    // Beside what is enforced, what is in audit does not count.
    let of = |in_audit: bool| -> BTreeSet<String> {
        let policies = oracle.isolating(pod, q.direction);
        let counts = policies.filter(|policy| oracle.in_audit(policy) == in_audit);
        counts.map(|policy| policy.id.to_string()).collect()
    };
    let enforced = of(false);
    let in_audit = enforced.is_empty();
    let isolating = if in_audit { of(true) } else { enforced };
    match &because {
        Because::NotSubject { .. } | Because::Service { .. } => Err(format!("it is a pod: {because:?}")),
        Because::Open if verdict == Verdict::Allow && isolating.is_empty() => {
            tally.open += 1;
            Ok(())
        }
        Because::Open => Err(format!("it is isolated by {isolating:?}")),
        Because::Itself => match oracle.is_itself(pod, q.direction, q.peer, q.protocol, q.port) {
            true => Ok(()),
            false => Err("it is not itself".to_string()),
        },
        Because::Rule {
            by,
            others,
            isolated_by,
        } => {
            let all: BTreeSet<NamedRule> = others.iter().chain([by]).cloned().collect();
            let rules = allowing(snapshot, q, in_audit);
            if all != rules {
                return Err(format!("named are {all:?}, but these allow: {rules:?}"));
            }
            if !isolated_by.iter().eq(&isolating) {
                return Err(format!("it is isolated by {isolating:?}, not {isolated_by:?}"));
            }
            let without_it = cluster_without(snapshot, q, &[by]);
            let without_all = cluster_without(snapshot, q, &all.iter().collect::<Vec<_>>());
            let itself = oracle.is_itself(pod, q.direction, q.peer, q.protocol, q.port);
            match others.is_empty() {
                true => tally.alone += 1,
                false => tally.with_others += 1,
            }
            match (
                without_it == (!others.is_empty() || itself),
                without_all == itself,
            ) {
                (true, true) => Ok(()),
                _ => Err(format!(
                    "{by:?} with {others:?}: without it {without_it}, without all {without_all}"
                )),
            }
        }
        Because::Isolated { policies, nearest } | Because::Audited { policies, nearest } => {
            let is_audit = matches!(because, Because::Audited { .. });
            if is_audit != in_audit || is_audit != (verdict == Verdict::Audit) {
                return Err(format!("in audit: {in_audit}, but {because:?}"));
            }
            tally.denied += 1;
            let named: BTreeSet<String> = policies.iter().map(|policy| policy.policy.clone()).collect();
            if named != isolating {
                return Err(format!("it is isolated by {isolating:?}, not {named:?}"));
            }
            if let Some(nearest) = nearest {
                *tally.nearest.entry(nearest.missing.len()).or_default() += 1;
                return near(rng, snapshot, q, in_audit, nearest);
            }
            match policies.iter().any(|policy| !policy.rules.is_empty()) {
                true => tally.nothing_near += 1,
                false => tally.without_rules += 1,
            }
            Ok(())
        }
    }
}

fn cluster_without(snapshot: &Snapshot, q: &Question, rules: &[&NamedRule]) -> bool {
    outright(&cluster(&without(snapshot, q.direction, rules)), q)
}

fn near(
    rng: &mut Rng,
    snapshot: &Snapshot,
    q: &Question,
    in_audit: bool,
    nearest: &Nearest,
) -> Result<(), String> {
    let (changed, asked) = with(rng, snapshot, q, &nearest.missing);
    let by = NamedRule {
        policy: nearest.policy.clone(),
        rule: nearest.rule.clone(),
    };
    if !allowing(&changed, &asked, in_audit).contains(&by) || !outright(&cluster(&changed), &asked) {
        return Err(format!(
            "{nearest:#?}\ndoes not allow {asked} with that, of\n{}",
            show(&changed)
        ));
    }
    // If more than one thing is missing, no port alone will do; a ClusterIP's ports stand for others.
    let is_service = snapshot
        .services
        .iter()
        .any(|service| service.cluster_ips.contains(&q.peer));
    if nearest.missing.len() > 1 && !is_service {
        let cluster = cluster(snapshot);
        for protocol in Protocol::ALL {
            for port in [1, 53, 79, 80, 81, 443, 8080, 8081, 65534, 65535] {
                let other = Question {
                    protocol: protocol.number(),
                    port,
                    ..q.clone()
                };
                if outright(&cluster, &other) {
                    return Err(format!("{nearest:#?}\nbut {protocol} {port} is allowed"));
                }
            }
        }
    }
    Ok(())
}

fn run(mut kernel: Option<KernelJudge>, wanted: u64) {
    let seed = knob("PALISADE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970");
        now.as_nanos() as u64
    });
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    while tally.packets < wanted {
        let snapshot = random_cluster(&mut rng);
        let cluster = cluster(&snapshot);
        if let Some(kernel) = &mut kernel {
            kernel.load(&cluster.image);
        }
        let prober = Prober::new(&snapshot);
        for _ in 0..PACKETS {
            let Some(q) = prober.question(&mut rng) else {
                break;
            };
            let pod = snapshot
                .pods
                .iter()
                .find(|pod| pod.uid == q.pod_uid)
                .expect("the pod");
            if disputed(&snapshot, pod) {
                continue;
            }
            let told = wrong(&mut rng, &mut tally, &snapshot, &cluster, &q).err();
            let judged = kernel
                .as_mut()
                .and_then(|kernel| kernel.verdict(&q.pod_uid, q.direction, q.peer, q.protocol, q.port));
            tally.kernel += u64::from(judged.is_some());
            let contradicted = judged.is_some_and(|judged| judged.passes() != allowed(&cluster, &q));
            let maps = kernel
                .as_ref()
                .filter(|_| !pod.addresses.contains(&q.peer))
                .and_then(|kernel| kernel.maps_say(&q));
            let contradicted = contradicted || maps.is_some_and(|maps| maps != allowed(&cluster, &q));
            if told.is_some() || contradicted {
                let told = told.unwrap_or_else(|| format!("the kernel says {judged:?}, its maps {maps:?}"));
                panic!("PALISADE_SEED={seed}: {q}\n{told}\n{}", show(&snapshot));
            }
        }
    }
    let Tally {
        packets,
        kernel,
        open,
        alone,
        with_others,
        denied,
        without_rules,
        nearest,
        nothing_near,
    } = &tally;
    println!(
        "{packets} packets, {kernel} of them judged by the kernel too: {open} open, {alone} allowed by one rule, {with_others} by several, \
         {denied} denied, of which {without_rules} by policies without rules and {nothing_near} with none that could allow; \
         the nearest rule lacks so many things: {nearest:?}"
    );
    for (what, count, one_in) in [
        ("one rule", alone, 20),
        ("several rules", with_others, 100),
        ("denials", denied, 20),
    ] {
        assert!(count * one_in > *packets, "PALISADE_SEED={seed}: few {what}");
    }
    let near: u64 = nearest.values().sum();
    assert!(
        near > *nothing_near,
        "PALISADE_SEED={seed}: few denials with a rule that could allow"
    );
    assert!(
        nearest.keys().any(|many| *many > 1),
        "PALISADE_SEED={seed}: {nearest:?}"
    );
}

#[test]
fn explain_agrees_with_the_oracle_and_eval() {
    run(None, knob("PALISADE_PACKETS").unwrap_or(2_000));
}

#[test]
fn explain_agrees_with_the_kernel() {
    if !kernel_support::root() {
        return;
    }
    let kernel = KernelJudge::new(knob("PALISADE_SEED").unwrap_or(1));
    run(Some(kernel), knob("PALISADE_PACKETS").unwrap_or(2_000));
}

/// An answer resolves by the index, a folder that runs does too; the definition is the judge of both.
#[test]
fn what_is_compiled_here_is_what_is_resolved_from_scratch() {
    let mut rng = Rng::new(7);
    for _ in 0..50 {
        let snapshot = random_cluster(&mut rng);
        let pods: Vec<&Pod> = snapshot.pods.iter().collect();
        let scratch = compile::compile(&palisade::resolve::resolve(&snapshot).endpoints, &pods);
        assert_eq!(cluster(&snapshot).image, scratch.image, "{}", show(&snapshot));
    }
}
