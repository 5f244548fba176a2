//! Where pods are found, on a host with host routes and on one with a bridge.

mod locating;
mod netns;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use locating::{PATIENCE, locate_until, places, seek, sought, with_links};
use netns::{Addresses, Answer, Host, Layout, Protocol, Service, reach};
use palisade::node::{Links, Sought};

#[test]
fn the_driver_ends_well_when_nobody_asks_any_more() {
    require_root!();
    let host = Host::new(Layout::Routed);
    host.namespace.block_on(|| async {
        let (links, driver) = Links::open().expect("netlink sockets");
        drop(links);
        tokio::time::timeout(PATIENCE, driver)
            .await
            .expect("an end")
            .expect("no error");
    });
}

#[test]
fn each_pod_is_found_by_either_family_in_either_layout() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let _outside = host.outside();
        let (web, api) = (host.pod("web"), host.pod("api"));
        let expected = BTreeMap::from([
            ("uid-api", (host.ifindex(&api), "vethapi")),
            ("uid-web", (host.ifindex(&web), "vethweb")),
        ]);
        let families: [fn(&IpAddr) -> bool; 3] = [|_| true, IpAddr::is_ipv4, IpAddr::is_ipv6];
        for family in families {
            let pods: Vec<Sought> = [("web", &web), ("api", &api)]
                .map(|(name, pod)| {
                    sought(
                        name,
                        &pod.addresses
                            .list()
                            .into_iter()
                            .filter(family)
                            .collect::<Vec<_>>(),
                    )
                })
                .into();
            with_links(&host, async |mut links| {
                let located = locate_until(&mut links, &pods, |l| l.veths.len() == 2).await;
                assert_eq!(places(&located), expected, "{layout:?}");
                assert_eq!(located.problems, [], "{layout:?}");
                assert!(located.veths.values().all(|veth| veth.mac.is_some()));
            });
        }
    }
}

#[test]
fn a_pod_is_found_when_its_veth_appears_later() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let addresses = Addresses::new("10.88.0.77", "fd88::77");
        let pods = [sought("late", &addresses.list())];
        with_links(&host, async |mut links| {
            let before = links.locate(&pods).await.expect("locate");
            assert_eq!(before.veths.len(), 0, "{layout:?}: nothing is there yet");
            let pod = host.pod_at("late", addresses);
            let after = locate_until(&mut links, &pods, |l| !l.veths.is_empty()).await;
            assert_eq!(
                places(&after),
                BTreeMap::from([("uid-late", (host.ifindex(&pod), "vethlate"))]),
                "{layout:?}"
            );
        });
    }
}

#[test]
fn a_pod_is_forgotten_when_its_veth_is_deleted() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let (web, api) = (host.pod("web"), host.pod("api"));
        let pods = [seek("web", &web), seek("api", &api)];
        with_links(&host, async |mut links| {
            locate_until(&mut links, &pods, |l| l.veths.len() == 2).await;
            host.namespace.ip("link del vethweb");
            let after = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
            assert_eq!(
                places(&after),
                BTreeMap::from([("uid-api", (host.ifindex(&api), "vethapi"))]),
                "{layout:?}"
            );
        });
    }
}

#[test]
fn a_pod_behind_the_uplink_is_refused_though_the_uplink_is_a_veth() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let outside = host.outside();
        // By the network's route, by the default route, by a host route over the uplink, and the node itself.
        host.namespace
            .ip("route add 192.0.2.44/32 dev eth0\nroute add 198.51.100.7/32 via 192.0.2.2\n");
        let addresses = [
            "192.0.2.2",
            "203.0.113.9",
            "192.0.2.44",
            "198.51.100.7",
            "2001:db8::2",
            "192.0.2.1",
            "127.0.0.1",
        ];
        let pods = addresses.map(|address| sought(address, &[address.parse().expect("an address")]));
        with_links(&host, async |mut links| {
            let located = links.locate(&pods).await.expect("locate");
            assert_eq!(located.veths, BTreeMap::new(), "{layout:?}");
            // By way of another machine, which is no problem.
            let elsewhere = ["203.0.113.9", "198.51.100.7"];
            assert_eq!(located.elsewhere, elsewhere.len(), "{layout:?}");
            for address in addresses {
                let problem = located.problems.iter().find(|p| p.value == address);
                if elsewhere.contains(&address) {
                    assert_eq!(problem, None, "{layout:?}");
                    continue;
                }
                let problem = problem.unwrap_or_else(|| panic!("{layout:?}: no problem for {address}"));
                assert!(problem.object == format!("Pod shop/{address}") && !problem.remedy.is_empty());
            }
        });
        drop(outside);
    }
}

