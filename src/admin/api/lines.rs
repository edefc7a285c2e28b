//! An answer that goes on for as long as some work does: a line of JSON for each thing that happens.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::admin::Answering;
use crate::body::{BodyError, Stream};

/// Lines that wait for a client who reads slowly.
const WAITING: usize = 4096;

/// A client who has read nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lines, for the client.
pub(super) struct Lines {
    receiver: Receiver<Bytes>,
    _busy: Answering,
}

/// Whoever does the work.
#[derive(Clone)]
pub(super) struct Teller(Sender<Bytes>);

impl Lines {
    pub(super) fn new(busy: Answering) -> (Teller, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Teller(sender), Self { receiver, _busy: busy })
    }
}

impl Stream for Lines {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.receiver.poll_recv(cx).map(|line| line.map(Ok))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}

impl Teller {
    /// Tells what has happened: whether there is still somebody who reads.
    pub(super) async fn tell(&self, event: &impl Serialize) -> bool {
        let told = tokio::time::timeout(PATIENCE, self.0.send(line(event))).await;
        told.is_ok_and(|told| told.is_ok())
    }

    /// The same, from a thread that may wait.
    pub(super) fn tell_and_wait(&self, event: &impl Serialize) -> bool {
        Handle::current().block_on(self.tell(event))
    }

    /// The same, and where nobody reads for the moment it stays untold.
    pub(super) fn mention(&self, event: &impl Serialize) {
        let _ = self.0.try_send(line(event));
    }

    /// Nobody reads any more.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }
}

fn line(event: &impl Serialize) -> Bytes {
    // An event has nothing in it that JSON has not.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
