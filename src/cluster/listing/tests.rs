use serde_json::{Value, json};

use super::*;
use crate::cluster::fake::{Answer, Asked, Fake, status};

fn connection(fake: &Fake) -> Connection {
    Connection {
        client: fake.client.clone(),
        server: "https://server".to_string(),
    }
}

/// Pods of a page, and where the next one begins.
fn page(names: &[&str], next: &str) -> Answer {
    let pod = |name: &&str| json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {}, "status": {}});
    let items: Vec<Value> = names.iter().map(pod).collect();
    Answer::Now(
        200,
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "10", "continue": next}, "items": items}),
    )
}

fn is_of(asked: &Asked, plural: &str) -> bool {
    asked.path.contains(&format!("/{plural}?"))
}

fn names(listed: &Listed) -> Vec<String> {
    listed
        .snapshot
        .pods
        .iter()
        .map(|pod| pod.id.to_string())
        .collect()
}

#[tokio::test]
async fn every_page_is_listed() {
    let fake = Fake::new(|asked| match is_of(asked, "pods") {
        true if asked.path.contains("continue=second") => page(&["c"], ""),
        true => page(&["a", "b"], "second"),
        false => page(&[], ""),
    });
    let listed = list(&connection(&fake), 2).await.unwrap();
    assert_eq!(names(&listed), ["shop/a", "shop/b", "shop/c"]);
    assert!(fake.asked().iter().all(|asked| asked.path.contains("limit=2")));
}

#[tokio::test]
async fn a_list_whose_version_is_gone_begins_anew_and_has_nothing_twice() {
    let mut expired = 0;
    let fake = Fake::new(move |asked| match is_of(asked, "pods") {
        true if asked.path.contains("continue=second") && expired == 0 => {
            expired += 1;
            status(410, "Expired")
        }
        true if asked.path.contains("continue=second") => page(&["b", "c"], ""),
        true => page(&["a"], "second"),
        false => page(&[], ""),
    });
    let listed = list(&connection(&fake), 2).await.unwrap();
    assert_eq!(names(&listed), ["shop/a", "shop/b", "shop/c"]);

    let fake = Fake::new(|asked| match is_of(asked, "pods") {
        true => status(410, "Expired"),
        false => page(&[], ""),
    });
    let error = list(&connection(&fake), 2).await.unwrap_err().to_string();
    assert!(error.contains("kind Pod: Expired (410)"), "{error}");
}

#[tokio::test]
async fn a_refusal_names_what_is_to_be_permitted() {
    let fake = Fake::new(|asked| match is_of(asked, "networkpolicies") {
        true => status(403, "networkpolicies is forbidden"),
        false => page(&[], ""),
    });
    let error = list(&connection(&fake), 2).await.unwrap_err().to_string();
    for part in [
        "kind NetworkPolicy",
        "networkpolicies is forbidden (403)",
        "verb list",
        "networkpolicies.networking.k8s.io",
        "--from",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_named() {
    let fake = Fake::new(|_| Answer::Never);
    let error = list(&connection(&fake), 2).await.unwrap_err().to_string();
    assert!(error.contains("https://server: no answer within 30 s"), "{error}");
}
