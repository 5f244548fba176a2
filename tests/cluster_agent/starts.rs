//! Pods that the CNI plugin asks for, before the API server knows their addresses.

use std::time::Duration;

use palisade::cni::protocol::Answer;
use serde_json::json;

use crate::instance::PATIENCE;
use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Layout;
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::{NODE, Site, endpoint};

const PORT: How = How::Tcp(8080);

#[test]
fn s46_a_pod_is_enforced_when_the_plugin_has_its_answer_and_stays_so_over_a_restart() {
    require_server!();
    for layout in Layout::ALL {
        let mut site = Site::with_plugin(layout);
        let [web] = site.pods(["web"]);
        site.server.put(endpoint("late-1", "late", json!([])));
        site.start(&["vethweb"]);
        let uid = site.server.bound_pod("shop", "late", NODE);
        let late = site.host.pod("late");
        let _services = echo_services(&[&web.namespace, &late.namespace], &[8080]);
        let answer = site.add(&late, "late", &uid, PATIENCE);
        assert_eq!(answer, Answer::Secured { ok: true });
        let isolated = || {
            table(&[
                (&web.namespace, &late, PORT, Dropped),
                (&late.namespace, &web, PORT, Reached),
            ]);
        };
        isolated();
        // An update of the pod that knows nothing of its address.
        site.server.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "late", "namespace": "shop", "labels": {"more": "labels"}},
        }));
        isolated();
        site.crash();
        site.start(&["vethweb", "vethlate"]);
        isolated();
        let addresses = late.addresses.list();
        site.change(&["applied: ", "Pod shop/late"], |server| {
            server.status("shop", "late", &addresses, "Running");
        });
        isolated();
    }
}

#[test]
fn a_pod_that_the_api_server_does_not_know_is_refused_in_time_with_the_reason() {
    require_server!();
    let mut site = Site::with_plugin(Layout::Routed);
    let [web] = site.pods(["web"]);
    site.start(&["vethweb"]);
    let answer = site.add(&web, "stranger", "no-such-uid", Duration::from_secs(4));
    let Answer::Refused { error, .. } = answer else {
        panic!("{answer:?}");
    };
    assert!(error.contains("API server has not told"), "{error}");
}

#[test]
fn uninstall_leaves_nothing_of_it_on_the_node() {
    require_server!();
    let mut site = Site::with_plugin(Layout::Routed);
    let [_web] = site.pods(["web"]);
    let conflist = site.cni().join("10-net.conflist");
    let others = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "ptp"}]}"#;
    std::fs::write(&conflist, others).expect("a file");
    site.start(&["vethweb"]);
    site.instance()
        .wait_for(0, &["the CNI configuration has Palisade's entry"]);
    let refused = site.try_uninstall();
    assert!(!refused.status.success(), "it runs: {refused:?}");
    site.crash();
    let done = site.try_uninstall();
    assert!(done.status.success(), "{done:?}");
    let left: Vec<_> = std::fs::read_dir(site.cni())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["10-net.conflist"], "{done:?}");
    let value: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&conflist).expect("the file")).expect("JSON");
    assert_eq!(value["plugins"], json!([{"type": "ptp"}]));
    assert!(!site.pins().exists());
}
