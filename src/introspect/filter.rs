//! Which records a reader asks for: the query of `GET /v1/flows`, read and written.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;

use form_urlencoded::Serializer;

use super::answer::Refusal;
use super::flow::{Flow, ISOLATION, RULE, Record, Verdict};
use super::spelling;
use crate::bpf::Reason;
use crate::model::{Direction, ObjectId};

/// Flows that an answer holds where nothing is said of how many.
pub const LAST: usize = 100;
const KEYS: [&str; 9] = [
    "last",
    "follow",
    "pod",
    "namespace",
    "verdict",
    "policy",
    "direction",
    "port",
    "reason",
];

/// What a reader of flows asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowQuery {
    /// Of those that are held, the last so many that fit; `None`: [`LAST`].
    pub last: Option<usize>,
    /// Go on with those that come.
    pub follow: bool,
    pub filter: Filter,
}

/// What a flow must be like; each part that is `None` lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The pod that is judged, or one at either end.
    pub pod: Option<Name>,
    /// Of the pod that is judged, or of the pod or Service at either end.
    pub namespace: Option<Arc<str>>,
    pub verdict: Option<Verdict>,
    pub policy: Option<Name>,
    pub direction: Option<Direction>,
    /// The destination's.
    pub port: Option<u16>,
    pub reason: Option<Arc<str>>,
}

/// An object's name, in one namespace or in any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

impl Name {
    pub fn is(&self, id: &ObjectId) -> bool {
        self.name == id.name && self.namespace.as_ref().is_none_or(|own| *own == id.namespace)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if name.is_empty() || name.contains('/') || namespace == Some("") {
            return Err("neither NAMESPACE/NAME nor NAME".into());
        }
        Ok(Self {
            namespace: namespace.map(Arc::from),
            name: name.into(),
        })
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Every reason that a flow may have.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    let others = Reason::ALL.iter().filter(|reason| **reason != Reason::Policy);
    [RULE, ISOLATION]
        .into_iter()
        .chain(others.map(|reason| reason.name()))
}

impl Filter {
    /// Losses always pass: nobody knows what was lost.
    pub fn takes(&self, record: &Record) -> bool {
        match record {
            Record::Flow(flow) => self.fits(flow),
            Record::Lost(_) => true,
        }
    }

