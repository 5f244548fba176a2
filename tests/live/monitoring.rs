//! A real Prometheus server that scrapes a running agent: what it sees rise is what was sent.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::instance::{PATIENCE, get};
use crate::netns::{Layout, Namespace};
use crate::objects::{app, policy};
use crate::prometheus::Server;
use crate::require_root;
use crate::site::Site;

const PACKETS: &str = "palisade_traffic_packets_total";
const BYTES: &str = "palisade_traffic_bytes_total";
/// Bytes of a datagram's contents, and of its headers on a veth.
const CONTENTS: usize = 58;
const HEADERS: u64 = 14 + 20 + 8;

/// Sends so many datagrams, no faster than a veth takes them.
fn send(from: &Namespace, to: IpAddr, port: u16, count: usize) {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4000)).expect("a socket");
        for number in 1..=count {
            socket
                .send_to(&[0; CONTENTS], SocketAddr::from((to, port)))
                .expect("sent");
            if number % 50 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
}

/// What `promtool check metrics` says.
fn lint(page: &str) -> String {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool comes with prometheus");
    let mut input = tool.stdin.take().expect("a pipe");
    input.write_all(page.as_bytes()).expect("taken");
    drop(input);
    let output = tool.wait_with_output().expect("its end");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_prometheus_server_sees_counters_rise_by_what_was_sent_across_edits_and_a_killed_agent() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [web, api, intruder] = site.pods(["web", "api", "intruder"]);
    let to_api = format!("to: [{{{}}}], ports: [{{port: 8080, protocol: UDP}}]", app("api"));
    let from_web = format!(
        "from: [{{{}}}], ports: [{{port: 8080, protocol: UDP}}]",
        app("web")
    );
    let policies = |others: &str| {
        let egress = format!(
            "{}, policyTypes: [Egress], egress: [{{{to_api}}}{others}]",
            app("web")
        );
        let ingress = format!("{}, ingress: [{{{from_web}}}{others}]", app("api"));
        policy("shop/web", &egress) + &policy("shop/api", &ingress)
    };
    site.folder.put("policies.yaml", &policies(""));
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    // Takes what comes, and says nothing.
    let sink = api
        .namespace
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)));
    let _sink = sink.expect("a free port");
    let address = IpAddr::V4(api.addresses.v4.expect("an address"));

    let host = &site.host.namespace;
    let Some(server) = Server::start(&["127.0.0.1:9810".into()], |program| host.command(program)) else {
        return;
    };
    let settles = |site: &Site, expression: &str, expected| {
        site.host.namespace.run(|| server.settles(expression, expected))
    };
    let up = "up{job=\"palisade\"}";
    assert_eq!(settles(&site, up, 1.0), Some(1.0), "the agent is scraped");
    let of = |metric: &str, policy: &str, direction: &str, verdict: &str| {
        format!(
            "{metric}{{namespace=\"shop\",policy=\"{policy}\",direction=\"{direction}\",verdict=\"{verdict}\"}}"
        )
    };
    let watched = [
        ("web", "egress", "allowed"),
        ("web", "egress", "dropped"),
        ("api", "ingress", "allowed"),
        ("api", "ingress", "dropped"),
    ];
    for (policy, direction, verdict) in watched {
        let expression = of(PACKETS, policy, direction, verdict);
        assert_eq!(settles(&site, &expression, 0.0), Some(0.0), "{expression}");
    }

    let (_, page) = get(&site.host.namespace, "/metrics");
    assert_eq!(lint(&page), "", "{page}");

    let mut sent = 0;
    let mut each = |count: usize| {
        std::thread::scope(|scope| {
            // Allowed by web's policy, and by api's.
            scope.spawn(|| send(&web.namespace, address, 8080, count));
            // Denied by api's.
            scope.spawn(|| send(&intruder.namespace, address, 8080, count));
        });
        // Denied by web's: of its own port, or the two would share a socket.
        send(&web.namespace, address, 8081, count);
        sent += count;
    };
    each(400);
    // One more rule in each direction, and one more policy that isolates: what is denied has another counter from here on.
    let more = [
        policies(", {ports: [{port: 9000}]}"),
        policy(
            "shop/zz",
            "podSelector: {matchExpressions: [{key: app, operator: In, values: [web, api]}]}, policyTypes: [Ingress, Egress]",
        ),
    ];
    site.put("policies.yaml", &more.concat());
    each(300);
    site.crash();
    each(200);
    // Edited while nobody looks.
    site.folder.put("policies.yaml", &policies(""));
    site.start(&["vethweb", "vethapi", "vethintruder"]);
    each(300);
    site.crash();
    site.start(&["vethweb", "vethapi", "vethintruder"]);

    assert!(sent >= 1000);
    let bytes = sent as u64 * (CONTENTS as u64 + HEADERS);
    for (policy, direction, verdict) in watched {
        for (metric, expected) in [(PACKETS, sent as f64), (BYTES, bytes as f64)] {
            let expression = of(metric, policy, direction, verdict);
            assert_eq!(
                settles(&site, &expression, expected),
                Some(expected),
                "{expression}"
            );
            println!("{expression}: 0 → {expected}");
            // As the server reckons rates: a fall would be a restart of the counter.
            let falls = settles(&site, &format!("resets({expression}[10m])"), 0.0);
            assert_eq!(falls, Some(0.0), "{expression} fell");
        }
    }
    let unknown = site
        .host
        .namespace
        .run(|| server.query("palisade_traffic_packets_total{reason=\"unknown_pod\"} > 0"));
    assert_eq!(unknown, Some(Vec::new()), "all is known all the time");
}

