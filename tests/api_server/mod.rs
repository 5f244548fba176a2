//! A kube-apiserver with its etcd, on loopback.

// Each test file takes what it needs of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use palisade::cluster::connection;

/// One at a time is enough for a small machine where the tests themselves keep it busy.
static ONE: Mutex<()> = Mutex::new(());

/// With `type: Reject` one request at a time would pass; so one waits, and all others are rejected.
const TURNED_AWAY: &str = r#"
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
metadata: {name: nobody}
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 0, lendablePercent: 0, borrowingLimitPercent: 0, limitResponse: {type: Queue, queuing: {queues: 1, handSize: 1, queueLengthLimit: 1}}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: turned-away}
spec:
  priorityLevelConfiguration: {name: nobody}
  matchingPrecedence: 10
  rules:
  - subjects: [{kind: ServiceAccount, serviceAccount: {namespace: kube-system, name: palisade}}]
    resourceRules: [{verbs: ["*"], apiGroups: ["*"], resources: ["*"], clusterScope: true, namespaces: ["*"]}]
    nonResourceRules: [{verbs: ["*"], nonResourceURLs: ["*"]}]
"#;

/// Ended, and its folder removed, when it is dropped.
pub struct ApiServer {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// Whether there are binaries to start; where not it says so, and in CI that is a failure.
pub fn is_built() -> bool {
    let binary = root().join("target/cluster/bin/kube");
    if binary.exists() {
        return true;
    }
    let missing = format!("{} is missing; make cluster-build makes it", binary.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    println!("skipped: {missing}");
    false
}

impl ApiServer {
    /// Where there are binaries, see [`is_built`].
    pub fn start() -> Self {
        Self::start_in(None)
    }

    /// After every other one that was started so has ended. `None` where there are no binaries.
    pub fn start_alone() -> Option<Self> {
        is_built().then(|| Self::start_in(Some(ONE.lock().unwrap_or_else(PoisonError::into_inner))))
    }

    fn start_in(turn: Option<MutexGuard<'static, ()>>) -> Self {
        // A short path, for what has sockets in it.
        let folder = tempfile::Builder::new().prefix("api").tempdir().unwrap();
        let printed = run("up", folder.path());
        Self {
            kubeconfig: printed.lines().last().unwrap_or_default().trim().into(),
            folder,
            _turn: turn,
        }
    }

    pub fn port(&self) -> u16 {
        let text = std::fs::read_to_string(self.folder.path().join("ports")).expect("the ports");
        let port = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("port="));
        port.and_then(|port| port.parse().ok()).expect("a port")
    }

    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Of Palisade's ServiceAccount, which may do what it is [granted](Self::grant).
    pub fn own_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("palisade.kubeconfig")
    }

    /// Likewise, and as Palisade makes it.
    pub async fn own_client(&self) -> Client {
        connection::client_of(config(&self.own_kubeconfig()).await).unwrap()
    }

    /// Lets Palisade's ServiceAccount do what the manifests let it do, no more.
    pub fn grant(&self) {
        let manifest = root().join("manifests/10-rbac.yaml");
        self.kubectl(&["apply", "-f", &manifest.display().to_string()]);
    }

    /// Takes a binding away: `clusterrolebinding` (reads and writes) or `rolebinding` (the Lease).
    pub fn revoke(&self, binding: &str) {
        self.kubectl(&["-n", "kube-system", "delete", binding, "palisade"]);
    }

    /// Answers each request of Palisade's ServiceAccount with 429 from soon on: it has too much to do.
    pub fn turn_away(&self) {
        let file = self.folder.path().join("turned-away.yaml");
        std::fs::write(&file, TURNED_AWAY).expect("a file");
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// After [`turn_away`](Self::turn_away).
    pub fn let_in(&self) {
        let file = self.folder.path().join("turned-away.yaml");
        self.kubectl(&["delete", "-f", &file.display().to_string()]);
    }

    /// Requests that were turned away.
    pub fn turned_away(&self) -> f64 {
        let labels = [r#"flow_schema="turned-away""#];
        self.metric("apiserver_flowcontrol_rejected_requests_total", &labels)
    }

    /// Requests that were refused because who asks has no right to it.
    pub fn forbidden(&self) -> f64 {
        self.metric("apiserver_request_total", &[r#"code="403""#])
    }

    /// As an administrator; what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(root().join("target/cluster/bin/kubectl"));
        let command = command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        let output = command.output().expect("kubectl");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sum of the samples of one of the server's own metrics that have all these labels, as they are written.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.kubectl(&["get", "--raw", "/metrics"]);
        let samples = metrics.lines().filter(|line| {
            (line.strip_prefix(name)).is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        samples
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
            })
            .map(|value| value.expect("a number"))
            .sum()
    }

    /// Ends the server; what it holds stays.
    pub fn stop(&self) {
        run("stop", self.folder.path());
    }

    /// After [`stop`](Self::stop).
    pub fn go_on(&self) {
        run("start", self.folder.path());
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        run("down", self.folder.path());
    }
}

pub async fn client(kubeconfig: &Path) -> Client {
    Client::try_from(config(kubeconfig).await).unwrap()
}

async fn config(kubeconfig: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options);
    config.await.unwrap()
}

fn run(verb: &str, folder: &Path) -> String {
    let script = root().join("e2e/cluster/apiserver");
    let output = Command::new(script).arg(verb).arg(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "apiserver {verb}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
