//! Text from files on its way to people: escaped, shortened. Nothing from a file reaches a message but through here.

use std::path::Path;

use serde_json::Value;

/// Characters of a value that a message shows.
const SHOWN: usize = 72;

/// A value as a message shows it: strings quoted, control and invisible characters escaped, shortened.
pub fn value(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => plain(&other.to_string()),
    }
}

/// A string, quoted.
pub fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let head: String = chars.by_ref().take(SHOWN).collect();
    let rest = chars.count();
    if rest == 0 {
        format!("{head:?}")
    } else {
        format!("{head:?}… and {rest} more characters")
    }
}

/// Text without quotes, such as a message of the YAML reader.
pub fn plain(text: &str) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == 4 * SHOWN {
            shown.push('…');
            break;
        }
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// A file's path. File names may hold anything but a slash.
pub fn path(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_and_direction_overrides_are_escaped() {
        assert_eq!(quoted("a\u{1b}[31mb\u{202e}"), r#""a\u{1b}[31mb\u{202e}""#);
        assert_eq!(plain("a\u{1b}]0;x\u{7}\n'\"é"), "a\\u{1b}]0;x\\u{7}\\n'\"é");
        assert_eq!(value(&serde_json::json!({"a": "\u{1b}"})), "{\"a\":\"\\u001b\"}");
    }

    #[test]
    fn long_values_are_shortened() {
        assert!(quoted(&"x".repeat(100_000)).len() < 120);
        assert!(plain(&"x".repeat(100_000)).len() < 320);
    }
}
