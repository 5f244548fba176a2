//! `palisade explain`: whether one pod or address may reach another, and which policy and rule decide.
//!
//! The verdicts are [`eval`]'s. The reasons for a denial are read off the policies as they are written.

#[cfg(test)]
mod agreement;
mod kernel;
mod missing;
mod nearest;
mod print;
mod reason;
mod reported;
mod side;

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use serde::Serialize;

pub use self::kernel::Kernel;
pub use self::missing::{Missing, Nearest, Whose};
use self::reason::Packet;
pub use self::reported::Reported;
use self::side::Side;
use super::cluster::Cluster;
use super::{Family, Outcome, Traffic, Verdict, as_text, rule_path, warn, write_json};
use crate::args::{self, Asked, Explain, Output};
use crate::compile::{RuleInfo, eval};
use crate::model::{Direction, Pod, Policy, RuleId, Service, ServicePort};

/// What `palisade explain -o json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub from: Party,
    pub to: Party,
    /// As in `80/TCP`.
    #[serde(serialize_with = "as_text")]
    pub port: Traffic,
    /// One for each pair of addresses of one family; none where the two have no family in common.
    pub flows: Vec<Flow>,
    /// What else is to know about the two.
    pub notes: Vec<String>,
    /// What a flow's line tells, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
}

/// One side of the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Party {
    /// `namespace/name`; absent for an address that is no live pod's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `namespace/name` of the Service whose ClusterIP this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    pub family: Family,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// On the source's side.
    pub egress: Deciding,
    /// On the destination's side.
    pub ingress: Deciding,
    /// Both.
    pub verdict: Verdict,
}

/// A ready backend of a Service, and what its own side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    pub address: IpAddr,
    /// As in `8080/TCP`: the port after translation.
    #[serde(serialize_with = "as_text")]
    pub port: Traffic,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    pub ingress: Deciding,
}

/// The verdict of one side and what decides it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deciding {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub because: Because,
    /// What the maps of this node's kernel say, where the pod is on it and its agent answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "because", rename_all = "camelCase")]
