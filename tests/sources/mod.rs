//! The project's own sources as text, for tests that read them.

// Each test crate that includes this module uses its own share of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` of the repository, sorted; hidden ones and what builds leave behind are left out. Names are
/// relative to the root. None where there is no such folder.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    let mut found: Vec<PathBuf> = found
        .into_iter()
        .map(|p| p.strip_prefix(root()).map(Path::to_path_buf).unwrap_or(p))
        .collect();
    found.sort();
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let skipped = match name.as_str() {
            "target" | ".git" | ".cache" => true,
            // Hidden files of editors, but not the project's own CI.
            other => other.starts_with('.') && !matches!(other, ".ci" | ".github" | ".gitignore"),
        };
        if skipped {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The Rust sources below a folder, with their names.
pub fn rust(folder: &str) -> Vec<(PathBuf, String)> {
    files(folder)
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .map(|p| {
            let text = fs::read_to_string(root().join(&p)).expect("Rust sources are UTF-8");
            (p, text)
        })
        .collect()
}

/// The text with comments, strings and characters blanked out, so that what is left is code. Offsets and lines stay.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes.get(i + 1) == Some(&b'/') => line_end(bytes, i),
            b'/' if bytes.get(i + 1) == Some(&b'*') => comment_end(bytes, i),
            b'"' => string_end(bytes, i),
            b'r' if !in_word(bytes, i) || prefixes_raw(bytes, i) => match raw_string_end(bytes, i) {
                Some(end) => end,
                None => {
                    i += 1;
                    continue;
                }
            },
            b'\'' => match char_end(bytes, i) {
                Some(end) => end,
                None => {
                    i += 1;
                    continue;
                }
            },
            _ => {
                i += 1;
                continue;
            }
        };
        for byte in &mut out[i..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        i = end;
    }
    String::from_utf8(out).expect("whole characters are blanked")
}

fn in_word(bytes: &[u8], i: usize) -> bool {
    i > 0 && (bytes[i - 1].is_ascii_alphanumeric() || bytes[i - 1] == b'_')
}

/// The `r` of `br"…"` and `cr"…"`.
fn prefixes_raw(bytes: &[u8], i: usize) -> bool {
    i > 0 && matches!(bytes[i - 1], b'b' | b'c') && !in_word(bytes, i - 1)
}

fn line_end(bytes: &[u8], start: usize) -> usize {
    bytes[start..]
        .iter()
        .position(|b| *b == b'\n')
        .map_or(bytes.len(), |n| start + n)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i < bytes.len() {
        match &bytes[i..bytes.len().min(i + 2)] {
            b"/*" => {
                depth += 1;
                i += 2;
            }
            b"*/" => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// `None`: no raw string begins here.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..].iter().take_while(|b| **b == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let end = bytes[open + 1..].windows(close.len()).position(|w| w == close);
    Some(end.map_or(bytes.len(), |n| open + 1 + n + close.len()))
}

/// `None`: a lifetime or a label.
fn char_end(bytes: &[u8], start: usize) -> Option<usize> {
    match bytes.get(start + 1)? {
        b'\\' => {
            let close = bytes.get(start + 3..)?.iter().position(|b| *b == b'\'')?;
            Some(start + 3 + close + 1)
        }
        _ => {
            // One character of up to four bytes.
            let close = bytes[start + 2..].iter().take(4).position(|b| *b == b'\'')?;
            let inside = std::str::from_utf8(&bytes[start + 1..start + 2 + close]).ok()?;
            (inside.chars().count() == 1).then_some(start + 2 + close + 1)
        }
    }
}

/// The number of the line that an offset is on, from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count() + 1
}

#[test]
fn only_code_is_left_of_a_source() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x // y", 'z')"#, "f(        ,    )"),
        (r##"f(r#"a "b" c"#) d"##, "f(            ) d"),
        (r#"let c = '\''; g"#, "let c =     ; g"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        (r#""\\" a "\"" b"#, "     a      b"),
        ("for x in y { r(1) }", "for x in y { r(1) }"),
    ];
    for (text, expected) in cases {
        assert_eq!(code(text), expected, "{text}");
    }
}
