//! A kube-apiserver with its etcd, for one test at a time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

/// Two of them at once would be too much for a small machine.
static ONE: Mutex<()> = Mutex::new(());

/// Ended, and its folder removed, when it is dropped.
pub struct ApiServer {
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl ApiServer {
    /// `None`, with a message, where there are no binaries; but in CI that is a failure.
    pub fn start() -> Option<Self> {
        let binary = root().join("target/cluster/bin/kube");
        if !binary.exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "{} is missing; make cluster-build makes it",
                binary.display()
            );
            println!(
                "skipped: {} is missing; make cluster-build makes it",
                binary.display()
            );
            return None;
        }
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // A short path, for what has sockets in it.
        let folder = tempfile::Builder::new().prefix("api").tempdir().unwrap();
        let printed = run("up", folder.path());
        Some(Self {
            kubeconfig: printed.lines().last().unwrap_or_default().trim().into(),
            folder,
            _turn: turn,
        })
    }

    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
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
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
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
