//! The CNI plugin as a container runtime calls it: a process, its environment, standard input, output and exit code.

mod netns;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use netns::{Host, Layout, Pod};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const OK: &str = r#"{"ok":true}"#;

/// What a call came to.
#[derive(Debug)]
struct Ended {
    good: bool,
    out: String,
    notes: String,
    took: Duration,
}

impl Ended {
    /// Code and whole text of the error object.
    fn error(&self) -> (u64, String) {
        assert!(!self.good, "{self:?}");
        let error: Value = serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert!(error["cniVersion"].is_string(), "{error}");
        let text = format!(
            "{} / {}",
            error["msg"].as_str().unwrap(),
            error["details"].as_str().unwrap_or("")
        );
        (error["code"].as_u64().unwrap(), text)
    }
}

/// A call to be made.
struct Call {
    variables: BTreeMap<&'static str, String>,
    input: String,
    /// The namespace that it is made in.
    within: Option<PathBuf>,
}

impl Call {
    fn new(command: &str, input: &str) -> Self {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c0ffee"),
            ("CNI_NETNS", "/run/netns/none"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=u-1",
            ),
        ];
        Self {
            variables: variables.map(|(name, value)| (name, value.to_string())).into(),
            input: input.into(),
            within: None,
        }
    }

    /// For a pod of a host, called there.
    fn of(command: &str, input: &Value, host: &Host, pod: &Pod) -> Self {
        let mut call = Self::new(command, &input.to_string());
        call.variables
            .insert("CNI_NETNS", pod.namespace.path().display().to_string());
        call.within = Some(host.namespace.path());
        call
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.into());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    fn run(&self) -> Ended {
        let binary = env!("CARGO_BIN_EXE_palisade");
        let mut command = match &self.within {
            None => Command::new(binary),
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", netns.display()))
                    .arg("--")
                    .arg(binary);
                command
            }
        };
        let begun = Instant::now();
        let mut child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin");
        // One that does not read its input has ended by then.
        let _ = child.stdin.take().unwrap().write_all(self.input.as_bytes());
        let output = child.wait_with_output().expect("the plugin");
        Ended {
            good: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap().trim_end().into(),
            notes: String::from_utf8_lossy(&output.stderr).into(),
            took: begun.elapsed(),
        }
    }
}

/// Stands for the agent: each connection gets the next answer, and its request is kept.
struct FakeAgent {
    home: tempfile::TempDir,
    requests: mpsc::Receiver<Value>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    /// `answers`: what each connection gets; the last one for all that follow. `None`: nothing, and the connection stays.
    fn new(answers: &[Option<&str>]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(home.path().join("palisade.sock")).unwrap();
        let (tell, requests) = mpsc::channel();
        let mut answers: Vec<Option<String>> = answers.iter().rev().map(|a| a.map(Into::into)).collect();
        let thread = spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap())
                    .read_line(&mut line)
                    .unwrap();
                if line == "end\n" {
                    return;
                }
                let _ = tell.send(serde_json::from_str(&line).unwrap());
                let answer = match answers.len() {
                    1 => answers[0].clone(),
                    _ => answers.pop().unwrap(),
                };
                match answer {
                    Some(answer) if answer.is_empty() => {}
                    Some(answer) => stream.write_all(format!("{answer}\n").as_bytes()).unwrap(),
                    None => silent.push(stream),
                }
            }
        });
        Self {
            home,
            requests,
            thread: Some(thread),
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("palisade.sock")
    }

    fn request(&self) -> Value {
        self.requests
            .recv_timeout(Duration::from_secs(5))
            .expect("a request")
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        let end = UnixStream::connect(self.socket()).and_then(|mut stream| stream.write_all(b"end\n"));
        if end.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// A result as the ptp and bridge plugins of a version give it, with fields that nobody here knows.
fn result(version: &str, pod: &Pod) -> Value {
    let (v4, v6) = (pod.addresses.v4.unwrap(), pod.addresses.v6.unwrap());
    let mut ips = json!([
        {"interface": 2, "address": format!("{v4}/24"), "gateway": "10.88.0.1", "x": 1.10},
        {"interface": 2, "address": format!("{v6}/64")}
    ]);
    if version.starts_with("0.") {
        ips[0]["version"] = "4".into();
        ips[1]["version"] = "6".into();
    }
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "br0", "mac": "00:00:00:00:00:01"},
            {"name": pod.veth, "mac": "00:00:00:00:00:02"},
            {"name": "eth0", "mac": "00:00:00:00:00:03", "sandbox": pod.namespace.path()}
        ],
        "ips": ips,
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
        "dns": {},
        "unknown": {"z": 1, "a": [true, null]}
    })
}

