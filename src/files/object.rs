//! A document's tree → the objects in it, each with its identity: kind, namespace and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::model::{ObjectId, Problem};
use crate::objects::{
    self, Bad, Fields, Identity, Key, Kind, Object, Path, Reader, enforcement, names, pod, policy, schema,
    selector, text,
};

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Item {
    pub key: Key,
    /// `None`: it is there, but resolving does not read it (a headless Service).
    pub object: Option<Arc<Object>>,
    /// Whether it may replace an earlier version that was readable.
    pub certain: bool,
    /// It only denies, in the place of a policy that cannot be read.
    pub stand_in: Option<StandIn>,
    /// For messages, as in `a.yaml, document 2, line 14`.
    pub place: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// Needed unless the policy of its name can stay as it was.
    Named,
    /// Needed unless any policy of its file stays, since it may be that one.
    Nameless,
}

/// What one file holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub items: Vec<Item>,
    pub problems: Vec<Problem>,
    /// How many objects of each kind that is not read.
    pub skipped: BTreeMap<String, u64>,
    /// Something in it could be any object that was in it before.
    pub doubtful: bool,
    /// Not a byte in it.
    pub empty: bool,
}

impl Contents {
    /// A file of which nothing could be read.
    pub fn unreadable(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            doubtful: true,
            ..Self::default()
        }
    }
}

/// What lists pass on to their items.
#[derive(Clone, Copy, Default)]
struct Inherited<'v> {
    kind: Option<&'v str>,
    api_version: Option<&'v str>,
}

/// Reads one document, or one item of a list. `place` is how messages call it.
pub fn read(place: &str, tree: &Value, contents: &mut Contents) {
    read_inherited(place, tree, Inherited::default(), contents);
}

fn read_inherited(place: &str, tree: &Value, inherited: Inherited<'_>, contents: &mut Contents) {
    let mut reader = Reader::new(place.to_string());
    let outcome = read_object(place, tree, inherited, &mut reader, contents);
    contents.doubtful |= outcome.is_err();
    contents.problems.append(&mut reader.problems);
}

fn read_object(
    place: &str,
    tree: &Value,
    inherited: Inherited<'_>,
    reader: &mut Reader,
    contents: &mut Contents,
) -> Result<(), Bad> {
    let root = Path::Root;
    let Value::Object(fields) = tree else {
        if tree.is_null() {
            return Ok(());
        }
        let remedy = "write one with apiVersion, kind and metadata, or keep it outside the folder";
        return Err(reader.bad(&root, tree, "is no Kubernetes object", remedy));
    };
    let kind_at = root.key("kind");
    let kind = reader.text(&kind_at, fields.get("kind"))?.or(inherited.kind);
    let Some(kind) = kind.filter(|kind| !kind.is_empty()) else {
        let remedy = "write what it is, as in kind: NetworkPolicy, or keep it outside the folder";
        return Err(reader.bad(&kind_at, &Value::Null, "is missing", remedy));
    };
    let version_at = root.key("apiVersion");
    let api_version = reader
        .text(&version_at, fields.get("apiVersion"))?
        .or(inherited.api_version);
    if let (Some(item_kind), true) = (kind.strip_suffix("List"), fields.contains_key("items")) {
        return read_list(place, fields, item_kind, api_version, reader, contents);
    }

    let found = Kind::ALL.into_iter().find(|known| known.name() == kind);
    match (found, api_version) {
        (Some(found), Some(version)) if version != found.api_version() => {
            // NetworkPolicy was in this group until Kubernetes 1.16.
            let group = group_of(version);
            // NetworkPolicy was in this group until Kubernetes 1.16.
            if group != group_of(found.api_version()) && group != "extensions" {
                if group.contains("k8s") || group.starts_with("networking") {
                    let remedy = format!("write {}; the object is not read", found.api_version());
                    return Err(reader.bad(&version_at, &version.into(), "has no such kind", remedy));
                }
                count(format!("{kind}.{group}"), contents);
                return Ok(());
            }
            let remedy = format!("write {}; it is read as that", found.api_version());
            reader.report(
                &version_at,
                &version.into(),
                "is no version that Palisade reads",
                remedy,
            );
        }
        (Some(found), None) => {
            let remedy = format!("write {}; it is read as that", found.api_version());
            reader.report(&version_at, &Value::Null, "is missing", remedy);
        }
        (Some(_), Some(_)) => {}
        (None, version) => {
            if is_misspelt(kind, version) {
                let remedy = "correct it; the object is not read";
                return Err(reader.bad(&kind_at, &kind.into(), "is no kind of this apiVersion", remedy));
            }
            count(kind.to_string(), contents);
            return Ok(());
        }
    }
    let Some(kind) = found else { return Ok(()) };
    read_known(place, kind, fields, reader, contents)
}

