//! What the kernel's maps say of one packet: `GET /v1/verdict`, asked, answered, and how the two are written.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use form_urlencoded::Serializer;
use serde::{Deserialize, Serialize};

use super::Answers;
use super::answer::Refusal;
use super::answers::{direction_state, failed, rules};
use super::filter::{Name, no_filter, number, one_of, parsed};
use super::flow::{ISOLATION, RULE, Verdict};
use super::journal::unknown;
use super::spelling::{self, id, lowercase, names};
use crate::bpf::{CounterReader, Judgement};
use crate::compile::{PodImage, Psid};
use crate::model::{Direction, ObjectId};

const KEYS: [&str; 5] = ["pod", "direction", "peer", "protocol", "port"];

/// The first packet of a connection between a pod of this node and an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictQuery {
    pub pod: Name,
    /// As the pod sees it.
    pub direction: Direction,
    pub peer: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// The destination's; 0 where the protocol has none.
    pub port: u16,
}

/// What policy says of it by the maps of this node, at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictState {
    pub node: Arc<str>,
    #[serde(with = "id")]
    pub pod: ObjectId,
    #[serde(with = "lowercase")]
    pub direction: Direction,
    pub verdict: Verdict,
    /// `rule`, `isolation`, `open`, `self`, or `unknown_pod`.
    pub reason: Cow<'static, str>,
    /// The policy that allows; or all that isolate, where none allows.
    #[serde(with = "names", default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<ObjectId>,
    /// The rule that allows, as in `spec.ingress[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Id of the pod's rules in the maps, in hexadecimal.
    pub rule_set: String,
    /// Id of the class of the peer's address, likewise.
    pub class: String,
    /// Whether the pod's interface has the program that judges so; otherwise nothing is enforced there.
    pub attached: bool,
}

impl VerdictQuery {
    pub fn encode(&self) -> String {
        let Self {
            pod,
            direction,
            peer,
            protocol,
            port,
        } = self;
        Serializer::new(String::new())
            .append_pair("pod", &pod.to_string())
            .append_pair("direction", direction.field())
            .append_pair("peer", &peer.to_string())
            .append_pair("protocol", &protocol.to_string())
            .append_pair("port", &port.to_string())
            .finish()
    }

    /// # Errors
    /// What is wrong with it, and what there is instead.
    pub fn decode(query: &str) -> Result<Self, Refusal> {
        let (mut pod, mut direction, mut peer, mut protocol, mut port) = (None, None, None, None, 0);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "pod" => pod = Some(parsed::<Name>(&key, &value)?),
                "direction" => {
                    direction =
                        spelling::direction(one_of(&key, &value, Direction::ALL.map(Direction::field))?);
                }
                "peer" => {
                    let address: Result<IpAddr, _> = value.parse();
                    let wrong =
                        |error| Refusal::wrong(format!("peer {value:?}: {error}"), "write an address");
                    peer = Some(address.map_err(wrong)?.to_canonical());
                }
                "protocol" => protocol = Some(number::<u8>(&key, &value)?),
                "port" => port = number(&key, &value)?,
                _ => return Err(no_filter(&key, &KEYS)),
            }
        }
        match (pod, direction, peer, protocol) {
            (Some(pod), Some(direction), Some(peer), Some(protocol)) => Ok(Self {
                pod,
                direction,
                peer,
                protocol,
                port,
            }),
            _ => Err(Refusal::wrong(
                "the question lacks something",
                "give pod, direction, peer and protocol, and port where it has one",
            )),
        }
    }
}

