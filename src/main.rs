//! The `palisade` command: reads the command line, starts logging, runs, and turns the end into an exit code.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use palisade::app;
use palisade::args::{Command, LogFormat};
use palisade::cli::{self, Outcome};
use palisade::cluster::crds;
use palisade::cni::plugin;
use tracing_subscriber::EnvFilter;

/// `check` found problems, `diff` changes; `run`, `clean` or `uninstall` failed.
const FAILED: u8 = 1;
/// Wrong usage, or an input that cannot be read.
const UNUSABLE: u8 = 2;
/// The client logs every failed request; who asked tells of it once, with the remedy.
const TOLD_BY_US: [&str; 4] = [
    "kube_runtime::watcher=error",
    "kube_client::client=error",
    "kube_client::client::builder=off",
    "kube_client::client::tls=warn",
];

fn main() -> ExitCode {
    // First of all: the container runtime waits, and a pod with it.
    if plugin::is_called() {
        return plugin::main();
    }
    let command = match Command::read(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => {
            // Help goes to standard output, errors to standard error; where neither can be written, the code is left.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(UNUSABLE));
        }
    };
    let is_answer = match command {
        Command::Run(_) | Command::Clean(_) | Command::Uninstall(_) => false,
        Command::Check(_) | Command::Explain(_) | Command::Matrix(_) | Command::Diff(_) => true,
        Command::Ask(_) | Command::Kubectl(_) | Command::Completion(_) => true,
        Command::Crds | Command::MetricsReference => true,
    };
    match log(&command).and_then(|()| perform(command)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::ProblemsFound | Outcome::Changes) => ExitCode::from(FAILED),
        // The reader has seen enough: `palisade matrix | head`.
        Err(error) if is_answer && is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where the last word cannot be written, the code is left.
            let _ = writeln!(io::stderr(), "palisade: {}", cli::escape(&format!("{error:#}")));
            ExitCode::from(if is_answer { UNUSABLE } else { FAILED })
        }
    }
}

fn perform(command: Command) -> Result<Outcome> {
    match command {
        Command::Check(question) => answer(|out| cli::check(&question, out)),
        Command::Explain(question) => answer(|out| cli::explain(&question, out)),
        Command::Matrix(question) => answer(|out| cli::matrix(&question, out)),
        Command::Diff(question) => answer(|out| cli::diff(&question, out)),
        Command::Ask(question) => answer(|out| cli::ask(&question, out)),
        Command::Kubectl(question) => answer(|out| cli::kubectl(&question, out)),
        Command::Completion(shell) => answer(|out| {
            palisade::args::complete(shell, out);
            Ok(Outcome::Done)
        }),
        Command::Run(run) => app::run(run).map(|()| Outcome::Done),
        Command::Clean(clean) => answer(|out| app::clean(&clean, out).map(|()| Outcome::Done)),
        Command::Uninstall(uninstall) => {
            answer(|out| app::uninstall(&uninstall, out).map(|()| Outcome::Done))
        }
        Command::MetricsReference => answer(|out| {
            Ok(out
                .write_all(app::metrics_reference()?.as_bytes())
                .map(|()| Outcome::Done)?)
        }),
        Command::Crds => answer(|out| Ok(out.write_all(crds::yaml()?.as_bytes()).map(|()| Outcome::Done)?)),
    }
}

/// On standard output, in large pieces: a matrix may have millions of rows.
fn answer(write: impl FnOnce(&mut dyn Write) -> Result<Outcome>) -> Result<Outcome> {
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let outcome = write(&mut out)?;
    out.flush()?;
    Ok(outcome)
}

fn log(command: &Command) -> Result<()> {
    let mut filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("PALISADE_LOG")
        .from_env()
        .context("PALISADE_LOG is no log filter; write one like info or palisade=debug")?;
    // Unless it is asked for.
    if !std::env::var("PALISADE_LOG").is_ok_and(|asked| asked.contains("kube")) {
        for quiet in TOLD_BY_US {
            filter = filter.add_directive(quiet.parse().context("a log filter")?);
        }
    }
    let json = matches!(command, Command::Run(run) if run.log_format == LogFormat::Json);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if json {
        lines.json().init();
    } else {
        lines.with_ansi(io::stderr().is_terminal()).init();
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
