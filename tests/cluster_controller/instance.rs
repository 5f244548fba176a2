//! Controllers in this process, each like a pod of its own.

use std::time::Duration;

use kube::Client;
use palisade::cluster::{Metrics, controller};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub const TTL: Duration = Duration::from_secs(3);
pub const SLICE_ENTRIES: usize = 10;

pub struct Instance {
    pub metrics: Metrics,
    shutdown: CancellationToken,
    task: JoinSet<anyhow::Result<()>>,
}

impl Instance {
    pub fn start(client: Client, identity: &str) -> Self {
        Self::of_lease(client, identity, "palisade")
    }

    pub fn of_lease(client: Client, identity: &str, lease: &str) -> Self {
        let config = controller::Config {
            lease: lease.into(),
            lease_ttl: TTL,
            slice_entries: SLICE_ENTRIES,
            ..controller::Config::new(identity, "kube-system")
        };
        Self::of(client, config)
    }

    pub fn with_slices(client: Client, slice_entries: usize) -> Self {
        let config = controller::Config {
            lease_ttl: TTL,
            slice_entries,
            ..controller::Config::new("one", "kube-system")
        };
        Self::of(client, config)
    }

    fn of(client: Client, config: controller::Config) -> Self {
        let (metrics, shutdown) = (Metrics::default(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(controller::run(client, config, metrics.clone(), shutdown.clone()));
        Self {
            metrics,
            shutdown,
            task,
        }
    }

    pub fn leads(&self) -> bool {
        self.metrics.leader.get() == 1
    }

    /// As SIGTERM does.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        self.task.join_next().await.unwrap().unwrap().unwrap();
    }

    /// As SIGKILL does: nothing is given back.
    pub async fn kill(mut self) {
        self.task.shutdown().await;
    }
}
