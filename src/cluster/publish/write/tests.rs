use std::time::Instant;

use super::*;
use crate::cluster::fake::{Answer, Fake, status};
use crate::cluster::leader;

fn object() -> Arc<PolicyEndpoint> {
    let mut object = PolicyEndpoint::new("p-1-0", PolicyEndpointSpec::default());
    object.metadata.namespace = Some("shop".into());
    Arc::new(object)
}

fn id() -> ObjectId {
    ObjectId::new("shop", "p-1-0")
}

fn job() -> Job {
    Job {
        policy: "u".into(),
        writes: vec![Write {
            id: id(),
            object: object(),
            version: Some("7".into()),
        }],
        deletions: vec![Deletion {
            id: ObjectId::new("shop", "p-2-0"),
            uid: "x".into(),
            version: "3".into(),
        }],
        condition: None,
    }
}

fn stored(version: &str) -> serde_json::Value {
    let mut tree = serde_json::to_value(&*object()).unwrap();
    tree["metadata"]["resourceVersion"] = json!(version);
    tree
}

fn writer(fake: &Fake, rest: Duration) -> Writer {
    let term = Term::default();
    term.renew(leader::term::now() + rest);
    Writer::new(fake.client.clone(), term, Metrics::default())
}

#[tokio::test]
async fn who_no_longer_leads_writes_nothing() {
    let fake = Fake::new(|_| Answer::Never);
    let writer = writer(&fake, Duration::from_secs(60));
    writer.term.end();
    let (_, outcome) = writer.run(job()).await;
    assert!(outcome.failed && outcome.found.is_empty() && outcome.deleted.is_empty());
    assert_eq!(fake.asked().len(), 0);
}

#[tokio::test]
async fn a_write_without_an_answer_is_given_up_when_the_term_ends_and_nothing_is_deleted() {
    let fake = Fake::new(|_| Answer::Never);
    let writer = writer(&fake, Duration::from_millis(200));
    let begun = Instant::now();
    let (_, outcome) = writer.run(job()).await;
    assert!(outcome.failed);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(fake.asked().len(), 1, "the write, and no deletion");
    assert_eq!(writer.metrics.publish_errors.get(), 1);
}

#[tokio::test]
async fn a_write_names_the_version_that_it_replaces_and_forces_its_fields() {
    let fake = Fake::new(|asked| match asked.method {
        http::Method::PATCH => Answer::Now(200, stored("8")),
        _ => Answer::Now(200, json!({"kind": "Status", "status": "Success"})),
    });
    let writer = writer(&fake, Duration::from_secs(60));
    let (_, outcome) = writer.run(job()).await;
    assert!(!outcome.failed);
    let asked = fake.asked();
    assert!(
        asked[0].path.contains("fieldManager=palisade") && asked[0].path.contains("force=true"),
        "{}",
        asked[0].path
    );
    assert_eq!(asked[0].body["metadata"]["resourceVersion"], "7");
    assert!(asked[0].body.get("status").is_none());
    assert_eq!(
        asked[1].body["preconditions"],
        json!({"uid": "x", "resourceVersion": "3"})
    );
    assert_eq!(outcome.deleted, [ObjectId::new("shop", "p-2-0")]);
}

#[tokio::test]
async fn who_is_overtaken_looks_again_and_deletes_nothing() {
    let fake = Fake::new(|asked| match asked.method {
        http::Method::GET => Answer::Now(200, stored("9")),
        _ => status(409, "Conflict"),
    });
    let writer = writer(&fake, Duration::from_secs(60));
    let (_, outcome) = writer.run(job()).await;
    assert!(outcome.failed, "so that it is tried again");
    assert_eq!(outcome.found[0].0.version, "9");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_no_error_and_is_tried_again() {
    let refusal = json!({
        "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "it is being terminated",
        "details": { "causes": [{ "reason": "NamespaceTerminating", "field": "metadata.namespace" }] },
    });
    let fake = Fake::new(move |_| Answer::Now(403, refusal.clone()));
    let writer = writer(&fake, Duration::from_secs(60));
    let (_, outcome) = writer.run(job()).await;
    assert!(outcome.failed, "until the policy is gone too");
    assert_eq!(fake.asked().len(), 1, "the write, and no deletion");
    assert_eq!(writer.metrics.publish_errors.get(), 0);
}
