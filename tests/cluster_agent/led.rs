//! Controller and agent in one process: a NetworkPolicy, written to the API server, is enforced.

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::probes::{How, Stream, echo_services, retransmissions, table};
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

/// The policy's endpoints take several objects, which are written one by one.
#[test]
fn s38_an_edit_of_a_long_policys_ports_disturbs_no_connection_that_it_allows_before_and_after() {
    require_server!();
    let mut site = Site::led();
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    let lets_in = |ports: &[u16]| {
        let others = (0..2_000u32).map(|n| format!("{}/32", std::net::Ipv4Addr::from(0x0a63_0000 + n)));
        let own = web.addresses.list().into_iter().map(|ip| match ip {
            std::net::IpAddr::V4(_) => format!("{ip}/32"),
            std::net::IpAddr::V6(_) => format!("{ip}/128"),
        });
        let peers: Vec<Value> = others
            .chain(own)
            .map(|cidr| json!({"ipBlock": {"cidr": cidr}}))
            .collect();
        let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port})).collect();
        policy(json!({
            "podSelector": {"matchLabels": {"app": "api"}},
            "ingress": [{"from": peers, "ports": ports}],
        }))
    };
    site.server.put(lets_in(&[8080]));
    site.start(&["vethweb", "vethapi"]);
    let published = ["applied: ", "PolicyEndpoint shop/api-"];
    site.instance().wait_for(0, &published);
    let to = api.addresses.list().into_iter().map(|ip| (ip, 8080).into());
    let mut streams: Vec<Stream> = to.map(|to| Stream::open(&web.namespace, to)).collect();
    let before = retransmissions(&web.namespace);
    for edit in 0..10 {
        let ports: &[u16] = if edit % 2 == 0 { &[8080, 9000] } else { &[8080] };
        let mark = site.instance().mark();
        site.server.put(lets_in(ports));
        // For as long as slices come, and a while longer.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while std::time::Instant::now() < until {
            streams.iter_mut().for_each(|stream| stream.ask(Reached));
        }
        site.instance().wait_for(mark, &published);
    }
    assert_eq!(retransmissions(&web.namespace), before);
}
