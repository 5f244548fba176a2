//! Pods that the CNI plugin has just made: what it tells of them, and the answer to it.
//!
//! The API server learns a pod's addresses after the plugin, and after its container has begun to run. So the plugin's word
//! counts until the pod's status says something new; and which interface the pod is behind, for as long as the pod is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::warn;

use crate::compile::Image;
use crate::node::{Agent, Enforced, Secure, Wanted};

/// The pods that are known better here, and the plugins that wait for an answer.
pub struct Secured {
    told: BTreeMap<Arc<str>, Told>,
    waiting: Vec<Waiting>,
}

struct Told {
    addresses: Vec<IpAddr>,
    /// What the status has said by then: it is older than the plugin's word.
    outdated: BTreeSet<Vec<IpAddr>>,
}

struct Waiting {
    request: Secure,
    /// As `Wanted` has it; unknown while the API server has not told of the pod.
    uid: Option<Arc<str>>,
}

impl Secured {
    /// What is in force already was told to an earlier process. It counts where a pod's status has no addresses yet.
    pub fn new(in_force: &Image) -> Self {
        let told = in_force.pods.iter().map(|(uid, pod)| {
            let told = Told {
                addresses: pod.addresses.clone(),
                outdated: BTreeSet::from([Vec::new()]),
            };
            (uid.clone(), told)
        });
        Self {
            told: told.collect(),
            waiting: Vec::new(),
        }
    }

    pub fn ask(&mut self, request: Secure) {
        self.waiting.push(Waiting { request, uid: None });
    }

    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many plugins wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Plugins whose time is over get `why` there is no other answer; kubelet sends another.
    pub fn give_up_who_is_late(&mut self, why: &str) {
        let now = Instant::now();
        for Waiting { request, uid } in std::mem::take(&mut self.waiting) {
            let is_late = request.deadline <= now || request.answer.is_closed();
            if !is_late {
                self.waiting.push(Waiting { request, uid });
                continue;
            }
            let why = if uid.is_some() {
                "its interface has not been found, or the programs cannot be attached to it"
            } else {
                why
            };
            warn!(pod = %format_args!("{}/{}", request.namespace, request.name), why, "not secured in time");
            // One that has left meanwhile asks again.
            let _ = request.answer.send(Err(why.into()));
        }
    }

