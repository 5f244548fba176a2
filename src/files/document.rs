//! A file's text → its documents, each a tree of its own: one that cannot be parsed costs itself, not its neighbours.

use std::fmt;

use serde::Deserializer;
use serde::de::{Deserialize, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::objects::text;

/// Nesting that no Kubernetes object comes near.
const DEEPEST: usize = 64;
/// Parts of one document, aliases expanded; 8 MiB of ordinary objects stay below.
const MOST_NODES: usize = 1_000_000;
/// Parts that aliases may add to one document.
const MOST_REPLAYED: usize = 20_000;

pub struct Document<'t> {
    /// Counted from 1; blank ones do not count.
    pub number: usize,
    /// Line of the file on which it begins, from 1.
    pub line: usize,
    pub text: &'t str,
    pub tree: Result<Value, Unparsable>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Unparsable {
    /// Line of the file, where it is known.
    pub line: Option<usize>,
    pub message: String,
}

/// The documents of a YAML file. Each is parsed when it is asked for.
pub fn yaml(text: &str) -> impl Iterator<Item = Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let written = Pieces { rest: text, line: 1 }.filter(|(_, piece)| !is_blank(piece));
    written.enumerate().map(|(index, (line, text))| Document {
        number: index + 1,
        line,
        text,
        tree: parse_yaml(text, line),
    })
}

/// The documents of a JSON file: one value, or several one after the other. What follows a syntax error is lost.
pub fn json(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Tree>();
    loop {
        let start = values.byte_offset();
        let blank = text[start..].len() - text[start..].trim_start().len();
        let line = 1 + text[..start + blank].bytes().filter(|b| *b == b'\n').count();
        let Some(value) = values.next() else {
            return documents;
        };
        let failed = value.is_err();
        let end = values.byte_offset().max(start);
        documents.push(Document {
            number: documents.len() + 1,
            line,
            text: text.get(start..end).unwrap_or_default(),
            tree: value.map(|Tree(value)| value).map_err(|error| Unparsable {
                line: Some(error.line()).filter(|line| *line > 0),
                message: said(&error.to_string()),
            }),
        });
        if failed {
            return documents;
        }
    }
}

/// Cuts at the markers `---` and `...`, which YAML gives no other meaning at the start of a line.
struct Pieces<'t> {
    rest: &'t str,
    line: usize,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = (usize, &'t str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let first = self.line;
        let mut length = 0;
        for line in self.rest.split_inclusive('\n') {
            if length > 0 && is_marker(line, "---") {
                break;
            }
            length += line.len();
            self.line += 1;
            if is_marker(line, "...") {
                break;
            }
        }
        let (piece, rest) = self.rest.split_at(length);
        self.rest = rest;
        Some((first, piece))
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether there is nothing in it but markers, directives and comments.
fn is_blank(piece: &str) -> bool {
    piece.lines().all(|line| {
        let line = if is_marker(line, "---") || is_marker(line, "...") {
            &line[3..]
        } else {
            line
        };
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%'])
    })
}

/// One document, as it stands in a text whose first line is `first_line` of its file.
pub fn parse_yaml(text: &str, first_line: usize) -> Result<Value, Unparsable> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEEPEST,
            max_events: 3 * MOST_NODES,
            max_nodes: MOST_NODES,
            max_aliases: MOST_REPLAYED,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_REPLAYED,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Tree>(text, options)
        .map(|Tree(value)| value)
        .map_err(|error| {
            let line = error
                .location()
                .map(|at| at.line() as usize)
                .filter(|line| *line > 0);
            Unparsable {
                line: line.map(|line| first_line + line - 1),
                message: said(&error.to_string()),
            }
        })
}

/// What a parser said, without its own line numbers and its advice to programmers.
fn said(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let message = message.split(" at line ").next().unwrap_or_default();
    let message = message.split(", set ").next().unwrap_or_default();
    if message.starts_with("budget breached: Depth") {
        return format!("it is nested more than {DEEPEST} deep");
    }
    if message.starts_with("budget breached") || message.starts_with("alias replay limit") {
        return "it is too large, its aliases followed".to_string();
    }
    text::plain(message)
}

/// A JSON value, built so that nothing is lost on the way: a number that JSON cannot hold, binary data and a key that
/// stands twice are errors, where `Value` alone would make them null, a list, or the later of the two.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, number, true, false, null, list or mapping with strings as keys")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value)
            .ok_or_else(|| E::custom("infinity and not-a-number have no place here"))?;
        Ok(Tree(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree(Value::String(value)))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(Tree(value)) = sequence.next_element()? {
            list.push(value);
        }
        Ok(Tree(Value::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Tree, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = mapping.next_key::<String>()? {
            let Tree(value) = mapping.next_value()?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!(
                    "the key {} stands twice",
                    text::quoted(&key)
                )));
            }
            fields.insert(key, value);
        }
        Ok(Tree(Value::Object(fields)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<(usize, usize)> {
        yaml(text).map(|d| (d.number, d.line)).collect()
    }

    #[test]
    fn documents_are_cut_at_markers_only() {
        assert_eq!(
            pieces("a: 1\n---\nb: |\n  ---\n  x\n--- # c\nc: 1\n"),
            [(1, 1), (2, 2), (3, 6)]
        );
        assert_eq!(pieces("---\n# only this\n---\n\n---\na: 1\n...\n"), [(1, 5)]);
        assert_eq!(pieces("%YAML 1.2\n---\na: 1\r\n---\r\nb: 1"), [(1, 2), (2, 4)]);
        assert_eq!(pieces("a: 1\n----\n"), [(1, 1)]);
        assert_eq!(pieces(""), []);
    }

    #[test]
    fn a_broken_document_costs_only_itself_and_names_its_line() {
        let documents: Vec<_> = yaml("a: 1\n---\nb: [1\nc: 2\n---\nd: 1\n").collect();
        assert_eq!(documents.len(), 3);
        assert!(documents[0].tree.is_ok() && documents[2].tree.is_ok());
        let error = documents[1].tree.as_ref().unwrap_err();
        assert!(
            error.line.is_some_and(|line| (3..=5).contains(&line)),
            "{error:?}"
        );
    }

    #[test]
    fn a_value_that_json_lacks_does_not_turn_into_an_absent_one() {
        for text in ["port: .nan", "port: .inf", "port: -.inf", "port: 1e999"] {
            let tree = yaml(text).next().unwrap().tree.unwrap_or(Value::Null);
            assert!(!tree["port"].is_null() || tree.is_null(), "{text}: {tree:?}");
        }
        for text in ["a: 1\na: 2", "? [a]\n: b", "a: &x [*x]", "a: !!binary AAEC/w=="] {
            let tree = yaml(text).next().unwrap().tree;
            assert!(tree.is_err(), "{text}: {tree:?}");
        }
        assert!(json(r#"{"a": 1, "a": 2}"#)[0].tree.is_err());
    }

    #[test]
    fn json_documents_follow_one_another() {
        let documents = json("{\"a\": 1}\n\n{\"b\": 2}\n{\"c\": ");
        let lines: Vec<_> = documents
            .iter()
            .map(|d| (d.number, d.line, d.tree.is_ok()))
            .collect();
        assert_eq!(lines, [(1, 1, true), (2, 3, true), (3, 4, false)]);
    }
}
