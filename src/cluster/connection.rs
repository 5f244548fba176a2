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
    let config = Config::infer().await.context(
        "cannot tell where the API server is; run it in a pod with a ServiceAccount, set KUBECONFIG, or name a folder with --from",
    )?;
    let server = config.cluster_url.to_string();
    let client = client_of(config)?;
    Ok(Connection { client, server })
}

/// A client by this configuration, with Palisade's timeouts, which does not try again by itself: kube's way with what a busy
/// server turned away (429, 503, 504) goes on in silence for minutes, and sleeps past the end of the fault. Whoever asks
/// tells of it, waits and tries again.
///
/// # Errors
/// It cannot be one.
pub fn client_of(mut config: Config) -> Result<Client> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.default_retry = false;
    Client::try_from(config).context("cannot make a client for the API server")
}
