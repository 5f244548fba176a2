//! Who may import what, read from the sources.
//!
//! `model`, `api`, `resolve` and `compile` are pure, data goes one way, `cluster` and `node` know each other only by
//! PolicyEndpoints, and `unsafe` stays in `bpf`.

mod sources;

use std::fs;
use std::path::Path;

use sources::{code, files, line_of, root, rust};

/// What the pure modules may import of this crate, and which crates besides std.
const PURE: [(&str, &[&str], &[&str]); 4] = [
    ("model", &[], &["ipnet", "serde", "schemars"]),
    (
        "api",
        &["model"],
        &["serde", "schemars", "k8s_openapi", "kube::CustomResource"],
    ),
    ("resolve", &["api", "model"], &["k8s_openapi", "ipnet", "slab"]),
    ("compile", &["api", "model"], &["k8s_openapi", "ipnet"]),
];

/// What of std is IO, clock, chance or a thread.
const IMPURE_STD: [&str; 15] = [
    "std::env",
    "std::fs",
    "std::hash::RandomState",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::random",
    "std::sync::mpsc",
    "std::task",
    "std::thread",
    "std::time",
];

/// Modules that never import each other.
const STRANGERS: [(&str, &str); 17] = [
    ("cni", "bpf"),
    ("cni", "cluster"),
    ("cni", "node"),
    ("cluster", "node"),
    ("node", "cluster"),
    ("bpf", "cluster"),
    ("files", "bpf"),
    ("introspect", "app"),
    ("introspect", "cli"),
    ("introspect", "cluster"),
    ("introspect", "files"),
    ("introspect", "node"),
    ("introspect", "resolve"),
    ("bpf", "introspect"),
    ("cluster", "introspect"),
    ("node", "introspect"),
    ("observe", "introspect"),
];