fn config(version: &str, socket: &Path, prev_result: Value) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "palisade", "mode": "strict", "socket": socket,
        "prevResult": prev_result, "runtimeConfig": {"portMappings": []}, "cni.dev/attachments": []
    })
}

fn pod_addresses(pod: &Pod) -> Value {
    json!(pod.addresses.list())
}

#[test]
fn version_is_told_without_a_pod() {
    for (input, echoed) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
        ("", "1.1.0"),
    ] {
        let ended = Call {
            variables: [("CNI_COMMAND", "VERSION".to_string())].into(),
            input: input.into(),
            within: None,
        }
        .run();
        assert!(ended.good, "{ended:?}");
        let told: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(told, json!({"cniVersion": echoed, "supportedVersions": VERSIONS}));
    }
}

#[test]
fn what_has_nothing_to_do_never_fails() {
    for command in ["DEL", "GC"] {
        for input in [
            r#"{"cniVersion":"1.1.0","name":"net","type":"palisade","socket":"/none"}"#,
            "",
            "nonsense",
        ] {
            let ended = Call::new(command, input)
                .without("CNI_NETNS")
                .without("CNI_ARGS")
                .run();
            assert!(ended.good && ended.out.is_empty(), "{command} {input}: {ended:?}");
        }
    }
}

#[test]
fn status_is_bad_as_long_as_no_agent_has_ever_run() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("palisade.sock");
    let config = |mode: &str| json!({"cniVersion": "1.1.0", "name": "n", "type": "palisade", "mode": mode, "socket": socket});
    let status = |mode: &str| Call::new("STATUS", &config(mode).to_string()).run();
    assert_eq!(status("strict").error().0, 50);
    assert!(status("standard").good);
    // A restart of the agent is no reason for the whole node not to be ready.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(status("strict").good);
}

