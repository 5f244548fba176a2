//! A PolicyEndpoint as the API server has it → as it is enforced. Whoever wrote it, with whatever in it, nothing widens.
//!
//! - An entry, port or Service that cannot be read allows nothing; the rest of its object counts.
//! - An object of which it cannot be read whom it isolates stays as it was; without an earlier version, all pods of its
//!   namespace are isolated that it may have meant, and it allows nothing.
//! - An `enforcement` that is not `Audit` enforces.
//! - A direction with entries is isolated, also where `podIsolation` does not say so.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;

use super::mirror::Seen;
use super::raw::Raw;
use crate::api::{Entry, PolicyEndpoint, PolicyEndpointSpec, PolicyRef, Port, SelfService, Slice};
use crate::model::{Cidr, Direction, Enforcement};
use crate::objects::{Bad, Fields, Path, Reader, pod, policy, selector};

/// One object, and the policy that it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The same for all objects of one policy, for those of no other policy, and after a restart.
    pub policy: Arc<str>,
    pub object: Arc<PolicyEndpoint>,
}

/// `before`: what was there under this name.
pub fn read(raw: &Raw, before: Option<&Endpoint>) -> Seen<Endpoint> {
    let mut reader = Reader::new(format!("PolicyEndpoint {}/{}", raw.namespace(), raw.name()));
    let root = Path::Root;
    let at = root.key("spec");
    let spec = match reader.fields(&at, raw.tree.get("spec")) {
        Ok(Some(fields)) => Ok(fields),
        Ok(None) => {
            let message = "is missing; what it isolates cannot be told";
            Err(reader.bad(&at, &Value::Null, message, "write it, or delete the object"))
        }
        Err(Bad) => Err(Bad),
    };
    let policy_ref = spec.and_then(|spec| policy_ref(&at, spec, raw, &mut reader));
    let subject = spec.and_then(|spec| subject(&at, spec, &mut reader));
    let policy = policy_key(raw, policy_ref.as_ref().ok());
    let metadata = ObjectMeta {
        name: Some(raw.name().to_string()),
        namespace: Some(raw.namespace().to_string()),
        ..ObjectMeta::default()
    };
    let object = match (spec, &policy_ref, subject) {
        (Ok(spec), Ok(policy_ref), Ok((pod_selector, pod_isolation))) => Arc::new(PolicyEndpoint {
            metadata,
            spec: PolicyEndpointSpec {
                policy_ref: policy_ref.clone(),
                pod_selector,
                pod_isolation,
                enforcement: enforcement(&at, spec, &mut reader),
                pod_selector_endpoints: Vec::new(), // found locally
                ingress: entries(&at, Direction::Ingress, spec, &mut reader),
                egress: entries(&at, Direction::Egress, spec, &mut reader),
                self_services: self_services(&at, spec, &mut reader),
                slice: slice(&at, spec, &mut reader),
            },
            status: None,
        }),
        _ => match before {
            // Also of the policy that it was of.
            Some(before) => {
                return Seen {
                    object: before.clone(),
                    problems: reader.problems,
                };
            }
            None => Arc::new(isolating_all(metadata, policy_ref.ok(), raw)),
        },
    };
    Seen {
        object: Endpoint { policy, object },
        problems: reader.problems,
    }
}

/// Stands for an object of which it cannot be read whom it isolates.
fn isolating_all(metadata: ObjectMeta, policy_ref: Option<PolicyRef>, raw: &Raw) -> PolicyEndpoint {
    PolicyEndpoint {
        metadata,
        spec: PolicyEndpointSpec {
            policy_ref: policy_ref.unwrap_or_else(|| PolicyRef {
                name: raw.name().into(),
                namespace: raw.namespace().into(),
            }),
            pod_isolation: Direction::ALL.to_vec(),
            ..PolicyEndpointSpec::default()
        },
        status: None,
    }
}

