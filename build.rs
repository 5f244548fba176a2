//! Compiles the BPF programs and generates their skeleton. Only UAPI headers are needed: no BTF of the running kernel.
//!
//! BTF carries `bpf/abi.h`'s structs but not its constants, so these are read from the header's text.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

const ABI: &str = "bpf/abi.h";

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH")?;
    let object = out.join("palisade.bpf.o");
    let compiler = |source: &str, object: &Path| {
        let mut builder = SkeletonBuilder::new();
        builder.source(source).obj(object).clang_args([
            format!("-I/usr/include/{arch}-linux-gnu"),
            "-Wall".into(),
            "-Werror".into(),
            "-mcpu=v3".into(),
        ]);
        builder
    };
    compiler("bpf/palisade.bpf.c", &object)
        .build_and_generate(out.join("palisade.skel.rs"))
        .context("the BPF programs do not build: clang, libelf-dev, zlib1g-dev and linux-libc-dev are needed (make packages)")?;
    // An object of its own, loaded when a trace begins: nothing of it is in the programs that stand at every pod.
    compiler("bpf/trace.bpf.c", &out.join("trace.bpf.o"))
        .build_and_generate(out.join("trace.skel.rs"))
        .context("bpf/trace.bpf.c does not build")?;
    // What benches/datapath measures against: an object of its own, so that none of it is in the agent.
    compiler("bpf/bench.bpf.c", &out.join("bench.bpf.o"))
        .build()
        .context("bpf/bench.bpf.c does not build")?;
    std::fs::write(out.join("abi.rs"), constants(&object)?)?;
    println!("cargo:rerun-if-changed=bpf");
    Ok(())
}

/// Every `#define NAME number` and every `NAME = number` of an enum, and a fingerprint of the object.
fn constants(object: &Path) -> Result<String> {
    let mut text = String::new();
    for line in std::fs::read_to_string(ABI).context(ABI)?.lines() {
        let words = match line.strip_prefix("#define ") {
            Some(rest) => rest.split_once(' '),
            None => line
                .strip_prefix('\t')
                .and_then(|rest| rest.split_once(" = "))
                .map(|(name, rest)| (name, rest.split(',').next().unwrap_or(rest))),
        };
        let Some((name, value)) = words else { continue };
        let value = value.split_whitespace().next().unwrap_or_default();
        if let Ok(value) = value.parse::<u32>() {
            writeln!(text, "pub const {name}: u32 = {value};")?;
        }
    }
    // FNV-1a: tells one build's programs from another's, nothing more.
    let fingerprint = std::fs::read(object)?
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    writeln!(text, "pub const PROGRAMS: u64 = {fingerprint};")?;
    Ok(text)
}
