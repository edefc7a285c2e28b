//! The replies of the scripted upstream, also those that no real one should give.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// Holds a script back until the test opens it.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn open(&self) {
        self.0.add_permits(1);
    }

    pub(crate) async fn wait(&self) {
        self.0.acquire().await.expect("gates are never closed").forget();
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Sends the same piece so many times.
    Repeat(Vec<u8>, usize),
    Wait(Gate),
    Pause(Duration),
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// FIN, without the `close_notify` of TLS.
    Leave,
    /// Nothing more, until the gateway closes.
    Hang,
    /// The request's body, to its end.
    ReadBody,
    /// So many bytes of the request's body.
    ReadSome(usize),
    /// The body is read without a `100 Continue`.
    NeverContinue,
}

/// One answer, or what stands in its place.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    head: String,
    body: Vec<u8>,
    length: Option<String>,
    before_body: bool,
    first: Vec<Step>,
    /// Instead of head and body.
    steps: Option<Vec<Step>>,
    /// Of the body only so much, and then this.
    cut: Option<(usize, Vec<Step>)>,
    then: Vec<Step>,
}

impl Reply {
    /// An answer with a status, a Content-Length and, until told otherwise, no body.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            head: format!("HTTP/1.1 {status} Status\r\n"),
            body: Vec::new(),
            length: Some("Content-Length: 0".to_owned()),
            before_body: false,
            first: Vec::new(),
            steps: None,
            cut: None,
            then: Vec::new(),
        }
    }

    /// Its status.
    pub(crate) fn code(&self) -> u16 {
        self.head[9..12].parse().expect("a status")
    }

    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::status(200).body(body)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    /// A body with its true length.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.length = Some(format!("Content-Length: {}", self.body.len()));
        self
    }

    /// Says another length than the body has.
    pub(crate) fn claim(mut self, length: usize) -> Self {
        self.length = Some(format!("Content-Length: {length}"));
        self
    }

    /// A body that ends with the connection.
    pub(crate) fn until_close(mut self) -> Self {
        self.length = None;
        self.then = vec![Step::Close];
        self
    }

    /// The body in chunks of so many bytes.
    pub(crate) fn chunked(mut self, size: usize) -> Self {
        let mut coded = Vec::new();
        for piece in self.body.chunks(size) {
            coded.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            coded.extend_from_slice(piece);
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(b"0\r\n\r\n");
        self.body = coded;
        self.length = Some("Transfer-Encoding: chunked".to_owned());
        self
    }

    /// Sends so much of the (coded) body and, when the gate opens, closes.
    pub(crate) fn cut_after(mut self, bytes: usize, gate: &Gate) -> Self {
        self.cut = Some((bytes, vec![Step::Wait(gate.clone()), Step::Close]));
        self
    }

    /// Sends so much of the body and, when the gate opens, resets the connection.
    pub(crate) fn reset_after(mut self, bytes: usize, gate: &Gate) -> Self {
        self.cut = Some((bytes, vec![Step::Wait(gate.clone()), Step::Reset]));
        self
    }

    /// Sends so much of the body and, when the gate opens, is gone without a word of TLS.
    pub(crate) fn leave_after(mut self, bytes: usize, gate: &Gate) -> Self {
        self.cut = Some((bytes, vec![Step::Wait(gate.clone()), Step::Leave]));
        self
    }

    /// Sends so much of the body and then nothing more.
    pub(crate) fn stall_after(mut self, bytes: usize) -> Self {
        self.cut = Some((bytes, vec![Step::Hang]));
        self
    }

    /// Sends so much of the body, and the rest when the gate opens.
    pub(crate) fn pause_after(mut self, bytes: usize, gate: &Gate) -> Self {
        let rest = self.body[bytes..].to_vec();
        self.cut = Some((bytes, vec![Step::Wait(gate.clone()), Step::Send(rest)]));
        self
    }

    /// The body in pieces of so many bytes, with a pause before each.
    pub(crate) fn paced(mut self, bytes: usize, pause: Duration) -> Self {
        let pieces =
            self.body.chunks(bytes).flat_map(|piece| [Step::Pause(pause), Step::Send(piece.to_vec())]);
        self.cut = Some((0, pieces.collect()));
        self
    }

    /// A body of `count` times `piece`.
    pub(crate) fn repeat(mut self, piece: &[u8], count: usize) -> Self {
        self = self.claim(piece.len() * count);
        self.then = vec![Step::Repeat(piece.to_vec(), count)];
        self
    }

    /// Waits for the gate before it says anything.
    pub(crate) fn held(mut self, gate: &Gate) -> Self {
        self.first.push(Step::Wait(gate.clone()));
        self
    }

    /// Answers without having read the request's body.
    pub(crate) fn before_body(mut self) -> Self {
        self.before_body = true;
        self
    }

    /// Reads the request's body without saying `100 Continue`, though it is asked to.
    pub(crate) fn never_says_continue(mut self) -> Self {
        self.before_body = true;
        self.first.extend([Step::NeverContinue, Step::ReadBody]);
        self
    }

    /// Answers when so much of the request's body is there.
    pub(crate) fn after_bytes(mut self, bytes: usize) -> Self {
        self.before_body = true;
        self.first.push(Step::ReadSome(bytes));
        self
    }

    /// Closes the connection when all is said.
    pub(crate) fn then_close(mut self) -> Self {
        self.then.push(Step::Close);
        self
    }

    /// After the answer, waits until the gateway closes.
    pub(crate) fn then_hang(mut self) -> Self {
        self.then.push(Step::Hang);
        self
    }

    fn steps_only(steps: Vec<Step>) -> Self {
        Self { steps: Some(steps), ..Self::status(200) }
    }

    /// These bytes and nothing else; the connection stays open.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self::steps_only(vec![Step::Send(bytes.as_ref().to_vec())])
    }

    /// Reads the request, and never answers.
    pub(crate) fn never() -> Self {
        Self::steps_only(vec![Step::Hang])
    }

    /// Closes the connection instead of an answer.
    pub(crate) fn close() -> Self {
        Self::steps_only(vec![Step::Close])
    }

    /// Resets the connection instead of an answer.
    pub(crate) fn reset() -> Self {
        Self::steps_only(vec![Step::Reset])
    }

    pub(super) fn into_steps(self, head_request: bool) -> Vec<Step> {
        let mut steps = self.first;
        if !self.before_body {
            steps.insert(0, Step::ReadBody);
        }
        if let Some(instead) = self.steps {
            steps.extend(instead);
            steps.extend(self.then);
            return steps;
        }
        let mut bytes = self.head.into_bytes();
        if let Some(length) = self.length {
            bytes.extend_from_slice(format!("{length}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        let body = if head_request { Vec::new() } else { self.body };
        let (sent, rest) = self.cut.unwrap_or((body.len(), Vec::new()));
        bytes.extend_from_slice(&body[..sent]);
        steps.push(Step::Send(bytes));
        steps.extend(rest);
        steps.extend(self.then);
        steps
    }
}
