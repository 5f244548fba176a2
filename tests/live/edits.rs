//! The folder is edited while packets flow.

use std::net::SocketAddr;

use crate::netns::Answer::{self, Dropped, Reached};
use crate::netns::{Layout, Pod, Service};
use crate::objects::{app, policy};
use crate::probes::{How, Stream, echo_services, retransmissions, table};
use crate::require_root;
use crate::site::{Site, everywhere};

/// `api`, which lets in by port 8080 those that are named.
fn lets_in(names: &[&str]) -> String {
    let peers: Vec<String> = names.iter().map(|name| format!("{{{}}}", app(name))).collect();
    let ports = "ports: [{port: 8080}, {port: 8080, protocol: UDP}]";
    policy(
        "shop/api",
        &match &peers[..] {
            [] => app("api"),
            _ => format!(
                "{}, ingress: [{{from: [{}], {ports}}}]",
                app("api"),
                peers.join(", ")
            ),
        },
    )
}

fn shop(site: &Site) -> ([Pod; 3], Vec<Service>) {
    let pods = site.pods(["web", "api", "intruder"]);
    let services = echo_services(&[&pods[1].namespace], &[8080]);
    (pods, services)
}

/// Whether `api` can be reached by whom.
fn seen([web, api, intruder]: &[Pod; 3], by_web: Answer, by_intruder: Answer) {
    table(&[
        (&web.namespace, api, How::Udp(8080), by_web),
        (&web.namespace, api, How::Tcp(8080), by_web),
        (&intruder.namespace, api, How::Udp(8080), by_intruder),
        (&intruder.namespace, api, How::Tcp(8080), by_intruder),
    ]);
}

#[test]
fn s38_a_tightened_policy_cuts_at_the_next_packet_and_a_loosened_one_disturbs_nothing() {
    require_root!();
    everywhere(|mut site: Site| {
        let (pods, _services) = shop(&site);
        let [web, api, intruder] = &pods;
        site.folder.put("policies.yaml", &lets_in(&["web", "intruder"]));
        site.start(&["vethweb", "vethapi", "vethintruder"]);
        let streams = |from: &Pod| {
            let open = |ip| Stream::open(&from.namespace, SocketAddr::new(ip, 8080));
            api.addresses.list().into_iter().map(open).collect::<Vec<_>>()
        };
        let (mut by_web, mut by_intruder) = (streams(web), streams(intruder));
        let ask = |streams: &mut Vec<Stream>, expected| streams.iter_mut().for_each(|s| s.ask(expected));
        ask(&mut by_web, Reached);
        ask(&mut by_intruder, Reached);
        site.put("other.yaml", &policy("shop/other", &app("web")));
        ask(&mut by_web, Reached);
        site.put("policies.yaml", &lets_in(&["web"]));
        ask(&mut by_web, Reached);
        ask(&mut by_intruder, Dropped);
        site.put("policies.yaml", &lets_in(&["web", "db", "intruder"]));
        ask(&mut by_web, Reached);
        // Retransmitted, and let in again: the connection goes on.
        by_intruder.iter_mut().for_each(Stream::recover);
        ask(&mut by_intruder, Reached);
        let lost = retransmissions(&web.namespace);
        assert_eq!(lost, 0, "an edit that is no concern of it lost a packet");
    });
}

#[test]
fn s37_a_connection_that_is_older_than_the_first_policy_goes_on_if_it_is_allowed() {
    require_root!();
    everywhere(|mut site: Site| {
        let (pods, _services) = shop(&site);
        let [web, api, intruder] = &pods;
        let open = |from: &Pod, ip| Stream::open(&from.namespace, SocketAddr::new(ip, 8080));
        let addresses = api.addresses.list();
        let mut by_web: Vec<Stream> = addresses.iter().map(|ip| open(web, *ip)).collect();
        let mut by_intruder: Vec<Stream> = addresses.iter().map(|ip| open(intruder, *ip)).collect();
        let none = policy("shop/none", "podSelector: {}, policyTypes: [Ingress, Egress]");
        let web_out = policy(
            "shop/web",
            &format!("{}, egress: [{{to: [{{{}}}]}}]", app("web"), app("api")),
        );
        site.folder
            .put("policies.yaml", &[none, web_out, lets_in(&["web"])].concat());
        site.start(&["vethweb", "vethapi", "vethintruder"]);
        by_web.iter_mut().for_each(|stream| stream.ask(Reached));
        by_intruder.iter_mut().for_each(|stream| stream.ask(Dropped));
    });
}

