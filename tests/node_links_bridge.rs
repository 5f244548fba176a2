//! Where pods are found on a bridge, which must first hear of them and forgets them when they are quiet.

mod locating;
mod netns;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use locating::{PATIENCE, locate_until, places, seek, sought, with_links};
use netns::{Addresses, Answer, Host, Layout, Protocol, Service, reach};
use palisade::node::Links;

#[test]
fn a_place_stands_when_its_bridge_forgets_the_pod() {
    require_root!();
    let host = Host::new(Layout::Bridged);
    let web = host.pod("web");
    let pods = [seek("web", &web)];
    with_links(&host, async |mut links| {
        let before = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        web.namespace.ip("link set eth0 down\n");
        host.namespace
            .ip("link set br0 type bridge fdb_flush\nneigh flush dev br0\n");
        links.changed().await.expect("changed");
        assert_eq!(links.locate(&pods).await.expect("locate"), before);
    });
}

#[test]
fn a_bridge_that_has_aged_out_a_quiet_pod_learns_it_anew() {
    require_root!();
    let host = Host::new(Layout::Bridged);
    let web = host.pod("web");
    // After a packet, either side would ask the other in a minute only.
    for (namespace, interface) in [(&host.namespace, "br0"), (&web.namespace, "eth0")] {
        namespace.sysctl(
            &format!("net/ipv4/neigh/{interface}/delay_first_probe_time"),
            "60",
        );
    }
    let service = Service::start(&web.namespace, Protocol::Udp, 9000);
    let address = web.addresses.list()[0];
    assert_eq!(
        reach(&host.namespace, Protocol::Udp, address, 9000, PATIENCE),
        Answer::Reached
    );
    drop(service);
    // It says nothing of its own accord, as its IPv6 would soon after the start.
    web.namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    // The neighbour is known, its port is not: as after a restart of the agent, minutes after the pod's last packet.
    host.namespace.ip("link set br0 type bridge fdb_flush\n");
    let pods = [sought("web", &[address])];
    with_links(&host, async |mut links| {
        let located = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        assert_eq!(
            places(&located),
            BTreeMap::from([("uid-web", (host.ifindex(&web), "vethweb"))])
        );
    });
}

#[test]
fn a_bridge_port_that_claims_anothers_address_does_not_move_it() {
    require_root!();
    let host = Host::new(Layout::Bridged);
    let (web, thief) = (host.pod("web"), host.pod("thief"));
    let pods = [seek("web", &web)];
    with_links(&host, async |mut links| {
        let before = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        // The neighbour entry now says that web is behind the thief's veth.
        let mac = thief.namespace.exec("cat", &["/sys/class/net/eth0/address"], "");
        for address in web.addresses.list() {
            host.namespace.ip(&format!(
                "neigh replace {address} lladdr {} dev br0 nud reachable\n",
                mac.trim()
            ));
        }
        links.changed().await.expect("changed");
        assert_eq!(
            places(&links.locate(&pods).await.expect("locate")),
            places(&before)
        );
        let both = [seek("web", &web), seek("thief", &thief)];
        let located = locate_until(&mut links, &both, |l| l.veths.len() == 2).await;
        assert_eq!(places(&located)["uid-thief"], (host.ifindex(&thief), "veththief"));
    });
}

#[test]
fn what_cannot_move_a_pod_is_no_change() {
    require_root!();
    let host = Host::new(Layout::Bridged);
    let web = host.pod("web");
    let pods = [seek("web", &web)];
    let mac = web.namespace.exec("cat", &["/sys/class/net/eth0/address"], "");
    let neighbours = |state: &str| {
        for address in web.addresses.list() {
            host.namespace.ip(&format!(
                "neigh replace {address} lladdr {} dev br0 nud {state}\n",
                mac.trim()
            ));
        }
    };
    with_links(&host, async |mut links| {
        locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        neighbours("reachable");
        // Let what locating has provoked arrive: whatever comes now is of the test's making.
        while tokio::time::timeout(Duration::from_millis(300), links.changed())
            .await
            .is_ok()
        {
            links.locate(&pods).await.expect("locate");
        }
        let quiet = async |links: &mut Links, what: &str| {
            let change = tokio::time::timeout(Duration::from_millis(200), links.changed()).await;
            assert!(change.is_err(), "{what} is no change");
        };
        host.namespace.ip("route add 198.51.100.0/24 dev br0\n");
        quiet(&mut links, "a route to elsewhere").await;
        neighbours("stale");
        quiet(&mut links, "a neighbour that has not been heard for a while").await;
        host.namespace
            .ip("neigh add 10.88.0.200 lladdr 02:00:00:00:00:01 dev br0\n");
        quiet(&mut links, "a neighbour that is no pod").await;
        host.namespace.ip(&format!(
            "route add {}/32 dev br0 metric 9\n",
            web.addresses.list()[0]
        ));
        tokio::time::timeout(PATIENCE, links.changed())
            .await
            .expect("a route to a pod is a change")
            .expect("changed");
    });
}

#[test]
fn a_pod_that_kept_silent_is_asked_for_again() {
    require_root!();
    let host = Host::new(Layout::Bridged);
    // Gives up after 50 ms instead of 3 s.
    for (key, value) in [("retrans_time_ms", "50"), ("mcast_solicit", "1")] {
        host.namespace.sysctl(&format!("net/ipv4/neigh/br0/{key}"), value);
    }
    let mute = host.pod_at(
        "mute",
        Addresses {
            v4: "10.88.0.66".parse().ok(),
            v6: None,
        },
    );
    mute.namespace.ip("link set eth0 arp off\n");
    // Nothing else that it sends may draw attention to it.
    mute.namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let pods = [seek("mute", &mute)];
    with_links(&host, async |mut links| {
        let located = locate_until(&mut links, &pods, |l| !l.problems.is_empty()).await;
        assert_eq!(located.veths, BTreeMap::new());
        // Until nothing is asked for any more: no answer, no failure, no change.
        while tokio::time::timeout(Duration::from_millis(500), links.changed())
            .await
            .is_ok()
        {
            links.locate(&pods).await.expect("locate");
        }
        let again = Instant::now();
        // The host sees nothing of this.
        mute.namespace.ip("link set eth0 arp on\n");
        let located = locate_until(&mut links, &pods, |l| !l.veths.is_empty()).await;
        assert_eq!(
            places(&located),
            BTreeMap::from([("uid-mute", (host.ifindex(&mute), "vethmute"))])
        );
        assert!(
            again.elapsed() > Duration::from_secs(1),
            "it was to be asked for the last time before"
        );
    });
}
