//! A NetworkPolicy, read strictly: what cannot be read matches nothing, what was readable of it applies.
//!
//! A field that is unknown makes the smallest thing that holds it match nothing, since what it was meant to narrow is
//! not known. Where it is not readable whom the policy isolates or in which direction, the policy is *uncertain*: it
//! denies all that it might have isolated, and must not replace an earlier version that was readable.

use serde_json::{Map, Value};

use super::fields::{Bad, Fields, Path, Reader};
use super::names;
use super::object::Identity;
use super::selector;
use crate::model::{
    Cidr, Direction, Enforcement, ObjectId, Peer, Policy, PortMatch, Protocol, Rule, Selector,
};

/// What a policy does in one direction.
enum Isolation {
    Open,
    /// Isolated, with the rules that are written.
    Rules,
    /// Isolated; whether the rules count is not known, so none does.
    Closed,
}

/// The policy, and whether it is certain.
pub fn read(identity: Identity, object: &Fields, reader: &mut Reader) -> (Policy, bool) {
    let none = Map::new();
    let root = Path::Root;
    let at = root.key("spec");
    let known_top = reader.only(
        &root,
        object,
        &["apiVersion", "kind", "metadata", "spec", "status"],
    );
    let (spec, readable) = match reader.fields(&at, object.get("spec")) {
        Ok(spec) => (spec.unwrap_or(&none), true),
        Err(Bad) => (&none, false),
    };
    let known = reader.only(&at, spec, &["podSelector", "policyTypes", "ingress", "egress"]);
    // A field of a wrong name or in a wrong place may be any that is absent.
    let misplaced = !(known_top && readable && known);

    let selector = match selector::read(&at.key("podSelector"), spec.get("podSelector"), reader) {
        Ok(None) if misplaced => Err(Bad),
        Ok(selector) => Ok(selector.unwrap_or_default()),
        Err(Bad) => Err(Bad),
    };
    let types = policy_types(&at, spec, misplaced, reader);
    let certain = selector.is_ok() && types.is_ok();
    if !certain {
        // What is wrong in rules has its own consequence, and comes later; so does what is wrong in metadata.
        for problem in reader
            .problems
            .iter_mut()
            .filter(|problem| !problem.field.starts_with("metadata"))
        {
            problem
                .remedy
                .push_str("; until then the policy stays as it was, or denies all that it may isolate");
        }
    }
    let [ingress, egress] = types.unwrap_or_else(|isolations| isolations);
    let mut rules = |direction: Direction, isolation| match isolation {
        Isolation::Open => None,
        Isolation::Rules => Some(rules(&at, spec, direction, reader)),
        Isolation::Closed => Some(Vec::new()),
    };
    let (mut ingress, mut egress) = (
        rules(Direction::Ingress, ingress),
        rules(Direction::Egress, egress),
    );
    if selector.is_err() {
        // Its rules would add to what other policies allow to pods that it was never meant to select.
        ingress = ingress.map(|_| Vec::new());
        egress = egress.map(|_| Vec::new());
    }
    let pod_selector = selector.unwrap_or_else(|Bad| Selector::everything());
    (
        Policy {
            id: identity.id,
            uid: identity.uid,
            pod_selector,
            ingress,
            egress,
            enforcement: identity.enforcement,
        },
        certain,
    )
}

/// A policy that isolates every pod of its namespace and allows nothing: what an unreadable one comes to. It may have said that
/// it enforces where its namespace audits.
pub fn deny_all(id: ObjectId, uid: std::sync::Arc<str>) -> Policy {
    Policy {
        id,
        uid,
        pod_selector: Selector::everything(),
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
        enforcement: Some(Enforcement::Enforce),
    }
}

