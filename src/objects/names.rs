//! What the API server accepts as names, label keys, label values and port names.

/// A DNS subdomain (RFC 1123), up to 253 characters: names of most objects.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| is_dns_part(part, 253))
}

/// A DNS label (RFC 1123), up to 63 characters: names of namespaces and Services.
pub fn is_label(text: &str) -> bool {
    is_dns_part(text, 63)
}

fn is_dns_part(text: &str, longest: usize) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty()
        && text.len() <= longest
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A label's key: a name, with `prefix/` before it or not.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// A label's value: empty, or like a name.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified(text)
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= 63
        && bytes.iter().all(inner)
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
}

/// An IANA service name (RFC 6335): names of ports.
pub fn is_port_name(text: &str) -> bool {
    is_dns_part(text, 15) && !text.contains("--") && text.bytes().any(|b| b.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s49_names_with_dots_and_of_253_characters_are_names() {
        assert!(is_subdomain("a.b-c.d"));
        assert!(is_subdomain(&"a".repeat(253)));
        for bad in ["", "A", "a..b", "-a", "a-", "a_b", ".a", "a/b", &"a".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
        assert!(is_label(&"a".repeat(63)));
        assert!(!is_label(&"a".repeat(64)) && !is_label("a.b"));
    }

    #[test]
    fn label_keys_values_and_port_names_are_those_of_the_api() {
        for good in ["a", "A.b_c-d", "example.com/x", &"k".repeat(63)] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "a b", "A.com/x", &"k".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(
            is_label_value("") && is_label_value("1.0") && !is_label_value("a b") && !is_label_value("a.")
        );
        assert!(is_port_name("http") && is_port_name("a-1"));
        for bad in ["", "80", "a--b", "-a", "HTTP", "abcdefghijklmnop", "a_b"] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }
}