fn read_list(
    place: &str,
    fields: &Fields,
    item_kind: &str,
    api_version: Option<&str>,
    reader: &mut Reader,
    contents: &mut Contents,
) -> Result<(), Bad> {
    let at = Path::Root.key("items");
    let items = reader.list(&at, fields.get("items"))?;
    let inherited = if item_kind.is_empty() {
        Inherited::default()
    } else {
        Inherited {
            kind: Some(item_kind),
            api_version,
        }
    };
    for (index, item) in items.iter().enumerate() {
        read_inherited(&format!("{place}, items[{index}]"), item, inherited, contents);
    }
    Ok(())
}

fn count(kind: String, contents: &mut Contents) {
    *contents.skipped.entry(text::plain(&kind)).or_default() += 1;
}

fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether an unknown kind is one that its API group does not have either: then it is a slip of the pen, and may have
/// been meant to be an object that matters.
fn is_misspelt(kind: &str, api_version: Option<&str>) -> bool {
    match api_version {
        Some("v1") => ![
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "ServiceAccount",
        ]
        .contains(&kind),
        Some("networking.k8s.io/v1") => {
            !["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"].contains(&kind)
        }
        Some("discovery.k8s.io/v1") => true,
        _ => false,
    }
}

fn read_known(
    place: &str,
    kind: Kind,
    fields: &Fields,
    reader: &mut Reader,
    contents: &mut Contents,
) -> Result<(), Bad> {
    let at = Path::Root.key("metadata");
    let none = Map::new();
    let metadata = reader.fields(&at, fields.get("metadata"))?.unwrap_or(&none);
    // What is read is read before the rest is checked, so that a problem is told by who knows more about it.
    let labels = selector::labels(&at.key("labels"), metadata.get("labels"), reader);
    let source_prefixes = match kind {
        Kind::Pod => pod::source_prefixes(&at.key("annotations"), metadata, reader),
        _ => Vec::new(),
    };
    let log_allowed = kind == Kind::Pod && pod::log_allowed(&at.key("annotations"), metadata, reader);
    let enforcement = match kind {
        Kind::Policy | Kind::Namespace => enforcement::read(&at.key("annotations"), metadata, reader),
        _ => None,
    };
    let namespace = read_namespace_name(&at, kind, metadata, reader);
    let name = read_name(&at, kind, metadata, reader);
    let fits = schema::check::<ObjectMeta>(&at, fields.get("metadata"), reader);
    let namespace = match namespace? {
        Some(namespace) => namespace,
        None if fits => "default".into(),
        None => {
            let remedy = "write it; the object is not read";
            let message = "is missing, and may be what the field that does not fit was meant to be";
            return Err(reader.bad(&at.key("namespace"), &Value::Null, message, remedy));
        }
    };
    let Ok(name) = name else {
        if kind == Kind::Policy {
            contents.items.push(nameless_policy(&namespace, place));
        }
        return Err(Bad);
    };
    let key = Key {
        kind,
        id: ObjectId {
            namespace,
            name: name.into(),
        },
    };
    reader.object = format!("{key} ({place})");
    for problem in &mut reader.problems {
        problem.object.clone_from(&reader.object);
    }
    let identity = Identity {
        id: key.id.clone(),
        uid: uid(&key, metadata.get("uid").and_then(Value::as_str)),
        labels,
        created: objects::created(metadata),
        source_prefixes,
        log_allowed,
        enforcement,
    };
    let kind = key.kind;
    // Annotations that cannot be read only allow less; they are no reason to leave the rest as it was.
    let narrower = [
        "metadata.annotations[\"palisade.dev/allowed-source-prefixes\"]",
        "metadata.annotations[\"palisade.dev/log-allowed\"]",
        enforcement::FIELD,
    ];
    let (object, readable) = objects::read(kind, identity, fields, reader);
    let certain = match kind {
        Kind::Policy => readable,
        _ => reader
            .problems
            .iter()
            .all(|problem| narrower.contains(&&*problem.field)),
    };
    contents.items.push(Item {
        key,
        object: object.map(Arc::new),
        certain,
        stand_in: None,
        place: place.into(),
    });
    Ok(())
}