#[test]
fn what_is_wrong_with_a_call_is_named() {
    let good = json!({"cniVersion": "1.1.0", "name": "net", "type": "palisade", "socket": "/none", "timeoutMs": 10,
                      "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.1/24"}]}});
    let edited = |key: &str, value: Value| {
        let mut config = good.clone();
        config[key] = value;
        config.to_string()
    };
    let prev = |value: Value| edited("prevResult", value);
    let without = |key: &str| {
        let mut config = good.clone();
        config.as_object_mut().unwrap().remove(key);
        config.to_string()
    };
    let add = |input: String| Call::new("ADD", &input);
    let good_text = good.to_string();
    let arguments = |text: &str| Call::new("ADD", &good_text).with("CNI_ARGS", text);
    let cases = [
        (Call::new("ADDD", &good_text), 4, "CNI_COMMAND"),
        (Call::new("", &good_text), 4, "CNI_COMMAND"),
        (
            Call::new("ADD", &good_text).without("CNI_CONTAINERID"),
            4,
            "CNI_CONTAINERID",
        ),
        (Call::new("ADD", &good_text).without("CNI_NETNS"), 4, "CNI_NETNS"),
        (
            Call::new("ADD", &good_text).with("CNI_IFNAME", ""),
            4,
            "CNI_IFNAME",
        ),
        (Call::new("ADD", &good_text).without("CNI_ARGS"), 4, "CNI_ARGS"),
        (arguments("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"), 4, "K8S_POD_UID"),
        (
            arguments("K8S_POD_NAMESPACE=a;K8S_POD_NAME=;K8S_POD_UID=c"),
            4,
            "K8S_POD_NAME",
        ),
        (arguments("nonsense"), 4, "K8S_POD_NAMESPACE"),
        (add(String::new()), 6, "standard input"),
        (add("{".into()), 6, "standard input"),
        (add("[1]".into()), 6, "standard input"),
        (add(edited("cniVersion", json!("0.2.0"))), 1, "0.2.0"),
        (add(edited("cniVersion", json!("1.2.0"))), 1, "1.2.0"),
        (add(without("cniVersion")), 1, "0.1.0"),
        (add(edited("cniVersion", json!(1))), 7, "cniVersion"),
        (add(edited("timeoutms", json!(5))), 2, "timeoutms = 5"),
        (add(edited("mode", json!("lax"))), 7, "mode: \"lax\""),
        (add(edited("mode", json!(["strict"]))), 7, "mode"),
        (add(edited("socket", json!("run/x.sock"))), 7, "socket"),
        (add(edited("timeoutMs", json!(0))), 7, "timeoutMs"),
        (add(edited("timeoutMs", json!(1e9))), 7, "timeoutMs"),
        (add(without("prevResult")), 7, "prevResult is missing"),
        (add(prev(json!(null))), 7, "prevResult is missing"),
        (add(prev(json!([]))), 7, "prevResult"),
        (add(prev(json!("x"))), 7, "prevResult"),
        (add(prev(json!({}))), 7, "prevResult.ips"),
        (add(prev(json!({"ips": "x"}))), 7, "prevResult.ips"),
        (
            add(prev(json!({"ips": [{"address": "10.0.0.300/24"}]}))),
            7,
            "prevResult.ips[0].address",
        ),
        (
            add(prev(json!({"ips": [{"address": "10.0.0.1/24", "interface": 1}]}))),
            7,
            "prevResult.ips[0].interface",
        ),
        (
            add(prev(
                json!({"ips": [{"address": "10.0.0.1/24", "interface": -1}]}),
            )),
            7,
            "prevResult.ips[0].interface",
        ),
        (
            add(prev(
                json!({"interfaces": [{"name": "net1", "sandbox": "/x"}], "ips": [{"address": "10.0.0.1/24", "interface": 0}]}),
            )),
            7,
            "no address for eth0",
        ),
        (
            add(prev(json!({"interfaces": [{"mac": "x"}], "ips": []}))),
            7,
            "prevResult.interfaces[0]",
        ),
        (
            Call::new("CHECK", &without("prevResult")),
            7,
            "prevResult is missing",
        ),
        // Nothing is wrong with the call, but there is no such pod.
        (add(good_text.clone()), 103, "/run/netns/none"),
    ];
    for (call, code, words) in cases {
        let (got, text) = call.run().error();
        assert!(
            got == code && text.contains(words),
            "{}: {got}: {text}; expected {code}: {words}",
            call.input
        );
        assert!(!text.ends_with("/ "), "what to do is told: {text}");
    }
}

#[test]
fn add_passes_the_result_through_in_every_version_and_tells_the_agent_what_is_to_be_secured() {
    require_root!();
    for layout in Layout::ALL {
        let host = Host::new(layout);
        let (web, _other) = (host.pod("web"), host.pod("other"));
        let agent = FakeAgent::new(&[Some(OK)]);
        for version in VERSIONS {
            let previous = result(version, &web);
            let call = Call::of(
                "ADD",
                &config(version, &agent.socket(), previous.clone()),
                &host,
                &web,
            );
            let ended = call.run();
            assert!(ended.good && ended.notes.is_empty(), "{version}: {ended:?}");
            assert_eq!(ended.out, previous.to_string(), "{version}: byte for byte");
            let mut request = agent.request();
            let left = request["timeoutMs"].take().as_u64().unwrap();
            assert!((5_000..=10_000).contains(&left), "{left}");
            assert_eq!(
                request,
                json!({
                    "command": "add", "namespace": "shop", "pod": "web-0", "uid": "u-1", "container": "c0ffee", "ifname": "eth0",
                    "netns": web.namespace.path(), "interfaces": ["vethweb"], "addresses": pod_addresses(&web), "timeoutMs": null
                })
            );
            let checked = Call::of("CHECK", &config(version, &agent.socket(), previous), &host, &web).run();
            assert!(checked.good && checked.out.is_empty(), "{checked:?}");
            assert_eq!(agent.request()["command"], "check");
        }
        // A runtime that gives the result in another version than it asks for.
        for (is, asked) in [("0.4.0", "1.0.0"), ("1.1.0", "0.3.1")] {
            let call = Call::of(
                "ADD",
                &config(asked, &agent.socket(), result(is, &web)),
                &host,
                &web,
            );
            let out: Value = serde_json::from_str(&call.run().out).unwrap();
            assert_eq!(out, result(asked, &web), "{is} to {asked}");
        }
    }
}

