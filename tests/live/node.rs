//! The node itself, and the world outside.

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::{Addresses, Pod};
use crate::objects::{app, policy};
use crate::probes::{How, Probe, check, echo_services, table};
use crate::require_root;
use crate::site::{Site, everywhere};

const HOST: Addresses = Addresses {
    v4: Some(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    v6: Some(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
};

#[test]
fn s41_the_pods_own_node_reaches_it_always_and_others_are_ordinary_sources() {
    require_root!();
    everywhere(|mut site: Site| {
        let outside = site.host.outside();
        let [api, db] = site.pods(["api", "db"]);
        let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
        let machine = "[{ipBlock: {cidr: 192.0.2.2/32}}, {ipBlock: {cidr: \"2001:db8::2/128\"}}]";
        site.folder.put(
            "policies.yaml",
            &[
                policy("shop/none", "podSelector: {}, policyTypes: [Ingress, Egress]"),
                policy(
                    "shop/db",
                    &format!("{}, ingress: [{{from: {machine}}}]", app("db")),
                ),
            ]
            .concat(),
        );
        site.start(&["vethapi", "vethdb"]);
        let (host, outside) = (&site.host.namespace, &outside.namespace);
        let mut rows = Vec::new();
        for how in [
            How::Tcp(8080),
            How::Udp(8080),
            How::Echo,
            How::LargeUdp(8080),
            How::LargeEcho,
        ] {
            rows.push((host, &api, how, Reached));
            rows.push((outside, &api, how, Dropped));
            rows.push((outside, &db, how, Reached));
        }
        table(&rows);
    });
}

#[test]
fn s44_an_isolated_pod_gets_no_pass_to_its_nodes_ports() {
    require_root!();
    everywhere(|mut site: Site| {
        let _outside = site.host.outside();
        let [web, free] = site.pods(["web", "free"]);
        let _services = echo_services(&[&site.host.namespace], &[9000]);
        site.folder.put(
            "policies.yaml",
            &policy("shop/web", &format!("{}, policyTypes: [Egress]", app("web"))),
        );
        site.start(&["vethweb", "vethfree"]);
        let rows = |site: &Site, from: &Pod, expected| {
            let mut probes = Vec::new();
            for address in HOST.list() {
                // A reply by UDP comes from the address that the node's routes choose, so it tells nothing.
                for how in [How::Tcp(9000), How::Echo] {
                    let to = (&site.host.namespace, address);
                    let from = &from.namespace;
                    probes.push(Probe {
                        from,
                        to,
                        how,
                        expected,
                    });
                }
            }
            check(&probes);
        };
        rows(&site, &web, Dropped);
        rows(&site, &free, Reached);
        let blocks = "[{ipBlock: {cidr: 192.0.2.1/32}}, {ipBlock: {cidr: \"2001:db8::1/128\"}}]";
        site.put(
            "policies.yaml",
            &policy("shop/web", &format!("{}, egress: [{{to: {blocks}}}]", app("web"))),
        );
        rows(&site, &web, Reached);
    });
}

#[test]
fn s42_a_node_address_on_forwarded_traffic_earns_nothing() {
    require_root!();
    everywhere(|mut site: Site| {
        let outside = site.host.outside();
        let [api] = site.pods(["api"]);
        let _services = echo_services(&[&api.namespace], &[8080]);
        let (v4, v6) = (api.addresses.v4.unwrap(), api.addresses.v6.unwrap());
        // As a NodePort: to the pod, with an address of the node for source.
        site.host.namespace.exec(
            "nft",
            &["-f", "-"],
            &format!(
                "table inet nodeport {{
                chain to {{
                    type nat hook prerouting priority dstnat;
                    ip daddr 192.0.2.1 meta l4proto {{ tcp, udp }} th dport 30080 dnat ip to {v4}:8080
                    ip6 daddr 2001:db8::1 meta l4proto {{ tcp, udp }} th dport 30080 dnat ip6 to [{v6}]:8080
                }}
                chain from {{
                    type nat hook postrouting priority srcnat;
                    iifname eth0 masquerade
                }}
            }}"
            ),
        );
        site.start(&["vethapi"]);
        let probes = |expected| {
            let mut probes = Vec::new();
            for address in HOST.list() {
                for how in [How::Tcp(30080), How::Udp(30080)] {
                    probes.push(Probe {
                        from: &outside.namespace,
                        to: (&api.namespace, address),
                        how,
                        expected,
                    });
                }
            }
            check(&probes);
        };
        probes(Reached);
        site.put("policies.yaml", &policy("shop/api", &app("api")));
        probes(Dropped);
        table(&[
            (&site.host.namespace, &api, How::Tcp(8080), Reached),
            (&site.host.namespace, &api, How::Udp(8080), Reached),
        ]);
    });
}