/// Packets of each series of a scrape that names a policy: `policy direction verdict rule`, the rule where it is shown.
fn scraped(host: &Namespace) -> BTreeMap<String, u64> {
    let (status, body) = get(host, "/metrics");
    assert_eq!(status, 200, "{body}");
    let samples = body
        .lines()
        .filter_map(|line| line.strip_prefix(PACKETS)?.split_once("} "));
    let named = samples.filter_map(|(labels, value)| {
        let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1)?.split('"').next();
        let rule = label("rule").map(|rule| format!(" {rule}")).unwrap_or_default();
        let series = format!(
            "{} {} {}{rule}",
            label("policy")?,
            label("direction")?,
            label("verdict")?
        );
        Some((series, value.parse().expect("a number")))
    });
    named.collect()
}

#[test]
fn while_rules_come_and_go_no_scrape_shows_a_fall_or_more_than_was_sent() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [api, intruder] = site.pods(["api", "intruder"]);
    let api_policy = |rules: &str| policy("shop/api", &format!("{}, ingress: [{rules}]", app("api")));
    let more = policy("shop/zz", &app("api"));
    let texts = [
        api_policy("{ports: [{port: 8080, protocol: UDP}]}"),
        // Another rule allows the port, and another isolation denies all else.
        api_policy("{ports: [{port: 1}]}, {ports: [{port: 8080, protocol: UDP}]}") + &more,
    ];
    site.folder.put("policies.yaml", &texts[0]);
    site.start(&["vethapi", "vethintruder"]);
    let sink = api
        .namespace
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8080)));
    let _sink = sink.expect("a free port");
    let address = IpAddr::V4(api.addresses.v4.expect("an address"));

    let (edits, at_once) = (16, 25);
    // So many scrapes take longer than it takes to remove what an edit has left over.
    let between = 120;
    let all = at_once * edits as u64;
    let series = ["api ingress allowed", "api ingress dropped"];
    let expected = BTreeMap::from(series.map(|series| (series.to_string(), all)));
    let ended = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    let host = &site.host.namespace;
    let scrapes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut before = BTreeMap::new();
            while !ended.load(Ordering::Acquire) {
                let now = scraped(host);
                let limit = sent.load(Ordering::Acquire);
                for (series, count) in &now {
                    let last = before.get(series).copied().unwrap_or(0);
                    assert!(*count >= last, "{series} fell from {last} to {count}");
                    assert!(*count <= limit, "{series}: {count} of {limit} that were sent");
                }
                before = now;
                scrapes.fetch_add(1, Ordering::AcqRel);
            }
        });
        for edit in 1..=edits {
            // Before it is sent: a scrape may see it at once.
            sent.fetch_add(at_once, Ordering::AcqRel);
            site.folder.put("policies.yaml", &texts[edit % 2]);
            for port in [8080, 8081] {
                send(&intruder.namespace, address, port, at_once as usize);
            }
            let enough = scrapes.load(Ordering::Acquire) + between;
            while scrapes.load(Ordering::Acquire) < enough && !scraper.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let until = Instant::now() + PATIENCE;
        while scraped(host) != expected && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        ended.store(true, Ordering::Release);
        scraper
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{} scrapes during {edits} edits", scrapes.into_inner());
    assert_eq!(scraped(host), expected);

    // The same counts by rule, after a restart with the flag.
    site.crash();
    let mut site = site.with(&["--metrics-per-rule"]);
    site.start(&["vethapi", "vethintruder"]);
    let now = scraped(&site.host.namespace);
    let of = |series: &str| now.get(series).copied();
    assert_eq!(of("api ingress dropped"), Some(all), "{now:?}");
    let (rule, removed) = (of("api ingress allowed 0"), of("api ingress allowed _removed"));
    assert_eq!(rule.zip(removed).map(|(a, b)| a + b), Some(all), "{now:?}");
    assert!(removed > Some(0), "{now:?}");

    // Of a policy that is gone nothing is shown.
    site.folder.delete("policies.yaml");
    let until = Instant::now() + PATIENCE;
    while !scraped(&site.host.namespace).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(scraped(&site.host.namespace), BTreeMap::new());
}
