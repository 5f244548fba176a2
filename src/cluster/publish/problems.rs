//! What cannot be realised as written → Kubernetes Events on the policy, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::cluster::leader::Term;
use crate::model::{ObjectId, Problem};

/// Events that one change of a policy makes at most.
const MOST: usize = 10;
/// Bytes that the API allows.
const LONGEST_NOTE: usize = 1024;
const LONGEST_ACTION: usize = 128;
const PATIENCE: Duration = Duration::from_secs(5);

/// Which problems have been told, by the policy's UID.
#[derive(Default)]
pub struct Told(BTreeMap<Arc<str>, BTreeSet<Problem>>);

impl Told {
    /// Those that are new. Where `silent`, they have been told by another leader, and are none.
    pub fn news(&mut self, uid: &Arc<str>, problems: &[&Problem], silent: bool) -> Vec<Problem> {
        if problems.is_empty() {
            self.0.remove(uid);
            return Vec::new();
        }
        let now: BTreeSet<Problem> = problems.iter().map(|problem| (*problem).clone()).collect();
        let before = self.0.remove(uid).unwrap_or_default();
        let news = now.difference(&before).take(MOST).cloned().collect();
        self.0.insert(uid.clone(), now);
        if silent { Vec::new() } else { news }
    }
}

/// Makes Events of problems. Whether that works matters to nobody but readers of Events: it is told and left at that.
#[derive(Clone)]
pub struct Herald {
    recorder: Recorder,
    term: Term,
}

impl Herald {
    pub fn new(client: Client, identity: &str, term: Term) -> Self {
        let reporter = Reporter {
            controller: "palisade".into(),
            instance: Some(identity.into()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            term,
        }
    }

    pub async fn tell(&self, policy: ObjectId, uid: Arc<str>, problems: Vec<Problem>) {
        let regarding = ObjectReference {
            api_version: Some("networking.k8s.io/v1".into()),
            kind: Some("NetworkPolicy".into()),
            namespace: Some(policy.namespace.to_string()),
            name: Some(policy.name.to_string()),
            uid: Some(uid.to_string()),
            ..ObjectReference::default()
        };
        for problem in problems {
            if !self.term.holds() {
                return;
            }
            warn!("{problem}");
            let event = event(&problem);
            match timeout(PATIENCE, self.recorder.publish(&event, &regarding)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%policy, %error, "cannot make an Event"),
                Err(_) => debug!(%policy, "no answer when an Event was made"),
            }
        }
    }
}

fn event(problem: &Problem) -> Event {
    let Problem {
        object: _,
        field,
        value,
        message,
        remedy,
    } = problem;
    let subject = [field.as_str(), value.as_str()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" = ");
    let note = if subject.is_empty() {
        format!("{message}; {remedy}")
    } else {
        format!("{subject}: {message}; {remedy}")
    };
    Event {
        type_: EventType::Warning,
        reason: "NotAsWritten".into(),
        note: Some(cut(note, LONGEST_NOTE)),
        // Events that differ in their note alone would be counted as one.
        action: cut(format!("Resolve {subject}"), LONGEST_ACTION),
        secondary: None,
    }
}

/// Cut to so many bytes, at a character.
fn cut(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        let end = (0..=longest - '…'.len_utf8())
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(field: &str) -> Problem {
        Problem {
            object: "NetworkPolicy a/b".into(),
            field: field.into(),
            value: "é".repeat(2000),
            message: "is wrong".into(),
            remedy: "write another".into(),
        }
    }

    #[test]
    fn a_problem_is_news_once_and_again_after_it_was_gone() {
        let mut told = Told::default();
        let uid = "u".into();
        let (one, other) = (problem("one"), problem("other"));
        assert_eq!(told.news(&uid, &[&one], false).len(), 1);
        assert_eq!(told.news(&uid, &[&one], false), []);
        assert_eq!(told.news(&uid, &[&one, &other], false), [other]);
        assert_eq!(told.news(&uid, &[], false), []);
        assert_eq!(told.news(&uid, &[&one], false).len(), 1);
        assert_eq!(
            told.news(&"v".into(), &[&one], true),
            [],
            "another leader told it"
        );
        assert_eq!(told.news(&"v".into(), &[&one], false), []);
    }

    #[test]
    fn an_event_is_within_what_the_api_allows() {
        let event = event(&problem("spec.ingress[0]"));
        assert!(event.note.is_some_and(|note| note.len() <= LONGEST_NOTE));
        assert!(event.action.len() <= LONGEST_ACTION && event.action.starts_with("Resolve spec.ingress[0]"));
    }
}
