//! Whether a tree is what the Kubernetes API has in its place: finds misspelt fields and wrong types also where
//! Palisade reads nothing, without refusing the many legitimate fields that it does not read.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Segment, Track};

use super::fields::{self, Path, Reader};
use super::text;
use crate::model::Problem;

/// Reports what of `value` does not fit `T`; a field that a problem is about already is not reported again.
/// What an API server has checked is not checked again.
pub fn check<T: DeserializeOwned>(at: &Path<'_>, value: Option<&Value>, reader: &mut Reader) -> bool {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return true;
    };
    if reader.is_checked() {
        return true;
    }
    let prefix = at.to_string();
    let mut unknown = Vec::new();
    let mut track = Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let outcome = serde_ignored::deserialize::<_, _, T>(deserializer, |path| unknown.push(steps(&path)));
    let before = reader.problems.len();
    for steps in unknown {
        let remedy = "correct its name or remove it";
        report(
            &prefix,
            value,
            &steps,
            "is an unknown field".to_string(),
            remedy,
            reader,
        );
    }
    if let Err(error) = outcome {
        let steps: Vec<_> = track.path().iter().filter_map(Step::of).collect();
        let message = format!("does not fit its type: {}", text::plain(&error.to_string()));
        report(
            &prefix,
            value,
            &steps,
            message,
            "write it as the Kubernetes API reference has it",
            reader,
        );
    }
    reader.problems.len() == before
}

enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    fn of(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

fn steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    let (parent, step) = match path {
        serde_ignored::Path::Root => return Vec::new(),
        serde_ignored::Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        serde_ignored::Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = steps(parent);
    steps.extend(step);
    steps
}

fn report(prefix: &str, value: &Value, steps: &[Step], message: String, remedy: &str, reader: &mut Reader) {
    let mut at = Some(value);
    let mut field = prefix.to_string();
    for step in steps {
        match step {
            Step::Key(key) => {
                at = at.and_then(|value| value.get(key));
                field = fields::below(&field, key);
            }
            Step::Index(index) => {
                at = at.and_then(|value| value.get(index));
                field = format!("{field}[{index}]");
            }
        }
    }
    if reader.problems.iter().any(|problem| problem.field == field) {
        return;
    }
    reader.problems.push(Problem {
        object: reader.object.clone(),
        field,
        value: at
            .filter(|value| !value.is_null())
            .map(text::value)
            .unwrap_or_default(),
        message,
        remedy: remedy.to_string(),
    });
}
