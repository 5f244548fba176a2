//! `palisade flows`, as an operator types it beside a running agent.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::{Layout, Namespace, Pod};
use crate::objects::{app, pod_with, policy};
use crate::probes::{How, Stream, echo_services, table};
use crate::require_root;
use crate::site::{KINDS, Site};

/// `palisade flows --follow`; killed on drop.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(site: &Site, arguments: &[&str]) -> Self {
        let mut command = site.command(&["flows", "--follow", "-o", "json"]);
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("palisade");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// The next record. (One that does not come is the test runner's to notice.)
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn records(text: &str) -> Vec<Value> {
    let record = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(record).collect()
}

fn datagrams(from: &Namespace, to: IpAddr, port: u16, count: usize) {
    from.run(|| {
        let any: IpAddr = match to {
            IpAddr::V4(_) => [0; 4].into(),
            IpAddr::V6(_) => [0; 16].into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).expect("a socket");
        for _ in 0..count {
            socket.send_to(b"x", SocketAddr::new(to, port)).expect("sent");
        }
    });
}

/// shop/web may reach shop/api on 8080/TCP; all else into shop/api is denied.
fn shop(site: &Site) -> [Pod; 2] {
    let pods = site.pods(["web", "api"]);
    let rule = format!("from: [{{{}}}], ports: [{{port: 8080}}]", app("web"));
    let text = [
        policy("shop/api", &format!("{}, ingress: [{{{rule}}}]", app("api"))),
        policy("shop/deny", &format!("{}, policyTypes: [Ingress]", app("api"))),
    ];
    site.folder.put("policies.yaml", &text.concat());
    pods
}

#[test]
fn a_denied_packet_is_shown_with_its_pods_and_the_policies_that_isolate() {
    require_root!();
    for kind in KINDS {
        let mut site = Site::new(Layout::Bridged, kind);
        let [web, api] = shop(&site);
        let _services = echo_services(&[&api.namespace], &[8080]);
        site.start(&["vethweb", "vethapi"]);
        let mut follower = Follower::start(&site, &["--pod", "shop/api", "--port", "9090"]);
        table(&[
            (&web.namespace, &api, How::Tcp(8080), Reached),
            (&web.namespace, &api, How::Udp(8080), Dropped),
        ]);
        for address in api.addresses.list() {
            datagrams(&web.namespace, address, 9090, 1);
            let flow = follower.next();
            let source = web.addresses.list().into_iter();
            let source = source
                .clone()
                .find(|own| own.is_ipv4() == address.is_ipv4())
                .expect("an address");
            for (pointer, expected) in [
                ("/type", "flow"),
                ("/verdict", "denied"),
                ("/direction", "ingress"),
                ("/reason", "isolation"),
                ("/pod", "shop/api"),
                ("/policies/0", "shop/api"),
                ("/policies/1", "shop/deny"),
                ("/source/pod", "shop/web"),
                ("/source/address", &source.to_string()),
                ("/destination/pod", "shop/api"),
                ("/destination/address", &address.to_string()),
                ("/protocol", "UDP"),
            ] {
                assert_eq!(
                    flow.pointer(pointer),
                    Some(&Value::from(expected)),
                    "{pointer} of {flow}"
                );
            }
            assert_eq!(flow["destination"]["port"], 9090);
            // An Ethernet header, an IP header, a UDP header and a byte.
            let ip = if address.is_ipv4() { 20 } else { 40 };
            assert_eq!(flow["length"], 14 + ip + 8 + 1, "{flow}");
        }
        // What is allowed is not reported unless that is asked for.
        let denied = records(&site.ask(&["flows", "--port", "8080", "-o", "json"]));
        assert!(!denied.is_empty());
        assert!(denied.iter().all(|flow| flow["protocol"] == "UDP"), "{denied:?}");
        let text = site.ask(&["flows", "--last", "1", "--port", "9090"]);
        assert!(
            text.contains("denied  ingress shop/web:")
                && text.contains(" -> shop/api:9090 UDP: isolated by shop/api, shop/deny\n"),
            "{text}"
        );
        let refused = site
            .command(&["flows", "--pod", "shop/apj"])
            .output()
            .expect("palisade");
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(
            said.contains("knows no pod \"shop/apj\"; it knows shop/api, shop/web"),
            "{said}"
        );
        site.stop();
        let gone = site.command(&["flows"]).output().expect("palisade");
        assert_eq!(gone.status.code(), Some(2));
        let said = String::from_utf8_lossy(&gone.stderr);
        assert!(said.contains("to see whether it runs: kubectl"), "{said}");
    }
}

#[test]
fn an_allowed_flow_is_shown_once_with_its_rule_where_that_is_asked_for() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx").with(&["--log-allowed"]);
    let [web, api] = shop(&site);
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.start(&["vethweb", "vethapi"]);
    let mut follower = Follower::start(
        &site,
        &["--verdict", "allowed", "--direction", "ingress", "--port", "8080"],
    );
    table(&[(&web.namespace, &api, How::Tcp(8080), Reached)]);
    for _ in api.addresses.list() {
        let flow = follower.next();
        assert_eq!(flow["rule"], "spec.ingress[0]", "{flow}");
        assert_eq!(flow["policies"], serde_json::json!(["shop/api"]), "{flow}");
        assert_eq!(flow["tcpFlags"], "SYN", "{flow}");
    }
    let text = site.ask(&[
        "flows",
        "--verdict",
        "allowed",
        "--direction",
        "ingress",
        "--port",
        "8080",
        "-o",
        "wide",
    ]);
    assert_eq!(
        text.lines().count(),
        api.addresses.list().len(),
        "one a connection:\n{text}"
    );
}

