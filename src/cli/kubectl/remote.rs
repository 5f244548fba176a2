//! A command beside an agent: what is typed there, what comes back, what it failed by.

use std::fmt;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

use super::agents::{Agent, Cluster};
use crate::args::Question;
use crate::cli::Outcome;
use crate::cli::escape::escape;
use crate::introspect::{ConntrackQuery, Filter, FlowQuery, ObjectQuery};

/// Where the binary is in the agent's image.
const BINARY: &str = "/palisade";
/// What an agent says of a name that is another's.
const NOT_HERE: &str = "this node knows no ";
/// Bytes of an error that are told.
const SAID: usize = 4096;

/// What is typed beside an agent, for an answer in JSON.
pub(super) fn command(question: &Question) -> Vec<String> {
    let json = "--output=json".to_string();
    let (name, flags) = match question {
        Question::Flows(query, _) => ("flows", [flows(query), vec![json]].concat()),
        Question::Status(_) => ("status", vec![json]),
        Question::Maps(_) => ("maps", vec![json]),
        Question::Programs(_) => ("progs", vec![json]),
        Question::Pods(query, _) => ("pods", [vec![json], objects(query)].concat()),
        Question::Policies(query, _) => ("policies", [vec![json], objects(query)].concat()),
        Question::Conntrack(query, _) => ("conntrack", [conntrack(query), vec![json]].concat()),
        Question::Bugreport(_) => ("bugreport", vec!["--file=-".into()]),
    };
    [vec![BINARY.into(), name.into()], flags].concat()
}

fn flag(name: &str, value: Option<impl fmt::Display>) -> Vec<String> {
    value
        .map(|value| format!("--{name}={value}"))
        .into_iter()
        .collect()
}

fn flows(query: &FlowQuery) -> Vec<String> {
    let FlowQuery { last, follow, filter } = query;
    let Filter {
        pod,
        namespace,
        verdict,
        policy,
        direction,
        port,
        reason,
    } = filter;
    [
        flag("last", *last),
        follow.then(|| "--follow".to_string()).into_iter().collect(),
        flag("pod", pod.as_ref()),
        flag("namespace", namespace.as_ref()),
        flag("verdict", *verdict),
        flag("policy", policy.as_ref()),
        flag("direction", *direction),
        flag("port", *port),
        flag("reason", reason.as_ref()),
    ]
    .concat()
}

fn objects(query: &ObjectQuery) -> Vec<String> {
    let ObjectQuery { name, namespace } = query;
    let name = name.iter().flat_map(|name| ["--".to_string(), name.to_string()]);
    [flag("namespace", namespace.as_ref()), name.collect()].concat()
}

fn conntrack(query: &ConntrackQuery) -> Vec<String> {
    let ConntrackQuery {
        limit,
        pod,
        namespace,
        port,
    } = query;
    [
        flag("limit", Some(limit)),
        flag("pod", pod.as_ref()),
        flag("namespace", namespace.as_ref()),
        flag("port", *port),
    ]
    .concat()
}

/// A kubectl that runs; ended on drop.
pub(super) struct Running {
    node: String,
    child: Child,
    said: Option<JoinHandle<String>>,
}

impl Running {
    pub fn start(cluster: &Cluster, agent: &Agent, command: &[String]) -> Result<Self> {
        let mut child = cluster
            .exec(agent, command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", cluster.program()))?;
        let stderr = child.stderr.take();
        Ok(Self {
            node: agent.node.clone(),
            child,
            said: Some(thread::spawn(|| read_errors(stderr))),
        })
    }

    /// What it writes, once.
    pub fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// All that it writes.
    ///
    /// # Errors
    /// The command fails. (`status` answers, and yet ends with 1, where an agent is not well.)
    pub fn whole(mut self) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut stdout = self.output().context("no pipe")?;
        stdout
            .read_to_end(&mut answer)
            .with_context(|| format!("node {}", self.node))?;
        match self.end() {
            Err(_) if self.answered_and_ended_with_1(&answer)? => Ok(answer),
            ended => ended.map(|()| answer),
        }
    }

    fn answered_and_ended_with_1(&mut self, answer: &[u8]) -> io::Result<bool> {
        let code = self.child.wait()?.code();
        Ok(code == Some(1) && !answer.is_empty())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed.
    pub fn end(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        let said = self.said.take().map(JoinHandle::join);
        if status.success() {
            return Ok(());
        }
        let said = said.and_then(Result::ok).unwrap_or_default();
        Err(anyhow!("node {}: {}", escape(&self.node), escape(meant(&said))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_errors(stderr: Option<impl Read>) -> String {
    let mut said = Vec::new();
    if let Some(mut stderr) = stderr {
        // What is beyond is read too, or the child would wait.
        let _ = stderr.by_ref().take(SAID as u64).read_to_end(&mut said);
        let _ = io::copy(&mut stderr, &mut io::sink());
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// What the command said, without what kubectl adds.
fn meant(said: &str) -> &str {
    let ours = said.lines().find_map(|line| line.strip_prefix("palisade: "));
    ours.unwrap_or_else(|| said.trim())
}

/// Answers, and what failed.
pub(super) fn sorted<T>(results: Vec<Result<T>>) -> (Vec<T>, Vec<anyhow::Error>) {
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(answer) => answers.push(answer),
            Err(error) => failures.push(error),
        }
    }
    (answers, failures)
}

/// Tells of failures. That a node knows nothing of a pod or policy is none, where another does.
pub(super) fn outcome(answered: usize, failures: Vec<anyhow::Error>) -> Result<Outcome> {
    let is_elsewhere = |error: &anyhow::Error| format!("{error:#}").contains(NOT_HERE);
    if answered == 0 {
        // One that names what there is says more than one that could not be asked.
        let (elsewhere, mut others): (Vec<_>, Vec<_>) = failures.into_iter().partition(is_elsewhere);
        others.extend(elsewhere);
        let mut failures = others.into_iter();
        let first = failures.next().context("nobody was asked")?;
        for error in failures {
            complain(&error);
        }
        return Err(first);
    }
    let mut outcome = Outcome::Done;
    for error in failures.iter().filter(|error| !is_elsewhere(error)) {
        complain(error);
        outcome = Outcome::ProblemsFound;
    }
    Ok(outcome)
}

fn complain(error: &anyhow::Error) {
    // Where it cannot be said, the exit code is left.
    let _ = writeln!(io::stderr(), "palisade: {}", escape(&format!("{error:#}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::DataOutput;

    #[test]
    fn what_is_typed_there_is_what_was_asked_here() {
        let query = FlowQuery {
            last: Some(5),
            follow: true,
            filter: Filter {
                pod: Some("shop/web".parse().unwrap()),
                port: Some(80),
                ..Filter::default()
            },
        };
        assert_eq!(
            command(&Question::Flows(query, Default::default())),
            [
                "/palisade",
                "flows",
                "--last=5",
                "--follow",
                "--pod=shop/web",
                "--port=80",
                "--output=json"
            ]
        );
        let query = ObjectQuery {
            name: Some("-rf".parse().unwrap()),
            namespace: None,
        };
        assert_eq!(
            command(&Question::Pods(query, DataOutput::Text)),
            ["/palisade", "pods", "--output=json", "--", "-rf"]
        );
    }

    #[test]
    fn what_kubectl_adds_to_an_error_is_left_out() {
        let said = "palisade: this node knows no pod \"x\"; it knows shop/web\ncommand terminated with exit code 2\n";
        assert_eq!(meant(said), "this node knows no pod \"x\"; it knows shop/web");
        assert_eq!(meant("error: no such container\n"), "error: no such container");
    }
}
