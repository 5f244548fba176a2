//! From what the programs report to records with names.
//!
//! In, by [`Reporter`], from the loop of a node: packets with the pod and the rule that only the loop can tell, whose addresses there
//! are, losses. Out: records for the readers of flows, and the log. The loop waits for nothing here: what comes faster than it is
//! recorded is lost, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::book::Known;
use super::flow::{End, Flow, ISOLATION, Loser, Lost, RULE, Record, Verdict};
use super::journal::Journal;
use super::snapshot::Snapshot;
use super::spelling;
use crate::bpf::{Event, Reason};
use crate::compile::RuleInfo;
use crate::model::ObjectId;

/// Packets that wait to be recorded; what comes on top is lost.
const WAITING: usize = 1024;
/// How often the machine's clock is compared with the programs' one.
const COMPARE: Duration = Duration::from_secs(1);

/// A packet as the loop has it: what its numbers stand for is the kernel's at that moment.
#[derive(Clone, Debug)]
pub struct Seen {
    pub event: Event,
    pub pod: Option<ObjectId>,
    /// What its counter stands for; `None` where no policy decided.
    pub rule: Option<RuleInfo>,
}

/// The loop's end. None of it waits.
#[derive(Debug)]
pub struct Reporter {
    seen: mpsc::Sender<Seen>,
    known: mpsc::UnboundedSender<Known>,
    lost: Arc<[AtomicU64; 2]>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl Reporter {
    /// What is in force from now on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    pub fn seen(&self, seen: Seen) {
        if self.seen.try_send(seen).is_err() {
            self.lost(1, Loser::Agent);
        }
    }

    /// Names count from the next packets on.
    pub fn known(&self, known: impl IntoIterator<Item = Known>) {
        for known in known {
            // Without a recorder nobody asks.
            let _ = self.known.send(known);
        }
    }

    /// Packets that nobody will see.
    pub fn lost(&self, count: u64, by: Loser) {
        let place = usize::from(by == Loser::Agent);
        self.lost[place].fetch_add(count, Ordering::Relaxed);
    }
}

/// Writes the journal.
#[derive(Debug)]
pub struct Recorder {
    node: Arc<str>,
    journal: Arc<Journal>,
    seen: mpsc::Receiver<Seen>,
    known: mpsc::UnboundedReceiver<Known>,
    lost: Arc<[AtomicU64; 2]>,
    clock: Clock,
}

pub(super) fn channel(
    node: Arc<str>,
    journal: Arc<Journal>,
    snapshot: Arc<ArcSwap<Snapshot>>,
) -> (Reporter, Recorder) {
    let (send_seen, seen) = mpsc::channel(WAITING);
    let (send_known, known) = mpsc::unbounded_channel();
    let lost: Arc<[AtomicU64; 2]> = Arc::default();
    let reporter = Reporter {
        seen: send_seen,
        known: send_known,
        lost: lost.clone(),
        snapshot,
    };
    let recorder = Recorder {
        node,
        journal,
        seen,
        known,
        lost,
        clock: Clock::new(),
    };
    (reporter, recorder)
}

impl Recorder {
    /// Records until `shutdown`, or until the loop has ended.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        let mut tick = tokio::time::interval(COMPARE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                known = self.known.recv() => match known {
                    Some(known) => {
                        self.journal.learn(known);
                        // There is one thread, and the loop is to have its turn.
                        tokio::task::yield_now().await;
                    }
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    self.clock = Clock::new();
                    self.note_lost();
                }
                Some(seen) = self.seen.recv() => {
                    let flow = self.flow(seen);
                    log(&flow);
                    self.journal.push(Record::Flow(flow));
                }
            }
        }
    }

    fn note_lost(&self) {
        for (by, count) in [Loser::Kernel, Loser::Agent].into_iter().zip(&*self.lost) {
            let lost = count.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.journal.push(Record::Lost(Lost {
                    time: Timestamp::now(),
                    node: self.node.clone(),
                    lost,
                    by,
                }));
            }
        }
    }

    fn flow(&self, Seen { event, pod, rule }: Seen) -> Flow {
        let (reason, policies, rule) = match rule {
            Some(RuleInfo::Rule(rule)) => (RULE, vec![rule.policy.clone()], Some(spelling::place(&rule))),
            Some(RuleInfo::Isolation { policies, .. }) => (ISOLATION, policies.to_vec(), None),
            Some(RuleInfo::Audit { policies, .. }) => {
                let reason = match event.reason {
                    Reason::Policy => ISOLATION,
                    reason => reason.name(),
                };
                (reason, policies.to_vec(), None)
            }
            None => (event.reason.name(), Vec::new(), None),
        };
        let protocol = spelling::protocol(event.ethertype, event.protocol);
        let is_icmp = protocol == spelling::ICMP || protocol == spelling::ICMPV6;
        let end = |address: Option<std::net::IpAddr>, port: u16| {
            address.map(|address| End {
                address,
                port: (port != 0 && !is_icmp).then_some(port),
                pod: None,
                service: None,
            })
        };
        let mut flow = Flow {
            time: self.clock.at(event.time),
            node: self.node.clone(),
            verdict: match event {
                Event { audited: true, .. } => Verdict::Audit,
                Event { allowed: true, .. } => Verdict::Allowed,
                _ => Verdict::Denied,
            },
            direction: event.direction,
            reason: reason.into(),
            pod,
            ifindex: event.ifindex,
            policies,
            rule,
            source: end(event.source, event.source_port),
            destination: end(event.destination, event.destination_port),
            tcp_flags: (protocol == "TCP").then(|| spelling::tcp_flags(event.tcp_flags)),
            icmp_type: is_icmp.then_some(event.icmp_type),
            protocol,
            length: event.length,
        };
        self.journal.name([&mut flow.source, &mut flow.destination]);
        flow
    }
}

/// One line a packet: who to whom, what became of it, and by which policy or for which reason.
fn log(flow: &Flow) {
    let pod = flow
        .pod
        .as_ref()
        .map_or_else(|| format!("interface {}", flow.ifindex), ToString::to_string);
    let end = |end: &Option<End>| end.as_ref().map_or("-".into(), End::address_and_port);
    info!(
        target: "palisade::flow",
        pod,
        direction = %flow.direction,
        source = end(&flow.source),
        destination = end(&flow.destination),
        protocol = %flow.protocol,
        by = flow.because(),
        "{}", flow.verdict
    );
}

/// What the programs' clock is behind the machine's.
#[derive(Clone, Copy, Debug)]
struct Clock {
    offset: SignedDuration,
}

impl Clock {
    fn new() -> Self {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let monotonic = SignedDuration::new(monotonic.tv_sec, i32::try_from(monotonic.tv_nsec).unwrap_or(0));
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = SignedDuration::try_from(now).unwrap_or_default();
        Self {
            offset: now - monotonic,
        }
    }

    fn at(&self, monotonic: Duration) -> Timestamp {
        let time = SignedDuration::try_from(monotonic).ok();
        time.and_then(|time| self.offset.checked_add(time))
            .and_then(|time| Timestamp::from_duration(time).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_clock_is_told_as_the_machines() {
        let clock = Clock::new();
        let now = clock_gettime(ClockId::Monotonic);
        let at = clock.at(Duration::new(now.tv_sec as u64, now.tv_nsec as u32));
        let off = at.duration_since(Timestamp::now()).abs();
        assert!(off < SignedDuration::from_secs(1), "{at}: {off:?}");
    }
}