/// By the UID of the policy that owns the object, else by the name of the policy, else the object alone. The namespace
/// is part of it: no object joins a policy of another namespace.
fn policy_key(raw: &Raw, policy_ref: Option<&PolicyRef>) -> Arc<str> {
    let namespace = raw.namespace();
    let owners = raw.tree.get("metadata").and_then(|m| m.get("ownerReferences"));
    let text = |owner: &Value, key: &str| owner.get(key).and_then(Value::as_str).map(str::to_string);
    let owner = owners.and_then(Value::as_array).into_iter().flatten().find(|o| {
        text(o, "kind").as_deref() == Some("NetworkPolicy")
            && text(o, "apiVersion").is_some_and(|version| version.starts_with("networking.k8s.io/"))
    });
    let uid = owner
        .and_then(|owner| text(owner, "uid"))
        .filter(|uid| !uid.is_empty());
    match (uid, policy_ref) {
        (Some(uid), _) => format!("{namespace}/uid/{uid}"),
        (None, Some(policy)) => format!("{namespace}/policy/{}/{}", policy.namespace, policy.name),
        (None, None) => format!("{namespace}/object/{}", raw.name()),
    }
    .into()
}

fn policy_ref(at: &Path<'_>, spec: &Fields, raw: &Raw, reader: &mut Reader) -> Result<PolicyRef, Bad> {
    let at = at.key("policyRef");
    let remedy = "write name and namespace of the policy";
    let Some(fields) = reader.fields(&at, spec.get("policyRef"))? else {
        return Err(reader.bad(&at, &Value::Null, "is missing", remedy));
    };
    let mut text = |key| match reader.text(&at.key(key), fields.get(key))? {
        Some(text) if !text.is_empty() => Ok(Arc::<str>::from(text)),
        _ => Err(reader.bad(&at.key(key), &Value::Null, "is missing", remedy)),
    };
    let (name, namespace) = (text("name"), text("namespace"));
    let (name, namespace) = (name?, namespace?);
    if *namespace != *raw.namespace() {
        let message =
            "is not the object's own namespace; the object isolates all pods of its own and allows nothing";
        let remedy = "publish endpoints in the namespace of their policy";
        return Err(reader.bad(&at.key("namespace"), &(*namespace).into(), message, remedy));
    }
    Ok(PolicyRef { name, namespace })
}

type Subject = (Option<LabelSelector>, Vec<Direction>);

