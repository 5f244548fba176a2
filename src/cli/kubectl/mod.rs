//! `palisade kubectl`: the same questions to the agents of a cluster, by way of kubectl. In: checked arguments; what kubectl may do is
//! what this may do. Out: the answers of all agents as one.

mod agents;
mod remote;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use self::agents::{Agent, Cluster};
use self::remote::Running;
use super::Outcome;
use super::agent::flows;
use super::agent::print::{Shown, is_well, print};
use super::escape::escape;
use crate::args::{DataOutput, FlowOutput, Kubectl, Question};
use crate::introspect::{
    Conntrack, FlowQuery, LAST, MapState, PodState, PolicyState, ProgramState, Record, Status,
};

/// Asks the agents, and writes what they answer.
///
/// # Errors
/// kubectl fails, with its words; there are no agents; or none of them answers.
pub fn kubectl(asked: &Kubectl, out: &mut dyn Write) -> Result<Outcome> {
    let cluster = Cluster::new(asked);
    let agents = cluster.asked(asked.node.as_deref(), &asked.question)?;
    match &asked.question {
        Question::Flows(query, output) => follow(&cluster, &agents, query, *output, out),
        Question::Status(output) => {
            let (all, outcome) = gather::<Status>(&cluster, &agents, &asked.question)?;
            print(&all, true, *output, out)?;
            match all.iter().all(is_well) {
                true => Ok(outcome),
                false => Ok(Outcome::ProblemsFound),
            }
        }
        Question::Pods(_, output) => lists::<PodState>(&cluster, &agents, &asked.question, *output, out),
        Question::Policies(_, output) => {
            lists::<PolicyState>(&cluster, &agents, &asked.question, *output, out)
        }
        Question::Maps(output) => lists::<MapState>(&cluster, &agents, &asked.question, *output, out),
        Question::Programs(output) => lists::<ProgramState>(&cluster, &agents, &asked.question, *output, out),
        Question::Conntrack(query, output) => {
            let (parts, outcome) = gather::<Conntrack>(&cluster, &agents, &asked.question)?;
            let mut all = Conntrack {
                more: parts.iter().any(|part| part.more),
                flows: parts.into_iter().flat_map(|part| part.flows).collect(),
            };
            all.more |= all.flows.len() > query.limit;
            all.flows.truncate(query.limit);
            print(&all, true, *output, out)?;
            Ok(outcome)
        }
        Question::Bugreport(file) => archives(&cluster, &agents, file.as_deref(), out),
    }
}

/// Lists of all agents, one behind the other.
fn lists<T>(
    cluster: &Cluster,
    agents: &[Agent],
    question: &Question,
    output: DataOutput,
    out: &mut dyn Write,
) -> Result<Outcome>
where
    T: DeserializeOwned + Send,
    Vec<T>: Shown,
{
    let (lists, outcome) = gather::<Vec<T>>(cluster, agents, question)?;
    let all: Vec<T> = lists.into_iter().flatten().collect();
    print(&all, true, output, out)?;
    Ok(outcome)
}

/// What each agent answers, in the order of the agents, and whether all did.
fn gather<T: DeserializeOwned + Send>(
    cluster: &Cluster,
    agents: &[Agent],
    question: &Question,
) -> Result<(Vec<T>, Outcome)> {
    let command = remote::command(question);
    let answers: Vec<Result<T>> = thread::scope(|scope| {
        let ask = |agent| {
            let answer = Running::start(cluster, agent, &command)?.whole()?;
            serde_json::from_slice(&answer).with_context(|| {
                format!(
                    "node {}: the answer cannot be understood; is the agent of another version?",
                    agent.node
                )
            })
        };
        let asking: Vec<_> = agents
            .iter()
            .map(|agent| scope.spawn(move || ask(agent)))
            .collect();
        let answered = |thread: thread::ScopedJoinHandle<'_, Result<T>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        asking.into_iter().map(answered).collect()
    });
    let (answers, failures) = remote::sorted(answers);
    let outcome = remote::outcome(answers.len(), failures)?;
    Ok((answers, outcome))
}

