//! Verdicts on packets of every kind.

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Layout;
use crate::objects::{app, pod, policy};
use crate::probes::{How, echo_services, table};
use crate::require_root;
use crate::site::{Site, everywhere};

/// One port of each protocol.
const PORTS: &str = "[{port: 8080}, {port: 8080, protocol: UDP}, {port: 8082, protocol: SCTP}]";

#[test]
fn s30_tcp_udp_and_sctp_pass_by_port_and_other_protocols_by_rules_without_ports() {
    require_root!();
    everywhere(|mut site: Site| {
        let [web, api, intruder] = site.pods(["web", "api", "intruder"]);
        let _services = echo_services(&[&api.namespace], &[8080, 8081]);
        let from_web = format!("from: [{{{}}}]", app("web"));
        let by_port = format!("{}, ingress: [{{{from_web}, ports: {PORTS}}}]", app("api"));
        site.folder
            .put("policies.yaml", &policy("shop/by-port", &by_port));
        site.start(&["vethweb", "vethapi", "vethintruder"]);
        let (w, i) = (&web.namespace, &intruder.namespace);
        table(&[
            (w, &api, How::Tcp(8080), Reached),
            (w, &api, How::Tcp(8081), Dropped),
            (w, &api, How::Udp(8080), Reached),
            (w, &api, How::Udp(8081), Dropped),
            (w, &api, How::Sctp(8082), Reached),
            (w, &api, How::Sctp(8080), Dropped),
            (w, &api, How::Echo, Dropped),
            (i, &api, How::Tcp(8080), Dropped),
            (i, &api, How::Udp(8080), Dropped),
            (i, &api, How::Sctp(8082), Dropped),
        ]);
        let all = format!("{}, ingress: [{{{from_web}}}]", app("api"));
        site.put("more.yaml", &policy("shop/all", &all));
        table(&[
            (w, &api, How::Tcp(8081), Reached),
            (w, &api, How::Udp(8081), Reached),
            (w, &api, How::Sctp(8080), Reached),
            (w, &api, How::Echo, Reached),
            (i, &api, How::Echo, Dropped),
            (i, &api, How::Tcp(8081), Dropped),
        ]);
    });
}

#[test]
fn s32_echo_obeys_rules_without_ports_only() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [web, api] = site.pods(["web", "api"]);
    let ports = "[{protocol: TCP}, {protocol: UDP}, {protocol: SCTP}]";
    site.folder.put(
        "policies.yaml",
        &policy(
            "shop/api",
            &format!("{}, ingress: [{{ports: {ports}}}]", app("api")),
        ),
    );
    site.start(&["vethweb", "vethapi"]);
    table(&[(&web.namespace, &api, How::Echo, Dropped)]);
    site.put(
        "policies.yaml",
        &policy("shop/api", &format!("{}, ingress: [{{}}]", app("api"))),
    );
    table(&[(&web.namespace, &api, How::Echo, Reached)]);
}

#[test]
fn s33_fragments_are_judged_by_their_real_ports() {
    require_root!();
    everywhere(|mut site: Site| {
        let [web, api, open, intruder] = site.pods(["web", "api", "open", "intruder"]);
        let _services = echo_services(&[&api.namespace], &[8080, 8081]);
        let from_web = format!("from: [{{{}}}]", app("web"));
        site.folder.put(
            "policies.yaml",
            &[
                policy(
                    "shop/api",
                    &format!(
                        "{}, ingress: [{{{from_web}, ports: [{{port: 8080, protocol: UDP}}]}}]",
                        app("api")
                    ),
                ),
                policy(
                    "shop/open",
                    &format!("{}, ingress: [{{{from_web}}}]", app("open")),
                ),
            ]
            .concat(),
        );
        site.start(&["vethweb", "vethapi", "vethopen", "vethintruder"]);
        let (w, i) = (&web.namespace, &intruder.namespace);
        table(&[
            (w, &api, How::LargeUdp(8080), Reached),
            (w, &api, How::LargeUdp(8081), Dropped),
            (i, &api, How::LargeUdp(8080), Dropped),
            (w, &open, How::LargeEcho, Reached),
            (i, &open, How::LargeEcho, Dropped),
            (w, &api, How::LargeEcho, Dropped),
        ]);
    });
}

