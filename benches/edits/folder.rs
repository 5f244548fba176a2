//! The folder: 10,000 peers in ten files, the local pod, and what is edited.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

pub const PEERS: usize = 10_000;
const IN_A_FILE: usize = 1000;
pub const LOCAL: &str = "10.0.0.2";
/// A pod that is named by one policy, or is not.
pub const PAIR: &str = "10.3.0.1";
/// A pod that is a peer now and then.
pub const LATE: &str = "10.3.0.2";

pub struct Folder {
    folder: tempfile::TempDir,
    renamed: Cell<Instant>,
}

impl Folder {
    pub fn new() -> std::io::Result<Self> {
        let folder = Self {
            folder: tempfile::tempdir()?,
            renamed: Cell::new(Instant::now()),
        };
        for file in 0..PEERS / IN_A_FILE {
            let mut text = String::new();
            for n in file * IN_A_FILE..(file + 1) * IN_A_FILE {
                let address = format!("10.{}.{}.{}", 1 + (n >> 16), n >> 8 & 255, n & 255);
                text += &pod(&format!("peer-{n}"), "peer", &address);
            }
            std::fs::write(folder.path().join(format!("peers-{file}.yaml")), text)?;
        }
        folder.put("local.yaml", &pod("local", "local", LOCAL));
        folder.put("pair-pod.yaml", &pod("pair", "pair", PAIR));
        folder.peer(false);
        folder.ports(false);
        folder.pair(false);
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// When the last file was moved into place.
    pub fn renamed(&self) -> Instant {
        self.renamed.get()
    }

    fn put(&self, name: &str, text: &str) {
        let aside = self.path().join(".aside");
        std::fs::write(&aside, text).expect("written");
        self.renamed.set(Instant::now());
        std::fs::rename(aside, self.path().join(name)).expect("renamed");
    }

    pub fn pair(&self, allow: bool) {
        let app = if allow { "pair" } else { "nobody" };
        self.put("pair.yaml", &policy("pair", app, 9000));
    }

    pub fn ports(&self, allow: bool) {
        self.put(
            "peers.yaml",
            &policy("peers", "peer", if allow { 8080 } else { 8081 }),
        );
    }

    pub fn peer(&self, allow: bool) {
        let app = if allow { "peer" } else { "other" };
        self.put("late.yaml", &pod("late", app, LATE));
    }
}

fn pod(name: &str, app: &str, address: &str) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels:\n    app: {app}\n    \
         pod-template-hash: 5d8f6b9c7d\nspec:\n  containers:\n  - name: main\n    image: example.com/{app}:1\n    ports:\n    \
         - name: http\n      containerPort: 8080\nstatus:\n  phase: Running\n  podIPs:\n  - ip: {address}\n"
    );
    text
}

fn policy(name: &str, app: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  namespace: shop\nspec:\n  \
         podSelector:\n    matchLabels:\n      app: local\n  ingress:\n  - from:\n    - podSelector:\n        matchLabels:\n          \
         app: {app}\n    ports:\n    - port: {port}\n      protocol: UDP\n"
    )
}