#[test]
fn of_a_flood_each_packet_is_shown_or_counted_as_lost_and_a_reader_that_stands_still_holds_up_no_change() {
    require_root!();
    const FLOOD: usize = 20_000;
    let mut site = Site::new(Layout::Routed, "tcx").with(&["--events-per-second=500"]);
    let [web, api] = shop(&site);
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.start(&["vethweb", "vethapi"]);
    let (still, mut reader) = (Follower::start(&site, &[]), Follower::start(&site, &[]));
    // Both are there once the first packet is through.
    let to = api.addresses.list()[0];
    datagrams(&web.namespace, to, 1, 1);
    assert_eq!(reader.next()["destination"]["port"], 1);
    still.signal(Signal::STOP);
    datagrams(&web.namespace, to, 7777, FLOOD);
    let open = policy("shop/api", &format!("{}, ingress: [{{}}]", app("api")));
    site.put("policies.yaml", &open);
    table(&[(&web.namespace, &api, How::Udp(8080), Reached)]);
    let (mut shown, mut lost) = (0, 0);
    while shown + lost < FLOOD {
        let record = reader.next();
        match record["type"].as_str() {
            Some("lost") => lost += record["lost"].as_u64().expect("a number") as usize,
            _ if record["destination"]["port"] == 7777 => shown += 1,
            _ => {}
        }
    }
    assert_eq!(shown + lost, FLOOD, "{shown} shown, {lost} lost");
    assert!(shown > 0 && lost > 0, "{shown} shown, {lost} lost");
    still.signal(Signal::CONT);
    assert!(site.metric("palisade_events_lost_total", &[]) >= lost as f64);
}

#[test]
fn the_flow_log_has_each_record_once_in_order_over_its_rotations_and_stays_when_palisade_ends() {
    require_root!();
    const SENT: usize = 30;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("flows.jsonl");
    let flag = format!("--flow-log={}", log.display());
    let flags = [&*flag, "--flow-log-max-bytes=4096", "--flow-log-files=9"];
    let mut site = Site::new(Layout::Routed, "tcx").with(&flags);
    let [web, api] = shop(&site);
    site.start(&["vethweb", "vethapi"]);
    for port in 0..SENT {
        datagrams(&web.namespace, api.addresses.list()[0], 7000 + port as u16, 1);
    }
    let mut held = Vec::new();
    while held.len() < SENT {
        let all = records(&site.ask(&["flows", "--last", "1000", "--namespace", "shop", "-o", "json"]));
        held = all
            .into_iter()
            .filter(|flow| flow["protocol"] == "UDP" && flow["pod"] == "shop/api")
            .collect();
    }
    site.stop();
    let old = |number: usize| folder.path().join(format!("flows.jsonl.{number}"));
    let mut written = Vec::new();
    for path in (1..=9).rev().map(old).filter(|path| path.exists()).chain([log]) {
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(text.len() <= 4096, "{} has {} bytes", path.display(), text.len());
        written.extend(records(&text));
    }
    assert!(old(1).exists(), "it was rotated");
    written.retain(|flow| flow["protocol"] == "UDP" && flow["pod"] == "shop/api");
    assert_eq!(written, held);
}

#[test]
fn what_a_pod_is_allowed_is_shown_where_its_annotation_asks_for_it_and_a_change_of_that_cuts_nothing() {
    require_root!();
    for kind in KINDS {
        let mut site = Site::new(Layout::Routed, kind);
        let [web, api] = shop(&site);
        let _services = echo_services(&[&api.namespace], &[8080]);
        let annotated = |answer: &str| {
            let annotation = format!("annotations: {{palisade.dev/log-allowed: \"{answer}\"}}");
            pod_with(
                "shop/api",
                "app: api",
                api.addresses,
                &annotation,
                "phase: Running",
            )
        };
        site.start(&["vethweb", "vethapi"]);
        let to = SocketAddr::new(api.addresses.list()[0], 8080);
        let mut before = Stream::open(&web.namespace, to);
        let flips = site.put("pod-api.yaml", &annotated("true"));
        assert!(flips.contains("flips=0"), "flows are not judged anew: {flips}");
        before.ask(Reached);
        let mut asked = Stream::open(&web.namespace, to);
        asked.ask(Reached);
        let shown = |site: &Site| -> Vec<Value> {
            records(&site.ask(&["flows", "--verdict", "allowed", "--port", "8080", "-o", "json"]))
        };
        let mut allowed = shown(&site);
        while allowed.is_empty() {
            allowed = shown(&site);
        }
        assert_eq!(allowed.len(), 1, "{allowed:?}");
        assert_eq!(
            (&allowed[0]["pod"], &allowed[0]["rule"]),
            (&"shop/api".into(), &"spec.ingress[0]".into())
        );
        assert_eq!(
            records(&site.ask(&["pods", "api", "-o", "json"]).replace('\n', ""))[0][0]["logAllowed"],
            true
        );
        // It is there after a restart as before, and gone when it is taken back.
        site.stop();
        site.start(&["vethweb", "vethapi"]);
        let _third = Stream::open(&web.namespace, to);
        while shown(&site).is_empty() {}
        site.put("pod-api.yaml", &annotated("false"));
        asked.ask(Reached);
        let mut follower = Follower::start(&site, &["--port", "9"]);
        let _fourth = Stream::open(&web.namespace, to);
        // What is denied after it is seen after it.
        datagrams(&web.namespace, to.ip(), 9, 1);
        follower.next();
        assert_eq!(shown(&site).len(), 1, "only the third");
    }
}
