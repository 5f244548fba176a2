use serde_json::{Value, json};

use super::*;

/// Nothing is sent: the test is the API server, and the clock.
struct World {
    _runtime: tokio::runtime::Runtime,
    local: Local,
    now: Instant,
    /// What has been handed over.
    pods: BTreeMap<String, Pod>,
    policies: BTreeMap<String, usize>,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let local = {
            let _inside = runtime.enter();
            let nowhere = kube::Config::new("http://127.0.0.1:1".parse().expect("a URL"));
            Local::new(Client::try_from(nowhere).expect("a client"), "here")
        };
        Self {
            _runtime: runtime,
            local,
            now: Instant::now(),
            pods: BTreeMap::new(),
            policies: BTreeMap::new(),
        }
    }

    /// With these pods listed.
    fn with(pods: &[Value]) -> Self {
        let mut world = Self::new();
        let events: Vec<_> = listed(pods);
        world.say(&From::Pods, events);
        world
    }

    fn say(&mut self, from: &From, events: Vec<Event<Raw>>) -> Update {
        let messages = (events.into_iter()).map(|event| (from.clone(), Ok(Said::Event(event))));
        self.local.inbox.extend(messages);
        self.take()
    }

    fn fail(&mut self, from: &From, message: &str) -> Update {
        self.fail_with(from, message, "wait")
    }

    fn fail_with(&mut self, from: &From, message: &str, remedy: &'static str) -> Update {
        let failure = Failure {
            message: message.into(),
            remedy,
        };
        self.local.inbox.push((from.clone(), Err(failure)));
        self.take()
    }

    fn after(&mut self, seconds: u64) -> Update {
        self.now += Duration::from_secs(seconds);
        self.take()
    }

    fn take(&mut self) -> Update {
        let update = self.local.take_at(self.now);
        for (uid, pod) in &update.pods {
            match pod {
                Some(pod) => self.pods.insert(uid.to_string(), pod.clone()),
                None => self.pods.remove(&**uid),
            };
        }
        for (policy, objects) in &update.endpoints {
            match objects {
                Some(objects) => self.policies.insert(policy.to_string(), objects.len()),
                None => self.policies.remove(&**policy),
            };
        }
        update
    }

    /// The answer to the ask that there is now: the keys of the policies that are there.
    fn answer(&mut self, namespace: &str, there: &[&str]) -> Update {
        let from = self.ask(namespace);
        let keys = there.iter().map(|key| (*key).into()).collect();
        self.local.inbox.push((from, Ok(Said::Policies(keys))));
        self.take()
    }

    fn ask(&self, namespace: &str) -> From {
        let asked = self.local.namespaces[namespace].asked.as_ref();
        From::Policies(namespace.into(), asked.expect("it is asked").number)
    }

    /// The watch of a namespace that there is now.
    fn of(&self, namespace: &str) -> From {
        let watched = self.local.namespaces.get(namespace).expect("it is watched");
        From::Namespace(namespace.into(), watched.number)
    }

    fn uids(&self) -> Vec<&str> {
        self.pods.keys().map(String::as_str).collect()
    }
}

fn listed(objects: &[Value]) -> Vec<Event<Raw>> {
    let items = objects
        .iter()
        .map(|object| Event::InitApply(Raw::new(object.clone())));
    std::iter::once(Event::Init)
        .chain(items)
        .chain([Event::InitDone])
        .collect()
}

fn apply(object: Value) -> Vec<Event<Raw>> {
    vec![Event::Apply(Raw::new(object))]
}

fn delete(object: Value) -> Vec<Event<Raw>> {
    vec![Event::Delete(Raw::new(object))]
}

/// `id` is `namespace/name`, or with a UID of its own `namespace/name/uid`.
fn pod(id: &str) -> Value {
    let parts: Vec<&str> = id.split('/').collect();
    let uid = parts.get(2).unwrap_or(&parts[1]);
    json!({
        "metadata": {"namespace": parts[0], "name": parts[1], "uid": uid},
        "spec": {"nodeName": "here"},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
    })
}

fn endpoint(name: &str, slice: Option<(u32, u32)>) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "policyRef": {"name": "web", "namespace": "shop"},
            "podIsolation": ["Ingress"],
            "slice": slice.map(|(index, count)| json!({"index": index, "count": count})),
        },
    })
}

const WEB: &str = "shop/policy/shop/web";

