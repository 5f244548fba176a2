//! A transcript: comments (`# …`), commands (`$ palisade …`), and after each command all that it prints: lines of
//! standard error behind `2> `, then the exit code.

use std::fmt::Write as _;
use std::path::Path;

/// Runs a transcript's commands and compares, or rewrites it where `UPDATE_GOLDEN` is set.
pub fn check(path: &Path) {
    let expected =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let seen = rerun(&expected);
    assert!(seen.contains("$ palisade "), "{} has no command", path.display());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, seen).expect("the transcript can be written");
        return;
    }
    if let Some((number, (expected, seen))) = first_difference(&expected, &seen) {
        panic!(
            "{}:{number} differs (UPDATE_GOLDEN=1 rewrites it)\nexpected: {expected}\n    seen: {seen}",
            path.display()
        );
    }
}

fn rerun(transcript: &str) -> String {
    let mut seen = String::new();
    for line in transcript.lines() {
        if line.starts_with("# ") {
            writeln!(seen, "{line}").unwrap();
        }
        let Some(command) = line.strip_prefix("$ palisade ") else {
            continue;
        };
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let output = super::palisade(&arguments);
        writeln!(seen, "{line}").unwrap();
        for line in String::from_utf8(output.stdout).expect("UTF-8 on stdout").lines() {
            assert!(
                !line.starts_with("$ palisade ") && !line.starts_with("# "),
                "{line}"
            );
            writeln!(seen, "{line}").unwrap();
        }
        for line in String::from_utf8(output.stderr).expect("UTF-8 on stderr").lines() {
            writeln!(seen, "{}", format!("2> {line}").trim_end()).unwrap();
        }
        let code = output.status.code().expect("an exit code");
        writeln!(seen, "exit {code}\n").unwrap();
    }
    seen
}

fn first_difference<'a>(expected: &'a str, seen: &'a str) -> Option<(usize, (&'a str, &'a str))> {
    if expected == seen {
        return None;
    }
    let (mut expected, mut seen) = (expected.lines(), seen.lines());
    for number in 1.. {
        match (expected.next(), seen.next()) {
            (None, None) => return Some((number, ("a file that ends so", "one that ends otherwise"))),
            (expected, seen) if expected != seen => {
                return Some((number, (expected.unwrap_or("(end)"), seen.unwrap_or("(end)"))));
            }
            _ => {}
        }
    }
    None
}
