//! `palisade trace`, as an operator types it beside a running agent.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::{Layout, Pod, Protocol, reach};
use crate::objects::{app, policy};
use crate::probes::echo_services;
use crate::require_root;
use crate::site::{KINDS, Site};

const PATIENCE: Duration = Duration::from_millis(600);
/// For what must come.
const WAIT: Duration = Duration::from_secs(10);

/// `palisade trace -o json`; killed on drop.
struct Tracer {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Tracer {
    /// Back once the programs tell.
    fn start(site: &Site, arguments: &[&str]) -> Self {
        let mut command = site.command(&["trace", "-o", "json", "--for", "60s"]);
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("palisade");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut tracer = Self { child, lines };
        assert_eq!(tracer.next()["type"], "begun");
        tracer
    }

    /// The next line. (One that does not come is the test runner's to notice.)
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// shop/web may reach shop/api on 8080/TCP; all else into shop/api is denied.
fn shop(site: &Site) -> [Pod; 2] {
    let pods = site.pods(["web", "api"]);
    let rule = format!("from: [{{{}}}], ports: [{{port: 8080}}]", app("web"));
    site.folder.put(
        "policies.yaml",
        &policy("shop/api", &format!("{}, ingress: [{{{rule}}}]", app("api"))),
    );
    pods
}

fn v4(pod: &Pod) -> IpAddr {
    pod.addresses.v4.expect("IPv4").into()
}

/// Ids of the programs that stand at a pod's interface by tcx, and of the plain ones: from_pod's, to_pod's.
fn programs(site: &Site, pod: &Pod) -> [[u32; 2]; 2] {
    let ifindex = site.host.ifindex(pod);
    let standing = ["ingress", "egress"].map(|hook| {
        let link = libbpf_rs::Link::open(site.pins().join(format!("links/{ifindex}-{hook}")));
        link.expect("a link").info().expect("its info").prog_id
    });
    let version = std::fs::read_dir(site.pins())
        .expect("the pins")
        .find_map(|entry| {
            let entry = entry.expect("an entry");
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with('v'))
                .then(|| entry.path())
        });
    let version = version.expect("a version");
    let plain = ["from_pod", "to_pod"].map(|name| {
        let fd = libbpf_rs::Program::fd_from_pinned_path(version.join("programs").join(name));
        libbpf_rs::Program::id_from_fd(std::os::fd::AsFd::as_fd(&fd.expect("a program"))).expect("its id")
    });
    [standing, plain]
}

fn plain_again(site: &Site, pod: &Pod) {
    let until = Instant::now() + WAIT;
    loop {
        let [standing, plain] = programs(site, pod);
        if standing == plain {
            return;
        }
        assert!(Instant::now() < until, "{standing:?} stand there, not {plain:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_trace_shows_each_packets_way_with_the_names_of_pods_and_rules() {
    require_root!();
    for kind in KINDS {
        let mut site = Site::new(Layout::Routed, kind);
        let [web, api] = shop(&site);
        let _services = echo_services(&[&api.namespace], &[8080]);
        site.start(&["vethweb", "vethapi"]);
        let mut tracer = Tracer::start(
            &site,
            &[
                "--pod",
                "shop/api",
                "--protocol",
                "tcp",
                "--destination",
                "0.0.0.0/0",
            ],
        );
        let seen = reach(&web.namespace, Protocol::Tcp, v4(&api), 8080, PATIENCE);
        assert_eq!(seen, Reached, "{kind}");
        let [first, reply] = [tracer.next(), tracer.next()];
        for (packet, expected) in [
            (
                &first,
                [
                    ("/pod", "\"shop/api\""),
                    ("/direction", "\"ingress\""),
                    ("/headers/tcpFlags", "\"SYN\""),
                    ("/headers/source/pod", "\"shop/web\""),
                    ("/headers/destination/port", "8080"),
                    ("/conntrack/lookup", "\"miss\""),
                    ("/policy/0/row", "\"table\""),
                    ("/policy/0/isolatedBy/0", "\"shop/api\""),
                    ("/by/rule", "\"spec.ingress[0]\""),
                    ("/recorded", "true"),
                ],
            ),
            (
                &reply,
                [
                    ("/pod", "\"shop/api\""),
                    ("/direction", "\"egress\""),
                    ("/headers/tcpFlags", "\"SYN,ACK\""),
                    ("/conntrack/lookup", "\"hit\""),
                    ("/conntrack/standing", "\"current\""),
                    ("/conntrack/state", "\"syn\""),
                    ("/conntrack/by/policies/0", "\"shop/api\""),
                    ("/established", "true"),
                    ("/verdict", "\"allowed\""),
                    ("/recorded", "false"),
                ],
            ),
        ] {
            for (pointer, value) in expected {
                let found = packet.pointer(pointer).map(ToString::to_string);
                assert_eq!(found.as_deref(), Some(value), "{kind}: {pointer} of {packet}");
            }
        }
        drop(tracer);

        let text = std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let arguments = ["trace", "--reason", "isolation", "--packets", "1", "--for", "30s"];
                site.ask(&arguments)
            });
            // The one before may still be ending, and this one beginning.
            let until = Instant::now() + WAIT;
            while !asked.is_finished() && Instant::now() < until {
                let seen = reach(&web.namespace, Protocol::Tcp, v4(&api), 9090, PATIENCE);
                assert_eq!(seen, Dropped, "{kind}");
            }
            asked.join().expect("an answer")
        });
        for expected in [
            "shop/api ingress TCP SYN ",
            "(shop/web) -> ",
            ":9090 (shop/api)",
            "\n  conntrack  not asked\n",
            "(shop/api), peer is of class 0x",
            "by 9090/TCP, nodes read: 1: no rule allows\n",
            "\n  verdict    denied: isolated by shop/api\n",
            "\n  next       dropped\n",
            "1 of ",
            "0 lost: it was to tell of no more (--packets)\n",
        ] {
            assert!(text.contains(expected), "{kind}: {expected:?} is not in\n{text}");
        }
    }
}

