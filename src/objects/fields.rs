//! Reading the fields of one object out of its tree: each reader either yields a parsed value or has reported a
//! problem that names the field. So one bad field costs itself, not its neighbours.

use std::fmt;

use serde_json::{Map, Value};

use super::text;
use crate::model::Problem;

pub type Fields = Map<String, Value>;

/// A field that could not be read; the problem is already reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad;

/// Where a field is, as in `spec.ingress[0].from[1].ipBlock.cidr`.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(parent, key) => {
                let parent = parent.to_string();
                f.write_str(&below(&parent, key))
            }
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The path of the field `key` of `parent`; a key with a dot, a slash or something odd in it is quoted.
pub fn below(parent: &str, key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if key.is_empty() || key.len() > 63 || !key.bytes().all(plain) {
        format!("{parent}[{}]", text::quoted(key))
    } else if parent.is_empty() {
        key.to_string()
    } else {
        format!("{parent}.{key}")
    }
}

/// Collects the problems of one object.
pub struct Reader {
    /// How messages name the object.
    pub object: String,
    pub problems: Vec<Problem>,
    /// An API server has held the object to its schema, which may be newer than ours: only policies are read strictly.
    checked: bool,
}

impl Reader {
    pub fn new(object: String) -> Self {
        Self {
            object,
            problems: Vec::new(),
            checked: false,
        }
    }

    /// For an object that an API server holds.
    pub fn checked(object: String) -> Self {
        Self {
            checked: true,
            ..Self::new(object)
        }
    }

    pub fn is_checked(&self) -> bool {
        self.checked
    }

    pub fn report(
        &mut self,
        at: &Path<'_>,
        value: &Value,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(Problem {
            object: self.object.clone(),
            field: at.to_string(),
            value: if value.is_null() {
                String::new()
            } else {
                text::value(value)
            },
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Reports, and is the error to return.
    pub fn bad(
        &mut self,
        at: &Path<'_>,
        value: &Value,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Bad {
        self.report(at, value, message, remedy);
        Bad
    }

    fn wrong_type(&mut self, at: &Path<'_>, value: &Value, wanted: &str) -> Bad {
        let message = format!("is {}, not {wanted}", type_name(value));
        let remedy = match value {
            Value::Number(_) | Value::Bool(_) if wanted == "a string" => "put it in quotes".to_string(),
            Value::String(_) if wanted == "a whole number" || wanted == "true or false" => {
                "write it without quotes".to_string()
            }
            _ if wanted == "a list" => "write its elements as a list, each with `- ` before it".to_string(),
            _ => format!("write {wanted}"),
        };
        self.bad(at, value, message, remedy)
    }

    /// A mapping; `None` where it is absent or null.
    pub fn fields<'v>(&mut self, at: &Path<'_>, value: Option<&'v Value>) -> Result<Option<&'v Fields>, Bad> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(other) => Err(self.wrong_type(at, other, "a mapping")),
        }
    }

    /// A list; empty where it is absent or null.
    pub fn list<'v>(&mut self, at: &Path<'_>, value: Option<&'v Value>) -> Result<&'v [Value], Bad> {
        match value {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.wrong_type(at, other, "a list")),
        }
    }

    pub fn text<'v>(&mut self, at: &Path<'_>, value: Option<&'v Value>) -> Result<Option<&'v str>, Bad> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(at, other, "a string")),
        }
    }

    pub fn boolean(&mut self, at: &Path<'_>, value: Option<&Value>) -> Result<Option<bool>, Bad> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(is)) => Ok(Some(*is)),
            Some(other) => Err(self.wrong_type(at, other, "true or false")),
        }
    }

    /// A port number, 1 to 65535.
    pub fn port(&mut self, at: &Path<'_>, value: &Value) -> Result<u16, Bad> {
        if !(value.is_i64() || value.is_u64()) {
            return Err(self.wrong_type(at, value, "a whole number"));
        }
        match value.as_u64().and_then(|n| u16::try_from(n).ok()) {
            Some(port) if port > 0 => Ok(port),
            _ => Err(self.bad(at, value, "is no port number", "write a number from 1 to 65535")),
        }
    }

    /// Reports fields that are not `known`, where nobody has checked that before. For what is no policy.
    pub fn expect(&mut self, at: &Path<'_>, fields: &Fields, known: &[&str]) {
        if !self.checked {
            self.only(at, fields, known);
        }
    }

    /// Whether every field is one of `known`; reports each that is not.
    pub fn only(&mut self, at: &Path<'_>, fields: &Fields, known: &[&str]) -> bool {
        let mut all = true;
        for (key, value) in fields {
            if !known.contains(&key.as_str()) {
                let remedy = format!("correct its name or remove it; known here: {}", known.join(", "));
                self.report(&at.key(key), value, "is an unknown field", remedy);
                all = false;
            }
        }
        all
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(n) if n.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