/// Records of all agents: those that are there by time, then each as it comes.
fn follow(
    cluster: &Cluster,
    agents: &[Agent],
    query: &FlowQuery,
    output: FlowOutput,
    out: &mut dyn Write,
) -> Result<Outcome> {
    let command = remote::command(&Question::Flows(query.clone(), output));
    let mut running = Vec::new();
    for agent in agents {
        running.push(Running::start(cluster, agent, &command)?);
    }
    let outputs: Vec<_> = running.iter_mut().filter_map(Running::output).collect();
    thread::scope(|scope| {
        let (sender, lines) = mpsc::sync_channel::<String>(1024);
        for output in outputs {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut lines = BufReader::new(output).lines().map_while(Result::ok);
                lines.all(|line| sender.send(line).is_ok())
            });
        }
        drop(sender);
        let written = match query.follow {
            true => as_they_come(&lines, output, out),
            false => by_time(&lines, query.last.unwrap_or(LAST), output, out),
        };
        drop(lines);
        if written.is_err() {
            // Whoever reads has seen enough, and nobody else ends them: their readers wait for the next line.
            running.clear();
        }
        written
    })?;
    let (answered, failures) = remote::sorted(running.iter_mut().map(Running::end).collect());
    remote::outcome(answered.len(), failures)
}

fn as_they_come(lines: &mpsc::Receiver<String>, output: FlowOutput, out: &mut dyn Write) -> Result<()> {
    while let Ok(line) = lines.recv() {
        flows::write(&line, output, true, out)?;
        while let Ok(line) = lines.try_recv() {
            flows::write(&line, output, true, out)?;
        }
        out.flush()?;
    }
    Ok(())
}

/// The last `last` flows of all, with the losses between them.
fn by_time(
    lines: &mpsc::Receiver<String>,
    last: usize,
    output: FlowOutput,
    out: &mut dyn Write,
) -> Result<()> {
    let mut records = Vec::new();
    for line in lines {
        let record: Record = serde_json::from_str(&line)
            .context("an answer cannot be understood; is that agent of another version?")?;
        records.push((record.time(), matches!(record, Record::Flow(_)), line));
    }
    records.sort_by_key(|(time, ..)| *time);
    let mut flows = records.iter().filter(|(_, is_flow, _)| *is_flow).count();
    for (_, is_flow, line) in &records {
        if flows <= last {
            flows::write(line, output, true, out)?;
        }
        flows -= usize::from(*is_flow && flows > last);
    }
    Ok(())
}

/// One archive of each agent.
fn archives(
    cluster: &Cluster,
    agents: &[Agent],
    file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Outcome> {
    if file.is_some() && agents.len() > 1 {
        bail!("each node has an archive of its own: name one with --node, or leave --file out");
    }
    let command = remote::command(&Question::Bugreport(None));
    let mut written = Vec::new();
    for agent in agents {
        written.push(archive(cluster, agent, &command, file, out));
    }
    let (written, failures) = remote::sorted(written);
    remote::outcome(written.len(), failures)
}

fn archive(
    cluster: &Cluster,
    agent: &Agent,
    command: &[String],
    file: Option<&Path>,
    out: &mut dyn Write,
) -> Result<()> {
    let archive = Running::start(cluster, agent, command)?.whole()?;
    if file == Some(Path::new("-")) {
        return Ok(out.write_all(&archive)?);
    }
    let file = file.map_or_else(
        || {
            let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
            PathBuf::from(format!("palisade-{}-{time}.tar.gz", agent.file_name()))
        },
        Path::to_path_buf,
    );
    super::agent::save(&file, &archive).with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(out, "{}", escape(&file.display().to_string()))?;
    Ok(())
}