#[test]
fn pure_modules_import_nothing_impure() {
    let dependencies = dependencies();
    assert!(
        dependencies.iter().any(|d| d == "tokio"),
        "Cargo.toml is read: {dependencies:?}"
    );
    let mut found = Vec::new();
    for (module, ours, others) in PURE {
        let sources = sources_of(module);
        assert!(!sources.is_empty(), "src/{module} has sources");
        for source in sources {
            for (at, path) in source.paths() {
                let crate_name = path.split("::").next().unwrap_or_default();
                let of_std = |list: &[&str]| list.iter().any(|p| within(&path, p));
                let forbidden = match crate_name {
                    "std" | "core" => of_std(&IMPURE_STD),
                    "crate" => {
                        let own = path.split("::").nth(1).unwrap_or_default();
                        own != module && !ours.contains(&own) && is_module(own)
                    }
                    other => {
                        path.contains("::") && dependencies.iter().any(|d| d == other) && !of_std(others)
                    }
                };
                if forbidden {
                    found.push(source.at(at, &path));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "forbidden in a pure module:\n{}",
        found.join("\n")
    );
}

#[test]
fn strangers_do_not_import_each_other() {
    let mut found = Vec::new();
    for (module, stranger) in STRANGERS {
        for source in sources_of(module) {
            for (at, path) in source.paths() {
                if within(&path, &format!("crate::{stranger}")) {
                    found.push(source.at(at, &path));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "a module imports a stranger:\n{}",
        found.join("\n")
    );
}

#[test]
fn unsafe_stays_in_bpf() {
    let mut found = Vec::new();
    for (name, text) in rust("src").into_iter().chain(rust("tests")) {
        if name.starts_with("src/bpf") {
            continue;
        }
        let code = code(&text);
        for (at, word) in words(&code) {
            if word == "unsafe" {
                found.push(format!("{}:{}", name.display(), line_of(&code, at)));
            }
        }
    }
    assert!(
        found.is_empty(),
        "`unsafe` outside of src/bpf:\n{}",
        found.join("\n")
    );
}

#[test]
fn no_file_knows_the_machine_that_it_was_written_on() {
    // In pieces, so that this file does not find itself.
    let places = [["/work", "/"], ["/ro", "ot/"], ["/ho", "me/"], ["/tmp", "/wt"]].map(|p| p.concat());
    let mut found = Vec::new();
    for name in files("") {
        let Ok(text) = fs::read_to_string(root().join(&name)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            // An absolute path: nothing stands before it that it could go on from.
            let begins =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-}*".contains(c));
            let mut named = places.iter().flat_map(|p| line.match_indices(p.as_str()));
            if named.any(|(at, _)| begins(at)) {
                found.push(format!("{}:{}: {}", name.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "paths of one machine:\n{}", found.join("\n"));
}

/// A module's source, without what only its tests are made of.
struct Source {
    name: String,
    /// As in `crate::compile::rows`.
    module: String,
    code: String,
}

impl Source {
    fn at(&self, offset: usize, path: &str) -> String {
        format!("{}:{}: {path}", self.name, line_of(&self.code, offset))
    }

    /// Every path in the code with the offset that it is at, imports in groups spelled out, `super` and `self` resolved.
    fn paths(&self) -> Vec<(usize, String)> {
        let tokens = tokens(&self.code);
        let mut found = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            at = path(&tokens, at, "", &mut found).max(at + 1);
        }
        found
            .into_iter()
            .map(|(offset, path)| (offset, absolute(&self.module, &path)))
            .collect()
    }
}

fn sources_of(module: &str) -> Vec<Source> {
    let alone = format!("src/{module}.rs");
    rust("src")
        .into_iter()
        .filter(|(name, _)| name.starts_with(format!("src/{module}")) || name == Path::new(&alone))
        .filter(|(name, _)| {
            !name
                .components()
                .any(|c| c.as_os_str() == "tests" || c.as_os_str() == "tests.rs")
        })
        .map(|(name, text)| Source {
            module: module_path(&name),
            name: name.display().to_string(),
            code: without_tests(&code(&text)),
        })
        .collect()
}

fn module_path(file: &Path) -> String {
    let inside = file.strip_prefix("src").unwrap_or(file).with_extension("");
    let mut parts = vec!["crate".to_string()];
    parts.extend(
        inside
            .components()
            .map(|c| c.as_os_str().to_string_lossy().into_owned()),
    );
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts.join("::")
}

fn is_module(name: &str) -> bool {
    let src = root().join("src");
    src.join(name).is_dir() || src.join(format!("{name}.rs")).is_file()
}

/// The names under `[dependencies]`, as code spells them.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    manifest
        .lines()
        .skip_while(|l| l.trim() != "[dependencies]")
        .skip(1)
        .take_while(|l| !l.starts_with('['))
        .filter_map(|l| Some(l.split_once('=')?.0.trim().replace('-', "_")))
        .collect()
}

fn within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn absolute(module: &str, path: &str) -> String {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut rest: Vec<&str> = path.split("::").collect();
    if !matches!(rest.first(), Some(&"self" | &"super")) || rest.len() < 2 {
        return path.to_string();
    }
    while let Some(first) = rest.first() {
        match *first {
            "self" => {}
            "super" => drop(base.pop()),
            _ => break,
        }
        rest.remove(0);
    }
    base.extend(rest);
    base.join("::")
}

/// Leaves out every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let mut depth = 0;
        let end = item.char_indices().find(|(_, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(c, '}' | ';')
        });
        let end = end.map_or(item.len(), |(i, _)| i + 1);
        // Lines keep their numbers.
        out.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    out + rest
}

fn words(code: &str) -> Vec<(usize, &str)> {
    tokens(code)
        .into_iter()
        .filter(|(_, t)| t.starts_with(|c: char| c.is_alphabetic() || c == '_'))
        .collect()
}

/// Words, `::` and single other characters, with their offsets.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = code[at..].chars().next() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if word(c) {
            code[at..].find(|c| !word(c)).unwrap_or(code.len() - at)
        } else if code[at..].starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        if !c.is_whitespace() {
            found.push((at, &code[at..at + length]));
        }
        at += length;
    }
    found
}

/// Reads the path that begins at a token and, where it ends in a group, each of the group's. Yields the token after it.
fn path(tokens: &[(usize, &str)], mut at: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", |(_, t)| *t);
    let start = tokens.get(at).map_or(0, |(offset, _)| *offset);
    let mut path = prefix.to_string();
    loop {
        let word = token(at);
        if word == "{" && path.ends_with("::") {
            at += 1;
            while !matches!(token(at), "}" | "") {
                at = self::path(tokens, at, &path, found).max(at + 1);
            }
            return at + 1;
        }
        if !word.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            break;
        }
        path.push_str(word);
        at += 1;
        if token(at) != "::" {
            break;
        }
        path.push_str("::");
        at += 1;
    }
    // `self` in a group is the group's own path; a glob is everything in it.
    let path = path.trim_end_matches("::");
    let path = match path.strip_suffix("::self") {
        Some(group) if !prefix.is_empty() => group,
        _ => path,
    };
    if !path.is_empty() && path != prefix.trim_end_matches("::")
        || path.len() < prefix.len() && !path.is_empty()
    {
        found.push((start, path.to_string()));
    }
    at
}

#[test]
fn paths_are_read_in_every_spelling() {
    let source = Source {
        name: "src/compile/rows.rs".into(),
        module: "crate::compile::rows".into(),
        code: without_tests(&code(
            "use std::{fmt, net::{IpAddr, UdpSocket as S}, fs::{self, File}};\n\
             use super::super::files::*;\n\
             // use tokio::spawn;\n\
             fn f() { crate::bpf::load(\"std::time\"); let x = std::time::Instant::now(); g::<u8>(self::y()) }\n\
             #[cfg(test)]\nmod tests { use crate::resolve; fn x() {} }\n\
             #[cfg(test)]\nuse crate::cli;\n\
             use crate::node;",
        )),
    };
    let paths = source.paths();
    let has = |line: usize, path: &str| {
        paths
            .iter()
            .any(|(l, p)| (line_of(&source.code, *l), p.as_str()) == (line, path))
    };
    for (line, path) in [
        (1, "std::fmt"),
        (1, "std::net::IpAddr"),
        (1, "std::net::UdpSocket"),
        (1, "std::fs"),
        (1, "std::fs::File"),
        (2, "crate::files"),
        (4, "crate::bpf::load"),
        (4, "std::time::Instant::now"),
        (4, "crate::compile::rows::y"),
        (9, "crate::node"),
    ] {
        assert!(has(line, path), "{line}: {path} in {paths:?}");
    }
    for path in ["tokio::spawn", "crate::resolve", "crate::cli"] {
        assert!(paths.iter().all(|(_, p)| p != path), "{path} in {paths:?}");
    }
}
