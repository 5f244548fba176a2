//! Which agents there are, and which of them are asked.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::args::{Kubectl, Question};
use crate::cli::escape::escape;
use crate::introspect::Name;

/// What Palisade's pods are labelled with.
const LABEL: &str = "app.kubernetes.io/name=palisade";
/// The agent's container.
const CONTAINER: &str = "palisade";

/// A cluster as kubectl reaches it.
#[derive(Debug)]
pub(super) struct Cluster {
    program: PathBuf,
    flags: Vec<String>,
    namespace: String,
}

/// A pod of Palisade's that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agent {
    pub pod: String,
    pub node: String,
}

impl Agent {
    /// The node's name as a part of a file's.
    pub fn file_name(&self) -> String {
        crate::cli::agent::file_name(&self.node)
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
}

impl Cluster {
    pub fn new(asked: &Kubectl) -> Self {
        Self {
            program: asked.program.clone(),
            flags: asked.cluster.clone(),
            namespace: asked.namespace.clone(),
        }
    }

    /// kubectl, for this cluster.
    fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).stdin(Stdio::null());
        command
    }

    /// kubectl, to run something beside an agent.
    pub fn exec(&self, agent: &Agent, arguments: &[String]) -> Command {
        let mut command = self.kubectl();
        command
            .args(["-n", &self.namespace, "exec", &agent.pod, "-c", CONTAINER, "--"])
            .args(arguments);
        command
    }

    pub fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// The agents that a question is for.
    ///
    /// # Errors
    /// kubectl fails, or there are none.
    pub fn asked(&self, node: Option<&str>, question: &Question) -> Result<Vec<Agent>> {
        let mut agents = self.all()?;
        ensure!(
            !agents.is_empty(),
            "no pod in namespace {} is labelled {LABEL} and runs; name another with --palisade-namespace",
            self.namespace
        );
        let of_pod = match (node, question) {
            (Some(_), _) => None,
            (None, Question::Pods(query, _)) => self.node_of(query.name.as_ref())?,
            (None, Question::Flows(query, _)) => self.node_of(query.filter.pod.as_ref())?,
            (None, Question::Conntrack(query, _)) => self.node_of(query.pod.as_ref())?,
            (None, _) => None,
        };
        if let Some(node) = node.or(of_pod.as_deref()) {
            let nodes: Vec<String> = agents.iter().map(|agent| escape(&agent.node)).collect();
            agents.retain(|agent| agent.node == node);
            ensure!(
                !agents.is_empty(),
                "no agent runs on node {}; there is one on {}",
                escape(node),
                nodes.join(", ")
            );
        }
        Ok(agents)
    }

    fn all(&self) -> Result<Vec<Agent>> {
        let list = self.get(&["-n", &self.namespace, "get", "pods", "-l", LABEL, "-o", "json"])?;
        let list: List =
            serde_json::from_slice(&list).context("kubectl's list of pods cannot be understood")?;
        let mut agents: Vec<Agent> = (list.items.into_iter())
            .filter(|pod| pod.status.phase.as_deref() == Some("Running"))
            // Others that bear the label, such as the one that uninstalls.
            .filter(|pod| {
                pod.spec
                    .containers
                    .iter()
                    .any(|container| container.name == CONTAINER)
            })
            .filter_map(|pod| {
                Some(Agent {
                    pod: pod.metadata.name,
                    node: pod.spec.node_name?,
                })
            })
            .collect();
        agents.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(agents)
    }

    /// Where a pod runs, if the question names one of which that can be told.
    fn node_of(&self, name: Option<&Name>) -> Result<Option<String>> {
        let Some(Name {
            namespace: Some(namespace),
            name,
        }) = name
        else {
            return Ok(None);
        };
        let pod = self.get(&["-n", namespace, "get", "pod", "-o", "json", "--", name])?;
        let pod: Pod = serde_json::from_slice(&pod).context("kubectl's pod cannot be understood")?;
        match pod.spec.node_name.filter(|node| !node.is_empty()) {
            Some(node) => Ok(Some(node)),
            None => bail!("pod {}/{} is on no node yet", escape(namespace), escape(name)),
        }
    }

    fn get(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.kubectl();
        let output = command.args(arguments).output();
        let output = output.with_context(|| {
            format!(
                "cannot run {}; is it installed? --kubectl names another",
                self.program()
            )
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {}", self.program(), escape(said.trim()));
        }
        Ok(output.stdout)
    }
}
