//! Pods and Namespaces.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NamespaceSpec, NamespaceStatus, PodSpec, PodStatus};
use serde_json::{Map, Value};

use super::fields::{Bad, Fields, Path, Reader};
use super::object::Identity;
use super::{names, policy, schema};
use crate::model::{Cidr, ContainerPort, Enforcement, Labels, Namespace, Pod, parse_address};

const LOG_ALLOWED: &str = "palisade.dev/log-allowed";
const SOURCE_PREFIXES: &str = "palisade.dev/allowed-source-prefixes";

pub fn read_namespace(identity: &Identity, object: &Fields, reader: &mut Reader) -> Namespace {
    let root = Path::Root;
    reader.expect(
        &root,
        object,
        &["apiVersion", "kind", "metadata", "spec", "status"],
    );
    schema::check::<NamespaceSpec>(&root.key("spec"), object.get("spec"), reader);
    schema::check::<NamespaceStatus>(&root.key("status"), object.get("status"), reader);
    Namespace {
        enforcement: identity.enforcement.unwrap_or_default(),
        ..namespace(&identity.id.name, identity.labels.clone())
    }
}

/// With the label that every namespace has, whatever the object says.
pub fn namespace(name: &Arc<str>, mut labels: Labels) -> Namespace {
    labels.insert("kubernetes.io/metadata.name".into(), name.clone());
    Namespace {
        name: name.clone(),
        labels: labels.into(),
        enforcement: Enforcement::default(),
    }
}

pub fn read_pod(identity: &Identity, object: &Fields, reader: &mut Reader) -> Pod {
    let none = Map::new();
    let root = Path::Root;
    let (spec_at, status_at) = (root.key("spec"), root.key("status"));
    reader.expect(
        &root,
        object,
        &["apiVersion", "kind", "metadata", "spec", "status"],
    );
    let spec = reader
        .fields(&spec_at, object.get("spec"))
        .ok()
        .flatten()
        .unwrap_or(&none);
    let status = reader
        .fields(&status_at, object.get("status"))
        .ok()
        .flatten()
        .unwrap_or(&none);

    let phase = reader
        .text(&status_at.key("phase"), status.get("phase"))
        .ok()
        .flatten();
    if !matches!(
        phase,
        None | Some("Pending" | "Running" | "Succeeded" | "Failed" | "Unknown")
    ) {
        let value = phase.map_or(Value::Null, Value::from);
        let remedy = "write Pending, Running, Succeeded, Failed or Unknown";
        reader.report(&status_at.key("phase"), &value, "is no phase", remedy);
    }
    let pod = Pod {
        id: identity.id.clone(),
        uid: identity.uid.clone(),
        labels: identity.labels.clone().into(),
        node: reader
            .text(&spec_at.key("nodeName"), spec.get("nodeName"))
            .ok()
            .flatten()
            .filter(|node| !node.is_empty())
            .map(Arc::from),
        host_ip: address(&status_at.key("hostIP"), status.get("hostIP"), reader),
        addresses: addresses(&status_at, status, reader),
        ports: container_ports(&spec_at, spec, reader),
        host_network: matches!(
            reader.boolean(&spec_at.key("hostNetwork"), spec.get("hostNetwork")),
            Ok(Some(true))
        ),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        created: identity.created,
        source_prefixes: identity.source_prefixes.clone(),
        log_allowed: identity.log_allowed,
    };
    schema::check::<PodSpec>(&spec_at, object.get("spec"), reader);
    schema::check::<PodStatus>(&status_at, object.get("status"), reader);
    pod
}

/// `podIPs`, and `podIP` where it is not among them.
fn addresses(at: &Path<'_>, status: &Fields, reader: &mut Reader) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let list_at = at.key("podIPs");
    for (index, value) in reader
        .list(&list_at, status.get("podIPs"))
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let at = list_at.index(index);
        if let Ok(Some(fields)) = reader.fields(&at, Some(value)) {
            addresses.extend(pod_address(&at.key("ip"), fields.get("ip"), reader));
        }
    }
    addresses.extend(pod_address(&at.key("podIP"), status.get("podIP"), reader));
    let mut distinct = Vec::new();
    for address in addresses {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}

