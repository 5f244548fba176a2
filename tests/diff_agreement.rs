//! What `palisade diff` lists, against the verdicts before and after: on random clusters with random edits, a packet is listed
//! exactly where its verdict changes, on whatever port, and with what decides.
//!
//! `PALISADE_SEED` repeats a run, `PALISADE_PACKETS` sets its length.

mod oracle;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use oracle::{Oracle, Prober, Rng, apply, random_change, random_cluster, show};
use palisade::cli::{By, Change, Cluster, Decided, Difference, End, Family, Kind, Sides, Verdict};
use palisade::compile::{Decision, RuleInfo, eval};
use palisade::model::{Change as Edit, Direction, Pod, Snapshot};

/// Asked of one cluster before the next is drawn.
const PACKETS: usize = 300;

fn knob(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// An end of a packet: an address, and the pod, where it is one's.
#[derive(Clone, Copy)]
struct At<'a> {
    pod: Option<&'a Pod>,
    address: IpAddr,
}

#[derive(Clone, Copy)]
struct Packet<'a> {
    from: At<'a>,
    to: At<'a>,
    protocol: u8,
    port: u16,
}

/// What decides on either side; `None`: that end is no pod.
type Judged = [Option<Decision>; 2];

fn judge(cluster: &Cluster, packet: Packet<'_>) -> Judged {
    let Packet {
        from,
        to,
        protocol,
        port,
    } = packet;
    let side = |own: At<'_>, direction, peer: At<'_>| {
        let pod = own.pod?;
        let decision = eval(&cluster.image, &pod.uid, direction, peer.address, protocol, port);
        Some(decision.expect("every live pod is in the image"))
    };
    [
        side(from, Direction::Egress, to),
        side(to, Direction::Ingress, from),
    ]
}

fn allowed(judged: Judged) -> bool {
    judged.iter().flatten().all(|decision| decision.allowed)
}

fn is_service(snapshot: &Snapshot, address: IpAddr) -> bool {
    snapshot
        .services
        .iter()
        .any(|service| service.cluster_ips.contains(&address))
}

/// The answer's reader: is this end among those?
fn is_at(ends: &[End], at: At<'_>, snapshot: &Snapshot) -> bool {
    ends.iter().any(|end| match (end, at.pod) {
        (End::Pod { pod, address }, Some(own)) => {
            *pod == own.id.to_string() && address.is_none_or(|address| address == at.address)
        }
        (End::Pod { .. }, None) | (_, Some(_)) => false,
        (End::Service { address, .. } | End::Address { address }, None) => *address == at.address,
        (End::Block { block, except, .. }, None) => {
            block.contains(at.address)
                && !is_service(snapshot, at.address)
                && !except.iter().any(|inner| inner.contains(at.address))
        }
    })
}

fn speaks_of(change: &Change, packet: Packet<'_>, snapshot: &Snapshot) -> bool {
    let family = if packet.from.address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let itself = packet
        .from
        .pod
        .is_some_and(|pod| packet.to.pod.is_some_and(|other| other.id == pod.id));
    !itself
        && change.families.contains(&family)
        && change.ports.contains(packet.protocol, packet.port)
        && is_at(&change.from, packet.from, snapshot)
        && is_at(&change.to, packet.to, snapshot)
}

/// Whether this is what is said to have decided.
fn is_said(said: &Decided, cluster: &Cluster, decision: Decision) -> bool {
    let by = decision.by.map(|key| &cluster.image.rules[&key]);
    let right = match (&said.by, by) {
        (By::Open, None) => true,
        (By::Itself, Some(RuleInfo::Rule(rule))) => rule.index.is_none(),
        (By::Rule { policy, rule }, Some(RuleInfo::Rule(id))) => {
            id.to_string() == format!("{policy} {rule}") && id.index.is_some()
        }
        (By::Audited { policies }, Some(RuleInfo::Audit { policies: found, .. }))
        | (By::Isolated { policies }, Some(RuleInfo::Isolation { policies: found, .. })) => {
            found.iter().map(ToString::to_string).eq(policies.iter().cloned())
        }
        _ => false,
    };
    right
        && (said.verdict != Verdict::Deny) == decision.allowed
        && (said.verdict == Verdict::Audit) == decision.audited
}

