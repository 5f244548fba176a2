//! What an operator types beside a running agent, and what the kernel then really has.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::{Layout, Pod};
use crate::objects::{app, policy};
use crate::probes::{How, Stream, echo_services, table};
use crate::require_root;
use crate::site::{KINDS, Site};

fn json(site: &Site, arguments: &[&str]) -> Value {
    let text = site.ask(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The element of a list that has this value.
fn with<'v>(list: &'v Value, key: &str, value: &str) -> &'v Value {
    let elements = list.as_array().expect("a list");
    let found = elements.iter().find(|element| element[key] == value);
    found.unwrap_or_else(|| panic!("no {key} {value} in {list:#}"))
}

/// shop/web may reach shop/api on 8080/TCP; all else into shop/api is denied. shop/free is nobody's business.
fn shop(site: &Site) -> [Pod; 3] {
    let pods = site.pods(["web", "api", "free"]);
    let rule = format!("from: [{{{}}}], ports: [{{port: 8080}}]", app("web"));
    let text = [
        policy("shop/api", &format!("{}, ingress: [{{{rule}}}]", app("api"))),
        policy("shop/nobody", &app("nobody")),
    ];
    site.folder.put("policies.yaml", &text.concat());
    pods
}

/// Each side of an explanation that is a pod's: what it says, and what the kernel does.
fn sides(answer: &Value) -> Vec<(&Value, &Value)> {
    let flows = answer["flows"].as_array().expect("flows").iter();
    let sides = flows.flat_map(|flow| [&flow["egress"], &flow["ingress"]]);
    sides
        .filter(|side| side["because"] != "notSubject")
        .map(|side| (side, &side["kernel"]))
        .collect()
}

#[test]
fn explain_compares_with_what_the_kernel_says() {
    require_root!();
    for kind in KINDS {
        let mut site = Site::new(Layout::Routed, kind);
        let _pods = shop(&site);
        site.start(&["vethweb", "vethapi", "vethfree"]);
        let folder = site.folder.path().to_str().expect("UTF-8").to_string();
        let explain = |from: &str, [source, destination, port]: [&str; 3]| {
            json(&site, &["explain", "--from", from, source, destination, port])
        };
        for (asked, verdict, by) in [
            (["shop/web", "shop/api", "8080/TCP"], "allow", "rule"),
            (["shop/web", "shop/api", "8081/TCP"], "deny", "isolation"),
            (["shop/web", "shop/api", "ICMP"], "deny", "isolation"),
            (["shop/free", "shop/api", "8080/TCP"], "deny", "isolation"),
            (["203.0.113.9", "shop/api", "8080/TCP"], "deny", "isolation"),
            (["shop/api", "shop/free", "53/UDP"], "allow", "open"),
        ] {
            let answer = explain(&folder, asked);
            assert_eq!(answer["flows"][0]["verdict"], verdict, "{answer:#}");
            let all = sides(&answer);
            assert!(!all.is_empty());
            for (side, kernel) in &all {
                assert_eq!(kernel["agrees"], true, "{asked:?}: {side:#}");
                assert_eq!(kernel["verdict"], side["verdict"], "{asked:?}: {side:#}");
                assert_eq!(
                    kernel["policies"].as_array().map(Vec::is_empty),
                    Some(side["because"] == "open")
                );
                assert_eq!(kernel["rule"], side["rule"], "{asked:?}: {side:#}");
            }
            let (_, last) = all.last().expect("a side");
            assert_eq!(last["reason"], by, "{asked:?}: {answer:#}");
        }

        // The same pods without policies: what is enforced is another thing.
        let other = tempfile::tempdir().expect("a folder");
        for name in ["pod-web.yaml", "pod-api.yaml", "pod-free.yaml"] {
            std::fs::copy(site.folder.path().join(name), other.path().join(name)).expect("a copy");
        }
        let other = other.path().to_str().expect("UTF-8");
        let answer = explain(other, ["shop/free", "shop/api", "8080/TCP"]);
        let ingress = &answer["flows"][0]["ingress"];
        assert_eq!(ingress["because"], "open");
        assert_eq!(ingress["kernel"]["verdict"], "deny");
        assert_eq!(ingress["kernel"]["policies"], json!(["shop/api"]));
        assert_eq!(ingress["kernel"]["agrees"], false);
        assert_eq!(answer["flows"][0]["egress"]["kernel"]["agrees"], true);
        let text = site.ask(&["explain", "--from", other, "shop/free", "shop/api", "8080/TCP"]);
        assert!(text.contains("isolated by shop/api; the two DIFFER"), "{text}");

        // An agent that has ended answers no more, and that is no reason to say nothing.
        let socket = site.socket();
        site.crash();
        assert!(socket.exists());
        let text = site.ask(&["explain", "--from", other, "shop/free", "shop/api", "8080/TCP"]);
        assert!(
            text.contains("note: what the kernel of this node says is not known: "),
            "{text}"
        );
    }
}

