//! end-4, end-5, end-6, end-11, end-13, end-14: blobs on their way in.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body::Body;

use crate::clock;
use crate::demo::registry::answer::{Answer, DOCKER_CONTENT_DIGEST, DOCKER_UPLOAD_UUID};
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::state::Registry;
use crate::demo::registry::upload::{Lease, Upload};
use crate::proto::range::UploadRange;
use crate::proto::{Algorithm, Digest, RepositoryName, UploadStart};

impl Registry {
    pub(super) async fn start_upload<B: Body<Data = Bytes>>(
        &self,
        name: &RepositoryName,
        start: UploadStart,
        body: B,
    ) -> Result<Answer, Refusal> {
        match start {
            UploadStart::Monolithic(digest) => self.push_whole(name, &digest, body).await,
            UploadStart::Mount { digest, from: Some(from) } if self.store().mount(name, &digest, &from) => {
                Ok(created(name, &digest))
            }
            UploadStart::Algorithm(algorithm) => self.open_session(name, known_algorithm(&algorithm)),
            // A mount that cannot be made is an ordinary upload (distribution-spec, end-11). So is one without
            // `from`: what may be mounted from anywhere could be read from anywhere.
            UploadStart::Session | UploadStart::Mount { .. } | UploadStart::Unmountable => {
                self.open_session(name, Algorithm::Sha256)
            }
        }
    }

    pub(super) fn upload_status(&self, name: &RepositoryName, session: &str) -> Result<Answer, Refusal> {
        let received = self.uploads.received(name, session, clock::now())?;
        Ok(progress(StatusCode::NO_CONTENT, name, session, received))
    }

    /// Appends to an upload: with `Content-Range` a chunk in its order, without one a stream that goes on where the
    /// last ended.
    pub(super) async fn patch_upload<B: Body<Data = Bytes>>(
        &self,
        name: &RepositoryName,
        session: &str,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, Refusal> {
        let mut lease = self.uploads.lease(name, session, clock::now())?;
        demand_order(&lease, name, session, headers, &body)?;
        self.receive(&mut lease, body).await?;
        Ok(progress(StatusCode::ACCEPTED, name, session, lease.received()))
    }

    /// Finishes an upload; the body, if there is one, is the last chunk.
    pub(super) async fn finish_upload<B: Body<Data = Bytes>>(
        &self,
        name: &RepositoryName,
        session: &str,
        digest: &Digest,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, Refusal> {
        let mut lease = self.uploads.lease(name, session, clock::now())?;
        demand_order(&lease, name, session, headers, &body)?;
        self.receive(&mut lease, body).await?;
        let (bytes, space) = lease.finish(digest)?;
        self.store().put_blob(name, digest, bytes, space);
        Ok(created(name, digest))
    }

    pub(super) fn cancel_upload(&self, name: &RepositoryName, session: &str) -> Result<Answer, Refusal> {
        self.uploads.cancel(name, session, clock::now())?;
        Ok(Answer::new(StatusCode::NO_CONTENT))
    }

    async fn push_whole<B: Body<Data = Bytes>>(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        body: B,
    ) -> Result<Answer, Refusal> {
        let mut upload = Upload::new(&self.space, digest.algorithm())?;
        self.demand_room(&body)?;
        upload.receive(body).await?;
        let (bytes, space) = upload.finish(digest)?;
        self.store().put_blob(name, digest, bytes, space);
        Ok(created(name, digest))
    }

    fn open_session(&self, name: &RepositoryName, algorithm: Algorithm) -> Result<Answer, Refusal> {
        let upload = Upload::new(&self.space, algorithm)?;
        let session = self.uploads.start(name, upload, clock::now())?;
        Ok(progress(StatusCode::ACCEPTED, name, &session, 0))
    }

    async fn receive<B: Body<Data = Bytes>>(&self, lease: &mut Lease, body: B) -> Result<(), Refusal> {
        self.demand_room(&body)?;
        lease.receive(body).await
    }

    /// Refuses a body that can never fit before it is sent.
    fn demand_room<B: Body>(&self, body: &B) -> Result<(), Refusal> {
        let limit = self.space.limit();
        if body.size_hint().lower() > limit { Err(Refusal::TooLarge(limit)) } else { Ok(()) }
    }
}

fn known_algorithm(name: &str) -> Algorithm {
    match name {
        "sha256" => Algorithm::Sha256,
        "sha512" => Algorithm::Sha512,
        _ => Algorithm::Other,
    }
}

fn location(name: &RepositoryName, session: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{session}")
}

fn progress(status: StatusCode, name: &RepositoryName, session: &str, received: u64) -> Answer {
    Answer::new(status)
        .header(header::LOCATION, &location(name, session))
        .header(header::RANGE, &UploadRange::received(received).to_string())
        .header(DOCKER_UPLOAD_UUID, session)
}

fn created(name: &RepositoryName, digest: &Digest) -> Answer {
    Answer::new(StatusCode::CREATED)
        .header(header::LOCATION, &format!("/v2/{name}/blobs/{digest}"))
        .header(DOCKER_CONTENT_DIGEST, digest.as_str())
}

/// Refuses a chunk that does not begin where the last one ended, with 416 (distribution-spec, "Pushing a blob in
/// chunks").
fn demand_order<B: Body>(
    lease: &Lease,
    name: &RepositoryName,
    session: &str,
    headers: &HeaderMap,
    body: &B,
) -> Result<(), Refusal> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(()) };
    let UploadRange(span) = UploadRange::parse(value.as_bytes()).ok_or(Refusal::ChunkInvalid)?;
    if span.first != lease.received() {
        return Err(Refusal::ChunkOutOfOrder {
            location: location(name, session),
            received: lease.received(),
        });
    }
    // A body of unknown length is taken as it comes; the answer's Range says how much it was.
    let is_other = body.size_hint().exact().is_some_and(|exact| exact != span.length());
    if is_other { Err(Refusal::ChunkInvalid) } else { Ok(()) }
}
