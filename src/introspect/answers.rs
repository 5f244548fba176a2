//! Answers, put together from what the loop has published and what the kernel says at the moment. Each blocks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

use super::Answers;
use super::answer::Refusal;
use super::filter::{ConntrackQuery, Name, ObjectQuery};
use super::flow::{End, RULE};
use super::journal::unknown;
use super::snapshot::{Snapshot, policy_of};
use super::spelling;
use super::state::*;
use crate::bpf::{CounterReader, Map, Tracked, interface_name};
use crate::compile::{PodDirection, PodImage, Psid, RuleInfo, RuleKey};
use crate::model::{Direction, ObjectId};

/// Those that only the programs fill: they are counted when somebody asks.
const FILLED_BY_PROGRAMS: [Map; 3] = [Map::Ct4, Map::Ct6, Map::Frag];

impl Answers {
    pub(super) fn status(&self) -> Status {
        let snapshot = self.snapshot.load();
        let agent = &self.agent;
        let inspector = &agent.inspector;
        let waiting_for: Vec<String> = agent
            .readiness
            .pending()
            .into_iter()
            .map(ToString::to_string)
            .collect();
        let (held, [lost_by_kernel, lost_by_agent]) = self.journal.counts();
        let isolating: BTreeSet<ObjectId> = isolations(&snapshot).into_keys().collect();
        Status {
            node: agent.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            source: agent.source.clone(),
            started: self.started,
            ready: waiting_for.is_empty(),
            waiting_for,
            leader: agent.leader.as_ref().map(|leader| leader.get() == 1),
            kernel: Kernel {
                release: rustix::system::uname().release().to_string_lossy().into_owned(),
                attach: if inspector.uses_tcx() { "tcx" } else { "clsact" }.into(),
                pin_path: inspector.pin_path().display().to_string(),
                abi_version: inspector.abi_version(),
                adopted: agent.adopted,
                notices: agent.notices.clone(),
            },
            pods: snapshot.pods.len(),
            interfaces: snapshot.attachments.len(),
            policies: snapshot.endpoints.len(),
            policies_in_force: isolating.len(),
            last_change: snapshot.last_change.map(|change| LastChange {
                time: change.time,
                took_milliseconds: (change.took.as_secs_f64() * 1e6).round() / 1e3,
                map_writes: change.map_writes,
                flips: change.flips,
            }),
            queue: Queue {
                incomplete: snapshot.incomplete,
                refused: snapshot.refused,
                retry: snapshot.retry,
                untidy: snapshot.untidy,
                waiting_pods: snapshot.waiting,
            },
            watches: snapshot.watches.map(|watches| WatchState {
                watches: watches.watches,
                failing: watches.failing,
                errors: watches.errors,
            }),
            flows: FlowState {
                held,
                lost_by_kernel,
                lost_by_agent,
            },
            problems: snapshot.problems.to_vec(),
            metrics: format!("http://{}/metrics", agent.metrics),
        }
    }

    pub(super) fn pods(&self, query: &ObjectQuery) -> Result<Vec<PodState>, Refusal> {
        let snapshot = self.snapshot.load();
        let rules = rules(&snapshot);
        let mut interfaces: BTreeMap<&Arc<str>, Vec<Interface>> = BTreeMap::new();
        for attachment in &*snapshot.attachments {
            let interface = Interface {
                ifindex: attachment.ifindex,
                name: interface_name(attachment.ifindex),
            };
            interfaces.entry(&attachment.uid).or_default().push(interface);
        }
        let mut found: Vec<PodState> = (snapshot.pods.iter())
            .filter(|(_, pod)| query.takes(&pod.id))
            .map(|(uid, pod)| PodState {
                node: self.agent.node.clone(),
                pod: pod.id.clone(),
                uid: uid.clone(),
                addresses: pod.addresses.clone(),
                source_prefixes: pod.source_prefixes.iter().map(ToString::to_string).collect(),
                interfaces: interfaces.remove(uid).unwrap_or_default(),
                ingress: direction_state(pod.ingress, &rules),
                egress: direction_state(pod.egress, &rules),
                log_allowed: pod.log_allowed,
            })
            .collect();
        found.sort_by(|a, b| (&a.pod, &a.uid).cmp(&(&b.pod, &b.uid)));
        if found.is_empty() {
            query.refuse("pod", snapshot.pods.values().map(|pod| &pod.id))?;
        }
        Ok(found)
    }

