use serde_json::{Value, json};

use super::*;
use crate::cluster::tree::Tree;
use crate::model::{Change, Enforcement, Namespace, Pod, Policy};
use crate::resolve::Index;

/// An API server that does what it is told, and a plan.
#[derive(Default)]
struct World {
    plan: Plan,
    stored: HashMap<ObjectId, Endpoint>,
    version: u64,
}

impl World {
    /// With an empty list of PolicyEndpoints.
    fn open() -> Self {
        let mut world = Self::default();
        world.plan.see(Event::Init);
        world.plan.see(Event::InitDone);
        world
    }

    fn store(&mut self, object: &PolicyEndpoint, manager: &str) -> Endpoint {
        self.version += 1;
        let mut tree = serde_json::to_value(object).unwrap();
        tree["metadata"]["uid"] = json!(format!("uid-{}", object.metadata.name.as_deref().unwrap()));
        tree["metadata"]["resourceVersion"] = json!(self.version.to_string());
        tree["metadata"]["managedFields"] = json!([{"manager": manager}]);
        let Value::Object(fields) = tree else { panic!() };
        let endpoint = Endpoint::read(Tree::<()>::new(fields)).unwrap();
        self.stored.insert(endpoint.id.clone(), endpoint.clone());
        endpoint
    }

    fn next(&mut self) -> Option<Job> {
        self.plan.next(Instant::now())
    }

    /// Does the job; its outcome.
    fn perform(&mut self, job: &Job) -> Outcome {
        let mut outcome = Outcome::default();
        for write in &job.writes {
            let known = self.stored.get(&write.id).map(|e| e.version.clone());
            assert_eq!(known, write.version, "the version that it replaces");
            let endpoint = self.store(&write.object, "palisade");
            outcome.found.push((endpoint, Some(write.object.clone())));
        }
        for deletion in &job.deletions {
            self.stored.remove(&deletion.id);
            outcome.deleted.push(deletion.id.clone());
        }
        outcome
    }

    /// Works until there is nothing to do; how many objects were written and deleted.
    fn settle(&mut self) -> (usize, usize) {
        let (mut written, mut deleted) = (0, 0);
        while let Some(job) = self.next() {
            written += job.writes.len();
            deleted += job.deletions.len();
            let outcome = self.perform(&job);
            self.plan.done(&job.policy, outcome, Instant::now());
        }
        (written, deleted)
    }
}

fn slices(pods: u8) -> Vec<Arc<PolicyEndpoint>> {
    let mut index = Index::with_slice_entries(4);
    index.apply(Change::Namespace(Namespace {
        name: "shop".into(),
        labels: Arc::default(),
        enforcement: Enforcement::Enforce,
    }));
    for n in 0..pods {
        index.apply(Change::Pod(Pod {
            id: ObjectId::new("shop", &format!("pod-{n}")),
            uid: n.to_string().into(),
            labels: Arc::default(),
            node: None,
            host_ip: None,
            addresses: vec![std::net::Ipv4Addr::new(10, 0, 0, n).into()],
            ports: Arc::default(),
            host_network: false,
            finished: false,
            created: None,
            source_prefixes: Vec::new(),
            log_allowed: false,
        }));
    }
    index.apply(Change::Policy(Policy {
        id: ObjectId::new("shop", "p"),
        uid: "u".into(),
        pod_selector: crate::model::Selector::everything(),
        ingress: Some(vec![crate::model::Rule {
            index: 0,
            peers: Some(vec![crate::model::Peer::Pods {
                namespaces: None,
                pods: Some(crate::model::Selector::everything()),
            }]),
            ports: None,
        }]),
        egress: None,
        enforcement: None,
    }));
    index.endpoints("u").unwrap()
}

fn uid() -> Arc<str> {
    "u".into()
}

fn problem() -> Problem {
    Problem {
        object: "NetworkPolicy shop/p".into(),
        field: "spec".into(),
        value: "x".into(),
        message: "is wrong".into(),
        remedy: "mend it".into(),
    }
}

#[test]
fn nothing_is_written_before_it_is_known_what_is_there_and_what_is_there_is_adopted() {
    let mut world = World::default();
    let wanted = slices(12);
    assert!(wanted.len() > 2);
    world.plan.want(&uid(), Some(wanted.clone()), &[]);
    assert!(world.next().is_none(), "not before the list");
    world.plan.see(Event::Init);
    for object in &wanted[1..] {
        let endpoint = world.store(object, "palisade");
        world.plan.see(Event::InitApply(endpoint));
    }
    assert!(world.next().is_none(), "not before all of it");
    world.plan.see(Event::InitDone);
    assert_eq!(world.settle(), (1, 0), "only what is missing");
}

