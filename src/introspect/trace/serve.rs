//! The answer to `GET /v1/trace`, line by line.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::oneshot;

use super::packet::Packet;
use super::query::TraceQuery;
use super::{Asked, Following, TraceEnd, TraceLine, Why};
use crate::bpf::{Named, Traced};
use crate::introspect::answer::Refusal;
use crate::introspect::recorder::Clock;
use crate::introspect::server::Seen;

/// Packets that one piece of an answer holds.
const PIECE: usize = 64;

pub async fn answer(State(seen): State<Arc<Seen>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    let query = TraceQuery::decode(&query.unwrap_or_default())?;
    let gone = || Refusal::new(503, "the agent does not trace", "is it about to end? try again");
    let loops = seen.answers.traces.clone().ok_or_else(gone)?;
    let (reply, answer) = oneshot::channel();
    // It waits where the loop is busy; a full queue means others who ask for traces.
    loops.try_send(Asked { query, reply }).map_err(|_| busy())?;
    let following = answer.await.map_err(|_| gone())??;
    let answer = Told {
        seen,
        following: Some(following),
        clock: Clock::new(),
        packets: 0,
        begun: false,
    };
    let body = Body::from_stream(stream::unfold(answer, Told::next));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// There can be one trace at a time.
pub(in crate::introspect) fn busy() -> Refusal {
    Refusal::new(
        409,
        "another trace is under way on this node, and there can be one at a time",
        "end it, or wait for its end (10 minutes at most)",
    )
}

/// An answer under way.
struct Told {
    seen: Arc<Seen>,
    /// `None`: the last line is told.
    following: Option<Following>,
    clock: Clock,
    packets: u64,
    begun: bool,
}

impl Told {
    /// The next piece; `None` behind the last line.
    async fn next(mut self) -> Option<(io::Result<Vec<u8>>, Self)> {
        let node = self.seen.answers.agent.node.clone();
        if !std::mem::replace(&mut self.begun, true) {
            return Some((Ok(lines(&[TraceLine::Begun { node }])), self));
        }
        let following = self.following.as_mut()?;
        let mut found = Vec::new();
        following.packets.recv_many(&mut found, PIECE).await;
        if !found.is_empty() {
            self.packets += found.len() as u64;
            let told: Vec<TraceLine> = found
                .iter()
                .map(|(traced, named)| self.line(traced, named))
                .collect();
            return Some((Ok(lines(&told)), self));
        }
        let Following { end, .. } = self.following.take()?;
        let end = end.await.ok();
        let last = TraceEnd {
            node,
            why: end.map_or(Why::Agent, |end| end.why),
            packets: self.packets,
            seen: end.map_or(0, |end| end.counts.seen),
            lost: end.map_or(0, |end| end.counts.lost + end.untold),
        };
        Some((Ok(lines(&[TraceLine::End(last)])), self))
    }

    fn line(&self, traced: &Traced, named: &Named) -> TraceLine {
        let answers = &self.seen.answers;
        let mut packet = Packet::new(
            traced,
            named,
            self.clock.at(traced.time),
            answers.agent.node.clone(),
        );
        for headers in [Some(&mut packet.headers), packet.quoted.as_mut()]
            .into_iter()
            .flatten()
        {
            answers
                .journal
                .name([&mut headers.source, &mut headers.destination]);
        }
        TraceLine::Packet(Box::new(packet))
    }
}

fn lines(told: &[TraceLine]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in told {
        // Strings and numbers always serialise.
        let _ = serde_json::to_writer(&mut text, line);
        text.push(b'\n');
    }
    text
}
