//! Pushes tiny blobs to an upstream in every way that clients have, and takes them away again.

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};

use crate::body::RequestBody;
use crate::cli::probe::auditor::{Auditor, sha256};
use crate::cli::probe::check::Check;
use crate::cli::probe::format;
use crate::clock;
use crate::proto::{Action, Digest, RepositoryName};
use crate::upstream::{Error, RequiredScope, Response};

/// The blob that is pushed.
struct Parcel {
    bytes: Bytes,
    digest: Digest,
}

impl Parcel {
    /// Creates a blob that no registry has: one that it has would not be uploaded.
    fn new(name: &str) -> Option<Self> {
        let bytes = Bytes::from(format!("dockgate probe: {name} at {:?}\n", clock::wall()));
        Some(Self { digest: sha256(&bytes)?, bytes })
    }

    fn whole(&self) -> RequestBody {
        RequestBody::held(self.bytes.clone())
    }
}

/// A header field.
type Field = (HeaderName, String);

impl Auditor<'_> {
    /// Pushes in `dockgate-probe` below `base`.
    pub(super) async fn write(&mut self, base: Option<&RepositoryName>) {
        let prefix = base.map(RepositoryName::as_str).unwrap_or_default();
        let Some(home) =
            RepositoryName::parse(REPOSITORY).ok().and_then(|name| name.with_prefix(prefix).ok())
        else {
            return self.add(Check::skipped("upload", "the repository's name would be too long"));
        };
        let (Some(chunked), Some(whole)) = (Parcel::new("in chunks"), Parcel::new("whole")) else { return };
        if self.cancelled(&home).await.is_none() {
            return;
        }
        let in_chunks = self.chunked(&home, &chunked).await.is_some();
        self.out_of_order(&home).await;
        let at_once = self.at_once(&home, &whole).await.is_some();
        if in_chunks {
            self.mounted(&home, &chunked).await;
        }
        let left = [(in_chunks, &chunked), (at_once, &whole)];
        let left = left.into_iter().filter(|(there, _)| *there).map(|(_, parcel)| parcel);
        let left: Vec<_> = left.collect();
        self.deleted(&home, &left).await;
    }

    /// Returns true if anything can be pushed at all.
    async fn cancelled(&mut self, home: &RepositoryName) -> Option<()> {
        let what = "upload";
        let session = self.started(what, home).await?;
        let found = match self.give_up(&session, home).await {
            Ok(response) if response.status == StatusCode::NO_CONTENT => {
                self.add(Check::ok(what, format!("started and given up in {home}")));
                return Some(());
            }
            Ok(response) => self.said(response).await,
            Err(error) => format::chain(&error),
        };
        let check = Check::minor(what, format!("started in {home}; giving it up: {found}"));
        self.add(check.advise("what breaks off stays until the registry cleans up"));
        Some(())
    }

    /// Pushes as docker does: a PATCH in chunks of HTTP, then a PUT.
    async fn chunked(&mut self, home: &RepositoryName, parcel: &Parcel) -> Option<()> {
        let what = "chunked upload";
        let session = self.started(what, home).await?;
        let body = RequestBody::held_unmeasured(parcel.bytes.clone());
        let patched = self.put_out(&Method::PATCH, &session, push(home), &[octets()], body).await;
        let patched = self.accepted(what, patched, &[StatusCode::ACCEPTED]).await?;
        let session = self.next_session(what, &session, &patched)?.unwrap_or(session);
        let last = with_digest(&session, &parcel.digest);
        let put = self.put_out(&Method::PUT, &last, push(home), &[], RequestBody::empty()).await;
        self.accepted(what, put, &[StatusCode::CREATED]).await?;
        self.add(Check::ok(what, "PATCH and PUT"));
        Some(())
    }

    async fn out_of_order(&mut self, home: &RepositoryName) -> Option<()> {
        let what = "chunk out of order";
        let session = self.started(what, home).await?;
        let range = (header::CONTENT_RANGE, "1000-1002".to_owned());
        let body = RequestBody::held(Bytes::from_static(b"abc"));
        let patched = self.put_out(&Method::PATCH, &session, push(home), &[octets(), range], body).await;
        let next = patched.as_ref().ok().and_then(|response| self.next_session(what, &session, response)?);
        let check = match patched {
            Err(error) => self.failure(what, &error),
            Ok(response) if response.status == StatusCode::RANGE_NOT_SATISFIABLE => {
                Check::ok(what, "refused (416)")
            }
            Ok(response) => Check::minor(what, format!("{} instead of 416", self.said(response).await))
                .advise("clients that lost count are not told so"),
        };
        self.add(check);
        // The answer has been judged; the upload is not needed any more.
        let session = next.unwrap_or(session);
        let _ = self.give_up(&session, home).await;
        Some(())
    }

    /// Pushes in one POST; the registry may want a PUT nevertheless.
    async fn at_once(&mut self, home: &RepositoryName, parcel: &Parcel) -> Option<()> {
        let what = "whole upload";
        let target = format!("/v2/{home}/blobs/uploads/?digest={}", parcel.digest);
        let posted = self.post(&target, push(home), &[octets()], parcel.whole()).await;
        let both = [StatusCode::CREATED, StatusCode::ACCEPTED];
        let posted = self.accepted(what, posted, &both).await?;
        if posted.status == StatusCode::CREATED {
            self.add(Check::ok(what, "POST"));
            return Some(());
        }
        let session = self.next_session(what, &self.path(&target), &posted)?;
        let Some(session) = session else {
            self.add(Check::bad(what, "202 without a Location"));
            return None;
        };
        let last = with_digest(&session, &parcel.digest);
        let put = self.put_out(&Method::PUT, &last, push(home), &[octets()], parcel.whole()).await;
        self.accepted(what, put, &[StatusCode::CREATED]).await?;
        self.add(Check::ok(what, "POST and PUT (202)"));
        Some(())
    }

    async fn mounted(&mut self, home: &RepositoryName, parcel: &Parcel) -> Option<()> {
        let what = "mount";
        let to = RepositoryName::parse("mounted").ok()?.with_prefix(home.as_str()).ok()?;
        let target = format!("/v2/{to}/blobs/uploads/?mount={}&from={home}", parcel.digest);
        let access = RequiredScope::Mount(to.clone(), home.clone());
        let posted = self.post(&target, access, &[], RequestBody::empty()).await;
        let posted = self.accepted(what, posted, &[StatusCode::CREATED, StatusCode::ACCEPTED]).await?;
        if posted.status == StatusCode::CREATED {
            self.add(Check::ok(what, format!("{home} to {to}")));
            let _ = self.delete(&to, parcel).await;
            return Some(());
        }
        self.add(Check::minor(what, "not done (202)").advise("clients push the blob again instead"));
        let session = self.next_session(what, &self.path(&target), &posted)??;
        let _ = self.give_up(&session, &to).await;
        Some(())
    }

    async fn deleted(&mut self, home: &RepositoryName, parcels: &[&Parcel]) {
        let what = "delete";
        for parcel in parcels {
            let check = match self.delete(home, parcel).await {
                Err(error) => Check::minor(what, format::chain(&error)),
                Ok(response) if response.status.is_success() => continue,
                Ok(response) => Check::minor(what, self.said(response).await),
            };
            let advice = format!("{} blobs of some 60 bytes are left in {home}", parcels.len());
            return self.add(check.advise(advice));
        }
        if !parcels.is_empty() {
            self.add(Check::ok(what, format!("what was pushed is gone from {home}")));
        }
    }

    /// Starts an upload; where it goes on.
    async fn started(&mut self, what: &'static str, home: &RepositoryName) -> Option<String> {
        let target = format!("/v2/{home}/blobs/uploads/");
        let posted = self.post(&target, push(home), &[], RequestBody::empty()).await;
        if let Err(error) = posted {
            let check = self.failure(what, &error).about(home);
            self.add(check.advise("--repository NAME chooses another place to push below"));
            return None;
        }
        let posted = self.accepted(what, posted, &[StatusCode::ACCEPTED]).await?;
        let session = self.next_session(what, &self.path(&target), &posted)?;
        if session.is_none() {
            self.add(Check::bad(what, "202 without a Location"));
        }
        session
    }

    /// Returns where it goes on; the inner `None` where that is not said.
    fn next_session(
        &mut self,
        what: &'static str,
        target: &str,
        answer: &Response,
    ) -> Option<Option<String>> {
        match self.probe.upload_location(target, &answer.headers) {
            Ok(location) => Some(location),
            Err(error) => self.failed(what, &error),
        }
    }

    /// Returns the answer, if it is one of `good`; else a row says what it is.
    async fn accepted(
        &mut self,
        what: &'static str,
        answer: Result<Response, Error>,
        good: &[StatusCode],
    ) -> Option<Response> {
        match answer {
            Ok(response) if good.contains(&response.status) => Some(response),
            Ok(response) => {
                let found = self.said(response).await;
                self.add(Check::bad(what, found));
                None
            }
            Err(error) => self.failed(what, &error),
        }
    }

    async fn give_up(&self, session: &str, home: &RepositoryName) -> Result<Response, Error> {
        let access = RequiredScope::Cancel(home.clone());
        self.put_out(&Method::DELETE, session, access, &[], RequestBody::empty()).await
    }

    async fn delete(&self, home: &RepositoryName, parcel: &Parcel) -> Result<Response, Error> {
        let target = self.path(&format!("/v2/{home}/blobs/{}", parcel.digest));
        let access = RequiredScope::Repository(home.clone(), Action::Delete);
        self.put_out(&Method::DELETE, &target, access, &[], RequestBody::empty()).await
    }

    async fn post(
        &self,
        target: &str,
        access: RequiredScope,
        fields: &[Field],
        body: RequestBody,
    ) -> Result<Response, Error> {
        self.put_out(&Method::POST, &self.path(target), access, fields, body).await
    }

    /// Sends a request; `target` is as in [`crate::upstream::Request`]: whole, or a URL.
    async fn put_out(
        &self,
        method: &Method,
        target: &str,
        access: RequiredScope,
        fields: &[Field],
        mut body: RequestBody,
    ) -> Result<Response, Error> {
        let mut request = self.request(method, "", access, fields, &mut body);
        target.clone_into(&mut request.target);
        self.probe.send(request).await
    }

    fn path(&self, target: &str) -> String {
        [self.probe.settings().url.path.as_str(), target].concat()
    }
}

const REPOSITORY: &str = "dockgate-probe";

fn octets() -> Field {
    (header::CONTENT_TYPE, "application/octet-stream".to_owned())
}

fn push(home: &RepositoryName) -> RequiredScope {
    RequiredScope::Repository(home.clone(), Action::Push)
}

/// Appends the digest to a location, which may have a query of its own.
fn with_digest(session: &str, digest: &Digest) -> String {
    let divider = if session.contains('?') { '&' } else { '?' };
    format!("{session}{divider}digest={digest}")
}
