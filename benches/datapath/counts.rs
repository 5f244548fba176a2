//! How many writes into the kernel a change takes, and how many bytes of kernel memory a peer.

use std::net::IpAddr;

use palisade::api::Entry;
use palisade::bpf::{Applied, Config, Kernel};
use palisade::compile::{Endpoints, diff};
use palisade::model::Direction;

use super::node::{endpoints, entry, image, object, port};

const RULES: usize = 10;
/// No peer of [`endpoints`].
const NEWCOMER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 200, 0, 1));

/// What each change took.
#[derive(Debug)]
pub struct Counts {
    /// One address more that a rule for a local pod admits.
    pub remote_pod: Applied,
    pub remote_pod_gone: Applied,
    /// One address more that a rule for pods elsewhere admits.
    pub irrelevant_pod: Applied,
    /// A policy begins to isolate a local pod in one direction.
    pub pod_isolated: Applied,
    /// That policy's rule is another.
    pub pod_flip: Applied,
    /// Nothing changed since an earlier process.
    pub restart: Applied,
}

/// On a node with `peers` peers of each family.
pub fn count(config: &Config, peers: usize) -> anyhow::Result<Counts> {
    let mut wanted = endpoints(peers, RULES);
    let mut kernel = Kernel::open(config)?;
    reach(&mut kernel, &wanted)?;
    let admit = |name: &str, app: &str, isolates: &[Direction], entries: &[Entry], wanted: &mut Endpoints| {
        let objects = wanted.entry(name.into()).or_default();
        objects.push(object(name, app, isolates, entries));
    };

    let newcomer = [entry(NEWCOMER, port(0, RULES), 0)];
    admit("policy-0", "web", &Direction::ALL, &newcomer, &mut wanted);
    let remote_pod = reach(&mut kernel, &wanted)?;
    wanted
        .get_mut("policy-0")
        .into_iter()
        .for_each(|objects| drop(objects.pop()));
    let remote_pod_gone = reach(&mut kernel, &wanted)?;
    admit("elsewhere", "not-here", &Direction::ALL, &newcomer, &mut wanted);
    let irrelevant_pod = reach(&mut kernel, &wanted)?;

    let door = |port| [entry(NEWCOMER, port, 0)];
    admit("door", "open", &[Direction::Ingress], &door(80), &mut wanted);
    let pod_isolated = reach(&mut kernel, &wanted)?;
    wanted.remove("door");
    admit("door", "open", &[Direction::Ingress], &door(81), &mut wanted);
    let pod_flip = reach(&mut kernel, &wanted)?;

    drop(kernel);
    let restart = reach(&mut Kernel::open(config)?, &wanted)?;
    Ok(Counts {
        remote_pod,
        remote_pod_gone,
        irrelevant_pod,
        pod_isolated,
        pod_flip,
        restart,
    })
}

fn reach(kernel: &mut Kernel, wanted: &Endpoints) -> anyhow::Result<Applied> {
    Ok(kernel.apply(&diff(kernel.image(), &image(wanted)))?)
}

/// Bytes of kernel memory that each of `peers` addresses takes, above what the maps take without: IPv4, IPv6. 0: this kernel does
/// not account for entries (before 6.4).
pub fn memory(config: &Config, peers: usize) -> anyhow::Result<[f64; 2]> {
    let mut kernel = Kernel::open(config)?;
    let mut each = [0.0; 2];
    for (family, each) in each.iter_mut().enumerate() {
        let total = |kernel: &Kernel| -> anyhow::Result<u64> { Ok(kernel.memory()?.values().sum()) };
        reach(&mut kernel, &Endpoints::new())?;
        let empty = total(&kernel)?;
        let entries: Vec<Entry> = (0..peers)
            .map(|peer| {
                entry(
                    super::node::peer_addresses(peer)[family],
                    port(peer, RULES),
                    peer % RULES,
                )
            })
            .collect();
        let objects = entries
            .chunks(200)
            .map(|slice| object("wide", "web", &Direction::ALL, slice));
        reach(&mut kernel, &[("wide".into(), objects.collect())].into())?;
        *each = total(&kernel)?.saturating_sub(empty) as f64 / peers as f64;
    }
    Ok(each)
}
