//! Running [`Links`] on a host of the fixture, as the agent does.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use palisade::model::ObjectId;
use palisade::node::{Links, Located, Sought};
use tokio::task::JoinSet;

use crate::netns::{Host, Pod};

/// Longer than the kernel takes to give up on a neighbour (3 s), and to spare.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Runs `work` inside the host with an open [`Links`], whose driver runs in a set of tasks, as the agent's do.
pub fn with_links<T: Send, F: Future<Output = T>>(host: &Host, work: impl FnOnce(Links) -> F + Send) -> T {
    host.namespace.block_on(|| async {
        let (links, driver) = Links::open().expect("netlink sockets");
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        tokio::select! {
            result = tasks.join_next() => panic!("the driver ended: {result:?}"),
            value = work(links) => value,
        }
    })
}

/// The agent locates in a task that may move between threads.
pub fn movable<T: Send>(future: T) -> T {
    future
}

pub fn sought(name: &str, addresses: &[IpAddr]) -> Sought {
    Sought {
        uid: format!("uid-{name}").into(),
        id: ObjectId::new("shop", name),
        addresses: addresses.to_vec(),
        interfaces: Vec::new(),
    }
}

pub fn seek(name: &str, pod: &Pod) -> Sought {
    sought(name, &pod.addresses.list())
}

/// Locates again at every change, as the agent does, until `done`. Panics with what was found when time is up.
pub async fn locate_until(links: &mut Links, pods: &[Sought], done: impl Fn(&Located) -> bool) -> Located {
    let mut last = Located::default();
    let wait = async {
        loop {
            last = movable(links.locate(pods)).await.expect("locate");
            if done(&last) {
                return;
            }
            movable(links.changed()).await.expect("changed");
        }
    };
    if tokio::time::timeout(PATIENCE, wait).await.is_err() {
        panic!("not in {PATIENCE:?}; last: {last:#?}");
    }
    last
}

pub fn places(located: &Located) -> BTreeMap<&str, (u32, &str)> {
    located
        .veths
        .iter()
        .map(|(uid, veth)| (&**uid, (veth.ifindex, &*veth.name)))
        .collect()
}
