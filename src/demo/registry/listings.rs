//! end-8, end-12 and `_catalog`: what there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, header};
use serde::Serialize;

use crate::demo::registry::answer::{Answer, OCI_FILTERS_APPLIED};
use crate::demo::registry::refusal::Refusal;
use crate::demo::registry::state::Registry;
use crate::demo::registry::store::Manifest;
use crate::proto::{Digest, Operation, Page, RepositoryName};

/// The default number of repositories on a page of `_catalog`, as in distribution.
const CATALOG_PAGE: u64 = 100;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: Vec<&'a str>,
}

#[derive(Serialize)]
struct Catalog<'a> {
    repositories: Vec<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a str,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

impl Registry {
    pub(super) fn list_tags(&self, repository: RepositoryName, page: Page) -> Result<Answer, Refusal> {
        let store = self.store();
        let (tags, next) = cut(store.tags(&repository)?, &page, |tag| tag);
        let answer = listing("application/json", &Tags { name: repository.as_str(), tags });
        Ok(linked(answer, next.map(|page| Operation::ListTags { repository: repository.clone(), page })))
    }

    pub(super) fn catalog(&self, page: Page) -> Answer {
        let page = Page { n: page.n.or(Some(CATALOG_PAGE)), ..page };
        let store = self.store();
        let (repositories, next) = cut(store.names(), &page, |name| name);
        let answer = listing("application/json", &Catalog { repositories });
        linked(answer, next.map(|page| Operation::Catalog { page }))
    }

    /// distribution-spec, "Listing Referrers": 200 whether or not the subject is there; `OCI-Filters-Applied` when
    /// the registry did the filtering.
    pub(super) fn list_referrers(
        &self,
        repository: RepositoryName,
        digest: Digest,
        artifact_type: Option<String>,
        page: Page,
    ) -> Answer {
        let found = self.store().referrers(&repository, &digest);
        let wanted = |manifest: &Manifest| {
            artifact_type.as_deref().is_none_or(|wanted| manifest.document.artifact_type() == Some(wanted))
        };
        let matching = found.iter().filter(|(_, manifest)| wanted(manifest));
        let (matching, next) = cut(matching, &page, |(digest, _)| digest.as_str());
        let manifests = matching.into_iter().map(|(digest, manifest)| describe(digest, manifest)).collect();
        let answer = listing(INDEX, &Index { schema_version: 2, media_type: INDEX, manifests });
        let filtered = artifact_type.is_some();
        let next = next.map(|page| Operation::Referrers { repository, digest, artifact_type, page });
        let answer = linked(answer, next);
        if filtered { answer.header(OCI_FILTERS_APPLIED, "artifactType") } else { answer }
    }
}

fn describe<'a>(digest: &'a Digest, manifest: &'a Arc<Manifest>) -> Descriptor<'a> {
    Descriptor {
        media_type: &manifest.media_type,
        digest: digest.as_str(),
        size: manifest.bytes.len(),
        artifact_type: manifest.document.artifact_type(),
        annotations: manifest.document.annotations(),
    }
}

/// Returns the entries of one page out of all in their order, and the page that follows when entries are left.
///
/// distribution-spec, "Listing Tags": `last` is exclusive and need not exist; `n=0` gives nothing and no link.
fn cut<T>(all: impl Iterator<Item = T>, page: &Page, key: impl Fn(&T) -> &str) -> (Vec<T>, Option<Page>) {
    let is_past = |entry: &T| page.last.as_deref().is_none_or(|last| key(entry) > last);
    let mut rest = all.filter(is_past).peekable();
    let most = page.n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let entries: Vec<T> = rest.by_ref().take(most).collect();
    let last = entries.last().filter(|_| rest.peek().is_some()).map(|entry| key(entry).to_owned());
    let next = last.map(|last| Page { last: Some(last), ..page.clone() });
    (entries, next)
}

fn listing(media_type: &str, listing: &impl Serialize) -> Answer {
    // Strings and numbers alone always serialise.
    let body = serde_json::to_vec(listing).unwrap_or_default();
    Answer::json(StatusCode::OK, media_type, Bytes::from(body))
}

/// Adds the `Link` to the next page (RFC 8288), relative to the origin.
fn linked(answer: Answer, next: Option<Operation>) -> Answer {
    let Some(next) = next else { return answer };
    answer.header(header::LINK, &format!("</v2{}>; rel=\"next\"", next.path_and_query()))
}
