//! An answer that goes on for as long as some work does: a line of JSON for each thing that happens.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::body::{BodyError, Stream};

/// Lines that wait for a client that reads slowly.
const WAITING: usize = 4096;

/// How long a full queue is waited on. A client that has read nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// The lines, as a response's body.
pub(super) struct Lines(Receiver<Bytes>);

/// The end at which lines are put in.
#[derive(Clone)]
pub(super) struct LineSender(Sender<Bytes>);

/// Returns both ends.
pub(super) fn channel() -> (LineSender, Lines) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (LineSender(sender), Lines(receiver))
}

impl Stream for Lines {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.0.poll_recv(cx).map(|line| line.map(Ok))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

impl LineSender {
    /// Sends a line. Returns false once the client is gone.
    pub(super) async fn send(&self, event: &impl Serialize) -> bool {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.0.send(line(event))).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    /// Sends a line as [`LineSender::send`] does, from a thread that may block.
    pub(super) fn send_blocking(&self, event: &impl Serialize) -> bool {
        Handle::current().block_on(self.send(event))
    }

    /// Sends a line if there is room for it, and drops it otherwise.
    pub(super) fn try_send(&self, event: &impl Serialize) {
        let _ = self.0.try_send(line(event));
    }

    /// Waits until the client is gone.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}

fn line(event: &impl Serialize) -> Bytes {
    // Events are structs of strings and numbers, which can always be serialized.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
