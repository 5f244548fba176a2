//! The CustomResourceDefinition of PolicyEndpoints is another one, or none, for a while.

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::{Site, endpoint, from};

const PORT: How = How::Tcp(8080);
const NAME: &str = "policyendpoints.networking.k8s.aws";

fn policy(app: &str, ingress: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": app, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "ingress": ingress},
    })
}

/// The API server deletes each object of a definition that is deleted, and says so to who watches.
#[test]
fn a_definition_that_is_deleted_and_made_anew_opens_nothing_and_heals() {
    require_server!();
    let mut site = Site::led();
    let [web, api, db] = site.pods(["web", "api", "db"]);
    let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
    let lets_in = |app: &str| json!([{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]);
    site.server.put(policy("api", lets_in("db")));
    site.server.put(policy("db", json!([])));
    site.start(&["vethweb", "vethapi", "vethdb"]);
    for app in ["api", "db"] {
        let words = ["applied: ", &format!("PolicyEndpoint shop/{app}-")];
        site.instance().wait_for(0, &words);
    }
    let as_before = || {
        table(&[
            (&db.namespace, &api, PORT, Reached),
            (&web.namespace, &api, PORT, Dropped),
            (&web.namespace, &db, PORT, Dropped),
        ]);
    };
    as_before();

    let mark = site.instance().mark();
    site.server.fixture().kubectl(&["delete", "crd", NAME]);
    for app in ["api", "db"] {
        let policy = format!("NetworkPolicy shop/{app}: is there, but its PolicyEndpoints are gone");
        site.instance().wait_for(mark, &["problem: ", &policy]);
    }
    as_before();
    let watch = [
        "problem: ",
        "watch of PolicyEndpoints in shop",
        "apply manifests/crds.yaml",
    ];
    site.instance().wait_for(mark, &watch);
    site.instance()
        .wait_for(mark, &["cannot write a PolicyEndpoint", "palisade crds"]);
    as_before();
    assert_eq!(site.metric("palisade_watches_failing", &[]), 1.0);
    assert_eq!(site.metric("palisade_problems", &[r#"source="cluster""#]), 3.0);
    assert!(site.metric("palisade_publish_errors_total", &[]) > 0.0);
    assert_eq!(site.get("/readyz").0, 200, "what it knew is in force");

    // Who deletes a policy meanwhile means it; who changes one is heard later.
    let gone = ["applied: ", "PolicyEndpoint shop/db-", " gone"];
    site.change(&gone, |server| server.delete("NetworkPolicy", "shop", "db"));
    table(&[
        (&web.namespace, &db, PORT, Reached),
        (&web.namespace, &api, PORT, Dropped),
    ]);
    site.server.put(policy("api", lets_in("web")));

    let mark = site.instance().mark();
    site.server.define();
    site.instance()
        .wait_for(mark, &["applied: ", "PolicyEndpoint shop/api-"]);
    table(&[
        (&web.namespace, &api, PORT, Reached),
        (&db.namespace, &api, PORT, Dropped),
    ]);
    site.instance()
        .wait_for(mark, &["no problem any more: ", "NetworkPolicy shop/api"]);
    site.until_watched();
}

#[test]
fn a_definition_that_serves_another_version_only_changes_nothing_until_it_serves_ours_again() {
    require_server!();
    let mut site = Site::new();
    let [web, api, db] = site.pods(["web", "api", "db"]);
    let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
    site.server.put(endpoint("api-1", "api", from(&web, 8080)));
    site.server.put(endpoint("db-1", "db", json!([])));
    site.start(&["vethweb", "vethapi", "vethdb"]);
    let as_before = || {
        table(&[
            (&web.namespace, &api, PORT, Reached),
            (&db.namespace, &api, PORT, Dropped),
            (&web.namespace, &db, PORT, Dropped),
        ]);
    };
    let serve = |site: &Site, ours: bool| {
        let patch = json!([
            {"op": "replace", "path": "/spec/versions/0/served", "value": ours},
            {"op": "replace", "path": "/spec/versions/1/served", "value": !ours},
        ]);
        let patch = patch.to_string();
        (site.server.fixture()).kubectl(&["patch", "crd", NAME, "--type=json", "-p", &patch]);
    };
    let other = json!({
        "name": "v2", "served": false, "storage": false,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    });
    let add = json!([{"op": "add", "path": "/spec/versions/-", "value": other}]).to_string();
    (site.server.fixture()).kubectl(&["patch", "crd", NAME, "--type=json", "-p", &add]);
    let mark = site.instance().mark();
    serve(&site, false);
    let words = [
        "problem: ",
        "watch of PolicyEndpoints in shop",
        "apply manifests/crds.yaml",
    ];
    site.instance().wait_for(mark, &words);
    assert_eq!(site.metric("palisade_watches_failing", &[]), 1.0);
    as_before();
    // Without a list it does not take what is pinned for what nobody wants any more.
    site.crash();
    site.launch();
    site.instance().wait_for(0, &words);
    as_before();
    assert_eq!(site.get("/readyz").0, 503);
    serve(&site, true);
    site.instance().wait_for(0, &["in force: "]);
    as_before();
    site.put(endpoint("db-1", "db", from(&web, 8080)));
    table(&[(&web.namespace, &db, PORT, Reached)]);
    assert_eq!(site.metric("palisade_watches_failing", &[]), 0.0);
}