fn are_said(
    sides: &Option<Sides>,
    before: (&Cluster, Option<Decision>),
    after: (&Cluster, Option<Decision>),
) -> bool {
    match (sides, before.1, after.1) {
        (None, None, None) => true,
        (Some(sides), Some(earlier), Some(later)) => {
            is_said(&sides.before, before.0, earlier) && is_said(&sides.after, after.0, later)
        }
        _ => false,
    }
}

/// Draws packets at the edges of what the policies of both sides speak of, and anywhere else.
struct Packets<'a> {
    snapshot: &'a Snapshot,
    probers: [Prober<'a>; 2],
}

impl<'a> Packets<'a> {
    fn any(&self, rng: &mut Rng) -> Option<Packet<'a>> {
        let question = rng.pick(&self.probers).question(rng)?;
        let pod = self
            .snapshot
            .pods
            .iter()
            .find(|pod| pod.uid == question.pod_uid)?;
        let peer = self.at(question.peer);
        let own = self.address(rng, pod, peer.address)?;
        let (from, to) = match question.direction {
            Direction::Ingress => (peer, own),
            Direction::Egress => (own, peer),
        };
        let has_ports = [6, 17, 132].contains(&question.protocol);
        let port = match rng.below(3) {
            0 if has_ports => u16::try_from(rng.below(65536)).expect("a port"),
            _ => question.port,
        };
        Some(Packet {
            from,
            to,
            protocol: question.protocol,
            port,
        })
    }

    fn at(&self, address: IpAddr) -> At<'a> {
        let pod = Oracle::new(self.snapshot).owner(address);
        At { pod, address }
    }

    fn address(&self, rng: &mut Rng, pod: &'a Pod, family: IpAddr) -> Option<At<'a>> {
        let of_family = |address: &&IpAddr| address.is_ipv4() == family.is_ipv4();
        let own: Vec<IpAddr> = pod.addresses.iter().filter(of_family).copied().collect();
        let address = *rng.pick(if own.is_empty() { return None } else { &own });
        Some(At {
            pod: Some(pod),
            address,
        })
    }

    /// One that the change speaks of, as far as that can be had without reading more than the ends.
    fn of(&self, rng: &mut Rng, change: &Change) -> Option<Packet<'a>> {
        let family = rng.pick(&change.families);
        let end = |rng: &mut Rng, ends: &[End]| match rng.pick(ends) {
            End::Pod { pod, .. } => {
                let pod = self
                    .snapshot
                    .pods
                    .iter()
                    .find(|known| known.id.to_string() == *pod)?;
                let any: IpAddr = match family {
                    Family::V4 => "0.0.0.0",
                    Family::V6 => "::",
                }
                .parse()
                .expect("an address");
                self.address(rng, pod, any)
            }
            End::Service { address, .. } | End::Address { address } | End::Block { address, .. } => {
                Some(At {
                    pod: None,
                    address: *address,
                })
            }
        };
        let (from, to) = (end(rng, &change.from)?, end(rng, &change.to)?);
        let protocol = *rng.pick(&[6, 17, 132, 1, 47]);
        let port = match rng.below(2) {
            0 => u16::try_from(rng.below(65536)).expect("a port"),
            _ => *rng.pick(&[0, 1, 53, 79, 80, 81, 443, 8080, 8081, 65535]),
        };
        Some(Packet {
            from,
            to,
            protocol,
            port,
        })
    }
}

#[derive(Default)]
struct Tally {
    packets: u64,
    changed: BTreeMap<Kind, u64>,
    elsewhere: u64,
    changes: u64,
}

