//! The plugin as the container runtime calls it, by the CNI specification 1.1.0.
//!
//! In: environment variables, the network configuration with the result of the plugins before. Out: that result, unchanged, or
//! an error object and exit code 1. It runs before each pod and starts nothing that it does not need: no runtime, no logging.
//!
//! - ADD secures the interface. `strict`: or fails, and kubelet tries again. `standard`: or says on standard error why not.
//! - CHECK sees to it that the interface is secured, and fails otherwise in both modes.
//! - DEL and GC have nothing to do, as what is attached goes with the interface; so they never fail.
//! - STATUS (`strict`) fails as long as no agent has run since the machine started. It does not fail while an agent restarts:
//!   the runtime would declare the whole node not ready, and its pods would lose their Services, where a new pod just waits.

mod ask;
mod call;
mod failure;
mod interface;
mod result;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

pub use self::call::VERSIONS;
use self::call::{Attachment, Config};
use self::failure::{Code, Failure};
use super::Mode;
use super::protocol::{Command, Request};

/// The variable that makes the binary a plugin.
pub const COMMAND: &str = "CNI_COMMAND";
/// Bytes of a network configuration; runtimes write a few thousand.
const LONGEST_INPUT: u64 = 4 << 20;

/// Whether the process is called as a plugin: by the environment, and without arguments of its own.
pub fn is_called() -> bool {
    std::env::var_os(COMMAND).is_some() && std::env::args_os().len() <= 1
}

/// One call, from the environment and standard input to standard output.
pub fn main() -> ExitCode {
    let begun = Instant::now();
    let mut input = Vec::new();
    let read = io::stdin().lock().take(LONGEST_INPUT).read_to_end(&mut input);
    let outcome = match read {
        Ok(_) => call(&|name| std::env::var_os(name), &input, begun, &mut io::stderr()),
        Err(error) => Err(Failure::new(
            Code::InputOutput,
            format!("cannot read the network configuration from standard input: {error}"),
            "",
        )),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(call::version_of(&input)), ExitCode::FAILURE),
    };
    let written = if text.is_empty() {
        Ok(())
    } else {
        writeln!(io::stdout(), "{text}")
    };
    match written {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What goes to standard output if all is well. `notes`: what is to be told besides.
fn call(
    environment: &dyn Fn(&str) -> Option<OsString>,
    input: &[u8],
    begun: Instant,
    notes: &mut dyn Write,
) -> Result<String, Failure> {
    let command = environment(COMMAND).unwrap_or_default();
    match command.to_str() {
        Some("VERSION") => Ok(versions(input)),
        Some("ADD") => {
            let (config, attachment) = (Config::read(input)?, Attachment::read(environment)?);
            let result = result::passed_on(config.prev_result.as_deref(), config.version)?;
            let previous = result::read(config.prev_result.as_deref(), &attachment.ifname)?;
            match secure(Command::Add, &config, &attachment, previous, begun) {
                Err(failure) if config.mode == Mode::Strict => return Err(failure),
                Err(Failure { message, details, .. }) => {
                    // Where nobody reads it, the pod still starts.
                    let _ = writeln!(
                        notes,
                        "palisade: pod {}/{} starts before its policies are in force: {message} ({details})",
                        attachment.namespace, attachment.pod
                    );
                }
                Ok(()) => {}
            }
            Ok(result)
        }
        Some("CHECK") => {
            let (config, attachment) = (Config::read(input)?, Attachment::read(environment)?);
            let previous = result::read(config.prev_result.as_deref(), &attachment.ifname)?;
            secure(Command::Check, &config, &attachment, previous, begun).map(|()| String::new())
        }
        Some("STATUS") => {
            let config = Config::read(input)?;
            match config.mode {
                Mode::Strict => ask::has_agent(&config.socket).map(|()| String::new()),
                Mode::Standard => Ok(String::new()),
            }
        }
        Some("DEL" | "GC") => Ok(String::new()),
        _ => Err(Failure::new(
            Code::InvalidEnvironment,
            format!("{COMMAND} = {command:?} is no command of the CNI specification 1.1.0"),
            "the container runtime sets it: ADD, DEL, CHECK, STATUS, GC or VERSION",
        )),
    }
}

fn versions(input: &[u8]) -> String {
    json!({"cniVersion": call::version_of(input), "supportedVersions": VERSIONS}).to_string()
}

fn secure(
    command: Command,
    config: &Config,
    attachment: &Attachment,
    previous: result::Previous,
    begun: Instant,
) -> Result<(), Failure> {
    let interfaces = interface::find(&previous.host_interfaces, &attachment.netns, &attachment.ifname)?;
    let deadline = begun + config.timeout;
    let request = Request {
        command,
        namespace: attachment.namespace.clone(),
        pod: attachment.pod.clone(),
        uid: attachment.uid.clone(),
        container: attachment.container.clone(),
        ifname: attachment.ifname.clone(),
        netns: attachment.netns.display().to_string(),
        interfaces,
        addresses: previous.addresses,
        timeout_ms: u64::try_from(deadline.saturating_duration_since(Instant::now()).as_millis())
            .unwrap_or(u64::MAX),
    };
    ask::ask(&config.socket, &request, deadline, config.mode == Mode::Strict)
}
