//! The composition root: makes the parts, wires them, supervises them. What a command does beyond that is elsewhere.

mod api_server;
mod flows;
mod node;
mod secured;
mod shown;
mod standalone;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::api_server::ApiServer;
use self::node::{Node, Source};
use self::shown::Shown;
use self::standalone::Standalone;
use crate::args;
use crate::bpf::{self, Cleaned, Config, Kernel};
use crate::cluster::{self, connection, controller, local};
use crate::cni::install;
use crate::files::Folder;
use crate::introspect;
use crate::model::Problem;
use crate::node::{Agent, Links, Secure, Server};
use crate::observe::{self, Counters, Metrics, Readiness};

/// Requests of the CNI plugin that wait for the loop. A node starts fewer pods at once; more would wait at the socket.
const REQUESTS: usize = 64;
/// How long what blocks may take to end.
const END: Duration = Duration::from_secs(2);
/// What keeps an instance from being ready, as /readyz names it.
const IN_FORCE: &str = "the policies in force";

/// `palisade run`: enforces a folder, or its part of a cluster, until a signal, or until a part fails. Enforcement stays in
/// place.
///
/// # Errors
/// What the machine lacks, with the remedy, or which part failed.
pub fn run(run: args::Run) -> Result<()> {
    // One: each thread keeps memory of its own that it has freed, and what blocks is done on threads apart.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(supervise(run));
    // A write to a standard output that nobody reads may never end.
    runtime.shutdown_timeout(END);
    result
}

/// `palisade clean`: removes all that `run` left in the kernel.
///
/// # Errors
/// An instance is running, or something could not be removed.
pub fn clean(clean: &args::Clean, out: &mut dyn Write) -> Result<()> {
    remove(&clean.pin_path, out)
}