#[test]
fn stale_slices_go_only_after_the_new_ones_are_there() {
    let mut world = World::open();
    world.plan.want(&uid(), Some(slices(12)), &[]);
    world.settle();
    let many = world.stored.len();
    world.plan.want(&uid(), Some(slices(2)), &[]);
    let job = world.next().unwrap();
    assert_eq!((job.writes.len(), job.deletions.len()), (1, many), "in one job");
    // The write fails: the writer deletes nothing, and the plan comes back to it later.
    let failed = Outcome {
        failed: true,
        ..Outcome::default()
    };
    let now = Instant::now();
    world.plan.done(&job.policy, failed, now);
    assert!(world.plan.next(now).is_none());
    let at = world.plan.wakes().unwrap();
    assert!(at > now && at <= now + Duration::from_secs(1));
    let job = world.plan.next(at).unwrap();
    let outcome = world.perform(&job);
    world.plan.done(&job.policy, outcome, now);
    assert_eq!(world.settle(), (0, 0));
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn a_policy_that_is_gone_takes_its_endpoints_along_and_leaves_no_trace() {
    let mut world = World::open();
    world.plan.want(&uid(), Some(slices(12)), &[]);
    world.settle();
    world.plan.want(&uid(), None, &[]);
    world.settle();
    assert!(world.stored.is_empty() && world.plan.objects.is_empty() && world.plan.policies.is_empty());
}

#[test]
fn what_nobody_wants_is_deleted_if_it_is_ours_and_else_left() {
    let mut world = World::default();
    let (ours, others) = (slices(12), slices(2));
    world.plan.see(Event::Init);
    for object in &ours {
        let endpoint = world.store(object, "palisade");
        world.plan.see(Event::InitApply(endpoint));
    }
    let endpoint = world.store(&others[0], "kubectl");
    world.plan.see(Event::InitApply(endpoint));
    world.plan.see(Event::InitDone);
    assert_eq!(world.settle(), (0, ours.len()));
    assert_eq!(world.stored.len(), 1);
}

#[test]
fn what_somebody_changes_or_deletes_is_written_again_and_our_own_echo_is_not() {
    let mut world = World::open();
    let wanted = slices(2);
    world.plan.want(&uid(), Some(wanted.clone()), &[]);
    world.settle();
    let echo = world.stored.values().next().unwrap().clone();
    world.plan.see(Event::Apply(echo.clone()));
    assert!(world.next().is_none(), "an echo");

    let mut wider = (*wanted[0]).clone();
    wider.spec.ingress.clear();
    let endpoint = world.store(&wider, "kubectl");
    world.plan.see(Event::Apply(endpoint));
    assert_eq!(world.settle(), (1, 0));
    world.plan.see(Event::Apply(echo));
    assert!(world.next().is_none(), "an old version, late");

    let gone = world.stored.drain().next().unwrap().1;
    world.plan.see(Event::Delete(gone.clone()));
    assert_eq!(world.settle(), (1, 0));
    let mut older = gone;
    older.uid = "another".into();
    world.plan.see(Event::Delete(older));
    assert!(world.next().is_none(), "a late delete of its predecessor");
}

#[test]
fn a_list_anew_that_lacks_a_slice_has_it_written() {
    let mut world = World::open();
    world.plan.want(&uid(), Some(slices(2)), &[]);
    world.settle();
    world.plan.see(Event::Init);
    assert!(world.next().is_none());
    world.stored.clear();
    world.plan.see(Event::InitDone);
    assert_eq!(world.settle(), (1, 0));
}

#[test]
fn a_change_during_a_job_makes_for_another_one_and_never_for_two_at_once() {
    let mut world = World::open();
    world.plan.want(&uid(), Some(slices(2)), &[]);
    let job = world.next().unwrap();
    world.plan.want(&uid(), Some(slices(3)), &[]);
    assert!(world.next().is_none(), "one at a time");
    let outcome = world.perform(&job);
    world.plan.done(&job.policy, outcome, Instant::now());
    assert_eq!(world.settle(), (1, 0));
    let wanted = slices(3);
    assert!(world.stored.values().all(|endpoint| endpoint.is(&wanted[0])));
}

#[test]
fn what_the_api_server_does_not_keep_is_not_written_for_ever() {
    let mut world = World::open();
    let wanted = slices(2);
    world.plan.want(&uid(), Some(wanted.clone()), &[]);
    let job = world.next().unwrap();
    let mut pruned = (*wanted[0]).clone();
    pruned.spec.slice = None;
    let endpoint = world.store(&pruned, "palisade");
    let outcome = Outcome {
        found: vec![(endpoint.clone(), Some(job.writes[0].object.clone()))],
        ..Outcome::default()
    };
    world.plan.done(&job.policy, outcome, Instant::now());
    assert!(world.next().is_none());
    world.plan.see(Event::Apply(endpoint));
    assert!(world.next().is_none(), "nor at its echo");
    world.plan.want(&uid(), Some(slices(3)), &[]);
    assert_eq!(
        world.next().unwrap().writes.len(),
        1,
        "but what is new is written"
    );
}

#[test]
fn a_problem_is_told_on_the_first_slice_and_cleared() {
    let mut world = World::open();
    let wanted = slices(12);
    world.plan.want(&uid(), Some(wanted.clone()), &[&problem()]);
    let job = world.next().unwrap();
    let (on, told) = job.condition.clone().unwrap();
    assert_eq!(Some(on), id(&wanted[0]));
    assert!(!told.resolved && told.message.contains("spec = x: is wrong; mend it"));
    assert!(!world.plan.is_told("u", &[&problem()]));
    let mut outcome = world.perform(&job);
    let mut first = (*wanted[0]).clone();
    first.status = serde_json::from_value(json!({"conditions": [{
        "type": "Resolved", "status": "False", "reason": "Incomplete", "message": told.message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}))
    .unwrap();
    outcome.found.push((world.store(&first, "palisade"), None));
    world.plan.done(&job.policy, outcome, Instant::now());
    assert!(world.next().is_none());
    assert!(world.plan.is_told("u", &[&problem()]));
    assert_eq!(world.plan.policies_with_problems(), 1);

    world.plan.want(&uid(), Some(wanted), &[]);
    let (_, told) = world.next().unwrap().condition.unwrap();
    assert!(told.resolved && told.message.is_empty());
    assert_eq!(world.plan.policies_with_problems(), 0);
}