#[test]
fn the_interface_is_the_other_end_of_the_pods_whatever_is_named() {
    require_root!();
    let host = Host::new(Layout::Routed);
    let (web, other) = (host.pod("web"), host.pod("other"));
    let agent = FakeAgent::new(&[Some(OK)]);
    let named = |names: &[&str]| {
        let mut previous = result("1.0.0", &web);
        let pods = previous["interfaces"][2].clone();
        let mut interfaces: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        interfaces.push(pods);
        for ip in previous["ips"].as_array_mut().unwrap() {
            ip["interface"] = names.len().into();
        }
        previous["interfaces"] = interfaces.into();
        config("1.0.0", &agent.socket(), previous)
    };
    // As the AWS VPC CNI names what is only for itself; and where only the pod's side is named.
    for names in [
        &["vethweb"][..],
        &["vethweb", "dummy1a2b"],
        &["lo", "vethother", "vethweb"],
        &[],
    ] {
        let ended = Call::of("ADD", &named(names), &host, &web).run();
        assert!(ended.good, "{names:?}: {ended:?}");
        assert_eq!(agent.request()["interfaces"], json!(["vethweb"]), "{names:?}");
    }
    let (code, text) = Call::of("ADD", &named(&["vethother"]), &host, &web).run().error();
    assert!(
        code == 103 && text.contains("is vethweb, not vethother"),
        "{text}"
    );
    // A namespace that cannot be entered: the one veth that is named is taken at its word.
    let gone =
        |names: &[&str]| Call::of("ADD", &named(names), &host, &web).with("CNI_NETNS", "/proc/none/ns/net");
    assert!(gone(&["lo", "vethweb"]).run().good);
    assert_eq!(agent.request()["interfaces"], json!(["vethweb"]));
    for names in [&["vethweb", "vethother"][..], &["lo"], &[]] {
        assert_eq!(gone(names).run().error().0, 103, "{names:?}");
    }
    // No veth, and none at all.
    other.namespace.ip("link add dummy0 type bridge");
    for (name, words) in [("dummy0", "no veth"), ("eth7", "no interface eth7")] {
        let call = Call::of("ADD", &named(&[]), &host, &other).with("CNI_IFNAME", name);
        let mut config: Value = serde_json::from_str(&call.input).unwrap();
        config["prevResult"]["interfaces"][0]["name"] = name.into();
        let (code, text) = Call {
            input: config.to_string(),
            ..call
        }
        .run()
        .error();
        assert!(code == 103 && text.contains(words), "{text}");
    }
    // Both ends in the pod.
    other.namespace.ip("link add in0 type veth peer name in1");
    let call = Call::of("ADD", &named(&[]), &host, &other).with("CNI_IFNAME", "in0");
    let mut config: Value = serde_json::from_str(&call.input).unwrap();
    config["prevResult"]["interfaces"][0]["name"] = "in0".into();
    let (code, text) = Call {
        input: config.to_string(),
        ..call
    }
    .run()
    .error();
    assert!(code == 103 && text.contains("not on the host"), "{text}");
}

