//! Verdicts on packets of every kind.

use crate::netns::{self, Answer, Namespace, Pod, Protocol, Service};
use crate::objects::{app, pod, policy};
use crate::probes::{How, Probe, check};
use crate::require_root;
use crate::site::{Site, everywhere};

use Answer::{Dropped, Reached};

/// Probes of both families.
fn both<'a>(from: &'a Namespace, to: &'a Pod, how: How, expected: Answer) -> Vec<Probe<'a>> {
    to.addresses
        .list()
        .into_iter()
        .map(|address| Probe {
            from,
            to: (&to.namespace, address),
            how,
            expected,
        })
        .collect()
}

fn table(rows: &[(&Namespace, &Pod, How, Answer)]) {
    let probes: Vec<Probe<'_>> = rows
        .iter()
        .flat_map(|(from, to, how, expected)| both(from, to, *how, *expected))
        .collect();
    check(&probes);
}

fn echo_services(at: &[&Pod], ports: &[u16]) -> Vec<Service> {
    let mut services = Vec::new();
    for pod in at {
        for port in ports {
            services.push(Service::start(&pod.namespace, Protocol::Tcp, *port));
            services.push(Service::start(&pod.namespace, Protocol::Udp, *port));
        }
    }
    services
}

#[test]
fn s30_tcp_udp_and_sctp_pass_by_port_and_other_protocols_by_rules_without_ports() {
    require_root!();
    everywhere(|mut site: Site| {
        let (web, api, intruder) = (site.host.pod("web"), site.host.pod("api"), site.host.pod("intr"));
        let _services = echo_services(&[&api], &[8080, 8081]);
        site.folder.put(
            "pods.yaml",
            &[
                pod("shop/web", "app: web", web.addresses),
                pod("shop/api", "app: api", api.addresses),
                pod("shop/intruder", "app: intruder", intruder.addresses),
            ]
            .concat(),
        );
        site.folder.put("policies.yaml", &policy(
            "shop/api",
            &format!("{}, ingress: [{{from: [{{{}}}], ports: [{{port: 8080}}, {{port: 8080, protocol: UDP}}, {{port: 8082, protocol: SCTP}}]}}]",
                app("api"), app("web")),
        ));
        site.start(&["vethweb", "vethapi", "vethintr"]);
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
        site.put(
            "more.yaml",
            &policy(
                "shop/api-all",
                &format!("{}, ingress: [{{from: [{{{}}}]}}]", app("api"), app("web")),
            ),
        );
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
