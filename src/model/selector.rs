//! Label selectors (`metav1.LabelSelector`), parsed.

use std::collections::BTreeMap;
use std::sync::Arc;

/// An object's labels.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// All requirements must hold; none at all selects everything. Sorted and without duplicates, so that equal
/// selectors compare equal whatever their spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    requirements: Arc<[Requirement]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The key is there with one of these values (sorted). `matchLabels` is `In` with one value.
    In(Arc<[Arc<str>]>),
    /// The key is absent, or has none of these values (sorted).
    NotIn(Arc<[Arc<str>]>),
    Exists,
    DoesNotExist,
}

impl Requirement {
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.binary_search(v).is_ok()),
            Operator::NotIn(values) => value.is_none_or(|v| values.binary_search(v).is_err()),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl Selector {
    /// Sorts, and drops duplicates; the values of `In` and `NotIn` are sorted too.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let sorted = |values: Arc<[Arc<str>]>| -> Arc<[Arc<str>]> {
            let mut values = values.to_vec();
            values.sort();
            values.dedup();
            values.into()
        };
        let mut requirements: Vec<_> = requirements
            .into_iter()
            .map(|Requirement { key, operator }| Requirement {
                key,
                operator: match operator {
                    Operator::In(values) => Operator::In(sorted(values)),
                    Operator::NotIn(values) => Operator::NotIn(sorted(values)),
                    other => other,
                },
            })
            .collect();
        requirements.sort();
        requirements.dedup();
        Self {
            requirements: requirements.into(),
        }
    }

    /// `{}`: selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
}
