//! A Pod as the API server has it → as policies see it.

use std::sync::Arc;

use serde_json::Map;

use super::mirror::Seen;
use super::raw::Raw;
use crate::model::{ObjectId, Pod};
use crate::objects::{Identity, Kind, Reader, pod};

/// The UID of a static pod as kubelet, and so the CNI plugin, knows it: the mirror pod that the API server has has another.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalPod {
    pub pod: Pod,
    /// What kubelet calls it, where that is not the API server's UID.
    pub static_uid: Option<Arc<str>>,
}

/// Each field for itself: one that cannot be read costs itself.
pub fn read(raw: &Raw) -> Seen<LocalPod> {
    let id = ObjectId::new(raw.namespace(), raw.name());
    let mut reader = Reader::checked(format!("Pod {id}"));
    let none = Map::new();
    let fields = raw.tree.as_object().unwrap_or(&none);
    let metadata = fields
        .get("metadata")
        .and_then(|m| m.as_object())
        .unwrap_or(&none);
    let identity = Identity::read(Kind::Pod, id, raw.uid().into(), metadata, &mut reader);
    let annotation = metadata.get("annotations").and_then(|all| all.get(MIRROR));
    Seen {
        object: LocalPod {
            pod: pod::read_pod(&identity, fields, &mut reader),
            static_uid: annotation.and_then(|uid| uid.as_str()).map(Arc::from),
        },
        problems: reader.problems,
    }
}