#[test]
fn nothing_is_complete_before_pods_and_the_policies_of_their_namespaces_are_listed() {
    let mut world = World::new();
    assert!(!world.local.is_synced());
    world.say(&From::Pods, listed(&[pod("shop/web"), pod("guest/job")]));
    assert!(!world.local.is_synced() && world.pods.is_empty());
    let (shop, guest) = (world.of("shop"), world.of("guest"));
    world.say(&shop, listed(&[endpoint("web-1", None)]));
    assert_eq!(
        world.uids(),
        ["web"],
        "the policies of this one's namespace are known"
    );
    assert!(!world.local.is_synced());
    world.say(&guest, listed(&[]));
    assert_eq!(world.uids(), ["job", "web"]);
    assert!(world.local.is_synced());
    assert_eq!(world.policies, BTreeMap::from([(WEB.to_string(), 1)]));
}

#[test]
fn without_pods_it_is_complete_at_once() {
    let world = World::with(&[]);
    assert!(world.local.is_synced());
}

#[test]
fn a_pod_is_held_back_while_a_policy_of_the_first_list_is_not_whole() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[endpoint("web-2-0", Some((0, 2)))]));
    assert!(world.pods.is_empty() && !world.local.is_synced());
    assert_eq!(world.local.deadline(), Some(world.now + sets::PATIENCE));
    world.after(2);
    assert_eq!((world.uids(), world.local.is_synced()), (vec!["web"], true));
    assert_eq!(world.policies, BTreeMap::from([(WEB.to_string(), 1)]));
}

#[test]
fn a_pod_of_a_new_namespace_waits_for_its_policies_and_others_do_not_wait_for_it() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[]));
    world.say(&From::Pods, apply(pod("late/job")));
    world.say(&From::Pods, apply(pod("shop/api")));
    assert_eq!(world.uids(), ["api", "web"]);
    assert!(world.local.is_synced(), "it stays so");
    let late = world.of("late");
    world.say(&late, listed(&[]));
    assert_eq!(world.uids(), ["api", "job", "web"]);
}

#[test]
fn host_network_and_finished_pods_need_no_policies() {
    let mut host = pod("system/agent");
    host["spec"]["hostNetwork"] = true.into();
    let mut done = pod("batch/done");
    done["status"]["phase"] = "Succeeded".into();
    let world = World::with(&[host, done]);
    assert!(world.local.namespaces.is_empty() && world.local.is_synced());
    assert!(world.pods.values().all(|pod| !pod.is_live()));
}

#[test]
fn a_namespace_is_watched_for_a_while_after_its_last_pod_and_then_not() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[endpoint("web-1", None)]));
    world.say(&From::Pods, delete(pod("shop/web")));
    assert!(world.pods.is_empty());
    world.after(59);
    world.say(&From::Pods, apply(pod("shop/web/again")));
    assert_eq!((world.uids(), world.of("shop")), (vec!["again"], shop.clone()));
    world.say(&From::Pods, delete(pod("shop/web/again")));
    assert_eq!(world.local.deadline(), Some(world.now + LINGER));
    world.after(60);
    assert!(world.local.namespaces.is_empty() && world.policies.is_empty());
    assert_eq!(world.local.health().watches, 1);
    // A new watch begins from nothing; what the old one still had to say is not heard.
    world.say(&From::Pods, apply(pod("shop/web/third")));
    world.say(&shop, listed(&[]));
    assert!(world.pods.is_empty());
    let shop = world.of("shop");
    world.say(&shop, listed(&[]));
    assert_eq!(world.uids(), ["third"]);
}

#[test]
fn s52_a_relist_removes_no_policy_for_a_moment() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[endpoint("web-1", None)]));
    for event in listed(&[endpoint("web-1", None)]) {
        assert_eq!(world.say(&shop, vec![event]), Update::default());
    }
    for event in listed(&[pod("shop/web")]) {
        assert_eq!(world.say(&From::Pods, vec![event]), Update::default());
    }
}

#[test]
fn a_pod_that_takes_over_a_name_is_another_one() {
    let mut world = World::with(&[pod("shop/web/first")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[]));
    let update = world.say(&From::Pods, apply(pod("shop/web/second")));
    assert_eq!(update.pods.len(), 2);
    assert_eq!(world.uids(), ["second"]);
}

#[test]
fn a_pod_that_comes_back_to_life_is_held_back_like_a_new_one() {
    let mut done = pod("shop/web");
    done["status"]["phase"] = "Failed".into();
    let mut world = World::with(&[done]);
    assert!(world.local.is_synced() && !world.pods["web"].is_live());
    world.say(&From::Pods, apply(pod("shop/web")));
    assert!(world.pods.is_empty());
    let shop = world.of("shop");
    world.say(&shop, listed(&[]));
    assert!(world.pods["web"].is_live());
}