#[test]
fn the_agent_says_what_is_in_force_and_the_kernel_has_it() {
    require_root!();
    for kind in KINDS {
        let mut site = Site::new(Layout::Routed, kind);
        let [web, api, _free] = shop(&site);
        let _services = echo_services(&[&api.namespace], &[8080]);
        site.start(&["vethweb", "vethapi", "vethfree"]);
        let to = SocketAddr::new(api.addresses.list()[0], 8080);
        let mut stream = Stream::open(&web.namespace, to);
        stream.ask(Reached);
        table(&[(&web.namespace, &api, How::Udp(8080), Dropped)]);

        let status = json(&site, &["status"]);
        for (pointer, expected) in [
            ("/ready", json!(true)),
            ("/kernel/attach", json!(kind)),
            ("/kernel/pinPath", json!(site.pins())),
            ("/kernel/adopted", json!(false)),
            ("/pods", json!(3)),
            ("/interfaces", json!(3)),
            ("/policies", json!(2)),
            ("/policiesInForce", json!(1)),
            ("/problems", json!([])),
            ("/queue/refused", json!(false)),
        ] {
            assert_eq!(
                status.pointer(pointer),
                Some(&expected),
                "{pointer} of {status:#}"
            );
        }
        assert!(status["lastChange"]["mapWrites"].as_u64() > Some(0), "{status:#}");

        let pods = json(&site, &["pods"]);
        let pod = with(&pods, "pod", "shop/api");
        assert_eq!(pod["ingress"]["state"], "isolated");
        assert_eq!(pod["ingress"]["policies"], json!(["shop/api"]));
        assert_eq!(pod["egress"]["state"], "open");
        assert_eq!(pod["interfaces"][0]["name"], "vethapi");
        assert_eq!(pod["addresses"], json!(api.addresses.list()));
        assert_eq!(with(&pods, "pod", "shop/free")["ingress"]["state"], "open");
        assert_eq!(json(&site, &["pods", "free"]).as_array().map(Vec::len), Some(1));

        let policies = json(&site, &["policies"]);
        let own = with(&policies, "policy", "shop/api");
        assert_eq!(own["pods"], json!(["shop/api"]));
        assert_eq!(own["directions"], json!(["ingress"]));
        // Of the connection: request, acknowledgement, question, acknowledgement of the answer, at least.
        assert!(own["allowed"]["packets"].as_u64() >= Some(4), "{own:#}");
        // A datagram of each family.
        let denied = api.addresses.list().len();
        assert_eq!(own["denied"]["packets"], denied, "{own:#}");
        assert_eq!(with(&policies, "policy", "shop/nobody")["pods"], json!([]));

        let flows = json(&site, &["conntrack", "--pod", "shop/api", "--port", "8080"]);
        let flow = with(&flows["flows"], "state", "established");
        for (pointer, expected) in [
            ("/direction", json!("ingress")),
            ("/source/pod", json!("shop/web")),
            ("/destination/pod", json!("shop/api")),
            ("/destination/address", json!(to.ip())),
            ("/protocol", json!("TCP")),
            ("/policies", json!(["shop/api"])),
            ("/rule", json!("spec.ingress[0]")),
            ("/current", json!(true)),
        ] {
            assert_eq!(flow.pointer(pointer), Some(&expected), "{pointer} of {flow:#}");
        }
        assert!(flow["idleSeconds"].as_u64() <= Some(20), "{flow:#}");
        let one = json(&site, &["conntrack", "--limit", "1"]);
        assert_eq!(one["flows"].as_array().map(Vec::len), Some(1));
        assert_eq!(one["more"], true, "each pod has a side of the connection");

        for program in json(&site, &["progs"]).as_array().expect("a list") {
            let names: BTreeSet<&str> = program["interfaces"]
                .as_array()
                .expect("names")
                .iter()
                .map(|name| name.as_str().expect("a name"))
                .collect();
            assert_eq!(
                names,
                BTreeSet::from(["vethapi", "vethfree", "vethweb"]),
                "{program:#}"
            );
            assert_eq!(program["missing"], Value::Null, "{program:#}");
            assert!(program["jitedBytes"].as_u64() > Some(1000), "{program:#}");
        }
        let maps = json(&site, &["maps"]);
        assert_eq!(with(&maps, "map", "pod_if")["entries"], 3);
        let ct4 = with(&maps, "map", "ct4");
        assert_eq!(ct4["capacity"], 65536, "{ct4:#}");
        assert!(ct4["entries"].as_u64() >= Some(2), "{ct4:#}");
        drop(stream);
    }
}