    fn fits(&self, flow: &Flow) -> bool {
        let Self {
            pod,
            namespace,
            verdict,
            policy,
            direction,
            port,
            reason,
        } = self;
        let ends = || [&flow.source, &flow.destination].into_iter().flatten();
        let pods = || flow.pod.iter().chain(ends().filter_map(|end| end.pod.as_ref()));
        let objects = || pods().chain(ends().filter_map(|end| end.service.as_ref()));
        pod.as_ref().is_none_or(|pod| pods().any(|id| pod.is(id)))
            && namespace
                .as_ref()
                .is_none_or(|namespace| objects().any(|id| id.namespace == *namespace))
            && verdict.is_none_or(|verdict| flow.verdict == verdict)
            && policy
                .as_ref()
                .is_none_or(|policy| flow.policies.iter().any(|id| policy.is(id)))
            && direction.is_none_or(|direction| flow.direction == direction)
            && port.is_none_or(|port| {
                flow.destination
                    .as_ref()
                    .is_some_and(|end| end.port == Some(port))
            })
            && reason.as_ref().is_none_or(|reason| flow.reason == **reason)
    }
}

impl FlowQuery {
    /// As the part of a URL behind `?`.
    pub fn encode(&self) -> String {
        let Self { last, follow, filter } = self;
        let Filter {
            pod,
            namespace,
            verdict,
            policy,
            direction,
            port,
            reason,
        } = filter;
        let mut query = Serializer::new(String::new());
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                query.append_pair(key, &value);
            }
        };
        put("last", last.map(|last| last.to_string()));
        put("follow", follow.then(|| "true".into()));
        put("pod", pod.as_ref().map(ToString::to_string));
        put("namespace", namespace.as_ref().map(ToString::to_string));
        put("verdict", verdict.map(|verdict| verdict.to_string()));
        put("policy", policy.as_ref().map(ToString::to_string));
        put("direction", direction.map(|direction| direction.to_string()));
        put("port", port.map(|port| port.to_string()));
        put("reason", reason.as_ref().map(ToString::to_string));
        query.finish()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// What is wrong with it, and what there is instead.
    pub fn decode(query: &str) -> Result<Self, Refusal> {
        let mut read = Self::default();
        let mut seen = BTreeSet::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if !seen.insert(key.clone()) {
                return Err(Refusal::wrong(format!("{key:?} is there twice"), "write it once"));
            }
            let filter = &mut read.filter;
            match &*key {
                "last" => read.last = Some(number(&key, &value)?),
                "follow" => read.follow = one_of(&key, &value, ["true", "false"])? == "true",
                "pod" => filter.pod = Some(parsed(&key, &value)?),
                "policy" => filter.policy = Some(parsed(&key, &value)?),
                "namespace" if value.is_empty() => {
                    return Err(Refusal::wrong("the namespace is empty", "leave it out for all"));
                }
                "namespace" => filter.namespace = Some((&*value).into()),
                "verdict" => {
                    let name = one_of(&key, &value, Verdict::ALL.map(Verdict::as_str))?;
                    filter.verdict = Verdict::ALL.into_iter().find(|known| known.as_str() == name);
                }
                "direction" => {
                    let name = one_of(&key, &value, Direction::ALL.map(Direction::field))?;
                    filter.direction = spelling::direction(name);
                }
                "port" => filter.port = Some(number(&key, &value)?),
                "reason" => filter.reason = Some(one_of(&key, &value, reasons())?.into()),
                _ => return Err(no_filter(&key, &KEYS)),
            }
        }
        Ok(read)
    }
}

/// What `GET /v1/pods` and `/v1/policies` are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectQuery {
    pub name: Option<Name>,
    pub namespace: Option<Arc<str>>,
}

impl ObjectQuery {
    pub fn encode(&self) -> String {
        let Self { name, namespace } = self;
        let mut query = Serializer::new(String::new());
        for (key, value) in [
            ("name", name.as_ref().map(ToString::to_string)),
            ("namespace", namespace.as_ref().map(ToString::to_string)),
        ] {
            query.extend_pairs(value.map(|value| (key, value)));
        }
        query.finish()
    }

    /// # Errors
    /// What is wrong with it, and what there is instead.
    pub fn decode(query: &str) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "name" => read.name = Some(parsed(&key, &value)?),
                "namespace" => read.namespace = Some((&*value).into()),
                _ => return Err(no_filter(&key, &["name", "namespace"])),
            }
        }
        Ok(read)
    }
}

/// Flows of conntrack that an answer holds where nothing is said of how many, and at most.
pub const CONNTRACK: usize = 100;
pub const CONNTRACK_MOST: usize = 100_000;

/// What `GET /v1/conntrack` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConntrackQuery {
    /// Flows in the answer at most.
    pub limit: usize,
    pub pod: Option<Name>,
    pub namespace: Option<Arc<str>>,
    /// Of who was asked.
    pub port: Option<u16>,
}

impl Default for ConntrackQuery {
    fn default() -> Self {
        Self {
            limit: CONNTRACK,
            pod: None,
            namespace: None,
            port: None,
        }
    }
}

impl ConntrackQuery {
    pub fn encode(&self) -> String {
        let Self {
            limit,
            pod,
            namespace,
            port,
        } = self;
        let mut query = Serializer::new(String::new());
        for (key, value) in [
            ("limit", Some(limit.to_string())),
            ("pod", pod.as_ref().map(ToString::to_string)),
            ("namespace", namespace.as_ref().map(ToString::to_string)),
            ("port", port.map(|port| port.to_string())),
        ] {
            query.extend_pairs(value.map(|value| (key, value)));
        }
        query.finish()
    }