#[test]
fn a_trace_ends_with_its_reader_with_its_time_and_with_the_agent() {
    require_root!();
    let mut site = Site::new(Layout::Routed, KINDS[0]);
    let [web, api] = shop(&site);
    site.start(&["vethweb", "vethapi"]);
    let [standing, plain] = programs(&site, &api);
    assert_eq!(standing, plain);

    let tracer = Tracer::start(&site, &["--pod", "shop/api"]);
    let [standing, plain] = programs(&site, &api);
    assert!(standing.iter().all(|id| !plain.contains(id)));
    let [others, plain] = programs(&site, &web);
    assert_eq!(others, plain, "of a pod that is not traced");
    let refused = site.command(&["trace"]).output().expect("palisade");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("one at a time"), "{said}");
    // Its reader goes, without a word.
    drop(tracer);
    plain_again(&site, &api);

    let text = site.ask(&["trace", "--pod", "shop/api", "--port", "1", "--for", "200ms"]);
    assert!(
        text.starts_with("0 of ") && text.contains("its time is over"),
        "{text}"
    );
    plain_again(&site, &api);

    for (arguments, words) in [
        (["--pod", "shop/apu"], ["no pod", "shop/api"]),
        (["--reason", "weather"], ["weather", "isolation"]),
        (["--port", "0"], ["--port", "0"]),
        (["--for", "1h"], ["--for", "10 minutes"]),
    ] {
        let refused = site
            .command(&["trace"])
            .args(arguments)
            .output()
            .expect("palisade");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{arguments:?}: {said}"
        );
    }

    let mut tracer = Tracer::start(&site, &[]);
    let log = site.stop();
    assert!(log.iter().any(|line| line.contains("a trace begins")));
    plain_again(&site, &api);
    let mut rest = String::new();
    while tracer.lines.read_line(&mut rest).expect("lines") > 0 {}

    site.start(&["vethweb", "vethapi"]);
    let mut tracer = Tracer::start(&site, &[]);
    site.crash();
    assert_eq!(tracer.child.wait().expect("its end").code(), Some(2));
    let [standing, plain] = programs(&site, &api);
    assert!(
        standing.iter().all(|id| !plain.contains(id)),
        "what a killed agent leaves"
    );
    site.start(&[]);
    plain_again(&site, &api);
    plain_again(&site, &web);
}
