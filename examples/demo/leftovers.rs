//! The demo's folder and pins, and those that a killed run has left. Names carry the pid.

use std::path::{Path, PathBuf};
use std::{fs, process};

use anyhow::{Context, Result};

use crate::answers::Palisade;
use crate::netns;
use crate::shop::Shop;

const NAME: &str = "palisade-demo-";
const BPFFS: &str = "/sys/fs/bpf";
const SHOP: [(&str, &str); 4] = [
    ("namespaces.yaml", include_str!("../shop/namespaces.yaml")),
    ("pods.yaml", include_str!("../shop/pods.yaml")),
    ("policies.yaml", include_str!("../shop/policies.yaml")),
    ("services.yaml", include_str!("../shop/services.yaml")),
];

/// A folder with a copy of the shop's YAML; gone when dropped, and with it any namespace that an interrupted `ip` has left.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        netns::remove_stale();
        for path in stale(&std::env::temp_dir()) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let scratch = Self(std::env::temp_dir().join(format!("{NAME}{}", process::id())));
        let folder = scratch.folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for (name, text) in SHOP {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        Ok(scratch)
    }

    /// What `--from` names.
    pub fn folder(&self) -> PathBuf {
        self.0.join("shop")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("palisade.log")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        netns::remove_own();
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where this run pins.
pub fn pin_path() -> PathBuf {
    Path::new(BPFFS).join(format!("{NAME}{}", process::id()))
}

/// Removes the pins of killed runs. From inside the shop, since `clean` looks at the interfaces that it sees.
pub fn unpin(palisade: &Palisade, shop: &Shop) -> Result<()> {
    for path in stale(Path::new(BPFFS)) {
        let mut command = shop
            .host
            .namespace
            .command(&palisade.program.display().to_string());
        let output = command
            .args(["clean", "--pin-path"])
            .arg(&path)
            .output()
            .context("palisade clean")?;
        if !output.status.success() {
            eprintln!(
                "{} of an earlier run stays: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    Ok(())
}

/// Entries of ours whose process is no more.
fn stale(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let dead = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix(NAME));
        let pid = name.and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    entries.map(|entry| entry.path()).filter(dead).collect()
}
