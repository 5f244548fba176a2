//! Text that came from files, on its way to a terminal or a log.

use std::fmt::Write as _;

/// Control, invisible and direction-changing characters as `\u{…}`; everything else as it is, so that text which was
/// escaped before stays the same.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Quotes and backslashes are printable: only what a terminal would act on is of interest.
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => {
                // Writing to a String does not fail.
                let _ = write!(shown, "{}", c.escape_debug());
            }
        }
    }
    shown
}

/// JSON with what [`escape`] escapes as JSON's own `\u…`, so that it reads back as it was. Such characters are in strings only.
pub fn escape_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // JSON leaves no control character of ASCII but DEL in a string; a newline is between values.
        if c.is_ascii() && c != '\u{7f}' || c.escape_debug().next() == Some(c) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{escape, escape_json};

    #[test]
    fn json_reads_back_as_it_was_and_has_nothing_that_a_terminal_would_act_on() {
        let text = "a\u{1b}[31m\u{9b}2J\u{202e}é\u{1f512}\u{e0001}\u{7f}\"\\";
        let json = serde_json::to_string(text).unwrap();
        let shown = escape_json(&json);
        assert_eq!(escape(&shown), shown);
        assert!(
            shown.contains("\\u009b2J\\u202eé\u{1f512}\\udb40\\udc01\\u007f"),
            "{shown}"
        );
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        assert_eq!(escape("a\u{1b}[31mb\n\u{202e}c"), "a\\u{1b}[31mb\\n\\u{202e}c");
        assert_eq!(escape("\u{9b}2J\u{7f}\u{200b}"), "\\u{9b}2J\\u{7f}\\u{200b}");
    }

    #[test]
    fn escaping_twice_is_escaping_once() {
        let once = escape("\"a\u{7}\"\\ 'é' \u{1f512}");
        assert_eq!(escape(&once), once);
        assert_eq!(once, "\"a\\u{7}\"\\ 'é' \u{1f512}");
    }
}
