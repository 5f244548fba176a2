//! Pods that end, addresses that are used again, names and labels.

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Layout;
use crate::objects::{app, pod, pod_with, policy};
use crate::probes::{How, echo_services, table};
use crate::require_root;
use crate::site::Site;

#[test]
fn s47_terminating_pods_stay_subjects_and_peers_and_finished_ones_are_neither() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [web, api, intruder] = site.pods(["web", "api", "intruder"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.folder.put(
        "policies.yaml",
        &policy(
            "shop/api",
            &format!("{}, ingress: [{{from: [{{{}}}]}}]", app("api"), app("web")),
        ),
    );
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    let ending = |name: &str, addresses| {
        let ends = "deletionTimestamp: \"2026-01-01T00:00:00Z\", deletionGracePeriodSeconds: 30";
        pod_with(
            &format!("shop/{name}"),
            &format!("app: {name}"),
            addresses,
            ends,
            "phase: Running",
        )
    };
    site.folder.put("pod-web.yaml", &ending("web", web.addresses));
    site.folder.put("pod-api.yaml", &ending("api", api.addresses));
    site.settle();
    table(&[
        (&web.namespace, &api, How::Tcp(8080), Reached),
        (&intruder.namespace, &api, How::Tcp(8080), Dropped),
    ]);
    for phase in ["Succeeded", "Failed"] {
        let ended = pod_with(
            "shop/web",
            "app: web",
            web.addresses,
            "",
            &format!("phase: {phase}"),
        );
        site.put("pod-web.yaml", &ended);
        table(&[(&web.namespace, &api, How::Tcp(8080), Dropped)]);
        // Its address is free at once: the next pod that has it is judged as itself.
        let next = pod("shop/next", "app: web", web.addresses);
        site.put("pod-next.yaml", &next);
        table(&[(&web.namespace, &api, How::Tcp(8080), Reached)]);
        site.change(&["applied: Pod shop/next gone"], |folder| {
            folder.delete("pod-next.yaml")
        });
        site.put("pod-web.yaml", &pod("shop/web", "app: web", web.addresses));
        table(&[(&web.namespace, &api, How::Tcp(8080), Reached)]);
    }
}

#[test]
fn s48_a_reused_address_inherits_nothing_and_a_late_delete_undoes_nothing() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    let from_web = policy(
        "shop/api",
        &format!("{}, ingress: [{{from: [{{{}}}]}}]", app("api"), app("web")),
    );
    let no_old = policy("shop/old", "podSelector: {matchLabels: {app: old}}");
    site.folder.put("policies.yaml", &[from_web, no_old].concat());
    site.start(&["vethweb", "vethapi"]);
    table(&[(&web.namespace, &api, How::Udp(8080), Reached)]);
    let addresses = web.addresses;
    // Another pod gets web's address, by a veth of its own; the file that had web goes only later.
    let (ifindex, mark) = (site.host.ifindex(&web), site.instance().mark());
    drop(web);
    site.instance()
        .wait_for(mark, &["forgotten", &format!("ifindex={ifindex}")]);
    let mark = site.instance().mark();
    let heir = site.host.pod_at("heir", addresses);
    site.folder
        .put("heir.yaml", &pod("shop/heir", "app: heir", addresses));
    site.change(&["applied: Pod shop/web gone"], |folder| {
        folder.delete("pod-web.yaml")
    });
    site.instance()
        .wait_for(mark, &["attached", "interface=vethheir "]);
    table(&[
        (&heir.namespace, &api, How::Udp(8080), Dropped),
        (&heir.namespace, &api, How::Tcp(8080), Dropped),
    ]);
    site.put("heir.yaml", &pod("shop/heir", "app: web", addresses));
    table(&[(&heir.namespace, &api, How::Udp(8080), Reached)]);
}

#[test]
fn s49_long_names_with_dots_and_equal_names_in_two_namespaces() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [web] = site.pods(["web"]);
    let (one, two) = (site.host.pod("one"), site.host.pod("two"));
    let _services = echo_services(&[&one.namespace, &two.namespace], &[8080]);
    let label = |letter: &str| letter.repeat(62);
    let long = format!(
        "{}.{}.{}.{}",
        label("a"),
        label("b"),
        label("c"),
        "d".repeat(253 - 3 * 63)
    );
    assert_eq!(long.len(), 253);
    site.folder.put(
        "pods.yaml",
        &[
            pod(&format!("shop/{long}"), "app: long", one.addresses),
            pod(&format!("other/{long}"), "app: long", two.addresses),
        ]
        .concat(),
    );
    let deny = policy(&format!("shop/{long}"), &app("long"));
    site.folder.put("policies.yaml", &deny);
    site.start(&["vethweb", "vethone", "vethtwo"]);
    table(&[
        (&web.namespace, &one, How::Tcp(8080), Dropped),
        (&web.namespace, &two, How::Tcp(8080), Reached),
    ]);
    let by = format!("policy=\"{long}\"");
    let labels = ["namespace=\"shop\"", &by, "verdict=\"dropped\""];
    assert!(site.metric("palisade_traffic_packets_total", &labels) >= 2.0);
}

#[test]
fn s50_pods_of_one_deployment_with_different_labels_have_different_policies() {
    require_root!();
    let mut site = Site::new(Layout::Bridged, "tcx");
    let [web] = site.pods(["web"]);
    let (stable, canary) = (site.host.pod("stable"), site.host.pod("canary"));
    let _services = echo_services(&[&stable.namespace, &canary.namespace], &[8080]);
    site.folder.put(
        "pods.yaml",
        &[
            pod("shop/api-5d9c-x1", "app: api, track: stable", stable.addresses),
            pod("shop/api-5d9c-x2", "app: api, track: canary", canary.addresses),
        ]
        .concat(),
    );
    site.folder.put(
        "policies.yaml",
        &policy("shop/canary", "podSelector: {matchLabels: {track: canary}}"),
    );
    site.start(&["vethweb", "vethstable", "vethcanary"]);
    table(&[
        (&web.namespace, &stable, How::Tcp(8080), Reached),
        (&web.namespace, &canary, How::Tcp(8080), Dropped),
    ]);
}
