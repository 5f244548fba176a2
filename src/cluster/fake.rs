//! An API server that answers as a test says: for what a real one cannot be made to do.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What came in.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    /// With the query.
    pub path: String,
    pub body: Value,
}

pub enum Answer {
    /// Status and body.
    Now(u16, Value),
    /// Lines of a watch, which then ends.
    Watch(Vec<Value>),
    Never,
}

/// Answers until it is dropped.
pub struct Fake {
    pub client: Client,
    asked: Arc<Mutex<Vec<Asked>>>,
    _task: JoinSet<()>,
}

impl Fake {
    pub fn new(mut answer: impl FnMut(&Asked) -> Answer + Send + 'static) -> Self {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = asked.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut unanswered = Vec::new();
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let bytes = body.collect().await.unwrap().to_bytes();
                let ask = Asked {
                    method: parts.method,
                    path: parts.uri.to_string(),
                    body: serde_json::from_slice(&bytes).unwrap_or_default(),
                };
                record.lock().unwrap().push(ask.clone());
                match answer(&ask) {
                    Answer::Now(status, body) => {
                        let body = Body::from(serde_json::to_vec(&body).unwrap());
                        let response = Response::builder().status(status).body(body).unwrap();
                        send.send_response(response);
                    }
                    Answer::Watch(lines) => {
                        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                        send.send_response(Response::new(Body::from(text.into_bytes())));
                    }
                    Answer::Never => unanswered.push(send),
                }
            }
        });
        Self {
            client: Client::new(service, "default"),
            asked,
            _task: task,
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// An error as an API server sends it.
pub fn status(code: u16, reason: &str) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": reason,
    });
    Answer::Now(code, body)
}
