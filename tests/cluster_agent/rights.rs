//! What the manifests let Palisade do is enough and is needed; while it is taken away nothing moves.

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::{Site, endpoint, from};

const PORT: How = How::Tcp(8080);

#[test]
fn an_agent_without_its_rights_goes_on_as_it_was_and_takes_up_what_it_missed_when_it_has_them_again() {
    require_server!();
    let mut site = Site::new();
    let [web, api, db] = site.pods(["web", "api", "db"]);
    let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
    site.server.put(endpoint("api-1", "api", from(&web, 8080)));
    site.server.put(endpoint("db-1", "db", json!([])));
    site.server.put(endpoint("web-1", "web", json!([])));
    site.start(&["vethweb", "vethapi", "vethdb"]);
    site.change(&["applied: ", "web-1 gone"], |server| {
        server.delete("PolicyEndpoint", "shop", "web-1");
    });
    assert_eq!(site.server.fixture().forbidden(), 0.0, "the rights are enough");
    let errors = site.metric("palisade_watch_errors_total", &[]);

    // A watch that is open is asked for its rights no more.
    site.server.fixture().revoke("clusterrolebinding");
    site.put(endpoint("api-1", "api", from(&db, 8080)));
    let as_before = || {
        table(&[
            (&db.namespace, &api, PORT, Reached),
            (&web.namespace, &api, PORT, Dropped),
            (&web.namespace, &db, PORT, Dropped),
        ]);
    };
    as_before();
    let mark = site.instance().mark();
    site.way.break_off();
    for watch in ["PolicyEndpoints in shop", "the node's Pods"] {
        let words = [
            "problem: ",
            watch,
            "forbidden",
            "apply the ClusterRole of manifests/",
        ];
        site.instance().wait_for(mark, &words);
    }
    assert_eq!(site.metric("palisade_watches_failing", &[]), 2.0);
    assert!(site.metric("palisade_watch_errors_total", &[]) > errors);
    assert_eq!(site.get("/readyz").0, 200, "what it knew is in force");
    site.server.put(endpoint("db-1", "db", from(&web, 8080)));
    site.server.delete("PolicyEndpoint", "shop", "api-1");
    as_before();
    // What is pinned goes on without an agent that knows anything, too.
    site.crash();
    site.launch();
    site.instance()
        .wait_for(0, &["problem: ", "watch of the node's Pods", "forbidden"]);
    as_before();

    let mark = site.instance().mark();
    site.server.fixture().grant();
    site.instance().wait_for(mark, &["in force: "]);
    table(&[
        (&web.namespace, &api, PORT, Reached),
        (&web.namespace, &db, PORT, Reached),
        (&api.namespace, &db, PORT, Dropped),
    ]);
    site.until_watched();
}

#[test]
fn a_leader_with_an_agent_without_their_rights_opens_nothing_and_leads_again_when_it_has_them() {
    require_server!();
    let mut site = Site::led();
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    let policy = |ingress: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": ingress},
        })
    };
    site.server.put(policy(json!([])));
    site.start(&["vethweb", "vethapi"]);
    site.instance()
        .wait_for(0, &["applied: ", "PolicyEndpoint shop/api-"]);
    assert_eq!(site.server.fixture().forbidden(), 0.0, "the rights are enough");
    let mark = site.instance().mark();
    for binding in ["clusterrolebinding", "rolebinding"] {
        site.server.fixture().revoke(binding);
    }
    site.way.break_off();
    site.instance()
        .wait_for(mark, &["cannot reach the Lease", "forbidden", "grant it"]);
    site.instance().wait_for(mark, &["no longer leading"]);
    assert_eq!(site.metric("palisade_leader", &[]), 0.0);
    assert!(site.metric("palisade_lease_errors_total", &[]) > 0.0);
    site.server.put(policy(json!([{}])));
    table(&[(&web.namespace, &api, PORT, Dropped)]);
    let mark = site.instance().mark();
    site.server.fixture().grant();
    site.instance()
        .wait_for(mark, &["applied: ", "PolicyEndpoint shop/api-"]);
    table(&[(&web.namespace, &api, PORT, Reached)]);
    site.until_watched();
    assert_eq!(site.metric("palisade_leader", &[]), 1.0);
}
