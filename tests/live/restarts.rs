//! `palisade` stops, is killed, starts again, and is removed; packets flow all the while.

use std::net::{IpAddr, SocketAddr};

use rustix::process::Signal;

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::{Layout, Pod, Service};
use crate::objects::{app, policy};
use crate::probes::{How, echo_services, table};
use crate::require_root;
use crate::site::{KINDS, Site, everywhere};

mod traffic;

use traffic::Traffic;

/// `api` lets in `web` by port 8080.
fn lets_web_in(others: &str) -> String {
    let ports = "ports: [{port: 8080}, {port: 8080, protocol: UDP}]";
    policy(
        "shop/api",
        &format!(
            "{}, ingress: [{{from: [{{{}}}{others}], {ports}}}]",
            app("api"),
            app("web")
        ),
    )
}

fn shop(site: &Site) -> ([Pod; 3], Vec<Service>) {
    let pods = site.pods(["web", "api", "intruder"]);
    let services = echo_services(&[&pods[1].namespace], &[8080, 8081]);
    site.folder.put("policies.yaml", &lets_web_in(""));
    (pods, services)
}

fn enforced([web, api, intruder]: &[Pod; 3]) {
    table(&[
        (&web.namespace, api, How::Tcp(8080), Reached),
        (&web.namespace, api, How::Udp(8080), Reached),
        (&web.namespace, api, How::Udp(8081), Dropped),
        (&intruder.namespace, api, How::Tcp(8080), Dropped),
        (&intruder.namespace, api, How::Udp(8080), Dropped),
    ]);
}

fn open([web, api, intruder]: &[Pod; 3]) {
    table(&[
        (&web.namespace, api, How::Tcp(8081), Reached),
        (&intruder.namespace, api, How::Tcp(8080), Reached),
        (&intruder.namespace, api, How::Udp(8081), Reached),
    ]);
}

const VETHS: [&str; 3] = ["vethweb", "vethapi", "vethintruder"];

#[test]
fn s53_a_stop_leaves_enforcement_and_a_restart_adopts_it_without_a_write() {
    require_root!();
    everywhere(|mut site: Site| {
        let (pods, _services) = shop(&site);
        site.start(&VETHS);
        enforced(&pods);
        let log = site.stop();
        let goodbye = log.last().expect("a last line");
        assert!(goodbye.contains("goes on enforcing"), "{goodbye}");
        assert!(goodbye.contains("palisade clean --pin-path"), "{goodbye}");
        enforced(&pods);
        site.start(&VETHS);
        site.instance().wait_for(0, &["adopted=true"]);
        assert_eq!(site.metric("palisade_map_writes_total", &[]), 0.0);
        enforced(&pods);
    });
}

#[test]
fn s53_what_changed_while_it_was_stopped_comes_into_force_at_the_start() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let (pods, _services) = shop(&site);
    site.start(&VETHS);
    site.crash();
    site.folder.put("policies.yaml", &policy("shop/api", &app("api")));
    let [web, api, _] = &pods;
    table(&[(&web.namespace, api, How::Tcp(8080), Reached)]);
    site.start(&VETHS);
    table(&[(&web.namespace, api, How::Tcp(8080), Dropped)]);
    site.crash();
    site.folder.delete("policies.yaml");
    site.start(&VETHS);
    open(&pods);
}

#[test]
fn clean_removes_every_link_filter_map_and_pin_also_after_a_crash() {
    require_root!();
    everywhere(|mut site: Site| {
        let (pods, _services) = shop(&site);
        for crash in [false, true] {
            site.start(&VETHS);
            enforced(&pods);
            if crash {
                site.crash();
            } else {
                site.stop();
            }
            enforced(&pods);
            let output = site.clean();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{output:?}");
            let [links, filters] = if site.kind == "tcx" { [6, 0] } else { [0, 6] };
            assert!(
                said.starts_with(&format!("removed {links} links, {filters} filters, ")),
                "{said}"
            );
            assert!(!site.pins().exists(), "{} is left", site.pins().display());
            assert_eq!(programs_on(&site), "", "programs are left");
            open(&pods);
        }
    });
}

/// What the kernel says is attached to the host's interfaces.
fn programs_on(site: &Site) -> String {
    let mut text = String::new();
    for veth in VETHS {
        for hook in ["ingress", "egress"] {
            text += &site
                .host
                .namespace
                .exec("tc", &["filter", "show", "dev", veth, hook], "");
        }
    }
    text
}

#[test]
fn the_other_kind_of_attachment_takes_over_without_a_leak() {
    require_root!();
    for [before, after] in [KINDS, [KINDS[1], KINDS[0]]] {
        let mut site = Site::new(Layout::Routed, before);
        let (pods, _services) = shop(&site);
        site.start(&VETHS);
        let traffic = traffic(&pods);
        traffic.wait_for(200);
        site.stop();
        site.kind = after;
        site.start(&VETHS);
        traffic.wait_for(200);
        let seen = traffic.end();
        assert_eq!(seen.leaked, 0, "{before} to {after}: {seen:?}");
        if after == "tcx" {
            // A clsact qdisc that is new stops its interface's queues for a moment, whoever adds it.
            assert_eq!((seen.lost, seen.retransmitted), (0, 0), "{seen:?}");
        }
        enforced(&pods);
    }
}

fn traffic(pods: &[Pod; 3]) -> Traffic<'_> {
    let [web, api, intruder] = pods;
    let [v4, v6] = api.addresses.list()[..] else {
        panic!("two addresses")
    };
    let at = |ip: IpAddr| SocketAddr::new(ip, 8080);
    Traffic::start(web, intruder, api, at(v4), at(v6))
}

/// `PALISADE_RESTARTS` sets how often, for each kind of attachment.
#[test]
fn s53_kill_and_restart_under_traffic_loses_nothing_and_leaks_nothing() {
    require_root!();
    let restarts: usize = std::env::var("PALISADE_RESTARTS").map_or(6, |n| n.parse().expect("a number"));
    for kind in KINDS {
        let mut site = Site::new(Layout::Routed, kind);
        let (pods, _services) = shop(&site);
        site.start(&VETHS);
        let traffic = traffic(&pods);
        for round in 0..restarts {
            site.crash();
            // Each start has something to write, for the pod under traffic; for what flows it changes nothing.
            let other = format!(", {{ipBlock: {{cidr: 203.0.113.{}/32}}}}", round % 250);
            site.folder.put("policies.yaml", &lets_web_in(&other));
            let instance = site.launch();
            match round % 3 {
                // Killed while it starts, at some other point each time.
                0 => instance.let_run(std::time::Duration::from_millis(round as u64 * 37 % 200)),
                1 => drop(instance.wait_for(0, &["the kernel side is open"])),
                _ => drop(instance.wait_for(0, &["in force: "])),
            }
            traffic.wait_for(50);
        }
        site.crash();
        site.start(&VETHS);
        let expected = if restarts >= 100 { 50_000 } else { 1_000 };
        traffic.wait_until(expected);
        let seen = traffic.end();
        println!("{kind}, {restarts} restarts: {seen:?}");
        assert_eq!(
            (seen.lost, seen.leaked, seen.retransmitted),
            (0, 0, 0),
            "{kind}: {seen:?}"
        );
        enforced(&pods);
        let (status, log) = {
            site.instance().signal(Signal::TERM);
            site.instance().ended()
        };
        assert!(status.success(), "{}", log.join("\n"));
    }
}
