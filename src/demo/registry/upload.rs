//! Blobs on their way in: upload sessions and what they have received.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use parking_lot::{Mutex, MutexGuard};

use crate::demo::registry::digester;
use crate::demo::registry::digester::Digester;
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::space::{Reservation, Space};
use crate::proto::{Algorithm, Digest, RepositoryName};

/// The life of an idle session.
const SESSION_LIFE: Duration = Duration::from_secs(60 * 60);

/// The most sessions at once: each may hold memory without ever being finished.
const MOST_SESSIONS: usize = 1024;

/// No more than this is set aside on the word of a Content-Length alone.
const MOST_AHEAD: u64 = 64 << 20;

/// The upload sessions under way.
#[derive(Clone, Default)]
pub(super) struct Uploads(Arc<Mutex<HashMap<String, Session>>>);

struct Session {
    repository: RepositoryName,
    touched: Instant,
    received: u64,
    /// None while a request is writing into it.
    upload: Option<Upload>,
}

/// The bytes of one blob so far, and their digest.
pub(super) struct Upload {
    bytes: BytesMut,
    digester: Digester,
    space: Reservation,
}

/// The right to write into a session: one request at a time. Dropped, by whatever way the request ends, it
/// leaves in the session what has arrived, so that the client can ask how far it came and go on.
pub(super) struct Lease {
    uploads: Uploads,
    id: String,
    upload: Option<Upload>,
}

impl Uploads {
    /// Begins a session and gives its id.
    pub(super) fn start(
        &self,
        name: &RepositoryName,
        upload: Upload,
        now: Instant,
    ) -> Result<String, Refusal> {
        let id = session_id()?;
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.is_alive(now));
        if sessions.len() >= MOST_SESSIONS {
            return Err(Refusal::TooManyUploads);
        }
        let session = Session { repository: name.clone(), touched: now, received: 0, upload: Some(upload) };
        sessions.insert(id.clone(), session);
        Ok(id)
    }

    /// Returns how many bytes the session has received.
    pub(super) fn received(&self, name: &RepositoryName, id: &str, now: Instant) -> Result<u64, Refusal> {
        self.find(&mut self.lock(), name, id, now).map(|session| session.received)
    }

    pub(super) fn lease(&self, name: &RepositoryName, id: &str, now: Instant) -> Result<Lease, Refusal> {
        let mut sessions = self.lock();
        let session = self.find(&mut sessions, name, id, now)?;
        let upload = session.upload.take().ok_or(Refusal::UploadBusy)?;
        Ok(Lease { uploads: self.clone(), id: id.to_owned(), upload: Some(upload) })
    }

    pub(super) fn cancel(&self, name: &RepositoryName, id: &str, now: Instant) -> Result<(), Refusal> {
        let mut sessions = self.lock();
        self.find(&mut sessions, name, id, now)?;
        sessions.remove(id);
        Ok(())
    }

    fn find<'a>(
        &self,
        sessions: &'a mut MutexGuard<'_, HashMap<String, Session>>,
        name: &RepositoryName,
        id: &str,
        now: Instant,
    ) -> Result<&'a mut Session, Refusal> {
        let session =
            sessions.get_mut(id).filter(|session| session.repository == *name && session.is_alive(now));
        let session = session.ok_or(Refusal::UploadUnknown)?;
        session.touched = now;
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock()
    }
}

impl Session {
    fn is_alive(&self, now: Instant) -> bool {
        self.upload.is_none() || now.saturating_duration_since(self.touched) < SESSION_LIFE
    }
}

impl Upload {
    /// Returns an empty upload, hashed with the algorithm that its digest is expected to have.
    pub(super) fn new(space: &Arc<Space>, algorithm: Algorithm) -> Result<Self, Refusal> {
        let digester = Digester::new(algorithm).ok_or(Refusal::AlgorithmUnknown)?;
        Ok(Self { bytes: BytesMut::new(), digester, space: space.reserve(0)? })
    }

    pub(super) fn received(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Takes in a request's body. When it breaks off, what arrived stays.
    pub(super) async fn receive<B: Body<Data = Bytes>>(&mut self, body: B) -> Result<(), Refusal> {
        let mut body = pin!(body);
        let expected = body.size_hint().lower().min(MOST_AHEAD);
        self.bytes.reserve(usize::try_from(expected).unwrap_or_default());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::BodyBroken)?;
            if let Ok(data) = frame.into_data() {
                self.write(&data)?;
            }
        }
        Ok(())
    }

    /// Returns the bytes, if `digest` is theirs.
    pub(super) fn finish(self, digest: &Digest) -> Result<(Bytes, Reservation), Refusal> {
        let bytes = self.bytes.freeze();
        let computed = match digest.algorithm() == self.digester.algorithm() {
            true => Some(self.digester.finish()),
            false => digester::digest(digest.algorithm(), &bytes),
        };
        match computed.ok_or(Refusal::AlgorithmUnknown)? == *digest {
            true => Ok((bytes, self.space)),
            false => Err(Refusal::DigestInvalid(digest.clone())),
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Refusal> {
        self.space.grow(data.len())?;
        self.digester.update(data);
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Lease {
    pub(super) fn received(&self) -> u64 {
        self.upload.as_ref().map_or(0, Upload::received)
    }

    pub(super) async fn receive<B: Body<Data = Bytes>>(&mut self, body: B) -> Result<(), Refusal> {
        let upload = self.upload.as_mut().ok_or(Refusal::UploadUnknown)?;
        let received = upload.receive(body).await;
        if matches!(received, Err(Refusal::Full)) {
            self.abandon();
        }
        received
    }

    /// Ends the session, and gives its bytes if `digest` is theirs. A session whose bytes are wrong is of no
    /// more use, so it ends either way.
    pub(super) fn finish(mut self, digest: &Digest) -> Result<(Bytes, Reservation), Refusal> {
        let upload = self.upload.take().ok_or(Refusal::UploadUnknown)?;
        // A session that was cancelled meanwhile is not to be stored.
        self.uploads.lock().remove(&self.id).ok_or(Refusal::UploadUnknown)?;
        upload.finish(digest)
    }

    /// Frees the memory of an upload that does not fit, for others.
    fn abandon(&mut self) {
        self.upload = None;
        self.uploads.lock().remove(&self.id);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Some(session) = self.uploads.lock().get_mut(&self.id) {
            session.received = upload.received();
            session.upload = Some(upload);
            session.touched = crate::clock::now();
        }
    }
}

fn session_id() -> Result<String, Refusal> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Refusal::NoRandomness)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}