pub enum Because {
    /// Policies have no say on this side.
    NotSubject { detail: String },
    /// The address is a Service's ClusterIP: one of these takes the packet, and the verdict is what all of them say.
    Service {
        /// `namespace/name`.
        service: String,
        /// The ready backends of the port; none where the Service has no such port.
        backends: Vec<Backend>,
    },
    /// No policy selects the pod in this direction.
    Open,
    /// A pod always reaches itself, through its own Service too.
    Itself,
    /// The first rule that allows.
    Rule {
        #[serde(flatten)]
        by: NamedRule,
        /// The others that allow it too; none: without that one it is denied.
        others: Vec<NamedRule>,
        /// All policies that isolate the pod in this direction, as `namespace/name`.
        #[serde(rename = "isolatedBy")]
        isolated_by: Vec<String>,
    },
    /// These policies isolate the pod and none allows.
    Isolated {
        policies: Vec<IsolatingPolicy>,
        /// Absent where no rule could come to allow it.
        #[serde(skip_serializing_if = "Option::is_none")]
        nearest: Option<Nearest>,
    },
    /// These policies in audit would isolate the pod and none would allow; no other isolates it.
    Audited {
        policies: Vec<IsolatingPolicy>,
        /// As for those that isolate.
        #[serde(skip_serializing_if = "Option::is_none")]
        nearest: Option<Nearest>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NamedRule {
    /// `namespace/name`.
    pub policy: String,
    /// Path in the policy, as in `spec.ingress[0]`.
    pub rule: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IsolatingPolicy {
    /// `namespace/name`.
    pub policy: String,
    /// Why each of its rules does not allow; empty where it has none in this direction.
    pub rules: Vec<RuleReason>,
    /// Not all of it could be read or enforced as written: `palisade check` says what.
    pub problems: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReason {
    /// Path in the policy, as in `spec.ingress[0]`.
    pub rule: String,
    pub reason: String,
}

/// Fails where the folder, the output, or the name of a pod fails.
pub fn explain(question: &Explain, out: &mut dyn Write) -> Result<Outcome> {
    let Explain {
        from,
        asked,
        socket,
        output,
    } = question;
    let cluster = Cluster::load(from)?;
    warn(&cluster.problems)?;
    let mut explanation = match asked {
        Asked::Packet(packet) => Explanation::of(&cluster, packet)?,
        Asked::Flow(line) => {
            let question = reported::read(line, &cluster)?;
            let mut explanation = Explanation::of(&cluster, &question.packet)?;
            question.compare(&mut explanation);
            explanation
        }
    };
    explanation.ask_kernel(socket)?;
    match output {
        Output::Json => write_json(out, &explanation)?,
        Output::Text => print::explanation(out, &explanation)?,
    }
    Ok(Outcome::Done)
}

impl Explanation {
    /// Fails where there is no such pod.
    pub fn of(cluster: &Cluster, packet: &args::Packet) -> Result<Self> {
        let args::Packet {
            source,
            destination,
            traffic,
        } = packet;
        let source = Side::find(cluster, source)?;
        let destination = Side::find(cluster, destination)?;
        Ok(Self::between(cluster, &source, &destination, *traffic))
    }

    fn between(cluster: &Cluster, source: &Side<'_>, destination: &Side<'_>, traffic: Traffic) -> Self {
        let asked = Question { cluster, traffic };
        let mut flows = Vec::new();
        for &from in &source.addresses {
            for &to in destination
                .addresses
                .iter()
                .filter(|to| to.is_ipv4() == from.is_ipv4())
            {
                flows.push(asked.flow(source, from, destination, to));
            }
        }
        flows.sort_by_key(|flow| flow.family);
        let mut notes = source.notes(cluster, "source");
        notes.extend(destination.notes(cluster, "destination"));
        if flows.is_empty() && !source.addresses.is_empty() && !destination.addresses.is_empty() {
            notes.push("the two have no address family in common: no packet goes between them".to_string());
        }
        notes.extend(node_note(source, destination));
        notes.extend(audit_note(cluster, source, Direction::Egress));
        notes.extend(audit_note(cluster, destination, Direction::Ingress));
        Self {
            from: source.party(),
            to: destination.party(),
            port: traffic,
            flows,
            notes,
            reported: None,
        }
    }
}

/// What the node itself sends is let in, which no policy shows.
fn node_note(source: &Side<'_>, destination: &Side<'_>) -> Option<String> {
    let pod = destination.subject()?;
    let node = pod.host_ip.filter(|node| source.addresses.contains(node))?;
    Some(format!(
        "{node} is the address of the node that {} runs on: what that node itself sends is always let in; the verdict is \
         that of traffic which the node forwards under its own address",
        pod.id
    ))
}

/// What policies in audit allow does not count beside enforced ones, which no enforced policy shows.
fn audit_note(cluster: &Cluster, side: &Side<'_>, direction: Direction) -> Option<String> {
    let pod = side.subject()?;
    let ids = cluster.outvoted(pod, direction);
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    (!ids.is_empty()).then(|| {
        format!(
            "in audit, and of no account for {direction} of {}, which other policies isolate: {}",
            pod.id,
            ids.join(", ")
        )
    })
}

struct Question<'a> {
    cluster: &'a Cluster,
    traffic: Traffic,
}

impl Question<'_> {
    fn flow(&self, source: &Side<'_>, from: IpAddr, destination: &Side<'_>, to: IpAddr) -> Flow {
        let egress = self.side(source, Direction::Egress, to, self.traffic);
        let ingress = match destination.service {
            Some(service) => self.behind(service, to, from),
            None => self.side(destination, Direction::Ingress, from, self.traffic),
        };
        Flow {
            family: Family::of(from),
            source: from,
            destination: to,
            verdict: egress.verdict.and(ingress.verdict),
            egress,
            ingress,
        }
    }

    fn side(&self, side: &Side<'_>, direction: Direction, peer: IpAddr, traffic: Traffic) -> Deciding {
        match side.subject() {
            Some(pod) => self.pod_side(pod, direction, peer, traffic),
            None => Deciding {
                verdict: Verdict::Allow,
                because: Because::NotSubject {
                    detail: side.not_subject(),
                },
                kernel: None,
            },
        }
    }

    fn pod_side(&self, pod: &Pod, direction: Direction, peer: IpAddr, traffic: Traffic) -> Deciding {
        let protocol = traffic.protocol(peer.is_ipv4());
        let image = &self.cluster.image;
        let Some(decision) = eval(image, &pod.uid, direction, peer, protocol, traffic.port()) else {
            return Deciding {
                verdict: Verdict::Deny,
                because: Because::Isolated {
                    policies: Vec::new(),
                    nearest: None,
                },
                kernel: None,
            };
        };
        let asked = |policy| Packet {
            cluster: self.cluster,
            policy,
            direction,
            subject: pod,
            peer,
            traffic,
        };
        let because = match decision.by.and_then(|key| image.rules.get(&key)) {
            None if pod.addresses.contains(&peer) => Because::Itself,
            None => Because::Open,
            // Written in no policy: this is how a pod reaches itself through a Service.
            Some(RuleInfo::Rule(RuleId { index: None, .. })) => Because::Itself,
            Some(RuleInfo::Rule(RuleId {
                policy,
                direction,
                index: Some(index),
            })) => {
                let by = NamedRule {
                    policy: policy.to_string(),
                    rule: rule_path(*direction, *index),
                };
                let isolating = self.isolating(pod, *direction);
                let all = isolating.iter().flat_map(|policy| asked(policy).allowing());
                Because::Rule {
                    others: all.filter(|other| *other != by).collect(),
                    by,
                    isolated_by: isolating.iter().map(|policy| policy.id.to_string()).collect(),
                }
            }
            Some(RuleInfo::Isolation { policies, .. }) => {
                let policies = policies.iter().filter_map(|id| self.cluster.policy(id));
                let packets: Vec<Packet<'_>> = policies.map(asked).collect();
                Because::Isolated {
                    policies: packets.iter().map(|packet| packet.denying()).collect(),
                    nearest: nearest::nearest(packets.into_iter()),
                }
            }
            Some(RuleInfo::Audit { policies, .. }) => {
                let policies = policies.iter().filter_map(|id| self.cluster.policy(id));
                let packets: Vec<Packet<'_>> = policies.map(asked).collect();
                Because::Audited {
                    policies: packets.iter().map(|packet| packet.denying()).collect(),
                    nearest: nearest::nearest(packets.into_iter()),
                }
            }
        };
        Deciding {
            verdict: Verdict::of(decision),
            because,
            kernel: None,
        }
    }

    /// The policies that isolate the pod, sorted.
    fn isolating(&self, pod: &Pod, direction: Direction) -> Vec<&Policy> {
        let image = &self.cluster.image;
        let isolation = (image.pods.get(&pod.uid))
            .map(|pod| pod.direction(direction))
            .and_then(|own| own.denied_by.or(own.audited_by))
            .and_then(|key| image.rules.get(&key));
        match isolation {
            Some(RuleInfo::Isolation { policies, .. } | RuleInfo::Audit { policies, .. }) => {
                policies.iter().filter_map(|id| self.cluster.policy(id)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the ready backends' own side says, where the packet arrives after translation.
    fn behind(&self, service: &Service, cluster_ip: IpAddr, source: IpAddr) -> Deciding {
        let mut backends = Vec::new();
        if let Some(port) = service_port(service, self.traffic) {
            for backend in self.cluster.backends(service, port, cluster_ip) {
                let translated = Traffic::Port(port.protocol, backend.port.unwrap_or(port.port));
                let side = Side::at(self.cluster, backend.address);
                backends.push(Backend {
                    address: backend.address,
                    port: translated,
                    pod: side.party().pod,
                    ingress: self.side(&side, Direction::Ingress, source, translated),
                });
            }
        }
        let verdicts = backends.iter().map(|backend| backend.ingress.verdict);
        Deciding {
            verdict: verdicts.fold(Verdict::Allow, Verdict::and),
            because: Because::Service {
                service: service.id.to_string(),
                backends,
            },
            kernel: None,
        }
    }
}

impl Packet<'_> {
    /// The policy's rules that allow it.
    fn allowing(self) -> Vec<NamedRule> {
        let rules = self.policy.rules(self.direction).unwrap_or_default();
        let allowing = rules.iter().filter(|rule| self.against(rule).is_none());
        allowing
            .map(|rule| NamedRule {
                policy: self.policy.id.to_string(),
                rule: rule_path(self.direction, rule.index),
            })
            .collect()
    }

    /// Why none of the policy's rules does.
    fn denying(self) -> IsolatingPolicy {
        let rules = self.policy.rules(self.direction).unwrap_or_default();
        IsolatingPolicy {
            policy: self.policy.id.to_string(),
            rules: (rules.iter())
                .map(|rule| RuleReason {
                    rule: rule_path(self.direction, rule.index),
                    reason: self.why_not(rule),
                })
                .collect(),
            problems: self.cluster.has_problems(&self.policy.id),
        }
    }
}

fn service_port(service: &Service, traffic: Traffic) -> Option<&ServicePort> {
    let Traffic::Port(protocol, number) = traffic else {
        return None;
    };
    service
        .ports
        .iter()
        .find(|port| port.protocol == protocol && port.port == number)
}