    pub(super) fn policies(&self, query: &ObjectQuery) -> Result<Vec<PolicyState>, Refusal> {
        let snapshot = self.snapshot.load();
        let counted = Counted::read(snapshot.counters.as_ref()).map_err(failed)?;
        let mut isolated = isolations(&snapshot);
        let mut found = Vec::new();
        for slices in snapshot.endpoints.values() {
            let Some(policy) = slices.first().map(|slice| policy_of(slice)) else {
                continue;
            };
            if !query.takes(&policy) {
                continue;
            }
            let directions: BTreeSet<Direction> = slices
                .iter()
                .flat_map(|slice| slice.spec.pod_isolation.iter().copied())
                .collect();
            let entries =
                |slice: &Arc<crate::api::PolicyEndpoint>| slice.spec.ingress.len() + slice.spec.egress.len();
            found.push(PolicyState {
                node: self.agent.node.clone(),
                directions: directions.iter().map(ToString::to_string).collect(),
                pods: isolated.remove(&policy).unwrap_or_default().into_iter().collect(),
                slices: slices.len(),
                entries: slices.iter().map(entries).sum(),
                allowed: counted.allowed.get(&policy).copied().unwrap_or_default(),
                denied: counted.denied.get(&policy).copied().unwrap_or_default(),
                audited: counted.audited.get(&policy).copied().unwrap_or_default(),
                policy,
            });
        }
        found.sort_by(|a, b| a.policy.cmp(&b.policy));
        if found.is_empty() {
            query.refuse("policy", snapshot.policies().iter())?;
        }
        Ok(found)
    }

    pub(super) fn maps(&self) -> Result<Vec<MapState>, Refusal> {
        let snapshot = self.snapshot.load();
        let fill: HashMap<Map, u32> = snapshot
            .counters
            .iter()
            .flat_map(CounterReader::fill)
            .map(|fill| (fill.map, fill.entries))
            .collect();
        let inspector = &self.agent.inspector;
        let state = |info: crate::bpf::MapInfo| -> Result<MapState> {
            let entries = match FILLED_BY_PROGRAMS.contains(&info.map) {
                true => Some(inspector.count(info.map)?),
                false => fill.get(&info.map).map(|entries| u64::from(*entries)),
            };
            Ok(MapState {
                node: self.agent.node.clone(),
                map: info.map.name().into(),
                id: info.id,
                kind: info.kind.into(),
                key_bytes: info.key_bytes,
                value_bytes: info.value_bytes,
                entries,
                capacity: info.capacity,
                memory_bytes: info.memory_bytes,
                flag: info.map.flag().into(),
            })
        };
        let states: Result<Vec<_>> = inspector.maps().into_iter().map(state).collect();
        states.map_err(failed)
    }

    pub(super) fn programs(&self) -> Result<Vec<ProgramState>, Refusal> {
        let snapshot = self.snapshot.load();
        let inspector = &self.agent.inspector;
        let programs = inspector.programs().map_err(failed)?;
        let hooked: Vec<_> = (snapshot.attachments.iter())
            .map(|attachment| {
                let name = interface_name(attachment.ifindex);
                let name = name.unwrap_or_else(|| format!("{} (gone)", attachment.ifindex));
                (name, inspector.hooked(attachment.ifindex))
            })
            .collect();
        let state = |program: crate::bpf::ProgramInfo| {
            let has = |is: bool| -> Vec<String> {
                let found = hooked
                    .iter()
                    .filter(|(_, hooked)| hooked[program.direction as usize].program == Some(program.id));
                let found: Vec<&String> = found.map(|(name, _)| name).collect();
                let all = hooked.iter().map(|(name, _)| name);
                all.filter(|name| found.contains(name) == is).cloned().collect()
            };
            ProgramState {
                node: self.agent.node.clone(),
                program: program.name.into(),
                direction: program.direction,
                id: program.id,
                loaded: since_start(program.loaded),
                verified_instructions: program.verified_instructions,
                jited_bytes: program.jited_bytes,
                runs: program.runs,
                run_nanoseconds: u64::try_from(program.run_time.as_nanos()).unwrap_or(u64::MAX),
                interfaces: has(true),
                missing: has(false),
                tag: program.tag,
            }
        };
        Ok(programs.into_iter().map(state).collect())
    }

