//! Turns a request into its response.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;

use crate::demo::registry::answer::Answer;
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::state::Registry;
use crate::proto::{Operation, Target, TargetError};

impl Registry {
    /// Answers one request.
    pub async fn handle<B: Body<Data = Bytes>>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let answer = match parse(&head) {
            Ok(operation) => self.answer(operation, &head.headers, body).await,
            Err(error) => Err(error.into()),
        };
        let answer = answer.unwrap_or_else(|refusal| refusal.answer());
        let answer = if head.method == Method::HEAD { answer.without_body() } else { answer };
        answer.into_response()
    }

    async fn answer<B: Body<Data = Bytes>>(
        &self,
        operation: Operation,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Answer, Refusal> {
        use Operation as Op;
        match operation {
            Op::Version => Ok(Answer::json(StatusCode::OK, "application/json", Bytes::from_static(b"{}"))),
            Op::Catalog { page } => Ok(self.catalog(page)),
            Op::GetManifest { repository, reference, .. } => {
                self.get_manifest(&repository, &reference, headers)
            }
            Op::PutManifest { repository, reference, tags } => {
                self.put_manifest(&repository, &reference, tags, headers, body).await
            }
            Op::DeleteManifest { repository, reference } => self.delete_manifest(&repository, &reference),
            Op::GetBlob { repository, digest, head } => self.get_blob(&repository, &digest, head, headers),
            Op::DeleteBlob { repository, digest } => self.delete_blob(&repository, &digest),
            Op::ListTags { repository, page } => self.list_tags(repository, page),
            Op::Referrers { repository, digest, artifact_type, page } => {
                Ok(self.list_referrers(repository, digest, artifact_type, page))
            }
            Op::StartUpload { repository, start } => self.start_upload(&repository, start, body).await,
            Op::UploadStatus { repository, session } => self.upload_status(&repository, &session),
            Op::PatchUpload { repository, session } => {
                self.patch_upload(&repository, &session, headers, body).await
            }
            Op::FinishUpload { repository, session, digest } => {
                self.finish_upload(&repository, &session, &digest, headers, body).await
            }
            Op::CancelUpload { repository, session } => self.cancel_upload(&repository, &session),
        }
    }
}

/// Parses a request's target. An upstream has no prefixes. `?ns=` is for proxies; registries ignore it
/// (distribution-spec, "Registry
/// Proxying").
fn parse(head: &http::request::Parts) -> Result<Operation, TargetError> {
    let target = Target::parse(head.method.as_str(), head.uri.path(), head.uri.query())?;
    match target.prefix {
        None => Ok(target.operation),
        Some(_) => Err(TargetError::NotFound),
    }
}
