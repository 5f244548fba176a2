//! Random clusters, judged by the oracle and by what is enforced: every judge must give every answer alike.
//!
//! `PALISADE_SEED` repeats a run, `PALISADE_VERDICTS` sets its length. A difference is shown with the least cluster
//! that still has it.

#[path = "packets/frame.rs"]
mod frame;
mod kernel_judge;
mod kernel_support;
mod oracle;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kernel_judge::{Flow, KernelJudge, Moment};
use oracle::{
    Eval, Judge, Oracle, Prober, Question, Rng, Verdict, apply, random_change, random_cluster, show, shrink,
    verdict_of,
};
use palisade::compile::{self, Compiled, Endpoints, RuleInfo};
use palisade::files;
use palisade::model::{Change, Enforcement, Namespace, ObjectId, Pod, Snapshot};
use palisade::resolve::{self, Index};

/// Questions asked of one cluster before the next is drawn.
const QUESTIONS: usize = 120;

/// A number from the environment. A wrong one fails: a run that ignores what it was told proves nothing.
fn knob(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.replace('_', "")
            .parse()
            .unwrap_or_else(|e| panic!("{name}={text}: {e}")),
    )
}

fn seed() -> u64 {
    knob("PALISADE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970");
        now.as_nanos() as u64
    })
}

fn verdicts_wanted() -> u64 {
    knob("PALISADE_VERDICTS").unwrap_or(200_000)
}

/// All pods of the cluster as if they were on one node. Slices are small, so that policies have several.
fn enforced(cluster: &Snapshot) -> Compiled {
    let entries = 1 + cluster.pods.len() % 4;
    compile_all(cluster, &resolve::resolve_sliced(cluster, entries).endpoints)
}

fn compile_all(cluster: &Snapshot, endpoints: &Endpoints) -> Compiled {
    let pods: Vec<&Pod> = cluster.pods.iter().filter(|p| p.is_live()).collect();
    compile::compile(endpoints, &pods)
}

fn expected(cluster: &Snapshot, q: &Question) -> Option<Verdict> {
    Oracle::new(cluster).verdict(&q.pod_uid, q.direction, q.peer, q.protocol, q.port)
}

/// Whether the answer hangs on which of two pods with one address is meant by "itself". The kernel knows a pod by its
/// interface, and both of them as they say; the contract is silent.
fn disputed(cluster: &Snapshot, q: &Question) -> bool {
    let oracle = Oracle::new(cluster);
    let Some(pod) = cluster.pods.iter().find(|p| p.uid == q.pod_uid) else {
        return false;
    };
    let lost = |a: &IpAddr| oracle.owner(*a).is_some_and(|owner| owner.uid != pod.uid);
    let service = cluster.services.iter().any(|s| s.cluster_ips.contains(&q.peer));
    pod.addresses.iter().any(|a| lost(a) && (service || *a == q.peer))
}

fn ask(judge: &mut dyn Judge, q: &Question) -> Option<Verdict> {
    judge.verdict(&q.pod_uid, q.direction, q.peer, q.protocol, q.port)
}

/// What was asked and answered; the shares tell whether the questions were worth asking.
#[derive(Default)]
struct Tally {
    verdicts: u64,
    unanswered: u64,
    allowed: u64,
    denied: u64,
    audited: u64,
    open: u64,
    differences: u64,
    reports: String,
}

impl Tally {
    fn count(&mut self, cluster: &Snapshot, q: &Question, answer: Option<Verdict>) {
        let Some(verdict) = answer else {
            self.unanswered += 1;
            return;
        };
        self.verdicts += 1;
        let oracle = Oracle::new(cluster);
        let pod = cluster.pods.iter().find(|p| p.uid == q.pod_uid);
        match (pod.is_some_and(|p| oracle.isolated(p, q.direction)), verdict) {
            (false, _) => self.open += 1,
            (true, Verdict::Allowed) => self.allowed += 1,
            (true, Verdict::Audited) => self.audited += 1,
            (true, Verdict::Denied) => self.denied += 1,
        }
    }

