//! Services and EndpointSlices.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{ServiceSpec, ServiceStatus};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort as ApiEndpointPort};
use serde_json::{Map, Value};

use super::fields::{Bad, Fields, Path, Reader};
use super::object::Identity;
use super::{pod, policy, schema};
use crate::model::{EndpointPort, EndpointSlice, Service, ServicePort};

/// An endpoint that cannot be read counts as ready at this address, which is no pod's: a Service with such a backend
/// is passed only by rules that allow everything, where leaving it out could pass the Service for the others' sake.
const UNREADABLE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// `None` for one that has no address of its own: headless, or an external name.
pub fn read_service(identity: &Identity, object: &Fields, reader: &mut Reader) -> Option<Service> {
    let none = Map::new();
    let root = Path::Root;
    let at = root.key("spec");
    reader.expect(
        &root,
        object,
        &["apiVersion", "kind", "metadata", "spec", "status"],
    );
    let spec = reader
        .fields(&at, object.get("spec"))
        .ok()
        .flatten()
        .unwrap_or(&none);
    let external = spec.get("type").and_then(Value::as_str) == Some("ExternalName");
    let cluster_ips = if external {
        Vec::new()
    } else {
        cluster_ips(&at, spec, reader)
    };
    let ports_at = at.key("ports");
    let listed = reader.list(&ports_at, spec.get("ports")).unwrap_or_default();
    let mut ports = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        ports.extend(service_port(&ports_at.index(index), value, reader));
    }
    schema::check::<ServiceSpec>(&at, object.get("spec"), reader);
    schema::check::<ServiceStatus>(&root.key("status"), object.get("status"), reader);
    (!cluster_ips.is_empty()).then(|| Service {
        id: identity.id.clone(),
        cluster_ips,
        ports,
    })
}

fn cluster_ips(at: &Path<'_>, spec: &Fields, reader: &mut Reader) -> Vec<IpAddr> {
    let list_at = at.key("clusterIPs");
    let listed = reader.list(&list_at, spec.get("clusterIPs")).unwrap_or_default();
    let mut found = Vec::new();
    let mut add = |at: &Path<'_>, value: Option<&Value>, reader: &mut Reader| {
        if value.and_then(Value::as_str) != Some("None")
            && let Some(address) = pod::address(at, value, reader)
            && !found.contains(&address)
        {
            found.push(address);
        }
    };
    for (index, value) in listed.iter().enumerate() {
        add(&list_at.index(index), Some(value), reader);
    }
    add(&at.key("clusterIP"), spec.get("clusterIP"), reader);
    found
}

fn service_port(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<ServicePort, Bad> {
    let none = Map::new();
    let fields = reader.fields(at, Some(value))?.unwrap_or(&none);
    let port_at = at.key("port");
    let port = match fields.get("port") {
        None | Some(Value::Null) => Err(reader.bad(
            &port_at,
            &Value::Null,
            "is missing",
            "write a number from 1 to 65535",
        )),
        Some(port) => reader.port(&port_at, port),
    };
    let protocol = policy::protocol(&at.key("protocol"), fields.get("protocol"), reader);
    let name = reader
        .text(&at.key("name"), fields.get("name"))?
        .unwrap_or_default();
    Ok(ServicePort {
        name: name.into(),
        protocol: protocol?,
        port: port?,
    })
}

/// `None` for one that belongs to no Service, or holds DNS names.
pub fn read_slice(identity: &Identity, object: &Fields, reader: &mut Reader) -> Option<EndpointSlice> {
    let root = Path::Root;
    reader.expect(
        &root,
        object,
        &[
            "apiVersion",
            "kind",
            "metadata",
            "addressType",
            "endpoints",
            "ports",
        ],
    );
    let type_at = root.key("addressType");
    let written = reader.text(&type_at, object.get("addressType")).ok().flatten();
    let mut kind = written;
    match written {
        Some("IPv4" | "IPv6") => {}
        Some("FQDN") => return None,
        other => {
            kind = None;
            let value = other.map_or(Value::Null, Value::from);
            let message = if other.is_some() {
                "is no address type"
            } else {
                "is missing"
            };
            reader.report(&type_at, &value, message, "write IPv4 or IPv6");
        }
    }
    let service = identity.labels.get("kubernetes.io/service-name")?.clone();
    let list_at = root.key("endpoints");
    let mut ready = Vec::new();
    match reader.list(&list_at, object.get("endpoints")) {
        Ok(endpoints) => {
            for (index, value) in endpoints.iter().enumerate() {
                let at = list_at.index(index);
                match endpoint(&at, value, kind, reader) {
                    Ok(addresses) => ready.extend(addresses),
                    Err(Bad) => ready.push(UNREADABLE),
                }
                schema::check::<Endpoint>(&at, Some(value), reader);
            }
        }
        Err(Bad) => ready.push(UNREADABLE),
    }
    let ports_at = root.key("ports");
    let listed = reader.list(&ports_at, object.get("ports")).unwrap_or_default();
    let mut ports = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        let at = ports_at.index(index);
        ports.extend(endpoint_port(&at, value, reader));
        schema::check::<ApiEndpointPort>(&at, Some(value), reader);
    }
    Some(EndpointSlice {
        id: identity.id.clone(),
        service,
        ready,
        ports,
    })
}

/// The addresses of one endpoint; none where it is not ready.
fn endpoint(
    at: &Path<'_>,
    value: &Value,
    kind: Option<&str>,
    reader: &mut Reader,
) -> Result<Vec<IpAddr>, Bad> {
    let none = Map::new();
    let fields = reader.fields(at, Some(value))?.unwrap_or(&none);
    let conditions_at = at.key("conditions");
    let conditions = reader
        .fields(&conditions_at, fields.get("conditions"))?
        .unwrap_or(&none);
    if reader.boolean(&conditions_at.key("ready"), conditions.get("ready"))? == Some(false) {
        return Ok(Vec::new());
    }
    let list_at = at.key("addresses");
    let mut addresses = Vec::new();
    for (index, value) in reader.list(&list_at, fields.get("addresses"))?.iter().enumerate() {
        let at = list_at.index(index);
        let address = pod::address(&at, Some(value), reader).ok_or(Bad)?;
        if kind.is_some_and(|kind| (kind == "IPv4") != address.is_ipv4()) {
            let message = format!(
                "is no address of the slice's addressType, {}",
                kind.unwrap_or_default()
            );
            return Err(reader.bad(&at, value, message, "move it to a slice of its own family"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn endpoint_port(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<EndpointPort, Bad> {
    let none = Map::new();
    let fields = reader.fields(at, Some(value))?.unwrap_or(&none);
    let port = match fields.get("port") {
        None | Some(Value::Null) => Ok(None),
        Some(port) => reader.port(&at.key("port"), port).map(Some),
    };
    let protocol = policy::protocol(&at.key("protocol"), fields.get("protocol"), reader);
    let name = reader
        .text(&at.key("name"), fields.get("name"))?
        .unwrap_or_default();
    Ok(EndpointPort {
        name: name.into(),
        protocol: protocol?,
        port: port?,
    })
}
