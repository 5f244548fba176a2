//! What the API server holds is what is enforced.

use serde_json::json;

use crate::netns::Answer::{Dropped, Reached};
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::{Site, endpoint, from, sliced};

const PORT: How = How::Tcp(8080);

#[test]
fn endpoints_of_another_controller_are_enforced_and_followed() {
    require_server!();
    let mut site = Site::new();
    let [web, api, other] = site.pods(["web", "api", "other"]);
    let _services = echo_services(&[&web.namespace, &api.namespace], &[8080]);
    site.server.put(endpoint("api-x7f2k", "api", json!([])));
    site.start(&["vethweb", "vethapi", "vethother"]);
    table(&[
        (&web.namespace, &api, PORT, Dropped),
        (&api.namespace, &web, PORT, Reached),
    ]);
    // Several objects of one policy are merged, whatever they are called.
    site.put(endpoint("api-q2m9z", "api", from(&web, 8080)));
    table(&[
        (&web.namespace, &api, PORT, Reached),
        (&other.namespace, &api, PORT, Dropped),
    ]);
    site.put(endpoint("api-x7f2k", "api", from(&other, 8080)));
    table(&[
        (&web.namespace, &api, PORT, Reached),
        (&other.namespace, &api, PORT, Reached),
    ]);
    site.change(&["applied: ", "api-q2m9z gone"], |server| {
        server.delete("PolicyEndpoint", "shop", "api-q2m9z");
    });
    table(&[
        (&web.namespace, &api, PORT, Dropped),
        (&other.namespace, &api, PORT, Reached),
    ]);
    site.change(&["applied: ", "api-x7f2k gone"], |server| {
        server.delete("PolicyEndpoint", "shop", "api-x7f2k");
    });
    table(&[(&web.namespace, &api, PORT, Reached)]);
}

