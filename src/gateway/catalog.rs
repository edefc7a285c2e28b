//! `_catalog`: the repositories of all upstreams that can list theirs, under their names here.
//!
//! The OCI specification has no such list; people and tools that mirror registries use it. The upstreams are asked one after
//! another, in the order of the configuration. A page ends at the client's `n`, or at the number of upstream pages that one
//! request may cost, and a sealed cursor in `Link` says where.

use http::{Response, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::body::{Body, RequestBody};
use crate::config::limits;
use crate::gateway::authorized::AuthorizedRequest;
use crate::gateway::forward::set;
use crate::gateway::handle::HandleKind;
use crate::gateway::listing::collect;
use crate::gateway::login;
use crate::gateway::respond::Problem;
use crate::gateway::rewrite;
use crate::gateway::route::Route;
use crate::meaning::Meaning;
use crate::proto::{Link, Operation, Page, RepositoryName, link};
use crate::upstream::RequiredScope;

/// Entries of a page when the client does not say.
const DEFAULT_ENTRIES: usize = 100;

/// The beginning of the next page.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Cursor {
    /// The upstream's index among those that are asked.
    u: usize,
    /// Its own cursor: the query of its next page.
    q: String,
    /// The name after which to begin within its page, if the page was not used up.
    a: Option<String>,
}

/// A page of an upstream's own catalog.
struct UpstreamPage {
    names: Vec<RepositoryName>,
    /// The query of its next page.
    next: Option<String>,
}

/// Returns a page of the repositories that the client may see.
pub(super) async fn list(request: &AuthorizedRequest<'_>, page: &Page) -> Result<Response<Body>, Problem> {
    let only = request.core.routes.only(request.addressing).map_err(Problem::Route)?;
    let mut routes: Vec<&Route> = match only {
        Some(route) => vec![route],
        None => request.core.routes.iter().collect(),
    };
    routes.retain(|route| login::may_enter(request.permit.identity(), route));
    let wanted =
        page.n.and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_ENTRIES).min(limits::CATALOG_ENTRIES);
    let mut walk = Walk { request, routes, own_names: only.is_some(), wanted, names: Vec::new() };
    let begin = walk.begin(page);
    let end = if wanted == 0 { None } else { walk.run(begin).await? };
    walk.answer(end)
}

/// A walk through the upstreams' catalogs, for one page.
struct Walk<'a> {
    request: &'a AuthorizedRequest<'a>,
    routes: Vec<&'a Route>,
    /// The client has addressed one upstream: its repositories are listed as that address names them.
    own_names: bool,
    wanted: usize,
    names: Vec<String>,
}

