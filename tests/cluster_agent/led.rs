//! Controller and agent in one process: a NetworkPolicy, written to the API server, is enforced.

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::Site;

const PORT: How = How::Tcp(8080);

fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "api", "namespace": "shop"},
        "spec": spec,
    })
}

#[test]
fn a_policy_is_in_force_soon_after_it_is_written_changed_and_deleted() {
    require_server!();
    let mut site = Site::led();
    let [web, api, other] = site.pods(["web", "api", "other"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.start(&["vethweb", "vethapi", "vethother"]);
    table(&[(&other.namespace, &api, PORT, Reached)]);
    let applied = ["applied: ", "PolicyEndpoint shop/api-"];
    let lets_in = |app: &str| {
        policy(json!({
            "podSelector": {"matchLabels": {"app": "api"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}],
        }))
    };
    site.change(&applied, |server| server.put(lets_in("web")));
    table(&[
        (&web.namespace, &api, PORT, Reached),
        (&other.namespace, &api, PORT, Dropped),
    ]);
    site.change(&applied, |server| server.put(lets_in("other")));
    table(&[
        (&web.namespace, &api, PORT, Dropped),
        (&other.namespace, &api, PORT, Reached),
    ]);
    site.change(&["applied: ", "PolicyEndpoint shop/api-", " gone"], |server| {
        server.delete("NetworkPolicy", "shop", "api");
    });
    table(&[(&web.namespace, &api, PORT, Reached)]);
    assert_eq!(site.metric("palisade_leader", &[]), 1.0);
}
