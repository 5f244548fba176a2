//! The flags of an instance in a cluster: its part, its node, the CNI plugin.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cni::{Mode, install};

/// This instance's part in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Whether it takes part in the election of the instance that resolves and publishes.
    pub controller: bool,
    /// `Some`: it enforces on this node.
    pub agent: Option<Node>,
}

/// The node of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// As the pods' `spec.nodeName` has it.
    pub name: String,
    /// `Some`: the CNI plugin is installed, and served.
    pub cni: Option<install::Config>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RawSwitch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RawCni {
    /// Install it; a pod that cannot be secured in time does not start
    Strict,
    /// Install it; such a pod starts, and is secured as soon as it can be
    Standard,
    /// Do not install it: pods are found by their addresses
    Off,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "In a cluster (without --from)")]
pub(super) struct RawCluster {
    /// Whether it may be elected to resolve policies and publish PolicyEndpoints
    #[arg(
        long,
        value_name = "SWITCH",
        value_enum,
        env = "PALISADE_CONTROLLER",
        default_value = "on"
    )]
    controller: RawSwitch,
    /// Whether it enforces on this node
    #[arg(
        long,
        value_name = "SWITCH",
        value_enum,
        env = "PALISADE_AGENT",
        default_value = "on"
    )]
    agent: RawSwitch,
    /// This node's name, as spec.nodeName of its pods; the agent needs it
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// Whether and how the CNI plugin secures pods before they start
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        env = "PALISADE_CNI",
        default_value = "off"
    )]
    cni: RawCni,
    #[command(flatten)]
    cni_paths: RawCniPaths,
}

#[derive(Debug, Args)]
pub(super) struct RawCniPaths {
    /// Folder of the node's CNI configuration
    #[arg(
        long,
        value_name = "FOLDER",
        env = "PALISADE_CNI_CONF_DIR",
        default_value = "/etc/cni/net.d"
    )]
    cni_conf_dir: PathBuf,
    /// Folder of the node's CNI plugins
    #[arg(
        long,
        value_name = "FOLDER",
        env = "PALISADE_CNI_BIN_DIR",
        default_value = "/opt/cni/bin"
    )]
    cni_bin_dir: PathBuf,
    /// Socket by which the plugin asks the agent
    #[arg(
        long,
        value_name = "PATH",
        env = "PALISADE_SOCKET",
        default_value = crate::cni::protocol::SOCKET
    )]
    socket: PathBuf,
}

impl RawCniPaths {
    pub(super) fn checked(self, mode: Mode) -> install::Config {
        let Self {
            cni_conf_dir: conf_dir,
            cni_bin_dir: bin_dir,
            socket,
        } = self;
        install::Config {
            conf_dir,
            bin_dir,
            mode,
            socket,
        }
    }
}

impl RawCluster {
    pub(super) fn checked(self) -> Result<Cluster, String> {
        let Self {
            controller,
            agent,
            node_name,
            cni,
            cni_paths,
        } = self;
        let controller = controller == RawSwitch::On;
        let cni = match cni {
            RawCni::Strict => Some(cni_paths.checked(Mode::Strict)),
            RawCni::Standard => Some(cni_paths.checked(Mode::Standard)),
            RawCni::Off => None,
        };
        let agent = match (agent, node_name.filter(|name| !name.is_empty())) {
            (RawSwitch::Off, _) => None,
            (RawSwitch::On, Some(name)) => Some(Node { name, cni }),
            (RawSwitch::On, None) => {
                return Err(
                    "without --from the agent needs the name of its node: --node-name or NODE_NAME; or name a folder with --from"
                        .into(),
                );
            }
        };
        if !controller && agent.is_none() {
            return Err("--controller=off with --agent=off leaves nothing to do".into());
        }
        Ok(Cluster { controller, agent })
    }
}
