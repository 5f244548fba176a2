use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake::{Answer, Asked, Fake, status};

fn policy(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version}, "spec": {}})
}

fn list(items: Value) -> Answer {
    Answer::Now(
        200,
        json!({"kind": "NetworkPolicyList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"}, "items": items}),
    )
}

fn is_watch(asked: &Asked) -> bool {
    asked.path.contains("watch=true")
}

/// The first so many events, as words.
async fn events(fake: &Fake, count: usize) -> Vec<String> {
    let api: Api<Tree<NetworkPolicy>> = Api::all(fake.client.clone());
    let watch = quick(api);
    let named = watch.map(|event| match event {
        Event::Init => "init".to_string(),
        Event::InitDone => "done".to_string(),
        Event::InitApply(tree) => format!("there {tree:?}"),
        Event::Apply(tree) => format!("put {tree:?}"),
        Event::Delete(tree) => format!("gone {tree:?}"),
    });
    let first = named.take(count).collect();
    timeout(Duration::from_secs(10), first).await.unwrap()
}

/// Like [`watch`], with less patience.
fn quick(api: Api<Tree<NetworkPolicy>>) -> impl Stream<Item = Event<Tree<NetworkPolicy>>> {
    let mut watch = Watch::new(api, watcher::Config::default(), Metrics::default());
    watch.page = Duration::from_millis(200);
    watch.into_stream()
}

#[tokio::test]
async fn s52_a_version_that_is_gone_makes_for_a_new_list_however_it_is_told() {
    // As an error in the stream, and as the answer to the request for it.
    let in_stream = || {
        Answer::Watch(vec![json!({"type": "ERROR", "object": {
            "kind": "Status", "code": 410, "reason": "Expired", "message": "too old", "status": "Failure"}})])
    };
    for told in [in_stream as fn() -> Answer, || status(410, "Expired")] {
        let mut watches = 0;
        let fake = Fake::new(move |asked| {
            if !is_watch(asked) {
                return list(json!([policy("a", "9")]));
            }
            watches += 1;
            match watches {
                1 => told(),
                _ => Answer::Watch(vec![json!({"type": "ADDED", "object": policy("b", "11")})]),
            }
        });
        assert_eq!(
            events(&fake, 7).await,
            [
                "init",
                "there shop/a",
                "done",
                "init",
                "there shop/a",
                "done",
                "put shop/b"
            ]
        );
    }
}

#[tokio::test]
async fn an_object_with_odd_fields_wedges_neither_list_nor_watch() {
    let fake = Fake::new(|asked| {
        if is_watch(asked) {
            let mut odd = policy("b", "11");
            odd["spec"] = json!(["x", 1.5]);
            odd["metadata"]["labels"] = json!(7);
            Answer::Watch(vec![
                json!({"type": "ADDED", "object": odd}),
                json!({"type": "ADDED", "object": policy("c", "12")}),
            ])
        } else {
            let odd =
                json!({"metadata": {"name": "a", "namespace": "shop", "uid": 4}, "spec": {"ingress": "x"}});
            list(json!([odd]))
        }
    });
    assert_eq!(
        events(&fake, 5).await,
        ["init", "there shop/a", "done", "put shop/b", "put shop/c"]
    );
}

#[tokio::test]
async fn a_list_that_gets_no_answer_or_an_error_is_asked_for_again() {
    let mut asked_for = 0;
    let fake = Fake::new(move |asked| {
        if is_watch(asked) {
            return Answer::Never;
        }
        asked_for += 1;
        match asked_for {
            1 => Answer::Never,
            2 => status(403, "Forbidden"),
            _ => list(json!([policy("a", "9")])),
        }
    });
    let events = events(&fake, 5).await;
    assert_eq!(events[events.len() - 2..], ["there shop/a", "done"]);
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn a_watch_that_works_again_without_any_news_is_told_to_work() {
    let mut watches = 0;
    let fake = Fake::new(move |asked| {
        if !is_watch(asked) {
            return list(json!([]));
        }
        watches += 1;
        match watches {
            1 | 2 => status(403, "Forbidden"),
            _ => Answer::Never,
        }
    });
    let mut watch = Watch::new(
        Api::<Tree<NetworkPolicy>>::all(fake.client.clone()),
        watcher::Config::default(),
        Metrics::default(),
    );
    watch.sound = Duration::from_millis(200);
    watch.next().await;
    watch.next().await;
    assert!(timeout(Duration::from_millis(800), watch.next()).await.is_err());
    assert_eq!(watch.told, Some(Some(403)));
    assert!(timeout(Duration::from_secs(2), watch.next()).await.is_err());
    assert_eq!(watch.told, None, "it works");
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test]
async fn an_answer_that_is_none_of_the_apis_makes_for_a_list_which_says_what_it_is() {
    let mut served = true;
    let fake = Fake::new(move |asked| {
        let page = || Answer::Now(404, "404 page not found".into());
        match (is_watch(asked), std::mem::take(&mut served)) {
            (false, true) => list(json!([])),
            _ => page(),
        }
    });
    let mut watch = Watch::new(
        Api::<Tree<NetworkPolicy>>::all(fake.client.clone()),
        watcher::Config::default(),
        Metrics::default(),
    );
    for _ in 0..3 {
        assert!(matches!(watch.next().await, Event::Init | Event::InitDone));
    }
    assert!(watch.listing);
    assert!(timeout(Duration::from_millis(700), watch.next()).await.is_err());
    assert_eq!(watch.told, Some(Some(404)));
}