impl Answers {
    /// Blocks.
    pub(super) fn verdict(&self, query: &VerdictQuery) -> Result<VerdictState, Refusal> {
        let VerdictQuery {
            pod,
            direction,
            peer,
            protocol,
            port,
        } = query;
        let snapshot = self.snapshot.load();
        let known = snapshot.pods.iter().find(|(_, image)| pod.is(&image.id));
        let Some((uid, image)) = known else {
            return Err(unknown("pod", pod, snapshot.pods.values().map(|pod| &pod.id)));
        };
        let slot = snapshot
            .slots
            .iter()
            .find(|(_, of)| *of == uid)
            .map(|(slot, _)| *slot);
        let told = |verdict, reason: &'static str, judged: Option<crate::bpf::Judged>| VerdictState {
            node: self.agent.node.clone(),
            pod: image.id.clone(),
            direction: *direction,
            verdict,
            reason: reason.into(),
            policies: Vec::new(),
            rule: None,
            rule_set: format!("{:08x}", judged.map_or(Psid::UNKNOWN, |judged| judged.psid).0),
            class: format!("{:08x}", judged.map_or(0, |judged| judged.class.0)),
            attached: self.is_attached(uid, *direction),
        };
        let Some(slot) = slot else {
            return Ok(told(Verdict::Denied, UNKNOWN_POD, None));
        };
        let inspector = &self.agent.inspector;
        let judged = inspector
            .judge(slot, *direction, *peer, *protocol, *port)
            .map_err(failed)?;
        if image.addresses.contains(peer) {
            return Ok(told(Verdict::Allowed, SELF, Some(judged)));
        }
        let mut state = match judged.verdict {
            Judgement::Open => told(Verdict::Allowed, OPEN, Some(judged)),
            Judgement::Allowed(_) => told(Verdict::Allowed, RULE, Some(judged)),
            Judgement::Denied if judged.psid.0 < Psid::FIRST => {
                told(Verdict::Denied, UNKNOWN_POD, Some(judged))
            }
            Judgement::Denied => told(Verdict::Denied, ISOLATION, Some(judged)),
            Judgement::Audited => told(Verdict::Audit, ISOLATION, Some(judged)),
        };
        match judged.verdict {
            Judgement::Allowed(counter) => {
                let infos = snapshot
                    .counters
                    .as_ref()
                    .map(CounterReader::infos)
                    .unwrap_or_default();
                if let Some(crate::compile::RuleInfo::Rule(rule)) = infos.get(&counter) {
                    state.policies = vec![rule.policy.clone()];
                    // How a pod reaches itself through a Service is written in no rule.
                    state.rule = rule.index.is_some().then(|| spelling::place(rule));
                }
            }
            Judgement::Denied | Judgement::Audited => {
                state.policies = self.isolating(image, *direction, judged.psid)
            }
            Judgement::Open => {}
        }
        Ok(state)
    }

    /// Those that this rule set is of, if it is the one that was meant to be there.
    fn isolating(&self, image: &PodImage, direction: Direction, psid: Psid) -> Vec<ObjectId> {
        let snapshot = self.snapshot.load();
        let wanted = image.direction(direction);
        match wanted.psid == psid {
            true => direction_state(wanted, &rules(&snapshot)).policies,
            false => Vec::new(),
        }
    }

    fn is_attached(&self, uid: &Arc<str>, direction: Direction) -> bool {
        let snapshot = self.snapshot.load();
        let inspector = &self.agent.inspector;
        let ours = inspector
            .programs()
            .ok()
            .map(|programs| programs[direction as usize].id);
        let of_pod = snapshot
            .attachments
            .iter()
            .filter(|attachment| attachment.uid == *uid);
        let has = |ifindex| {
            let hooked = inspector.hooked(ifindex)[direction as usize];
            ours.is_some() && hooked.program == ours
        };
        let mut of_pod = of_pod.peekable();
        of_pod.peek().is_some() && of_pod.all(|attachment| has(attachment.ifindex))
    }
}

const OPEN: &str = "open";
const SELF: &str = "self";
const UNKNOWN_POD: &str = "unknown_pod";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_back_as_it_was_written() {
        let query = VerdictQuery {
            pod: "shop/web&0".parse().unwrap(),
            direction: Direction::Egress,
            peer: "fd00::7".parse().unwrap(),
            protocol: 132,
            port: 65535,
        };
        assert_eq!(VerdictQuery::decode(&query.encode()), Ok(query));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_what_can() {
        for (query, part) in [
            ("pod=a/b", "give pod, direction, peer and protocol"),
            ("peer=10.0.0.0/8", "write an address"),
            ("direction=in", "ingress, egress"),
            ("protocol=TCP", "write a number"),
            ("x=1", "pod, direction, peer, protocol, port"),
        ] {
            let refusal = VerdictQuery::decode(query).expect_err(query).to_string();
            assert!(refusal.contains(part), "{query}: {refusal}");
        }
    }
}
