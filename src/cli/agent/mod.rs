//! What the running agent of this node answers: `flows`, `trace`. In: checked arguments. Out: the answer on the writer given, each name in it
//! safe for a terminal.

mod flows;
mod trace;

use std::io::Write;

use anyhow::{Context, Result};

use super::Outcome;
use crate::args::{Ask, Question};
use crate::introspect::Client;

/// Asks, and writes the answer as it comes.
///
/// # Errors
/// Nobody answers, with how to see why; or what the agent refuses.
pub fn ask(ask: &Ask, out: &mut dyn Write) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let client = Client::new(&ask.socket);
    runtime.block_on(async {
        match &ask.question {
            Question::Flows(query, output) => flows::flows(&client, query, *output, out).await,
            Question::Trace(query, output) => trace::trace(&client, query, *output, out).await,
        }
    })?;
    Ok(Outcome::Done)
}
