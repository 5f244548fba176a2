//! The result of the plugins before this one: what is read of it, and how it is passed on.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use serde_json::value::RawValue;

use super::failure::{Code, Failure};

const REMEDY: &str =
    "Palisade must come after the plugin that makes the pod's interface, in the same list of plugins";

/// What is read of `prevResult`.
#[derive(Debug, PartialEq, Eq)]
pub struct Previous {
    /// Interfaces that are not in the pod.
    pub host_interfaces: Vec<String>,
    /// Addresses of the pod's interface that was asked for.
    pub addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Address>>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(deserialize_with = "address")]
    address: IpAddr,
    interface: Option<i64>,
}

impl Interface {
    fn is_in_a_pod(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty())
    }
}

/// Reads what there is of the interface that is `ifname` in the pod.
///
/// # Errors
/// There is no result, or it is not what the specification says; the error names the field.
pub fn read(result: Option<&RawValue>, ifname: &str) -> Result<Previous, Failure> {
    let Raw { interfaces, ips, .. } = parsed(result)?;
    let (interfaces, ips) = (interfaces.unwrap_or_default(), ips.unwrap_or_default());
    let mut addresses = Vec::new();
    for (at, ip) in ips.iter().enumerate() {
        let of = match ip.interface {
            None => None,
            Some(index) => Some(
                usize::try_from(index)
                    .ok()
                    .and_then(|index| interfaces.get(index))
                    .ok_or_else(|| {
                        odd(
                            &format!("ips[{at}].interface"),
                            &format!("{index} is no index of interfaces"),
                        )
                    })?,
            ),
        };
        let anothers = of.is_some_and(|interface| interface.is_in_a_pod() && interface.name != ifname);
        if !anothers && !addresses.contains(&ip.address) {
            addresses.push(ip.address);
        }
    }
    if addresses.is_empty() {
        return Err(odd("ips", &format!("there is no address for {ifname}")));
    }
    let host = interfaces
        .into_iter()
        .filter(|interface| !interface.is_in_a_pod());
    Ok(Previous {
        host_interfaces: host
            .map(|interface| interface.name)
            .filter(|name| !name.is_empty())
            .collect(),
        addresses,
    })
}

/// The result in the version that was asked for: the same bytes where it is in that version already.
///
/// # Errors
/// As [`read`].
pub fn passed_on(result: Option<&RawValue>, version: &str) -> Result<String, Failure> {
    let is = parsed(result)?.cni_version;
    let text = result.map_or("{}", RawValue::get);
    if is.as_deref() == Some(version) {
        return Ok(text.into());
    }
    let mut value: Value = serde_json::from_str(text).map_err(|error| odd("", &error.to_string()))?;
    value["cniVersion"] = version.into();
    let ips = value.get_mut("ips").and_then(Value::as_array_mut);
    for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
        // The family has been a field of its own until 1.0.0.
        let is_v6 = ip
            .get("address")
            .and_then(Value::as_str)
            .is_some_and(|text| text.contains(':'));
        match version.starts_with("0.") {
            true => ip.insert("version".into(), if is_v6 { "6" } else { "4" }.into()),
            false => ip.remove("version"),
        };
    }
    Ok(value.to_string())
}

fn parsed(result: Option<&RawValue>) -> Result<Raw, Failure> {
    let Some(result) = result else {
        return Err(Failure::new(Code::InvalidConfig, "prevResult is missing", REMEDY));
    };
    // serde would read a struct from an array as well.
    if result.get().starts_with('[') {
        return Err(odd("", "an array is no object"));
    }
    let mut reader = serde_json::Deserializer::from_str(result.get());
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        odd(&path, &error.into_inner().to_string())
    })
}

fn odd(path: &str, what: &str) -> Failure {
    let dot = if path.is_empty() { "" } else { "." };
    Failure::new(
        Code::InvalidConfig,
        format!("prevResult{dot}{path}: {what}"),
        REMEDY,
    )
}

/// An address with or without its prefix length.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let host = text.split_once('/').map_or(&*text, |(host, _)| host);
    host.parse()
        .map_err(|_| de::Error::custom(format!("{text:?} is no IP address with a prefix length")))
}
