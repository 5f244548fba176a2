//! One job, done: its writes and deletions as requests, each begun only while we lead.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::stream::{self, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::endpoint::{CONDITION, Endpoint, Told};
use super::plan::{Deletion, Job, Outcome, Write};
use crate::api::{PolicyEndpoint, PolicyEndpointSpec};
use crate::cluster::FIELD_MANAGER;
use crate::cluster::leader::Term;
use crate::cluster::metrics::Metrics;
use crate::cluster::refusal::{is_of_a_dying_namespace, said};
use crate::cluster::tree::Tree;
use crate::model::ObjectId;

/// Requests of one job that are under way at the same time.
const AT_ONCE: usize = 8;
/// How long one request may take. The term may end before.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes on behalf of the leader. Clones write for the same term.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    term: Term,
    metrics: Metrics,
}

/// An object as it is applied: no status, nothing that the server sets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: ObjectMeta,
    spec: &'a PolicyEndpointSpec,
}

/// What a request came to.
enum Done {
    /// The object as it is now.
    Is(Endpoint),
    /// Somebody changed it meanwhile; this is what it is now, if it is still there.
    Overtaken(Option<Endpoint>),
    /// Its namespace is being deleted, and its policy will be any moment.
    Dying,
}

impl Writer {
    pub fn new(client: Client, term: Term, metrics: Metrics) -> Self {
        Self {
            client,
            term,
            metrics,
        }
    }