fn subject(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Result<Subject, Bad> {
    let isolation = isolation(at, spec, reader);
    let selector_at = at.key("podSelector");
    let value = spec.get("podSelector");
    let selector = match selector::read(&selector_at, value, reader)? {
        None => None,
        Some(_) => {
            let parsed = value
                .map(|value| serde_json::from_value(value.clone()))
                .transpose();
            parsed.map_err(|error| {
                let value = value.unwrap_or(&Value::Null);
                reader.bad(&selector_at, value, error.to_string(), "write a label selector")
            })?
        }
    };
    Ok((selector, isolation?))
}

fn isolation(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Result<Vec<Direction>, Bad> {
    let list_at = at.key("podIsolation");
    let mut good = Ok(());
    let mut isolates = Vec::new();
    for (index, value) in reader
        .list(&list_at, spec.get("podIsolation"))?
        .iter()
        .enumerate()
    {
        match value.as_str() {
            Some("Ingress") => isolates.push(Direction::Ingress),
            Some("Egress") => isolates.push(Direction::Egress),
            _ => {
                good = Err(reader.bad(
                    &list_at.index(index),
                    value,
                    "is no direction",
                    "write Ingress or Egress",
                ))
            }
        }
    }
    good?;
    for direction in Direction::ALL {
        // Also where the field is no list: what was meant to be allowed was meant to be all that is.
        let allows = match spec.get(direction.field()) {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if allows {
            isolates.push(direction);
        }
    }
    isolates.sort_unstable();
    isolates.dedup();
    Ok(isolates)
}

/// What cannot be read enforces.
fn enforcement(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Enforcement {
    let value = spec.get("enforcement").unwrap_or(&Value::Null);
    match value.as_str() {
        Some("Audit") => return Enforcement::Audit,
        Some("Enforce") => {}
        None if value.is_null() => {}
        _ => {
            let message = "is neither Audit nor Enforce: it enforces";
            reader.report(
                &at.key("enforcement"),
                value,
                message,
                "write one of the two, or remove it",
            );
        }
    }
    Enforcement::Enforce
}

fn entries(at: &Path<'_>, direction: Direction, spec: &Fields, reader: &mut Reader) -> Vec<Entry> {
    let list_at = at.key(direction.field());
    let list = reader
        .list(&list_at, spec.get(direction.field()))
        .unwrap_or_default();
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let ports = entries.last().map(|entry| entry.ports.clone());
        entries.extend(entry(&list_at.index(index), value, ports, reader));
    }
    entries
}

/// `last`: the ports of the entry before it, which are mostly the same; they are kept once.
fn entry(at: &Path<'_>, value: &Value, last: Option<Arc<[Port]>>, reader: &mut Reader) -> Result<Entry, Bad> {
    let fields = fields(at, value, reader)?;
    let known = known(at, fields, &["cidr", "except", "ports", "rule"], reader);
    let cidr_at = at.key("cidr");
    let cidr = match fields.get("cidr") {
        None | Some(Value::Null) => Err(reader.bad(
            &cidr_at,
            &Value::Null,
            "is missing",
            "write an address or an address block",
        )),
        Some(value) => block(&cidr_at, value, reader),
    };
    let except_at = at.key("except");
    let mut except = Vec::new();
    // What cannot be carved out would be allowed: without its exceptions the entry means more than was written.
    let mut carved = Ok(());
    for (index, value) in reader.list(&except_at, fields.get("except"))?.iter().enumerate() {
        match block(&except_at.index(index), value, reader) {
            Ok(block) => except.push(block),
            Err(Bad) => carved = Err(Bad),
        }
    }
    let ports_at = at.key("ports");
    let list = reader.list(&ports_at, fields.get("ports"))?;
    let ports: Vec<Port> = (list.iter().enumerate())
        .filter_map(|(index, value)| port(&ports_at.index(index), value, reader).ok())
        .collect();
    // No ports would be all ports.
    if ports.is_empty() && !list.is_empty() {
        return Err(Bad);
    }
    let rule_at = at.key("rule");
    let rule = match fields.get("rule") {
        None | Some(Value::Null) => None,
        Some(value) => number(
            &rule_at,
            value,
            u32::MAX.into(),
            "only its counters miss it",
            reader,
        )
        .ok()
        .and_then(|rule| u32::try_from(rule).ok()),
    };
    known?;
    carved?;
    Ok(Entry {
        cidr: cidr?,
        except: except.into(),
        ports: last
            .filter(|last| **last == *ports)
            .unwrap_or_else(|| ports.into()),
        rule,
    })
}

fn port(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<Port, Bad> {
    let fields = fields(at, value, reader)?;
    let known = known(at, fields, &["protocol", "port", "endPort", "name"], reader);
    let protocol = match fields.get("protocol") {
        None | Some(Value::Null) => Ok(None),
        given => policy::protocol(&at.key("protocol"), given, reader).map(Some),
    };
    let mut number = |key| match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => reader.port(&at.key(key), value).map(Some),
    };
    let (port, end_port) = (number("port"), number("endPort"));
    let name = reader.text(&at.key("name"), fields.get("name"));
    known?;
    Ok(Port {
        protocol: protocol?,
        port: port?,
        end_port: end_port?,
        name: name?.map(Arc::from),
    })
}

fn self_services(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Vec<SelfService> {
    let list_at = at.key("selfServices");
    let list = reader
        .list(&list_at, spec.get("selfServices"))
        .unwrap_or_default();
    let mut services = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        services.extend(self_service(&list_at.index(index), value, reader));
    }
    services
}

fn self_service(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<SelfService, Bad> {
    let fields = fields(at, value, reader)?;
    let mut address = |key| {
        let problems = reader.problems.len();
        let address = pod::address(&at.key(key), fields.get(key), reader);
        match address {
            Some(address) => Ok(address),
            None if reader.problems.len() > problems => Err(Bad),
            None => Err(reader.bad(&at.key(key), &Value::Null, "is missing", "write an address")),
        }
    };
    let (pod_ip, cluster_ip) = (address("podIP"), address("clusterIP"));
    let protocol = policy::protocol(&at.key("protocol"), fields.get("protocol"), reader);
    let port = reader.port(&at.key("port"), fields.get("port").unwrap_or(&Value::Null));
    Ok(SelfService {
        pod_ip: pod_ip?,
        cluster_ip: cluster_ip?,
        protocol: protocol?,
        port: port?,
    })
}

/// `None` where it is absent or has been reported: then the object counts by itself.
fn slice(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Option<Slice> {
    let at = at.key("slice");
    let fields = reader.fields(&at, spec.get("slice")).ok()??;
    let consequence = "the object counts by itself";
    let mut part = |key| match fields.get(key) {
        None | Some(Value::Null) => Err(reader.bad(&at.key(key), &Value::Null, "is missing", consequence)),
        Some(value) => number(&at.key(key), value, 1 << 31, consequence, reader),
    };
    let (index, count) = (part("index"), part("count"));
    let (index, count) = (index.ok()?, count.ok()?);
    if !count.is_power_of_two() || index >= count {
        let value = spec.get("slice").unwrap_or(&Value::Null);
        let message = format!("is no slice: count must be a power of two and index below it; {consequence}");
        reader.report(&at, value, message, "leave it to the controller, or remove it");
        return None;
    }
    Some(Slice {
        index: u32::try_from(index).ok()?,
        count: u32::try_from(count).ok()?,
    })
}

fn fields<'v>(at: &Path<'_>, value: &'v Value, reader: &mut Reader) -> Result<&'v Fields, Bad> {
    match reader.fields(at, Some(value))? {
        Some(fields) => Ok(fields),
        None => Err(reader.bad(at, value, "is an empty element", "remove it, or write its fields")),
    }
}

/// A field that is not known may be meant to narrow what holds it, unless nothing is in it.
fn known(at: &Path<'_>, fields: &Fields, names: &[&str], reader: &mut Reader) -> Result<(), Bad> {
    let mut all = Ok(());
    for (key, value) in fields {
        let is_empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        };
        if !is_empty && !names.contains(&key.as_str()) {
            let message = "is an unknown field; what holds it allows nothing";
            let remedy = format!("correct its name or remove it; known here: {}", names.join(", "));
            all = Err(reader.bad(&at.key(key), value, message, remedy));
        }
    }
    all
}

fn block(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<Cidr, Bad> {
    let text = reader.text(at, Some(value))?.unwrap_or_default();
    text.parse().map_err(|_| {
        let remedy = "write one like 10.0.0.7, 10.0.0.0/8 or fd00::/64";
        reader.bad(at, value, "is neither an address nor an address block", remedy)
    })
}

fn number(
    at: &Path<'_>,
    value: &Value,
    limit: u64,
    consequence: &str,
    reader: &mut Reader,
) -> Result<u64, Bad> {
    match value.as_u64() {
        Some(number) if number <= limit => Ok(number),
        _ => {
            let message = format!("is no number from 0 to {limit}; {consequence}");
            Err(reader.bad(at, value, message, "leave it to the controller, or remove it"))
        }
    }
}

#[cfg(test)]
mod tests;