/// `palisade uninstall`: removes all that `run` left on the node. The CNI entry goes first: without an agent it would keep pods
/// from starting.
///
/// # Errors
/// An instance is running, or something could not be removed.
pub fn uninstall(uninstall: &args::Uninstall, out: &mut dyn Write) -> Result<()> {
    let args::Uninstall {
        pin_path,
        api_socket,
        cni,
    } = uninstall;
    let removed = install::remove(cni);
    for path in &removed.files {
        writeln!(out, "removed Palisade from {}", path.display())?;
    }
    remove(pin_path, out)?;
    // One that did not end by itself has left it, and by now there is none.
    match std::fs::remove_file(api_socket) {
        Ok(()) => writeln!(out, "removed {}", api_socket.display())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("cannot remove {}: {error}", api_socket.display()),
    }
    let problems: Vec<String> = removed.problems.iter().map(ToString::to_string).collect();
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

fn remove(pin_path: &Path, out: &mut dyn Write) -> Result<()> {
    let Cleaned {
        links,
        filters,
        pins,
        foreign,
    } = bpf::clean(pin_path)?;
    writeln!(
        out,
        "removed {links} links, {filters} filters, {pins} pinned maps and programs"
    )?;
    for path in foreign {
        writeln!(out, "left {}: not Palisade's", path.display())?;
    }
    Ok(())
}

async fn supervise(run: args::Run) -> Result<()> {
    let args::Run {
        from,
        kernel,
        listen,
        log_format: _, // main has set logging up
        flows,
    } = run;
    // First of all: a signal during the start must not be lost.
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut parts = Parts::new(terminate, interrupt);
    let serving = match from {
        args::From::Folder(folder) => {
            let source = Standalone::new(folder.clone(), Folder::open(&folder)?, parts.metrics.clone());
            Some(parts.enforce(
                Part {
                    node: host_name(),
                    name: folder.display().to_string(),
                    cni: None,
                    controller: false,
                    listen,
                    flows,
                },
                source,
                &kernel,
            )?)
        }
        args::From::Cluster(cluster) => parts.cluster(cluster, listen, flows, &kernel).await?,
    };
    let enforces = serving.is_some();
    parts.serve(listen, serving).await?;
    let result = parts.run().await;
    if enforces {
        stopped(&kernel.pin_path);
    }
    result
}

/// What is to run, and what the parts have in common. Nothing runs before all of it is made.
struct Parts {
    made: Vec<(&'static str, BoxFuture<'static, Result<()>>)>,
    shutdown: CancellationToken,
    metrics: Metrics,
    cluster: cluster::Metrics,
    readiness: Readiness,
}

impl Parts {
    fn new(terminate: Signal, interrupt: Signal) -> Self {
        let mut parts = Self {
            made: Vec::new(),
            shutdown: CancellationToken::new(),
            metrics: Metrics::default(),
            cluster: cluster::Metrics::default(),
            readiness: Readiness::default(),
        };
        parts.add(
            "signals",
            until_signal(terminate, interrupt, parts.shutdown.clone()),
        );
        parts
    }

    fn add(&mut self, name: &'static str, part: impl Future<Output = Result<()>> + Send + 'static) {
        self.made.push((name, part.boxed()));
    }

    /// The parts of an instance in a cluster; what is counted in the kernel, where it enforces.
    async fn cluster(
        &mut self,
        part: args::Cluster,
        listen: SocketAddr,
        flows: args::Flows,
        kernel: &Config,
    ) -> Result<Option<Arc<dyn Counters>>> {
        let args::Cluster { controller, agent } = part;
        let client = connection::client().await?;
        let counters = match &agent {
            Some(node) => {
                info!(
                    node = node.name,
                    "enforcing what the API server tells of this node"
                );
                let local = local::Local::new(client.clone(), &node.name);
                let source = ApiServer::new(local, self.metrics.clone(), self.cluster.clone());
                let part = Part {
                    node: node.name.clone(),
                    name: format!("node {}", node.name),
                    cni: node.cni.clone(),
                    controller,
                    listen,
                    flows,
                };
                Some(self.enforce(part, source, kernel)?)
            }
            None => None,
        };
        if controller {
            let config = controller::Config::new(identity(agent.as_ref())?, namespace());
            let run = controller::run(client, config, self.cluster.clone(), self.shutdown.clone());
            self.add("controller", run);
        }
        Ok(counters)
    }

    /// The parts that install the CNI plugin and take its requests.
    fn plugin(&mut self, config: &install::Config) -> Result<Plugin> {
        let (ask, secure) = mpsc::channel(REQUESTS);
        let (tell, problems) = watch::channel(Vec::new());
        let server = Server::bind(&config.socket, ask, self.metrics.clone())?;
        self.add("CNI socket", server.run(self.shutdown.clone()));
        self.add(
            "CNI installer",
            install::run(config.clone(), tell, self.shutdown.clone()),
        );
        Ok(Plugin { secure, problems })
    }

    /// The parts that answer about this node, and the end that tells them. Enforcing does not depend on them: where they cannot
    /// work, that is logged.
    fn introspection(
        &mut self,
        agent: introspect::Agent,
        flows: args::Flows,
    ) -> Result<introspect::Reporter> {
        let args::Flows { socket, held, log } = flows;
        let (report, recorder, answers) = introspect::new(agent, held);
        self.add("flow recorder", recorder.run(self.shutdown.clone()));
        if let Some(destination) = log {
            let log = introspect::FlowLog::open(&destination, &answers)?;
            self.add("flow log", log.run(self.shutdown.clone()));
        }
        match introspect::Server::bind(&socket, answers) {
            Ok(server) => self.add("API socket", server.run(self.shutdown.clone())),
            Err(error) => warn!("palisade status, flows and others will not be answered: {error:#}"),
        }
        Ok(report)
    }

    /// The parts that enforce what `source` says, and what is counted in the kernel.
    fn enforce<S: Source + 'static>(
        &mut self,
        part: Part,
        source: S,
        config: &Config,
    ) -> Result<Arc<dyn Counters>> {
        let Part {
            node,
            name,
            cni,
            controller,
            listen,
            flows,
        } = part;
        let kernel = Kernel::open(config)?;
        announce(&kernel);
        let (links, driver) = Links::open()?;
        let ready = self.readiness.wait_for(IN_FORCE);
        let (deliver, events) = mpsc::channel(node::EVENTS);
        let reader = kernel.events(move |event| deliver.try_send(event).is_ok())?;
        // Only now: as long as another instance holds the kernel side, the socket is that one's too.
        let plugin = cni.as_ref().map(|config| self.plugin(config)).transpose()?;
        let Plugin { secure, problems } = plugin.unwrap_or_else(Plugin::none);
        let report = self.introspection(
            introspect::Agent {
                node: node.into(),
                source: name.clone(),
                metrics: listen,
                inspector: kernel.inspector()?,
                adopted: kernel.opened().adopted,
                notices: kernel.opened().notices.clone(),
                readiness: self.readiness.clone(),
                leader: controller.then(|| self.cluster.leader.clone()),
            },
            flows,
        )?;
        let mut agent = Agent::new(kernel, links, self.metrics.clone());
        if cni.is_some() {
            agent.expect_pods()?;
        }
        let counters = agent.counters();
        let node = Node {
            source,
            name,
            agent,
            events,
            reader,
            shown: Shown::new(report),
            secure,
            cni: problems,
            metrics: self.metrics.clone(),
            ready: Some(ready),
        };
        self.add("netlink", driver);
        self.add("agent", node.run(self.shutdown.clone()));
        Ok(counters)
    }

    async fn serve(&mut self, listen: SocketAddr, counters: Option<Arc<dyn Counters>>) -> Result<()> {
        let mut registry: Registry = self.metrics.registry(counters);
        self.cluster.register(&mut registry);
        let server = observe::build(observe::Config {
            listen,
            registry,
            readiness: self.readiness.clone(),
            shutdown: self.shutdown.clone(),
        })
        .await?;
        self.add("HTTP server", server.wait());
        Ok(())
    }

    /// Runs them all. The first part to end ends them all; the first error is the result.
    async fn run(self) -> Result<()> {
        let Self { made, shutdown, .. } = self;
        let mut running = JoinSet::new();
        for (name, part) in made {
            running.spawn(async move { part.await.with_context(|| format!("{name} failed")) });
        }
        let mut result = Ok(());
        while let Some(ended) = running.join_next().await {
            shutdown.cancel();
            let ended = ended.unwrap_or_else(|error| Err(anyhow!("a part panicked: {error}")));
            if result.is_ok() {
                result = ended;
            }
        }
        result
    }
}

