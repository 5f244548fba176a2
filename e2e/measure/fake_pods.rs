//! Pods without kubelets, to be peers: they have labels, addresses and the phase Running, and neither a node nor containers.
//! A scheduler that does not exist is theirs, so that they stay where they are.

use std::net::Ipv4Addr;
use std::ops::Range;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::Space;

/// Requests under way at a time.
const AT_ONCE: usize = 24;

/// Outside the ranges of nodes and Services.
pub fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number)
}

pub fn name(number: u32) -> String {
    format!("fake-{number}")
}

/// Makes them; `labels` are each one's.
pub fn create(space: &Space, numbers: Range<u32>, labels: impl Fn(u32) -> Value) {
    let api = &space.api::<Pod>();
    space.cluster.block_on(
        futures::stream::iter(numbers)
            .map(|number| create_one(api, number, labels(number)))
            .buffer_unordered(AT_ONCE)
            .collect::<()>(),
    );
}

pub async fn create_one(api: &Api<Pod>, number: u32, labels: Value) {
    let name = name(number);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
        "spec": {
            "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "none.invalid/none:0" }],
        },
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    let created = api.create(&PostParams::default(), &pod).await;
    created.unwrap_or_else(|e| panic!("{name}: {e}"));
    let address = address(number).to_string();
    let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
    let patched = api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await;
    patched.unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// Sets one label.
pub async fn label(space: &Space<'_>, number: u32, key: &str, value: &str) {
    let patch = Patch::Merge(json!({ "metadata": { "labels": { key: value } } }));
    let name = name(number);
    let patched = space
        .api::<Pod>()
        .patch(&name, &PatchParams::default(), &patch)
        .await;
    patched.unwrap_or_else(|e| panic!("{name}: {e}"));
}

pub async fn delete(space: &Space<'_>, number: u32) {
    let name = name(number);
    let deleted = space.api::<Pod>().delete(&name, &DeleteParams::default()).await;
    deleted.unwrap_or_else(|e| panic!("{name}: {e}"));
}