    /// Puts what is told into `wanted`. Whether a pod is to be found that was not to be before.
    pub fn put(&mut self, wanted: &mut Wanted, uid_of: impl Fn(&str) -> Option<Arc<str>>) -> bool {
        self.give_up_who_is_late(
            "the API server has not told of it, or not of all policies of its namespace",
        );
        let mut found = false;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.uid.is_none()) {
            let uid = uid_of(&waiting.request.uid);
            let Some(pod) = uid.as_ref().and_then(|uid| wanted.pods.get(uid)) else {
                continue;
            };
            let mut outdated = BTreeSet::from([pod.addresses.clone()]);
            if let Some(before) = self.told.remove(&pod.uid) {
                outdated.extend(before.outdated);
                outdated.insert(before.addresses);
            }
            let addresses = waiting.request.addresses.clone();
            self.told.insert(pod.uid.clone(), Told { addresses, outdated });
            let interfaces = waiting.request.interfaces.clone();
            wanted.interfaces.insert(pod.uid.clone(), interfaces);
            waiting.uid = uid;
            found = true;
        }
        self.told.retain(|uid, told| {
            let Some(pod) = wanted.pods.get_mut(uid) else {
                return false;
            };
            if pod.addresses != told.addresses && told.outdated.contains(&pod.addresses) {
                pod.addresses.clone_from(&told.addresses);
            }
            pod.addresses == told.addresses
        });
        let pods = &wanted.pods;
        wanted.interfaces.retain(|uid, _| pods.contains_key(uid));
        found
    }

    /// Answers whom it can.
    pub fn answer(&mut self, agent: &Agent, enforced: &Enforced) {
        for Waiting { request, uid } in std::mem::take(&mut self.waiting) {
            let enforced_now = uid
                .as_deref()
                .is_some_and(|uid| agent.is_enforced_on(uid, &request.interfaces));
            let answer = match (uid.is_some() && enforced.refused, enforced_now) {
                (true, _) => Err(
                    "the kernel does not take what is to be enforced; see palisade's log on this node".into(),
                ),
                (false, true) => Ok(()),
                (false, false) => {
                    self.waiting.push(Waiting { request, uid });
                    continue;
                }
            };
            // One that has left meanwhile asks again.
            let _ = request.answer.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::model::{ObjectId, Pod};

    fn address(text: &str) -> Vec<IpAddr> {
        vec![text.parse().unwrap()]
    }

    fn pod(uid: &str, addresses: Vec<IpAddr>) -> Pod {
        Pod {
            id: ObjectId::new("shop", uid),
            uid: uid.into(),
            labels: Arc::default(),
            node: None,
            host_ip: None,
            addresses,
            ports: Arc::default(),
            host_network: false,
            finished: false,
            created: None,
            source_prefixes: Vec::new(),
            log_allowed: false,
        }
    }

    fn request(uid: &str, addresses: Vec<IpAddr>) -> (Secure, oneshot::Receiver<Result<(), String>>) {
        let (answer, answered) = oneshot::channel();
        let request = Secure {
            namespace: "shop".into(),
            name: uid.into(),
            uid: uid.into(),
            ifname: "eth0".into(),
            interfaces: vec![format!("veth-{uid}")],
            addresses,
            deadline: Instant::now() + std::time::Duration::from_secs(60),
            answer,
        };
        (request, answered)
    }

    struct World {
        secured: Secured,
        wanted: Wanted,
    }

    impl World {
        fn new() -> Self {
            Self {
                secured: Secured::new(&Image::default()),
                wanted: Wanted::default(),
            }
        }

        /// The pod's status says so; what is wanted comes to.
        fn status(&mut self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
            self.wanted.pods.insert("web".into(), pod("web", addresses));
            self.put();
            self.wanted.pods["web"].addresses.clone()
        }

        fn put(&mut self) -> bool {
            self.secured.put(&mut self.wanted, |uid| Some(uid.into()))
        }
    }

    #[test]
    fn what_the_plugin_tells_counts_until_the_status_says_something_new() {
        let mut world = World::new();
        world.status(vec![]);
        let (first, _keep) = request("web", address("10.0.0.1"));
        world.secured.ask(first);
        assert!(world.put() && !world.put());
        assert_eq!(world.wanted.pods["web"].addresses, address("10.0.0.1"));
        assert_eq!(world.wanted.interfaces["web"], ["veth-web"]);
        // An update of the pod that still has no address.
        assert_eq!(world.status(vec![]), address("10.0.0.1"));
        assert_eq!(world.status(address("10.0.0.1")), address("10.0.0.1"));
        // Its sandbox is made anew, and the status still has the old one.
        let (second, _keep) = request("web", address("10.0.0.2"));
        world.secured.ask(second);
        world.put();
        assert_eq!(world.status(address("10.0.0.1")), address("10.0.0.2"));
        assert_eq!(world.status(vec![]), address("10.0.0.2"));
        assert_eq!(world.status(address("10.0.0.3")), address("10.0.0.3"));
        assert_eq!(world.status(address("10.0.0.1")), address("10.0.0.1"));
    }

    #[test]
    fn a_pod_that_the_api_server_has_not_told_of_waits_and_who_left_is_forgotten() {
        let mut world = World::new();
        let (asks, answered) = request("web", address("10.0.0.1"));
        world.secured.ask(asks);
        assert!(!world.put() && world.secured.is_waiting());
        assert_eq!(world.status(vec![]), address("10.0.0.1"));
        drop(answered);
        world.put();
        assert!(!world.secured.is_waiting());
    }

    #[test]
    fn nothing_told_outlives_its_pod() {
        let mut world = World::new();
        world.status(vec![]);
        let (asks, _keep) = request("web", address("10.0.0.1"));
        world.secured.ask(asks);
        world.put();
        world.wanted.pods.clear();
        world.put();
        assert!(world.wanted.interfaces.is_empty() && world.secured.told.is_empty());
    }
}
