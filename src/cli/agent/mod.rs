//! What the running agent of this node answers: `status`, `flows`, `pods`, `policies`, `conntrack`, `maps`, `progs`, `bugreport`. In:
//! checked arguments. Out: the answer on the writer given, each name in it safe for a terminal.

mod bugreport;
pub(super) mod flows;
pub(super) mod print;
mod table;

use std::io::Write;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

pub(super) use self::bugreport::{file_name, save};
use self::print::{Shown, is_well, print};
use super::Outcome;
use crate::args::{Ask, DataOutput, Question};
use crate::introspect::{Client, Conntrack, MapState, PodState, PolicyState, ProgramState, Status};

/// Asks, and writes the answer as it comes.
///
/// # Errors
/// Nobody answers, with how to see why; or what the agent refuses.
pub fn ask(ask: &Ask, out: &mut dyn Write) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(answer(&Client::new(&ask.socket), &ask.question, out))
}

async fn answer(client: &Client, question: &Question, out: &mut dyn Write) -> Result<Outcome> {
    match question {
        Question::Flows(query, output) => flows::flows(client, query, *output, out).await?,
        Question::Status(output) => {
            let status: Status = client.get("/v1/status").await?;
            print(&status, false, *output, out)?;
            if !is_well(&status) {
                return Ok(Outcome::ProblemsFound);
            }
        }
        Question::Pods(query, output) => {
            let path = format!("/v1/pods?{}", query.encode());
            show::<Vec<PodState>>(client, &path, *output, out).await?;
        }
        Question::Policies(query, output) => {
            let path = format!("/v1/policies?{}", query.encode());
            show::<Vec<PolicyState>>(client, &path, *output, out).await?;
        }
        Question::Maps(output) => show::<Vec<MapState>>(client, "/v1/maps", *output, out).await?,
        Question::Programs(output) => show::<Vec<ProgramState>>(client, "/v1/progs", *output, out).await?,
        Question::Conntrack(query, output) => {
            let path = format!("/v1/conntrack?{}", query.encode());
            show::<Conntrack>(client, &path, *output, out).await?;
        }
        Question::Bugreport(file) => bugreport::bugreport(client, file.as_deref(), out).await?,
    }
    Ok(Outcome::Done)
}

async fn show<T: Shown + DeserializeOwned>(
    client: &Client,
    path: &str,
    output: DataOutput,
    out: &mut dyn Write,
) -> Result<()> {
    print(&client.get::<T>(path).await?, false, output, out)
}
