//! What the machine must offer, said before anything is tried, each with its remedy.

use anyhow::{Result, bail};
use rustix::thread::{CapabilitySet, capabilities};

/// Oldest kernel: ring buffers, batched map calls, sleepless LRU maps and `bpf_jiffies64` are all there.
const FLOOR: (u32, u32) = (5, 10);
/// tcx links.
const TCX: (u32, u32) = (6, 6);

/// Fails with every shortcoming at once; returns what is only slow.
///
/// # Errors
/// Capabilities or the kernel do not suffice.
pub(super) fn check() -> Result<Vec<String>> {
    let mut missing = Vec::new();
    let release = release();
    match version(&release) {
        Some(found) if found < FLOOR => missing.push(format!(
            "kernel {release} is too old: {}.{} or later is needed",
            FLOOR.0, FLOOR.1
        )),
        _ => {}
    }
    missing.extend(missing_capabilities());
    if !missing.is_empty() {
        bail!("this machine cannot enforce policies: {}", missing.join("; "));
    }
    let jit = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    Ok((jit.trim() == "0")
        .then(|| {
            "the BPF JIT is off, so every packet is judged by an interpreter; turn it on: sysctl net.core.bpf_jit_enable=1"
                .to_string()
        })
        .into_iter()
        .collect())
}

fn missing_capabilities() -> Option<String> {
    let Ok(sets) = capabilities(None) else {
        return Some("capabilities cannot be read; run as root".into());
    };
    let effective = sets.effective;
    let has = |wanted: CapabilitySet| effective.contains(wanted);
    let lacking: Vec<&str> = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ]
    .into_iter()
    .filter(|(wanted, name)| {
        let by_admin = *name != "CAP_NET_ADMIN" && has(CapabilitySet::SYS_ADMIN);
        !has(*wanted) && !by_admin
    })
    .map(|(_, name)| name)
    .collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "{} missing; run as root, or grant them (securityContext.capabilities.add, without the CAP_ prefix)",
            lacking.join(", ")
        )
    })
}

/// Whether the running kernel's version has tcx. What decides in the end is the kernel's answer.
pub(super) fn expects_tcx() -> bool {
    version(&release()).is_none_or(|found| found >= TCX)
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read_as_distributions_write_them() {
        for (release, expected) in [
            ("5.10.0-32-cloud-amd64", Some((5, 10))),
            ("6.18.44-fc-v595", Some((6, 18))),
            ("6.6-rc1", Some((6, 6))),
            ("7.2", Some((7, 2))),
            ("linux", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