fn edited(rng: &mut Rng, before: &Snapshot) -> Snapshot {
    let mut after = before.clone();
    let mut number = 0;
    for _ in 0..rng.between(1, 4) {
        let edit = loop {
            number += 1;
            let edit = random_change(rng, &after, number);
            if matches!(edit, Edit::Policy(_) | Edit::PolicyGone { .. }) {
                break edit;
            }
        };
        apply(&mut after, &edit);
    }
    after
}

fn check(rng: &mut Rng, tally: &mut Tally) -> Result<(), String> {
    let snapshot = random_cluster(rng);
    let edited = edited(rng, &snapshot);
    let cluster = |snapshot: &Snapshot| Cluster::new(snapshot.clone(), Vec::new(), BTreeMap::new());
    let (before, after) = (cluster(&snapshot), cluster(&edited));
    let difference = Difference::between(&before, &after);
    tally.changes += difference.changes.len() as u64;
    let packets = Packets {
        snapshot: &snapshot,
        probers: [Prober::new(&snapshot), Prober::new(&edited)],
    };
    for _ in 0..PACKETS {
        let drawn = match difference.changes.as_slice() {
            changes if !changes.is_empty() && rng.one_in(2) => packets.of(rng, rng.clone().pick(changes)),
            _ => packets.any(rng),
        };
        let is_sent = |packet: &Packet<'_>| {
            let from = packet.from.address;
            from.is_ipv4() == packet.to.address.is_ipv4()
                && (packet.from.pod.is_some() || !is_service(&snapshot, from))
        };
        let Some(packet) = drawn.filter(is_sent) else {
            continue;
        };
        let [earlier, later] = [&before, &after].map(|cluster| judge(cluster, packet));
        let expected = match (allowed(earlier), allowed(later)) {
            (true, false) => Some(Kind::Lost),
            (false, true) => Some(Kind::Gained),
            _ => None,
        };
        let speaking: Vec<&Change> = (difference.changes.iter())
            .filter(|change| speaks_of(change, packet, &snapshot))
            .collect();
        tally.packets += 1;
        if let Some(kind) = expected {
            *tally.changed.entry(kind).or_default() += 1;
            tally.elsewhere += u64::from(packet.from.pod.is_none() || packet.to.pod.is_none());
        }
        let right = match (speaking.as_slice(), expected) {
            ([], None) => true,
            ([change], Some(kind)) => {
                let side = |side: usize| ((&before, earlier[side]), (&after, later[side]));
                change.change == kind
                    && are_said(&change.egress, side(0).0, side(0).1)
                    && are_said(&change.ingress, side(1).0, side(1).1)
            }
            _ => false,
        };
        if !right {
            let name = |at: At<'_>| format!("{} ({:?})", at.address, at.pod.map(|pod| pod.id.to_string()));
            return Err(format!(
                "{} -> {} protocol {} port {}: {expected:?}, by {earlier:?} and {later:?}, but listed is {speaking:#?}\n\
                 before:\n{}\nafter:\n{}",
                name(packet.from),
                name(packet.to),
                packet.protocol,
                packet.port,
                show(&snapshot),
                show(&edited)
            ));
        }
    }
    Ok(())
}

#[test]
fn what_is_listed_is_what_changes() {
    let seed = knob("PALISADE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970");
        now.as_nanos() as u64
    });
    let wanted = knob("PALISADE_PACKETS").unwrap_or(60_000);
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    while tally.packets < wanted {
        if let Err(wrong) = check(&mut rng, &mut tally) {
            panic!("PALISADE_SEED={seed}\n{wrong}");
        }
    }
    let Tally {
        packets,
        changed,
        elsewhere,
        changes,
    } = &tally;
    println!(
        "{packets} packets, of which {changed:?} changed, {elsewhere} of them with what is no pod; {changes} changes listed"
    );
    for kind in [Kind::Lost, Kind::Gained] {
        let count = changed.get(&kind).copied().unwrap_or_default();
        assert!(
            count * 50 > *packets,
            "PALISADE_SEED={seed}: hardly a packet is {kind:?}: {changed:?}"
        );
    }
    assert!(
        elsewhere * 50 > *packets,
        "PALISADE_SEED={seed}: hardly a change with what is no pod"
    );
}
