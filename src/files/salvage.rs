//! What a document that cannot be parsed still says about itself.
//!
//! A policy with a slip in it must not leave its pods open when there is no earlier version to stay in force. So the
//! lines that name it are looked for as people write them; if they are found, it denies all in its namespace.

use super::names;
use super::object::{Item, nameless_policy, unreadable_policy};
use crate::model::ObjectId;

/// A policy in the place of an unparsable document that begins to be one.
pub fn policy(text: &str, place: &str) -> Option<Item> {
    let mut kind = None;
    let mut in_metadata = false;
    let mut depth = None;
    let (mut name, mut namespace) = (None, None);
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if indent == 0 {
            in_metadata = content.starts_with("metadata:");
            kind = kind.or(scalar(content, "kind"));
        } else if in_metadata && indent == *depth.get_or_insert(indent) {
            name = name.or(scalar(content, "name"));
            namespace = namespace.or(scalar(content, "namespace"));
        }
    }
    if kind != Some("NetworkPolicy") {
        return None;
    }
    let namespace = namespace.unwrap_or("default");
    if !names::is_label(namespace) {
        return None;
    }
    Some(match name.filter(|name| names::is_subdomain(name)) {
        Some(name) => unreadable_policy(ObjectId::new(namespace, name), place),
        None => nameless_policy(&namespace.into(), place),
    })
}

fn scalar<'t>(line: &'t str, key: &str) -> Option<&'t str> {
    let value = line.strip_prefix(key)?.strip_prefix(':')?;
    let value = value.split(" #").next()?.trim();
    Some(value.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_policy_is_known_by_the_lines_that_name_it() {
        let text = "kind: NetworkPolicy\nmetadata:\n  labels:\n    name: no\n  name: \"web\" # x\n  namespace: shop\nspec: [";
        let item = policy(text, "a.yaml").unwrap();
        assert_eq!(item.key.to_string(), "NetworkPolicy shop/web");
        assert!(!item.certain);
        assert!(policy("kind: Pod\nmetadata: {name: x}\n: [", "a.yaml").is_none());
        let item = policy("kind: NetworkPolicy\nmetadata: {name: web", "a.yaml").unwrap();
        assert_eq!(&*item.key.id.namespace, "default");
    }
}
