//! What a document that cannot be parsed still says about itself.
//!
//! A policy with a slip in it must not leave its pods open when there is no earlier version to stay in force. So the
//! lines that name it are looked for as people write them; if they are found, it denies all in its namespace.

use super::document;
use super::object::{Item, nameless_policy, unreadable_policy};
use crate::model::ObjectId;
use crate::objects::names;

/// A policy in the place of an unparsable document that begins to be one.
pub fn policy(text: &str, place: &str) -> Option<Item> {
    let block = |field: &str| {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(field));
        let first = lines.next()?;
        let rest = lines.take_while(|line| line.is_empty() || line.starts_with([' ', '#']));
        let block: Vec<_> = std::iter::once(first).chain(rest).collect();
        document::parse_yaml(&block.join("\n"), 1).ok()
    };
    if block("kind:")?.get("kind")?.as_str()? != "NetworkPolicy" {
        return None;
    }
    let block = block("metadata:")?;
    let metadata = block.get("metadata")?;
    let namespace = match metadata.get("namespace") {
        None => "default",
        Some(namespace) => namespace.as_str().filter(|name| names::is_label(name))?,
    };
    let name = metadata.get("name").and_then(|name| name.as_str());
    Some(match name.filter(|name| names::is_subdomain(name)) {
        Some(name) => unreadable_policy(ObjectId::new(namespace, name), place),
        None => nameless_policy(&namespace.into(), place),
    })
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
        let item = policy(
            "kind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: [",
            "a.yaml",
        )
        .unwrap();
        assert_eq!(item.key.to_string(), "NetworkPolicy shop/web");
        let item = policy(
            "kind: NetworkPolicy\nmetadata: {generateName: x}\n\tspec: [",
            "a.yaml",
        )
        .unwrap();
        assert_eq!(item.key.to_string(), "NetworkPolicy default/unreadable-in-a-yaml");
        for text in [
            "kind: Pod\nmetadata: {name: x}\n: [",
            "kind: NetworkPolicy\nmetadata: {name: web",
            "kind: NetworkPolicy\nmetadata: {name: web, namespace: A}\n[",
        ] {
            assert!(policy(text, "a.yaml").is_none(), "{text}");
        }
    }
}