/// Stands for a policy whose name cannot be read, where its namespace can.
pub fn nameless_policy(namespace: &Arc<str>, place: &str) -> Item {
    let legal = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    };
    let name: String = place.chars().map(legal).take(200).collect();
    let id = ObjectId::new(namespace, &format!("unreadable-in-{name}"));
    Item {
        stand_in: Some(StandIn::Nameless),
        ..unreadable_policy(id, place)
    }
}

/// Denies all in its namespace, until it can be read; an earlier version that was readable stays.
pub fn unreadable_policy(id: ObjectId, place: &str) -> Item {
    let key = Key {
        kind: Kind::Policy,
        id: id.clone(),
    };
    let uid = uid(&key, None);
    Item {
        key,
        object: Some(Arc::new(Object::Policy(policy::deny_all(id, uid)))),
        certain: false,
        stand_in: Some(StandIn::Named),
        place: place.into(),
    }
}

/// `None` where it is absent. Of a Namespace it is empty.
fn read_namespace_name(
    at: &Path<'_>,
    kind: Kind,
    metadata: &Fields,
    reader: &mut Reader,
) -> Result<Option<Arc<str>>, Bad> {
    if kind == Kind::Namespace {
        return Ok(Some("".into()));
    }
    let at = at.key("namespace");
    match reader.text(&at, metadata.get("namespace"))? {
        None | Some("") => Ok(None),
        Some(name) if names::is_label(name) => Ok(Some(name.into())),
        Some(name) => Err(reader.bad(&at, &name.into(), "is no name of a namespace", LABEL)),
    }
}

const LABEL: &str = "write up to 63 lower case letters, digits and inner dashes";

fn read_name<'v>(
    at: &Path<'_>,
    kind: Kind,
    metadata: &'v Fields,
    reader: &mut Reader,
) -> Result<&'v str, Bad> {
    let at = at.key("name");
    let Some(name) = reader
        .text(&at, metadata.get("name"))?
        .filter(|name| !name.is_empty())
    else {
        let remedy = if metadata.contains_key("generateName") {
            "write a name; only an API server generates one"
        } else {
            "write the object's name"
        };
        return Err(reader.bad(&at, &Value::Null, "is missing", remedy));
    };
    let (good, remedy) = match kind {
        Kind::Namespace | Kind::Service => (names::is_label(name), LABEL),
        _ => (
            names::is_subdomain(name),
            "write up to 253 lower case letters, digits, inner dashes and dots",
        ),
    };
    if good {
        Ok(name)
    } else {
        Err(reader.bad(&at, &name.into(), "is no name", remedy))
    }
}

/// Stays through edits and renames of files, and no two objects share it, even where one was copied with its UID.
fn uid(key: &Key, written: Option<&str>) -> Arc<str> {
    let Key { kind, id } = key;
    let own = format!("{}/{id}", kind.name());
    match written {
        None | Some("") => own.into(),
        Some(written) => format!("{own}/{}", text::plain(written)).into(),
    }
}