/// Of ingress and egress; `Err` where the types could not be read, with what is then safe.
fn policy_types(
    at: &Path<'_>,
    spec: &Fields,
    misplaced: bool,
    reader: &mut Reader,
) -> Result<[Isolation; 2], [Isolation; 2]> {
    let at = at.key("policyTypes");
    let Ok(types) = reader.list(&at, spec.get("policyTypes")) else {
        return Err([Isolation::Closed, Isolation::Closed]);
    };
    if types.is_empty() {
        let egress = match spec.get("egress") {
            None | Some(Value::Null) => Isolation::Open,
            Some(Value::Array(rules)) if rules.is_empty() => Isolation::Open,
            Some(_) => Isolation::Rules,
        };
        return match egress {
            Isolation::Open if misplaced => Err([Isolation::Rules, Isolation::Closed]),
            egress => Ok([Isolation::Rules, egress]),
        };
    }
    let mut named = [false; 2];
    let mut unread = false;
    for (index, value) in types.iter().enumerate() {
        match value.as_str() {
            Some("Ingress") => named[0] = true,
            Some("Egress") => named[1] = true,
            _ => {
                unread = true;
                reader.report(
                    &at.index(index),
                    value,
                    "is no policy type",
                    "write Ingress or Egress",
                );
            }
        }
    }
    if types.len() > 2 {
        reader.report(
            &at,
            &Value::Null,
            "has more than two elements",
            "name Ingress and Egress at most once",
        );
    }
    let isolations = named.map(|named| match (named, unread) {
        (true, _) => Isolation::Rules,
        (false, true) => Isolation::Closed,
        (false, false) => Isolation::Open,
    });
    if unread { Err(isolations) } else { Ok(isolations) }
}

fn rules(at: &Path<'_>, spec: &Fields, direction: Direction, reader: &mut Reader) -> Vec<Rule> {
    let at = at.key(direction.field());
    let Ok(list) = reader.list(&at, spec.get(direction.field())) else {
        return Vec::new();
    };
    let rule = |(index, value)| rule(&at.index(index), index, value, direction, reader).ok();
    list.iter().enumerate().filter_map(rule).collect()
}

fn rule(
    at: &Path<'_>,
    index: usize,
    value: &Value,
    direction: Direction,
    reader: &mut Reader,
) -> Result<Rule, Bad> {
    let Some(fields) = reader.fields(at, Some(value))? else {
        let remedy = "remove it, or write {} to allow everything";
        return Err(reader.bad(at, value, "is an empty element", remedy));
    };
    let peers_field = direction.peers_field();
    if !reader.only(at, fields, &[peers_field, "ports"]) {
        return Err(Bad);
    }
    Ok(Rule {
        index: u32::try_from(index).map_err(|_| Bad)?,
        peers: members(&at.key(peers_field), fields.get(peers_field), reader, peer),
        ports: members(&at.key("ports"), fields.get("ports"), reader, port),
    })
}