    pub(super) fn conntrack(&self, query: &ConntrackQuery) -> Result<Conntrack, Refusal> {
        let snapshot = self.snapshot.load();
        if let Some(pod) = &query.pod {
            let ids = || snapshot.pods.values().map(|pod| &pod.id);
            if !ids().any(|id| pod.is(id)) {
                return Err(unknown("pod", pod, ids()));
            }
        }
        let infos = snapshot
            .counters
            .as_ref()
            .map(CounterReader::infos)
            .unwrap_or_default();
        let mut answer = Conntrack {
            flows: Vec::new(),
            more: false,
        };
        let visit = |flow: Tracked| {
            let pod = snapshot
                .slots
                .get(&flow.slot)
                .and_then(|uid| snapshot.pods.get(uid))
                .map(|pod| pod.id.clone());
            if !query.takes(&flow, pod.as_ref()) {
                return ControlFlow::Continue(());
            }
            if answer.flows.len() >= query.limit {
                answer.more = true;
                return ControlFlow::Break(());
            }
            answer.flows.push(self.conntrack_flow(flow, pod, &infos));
            ControlFlow::Continue(())
        };
        self.agent.inspector.flows(visit).map_err(failed)?;
        for flow in &mut answer.flows {
            let (mut source, mut destination) = (Some(flow.source.clone()), Some(flow.destination.clone()));
            self.journal.name([&mut source, &mut destination]);
            if let (Some(source), Some(destination)) = (source, destination) {
                (flow.source, flow.destination) = (source, destination);
            }
        }
        Ok(answer)
    }

    fn conntrack_flow(
        &self,
        flow: Tracked,
        pod: Option<ObjectId>,
        infos: &HashMap<u32, RuleInfo>,
    ) -> ConntrackFlow {
        let end = |address: IpAddr, port: u16| End {
            address,
            port: (port != 0).then_some(port),
            pod: None,
            service: None,
        };
        let (local, remote) = (
            end(flow.local, flow.local_port),
            end(flow.remote, flow.remote_port),
        );
        let (source, destination) = match flow.direction {
            Direction::Egress => (local, remote),
            Direction::Ingress => (remote, local),
        };
        let (reason, policies, rule) = match (CounterReader::reason(flow.counter), infos.get(&flow.counter)) {
            (Some(reason), _) => (reason.name(), Vec::new(), None),
            (None, Some(RuleInfo::Rule(rule))) => {
                (RULE, vec![rule.policy.clone()], Some(spelling::place(rule)))
            }
            // Of a rule that is no more; its next packet is judged anew.
            (None, _) => (RULE, Vec::new(), None),
        };
        ConntrackFlow {
            node: self.agent.node.clone(),
            pod,
            ifindex: flow.ifindex,
            direction: flow.direction,
            source,
            destination,
            protocol: spelling::protocol_number(flow.protocol).into_owned(),
            state: flow.state.name().into(),
            idle_seconds: flow.idle.as_secs(),
            reason: reason.into(),
            policies,
            rule,
            current: flow.current,
        }
    }
}

pub(super) fn failed(error: anyhow::Error) -> Refusal {
    Refusal::new(500, format!("{error:#}"), "see the agent's log")
}

pub(super) fn rules(snapshot: &Snapshot) -> HashMap<RuleKey, &RuleInfo> {
    snapshot
        .counters
        .as_ref()
        .map(|counters| counters.rules().collect())
        .unwrap_or_default()
}

