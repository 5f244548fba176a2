//! What the kernel's maps on this node say of an explanation's packets, asked of the agent here, and whether the two agree.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::timeout;

use super::{Because, Deciding, Explanation};
use crate::cli::{Traffic, Verdict};
use crate::introspect::{self, Client, Refusal, VerdictQuery, VerdictState};
use crate::model::Direction;

/// How long the agent may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the maps say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    pub node: String,
    pub verdict: Verdict,
    /// `rule`, `isolation`, `open`, `self`, or `unknown_pod`.
    pub reason: String,
    /// `namespace/name`: the one that allows, or those that isolate.
    pub policies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Whether the pod's interface has the program that judges so.
    pub attached: bool,
    /// Verdict, policies and rule are those of the explanation, and the program is there.
    pub agrees: bool,
}

impl Explanation {
    /// Asks the agent at `socket`, if there is one, of each pod that is on its node.
    ///
    /// # Errors
    /// The runtime cannot be started.
    pub(super) fn ask_kernel(&mut self, socket: &Path) -> Result<()> {
        if !socket.exists() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let client = Client::new(socket);
        if let Err(error) = runtime.block_on(self.ask(&client)) {
            self.notes.push(format!(
                "what the kernel of this node says is not known: {error:#}"
            ));
        }
        Ok(())
    }

    async fn ask(&mut self, client: &Client) -> Result<()> {
        let Self {
            from,
            to,
            port,
            flows,
            ..
        } = self;
        for flow in flows {
            let egress = Asked {
                pod: from.pod.as_deref(),
                direction: Direction::Egress,
                peer: flow.destination,
                traffic: *port,
            };
            egress.answer(client, &mut flow.egress).await?;
            let ingress = Asked {
                pod: to.pod.as_deref(),
                direction: Direction::Ingress,
                peer: flow.source,
                traffic: *port,
            };
            ingress.answer(client, &mut flow.ingress).await?;
            if let Because::Service { backends, .. } = &mut flow.ingress.because {
                for backend in backends {
                    let behind = Asked {
                        pod: backend.pod.as_deref(),
                        traffic: backend.port,
                        ..ingress
                    };
                    behind.answer(client, &mut backend.ingress).await?;
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Asked<'a> {
    pod: Option<&'a str>,
    direction: Direction,
    peer: std::net::IpAddr,
    traffic: Traffic,
}

impl Asked<'_> {
    async fn answer(self, client: &Client, side: &mut Deciding) -> Result<()> {
        let by_policy = !matches!(side.because, Because::NotSubject { .. } | Because::Service { .. });
        let pod = self.pod.filter(|_| by_policy).and_then(|pod| pod.parse().ok());
        let Some(pod) = pod else {
            return Ok(());
        };
        let query = VerdictQuery {
            pod,
            direction: self.direction,
            peer: self.peer,
            protocol: self.traffic.protocol(self.peer.is_ipv4()),
            port: self.traffic.port(),
        };
        let path = format!("/v1/verdict?{}", query.encode());
        let asked = timeout(PATIENCE, client.get::<VerdictState>(&path)).await;
        match asked.with_context(|| format!("the agent has not answered within {PATIENCE:?}"))? {
            Ok(state) => {
                side.kernel = Some(Kernel::of(state, side));
                Ok(())
            }
            // The pod is on another node.
            Err(error)
                if error
                    .downcast_ref::<Refusal>()
                    .is_some_and(|refusal| refusal.status == 404) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Kernel {
    fn of(state: VerdictState, side: &Deciding) -> Self {
        let verdict = match state.verdict {
            introspect::Verdict::Allowed => Verdict::Allow,
            introspect::Verdict::Denied => Verdict::Deny,
            introspect::Verdict::Audit => Verdict::Audit,
        };
        let policies: Vec<String> = state.policies.iter().map(ToString::to_string).collect();
        let same = match &side.because {
            Because::Rule { by, .. } => {
                policies == [by.policy.as_str()] && state.rule.as_ref() == Some(&by.rule)
            }
            Because::Isolated { policies: own, .. } | Because::Audited { policies: own, .. } => {
                own.iter().map(|policy| &policy.policy).eq(&policies) && state.reason == "isolation"
            }
            Because::Open => state.reason == "open",
            Because::Itself => true,
            Because::NotSubject { .. } | Because::Service { .. } => false,
        };
        Self {
            node: state.node.to_string(),
            verdict,
            reason: state.reason.into_owned(),
            agrees: same && verdict == side.verdict && state.attached,
            attached: state.attached,
            policies,
            rule: state.rule,
        }
    }
}