    fn report(&mut self, text: &str) {
        self.differences += 1;
        // The first few are worth a reader's time.
        if self.differences <= 5 {
            self.reports.push_str(text);
        }
    }

    /// `one_in`: so many of the verdicts hang on a rule and are of either kind, or the questions are too easy.
    fn finish(self, seed: u64, what: &str, one_in: u64) {
        println!(
            "{what}: seed {seed}, {} verdicts ({} of open pods, {} allowed, {} denied, {} audited, {} unanswered), {} differences",
            self.verdicts,
            self.open,
            self.allowed,
            self.denied,
            self.audited,
            self.unanswered,
            self.differences
        );
        assert_eq!(self.differences, 0, "PALISADE_SEED={seed}\n{}", self.reports);
        assert!(
            self.verdicts < 20_000
                || [self.allowed, self.denied, 2 * self.audited]
                    .iter()
                    .all(|kind| kind * one_in > self.verdicts),
            "too few questions that hang on a rule"
        );
    }
}

fn describe(
    cluster: &Snapshot,
    q: &Question,
    name: &str,
    answers: (Option<Verdict>, Option<Verdict>),
) -> String {
    let (expected, given) = answers;
    let mut out = format!("\n--- {q}\noracle: {expected:?}, {name}: {given:?}\n");
    let oracle = Oracle::new(cluster);
    if let Some(pod) = cluster.pods.iter().find(|p| p.uid == q.pod_uid) {
        for (policy, rule) in oracle.allowing_rules(pod, q.direction, q.peer, q.protocol, q.port) {
            let _ = writeln!(
                out,
                "oracle: {} {}[{}] allows it",
                policy.id, q.direction, rule.index
            );
        }
    }
    out.push_str(&show(cluster));
    out
}

/// Puts one question to a judge; a difference is cut down to its least cluster and reported.
fn compare(tally: &mut Tally, judge: &mut dyn Judge, cluster: &Snapshot, q: &Question) {
    let expected_here = expected(cluster, q);
    let given = ask(judge, q);
    tally.count(cluster, q, given);
    if given == expected_here || given.is_none() && judge.may_decline() {
        return;
    }
    let least = if tally.differences < 5 {
        shrink(cluster, &mut |smaller| {
            judge.load(&enforced(smaller).image);
            let given = ask(judge, q);
            let answers = given.is_some() || !judge.may_decline();
            answers && given != expected(smaller, q) && !disputed(smaller, q)
        })
    } else {
        cluster.clone()
    };
    judge.load(&enforced(&least).image);
    let answers = (expected(&least, q), ask(judge, q));
    let text = describe(&least, q, judge.name(), answers);
    judge.load(&enforced(cluster).image);
    tally.report(&text);
}

