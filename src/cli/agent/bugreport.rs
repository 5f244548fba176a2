//! `palisade bugreport`: all that an agent tells, in one archive. What cannot be had is named in it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde_json::Value;
use tar::{Builder, Header};

use crate::cli::escape::escape;
use crate::introspect::{Client, Status};

/// What the agent is asked for, and what each answer is called.
const ANSWERS: [(&str, &str); 5] = [
    ("pods.json", "/v1/pods"),
    ("policies.json", "/v1/policies"),
    ("maps.json", "/v1/maps"),
    ("progs.json", "/v1/progs"),
    ("conntrack.json", "/v1/conntrack?limit=10000"),
];
const FLOWS: &str = "/v1/flows?last=1000000";
/// Of the machine, as far as they tell how BPF behaves there.
const FILES: [&str; 9] = [
    "/proc/version",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/etc/os-release",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/core/bpf_jit_harden",
    "/proc/sys/kernel/bpf_stats_enabled",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
];
/// Of one such file.
const BYTES: u64 = 1 << 20;
const CONTENTS: &str = "\
What palisade bugreport has put together of one node: what the agent says of itself (status.json), its pods and policies, the
kernel's maps and programs, tracked flows (up to 10,000), reported packets (flows.jsonl), metrics, and files of /proc and /etc
that tell what kernel this is. It names pods, policies and addresses. There are no secrets in it: neither environment nor
kubeconfig nor tokens are read, and no payload of packets is kept. errors.txt says what could not be had.
";

pub async fn bugreport(client: &Client, file: Option<&Path>, out: &mut dyn Write) -> Result<()> {
    // The one that must be there: without an agent there is nothing to report.
    let status: Status = client.get("/v1/status").await?;
    let mut parts = vec![
        ("README.txt".to_string(), CONTENTS.as_bytes().to_vec()),
        ("status.json".to_string(), serde_json::to_vec_pretty(&status)?),
    ];
    let mut errors = String::new();
    let mut put = |name: &str, part: Result<Vec<u8>>| match part {
        Ok(part) => parts.push((name.to_string(), part)),
        Err(error) => errors += &format!("{name}: {}\n", escape(&format!("{error:#}"))),
    };
    for (name, path) in ANSWERS {
        let answer = client.get::<Value>(path).await;
        put(
            name,
            answer.and_then(|answer| Ok(serde_json::to_vec_pretty(&answer)?)),
        );
    }
    put("flows.jsonl", flows(client).await);
    put("metrics.txt", metrics(&status.metrics).await);
    for path in FILES {
        put(&format!("machine{path}"), read(path));
    }
    parts.push(("errors.txt".to_string(), errors.into_bytes()));
    let now = Timestamp::now();
    let name = format!(
        "palisade-{}-{}",
        file_name(&status.node),
        now.strftime("%Y%m%dT%H%M%SZ")
    );
    let archive = pack(&name, now, &parts)?;
    if file == Some(Path::new("-")) {
        out.write_all(&archive)?;
        return Ok(());
    }
    let file = file.map_or_else(|| PathBuf::from(format!("{name}.tar.gz")), Path::to_path_buf);
    save(&file, &archive).with_context(|| {
        format!(
            "cannot write {}; name another file with --file, or - for standard output",
            file.display()
        )
    })?;
    writeln!(
        out,
        "{}: {} kB; it names pods, policies and addresses, and holds no secrets",
        escape(&file.display().to_string()),
        archive.len().div_ceil(1000)
    )?;
    Ok(())
}

/// What a node is called, as a part of a file's name.
pub fn file_name(node: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || "-.".contains(c) {
            c
        } else {
            '_'
        }
    };
    node.chars().map(safe).collect()
}

async fn flows(client: &Client) -> Result<Vec<u8>> {
    let mut lines = client.lines(FLOWS).await?;
    let mut text = String::new();
    while let Some(line) = lines.next().await? {
        text += &line;
        text.push('\n');
    }
    Ok(text.into_bytes())
}

async fn metrics(url: &str) -> Result<Vec<u8>> {
    Client::scrape(url).await
}

fn read(path: &str) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    fs::File::open(path)?.take(BYTES).read_to_end(&mut text)?;
    Ok(text)
}

fn pack(folder: &str, time: Timestamp, parts: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, part) in parts {
        let mut header = Header::new_gnu();
        header.set_size(part.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(time.as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("{folder}/{name}"), &part[..])?;
    }
    archive.into_inner()?.finish()
}

/// In place of no file that is there.
pub fn save(file: &Path, archive: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(archive)
}