#[test]
fn an_agent_that_does_not_secure_the_pod_fails_it_or_is_told_by_mode() {
    require_root!();
    let host = Host::new(Layout::Routed);
    let web = host.pod("web");
    let call = |socket: &Path, mode: &str, limit: u64| {
        let mut config = config("1.1.0", socket, result("1.1.0", &web));
        config["mode"] = mode.into();
        config["timeoutMs"] = limit.into();
        Call::of("ADD", &config, &host, &web)
    };
    // The remedy is in the details.
    let refusal = r#"{"error":"the map is full","remedy":"raise --max-pods"}"#;
    let long = format!("{{\"error\":\"{}\"}}", "x".repeat(100 << 10));
    for (answer, code, words) in [
        (Some(refusal), 102, "the map is full"),
        (Some(r#"{"ok":false}"#), 102, "ok"),
        (Some(r#"{"hello":1}"#), 102, "versions"),
        (Some("nonsense"), 102, "versions"),
        (Some(&long), 100, "no end"),
        (Some(""), 100, "hung up"),
        (None, 101, "in time"),
    ] {
        let agent = FakeAgent::new(&[answer]);
        let strict = call(&agent.socket(), "strict", 400).run();
        let (got, text) = strict.error();
        assert!(got == code && text.contains(words), "{answer:?}: {got}: {text}");
        assert!(strict.took < Duration::from_secs(3), "{:?}", strict.took);
        let standard = call(&agent.socket(), "standard", 400).run();
        assert!(standard.good, "{standard:?}");
        assert_eq!(standard.out, result("1.1.0", &web).to_string());
        assert!(
            standard.notes.contains("pod shop/web-0 starts before") && standard.notes.contains(words),
            "{standard:?}"
        );
        assert!(
            !Call {
                input: call(&agent.socket(), "standard", 400).input,
                ..Call::of("CHECK", &json!({}), &host, &web)
            }
            .run()
            .good
        );
    }
    let nowhere = Path::new("/run/no-such-folder/palisade.sock");
    assert_eq!(call(nowhere, "strict", 300).run().error().0, 100);
    let standard = call(nowhere, "standard", 60_000).run();
    assert!(
        standard.good && standard.took < Duration::from_secs(3),
        "it does not wait: {standard:?}"
    );
}

#[test]
fn an_agent_that_restarts_delays_a_pod_and_does_not_fail_it() {
    require_root!();
    let host = Host::new(Layout::Routed);
    let web = host.pod("web");
    // It stops while it is asked, and the next one answers.
    let agent = FakeAgent::new(&[Some(""), Some(""), Some(OK)]);
    let ended = Call::of(
        "ADD",
        &config("1.1.0", &agent.socket(), result("1.1.0", &web)),
        &host,
        &web,
    )
    .run();
    assert!(ended.good, "{ended:?}");
    // Its socket is there before it listens again.
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("palisade.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let call = Call::of(
        "ADD",
        &config("1.1.0", &socket, result("1.1.0", &web)),
        &host,
        &web,
    );
    let asked = spawn(move || call.run());
    sleep(Duration::from_millis(500));
    assert!(!asked.is_finished());
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    BufReader::new(stream.try_clone().unwrap())
        .read_line(&mut String::new())
        .unwrap();
    writeln!(stream, "{OK}").unwrap();
    let ended = asked.join().unwrap();
    assert!(ended.good, "{ended:?}");
}

#[test]
fn the_plugin_itself_takes_a_few_milliseconds() {
    require_root!();
    const CALLS: usize = 60;
    let host = Host::new(Layout::Routed);
    let web = host.pod("web");
    let agent = FakeAgent::new(&[Some(OK)]);
    let call = Call::of(
        "ADD",
        &config("1.1.0", &agent.socket(), result("1.1.0", &web)),
        &host,
        &web,
    );
    let mut took: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let ended = call.run();
            assert!(ended.good, "{ended:?}");
            ended.took
        })
        .collect();
    took.sort();
    let (p50, p99) = (took[CALLS / 2], took[CALLS * 99 / 100]);
    println!("ADD as a process, with nsenter, an agent that answers at once: p50 {p50:?}, p99 {p99:?}");
    // What a debug build on a busy machine may take; the release build's time is measured by make e2e.
    assert!(p50 < Duration::from_millis(250), "{p50:?}");
}