/// An allowing verdict names the first rule that allows, by the policy's name and its place there; a denying one
/// names the policies that isolate.
fn attribution_differs(cluster: &Snapshot, compiled: &Compiled, q: &Question) -> Option<String> {
    let image = &compiled.image;
    let decision = compile::eval(image, &q.pod_uid, q.direction, q.peer, q.protocol, q.port)?;
    let pod = cluster.pods.iter().find(|p| p.uid == q.pod_uid)?;
    let oracle = Oracle::new(cluster);
    let itself = oracle.is_itself(pod, q.direction, q.peer, q.protocol, q.port);
    let by = decision.by.map(|key| image.rules.get(&key));
    let isolating = |in_audit: bool| -> BTreeSet<&ObjectId> {
        let policies = oracle.isolating(pod, q.direction);
        let counts = policies.filter(|policy| oracle.in_audit(policy) == in_audit);
        counts.map(|policy| &policy.id).collect()
    };
    // The policies that have a say.
    let in_audit = isolating(false).is_empty();
    let right = match (&by, decision.allowed) {
        (None, allowed) => allowed && (itself || !oracle.isolated(pod, q.direction)),
        // A pod's own Service: no rule of the user's allows it.
        (Some(Some(RuleInfo::Rule(id))), true) if id.index.is_none() => itself,
        (Some(Some(RuleInfo::Rule(id))), true) => {
            let first = oracle
                .allowing_rules(pod, q.direction, q.peer, q.protocol, q.port)
                .filter(|(policy, _)| oracle.in_audit(policy) == in_audit)
                .map(|(policy, rule)| (&policy.id, Some(rule.index)))
                .min();
            id.direction == q.direction && Some((&id.policy, id.index)) == first
        }
        (Some(Some(RuleInfo::Isolation { direction, policies })), false) => {
            *direction == q.direction && policies.iter().collect::<BTreeSet<_>>() == isolating(false)
        }
        (Some(Some(RuleInfo::Audit { direction, policies })), true) => {
            let named = policies.iter().collect::<BTreeSet<_>>();
            decision.audited && in_audit && *direction == q.direction && named == isolating(true)
        }
        _ => false,
    };
    (!right).then(|| format!("\n--- {q}\nattributed to {by:?}\n{}", show(cluster)))
}

/// Puts every question to every judge, until `verdicts` answers were compared.
fn run(judges: &mut [&mut dyn Judge], seed: u64, verdicts: u64) -> Tally {
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    while tally.verdicts < verdicts {
        let cluster = random_cluster(&mut rng);
        let compiled = enforced(&cluster);
        for judge in judges.iter_mut() {
            judge.load(&compiled.image);
        }
        let prober = Prober::new(&cluster);
        for _ in 0..QUESTIONS {
            let Some(q) = prober.question(&mut rng) else {
                break;
            };
            if disputed(&cluster, &q) {
                continue;
            }
            for judge in judges.iter_mut() {
                compare(&mut tally, *judge, &cluster, &q);
            }
            if let Some(text) = attribution_differs(&cluster, &compiled, &q) {
                tally.report(&text);
            }
        }
    }
    tally
}

#[test]
fn what_is_enforced_answers_as_the_oracle_does() {
    let seed = seed();
    run(&mut [&mut Eval::default()], seed, verdicts_wanted()).finish(seed, "oracle = eval", 10);
}

#[test]
fn the_kernel_answers_as_the_oracle_and_eval_do() {
    if !kernel_support::root() {
        return;
    }
    let seed = seed();
    let mut kernel = KernelJudge::new(seed);
    run(&mut [&mut Eval::default(), &mut kernel], seed, verdicts_wanted()).finish(
        seed,
        "oracle = eval = kernel",
        10,
    );
}

/// The pod has the flow's address still, so that what it sends is its own.
fn goes_on(cluster: &Snapshot, flow: &Flow) -> bool {
    cluster
        .pods
        .iter()
        .any(|p| p.uid == flow.question.pod_uid && p.is_live() && p.addresses.contains(&flow.local))
}

/// Opens connections, changes the cluster, and asks of each a packet from either end: what counts is what policy says now
/// of the direction in which it was opened (37, 38).
fn run_flows(kernel: &mut KernelJudge, seed: u64, wanted: u64) -> Tally {
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    while tally.verdicts < wanted {
        let mut cluster = random_cluster(&mut rng);
        kernel.load(&enforced(&cluster).image);
        let mut flows: Vec<Flow> = Vec::new();
        for number in 0..8 {
            let prober = Prober::new(&cluster);
            for _ in 0..QUESTIONS / 4 {
                let question = prober.question(&mut rng);
                let Some(flow) = question.and_then(|q| kernel.open(&q)) else {
                    continue;
                };
                if is_flow(&flow)
                    && !flows.iter().any(|f| same_key(f, &flow))
                    && kernel.verdict_of(&flow, Moment::First).passes()
                {
                    flows.push(flow);
                }
            }
            let change = random_change(&mut rng, &cluster, number);
            apply(&mut cluster, &change);
            kernel.load(&enforced(&cluster).image);
            flows.retain(|flow| goes_on(&cluster, flow));
            for flow in &flows {
                let moment = *rng.pick(&[Moment::Forth, Moment::Back]);
                let given = Some(kernel.verdict_of(flow, moment));
                let expected = expected(&cluster, &flow.question);
                tally.count(&cluster, &flow.question, given);
                if given != expected {
                    let mut text = describe(
                        &cluster,
                        &flow.question,
                        "the kernel, of a live flow",
                        (expected, given),
                    );
                    let _ = writeln!(
                        text,
                        "{moment:?} of {flow:?} {}; last change: {change:?}",
                        kernel.remembered(flow)
                    );
                    tally.report(&text);
                }
            }
        }
    }
    tally
}

