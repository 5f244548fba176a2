//! Which policies of a namespace are there: asked when PolicyEndpoints of some are gone, until it is known that those are too.
//!
//! PolicyEndpoints vanish without their policies when somebody deletes them, or their CustomResourceDefinition, which takes all
//! of them along; one that is made anew lists none. What a policy isolates must not open by that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::runtime::watcher::Error::InitialListFailed;
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

use super::endpoint::keys_of;
use super::follow::{Failure, LIST_PATIENCE, RETRIES, failure, late, spread};
use crate::cluster::refusal::{BUSY, is_busy, status_of};

/// The keys of all policies there are in the namespace, asked at once and then at growing distances. Never ends.
pub fn ask(
    client: Client,
    namespace: &str,
) -> impl Stream<Item = Result<BTreeSet<Arc<str>>, Failure>> + Send + use<> {
    let api: Api<NetworkPolicy> = Api::namespaced(client, namespace);
    unfold(
        (api, RETRIES, Duration::ZERO),
        |(api, mut retries, wait)| async move {
            sleep(wait).await;
            let mut wait = spread(retries.next());
            let answer = match timeout(LIST_PATIENCE, api.list_metadata(&ListParams::default())).await {
                Ok(Ok(list)) => Ok(list
                    .items
                    .iter()
                    .map(|policy| &policy.metadata)
                    // One that waits for its endpoints to go is gone as far as they are concerned.
                    .filter(|metadata| metadata.deletion_timestamp.is_none())
                    .flat_map(keys_of)
                    .collect()),
                Ok(Err(error)) => {
                    if is_busy(status_of(&error)) {
                        wait = wait.max(BUSY);
                    }
                    Err(failure(&InitialListFailed(error)))
                }
                Err(_) => Err(late()),
            };
            Some((answer, (api, retries, wait)))
        },
    )
}
