//! CNI configuration files as text: Palisade's entry is put in and taken out, and no other byte changes.
//!
//! Files are parsed only to find where in the text a plugin begins and ends. So key order, spaces and keys that nobody here
//! knows stay, and taking the entry out gives the file back as it was.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cni::plugin::VERSIONS;
use crate::cni::{Mode, TYPE};

/// Key of a list that was made from a file with a single plugin: the name of that.
const MADE_FROM: &str = "palisade.dev/made-from";

/// Why a file cannot be used: what is wrong, and in which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub field: &'static str,
    pub message: String,
}

#[derive(Deserialize)]
struct List<'a> {
    name: Option<String>,
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(rename = "cniVersions", default)]
    versions: Vec<String>,
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
    #[serde(rename = "palisade.dev/made-from")]
    made_from: Option<String>,
}

#[derive(Deserialize)]
struct Single {
    name: Option<String>,
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct Plugin {
    r#type: Option<String>,
}

/// Palisade's entry.
pub fn entry(mode: Mode, socket: &Path) -> Value {
    json!({"type": TYPE, "mode": mode.name(), "socket": socket})
}

/// The list with `entry` as its last plugin and nowhere else; the same text where it is so already.
///
/// # Errors
/// It is no list that a runtime would load and that can be chained to.
pub fn with_entry(text: &str, entry: &Value) -> Result<String, Unusable> {
    let places = checked(text)?;
    let ours: Vec<bool> = places.iter().map(|place| is_ours(&text[place.clone()])).collect();
    if ours.iter().filter(|is| **is).count() == 1
        && let Some(last) = places.last().map(|place| &text[place.clone()])
        && serde_json::from_str::<Value>(last).is_ok_and(|value| value == *entry)
    {
        return Ok(text.into());
    }
    if ours.iter().all(|is| *is) {
        return Err(unusable("plugins", "there is none beside Palisade's".into()));
    }
    let mut text = without_entry(text)?;
    let places = checked(&text)?;
    let Some(last) = places.last() else {
        return Ok(text);
    };
    let before = text[..last.start].trim_end_matches([' ', '\t', '\r', '\n']);
    let space = text[before.len()..last.start].to_string();
    text.insert_str(last.end, &format!(",{space}{}", written(entry)));
    Ok(text)
}

/// The list without Palisade's entries.
///
/// # Errors
/// It cannot be read.
pub fn without_entry(text: &str) -> Result<String, Unusable> {
    let mut text = text.to_string();
    loop {
        let places = places(&text, &object(&text)?);
        let Some(at) = places.iter().position(|place| is_ours(&text[place.clone()])) else {
            return Ok(text);
        };
        let (start, end) = match (at.checked_sub(1), places.get(at + 1)) {
            (Some(before), _) => (places[before].end, places[at].end),
            (None, Some(after)) => (places[at].start, after.start),
            (None, None) => (places[at].start, places[at].end),
        };
        text.replace_range(start..end, "");
    }
}

/// A list of the single plugin in `text`, the contents of file `name`, and `entry`.
///
/// # Errors
/// It is no configuration that a runtime would load and that can be chained to.
pub fn made_from(name: &str, text: &str, entry: &Value) -> Result<String, Unusable> {
    let Single {
        name: network,
        version,
        r#type,
    } = object(text)?;
    if r#type.is_none_or(|kind| kind.is_empty()) {
        return Err(unusable("type", "is missing".into()));
    }
    let version = chainable(version, &[])?;
    Ok(format!(
        "{{\n  \"cniVersion\": {},\n  \"name\": {},\n  \"{MADE_FROM}\": {},\n  \"plugins\": [\n    {},\n    {}\n  ]\n}}\n",
        json!(version),
        json!(network.unwrap_or_default()),
        json!(name),
        text.trim(),
        written(entry)
    ))
}

/// Whether [`made_from`] has made it.
pub fn is_made(text: &str) -> bool {
    object::<List>(text).is_ok_and(|list| list.made_from.is_some())
}

/// Type first, for the eye.
fn written(entry: &Value) -> String {
    let text = |key: &str| entry[key].to_string();
    format!(
        r#"{{"type": {}, "mode": {}, "socket": {}}}"#,
        text("type"),
        text("mode"),
        text("socket")
    )
}

/// Where the plugins of a list are, if a runtime would load it.
fn checked(text: &str) -> Result<Vec<Range<usize>>, Unusable> {
    let list: List = object(text)?;
    if list.name.as_ref().is_none_or(String::is_empty) {
        return Err(unusable("name", "is missing".into()));
    }
    chainable(list.version.clone(), &list.versions)?;
    for plugin in list.plugins.iter().flatten() {
        let kind = object::<Plugin>(plugin.get())?.r#type;
        if kind.is_none_or(|kind| kind.is_empty()) {
            return Err(unusable("plugins", "one has no type".into()));
        }
    }
    let places = places(text, &list);
    match places.is_empty() {
        true => Err(unusable("plugins", "there is none".into())),
        false => Ok(places),
    }
}

/// What is read of an object; serde would read a struct from an array as well.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unusable> {
    let unreadable = |why: String| unusable("", format!("it cannot be read: {why}"));
    if text.trim_start().starts_with('[') {
        return Err(unreadable("an array is no object".into()));
    }
    serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))
}

fn places(text: &str, list: &List) -> Vec<Range<usize>> {
    let plugins = list.plugins.iter().flatten();
    plugins
        .map(|plugin| {
            // Borrowed from the text, so the difference of the addresses is the place in it.
            let start = plugin.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + plugin.get().len()
        })
        .collect()
}

fn is_ours(plugin: &str) -> bool {
    object::<Plugin>(plugin).is_ok_and(|plugin| plugin.r#type.as_deref() == Some(TYPE))
}

/// A version in which a plugin gets the result of the one before it.
fn chainable(version: Option<String>, versions: &[String]) -> Result<String, Unusable> {
    let asked: Vec<String> = version.into_iter().chain(versions.iter().cloned()).collect();
    if let Some(version) = asked.iter().find(|version| VERSIONS.contains(&version.as_str())) {
        return Ok(version.clone());
    }
    let message = match &asked[..] {
        [] => "is missing, which means 0.1.0, and that knows no chains".to_string(),
        _ => format!(
            "Palisade cannot be chained in {}, only in {}",
            asked.join(", "),
            VERSIONS.join(", ")
        ),
    };
    Err(unusable("cniVersion", message))
}

fn unusable(field: &'static str, message: String) -> Unusable {
    Unusable { field, message }
}
