//! `_catalog`: the repositories of all upstreams that can list theirs, under their names here.
//!
//! The OCI specification has no such list; people and tools that mirror registries use it. The upstreams are asked one
//! after another, in the order of the configuration, and each lists its names in its own order: registries sort in ways of
//! their own (distribution#1854), so no name is compared with another. A page ends where the client's `n`, or the number of
//! upstream pages that one request may cost, is reached, and a sealed cursor in `Link` says where.
//!
//! A client that may not see every repository learns nothing of the others: not from where pages end, and not by asking
//! for the names after one that it made up. What it asks for never reaches an upstream. Its pages are cut from the
//! upstreams' greatest ones, from their first on; they are filled with what it may see, and one that is full has a `Link`
//! whether or not anything follows. `last` is looked for among the names that it may see.

use std::collections::{BTreeMap, HashSet};

use http::{HeaderValue, Response, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::body::{Body, RequestBody};
use crate::clock;
use crate::config::limits;
use crate::gateway::authorized::AuthorizedRequest;
use crate::gateway::forward::set;
use crate::gateway::handle::HandleKind;
use crate::gateway::listing::{collect, next_query};
use crate::gateway::login;
use crate::gateway::respond::Problem;
use crate::gateway::rewrite;
use crate::gateway::route::Route;
use crate::meaning::Meaning;
use crate::proto::{Action, Link, Operation, Page, RepositoryName, link};
use crate::upstream;
use crate::upstream::{RequiredScope, Upstream};

/// Entries of a page when the client does not say.
const DEFAULT_ENTRIES: usize = 100;

/// The beginning of the next page.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
struct Cursor {
    /// The upstream's index among those that are asked.
    u: usize,
    /// The query of its page; none for its first.
    q: Option<String>,
    /// The entries of that page that have been listed already.
    #[serde(default)]
    i: usize,
    /// The last of them, by which the place is found again if the page has changed.
    a: Option<String>,
    /// The name after which the client wants to begin, in the upstream's words. Of the first page alone.
    #[serde(default)]
    l: Option<String>,
    /// The names of this upstream to leave out.
    #[serde(default)]
    s: Option<Skip>,
}

/// The names that come before the page of a client that does not see all of them.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
enum Skip {
    /// Those up to and including this one.
    Through(String),
    /// Those that do not sort behind this one, which the client does not see or which is not there.
    UpTo(String),
}

/// A page of an upstream's own catalog.
struct UpstreamPage {
    /// The query that it was asked with.
    query: String,
    names: Vec<String>,
    /// The query of its next page.
    next: Option<String>,
}

/// Returns a page of the repositories that the client may see.
pub(super) async fn list(request: &AuthorizedRequest<'_>, page: &Page) -> Result<Response<Body>, Problem> {
    let core = request.core;
    let sees = |route: &Route| login::may_see(core, request.permit.subject(), route, &[Action::Pull]);
    let only = core.routes.only(request.addressing, sees).map_err(Problem::Route)?;
    let mut routes: Vec<&Route> = match only {
        Some(route) => vec![route],
        None => core.routes.iter().collect(),
    };
    routes.retain(|route| sees(route));
    let wanted =
        page.n.and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_ENTRIES).min(limits::CATALOG_ENTRIES);
    let mut walk = Walk {
        request,
        routes,
        own_names: only.is_some(),
        sees_all: core.rules.may_list_all(&request.permit),
        wanted,
        asked: page.n,
        names: Vec::new(),
        listed: HashSet::new(),
        missing: Vec::new(),
    };
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
    /// The client may see every repository: upstreams are asked for what it asks for.
    sees_all: bool,
    wanted: usize,
    /// The client's own `n`.
    asked: Option<u64>,
    names: Vec<String>,
    /// The names of `names`, to find repeated ones.
    listed: HashSet<String>,
    /// The upstreams that did not list theirs, and why.
    missing: Vec<(String, Problem)>,
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
        let (upstream, name_there) = self.upstream_of(last);
        if self.sees_all {
            Cursor { u: upstream, l: Some(name_there), ..Cursor::default() }
        } else {
            Cursor { u: upstream, s: Some(Skip::Through(last.to_owned())), ..Cursor::default() }
        }
    }

    /// Returns the index of the upstream that a name belongs to, and its name there.
    fn upstream_of(&self, last: &str) -> (usize, String) {
        if self.own_names {
            return (0, last.to_owned());
        }
        let belongs = |route: &Route| last.strip_prefix(route.prefix())?.strip_prefix('/').map(str::to_owned);
        let found = self.routes.iter().enumerate().filter(|(_, route)| !route.prefix().is_empty());
        let found = found.filter_map(|(index, route)| Some((index, belongs(route)?)));
        found.max_by_key(|(index, _)| self.routes[*index].prefix().len()).unwrap_or_else(|| {
            let catch_all = self.routes.iter().position(|route| route.prefix().is_empty());
            (catch_all.unwrap_or_default(), last.to_owned())
        })
    }

    /// Collects names from `cursor` on. Returns where to go on, if there is more.
    ///
    /// An upstream that refuses, or fails, is passed over, so that the others' names are listed; one that is the only one
    /// decides.
    async fn run(&mut self, mut cursor: Cursor) -> Result<Option<Cursor>, Problem> {
        let deadline = clock::now() + limits::CATALOG_DEADLINE;
        for _ in 0..limits::CATALOG_UPSTREAM_PAGES {
            if clock::now() > deadline {
                break;
            }
            let Some(route) = self.routes.get(cursor.u).copied() else { break };
            let page = match self.fetch(route, &cursor).await {
                Err(problem) if self.routes.len() == 1 => return Err(problem),
                Err(problem) => {
                    let reason = problem.summary();
                    tracing::warn!(upstream = &*route.name, reason, "an upstream is missing in the catalog");
                    self.missing.push((route.name.to_string(), problem));
                    None
                }
                Ok(page) => page,
            };
            if let Some(page) = &page
                && let Some(stopped) = self.take(route, page, &mut cursor)
            {
                // That nothing follows would tell that nothing does which the client does not see.
                return Ok(Some(stopped).filter(|cursor| !self.sees_all || cursor.u < self.routes.len()));
            }
            cursor = cursor.onward(page);
        }
        if self.missing.len() == self.routes.len() && !self.missing.is_empty() {
            return Err(self.missing.swap_remove(0).1);
        }
        Ok(Some(cursor).filter(|cursor| cursor.u < self.routes.len()))
    }

    /// Takes the names of a page that the client may see. Returns where to go on if that is enough.
    fn take(&mut self, route: &Route, page: &UpstreamPage, cursor: &mut Cursor) -> Option<Cursor> {
        let begin = page.place_of(cursor);
        for (index, name) in page.names.iter().enumerate().skip(begin) {
            let Some(name) = self.visible(route, name) else { continue };
            if cursor.skips(&name) || !self.listed.insert(name.clone()) {
                continue;
            }
            self.names.push(name);
            if self.names.len() == self.wanted {
                // To go on at another page would tell that no hidden name follows on this one.
                let after =
                    if self.sees_all { page.after(index, cursor.u) } else { page.behind(index, cursor.u) };
                let skip = cursor.s.take().filter(|_| after.u == cursor.u);
                return Some(Cursor { s: skip, ..after });
            }
        }
        None
    }

    /// Returns the name by which the client is shown what the upstream calls `name`. `None` if it may not pull it, or could
    /// not: a name outside the grammar, or one that leads to another upstream.
    fn visible(&self, route: &Route, name: &str) -> Option<String> {
        let core = self.request.core;
        let remote = RepositoryName::parse(name).ok()?;
        let canonical = route.canonical(&remote).ok()?;
        let may =
            core.routes.leads_to(route, &canonical) && core.rules.may_list(&self.request.permit, &canonical);
        may.then(|| if self.own_names { remote.to_string() } else { canonical.to_string() })
    }

    /// Reads a page of the catalog of `route`, which was asked for with `query`.
    async fn read(
        &self,
        route: &Route,
        query: String,
        answer: upstream::Response,
    ) -> Result<UpstreamPage, Problem> {
        let unusable = |reason| Problem::unusable(&route.name, reason);
        let next = next_query(&answer.headers);
        let bytes = collect(self.request, answer.body).await?;
        let bytes = bytes.ok_or_else(|| unusable("a catalog that is too long or broke off"))?;
        let names = names(&bytes).ok_or_else(|| unusable("a catalog that is no list of repositories"))?;
        Ok(UpstreamPage { query, names, next })
    }

    /// Fetches one page of an upstream. `None` if it has no catalog, or keeps it to itself as Docker Hub does.
    async fn fetch(&self, route: &Route, cursor: &Cursor) -> Result<Option<UpstreamPage>, Problem> {
        let queries = cursor.q.clone().map_or_else(|| self.first_queries(cursor), |query| vec![query]);
        let mut refused = None;
        for query in queries {
            let answer = match self.ask(route, &query).await {
                Err(Problem::Upstream { failure, .. }) if failure.meaning == Meaning::NotFound => {
                    return Ok(None);
                }
                answer => answer?,
            };
            match Upstream::meaning_of(&answer) {
                Meaning::Usable => return self.read(route, query, answer).await.map(Some),
                Meaning::NotFound | Meaning::NotOffered { .. } => return Ok(None),
                // Some registries limit `n`, and refuse a greater one (distribution, `catalog.maxentries`).
                Meaning::Rejected { status: 400 } => refused = Some(answer),
                _ => return Err(self.refusal(route, answer).await),
            }
        }
        match refused {
            Some(answer) => Err(self.refusal(route, answer).await),
            None => Ok(None),
        }
    }

    async fn ask(&self, route: &Route, query: &str) -> Result<upstream::Response, Problem> {
        let path = &route.upstream.settings().url.path;
        let mark = if query.is_empty() { "" } else { "?" };
        let target = format!("{path}/v2/_catalog{mark}{}", link::encoded(query));
        let nothing = &mut RequestBody::empty();
        self.request.send_to(&route.upstream, RequiredScope::Catalog, target, nothing).await
    }

    async fn refusal(&self, route: &Route, answer: upstream::Response) -> Problem {
        self.request.failed(&route.name, route.upstream.refusal(answer).await)
    }

    /// Returns the queries of an upstream's first page, each for where the one before it is refused: with as many entries as
    /// are wanted, with the client's own number, and with none. A client that does not see all of them has no say.
    fn first_queries(&self, cursor: &Cursor) -> Vec<String> {
        let number = |n: usize| u64::try_from(n).ok();
        let mut numbers = if self.sees_all {
            vec![number(self.wanted), self.asked, None]
        } else {
            vec![number(limits::CATALOG_ENTRIES), number(DEFAULT_ENTRIES), None]
        };
        numbers.dedup();
        let query = |n| Page { n, last: cursor.l.clone(), other: Vec::new() }.render();
        numbers.into_iter().map(query).collect()
    }

    fn answer(self, end: Option<Cursor>) -> Result<Response<Body>, Problem> {
        let body = json!({ "repositories": self.names }).to_string();
        let mut response = Response::new(Body::full(body));
        let headers = response.headers_mut();
        set(headers, header::CONTENT_TYPE, "application/json");
        rewrite::to_client(&Operation::Catalog { page: Page::default() }, headers);
        for (name, problem) in &self.missing {
            // RFC 7234 section 5.5: 299 is a persistent warning, and its text a quoted string.
            let text: String = format!("{name}: {}", problem.summary());
            let text = text.replace(['"', '\\'], "'").replace(|char: char| !(' '..='~').contains(&char), "?");
            if let Ok(warning) = HeaderValue::try_from(format!("299 - \"{text}\"")) {
                headers.append(header::WARNING, warning);
            }
        }
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

impl Cursor {
    /// Returns true if a name that the client may see comes before what it asks for.
    fn skips(&mut self, name: &str) -> bool {
        match &self.s {
            Some(Skip::Through(last)) => {
                if name == last {
                    self.s = None;
                }
                true
            }
            Some(Skip::UpTo(last)) => name <= last.as_str(),
            None => false,
        }
    }

    /// Returns where to go on when `page` has been taken; `None` is an upstream that has none.
    fn onward(self, page: Option<UpstreamPage>) -> Self {
        let next_upstream = Self { u: self.u + 1, ..Self::default() };
        let Some(page) = page else { return next_upstream };
        match (page.next, self.s) {
            // A `Link` to the same page would lead there again and again.
            (Some(next), skip) if next != page.query => {
                Self { u: self.u, q: Some(next), s: skip, ..Self::default() }
            }
            (_, Some(Skip::Through(last))) => {
                Self { u: self.u, s: Some(Skip::UpTo(last)), ..Self::default() }
            }
            _ => next_upstream,
        }
    }
}

impl UpstreamPage {
    /// Returns the index of the first entry that has not been listed.
    fn place_of(&self, cursor: &Cursor) -> usize {
        let Some(last) = cursor.i.checked_sub(1) else {
            // A registry that ignores `last` begins at its first name.
            let ignored = self.names.iter().position(|name| Some(name) == cursor.l.as_ref());
            return ignored.map_or(0, |index| index + 1);
        };
        let is_last = |name: &String| Some(name) == cursor.a.as_ref();
        if self.names.get(last).is_some_and(is_last) {
            return cursor.i;
        }
        // If it is gone, the next one has taken its place.
        self.names.iter().position(is_last).map_or(last, |index| index + 1)
    }

    /// Returns where to go on behind the entry at `index`, at the upstream number `upstream`.
    fn after(&self, index: usize, upstream: usize) -> Cursor {
        match (&self.next, index + 1 == self.names.len()) {
            (Some(next), true) => Cursor { u: upstream, q: Some(next.clone()), ..Cursor::default() },
            (None, true) => Cursor { u: upstream + 1, ..Cursor::default() },
            (_, false) => self.behind(index, upstream),
        }
    }

    /// Returns the place on this page behind the entry at `index`.
    fn behind(&self, index: usize, upstream: usize) -> Cursor {
        let (query, name) = (self.query.clone(), self.names[index].clone());
        Cursor { u: upstream, q: Some(query), i: index + 1, a: Some(name), ..Cursor::default() }
    }
}

/// Returns the names of a catalog. Go writes an empty list as null.
fn names(bytes: &[u8]) -> Option<Vec<String>> {
    let mut catalog: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(bytes).ok()?;
    let names: Option<Vec<String>> = serde_json::from_str(catalog.remove("repositories")?.get()).ok()?;
    Some(names.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str]) -> UpstreamPage {
        let names = names.iter().map(ToString::to_string).collect();
        UpstreamPage { query: "n=9".into(), names, next: None }
    }

    #[test]
    fn the_place_in_a_page_is_found_again() {
        let cursor = page(&["b", "a", "c"]).after(1, 0);
        assert_eq!((cursor.i, cursor.a.as_deref(), cursor.q.as_deref()), (2, Some("a"), Some("n=9")));
        for (names, place) in [
            (&["b", "a", "c"][..], 2),
            (&["x", "b", "a", "c"], 3),
            (&["a", "c"], 1),
            (&["b", "c"], 1),
            (&[], 1),
        ] {
            assert_eq!(page(names).place_of(&cursor), place, "{names:?}");
        }
        assert_eq!(page(&["a"]).place_of(&Cursor::default()), 0);
        let after = Cursor { l: Some("a".into()), ..Cursor::default() };
        assert_eq!((page(&["b", "a", "c"]).place_of(&after), page(&["b"]).place_of(&after)), (2, 0));
        assert_eq!(page(&["a"]).after(0, 3), Cursor { u: 4, ..Cursor::default() });
    }

    #[test]
    fn only_a_list_of_repositories_is_a_catalog() {
        assert_eq!(names(br#"{"repositories":["B","a"]}"#), Some(vec!["B".into(), "a".into()]));
        assert_eq!(names(br#"{"repositories":null}"#), Some(Vec::new()));
        for bad in [
            "",
            "{}",
            "[]",
            "<html>",
            r#"{"errors":[]}"#,
            r#"{"repositories":{}}"#,
            r#"{"repositories":[1]}"#,
        ] {
            assert_eq!(names(bad.as_bytes()), None, "{bad}");
        }
    }
}
