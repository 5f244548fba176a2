//! Veths come late, go, and come again; pods leave the folder.

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Layout;
use crate::objects::policy;
use crate::probes::{How, echo_services, table};
use crate::require_root;
use crate::site::{Site, everywhere};

#[test]
fn a_veth_is_attached_when_it_appears_and_forgotten_when_it_goes_and_so_is_its_successor() {
    require_root!();
    everywhere(|mut site: Site| {
        let _outside = site.host.outside();
        let [web, gone] = site.pods(["web", "gone"]);
        let none = policy("shop/none", "podSelector: {matchLabels: {app: gone}}");
        site.folder.put("policies.yaml", &none);
        let (name, addresses) = ("gone", gone.addresses);
        drop(gone);
        site.start(&["vethweb"]);
        for _ in 0..2 {
            let mark = site.instance().mark();
            let late = site.host.pod_at(name, addresses);
            site.instance()
                .wait_for(mark, &["attached", "interface=vethgone "]);
            let services = echo_services(&[&late.namespace], &[8080]);
            let mut rows = Vec::new();
            for how in [How::Tcp(8080), How::Udp(8080), How::Echo] {
                rows.push((&web.namespace, &late, how, Dropped));
                rows.push((&site.host.namespace, &late, how, Reached));
            }
            table(&rows);
            drop((rows, services));
            let ifindex = site.host.ifindex(&late);
            let mark = site.instance().mark();
            drop(late);
            site.instance()
                .wait_for(mark, &["forgotten", &format!("ifindex={ifindex}")]);
            assert!(
                !site
                    .pinned_links()
                    .iter()
                    .any(|link| link.starts_with(&format!("{ifindex}-")))
            );
        }
    });
}

#[test]
fn a_pod_that_leaves_the_folder_is_denied_until_it_is_back_or_its_veth_is_gone() {
    require_root!();
    everywhere(|mut site: Site| {
        let [web, api] = site.pods(["web", "api"]);
        let _services = echo_services(&[&api.namespace, &web.namespace], &[8080]);
        site.start(&["vethweb", "vethapi"]);
        table(&[(&web.namespace, &api, How::Tcp(8080), Reached)]);
        site.change(&["applied: Pod shop/api gone"], |folder| {
            folder.delete("pod-api.yaml");
        });
        table(&[
            (&web.namespace, &api, How::Tcp(8080), Dropped),
            (&web.namespace, &api, How::Udp(8080), Dropped),
            (&api.namespace, &web, How::Tcp(8080), Dropped),
        ]);
        site.put(
            "pod-api.yaml",
            &crate::objects::pod("shop/api", "app: api", api.addresses),
        );
        table(&[
            (&web.namespace, &api, How::Tcp(8080), Reached),
            (&api.namespace, &web, How::Tcp(8080), Reached),
        ]);
    });
}

#[test]
fn s35_a_pod_cannot_send_from_an_address_that_is_not_its_own() {
    require_root!();
    let mut site = Site::new(Layout::Bridged, "tcx");
    let [web, api, intruder] = site.pods(["web", "api", "intruder"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    // The intruder takes an address that nobody has: only its own programs can tell.
    intruder
        .namespace
        .ip("addr flush dev eth0\naddr add 10.88.0.99/24 dev eth0\naddr add fd88::99/64 dev eth0 nodad\n");
    table(&[
        (&intruder.namespace, &api, How::Udp(8080), Dropped),
        (&intruder.namespace, &api, How::Echo, Dropped),
        (&web.namespace, &api, How::Udp(8080), Reached),
    ]);
    assert!(site.metric("palisade_traffic_packets_total", &["reason=\"spoofed\""]) >= 1.0);
}