impl Walk<'_> {
    /// Returns where to begin: `last` is one of our cursors, or the name after which to begin.
    fn begin(&self, page: &Page) -> Cursor {
        let Some(last) = &page.last else { return Cursor::default() };
        let sealed = self.request.core.shared.sealer.open(HandleKind::Cursor, last);
        sealed.unwrap_or_else(|| self.begin_after(last))
    }

    /// Returns where to begin after a name: at the upstream that it belongs to, after its name there.
    fn begin_after(&self, last: &str) -> Cursor {
        let belongs = |route: &Route| last.strip_prefix(route.prefix())?.strip_prefix('/').map(str::to_owned);
        let found = self.routes.iter().enumerate().filter(|(_, route)| !route.prefix().is_empty());
        let found = found.filter_map(|(index, route)| Some((index, belongs(route)?)));
        let (index, after) =
            found.max_by_key(|(index, _)| self.routes[*index].prefix().len()).unwrap_or_else(|| {
                let catch_all = self.routes.iter().position(|route| route.prefix().is_empty());
                (catch_all.unwrap_or_default(), last.to_owned())
            });
        Cursor { u: index, q: String::new(), a: Some(after) }
    }

    /// Collects names from `cursor` on. Returns where to go on, if there is more.
    async fn run(&mut self, mut cursor: Cursor) -> Result<Option<Cursor>, Problem> {
        for _ in 0..limits::CATALOG_UPSTREAM_PAGES {
            let Some(route) = self.routes.get(cursor.u).copied() else { return Ok(None) };
            let page = self.fetch(route, &cursor).await?;
            if let Some(stopped) = self.take(route, &page, &cursor) {
                return Ok(Some(stopped));
            }
            cursor = match page.next {
                Some(next) => Cursor { u: cursor.u, q: next, a: None },
                None => Cursor { u: cursor.u + 1, ..Cursor::default() },
            };
        }
        Ok((cursor.u < self.routes.len()).then_some(cursor))
    }

    /// Takes the names of a page that the client may see. Returns where to go on if that is enough.
    fn take(&mut self, route: &Route, page: &UpstreamPage, cursor: &Cursor) -> Option<Cursor> {
        for remote in &page.names {
            if cursor.a.as_deref().is_some_and(|after| remote.as_str() <= after) {
                continue;
            }
            let Ok(canonical) = route.canonical(remote) else { continue };
            if !self.request.core.rules.may_list(&self.request.permit, &canonical) {
                continue;
            }
            self.names.push(if self.own_names { remote.to_string() } else { canonical.to_string() });
            if self.names.len() == self.wanted {
                let last = page.names.last() == Some(remote);
                return match (&page.next, last) {
                    (Some(next), true) => Some(Cursor { u: cursor.u, q: next.clone(), a: None }),
                    (None, true) if cursor.u + 1 == self.routes.len() => None,
                    (None, true) => Some(Cursor { u: cursor.u + 1, ..Cursor::default() }),
                    (_, false) => Some(Cursor { a: Some(remote.to_string()), ..cursor.clone() }),
                };
            }
        }
        None
    }

    /// Fetches one page of an upstream. One that has no catalog, or keeps it to itself, has no names to add.
    async fn fetch(&self, route: &Route, cursor: &Cursor) -> Result<UpstreamPage, Problem> {
        let settings = route.upstream.settings();
        let query = if cursor.q.is_empty() { self.first_query(cursor) } else { cursor.q.clone() };
        let target = format!("{}/v2/_catalog?{query}", settings.url.path);
        let nothing = &mut RequestBody::empty();
        let answer = self.request.send_to(&route.upstream, RequiredScope::Catalog, target, nothing).await;
        let answer = match answer {
            // Docker Hub keeps its catalog to itself this way.
            Err(Problem::Upstream { failure, .. }) if failure.meaning == Meaning::NotFound => {
                return Ok(UpstreamPage { names: Vec::new(), next: None });
            }
            answer => answer?,
        };
        if !answer.status.is_success() {
            tracing::debug!(
                upstream = settings.name,
                status = answer.status.as_u16(),
                "the upstream gives no catalog"
            );
            return Ok(UpstreamPage { names: Vec::new(), next: None });
        }
        let next = link::next(answer.headers.get_all(header::LINK).iter().map(|value| value.as_bytes()));
        let next = next.and_then(|target| target.split_once('?').map(|(_, query)| query.to_owned()));
        let unusable = |reason| Problem::unusable(&settings.name, reason);
        let bytes =
            collect(answer.body).await.ok_or_else(|| unusable("its catalog is too long or broke off"))?;
        let names = names(&bytes).ok_or_else(|| unusable("its catalog is not a list of repositories"))?;
        Ok(UpstreamPage { names, next })
    }

    fn first_query(&self, cursor: &Cursor) -> String {
        let n = u64::try_from(self.wanted).ok();
        Page { n, last: cursor.a.clone(), other: Vec::new() }.render()
    }

    fn answer(self, end: Option<Cursor>) -> Result<Response<Body>, Problem> {
        let body = json!({ "repositories": self.names }).to_string();
        let mut response = Response::new(Body::full(body));
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, "application/json");
        rewrite::to_client(&Operation::Catalog { page: Page::default() }, headers);
        if let Some(end) = end {
            let last =
                self.request.core.shared.sealer.seal(HandleKind::Cursor, &end).map_err(Problem::Seal)?;
            let page = Page { n: u64::try_from(self.wanted).ok(), last: Some(last), other: Vec::new() };
            let target = format!("{}/_catalog?{}", self.request.locations.base(), page.render());
            set(headers, header::LINK, &Link::next(&target).to_string());
        }
        Ok(response)
    }
}

/// Returns the names of a catalog. One that is outside the grammar could not be asked for, and is left out.
fn names(bytes: &[u8]) -> Option<Vec<RepositoryName>> {
    #[derive(Deserialize)]
    struct Catalog {
        repositories: Option<Vec<String>>,
    }
    let catalog: Catalog = serde_json::from_slice(bytes).ok()?;
    let names = catalog.repositories.unwrap_or_default();
    Some(names.iter().filter_map(|name| RepositoryName::parse(name).ok()).collect())
}
