//! What the agent of a node of a cluster answers about itself.

use std::net::{SocketAddr, UdpSocket};

use serde_json::{Value, json};

use crate::instance::BINARY;
use crate::netns::Answer::Dropped;
use crate::probes::{How, table};
use crate::require_server;
use crate::site::{NODE, Site, endpoint, from};

fn ask(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let output = site
        .host
        .namespace
        .command(BINARY)
        .args(arguments)
        .args(["-o", "json", "--api-socket"])
        .arg(site.api_socket())
        .output()
        .expect("palisade");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let values = serde_json::Deserializer::from_str(&text).into_iter();
    values
        .map(|value| value.unwrap_or_else(|error| panic!("{error}: {text}")))
        .collect()
}

#[test]
fn a_pod_of_another_node_is_named_by_the_policies_that_select_it_and_the_status_has_the_watches() {
    require_server!();
    let mut site = Site::new();
    let [api] = site.pods(["api"]);
    // It runs elsewhere, as far as the API server knows; a policy of the namespace selects it too.
    let far = site.host.pod("far");
    let mut policy = endpoint("api-1", "api", from(&far, 8080));
    let selected = far.addresses.list().into_iter();
    let selected: Value = selected
        .map(|ip| json!({"podIP": ip, "name": "far-0", "namespace": "shop"}))
        .collect();
    policy["spec"]["podSelectorEndpoints"] = selected;
    site.server.put(policy);
    site.start(&["vethapi"]);
    table(&[(&far.namespace, &api, How::Udp(9), Dropped)]);
    let flows = ask(&site, &["flows", "--pod", "shop/far-0"]);
    assert_eq!(
        flows.len(),
        api.addresses.list().len(),
        "a packet of each family: {flows:?}"
    );
    for flow in &flows {
        assert_eq!(flow["source"]["pod"], "shop/far-0", "{flow}");
        assert_eq!(
            (&flow["pod"], &flow["node"]),
            (&"shop/api".into(), &NODE.into()),
            "{flow}"
        );
        assert_eq!(flow["policies"], json!(["shop/api"]), "{flow}");
    }
    let status = &ask(&site, &["status"])[0];
    // Of the node's pods, and of the namespace's policies.
    assert_eq!(
        status["watches"],
        json!({"watches": 2, "failing": 0, "errors": 0}),
        "{status:#}"
    );
    assert_eq!(status.get("leader"), None, "it takes no part");
    let policies = &ask(&site, &["policies"])[0][0];
    assert_eq!(
        (&policies["policy"], &policies["pods"]),
        (&"shop/api".into(), &json!(["shop/api"]))
    );

    // The name goes with the word of it.
    site.put(endpoint("api-1", "api", from(&far, 8081)));
    far.namespace.run(|| {
        let to = SocketAddr::new(api.addresses.list()[0], 10);
        let any: std::net::IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).expect("a socket");
        socket.send_to(b"x", to).expect("sent");
    });
    let mut flows = Vec::new();
    while flows.is_empty() {
        flows = ask(&site, &["flows", "--port", "10"]);
    }
    assert_eq!(flows[0]["source"].get("pod"), None, "{}", flows[0]);
}

#[test]
fn of_two_instances_the_one_that_resolves_says_so() {
    require_server!();
    let mut site = Site::led();
    let _pods = site.pods(["api"]);
    site.start(&["vethapi"]);
    while ask(&site, &["status"])[0]["leader"] != true {}
}