/// Other ICMP is judged packet by packet.
fn is_flow(flow: &Flow) -> bool {
    let icmp = if flow.local.is_ipv4() {
        frame::ICMP
    } else {
        frame::ICMPV6
    };
    flow.question.protocol != icmp || flow.echo
}

/// Protocols without ports have one flow between two addresses.
fn same_key(a: &Flow, b: &Flow) -> bool {
    let of = |f: &Flow| {
        (
            f.question.pod_uid.clone(),
            f.local,
            f.question.peer,
            f.question.protocol,
        )
    };
    of(a) == of(b)
}

#[test]
fn s38_live_flows_follow_policy_through_any_change() {
    if !kernel_support::root() {
        return;
    }
    let seed = seed();
    let mut kernel = KernelJudge::new(seed);
    run_flows(&mut kernel, seed, verdicts_wanted() / 8).finish(seed, "live flows follow policy", 50);
}

/// Every object of the cluster as news, in any order.
fn arrivals(rng: &mut Rng, cluster: &Snapshot) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    changes.extend(cluster.namespaces.iter().cloned().map(Change::Namespace));
    changes.extend(cluster.pods.iter().cloned().map(Change::Pod));
    changes.extend(cluster.policies.iter().cloned().map(Change::Policy));
    changes.extend(cluster.services.iter().cloned().map(Change::Service));
    changes.extend(cluster.endpoint_slices.iter().cloned().map(Change::EndpointSlice));
    for i in (1..changes.len()).rev() {
        changes.swap(i, rng.below(i + 1));
    }
    changes
}

/// Carries a change into what is published, of the policies alone that the index says it touches.
fn publish(index: &mut Index, published: &mut Endpoints, change: Change) -> BTreeSet<Arc<str>> {
    let touched = index.apply(change);
    for uid in &touched {
        match index.endpoints(uid) {
            Some(slices) => published.insert(uid.clone(), slices),
            None => published.remove(uid),
        };
    }
    touched
}

/// Changes one after another, until `wanted` answers were compared.
fn run_changes(seed: u64, wanted: u64) -> Tally {
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    while tally.verdicts < wanted {
        let mut cluster = random_cluster(&mut rng);
        let mut index = Index::with_slice_entries(rng.between(1, 5));
        let mut published = Endpoints::new();
        for change in arrivals(&mut rng, &cluster) {
            publish(&mut index, &mut published, change);
        }
        for number in 0..rng.between(5, 40) {
            let change = random_change(&mut rng, &cluster, number);
            apply(&mut cluster, &change);
            let touched = publish(&mut index, &mut published, change.clone());
            let image = compile_all(&cluster, &published).image;
            let prober = Prober::new(&cluster);
            for _ in 0..QUESTIONS / 4 {
                let Some(q) = prober.question(&mut rng) else {
                    break;
                };
                if disputed(&cluster, &q) {
                    continue;
                }
                let given = compile::eval(&image, &q.pod_uid, q.direction, q.peer, q.protocol, q.port)
                    .map(verdict_of);
                tally.count(&cluster, &q, given);
                let expected = expected(&cluster, &q);
                if given != expected {
                    let scratch = enforced(&cluster).image;
                    let alike = compile::eval(&scratch, &q.pod_uid, q.direction, q.peer, q.protocol, q.port)
                        .map(verdict_of)
                        == given;
                    let mut text = describe(&cluster, &q, "the index", (expected, given));
                    let _ = writeln!(text, "from scratch, the answer is the same: {alike}");
                    let _ = writeln!(text, "last change, which touched {touched:?}: {change:?}");
                    tally.report(&text);
                }
            }
        }
    }
    tally
}