pub(super) fn direction_state(
    direction: PodDirection,
    rules: &HashMap<RuleKey, &RuleInfo>,
) -> DirectionState {
    let isolation = direction.denied_by.or(direction.audited_by);
    DirectionState {
        state: match direction.psid {
            Psid::OPEN => Isolation::Open,
            Psid::UNKNOWN => Isolation::Unknown,
            _ if direction.audited_by.is_some() => Isolation::Audit,
            _ => Isolation::Isolated,
        },
        policies: match isolation.and_then(|key| rules.get(&key)) {
            Some(RuleInfo::Isolation { policies, .. } | RuleInfo::Audit { policies, .. }) => {
                policies.to_vec()
            }
            _ => Vec::new(),
        },
        rule_set: format!("{:08x}", direction.psid.0),
    }
}

/// Pods here that each policy isolates.
fn isolations(snapshot: &Snapshot) -> BTreeMap<ObjectId, BTreeSet<ObjectId>> {
    let rules = rules(snapshot);
    let mut isolated: BTreeMap<ObjectId, BTreeSet<ObjectId>> = BTreeMap::new();
    let directions = |pod: &PodImage| [pod.ingress, pod.egress];
    for pod in snapshot.pods.values() {
        for direction in directions(pod) {
            for policy in direction_state(direction, &rules).policies {
                isolated.entry(policy).or_default().insert(pod.id.clone());
            }
        }
    }
    isolated
}

/// Packets by policy.
#[derive(Default)]
struct Counted {
    allowed: HashMap<ObjectId, Count>,
    denied: HashMap<ObjectId, Count>,
    audited: HashMap<ObjectId, Count>,
}

impl Counted {
    fn read(reader: Option<&CounterReader>) -> Result<Self> {
        let mut counted = Self::default();
        let Some(reader) = reader else {
            return Ok(counted);
        };
        let counters = reader.read()?;
        for (key, info) in reader.rules() {
            let Some(more) = counters.rules.get(&key) else {
                continue;
            };
            let (sums, policies) = match info {
                RuleInfo::Rule(rule) => (&mut counted.allowed, std::slice::from_ref(&rule.policy)),
                RuleInfo::Isolation { policies, .. } => (&mut counted.denied, &policies[..]),
                RuleInfo::Audit { policies, .. } => (&mut counted.audited, &policies[..]),
            };
            for policy in policies {
                let sum = sums.entry(policy.clone()).or_default();
                sum.packets += more.packets;
                sum.bytes += more.bytes;
            }
        }
        Ok(counted)
    }
}

/// The wall clock's time of what happened so long after the machine's start.
fn since_start(after: std::time::Duration) -> Timestamp {
    let up = clock_gettime(ClockId::Boottime);
    let up = SignedDuration::new(up.tv_sec, i32::try_from(up.tv_nsec).unwrap_or(0));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = SignedDuration::try_from(now).unwrap_or_default() - up
        + SignedDuration::try_from(after).unwrap_or_default();
    Timestamp::from_duration(time).unwrap_or_default()
}

impl ObjectQuery {
    fn takes(&self, id: &ObjectId) -> bool {
        self.name.as_ref().is_none_or(|name| name.is(id))
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == id.namespace)
    }

    /// Where nothing fits what is asked for by name.
    fn refuse<'i>(
        &self,
        kind: &str,
        known: impl Iterator<Item = &'i ObjectId> + Clone,
    ) -> Result<(), Refusal> {
        match (&self.name, &self.namespace) {
            (Some(name), _) => Err(unknown(kind, name, known)),
            (None, Some(namespace)) => {
                let namespaces: BTreeSet<&Arc<str>> = known.map(|id| &id.namespace).collect();
                Err(unknown("namespace", namespace, namespaces.into_iter()))
            }
            (None, None) => Ok(()),
        }
    }
}

impl ConntrackQuery {
    fn takes(&self, flow: &Tracked, pod: Option<&ObjectId>) -> bool {
        let is = |name: &Name| pod.is_some_and(|id| name.is(id));
        self.pod.as_ref().is_none_or(is)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| pod.is_some_and(|id| id.namespace == *namespace))
            && self.port.is_none_or(|port| {
                let asked = match flow.direction {
                    Direction::Egress => flow.remote_port,
                    Direction::Ingress => flow.local_port,
                };
                asked == port
            })
    }
}
