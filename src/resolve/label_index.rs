//! Which of many selectors may match an object, found by its labels.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Labels, Operator, Selector};

/// Numbers of selectors, each filed under one label that it cannot do without. What the index yields is to
/// be asked still; what it does not yield does not match.
#[derive(Default)]
pub(super) struct LabelIndex {
    by_value: HashMap<Arc<str>, HashMap<Arc<str>, Vec<usize>>>,
    by_key: HashMap<Arc<str>, Vec<usize>>,
    /// Selectors that an object without labels can match.
    anywhere: Vec<usize>,
}

/// Where a selector is filed.
enum Anchor<'a> {
    Values(&'a Arc<str>, &'a [Arc<str>]),
    Key(&'a Arc<str>),
    Anywhere,
}

impl<'a> Anchor<'a> {
    fn of(selector: &'a Selector) -> Self {
        let requirements = selector.requirements();
        let value = requirements.iter().find_map(|r| match &r.operator {
            Operator::In(values) => Some(Self::Values(&r.key, values)),
            _ => None,
        });
        let key = || requirements.iter().find(|r| r.operator == Operator::Exists);
        value.unwrap_or_else(|| key().map_or(Self::Anywhere, |r| Self::Key(&r.key)))
    }
}

impl LabelIndex {
    pub fn insert(&mut self, selector: &Selector, number: usize) {
        match Anchor::of(selector) {
            Anchor::Values(key, values) => {
                let by_value = self.by_value.entry(key.clone()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().push(number);
                }
            }
            Anchor::Key(key) => self.by_key.entry(key.clone()).or_default().push(number),
            Anchor::Anywhere => self.anywhere.push(number),
        }
    }

    pub fn remove(&mut self, selector: &Selector, number: usize) {
        let drop_from = |list: &mut Vec<usize>| {
            list.retain(|n| *n != number);
            list.is_empty()
        };
        match Anchor::of(selector) {
            Anchor::Values(key, values) => {
                let Some(by_value) = self.by_value.get_mut(key) else {
                    return;
                };
                for value in values {
                    if by_value.get_mut(value).is_some_and(drop_from) {
                        by_value.remove(value);
                    }
                }
                if by_value.is_empty() {
                    self.by_value.remove(key);
                }
            }
            Anchor::Key(key) => {
                if self.by_key.get_mut(key).is_some_and(drop_from) {
                    self.by_key.remove(key);
                }
            }
            Anchor::Anywhere => {
                drop_from(&mut self.anywhere);
            }
        }
    }

    /// Every selector that matches is among them, once.
    pub fn candidates<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = usize> + 'a {
        let labelled = labels.iter().flat_map(|(key, value)| {
            let by_value = self.by_value.get(key).and_then(|values| values.get(value));
            by_value.into_iter().chain(self.by_key.get(key)).flatten()
        });
        labelled.chain(&self.anywhere).copied()
    }
}
