//! One call as the runtime makes it: the environment, and the network configuration on standard input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::failure::{Code, Failure};
use crate::cni::Mode;
use crate::cni::protocol::SOCKET;

/// Versions of the specification that know chains of plugins by `prevResult`, and that this plugin speaks.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

const STRICT_TIMEOUT: Duration = Duration::from_secs(10);
/// A pod that may start anyway is not kept waiting for long.
const STANDARD_TIMEOUT: Duration = Duration::from_secs(2);
/// Beyond this the runtime itself gives up, and says less.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(100);

/// Keys that the specification gives to every plugin's configuration.
const COMMON: [&str; 9] = [
    "cniVersion",
    "name",
    "type",
    "args",
    "capabilities",
    "dns",
    "ipam",
    "prevResult",
    "runtimeConfig",
];
/// Keys that the runtime adds for single commands.
const RUNTIME_PREFIX: &str = "cni.dev/";

/// The network configuration.
#[derive(Debug)]
pub struct Config {
    pub version: &'static str,
    pub mode: Mode,
    pub socket: PathBuf,
    pub timeout: Duration,
    /// As written.
    pub prev_result: Option<Box<RawValue>>,
}

impl Config {
    /// # Errors
    /// It is no JSON object, or a field is wrong or unknown; the error names it.
    pub fn read(text: &[u8]) -> Result<Self, Failure> {
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(text).map_err(|error| {
            let message = format!("the network configuration on standard input is no JSON object: {error}");
            Failure::new(Code::Undecodable, message, "write the CNI configuration as JSON")
        })?;
        let version = version(field(&fields, "cniVersion")?)?;
        let known = |key: &str| {
            COMMON.contains(&key)
                || ["mode", "socket", "timeoutMs"].contains(&key)
                || key.starts_with(RUNTIME_PREFIX)
        };
        if let Some((key, value)) = fields.iter().find(|(key, _)| !known(key)) {
            return Err(Failure::new(
                Code::UnsupportedField,
                format!("{key} = {}: unknown field", shortened(value.get())),
                "remove it from Palisade's entry in the CNI configuration; it has mode, socket and timeoutMs",
            ));
        }
        let mode = match field::<String>(&fields, "mode")?.as_deref() {
            None | Some("strict") => Mode::Strict,
            Some("standard") => Mode::Standard,
            Some(other) => {
                return Err(invalid(
                    "mode",
                    &format!("{other:?} is neither strict nor standard"),
                ));
            }
        };
        let socket = field::<PathBuf>(&fields, "socket")?.unwrap_or_else(|| SOCKET.into());
        if !socket.is_absolute() {
            return Err(invalid("socket", &format!("{socket:?} is no absolute path")));
        }
        let timeout = match field::<u64>(&fields, "timeoutMs")?.map(Duration::from_millis) {
            None if mode == Mode::Strict => STRICT_TIMEOUT,
            None => STANDARD_TIMEOUT,
            Some(limit) if limit.is_zero() || limit > LONGEST_TIMEOUT => {
                return Err(invalid(
                    "timeoutMs",
                    "it must be between 1 and 100000 (milliseconds)",
                ));
            }
            Some(limit) => limit,
        };
        let prev_result = fields
            .get("prevResult")
            .filter(|value| value.get() != "null")
            .cloned();
        Ok(Self {
            version,
            mode,
            socket,
            timeout,
            prev_result,
        })
    }
}

/// The version to answer in, also where the rest of the configuration is unreadable.
pub fn version_of(text: &[u8]) -> &'static str {
    let fields: Option<BTreeMap<String, Box<RawValue>>> = serde_json::from_slice(text).ok();
    fields
        .and_then(|fields| version(field(&fields, "cniVersion").ok()?).ok())
        .unwrap_or(VERSIONS[VERSIONS.len() - 1])
}

fn version(asked: Option<String>) -> Result<&'static str, Failure> {
    // The specification's default, of a time before chains.
    let asked = asked.unwrap_or_else(|| "0.1.0".into());
    VERSIONS
        .into_iter()
        .find(|version| *version == asked)
        .ok_or_else(|| {
            Failure::new(
                Code::IncompatibleVersion,
                format!("cniVersion {asked:?} is not supported"),
                format!("write one of {} in the CNI configuration", VERSIONS.join(", ")),
            )
        })
}

/// What the environment says of the pod.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    pub container: String,
    pub netns: PathBuf,
    pub ifname: String,
    pub namespace: String,
    pub pod: String,
    pub uid: String,
}

impl Attachment {
    /// # Errors
    /// A variable is missing or no text; the error names it.
    pub fn read(environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let variable = |name: &str| {
            let text = match environment(name).map(OsString::into_string) {
                None => Err("is not set".to_string()),
                Some(Err(text)) => Err(format!("= {text:?} is no UTF-8")),
                Some(Ok(text)) if text.is_empty() => Err("is empty".into()),
                Some(Ok(text)) => Ok(text),
            };
            text.map_err(|what| {
                let remedy = "the container runtime sets it; call the plugin as the CNI specification says";
                Failure::new(Code::InvalidEnvironment, format!("{name} {what}"), remedy)
            })
        };
        let (container, netns, ifname) = (
            variable("CNI_CONTAINERID")?,
            variable("CNI_NETNS")?,
            variable("CNI_IFNAME")?,
        );
        let arguments = variable("CNI_ARGS")?;
        let argument = |name: &str| {
            let mut pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            match pairs.find(|(key, _)| *key == name) {
                Some((_, value)) if !value.is_empty() => Ok(value.to_string()),
                _ => Err(Failure::new(
                    Code::InvalidEnvironment,
                    format!("CNI_ARGS has no {name}"),
                    "Palisade secures pods of Kubernetes, whose container runtime tells namespace, name and UID; use another \
                     CNI configuration for other containers",
                )),
            }
        };
        Ok(Self {
            namespace: argument("K8S_POD_NAMESPACE")?,
            pod: argument("K8S_POD_NAME")?,
            uid: argument("K8S_POD_UID")?,
            container,
            netns: netns.into(),
            ifname,
        })
    }
}

fn field<T: DeserializeOwned>(
    fields: &BTreeMap<String, Box<RawValue>>,
    key: &str,
) -> Result<Option<T>, Failure> {
    let Some(value) = fields.get(key) else {
        return Ok(None);
    };
    serde_json::from_str::<Option<T>>(value.get())
        .map_err(|error| invalid(key, &format!("{}: {error}", shortened(value.get()))))
}

fn invalid(field: &str, what: &str) -> Failure {
    let remedy = "correct Palisade's entry in the CNI configuration";
    Failure::new(Code::InvalidConfig, format!("{field}: {what}"), remedy)
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