#[test]
fn s38_renames_saves_in_place_and_deletions_take_effect() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let (pods, _services) = shop(&site);
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    seen(&pods, Reached, Reached);
    let line = site.put("policies.yaml", &lets_in(&["web"]));
    assert!(line.contains("NetworkPolicy shop/api"), "{line}");
    seen(&pods, Reached, Dropped);
    site.change(&["applied: NetworkPolicy shop/api"], |folder| {
        folder.save("policies.yaml", &lets_in(&["intruder"]));
    });
    seen(&pods, Dropped, Reached);
    // Out of the folder's sight, and back under another name.
    site.change(&["applied: NetworkPolicy shop/api gone"], |folder| {
        std::fs::rename(folder.file("policies.yaml"), folder.file("policies.off")).unwrap();
    });
    seen(&pods, Reached, Reached);
    site.change(&["applied: NetworkPolicy shop/api"], |folder| {
        std::fs::rename(folder.file("policies.off"), folder.file("other.yml")).unwrap();
    });
    seen(&pods, Dropped, Reached);
    site.change(&["applied: NetworkPolicy shop/api gone"], |folder| {
        folder.delete("other.yml");
    });
    seen(&pods, Reached, Reached);
}

#[test]
fn a_half_written_file_does_not_take_effect_and_a_broken_one_leaves_what_was_in_force() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let (pods, _services) = shop(&site);
    site.folder.put("policies.yaml", &lets_in(&["web"]));
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    seen(&pods, Reached, Dropped);
    // Cut where the rest would still be a sound policy, and a wider one.
    let open = policy("shop/api", &format!("{}, ingress: [{{}}]", app("api")));
    let file = site.folder.begin("policies.yaml", &open);
    site.settle();
    seen(&pods, Reached, Dropped);
    site.change(&["applied: NetworkPolicy shop/api"], |_| drop(file));
    seen(&pods, Reached, Reached);
    site.put("policies.yaml", &lets_in(&["web"]));
    let broken = format!("{open}  ingress: [[[");
    let line = site.change(&["problem: "], |folder| folder.put("policies.yaml", &broken));
    assert!(line.contains("policies.yaml"), "{line}");
    seen(&pods, Reached, Dropped);
    assert!(site.metric("palisade_problems", &[]) >= 1.0);
    site.change(&["no problem any more: "], |folder| {
        folder.put("policies.yaml", &lets_in(&["intruder"]));
    });
    seen(&pods, Dropped, Reached);
}

#[test]
fn a_folder_that_vanishes_changes_nothing_until_it_is_back() {
    require_root!();
    let mut site = Site::new(Layout::Bridged, "tcx");
    let (pods, _services) = shop(&site);
    site.folder.put("policies.yaml", &lets_in(&["web"]));
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    let path = site.folder.path().to_owned();
    let aside = path.with_extension("aside");
    site.change(&["problem: ", "the folder"], |_| {
        std::fs::rename(&path, &aside).unwrap();
    });
    seen(&pods, Reached, Dropped);
    std::fs::write(aside.join("policies.yaml"), lets_in(&["intruder"])).unwrap();
    site.change(&["no problem any more: "], |_| {
        std::fs::rename(&aside, &path).unwrap();
    });
    seen(&pods, Dropped, Reached);
}

#[test]
fn s16_labels_are_evaluated_anew_for_subjects_and_peers() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let (pods, _services) = shop(&site);
    let [web, api, intruder] = &pods;
    site.folder.put("policies.yaml", &lets_in(&["web"]));
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    seen(&pods, Reached, Dropped);
    site.put(
        "pod-intruder.yaml",
        &crate::objects::pod("shop/intruder", "app: web", intruder.addresses),
    );
    site.put(
        "pod-web.yaml",
        &crate::objects::pod("shop/web", "app: other", web.addresses),
    );
    seen(&pods, Dropped, Reached);
    site.put(
        "pod-api.yaml",
        &crate::objects::pod("shop/api", "app: free", api.addresses),
    );
    seen(&pods, Reached, Reached);
}