/// `None` for an absent or empty list, which is no restriction; else the members that could be read, maybe none.
fn members<T>(
    at: &Path<'_>,
    value: Option<&Value>,
    reader: &mut Reader,
    read: fn(&Path<'_>, &Value, &mut Reader) -> Result<T, Bad>,
) -> Option<Vec<T>> {
    match reader.list(at, value) {
        Ok([]) => None,
        Ok(list) => {
            let member = |(index, value)| read(&at.index(index), value, reader).ok();
            Some(list.iter().enumerate().filter_map(member).collect())
        }
        Err(Bad) => Some(Vec::new()),
    }
}

fn peer(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<Peer, Bad> {
    let none = Map::new();
    let fields = reader.fields(at, Some(value))?.unwrap_or(&none);
    if !reader.only(at, fields, &["podSelector", "namespaceSelector", "ipBlock"]) {
        return Err(Bad);
    }
    let block = reader.fields(&at.key("ipBlock"), fields.get("ipBlock"));
    let pods = selector::read(&at.key("podSelector"), fields.get("podSelector"), reader);
    let namespaces = selector::read(
        &at.key("namespaceSelector"),
        fields.get("namespaceSelector"),
        reader,
    );
    match (block?, namespaces?, pods?) {
        (None, None, None) => Err(reader.bad(
            at,
            value,
            "names no peer",
            "write podSelector, namespaceSelector or ipBlock in it ({} selects everything)",
        )),
        (None, namespaces, pods) => Ok(Peer::Pods { namespaces, pods }),
        (Some(fields), None, None) => block_peer(&at.key("ipBlock"), fields, reader),
        (Some(_), _, _) => Err(reader.bad(
            at,
            &Value::Null,
            "has ipBlock together with a selector",
            "make them two peers, or keep one",
        )),
    }
}

fn block_peer(at: &Path<'_>, fields: &Fields, reader: &mut Reader) -> Result<Peer, Bad> {
    let known = reader.only(at, fields, &["cidr", "except"]);
    let cidr_at = at.key("cidr");
    let cidr = match fields.get("cidr") {
        None | Some(Value::Null) => {
            Err(reader.bad(&cidr_at, &Value::Null, "is missing", "write an address block"))
        }
        Some(value) => block(&cidr_at, value, reader),
    };
    let except_at = at.key("except");
    let list = reader.list(&except_at, fields.get("except"))?;
    let mut excepts = Ok(Vec::new());
    for (index, value) in list.iter().enumerate() {
        let at = except_at.index(index);
        let except = block(&at, value, reader);
        if let (Ok(cidr), Ok(except)) = (cidr, except)
            && (!cidr.covers(except) || cidr == except)
        {
            let message = format!("is not strictly inside {}", cidr.net());
            excepts = Err(reader.bad(
                &at,
                value,
                message,
                "write a smaller block inside the cidr, or remove it",
            ));
        }
        match (&mut excepts, except) {
            (Ok(list), Ok(except)) => list.push(except),
            (_, Err(Bad)) => excepts = Err(Bad),
            (Err(Bad), Ok(_)) => {}
        }
    }
    match (known, cidr, excepts) {
        (true, Ok(cidr), Ok(except)) => Ok(Peer::Block { cidr, except }),
        _ => Err(Bad),
    }
}

/// An address block with its prefix length.
fn block(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<Cidr, Bad> {
    let text = reader.text(at, Some(value))?.unwrap_or_default();
    match text.parse::<Cidr>() {
        Ok(cidr) if text.contains('/') => Ok(cidr),
        Ok(cidr) => {
            let remedy = format!("write {}/{}", cidr.net().addr(), cidr.net().prefix_len());
            Err(reader.bad(at, value, "is an address without a prefix length", remedy))
        }
        Err(_) => {
            let remedy = "write one like 10.0.0.0/8 or fd00::/64";
            Err(reader.bad(at, value, "is no address block", remedy))
        }
    }
}

fn port(at: &Path<'_>, value: &Value, reader: &mut Reader) -> Result<PortMatch, Bad> {
    let Some(fields) = reader.fields(at, Some(value))? else {
        let remedy = "remove it, or name a port or a protocol";
        return Err(reader.bad(at, value, "is an empty element", remedy));
    };
    let known = reader.only(at, fields, &["protocol", "port", "endPort"]);
    let protocol = protocol(&at.key("protocol"), fields.get("protocol"), reader);
    let present = |name| fields.get(name).filter(|value| !value.is_null());
    let end_at = at.key("endPort");
    let matched = match (present("port"), present("endPort")) {
        (None, None) => protocol.map(PortMatch::Every),
        (None, Some(end)) => Err(reader.bad(
            &end_at,
            end,
            "stands without port",
            "write the first port of the range as port",
        )),
        (Some(Value::String(name)), end) => {
            if let Some(end) = end {
                let remedy = "write port as a number, or remove endPort";
                Err(reader.bad(&end_at, end, "stands with a named port", remedy))
            } else if names::is_port_name(name) {
                protocol.map(|protocol| PortMatch::Named {
                    protocol,
                    name: name.as_str().into(),
                })
            } else if name.parse::<u16>().is_ok() {
                let value = Value::String(name.clone());
                Err(reader.bad(
                    &at.key("port"),
                    &value,
                    "is a number in quotes",
                    "write it without quotes",
                ))
            } else {
                let value = Value::String(name.clone());
                Err(reader.bad(&at.key("port"), &value, "is no port name", PORT_NAME))
            }
        }
        (Some(number), end) => {
            let first = reader.port(&at.key("port"), number);
            let last = end.map_or(first, |end| reader.port(&end_at, end));
            match (protocol, first, last) {
                (_, Ok(first), Ok(last)) if last < first => {
                    let message = format!("is below port {first}");
                    let end = end.unwrap_or(&Value::Null);
                    Err(reader.bad(&end_at, end, message, "write a number from port up to 65535"))
                }
                (Ok(protocol), Ok(first), Ok(last)) => Ok(PortMatch::Range {
                    protocol,
                    first,
                    last,
                }),
                _ => Err(Bad),
            }
        }
    };
    if known { matched } else { Err(Bad) }
}

pub const PORT_NAME: &str =
    "write at most 15 lower case letters, digits and single inner dashes, with a letter among them";

/// TCP where it is absent.
pub fn protocol(at: &Path<'_>, value: Option<&Value>, reader: &mut Reader) -> Result<Protocol, Bad> {
    let Some(text) = reader.text(at, value)? else {
        return Ok(Protocol::Tcp);
    };
    let unknown = |_| {
        let value = Value::String(text.to_string());
        reader.bad(
            at,
            &value,
            "is no protocol that a port can have",
            "write TCP, UDP or SCTP",
        )
    };
    text.parse().map_err(unknown)
}