fn pod_address(at: &Path<'_>, value: Option<&Value>, reader: &mut Reader) -> Option<IpAddr> {
    let address = address(at, value, reader)?;
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        let value = value.unwrap_or(&Value::Null);
        let message = "is an address that no pod can have";
        reader.report(at, value, message, "write the pod's own address");
        return None;
    }
    Some(address)
}

/// One address; `None` where it is absent, empty or has been reported.
pub fn address(at: &Path<'_>, value: Option<&Value>, reader: &mut Reader) -> Option<IpAddr> {
    let text = reader
        .text(at, value)
        .ok()
        .flatten()
        .filter(|text| !text.is_empty())?;
    let address = parse_address(text);
    if address.is_none() {
        reader.report(
            at,
            &text.into(),
            "is no address",
            "write one like 10.0.0.7 or fd00::7",
        );
    }
    address
}

fn container_ports(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Arc<[ContainerPort]> {
    let mut ports = Vec::new();
    for list in ["containers", "initContainers"] {
        let list_at = at.key(list);
        for (index, value) in reader
            .list(&list_at, spec.get(list))
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            let at = list_at.index(index);
            let Ok(Some(container)) = reader.fields(&at, Some(value)) else {
                continue;
            };
            // Only a sidecar goes on running, and so listening, beside the containers.
            if list == "initContainers"
                && container.get("restartPolicy").and_then(Value::as_str) != Some("Always")
            {
                continue;
            }
            let ports_at = at.key("ports");
            let listed = reader.list(&ports_at, container.get("ports")).unwrap_or_default();
            for (index, value) in listed.iter().enumerate() {
                ports.extend(container_port(&ports_at.index(index), value, reader));
            }
        }
    }
    ports.into()
}

fn container_port(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<ContainerPort, Bad> {
    let none = Map::new();
    let fields = reader.fields(at, Some(value))?.unwrap_or(&none);
    let number_at = at.key("containerPort");
    let number = match fields.get("containerPort") {
        None | Some(Value::Null) => Err(reader.bad(
            &number_at,
            &Value::Null,
            "is missing",
            "write a number from 1 to 65535",
        )),
        Some(number) => reader.port(&number_at, number),
    };
    let protocol = policy::protocol(&at.key("protocol"), fields.get("protocol"), reader);
    let name_at = at.key("name");
    let name = match reader.text(&name_at, fields.get("name"))? {
        None | Some("") => None,
        Some(name) if names::is_port_name(name) => Some(name.into()),
        Some(name) => return Err(reader.bad(&name_at, &name.into(), "is no port name", policy::PORT_NAME)),
    };
    Ok(ContainerPort {
        name,
        protocol: protocol?,
        number: number?,
    })
}

/// Whether what a pod is allowed is to be reported too. What cannot be read asks for nothing.
pub fn log_allowed(at: &Path<'_>, metadata: &Fields, reader: &mut Reader) -> bool {
    let annotations = metadata.get("annotations");
    let at = at.key(LOG_ALLOWED);
    let text = reader.text(&at, annotations.and_then(|all| all.get(LOG_ALLOWED)));
    match text.ok().flatten() {
        Some("true") => true,
        None | Some("false") => false,
        Some(other) => {
            let message = "is neither true nor false: what the pod is allowed is not reported";
            reader.report(
                &at,
                &other.into(),
                message,
                "write \"true\" or remove the annotation",
            );
            false
        }
    }
}

/// What the annotation lets a pod send from. A block that cannot be read is left out: that allows less.
pub fn source_prefixes(at: &Path<'_>, metadata: &Fields, reader: &mut Reader) -> Vec<Cidr> {
    let annotations = metadata.get("annotations");
    let at = at.key(SOURCE_PREFIXES);
    let text = reader
        .text(&at, annotations.and_then(|all| all.get(SOURCE_PREFIXES)))
        .ok()
        .flatten()
        .unwrap_or_default();
    let mut prefixes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse() {
            Ok(cidr) => prefixes.push(cidr),
            Err(_) => {
                let remedy = "write address blocks with commas between them, as in 10.0.0.0/8, fd00::/64";
                reader.report(&at, &part.into(), "is no address block", remedy);
            }
        }
    }
    prefixes
}