#[test]
fn two_pods_on_one_veth_are_both_reported_and_who_was_first_keeps_it() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let web = host.pod("web");
        let (first, second) = (seek("web", &web), seek("ghost", &web));
        with_links(&host, async |mut links| {
            locate_until(&mut links, std::slice::from_ref(&first), |l| l.veths.len() == 1).await;
            let both = [first.clone(), second.clone()];
            let located = locate_until(&mut links, &both, |l| l.problems.len() == 2).await;
            assert_eq!(
                places(&located),
                BTreeMap::from([("uid-web", (host.ifindex(&web), "vethweb"))]),
                "{layout:?}"
            );
            for problem in &located.problems {
                assert!(
                    problem.message.contains("pod shop/web and pod shop/ghost")
                        && problem.message.contains("vethweb"),
                    "{problem}"
                );
            }
        });
        // Nobody was first: nobody gets it.
        with_links(&host, async |mut links| {
            let located = locate_until(&mut links, &[first.clone(), second.clone()], |l| {
                l.problems.len() == 2
            })
            .await;
            assert_eq!(located.veths, BTreeMap::new(), "{layout:?}");
        });
    }
}

#[test]
fn a_host_route_that_moves_takes_the_pod_with_it() {
    require_root!();
    let host = Host::new(Layout::Routed);
    let (old, new) = (host.pod("old"), host.pod("new"));
    let address = old.addresses.list()[0];
    let pods = [sought("web", &[address])];
    with_links(&host, async |mut links| {
        let before = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        assert_eq!(places(&before)["uid-web"].1, old.veth);
        host.namespace
            .ip(&format!("route replace {address}/32 dev {}\n", new.veth));
        let after = locate_until(&mut links, &pods, |l| places(l)["uid-web"].1 != old.veth).await;
        assert_eq!(places(&after)["uid-web"], (host.ifindex(&new), "vethnew"));
    });
}

#[test]
fn pods_in_both_layouts_reach_each_other_the_host_and_the_outside() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let outside = host.outside();
        let (web, api) = (host.pod("web"), host.pod("api"));
        let mut services = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            services.push(Service::start(&api.namespace, protocol, 8080));
            services.push(Service::start(&outside.namespace, protocol, 8080));
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for to in api.addresses.list() {
                for from in [&web.namespace, &host.namespace, &outside.namespace] {
                    let seen = reach(from, protocol, to, 8080, PATIENCE);
                    assert_eq!(
                        seen,
                        Answer::Reached,
                        "{layout:?} {protocol:?} {} → {to}",
                        from.name()
                    );
                }
                let closed = reach(&web.namespace, protocol, to, 8081, PATIENCE);
                assert_eq!(closed, Answer::Refused, "{layout:?} {protocol:?} {to}");
            }
            for to in outside.addresses.list() {
                assert_eq!(
                    reach(&web.namespace, protocol, to, 8080, PATIENCE),
                    Answer::Reached,
                    "{layout:?} {to}"
                );
            }
        }
    }
}

#[test]
fn a_veth_that_takes_over_an_index_is_another_veth() {
    require_root!();
    let host = Host::new(Layout::Routed);
    let web = host.pod("web");
    let address = web.addresses.list()[0];
    let pods = [sought("web", &[address])];
    with_links(&host, async |mut links| {
        let before = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        let ifindex = host.ifindex(&web);
        let name = web.namespace.name();
        host.namespace.ip(&format!(
            "link del vethweb\n\
             link add vethweb index {ifindex} type veth peer name eth0 netns {name}\n"
        ));
        links.changed().await.expect("changed");
        assert_eq!(
            links.locate(&pods).await.expect("locate").veths,
            BTreeMap::new(),
            "no route leads to the new one"
        );
        host.namespace.ip(&format!(
            "link set vethweb up\nroute add {address}/32 dev vethweb\n"
        ));
        let after = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        assert_eq!(places(&after), places(&before));
        assert_ne!(
            after.veths["uid-web"].incarnation,
            before.veths["uid-web"].incarnation
        );
    });
}