#[test]
fn an_endpoint_in_audit_denies_nothing_until_it_is_enforced() {
    require_server!();
    let mut site = Site::new();
    let [web, api, other] = site.pods(["web", "api", "other"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    let with = |enforcement: &str| {
        let mut object = endpoint("api-1", "api", from(&web, 8080));
        object["spec"]["enforcement"] = enforcement.into();
        object
    };
    site.server.put(with("Audit"));
    site.start(&["vethweb", "vethapi", "vethother"]);
    let seen = |by_other| {
        table(&[
            (&web.namespace, &api, PORT, Reached),
            (&other.namespace, &api, PORT, by_other),
        ]);
    };
    let audited = |site: &Site| {
        let labels = ["policy=\"api\"", "verdict=\"audit\""];
        site.metric("palisade_traffic_packets_total", &labels)
    };
    seen(Reached);
    assert!(audited(&site) >= 2.0);
    site.put(with("Enforce"));
    seen(Dropped);
    site.put(with("Audit"));
    seen(Reached);
    site.put(with("audit"));
    seen(Dropped);
    site.instance()
        .wait_for(0, &["problem: ", "shop/api-1: spec.enforcement = \"audit\""]);
}

#[test]
fn only_namespaces_with_pods_here_are_watched_and_a_new_one_is_before_its_pod_is_attached() {
    require_server!();
    let mut site = Site::new();
    for namespace in ["far", "late"] {
        site.server.namespace(namespace);
    }
    let [web] = site.pods(["web"]);
    site.server
        .pod("far", "api", "elsewhere", &["10.99.0.1".parse().unwrap()]);
    site.start(&["vethweb"]);
    assert_eq!(site.metric("palisade_watches", &[]), 2.0);
    // Its policy is there before it, and is in force with it.
    let mut policy = endpoint("api-1", "api", json!([]));
    policy["metadata"]["namespace"] = "late".into();
    policy["spec"]["policyRef"]["namespace"] = "late".into();
    site.server.put(policy);
    let api = site.host.pod("api");
    let _services = echo_services(&[&api.namespace], &[8080]);
    let addresses = api.addresses.list();
    site.change(&["attached", "interface=vethapi "], |server| {
        server.pod("late", "api", crate::site::NODE, &addresses);
    });
    assert_eq!(site.metric("palisade_watches", &[]), 3.0);
    table(&[(&web.namespace, &api, PORT, Dropped)]);
    // What has ended gives its address back at once.
    let mark = site.instance().mark();
    site.server.status("late", "api", &addresses, "Succeeded");
    site.instance().wait_for(mark, &["applied: ", "Pod late/api"]);
}

#[test]
fn a_policy_of_several_slices_counts_when_all_are_there() {
    require_server!();
    let mut site = Site::new();
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.start(&["vethweb", "vethapi"]);
    let mark = site.instance().mark();
    let halves = [
        sliced(endpoint("api-2-0", "api", json!([])), 0, 2),
        sliced(endpoint("api-2-1", "api", from(&web, 8080)), 1, 2),
    ];
    for half in halves {
        site.server.put(half);
    }
    site.instance().wait_for(mark, &["applied: ", "api-2-"]);
    table(&[(&web.namespace, &api, PORT, Reached)]);
    // One that never gets whole isolates after a while, and allows what is there.
    let mark = site.instance().mark();
    let quarter = sliced(endpoint("web-4-0", "web", from(&api, 8080)), 0, 4);
    site.server.put(quarter);
    let _web = echo_services(&[&web.namespace], &[8080]);
    let isolated = || site.metric("palisade_changes_applied_total", &[]);
    let before = isolated();
    let until = std::time::Instant::now() + crate::instance::PATIENCE;
    while isolated() == before && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(isolated() > before, "it is never enforced");
    table(&[
        (&api.namespace, &web, PORT, Reached),
        (&site.host.namespace, &web, PORT, Reached),
    ]);
    let log = site.instance().lines_since(mark);
    assert!(!log.iter().any(|line| line.contains("problem")), "{log:?}");
}

#[test]
fn nonsense_is_denied_and_reported_and_its_neighbours_are_untouched() {
    require_server!();
    let mut site = Site::new();
    let [web, api, db] = site.pods(["web", "api", "db"]);
    let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
    site.server.put(endpoint("db-1", "db", from(&web, 8080)));
    let bad = json!([{"cidr": web.addresses.v4, "ports": [{"port": "http"}]}, {"cidr": "0.0.0.0/0", "except": ["x"]}]);
    site.server.put(endpoint("api-1", "api", bad));
    site.start(&["vethweb", "vethapi", "vethdb"]);
    for (field, value) in [
        ("spec.ingress[0].ports[0].port", "\"http\""),
        ("spec.ingress[1].except[0]", "\"x\""),
    ] {
        let line = format!("PolicyEndpoint shop/api-1: {field} = {value}: ");
        site.instance().wait_for(0, &["problem: ", &line]);
    }
    assert_eq!(site.metric("palisade_problems", &["cluster"]), 2.0);
    table(&[
        (&web.namespace, &api, PORT, Dropped),
        (&web.namespace, &db, PORT, Reached),
        (&api.namespace, &db, PORT, Dropped),
    ]);
    // Whom it selects cannot be read any more: it stays as it was. Then it is mended.
    let mut worse = endpoint("db-1", "db", json!([{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}]));
    worse["spec"]["podSelector"] = json!("everyone");
    site.change(
        &["problem: ", "PolicyEndpoint shop/db-1: spec.podSelector"],
        |server| {
            server.delete("PolicyEndpoint", "shop", "api-1");
            server.put(worse);
        },
    );
    table(&[
        (&web.namespace, &db, PORT, Reached),
        (&api.namespace, &db, PORT, Dropped),
    ]);
    site.put(endpoint("db-1", "db", from(&api, 8080)));
    site.instance()
        .wait_for(0, &["no problem any more: ", "shop/db-1"]);
    table(&[
        (&web.namespace, &db, PORT, Dropped),
        (&api.namespace, &db, PORT, Reached),
        (&web.namespace, &api, PORT, Reached),
    ]);
}
