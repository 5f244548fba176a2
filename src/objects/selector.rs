//! Label selectors and labels.

use std::sync::Arc;

use serde_json::Value;

use super::fields::{Bad, Path, Reader};
use super::names;
use crate::model::{Labels, Operator, Requirement, Selector};

pub const LABEL_KEY: &str =
    "write up to 63 letters, digits, '-', '_' or '.', with a DNS name and '/' before them or not";
pub const LABEL_VALUE: &str =
    "write up to 63 letters, digits, '-', '_' or '.', with a letter or digit first and last, or \"\"";

/// `None` where it is absent or null. All its problems are reported, not only the first.
pub fn read(at: &Path<'_>, value: Option<&Value>, reader: &mut Reader) -> Result<Option<Selector>, Bad> {
    let Some(fields) = reader.fields(at, value)? else {
        return Ok(None);
    };
    let mut good = reader.only(at, fields, &["matchLabels", "matchExpressions"]);
    let mut requirements = Vec::new();
    let labels_at = at.key("matchLabels");
    match reader.fields(&labels_at, fields.get("matchLabels")) {
        Err(Bad) => good = false,
        Ok(labels) => {
            for (key, value) in labels.into_iter().flatten() {
                let at = labels_at.key(key);
                let key = label_key(&at, key, reader);
                let value = label_value(&at, value, reader);
                match (key, value) {
                    (Ok(key), Ok(value)) => requirements.push(Requirement {
                        key,
                        operator: Operator::In([value].into()),
                    }),
                    _ => good = false,
                }
            }
        }
    }
    let expressions_at = at.key("matchExpressions");
    match reader.list(&expressions_at, fields.get("matchExpressions")) {
        Err(Bad) => good = false,
        Ok(list) => {
            for (index, value) in list.iter().enumerate() {
                match expression(&expressions_at.index(index), value, reader) {
                    Ok(requirement) => requirements.push(requirement),
                    Err(Bad) => good = false,
                }
            }
        }
    }
    if good {
        Ok(Some(Selector::new(requirements)))
    } else {
        Err(Bad)
    }
}

fn expression(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<Requirement, Bad> {
    let Some(fields) = reader.fields(at, Some(value))? else {
        return Err(reader.bad(
            at,
            value,
            "is an empty element",
            "remove it, or write key and operator",
        ));
    };
    let known = reader.only(at, fields, &["key", "operator", "values"]);
    let key_at = at.key("key");
    let key = match reader.text(&key_at, fields.get("key")) {
        Ok(Some(key)) => label_key(&key_at, key, reader),
        Ok(None) => Err(reader.bad(&key_at, &Value::Null, "is missing", "write the label's key")),
        Err(Bad) => Err(Bad),
    };
    let values_at = at.key("values");
    let mut values = reader.list(&values_at, fields.get("values")).map(|list| {
        let value = |(index, value)| label_value(&values_at.index(index), value, reader);
        list.iter().enumerate().map(value).collect::<Vec<_>>()
    })?;
    let values_given = !values.is_empty();
    let bad_value = values.iter().any(Result::is_err);
    let values: Arc<[Arc<str>]> = values.drain(..).filter_map(Result::ok).collect();

    let operator_at = at.key("operator");
    let needs_values = |reader: &mut Reader, operator| {
        if values_given {
            Ok(operator)
        } else {
            let message = "is empty, but the operator compares values";
            Err(reader.bad(
                &values_at,
                &Value::Null,
                message,
                "write at least one value, or use Exists",
            ))
        }
    };
    let refuses_values = |reader: &mut Reader, operator| {
        if values_given {
            let values = fields.get("values").unwrap_or(&Value::Null);
            let message = "stands with an operator that takes no values";
            Err(reader.bad(&values_at, values, message, "remove it, or use In or NotIn"))
        } else {
            Ok(operator)
        }
    };
    let operator = match reader.text(&operator_at, fields.get("operator"))? {
        Some("In") => needs_values(reader, Operator::In(values)),
        Some("NotIn") => needs_values(reader, Operator::NotIn(values)),
        Some("Exists") => refuses_values(reader, Operator::Exists),
        Some("DoesNotExist") => refuses_values(reader, Operator::DoesNotExist),
        other => {
            let value = other.map_or(Value::Null, Value::from);
            let message = if other.is_some() {
                "is no operator"
            } else {
                "is missing"
            };
            Err(reader.bad(
                &operator_at,
                &value,
                message,
                "write In, NotIn, Exists or DoesNotExist",
            ))
        }
    };
    match (known && !bad_value, key, operator) {
        (true, Ok(key), Ok(operator)) => Ok(Requirement { key, operator }),
        _ => Err(Bad),
    }
}

fn label_key(at: &Path<'_>, key: &str, reader: &mut Reader) -> Result<Arc<str>, Bad> {
    if names::is_label_key(key) {
        Ok(key.into())
    } else {
        Err(reader.bad(at, &key.into(), "is no label key", LABEL_KEY))
    }
}

fn label_value(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<Arc<str>, Bad> {
    match reader.text(at, Some(value))? {
        Some(text) if names::is_label_value(text) => Ok(text.into()),
        Some(_) => Err(reader.bad(at, value, "is no label value", LABEL_VALUE)),
        None => Err(reader.bad(at, value, "is empty", "write a value; \"\" is one")),
    }
}

/// An object's labels. One that is no label as the API server has it is kept as written: no valid selector names it,
/// and dropping it could take a pod out of the policies that select it.
pub fn labels(at: &Path<'_>, value: Option<&Value>, reader: &mut Reader) -> Labels {
    let mut labels = Labels::new();
    let fields = reader.fields(at, value).ok().flatten();
    for (key, value) in fields.into_iter().flatten() {
        let at = at.key(key);
        let text: Arc<str> = match value {
            Value::String(text) => text.as_str().into(),
            Value::Null => "".into(),
            other => other.to_string().into(),
        };
        // Both report what is wrong.
        let _ = label_key(&at, key, reader);
        let _ = value.is_null() || label_value(&at, value, reader).is_ok();
        labels.insert(key.as_str().into(), text);
    }
    labels
}
