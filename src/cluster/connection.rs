//! The way to the API server.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer, or the next piece of one, may keep us waiting. A watch that is alive sends a bookmark about each
/// minute, so one that is silent for longer has lost its server.
const SILENCE: Duration = Duration::from_secs(100);

/// A client, and which server it asks.
pub struct Connection {
    pub client: Client,
    /// Its address, for errors.
    pub server: String,
}

/// A client by `KUBECONFIG`, or by the ServiceAccount of the container. Sends nothing yet.
///
/// # Errors
/// There is neither, or it cannot be read.
pub async fn client() -> Result<Client> {
    Ok(open().await?.client)
}

/// As [`client`].
///
/// # Errors
/// As those of [`client`].
pub async fn open() -> Result<Connection> {
    let mut config = Config::infer().await.context(
        "cannot tell where the API server is; run it in a pod with a ServiceAccount, set KUBECONFIG, or name a folder with --from",
    )?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).context("cannot make a client for the API server")?;
    Ok(Connection { client, server })
}
