use std::time::Instant;

use http::Method;
use serde_json::Value;

use super::*;
use crate::cluster::fake::{Answer, Asked, Fake, status};

fn config() -> Config {
    Config {
        identity: "me".into(),
        namespace: "kube-system".into(),
        lease: "palisade".into(),
        ttl: Duration::from_secs(3),
    }
}

fn election(fake: &Fake) -> Election {
    Election::new(fake.client.clone(), config(), Metrics::default()).unwrap()
}

fn lease(holder: Value) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "palisade", "namespace": "kube-system", "resourceVersion": "5"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 3, "leaseTransitions": 1,
            "renewTime": "2026-01-01T00:00:00.000000Z", "acquireTime": "2026-01-01T00:00:00.000000Z"},
    })
}

fn is_read(asked: &Asked) -> bool {
    asked.method == Method::GET
}

#[tokio::test]
async fn a_lease_shorter_than_its_renewals_is_refused() {
    let fake = Fake::new(|_| Answer::Never);
    for ttl in [Duration::from_secs(2), Duration::from_millis(4500)] {
        let config = Config { ttl, ..config() };
        assert!(Election::new(fake.client.clone(), config, Metrics::default()).is_err());
    }
}

#[tokio::test]
async fn a_claim_names_the_version_that_was_seen_and_who_is_slower_does_not_lead() {
    let fake = Fake::new(|asked| match is_read(asked) {
        true => Answer::Now(200, lease(json!(null))),
        false => status(409, "Conflict"),
    });
    let mut election = election(&fake);
    election.attempt().await;
    assert!(!election.term().holds());
    let asked = fake.asked();
    assert_eq!(asked[1].body["metadata"]["resourceVersion"], "5");
    assert_eq!(asked[1].body["spec"]["holderIdentity"], "me");
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn only_who_the_answer_names_leads() {
    let fake = Fake::new(|asked| match is_read(asked) {
        true => Answer::Now(200, lease(json!(""))),
        false => Answer::Now(200, lease(json!("you"))),
    });
    let mut election = election(&fake);
    election.attempt().await;
    assert!(!election.term().holds());

    // A renewal that comes after somebody else took it renews his.
    let fake = Fake::new(|asked| match is_read(asked) {
        true => Answer::Now(200, lease(json!("me"))),
        false => Answer::Now(200, lease(json!("you"))),
    });
    let mut election = self::election(&fake);
    election.term().renew(term::now() + Duration::from_secs(3));
    election.attempt().await;
    assert!(!election.term().holds());
}

#[tokio::test]
async fn without_answers_the_term_ends_by_itself_before_the_lease_does() {
    let mut reads = 0;
    let fake = Fake::new(move |asked| {
        reads += usize::from(is_read(asked));
        // Ours, then the one before the Lease is made.
        match (is_read(asked), reads) {
            (true, 1 | 2) => status(404, "NotFound"),
            (false, 2) => Answer::Now(201, lease(json!("me"))),
            _ => Answer::Never,
        }
    });
    let mut election = election(&fake);
    let term = election.term();
    let begun = Instant::now();
    let lost = async {
        term.begun().await;
        term.over().await;
        begun.elapsed()
    };
    tokio::select! {
        () = election.run() => {}
        () = sleep(Duration::from_secs(20)) => panic!("not in time: {:?}", fake.asked()),
        after = lost => {
            assert!(after < Duration::from_secs(3) && after > Duration::from_secs(2), "{after:?}");
            assert!(fake.asked().len() > 3, "it was tried again: {:?}", fake.asked());
        }
    }
    assert!(election.metrics.lease_errors.get() >= 1);
    let before = fake.asked().len();
    election.release().await;
    assert_eq!(fake.asked().len(), before, "what is not ours is not given back");
}

#[tokio::test]
async fn a_deadline_is_reckoned_from_before_the_request() {
    let fake = Fake::new(|asked| match is_read(asked) {
        true => Answer::Now(200, lease(json!(null))),
        false => Answer::Now(200, lease(json!("me"))),
    });
    let mut election = election(&fake);
    let start = term::now();
    election
        .take_a_step(start.saturating_sub(Duration::from_secs(1)))
        .await
        .unwrap();
    let rest = election.term().remaining().unwrap();
    assert!(
        rest <= Duration::from_millis(1400),
        "3 s, less a margin of 0.6, less 1: {rest:?}"
    );
}
