//! Server-sent events (HTML Living Standard, section 9.2) that bring the page up to date.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::admin::dashboard::page::SECTIONS;
use crate::admin::response;
use crate::admin::state::AdminState;
use crate::body::{Body, BodyError, Stream};

/// The time between two looks at the sections.
const INTERVAL: Duration = Duration::from_secs(2);

/// The time that a browser waits before it connects again.
const RETRY: &str = "retry: 3000\n\n";

const EVENT_STREAM: &str = "text/event-stream";

/// The events, as a response's body.
struct Events(Receiver<Bytes>);

impl Stream for Events {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.0.poll_recv(cx).map(|event| event.map(Ok))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

/// Returns the answer to HEAD.
pub(super) fn head() -> Response<Body> {
    response::new(StatusCode::OK, EVENT_STREAM, Body::empty())
}

/// Returns events for as long as the client reads them.
pub(super) fn events(state: &Arc<AdminState>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(SECTIONS.len() + 1);
    tokio::spawn(send(Arc::downgrade(state), sender));
    response::new(StatusCode::OK, EVENT_STREAM, Body::stream(Events(receiver)))
}

async fn send(state: Weak<AdminState>, sender: Sender<Bytes>) {
    let mut shown: [String; SECTIONS.len()] = Default::default();
    if sender.send(Bytes::from_static(RETRY.as_bytes())).await.is_err() {
        return;
    }
    loop {
        let Some(events) = state.upgrade().map(|state| changed(&state, &mut shown)) else { return };
        for event in events {
            if sender.send(event).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = sender.closed() => return,
        }
    }
}

/// Returns an event for each section that is not as it was shown last.
fn changed(state: &AdminState, shown: &mut [String; SECTIONS.len()]) -> Vec<Bytes> {
    let mut events = Vec::new();
    for (section, shown) in SECTIONS.iter().zip(shown) {
        let text = (section.render)(state).into_string();
        if *shown != text {
            events.push(event(section.id, &text));
            *shown = text;
        }
    }
    events
}

/// Returns the event that replaces the content of the element `id`. JSON has no line break, which would end the event.
fn event(id: &str, html: &str) -> Bytes {
    format!("event: section\ndata: {}\n\n", json!({ "id": id, "html": html })).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_json() {
        let event = event("cache", "<p>a\n\nb</p>");
        let text = std::str::from_utf8(&event).unwrap();
        let data = text.strip_prefix("event: section\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains('\n'), "{data}");
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data, json!({ "id": "cache", "html": "<p>a\n\nb</p>" }));
    }
}