#[test]
fn a_pod_whose_address_is_edited_is_found_by_the_new_one() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let (old, new) = (host.pod("old"), host.pod("new"));
        with_links(&host, async |mut links| {
            locate_until(&mut links, &[seek("web", &old)], |l| l.veths.len() == 1).await;
            let pods = [seek("web", &new)];
            let after = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
            assert_eq!(
                places(&after)["uid-web"],
                (host.ifindex(&new), "vethnew"),
                "{layout:?}"
            );
        });
    }
}

#[test]
fn lost_notifications_are_made_up_for() {
    require_root!();
    let host = Host::new(Layout::Routed);
    let web = host.pod("web");
    let (first, late) = (seek("web", &web), Addresses::new("10.88.0.77", "fd88::77"));
    let pods = [first, sought("late", &late.list())];
    with_links(&host, async |mut links| {
        let before = locate_until(&mut links, &pods, |l| l.veths.len() == 1).await;
        assert_eq!(places(&before)["uid-web"], (host.ifindex(&web), "vethweb"));
        // The driver does not run meanwhile (one thread), so that what it does not read overflows: a route notification
        // takes about 1 kB of a buffer of at most 8 MB.
        let block = (0..16_000).map(|n| format!("route add 198.18.{}.{}/32 dev lo\n", n / 250, n % 250));
        host.namespace.ip(&block.collect::<String>());
        let pod = host.pod_at("late", late);
        host.namespace.ip("link del vethweb\n");
        let after = locate_until(&mut links, &pods, |l| l.veths.contains_key("uid-late")).await;
        let after = match after.veths.len() {
            1 => after,
            _ => locate_until(&mut links, &pods, |l| l.veths.len() == 1).await,
        };
        assert_eq!(
            places(&after),
            BTreeMap::from([("uid-late", (host.ifindex(&pod), "vethlate"))])
        );
    });
}

/// Prints how long many pods take: `cargo test --test node_links many -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement of some 10 s"]
fn many_pods_are_found_in_one_call() {
    require_root!();
    // On the bridge, each pod takes two entries of the machine's neighbour table, which by default has room for 512
    // before it is cleaned (net.ipv4.neigh.default.gc_thresh2).
    for (layout, count) in [(Layout::Routed, 1000), (Layout::Bridged, 200)] {
        let host = Host::new(layout);
        let crowd = netns::Namespace::new("crowd");
        let mut commands = String::new();
        let mut inside = String::new();
        let mut pods = Vec::new();
        for n in 0..count {
            let (v4, v6) = (
                format!("10.88.{}.{}", 1 + n / 200, 10 + n % 200),
                format!("fd88::{}:{n:x}", 1),
            );
            commands += &format!(
                "link add v{n} type veth peer name e{n} netns {}\nlink set v{n} up\n",
                crowd.name()
            );
            inside += &format!("link set e{n} up\n");
            match layout {
                Layout::Routed => {
                    commands += &format!("route add {v4}/32 dev v{n}\nroute add {v6}/128 dev v{n}\n");
                }
                Layout::Bridged => {
                    commands += &format!("link set v{n} master br0\n");
                    inside += &format!("addr add {v4}/32 dev e{n}\naddr add {v6}/128 dev e{n} nodad\n");
                }
            }
            pods.push(sought(
                &format!("p{n}"),
                &[v4.parse().unwrap(), v6.parse().unwrap()],
            ));
        }
        if layout == Layout::Bridged {
            commands += "addr add 10.88.0.2/16 dev br0\n";
            // Each answers for its own address only, as if it were a pod of its own.
            for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
                crowd.sysctl(&format!("net/ipv4/conf/all/{key}"), value);
            }
        }
        host.namespace.ip(&commands);
        crowd.ip(&inside);
        with_links(&host, async |mut links| {
            let start = Instant::now();
            let first = links.locate(&pods).await.expect("locate");
            let (first_took, found_first) = (start.elapsed(), first.veths.len());
            let located = locate_until(&mut links, &pods, |l| l.veths.len() == count).await;
            let all_took = start.elapsed();
            let start = Instant::now();
            assert_eq!(links.locate(&pods).await.expect("locate"), located);
            let again_took = start.elapsed();
            println!(
                "{layout:?}: first call {first_took:?} ({found_first} found), all {all_took:?}, again {again_took:?}"
            );
        });
    }
}
