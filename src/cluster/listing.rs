//! The objects that policies are made of, listed once, for answers that are given once.
//!
//! In: Namespaces, Pods, Services, EndpointSlices and NetworkPolicies, a page at a time. Out: a [`Snapshot`], and what could not be read,
//! by the rules of the [ledger](super::ledger). The kinds are listed side by side, each at its own moment.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::runtime::watcher::Event;
use kube::{Api, Client};
use tokio::time::timeout;

use super::connection::{self, Connection};
use super::ledger::Ledger;
use super::refusal::said;
use super::tree::{Tree, Watched};
use crate::model::{Change, Problem, Snapshot};
use crate::objects::Kind;

/// How long one page may take.
const PAGE: Duration = Duration::from_secs(30);
/// Objects of a page, unless told otherwise: a few megabytes.
const LIMIT: u32 = 500;
/// A list whose version the server has given up is begun anew; so often, and then it is too slow for this server.
const ATTEMPTS: usize = 3;

/// What the API server had at the time of asking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub snapshot: Snapshot,
    pub problems: Vec<Problem>,
}

/// From the API server of `KUBECONFIG`, or of the pod that this runs in.
///
/// # Errors
/// It cannot be told which server, the server cannot be reached, or does not permit to list a kind; with what to do.
pub async fn load() -> Result<Listed> {
    list(&connection::open().await?, LIMIT).await
}

/// `limit`: objects of a page, at least 1.
///
/// # Errors
/// As [`load`].
pub async fn list(connection: &Connection, limit: u32) -> Result<Listed> {
    let Connection { client, server } = connection;
    let of = |kind| async move {
        let listed = match kind {
            Kind::Namespace => one::<Namespace>(client, limit, kind).await,
            Kind::Pod => one::<Pod>(client, limit, kind).await,
            Kind::Service => one::<Service>(client, limit, kind).await,
            Kind::EndpointSlice => one::<EndpointSlice>(client, limit, kind).await,
            Kind::Policy => one::<NetworkPolicy>(client, limit, kind).await,
        };
        match listed {
            Ok(listed) => Ok(listed),
            Err(failure) => bail!("{}", failure.told(kind, server)),
        }
    };
    let mut listed = Listed::default();
    for (changes, problems) in try_join_all(Kind::ALL.map(of)).await? {
        changes.into_iter().for_each(|change| listed.put(change));
        listed.problems.extend(problems);
    }
    Ok(listed)
}

impl Listed {
    /// Of a list, nothing goes.
    fn put(&mut self, change: Change) {
        let snapshot = &mut self.snapshot;
        match change {
            Change::Namespace(namespace) => snapshot.namespaces.push(namespace),
            Change::Pod(pod) => snapshot.pods.push(pod),
            Change::Policy(policy) => snapshot.policies.push(policy),
            Change::Service(service) => snapshot.services.push(service),
            Change::EndpointSlice(slice) => snapshot.endpoint_slices.push(slice),
            Change::NamespaceGone(_)
            | Change::PodGone { .. }
            | Change::PolicyGone { .. }
            | Change::ServiceGone(_)
            | Change::EndpointSliceGone(_) => {}
        }
    }
}

/// All objects of one kind, and what of them could not be read.
type OfKind = (Vec<Change>, Vec<Problem>);

async fn one<K: Watched>(client: &Client, limit: u32, kind: Kind) -> Result<OfKind, Failure> {
    let api: Api<Tree<K>> = Api::all(client.clone());
    let mut attempt = 1;
    loop {
        match pages(&api, limit, kind).await {
            Err(Failure::Refused(error)) if attempt < ATTEMPTS && is_expired(&error) => attempt += 1,
            other => return other,
        }
    }
}

async fn pages<K: Watched>(api: &Api<Tree<K>>, limit: u32, kind: Kind) -> Result<OfKind, Failure> {
    let mut ledger = Ledger::new(kind);
    let mut changes = ledger.take(Event::Init);
    let mut params = ListParams::default().limit(limit);
    loop {
        let page = match timeout(PAGE, api.list(&params)).await {
            Ok(page) => page.map_err(Failure::Refused)?,
            Err(_) => return Err(Failure::Silent),
        };
        for tree in page.items {
            changes.extend(ledger.take(Event::InitApply(tree.untyped())));
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    changes.extend(ledger.take(Event::InitDone));
    Ok((changes, ledger.problems().cloned().collect()))
}

enum Failure {
    Refused(kube::Error),
    /// No answer in time.
    Silent,
}

impl Failure {
    fn told(&self, kind: Kind, server: &str) -> String {
        let what = format!("cannot list objects of kind {}", kind.name());
        match self {
            Self::Refused(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => format!(
                "{what}: {} ({}); give the user or ServiceAccount the verb list on namespaces, pods, services, \
                 endpointslices.discovery.k8s.io and networkpolicies.networking.k8s.io in all namespaces, or name a folder with --from",
                status.message, status.code
            ),
            Self::Refused(error @ kube::Error::Api(_)) => format!("{what}: {}", said(error)),
            Self::Refused(error) => format!(
                "{what} at {server}: {}; see that the API server runs and that KUBECONFIG names it, or name a folder with --from",
                causes(error)
            ),
            Self::Silent => format!(
                "{what} at {server}: no answer within {} s; see that the API server is well, or name a folder with --from",
                PAGE.as_secs()
            ),
        }
    }
}

/// An error of the connection says only in its causes what is wrong.
fn causes(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

#[cfg(test)]
mod tests;