    /// # Errors
    /// What is wrong with it, and what there is instead.
    pub fn decode(query: &str) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "limit" => read.limit = number(&key, &value)?,
                "pod" => read.pod = Some(parsed(&key, &value)?),
                "namespace" => read.namespace = Some((&*value).into()),
                "port" => read.port = Some(number(&key, &value)?),
                _ => return Err(no_filter(&key, &["limit", "pod", "namespace", "port"])),
            }
        }
        if read.limit > CONNTRACK_MOST {
            let error = format!("{} flows are more than one answer holds", read.limit);
            let remedy = format!("ask for {CONNTRACK_MOST} at most, or for those of a pod or a port");
            return Err(Refusal::wrong(error, remedy));
        }
        Ok(read)
    }
}

pub(super) fn no_filter(key: &str, known: &[&str]) -> Refusal {
    Refusal::wrong(
        format!("there is no filter {key:?}"),
        format!("there are {}", known.join(", ")),
    )
}

pub(super) fn number<T: FromStr>(key: &str, value: &str) -> Result<T, Refusal>
where
    T::Err: Display,
{
    let wrong = |error: T::Err| Refusal::wrong(format!("{key} {value:?}: {error}"), "write a number");
    value.parse().map_err(wrong)
}

pub(super) fn parsed<T: FromStr<Err = String>>(key: &str, value: &str) -> Result<T, Refusal> {
    let remedy = "write NAMESPACE/NAME, or NAME for any namespace";
    value
        .parse()
        .map_err(|error| Refusal::wrong(format!("{key} {value:?}: {error}"), remedy))
}

/// The one of `known` that `value` is.
pub(super) fn one_of<'k>(
    key: &str,
    value: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Result<&'k str, Refusal> {
    let known: Vec<&str> = known.into_iter().collect();
    let found = known.iter().find(|known| **known == value);
    found.copied().ok_or_else(|| {
        let remedy = format!("there are {}", known.join(", "));
        Refusal::wrong(format!("there is no {key} {value:?}"), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_back_as_it_was_written() {
        let query = FlowQuery {
            last: Some(7),
            follow: true,
            filter: Filter {
                pod: Some("shop/web&0".parse().unwrap()),
                namespace: Some("shöp=1".into()),
                verdict: Some(Verdict::Denied),
                policy: Some("default-deny".parse().unwrap()),
                direction: Some(Direction::Egress),
                port: Some(65535),
                reason: Some("isolation".into()),
            },
        };
        assert_eq!(FlowQuery::decode(&query.encode()), Ok(query));
        assert_eq!(FlowQuery::decode(""), Ok(FlowQuery::default()));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_what_can() {
        for (query, error, remedy) in [
            ("verdict=dropped", "no verdict \"dropped\"", "allowed, denied"),
            ("direction=Ingress", "no direction \"Ingress\"", "ingress, egress"),
            ("reason=spoof", "no reason \"spoof\"", "spoofed"),
            ("port=65536", "port \"65536\"", "number"),
            ("last=-1", "last \"-1\"", "number"),
            ("follow=yes", "no follow \"yes\"", "true, false"),
            ("pod=a/b/c", "pod \"a/b/c\"", "NAMESPACE/NAME"),
            ("policy=/x", "policy \"/x\"", "NAMESPACE/NAME"),
            ("namespace=", "empty", "leave it out"),
            ("podd=x", "no filter \"podd\"", "pod, namespace"),
            ("pod=a&pod=b", "twice", "once"),
            ("reason=a%1b[31m", "\\u{1b}", "rule, isolation"),
        ] {
            let refusal = FlowQuery::decode(query).expect_err(query);
            assert!(refusal.error.contains(error), "{query}: {refusal:?}");
            assert!(refusal.remedy.contains(remedy), "{query}: {refusal:?}");
        }
    }
}
