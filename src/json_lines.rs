//! Answers that go on for as long as some work does: a line of JSON for each thing that happens.

use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::body::{Body, BodyError, Stream};
use crate::clock;

/// Lines that wait for a client that reads slowly.
const WAITING: usize = 4096;

/// How long a full queue is waited on. A client that has read nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a thread looks whether there is room again.
const LOOK: Duration = Duration::from_millis(5);

/// The lines, as a response's body.
struct Lines(Receiver<Bytes>);

/// The end at which lines are put in.
#[derive(Clone)]
pub(crate) struct LineSender(Sender<Bytes>);

/// Returns the sender of lines, and the body that they are.
pub(crate) fn channel() -> (LineSender, Body) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (LineSender(sender), Body::stream(Lines(receiver)))
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
    pub(crate) async fn send(&self, event: &impl Serialize) -> bool {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.0.send(line(event))).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    /// Sends a line as [`LineSender::send`] does, from a thread that may block, also within work that the thread drives itself.
    pub(crate) fn send_blocking(&self, event: &impl Serialize) -> bool {
        let (mut line, end) = (line(event), clock::now() + SEND_TIMEOUT);
        loop {
            match self.0.try_send(line) {
                Ok(()) => return true,
                Err(TrySendError::Full(unsent)) if clock::now() < end => line = unsent,
                Err(_) => return false,
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends a line if there is room for it, and drops it otherwise.
    pub(crate) fn try_send(&self, event: &impl Serialize) {
        let _ = self.0.try_send(line(event));
    }

    /// Waits until the client is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

fn line(event: &impl Serialize) -> Bytes {
    // Events are structs of strings and numbers, which can always be serialized.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// Bytes as they come, cut into lines.
#[derive(Debug, Default)]
pub(crate) struct LineBuffer(BytesMut);

impl LineBuffer {
    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes the next whole line, with its end.
    pub(crate) fn next(&mut self) -> Option<BytesMut> {
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        Some(self.0.split_to(end + 1))
    }

    /// Returns how many bytes are held of a line that has not ended.
    pub(crate) fn held(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_their_bytes_are_parted() {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for part in ["1", "2\n3\n", "", "\n4"] {
            buffer.add(part.as_bytes());
            lines.extend(std::iter::from_fn(|| buffer.next()));
        }
        assert_eq!(lines, ["12\n", "3\n", "\n"]);
        assert_eq!(buffer.held(), 1);
    }

    #[test]
    fn a_thread_waits_for_room_and_ends_with_its_client() {
        let (sender, receiver) = mpsc::channel(1);
        let (sender, mut lines) = (LineSender(sender), Lines(receiver));
        assert!(sender.send_blocking(&1));
        let reader = thread::spawn(move || {
            thread::sleep(LOOK * 4);
            (lines.0.blocking_recv(), lines.0.blocking_recv())
        });
        assert!(sender.send_blocking(&2));
        assert_eq!(reader.join().unwrap(), (Some("1\n".into()), Some("2\n".into())));
        assert!(!sender.send_blocking(&3));
    }
}
