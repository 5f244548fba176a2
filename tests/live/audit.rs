//! A namespace whose policies are in audit, from the annotation to what an operator sees.

use std::net::SocketAddr;

use crate::netns::Answer::{Dropped, Reached};
use crate::objects::{app, policy};
use crate::probes::{How, Stream, echo_services, table};
use crate::require_root;
use crate::site::{Site, everywhere};

fn namespace(enforcement: &str) -> String {
    let annotations = format!("annotations: {{palisade.dev/enforcement: {enforcement}}}");
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, {annotations}}}\n")
}

#[test]
fn s38_a_namespace_in_audit_loses_nothing_until_it_leaves_it() {
    require_root!();
    everywhere(|mut site: Site| {
        let [web, api, intruder] = &site.pods(["web", "api", "intruder"]);
        let _services = echo_services(&[&api.namespace], &[8080]);
        site.folder.put("namespace.yaml", &namespace("audit"));
        let lets_in = format!("{}, ingress: [{{from: [{{{}}}]}}]", app("api"), app("web"));
        site.folder.put("policies.yaml", &policy("shop/api", &lets_in));
        site.start(&["vethweb", "vethapi", "vethintruder"]);
        let mark = site.instance().mark();
        let open = |from: &crate::netns::Pod| {
            let open = |ip| Stream::open(&from.namespace, SocketAddr::new(ip, 8080));
            api.addresses.list().into_iter().map(open).collect::<Vec<_>>()
        };
        let (mut by_web, mut by_intruder) = (open(web), open(intruder));
        let ask = |streams: &mut Vec<Stream>, expected| streams.iter_mut().for_each(|s| s.ask(expected));
        ask(&mut by_web, Reached);
        ask(&mut by_intruder, Reached);
        table(&[(&intruder.namespace, api, How::Udp(8080), Reached)]);
        let line = site.instance().wait_for(mark, &["audit", "in audit: shop/api"]);
        assert!(
            line.contains("pod=\"shop/api\"") || line.contains("pod=shop/api"),
            "{line}"
        );
        let count = |site: &Site, verdict: &str| {
            let verdict = format!("verdict=\"{verdict}\"");
            let labels = [
                "namespace=\"shop\"",
                "policy=\"api\"",
                "direction=\"ingress\"",
                &verdict,
            ];
            site.metric("palisade_traffic_packets_total", &labels)
        };
        let (audited, allowed) = (count(&site, "audit"), count(&site, "allowed"));
        assert!(
            audited >= 8.0 && allowed >= 4.0,
            "{audited} audited, {allowed} allowed"
        );
        assert_eq!(count(&site, "dropped"), 0.0);

        let set = |site: &mut Site, enforcement| {
            site.change(&["applied: ", "shop"], |folder| {
                folder.put("namespace.yaml", &namespace(enforcement));
            });
        };
        set(&mut site, "enforce");
        ask(&mut by_web, Reached);
        ask(&mut by_intruder, Dropped);
        table(&[
            (&intruder.namespace, api, How::Udp(8080), Dropped),
            (&web.namespace, api, How::Udp(8080), Reached),
        ]);
        assert!(count(&site, "dropped") >= 2.0);

        // What cannot be meant enforces, and is told.
        let line = site.change(&["problem: ", "palisade.dev/enforcement"], |folder| {
            folder.put("namespace.yaml", &namespace("Audit"));
        });
        assert!(line.contains("audit nor enforce"), "{line}");
        table(&[(&intruder.namespace, api, How::Udp(8080), Dropped)]);

        set(&mut site, "audit");
        by_intruder.iter_mut().for_each(Stream::recover);
        ask(&mut by_intruder, Reached);
    });
}