/// One node's part.
struct Part {
    /// What the node is called.
    node: String,
    /// What the log calls what is enforced.
    name: String,
    cni: Option<install::Config>,
    /// Whether it takes part in the election, too.
    controller: bool,
    /// Where /metrics answers.
    listen: SocketAddr,
    flows: args::Flows,
}

/// What the agent's loop gets of the CNI plugin.
struct Plugin {
    secure: mpsc::Receiver<Secure>,
    problems: watch::Receiver<Vec<Problem>>,
}

impl Plugin {
    /// Nobody asks.
    fn none() -> Self {
        Self {
            secure: mpsc::channel(1).1,
            problems: watch::channel(Vec::new()).1,
        }
    }
}

/// What a node is called where no API server has a name for it.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What no other instance is called: the pod's name, else that of the node.
fn identity(node: Option<&args::Node>) -> Result<String> {
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty());
    pod.or_else(|| node.map(|node| node.name.clone()))
        .context("the controller needs a name of its own: set POD_NAME")
}

/// Where the Lease is.
fn namespace() -> String {
    let own = std::env::var("POD_NAMESPACE")
        .ok()
        .filter(|name| !name.is_empty());
    own.unwrap_or_else(|| "kube-system".into())
}

fn announce(kernel: &Kernel) {
    let opened = kernel.opened();
    for notice in &opened.notices {
        warn!("{notice}");
    }
    info!(
        attach = if kernel.uses_tcx() { "tcx" } else { "clsact" },
        adopted = opened.adopted,
        pods = kernel.image().pods.len(),
        "the kernel side is open"
    );
}

fn stopped(pin_path: &Path) {
    info!(
        "stopped; the kernel goes on enforcing what is in force, pinned under {0} (palisade clean --pin-path {0} removes it)",
        pin_path.display()
    );
}

async fn until_signal(
    mut terminate: Signal,
    mut interrupt: Signal,
    shutdown: CancellationToken,
) -> Result<()> {
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM"),
        _ = interrupt.recv() => info!("SIGINT"),
        () = shutdown.cancelled() => {}
    }
    shutdown.cancel();
    Ok(())
}
