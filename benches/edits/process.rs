//! `palisade run` as a process; ended on drop.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

pub struct Process {
    child: Child,
    log: Option<JoinHandle<()>>,
}

/// Megabytes resident.
pub struct Memory {
    pub now: f64,
    pub most: f64,
}

impl Process {
    /// Returns when the folder is in force and its pod is attached.
    pub fn start(folder: &Path, pins: &Path) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_palisade"))
            .args(["run", "--listen=127.0.0.1:0", "--from"])
            .arg(folder)
            .arg("--pin-path")
            .arg(pins)
            .arg("--api-socket")
            .arg(folder.join(".api/api.sock"))
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().ok_or("no pipe")?);
        let mut process = Self { child, log: None };
        let (mut attached, mut told, mut line) = (false, String::new(), String::new());
        loop {
            line.clear();
            if log.read_line(&mut line)? == 0 {
                return Err(format!("palisade ended:\n{told}").into());
            }
            attached |= line.contains("attached interface=local");
            if line.contains("in force: ") {
                print!("{line}");
                break;
            }
            told += &line;
        }
        if !attached {
            return Err(format!("the pod is not attached:\n{told}").into());
        }
        process.log = Some(std::thread::spawn(move || {
            let mut line = Vec::new();
            while log.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                line.clear();
            }
        }));
        Ok(process)
    }

    pub fn memory(&self) -> Result<Memory, Box<dyn Error>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
            kilobytes
                .and_then(|number| number.parse::<f64>().ok())
                .map(|number| number / 1024.0)
        };
        Ok(Memory {
            now: megabytes("VmRSS:").ok_or("no VmRSS")?,
            most: megabytes("VmHWM:").ok_or("no VmHWM")?,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}
