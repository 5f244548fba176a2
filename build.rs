//! Compiles the BPF programs and generates their skeleton. Only UAPI headers are needed: no BTF of the running kernel.

use std::path::PathBuf;

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("palisade.skel.rs");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH")?;
    SkeletonBuilder::new()
        .source("bpf/palisade.bpf.c")
        .clang_args([
            format!("-I/usr/include/{arch}-linux-gnu"),
            "-Wall".into(),
            "-Werror".into(),
            "-mcpu=v3".into(),
        ])
        .build_and_generate(&out)
        .context("the BPF programs do not build: clang, libelf-dev, zlib1g-dev and linux-libc-dev are needed (make packages)")?;
    println!("cargo:rerun-if-changed=bpf");
    Ok(())
}