#[test]
fn after_any_changes_the_index_answers_as_the_oracle_does() {
    let seed = seed();
    run_changes(seed, verdicts_wanted() / 4).finish(seed, "oracle = index, one change at a time", 10);
}

/// As a folder of files has it: namespaces exist where something is in them, and rules are numbered as they stand.
fn as_in_a_folder(mut cluster: Snapshot) -> Snapshot {
    let lists = cluster
        .policies
        .iter_mut()
        .flat_map(|p| [&mut p.ingress, &mut p.egress]);
    for list in lists.flatten() {
        for (index, rule) in (0..).zip(list) {
            rule.index = index;
        }
    }
    let inhabited: BTreeSet<Arc<str>> = (cluster.pods.iter().map(|p| &p.id))
        .chain(cluster.policies.iter().map(|p| &p.id))
        .map(|id| id.namespace.clone())
        .collect();
    for name in inhabited {
        if cluster.namespaces.iter().all(|n| n.name != name) {
            let labels = [("kubernetes.io/metadata.name".into(), name.clone())];
            cluster.namespaces.push(Namespace {
                name,
                labels: Arc::new(labels.into_iter().collect()),
                enforcement: Enforcement::Enforce,
            });
        }
    }
    sorted(cluster)
}

fn sorted(mut cluster: Snapshot) -> Snapshot {
    cluster.namespaces.sort_by(|a, b| a.name.cmp(&b.name));
    cluster.pods.sort_by(|a, b| a.id.cmp(&b.id));
    cluster.policies.sort_by(|a, b| a.id.cmp(&b.id));
    cluster.services.sort_by(|a, b| a.id.cmp(&b.id));
    cluster.endpoint_slices.sort_by(|a, b| a.id.cmp(&b.id));
    cluster
}

/// Files put kind and name before a UID, since nothing keeps people from writing one twice.
fn with_own_uids(mut cluster: Snapshot) -> Snapshot {
    let pods = cluster.pods.iter_mut().map(|p| &mut p.uid);
    for uid in pods.chain(cluster.policies.iter_mut().map(|p| &mut p.uid)) {
        *uid = uid.rsplit('/').next().unwrap_or_default().into();
    }
    cluster
}

#[test]
fn a_cluster_written_as_objects_reads_back_as_it_was() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    for _ in 0..verdicts_wanted() / 1000 {
        let cluster = as_in_a_folder(random_cluster(&mut rng));
        let objects: Vec<String> = oracle::objects(&mut rng, &cluster)
            .iter()
            .map(|o| serde_json::to_string_pretty(o).expect("JSON"))
            .collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // JSON is YAML: each object is a document.
        std::fs::write(folder.path().join("all.yaml"), objects.join("\n---\n")).expect("a writable folder");
        let loaded = files::load(folder.path()).expect("a readable folder");
        let read = sorted(with_own_uids(loaded.snapshot));
        let (found, wanted) = (show(&read), show(&cluster));
        let only = |a: &str, b: &str| -> Vec<String> {
            a.lines()
                .filter(|l| !b.lines().any(|m| m == *l))
                .map(String::from)
                .collect()
        };
        assert_eq!(
            (only(&found, &wanted), only(&wanted, &found)),
            (vec![], vec![]),
            "PALISADE_SEED={seed}, read and written; problems: {:#?}",
            loaded.problems
        );
        assert_eq!(read, cluster, "PALISADE_SEED={seed}");
    }
}