#[test]
fn s36_replies_pass_between_pods_that_are_isolated_in_both_directions() {
    require_root!();
    everywhere(|mut site: Site| {
        let [web, api] = site.pods(["web", "api"]);
        let _services = echo_services(&[&api.namespace, &web.namespace], &[8080]);
        let ports = "ports: [{port: 8080}, {port: 8080, protocol: UDP}]";
        site.folder.put(
            "policies.yaml",
            &[
                policy("shop/none", "podSelector: {}, policyTypes: [Ingress, Egress]"),
                policy(
                    "shop/web",
                    &format!("{}, egress: [{{to: [{{{}}}], {ports}}}]", app("web"), app("api")),
                ),
                policy(
                    "shop/api",
                    &format!(
                        "{}, ingress: [{{from: [{{{}}}], {ports}}}]",
                        app("api"),
                        app("web")
                    ),
                ),
            ]
            .concat(),
        );
        site.start(&["vethweb", "vethapi"]);
        table(&[
            (&web.namespace, &api, How::Tcp(8080), Reached),
            (&web.namespace, &api, How::Udp(8080), Reached),
            (&web.namespace, &api, How::LargeUdp(8080), Reached),
            (&api.namespace, &web, How::Tcp(8080), Dropped),
            (&api.namespace, &web, How::Udp(8080), Dropped),
        ]);
        assert!(
            site.metric(
                "palisade_traffic_packets_total",
                &["verdict=\"dropped\"", "reason=\"isolation\""]
            ) >= 4.0
        );
    });
}

#[test]
fn s5_a_connection_needs_the_egress_side_and_the_ingress_side() {
    require_root!();
    let mut site = Site::new(Layout::Bridged, "tcx");
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    let egress = policy(
        "shop/web",
        &format!("{}, egress: [{{to: [{{{}}}]}}]", app("web"), app("api")),
    );
    let no_egress = policy("shop/web", &format!("{}, policyTypes: [Egress]", app("web")));
    let ingress = policy(
        "shop/api",
        &format!("{}, ingress: [{{from: [{{{}}}]}}]", app("api"), app("web")),
    );
    let no_ingress = policy("shop/api", &app("api"));
    site.folder
        .put("policies.yaml", &[&egress[..], &ingress].concat());
    site.start(&["vethweb", "vethapi"]);
    for (texts, expected) in [
        ([&egress, &ingress], Reached),
        ([&no_egress, &ingress], Dropped),
        ([&egress, &no_ingress], Dropped),
        ([&egress, &ingress], Reached),
    ] {
        site.folder
            .put("policies.yaml", &[&texts[0][..], texts[1]].concat());
        site.settle();
        table(&[
            (&web.namespace, &api, How::Tcp(8080), expected),
            (&web.namespace, &api, How::Udp(8080), expected),
            (&web.namespace, &api, How::Echo, expected),
        ]);
    }
}

#[test]
fn s51_both_families_of_a_pod_are_enforced_whichever_comes_first() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "clsact");
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    // IPv6 first, IPv4 by the block alone.
    let status = format!(
        "phase: Running, podIP: \"{}\"",
        api.addresses.v6.expect("an IPv6 address")
    );
    let text = pod("shop/api", "app: api", api.addresses).replace("phase: Running", &status);
    site.folder.put("pod-api.yaml", &text);
    let four = web.addresses.v4.expect("an IPv4 address");
    site.folder.put(
        "policies.yaml",
        &policy(
            "shop/api",
            &format!(
                "{}, ingress: [{{from: [{{ipBlock: {{cidr: {four}/32}}}}]}}]",
                app("api")
            ),
        ),
    );
    site.start(&["vethweb", "vethapi"]);
    let probe = |address, expected| crate::probes::Probe {
        from: &web.namespace,
        to: (&api.namespace, address),
        how: How::Tcp(8080),
        expected,
    };
    let [v4, v6] = api.addresses.list()[..] else {
        panic!("two addresses")
    };
    crate::probes::check(&[probe(v4, Reached), probe(v6, Dropped)]);
}
