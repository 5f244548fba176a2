//! What a plugin says when it fails: the error object of the CNI specification.

use serde::Serialize;

/// Codes 1 to 99 are the specification's (section "Error"), those from 100 on are Palisade's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    InvalidEnvironment = 4,
    InputOutput = 5,
    Undecodable = 6,
    InvalidConfig = 7,
    /// STATUS: ADD would fail.
    NotAvailable = 50,
    /// The agent cannot be reached.
    NoAgent = 100,
    /// It does not answer in time.
    AgentIsLate = 101,
    /// It says that it cannot secure the interface.
    Refused = 102,
    /// The host's side of the pod's interface cannot be told.
    NoInterface = 103,
}

/// Why a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    /// What is wrong, with the field or variable that it is about.
    pub message: String,
    /// What to do about it, and what else is known.
    pub details: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.into(),
        }
    }

    /// As it goes to standard output.
    pub fn to_json(&self, version: &str) -> String {
        let object = Object {
            cni_version: version,
            code: self.code as u32,
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&object).expect("strings and a number are JSON")
    }
}
