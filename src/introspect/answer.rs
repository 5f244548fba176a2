//! What an answer is made of that is no answer: why not, and what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a request is not answered. Safe to print: names in it are escaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// HTTP's.
    pub status: u16,
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    /// The request cannot be understood.
    pub fn wrong(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(400, error, remedy)
    }

    /// What it names is not there.
    pub fn missing(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(404, error, remedy)
    }

    pub(super) fn new(status: u16, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.error, self.remedy)
    }
}

impl std::error::Error for Refusal {}