    /// Does as much of the job as works. Errors are told, counted, and in the outcome.
    pub async fn run(&self, job: Job) -> (Arc<str>, Outcome) {
        let Job {
            policy,
            writes,
            deletions,
            condition,
        } = job;
        let mut outcome = Outcome::default();
        let written = stream::iter(writes)
            .map(|write| async move {
                let done = self.write(&write).await;
                (write, done)
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for (write, done) in written {
            match done {
                Ok(Done::Is(endpoint)) => {
                    if !endpoint.is(&write.object) {
                        warn!(
                            object = %write.id,
                            "the API server does not keep all of a PolicyEndpoint; apply the CustomResourceDefinition of this version (palisade crds)"
                        );
                    }
                    outcome.found.push((endpoint, Some(write.object)));
                }
                Ok(Done::Overtaken(now)) => {
                    outcome.failed = true;
                    match now {
                        Some(endpoint) => outcome.found.push((endpoint, None)),
                        None => outcome.deleted.push(write.id),
                    }
                }
                Ok(Done::Dying) => {
                    debug!(object = %write.id, "not written: its namespace is being deleted");
                    outcome.failed = true;
                }
                Err(error) => self.failed(&mut outcome, "cannot write", &write.id, &error),
            }
        }
        if !outcome.failed {
            self.delete_all(deletions, &mut outcome).await;
        }
        if let (false, Some((id, told))) = (outcome.failed, condition) {
            match self.tell(&id, &told).await {
                Ok(Some(endpoint)) => outcome.found.push((endpoint, None)),
                Ok(None) => {}
                Err(error) => self.failed(&mut outcome, "cannot write the status of", &id, &error),
            }
        }
        (policy, outcome)
    }

    async fn delete_all(&self, deletions: Vec<Deletion>, outcome: &mut Outcome) {
        let deleted = stream::iter(deletions)
            .map(|deletion| async move {
                let done = self.delete(&deletion).await;
                (deletion, done)
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        for (deletion, done) in deleted {
            match done {
                Ok(None) => outcome.deleted.push(deletion.id),
                Ok(Some(endpoint)) => {
                    outcome.failed = true;
                    outcome.found.push((endpoint, None));
                }
                Err(error) => self.failed(outcome, "cannot delete", &deletion.id, &error),
            }
        }
    }

    fn failed(&self, outcome: &mut Outcome, what: &str, id: &ObjectId, error: &anyhow::Error) {
        self.metrics.publish_errors.inc();
        // The first is enough: what follows in one job fails for the same reason.
        if self.term.holds() && !outcome.failed {
            warn!(object = %id, "{what} a PolicyEndpoint, and will try again: {error:#}");
        } else {
            debug!(object = %id, "{what} a PolicyEndpoint: {error:#}");
        }
        outcome.failed = true;
    }

    /// Asked right before each request.
    fn fence(&self) -> Result<Duration> {
        let rest = self.term.remaining().context("this instance no longer leads")?;
        Ok(rest.min(PATIENCE))
    }

    fn api(&self, id: &ObjectId) -> Api<Tree<PolicyEndpoint>> {
        Api::namespaced(self.client.clone(), &id.namespace)
    }

    async fn write(&self, write: &Write) -> Result<Done> {
        let metadata = &write.object.metadata;
        let applied = Applied {
            api_version: &PolicyEndpoint::api_version(&()),
            kind: &PolicyEndpoint::kind(&()),
            metadata: ObjectMeta {
                name: metadata.name.clone(),
                namespace: metadata.namespace.clone(),
                owner_references: metadata.owner_references.clone(),
                resource_version: write.version.clone(),
                ..ObjectMeta::default()
            },
            spec: &write.object.spec,
        };
        let bytes = serde_json::to_vec(&applied).map_or(0, |bytes| bytes.len());
        // For unknown fields the API server would read all of it once more; the answer shows what it did not keep.
        let params = PatchParams::apply(FIELD_MANAGER).force().validation_ignore();
        let api = self.api(&write.id);
        let patch = Patch::Apply(applied);
        let patience = self.fence()?;
        match within(patience, api.patch(&write.id.name, &params, &patch)).await? {
            Ok(tree) => {
                self.metrics.endpoints_written.inc();
                self.metrics
                    .endpoint_bytes_written
                    .inc_by(u64::try_from(bytes).unwrap_or_default());
                Ok(Done::Is(Endpoint::read(tree).context("the answer has no name")?))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(Done::Overtaken(self.look(&write.id).await?))
            }
            Err(kube::Error::Api(status)) if is_of_a_dying_namespace(&status) => Ok(Done::Dying),
            Err(error) => bail!(said(&error)),
        }
    }

    /// `None`: it is gone; else what it has become meanwhile.
    async fn delete(&self, deletion: &Deletion) -> Result<Option<Endpoint>> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(deletion.uid.clone()),
                resource_version: Some(deletion.version.clone()),
            }),
            ..DeleteParams::default()
        };
        let api = self.api(&deletion.id);
        let patience = self.fence()?;
        match within(patience, api.delete(&deletion.id.name, &params)).await? {
            Ok(_) => {
                self.metrics.endpoints_deleted.inc();
                Ok(None)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => self.look(&deletion.id).await,
            Err(error) => bail!(said(&error)),
        }
    }

    async fn look(&self, id: &ObjectId) -> Result<Option<Endpoint>> {
        let tree = within(self.fence()?, self.api(id).get_opt(&id.name)).await?;
        let tree = tree.map_err(|error| anyhow!(said(&error)))?;
        Ok(tree.and_then(Endpoint::read))
    }

    /// Writes the condition. `None`: the installed CustomResourceDefinition has no status.
    async fn tell(&self, id: &ObjectId, told: &Told) -> Result<Option<Endpoint>> {
        let condition = Condition {
            type_: CONDITION.to_string(),
            status: if told.resolved { "True" } else { "False" }.to_string(),
            reason: if told.resolved { "Complete" } else { "Incomplete" }.to_string(),
            message: told.message.clone(),
            last_transition_time: Time(k8s_openapi::jiff::Timestamp::now()),
            observed_generation: None,
        };
        let patch = Patch::Apply(json!({
            "apiVersion": PolicyEndpoint::api_version(&()),
            "kind": PolicyEndpoint::kind(&()),
            "metadata": { "name": id.name, "namespace": id.namespace },
            "status": { "conditions": [condition] },
        }));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api(id);
        let patience = self.fence()?;
        match within(patience, api.patch_status(&id.name, &params, &patch)).await? {
            Ok(tree) => Ok(Endpoint::read(tree)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => bail!(said(&error)),
        }
    }
}

async fn within<T>(patience: Duration, request: impl Future<Output = T>) -> Result<T> {
    match timeout(patience, request).await {
        Ok(answer) => Ok(answer),
        Err(_) => bail!("no answer within {patience:?}"),
    }
}

#[cfg(test)]
mod tests;
