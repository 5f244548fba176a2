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

#[cfg(test)]
mod tests {
    use super::escape;

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
