//! What the process itself takes, under the names that Prometheus' own clients give it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// This process, as of each scrape. What /proc does not tell is left out.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since the epoch.
    started: f64,
}

impl Process {
    /// To be called when the process starts.
    pub fn started_now() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: started.as_secs_f64(),
        }
    }
}

/// Of the lines `Name:  1234 kB` in /proc/self/status.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn open_files() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        one(
            encoder,
            "process_cpu",
            "Time that processors spent on this process",
            Some(&Unit::Seconds),
            &ConstCounter::new(cpu),
        )?;
        one(
            encoder,
            "process_start_time",
            "When this process started, in seconds since the epoch",
            Some(&Unit::Seconds),
            &ConstGauge::new(self.started),
        )?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = resident_bytes(&status) {
            let help = "Memory that this process has, without the kernel's maps";
            one(
                encoder,
                "process_resident_memory",
                help,
                Some(&Unit::Bytes),
                &ConstGauge::new(bytes),
            )?;
        }
        if let Some(open) = open_files() {
            let help = "Files that this process has open";
            one(encoder, "process_open_fds", help, None, &ConstGauge::new(open))?;
        }
        let most = getrlimit(Resource::Nofile).current;
        if let Some(most) = most.and_then(|most| i64::try_from(most).ok()) {
            let help = "Files that it may have open";
            one(encoder, "process_max_fds", help, None, &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t  99 kB\nVmRSS:\t   12345 kB\nThreads:\t1\n";
        assert_eq!(resident_bytes(status), Some(12_345 * 1024));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        assert!(open_files().is_some_and(|open| open > 2));
    }
}