#[test]
fn each_command_has_a_form_for_people_one_for_yaml_and_an_error_that_says_what_there_is() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let _pods = shop(&site);
    site.start(&["vethweb", "vethapi", "vethfree"]);
    for (command, words) in [
        (
            "status",
            [
                "ready:       yes",
                "3 pods on 3 interfaces; 1 of 2 policies concern pods here",
                "problems:    none",
            ],
        ),
        ("pods", ["POD ", "shop/api ", "isolated by shop/api"]),
        ("policies", ["POLICY ", "shop/nobody ", "ingress"]),
        ("maps", ["MAP ", "lru_hash", "--max-flows4"]),
        ("progs", ["PROGRAM ", "from_pod ", "egress"]),
        ("conntrack", ["POD ", "DIRECTION", "IDLE"]),
    ] {
        let text = site.ask(&[command]);
        for words in words {
            assert!(text.contains(words), "{words:?} in palisade {command}:\n{text}");
        }
        let yaml = site.ask(&[command, "-o", "yaml"]);
        let read: Value = serde_saphyr::from_str(&yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        assert!(read.is_object() || read.is_array(), "{yaml}");
        let help = site.ask(&[command, "--help"]);
        assert!(
            help.contains(&format!("  palisade {command}")),
            "an example in {help}"
        );
    }
    for (arguments, words) in [
        (
            &["pods", "shop/apj"][..],
            "knows no pod \"shop/apj\"; it knows shop/api",
        ),
        (
            &["policies", "-n", "shob"],
            "knows no namespace \"shob\"; it knows shop",
        ),
        (
            &["conntrack", "--pod", "w\u{1b}b"],
            "knows no pod \"w\\u{1b}b\"; it knows shop/web",
        ),
        (&["conntrack", "--limit", "1000000"], "100000 at most"),
        (&["pods", "a/b/c"], "neither NAMESPACE/NAME nor NAME"),
    ] {
        let output = site.command(arguments).output().expect("palisade");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_problem_is_in_the_status_and_a_change_that_does_not_fit_makes_it_fail() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx").with(&["--max-rules=70"]);
    let _pods = shop(&site);
    site.start(&["vethweb", "vethapi", "vethfree"]);
    let rule = |port: usize| format!("{{ports: [{{port: {port}}}]}}");
    let rules: Vec<String> = (1..100).map(rule).collect();
    let text = policy(
        "shop/api",
        &format!("{}, ingress: [{}]", app("api"), rules.join(", ")),
    );
    site.change(&["problem: kernel"], |folder| folder.put("policies.yaml", &text));
    let output = site.command(&["status"]).output().expect("palisade");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the last change was refused") && said.contains("--max-rules"),
        "{said}"
    );
}

#[test]
fn a_bugreport_has_what_the_commands_show_and_no_environment() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let [web, api, _free] = shop(&site);
    site.start(&["vethweb", "vethapi", "vethfree"]);
    table(&[(&web.namespace, &api, How::Udp(8080), Dropped)]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.tar.gz");
    let mut command = site.command(&["bugreport", "--file"]);
    let output = command
        .arg(&file)
        .env("SECRET", "hunter2")
        .output()
        .expect("palisade");
    assert!(output.status.success(), "{output:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().expect("the file").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(&file)
        .arg("-C")
        .arg(folder.path())
        .status();
    assert!(unpacked.expect("tar").success());
    let inside = std::fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.is_dir())
        .expect("a folder in it");
    let read = |name: &str| {
        let mut text = String::new();
        let file = std::fs::File::open(inside.join(name));
        file.unwrap_or_else(|error| panic!("{name}: {error}"))
            .read_to_string(&mut text)
            .expect("text");
        assert!(!text.contains("hunter2"), "{name}");
        text
    };
    assert!(read("pods.json").contains("shop/api"));
    assert!(read("flows.jsonl").contains("\"denied\""));
    assert!(read("metrics.txt").contains("palisade_pods_attached 3"));
    assert!(read("machine/proc/version").starts_with("Linux"));
    for name in [
        "status.json",
        "policies.json",
        "maps.json",
        "progs.json",
        "conntrack.json",
        "README.txt",
    ] {
        assert!(!read(name).is_empty(), "{name}");
    }
    let errors = read("errors.txt");
    assert!(!errors.contains(".json"), "{errors}");
    // What is there is not overwritten.
    let again = site
        .command(&["bugreport", "--file"])
        .arg(&file)
        .output()
        .expect("palisade");
    assert_eq!(again.status.code(), Some(2), "{again:?}");
}
