//! The HTTP server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Format, Readiness};

/// How long requests under way may take to end after shutdown has begun.
const GRACE: Duration = Duration::from_secs(2);

/// What the server shows, and where.
pub struct Config {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    /// What a scrape shows.
    pub registry: Registry,
    pub readiness: Readiness,
    /// Cancelled: no new connection is taken, requests under way end.
    pub shutdown: CancellationToken,
}

/// Listens from [`build`] on; answers while [`wait`](Self::wait) runs.
#[must_use = "nothing is answered until it is waited for"]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
}

struct Seen {
    registry: Registry,
    readiness: Readiness,
}

/// Binds the listener.
///
/// # Errors
/// Fails where the address cannot be listened on.
pub async fn build(config: Config) -> Result<Server> {
    let Config {
        listen,
        registry,
        readiness,
        shutdown,
    } = config;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} for metrics and health: choose a free address of this machine with --listen")
    })?;
    let addr = listener
        .local_addr()
        .context("cannot tell the listener's address")?;
    let seen = Arc::new(Seen { registry, readiness });
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(seen);
    Ok(Server {
        listener,
        addr,
        router,
        shutdown,
    })
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the shutdown token is cancelled and requests under way have ended, or 2 s after that.
    ///
    /// # Errors
    /// Fails where the listener does.
    pub async fn wait(self) -> Result<()> {
        let Self {
            listener,
            addr,
            router,
            shutdown,
        } = self;
        info!(%addr, "serving /metrics, /healthz and /readyz");
        let serve = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let too_late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            result = serve.into_future() => result.with_context(|| format!("the listener on {addr} has failed")),
            () = too_late => Ok(()),
        }
    }
}

async fn scrape(State(seen): State<Arc<Seen>>, headers: HeaderMap) -> Response {
    let accept = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
    // Reading the kernel's counters blocks.
    let text = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        text::encode(&mut text, &seen.registry).map(|()| format.of_open_metrics(text))
    });
    match text.await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], text).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    error!(%error, "the metrics could not be written");
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "the metrics could not be written; see the log\n",
    )
        .into_response()
}

async fn ready(State(seen): State<Arc<Seen>>) -> Response {
    let pending = seen.readiness.pending();
    let (status, body) = if pending.is_empty() {
        (StatusCode::OK, "ready\n".to_string())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {}\n", pending.join(", ")),
        )
    };
    (
        status,
        [(CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        body,
    )
        .into_response()
}