#[test]
fn a_static_pod_is_known_by_the_uid_that_kubelet_has() {
    let mut mirror = pod("kube-system/etcd/api-uid");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "kubelet-uid"});
    let world = World::with(&[mirror]);
    let known = |uid| world.local.uid_of(uid).map(|uid| &**uid);
    assert_eq!(known("kubelet-uid"), Some("api-uid"));
    assert_eq!(known("api-uid"), Some("api-uid"));
    assert_eq!(known("other"), None);
}

#[test]
fn a_watch_that_fails_is_one_problem_until_it_works_and_changes_nothing() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[endpoint("web-1", None)]));
    for message in ["connection refused", "broken pipe"] {
        assert_eq!(world.fail(&shop, message), Update::default());
    }
    world.say(&shop, vec![Event::Init]);
    let problems = world.local.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].object, "watch of PolicyEndpoints in shop");
    assert!(
        problems[0].message.starts_with("connection refused"),
        "{}",
        problems[0]
    );
    let health = Health {
        errors: 2,
        watches: 2,
        failing: 1,
    };
    assert_eq!(world.local.health(), health);
    world.fail_with(&shop, "forbidden", "let it");
    let problems = world.local.problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.starts_with("forbidden"), "{}", problems[0]);
    world.local.inbox.push((shop, Ok(Said::Works)));
    assert_eq!(world.take(), Update::default());
    assert_eq!(
        (world.local.problems(), world.local.health().failing),
        (vec![], 0)
    );
}

#[test]
fn an_object_that_cannot_be_read_wedges_nothing() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    let nonsense = json!({"metadata": {"namespace": "shop", "name": "odd", "labels": 7, "ownerReferences": "me"}, "spec": 7});
    world.say(&shop, listed(&[nonsense.clone(), endpoint("web-1", None)]));
    assert!(world.local.is_synced());
    assert_eq!(
        world.policies.keys().collect::<Vec<_>>(),
        ["shop/object/odd", WEB]
    );
    assert_eq!(world.local.problems().len(), 1);
    world.say(&shop, delete(nonsense));
    assert_eq!(world.local.problems(), []);
}

#[test]
fn a_policy_without_endpoints_stays_in_force_while_it_is_there_itself() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    world.say(&shop, listed(&[endpoint("web-1", None)]));
    assert_eq!(
        world.say(&shop, delete(endpoint("web-1", None))).endpoints.len(),
        0
    );
    let asked = world.ask("shop");
    assert_eq!(world.fail(&asked, "forbidden"), Update::default());
    assert_eq!(
        world.local.problems()[0].object,
        "list of NetworkPolicies in shop"
    );
    assert_eq!(world.answer("shop", &[WEB]), Update::default());
    let problems = world.local.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].object, "NetworkPolicy shop/web");
    let update = world.answer("shop", &["shop/policy/shop/other"]);
    assert_eq!(update.endpoints, BTreeMap::from([(WEB.into(), None)]));
    assert_eq!(update.objects, ["PolicyEndpoint shop/web-1 gone"]);
    assert!(world.policies.is_empty());
    assert_eq!(
        (world.local.problems(), world.local.health().failing),
        (vec![], 0)
    );
    assert!(world.local.namespaces["shop"].asked.is_none());
}

/// As after its CustomResourceDefinition was made anew.
#[test]
fn a_list_that_has_lost_everything_opens_nothing_before_it_is_known_that_the_policies_are_gone() {
    let mut world = World::with(&[pod("shop/web")]);
    let shop = world.of("shop");
    let other = |name| {
        let mut other = endpoint(name, None);
        other["spec"]["policyRef"]["name"] = "other".into();
        other
    };
    let whole = || listed(&[endpoint("web-1", None), other("other-1")]);
    world.say(&shop, whole());
    assert!(world.say(&shop, listed(&[])).is_empty());
    let before = world.ask("shop");
    world.say(&shop, apply(endpoint("web-1", None)));
    assert_eq!(world.ask("shop"), before, "what it has lost less is known");
    world.say(&shop, delete(endpoint("web-1", None)));
    assert_ne!(world.ask("shop"), before, "what it has lost more is asked anew");
    // The answer to the first came before the second was asked.
    world
        .local
        .inbox
        .push((before, Ok(Said::Policies(BTreeSet::new()))));
    assert_eq!(world.take(), Update::default());
    world.answer("shop", &[WEB]);
    assert_eq!(world.policies.keys().collect::<Vec<_>>(), [WEB]);
    world.say(&shop, whole());
    assert_eq!(world.policies.len(), 2);
    assert!(world.local.namespaces["shop"].asked.is_none() && world.local.problems().is_empty());
}
