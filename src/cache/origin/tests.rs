//! An upstream by script, and what it was asked: for the tests of what asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use tempfile::TempDir;

use crate::authz::{Permit, Rules};
use crate::body::Body;
use crate::cache::origin::*;
use crate::cache::view::View;
use crate::cache::{Cache, UpstreamCache};
use crate::config;
use crate::config::access::{Actions, Effect};
use crate::config::{AccessRule, Environment, PullAuthorization};
use crate::meaning::{Meaning, UpstreamFailure};
use crate::proto::identity::{Identity, UserName};
use crate::proto::{Digest, Operation, RepositoryName};

/// An upstream's answers.
#[derive(Clone)]
pub(crate) enum Reply {
    /// 200 with these header fields.
    Yes(Vec<(header::HeaderName, &'static str)>),
    /// A redirect, which is a yes, with the same.
    Elsewhere(Vec<(header::HeaderName, &'static str)>),
    No(Meaning),
}

/// An account at a scripted upstream, which answers 404 to requests without a script.
pub(crate) struct Script {
    account: Arc<str>,
    replies: Mutex<HashMap<String, Reply>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    pub(crate) fn new(account: &str) -> Arc<Self> {
        Arc::new(Self { account: account.into(), replies: Mutex::default(), asked: Mutex::default() })
    }

    /// From now on `question` gets `reply`.
    pub(crate) fn on(&self, question: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(question.to_owned(), reply);
    }

    /// Returns the requests since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Origin for Script {
    fn ask(&self, question: OriginRequest) -> Asking<'_> {
        // GET of a manifest is answered as its HEAD is, and not counted.
        let is_get = matches!(question, OriginRequest::Manifest(_));
        let question = name_of(&question);
        if !is_get {
            self.asked.lock().unwrap().push(question.clone());
        }
        Box::pin(async move {
            // Under way for a moment, so that others can join.
            tokio::task::yield_now().await;
            let reply = self.replies.lock().unwrap().get(&question).cloned();
            match reply.unwrap_or(Reply::No(Meaning::NotFound)) {
                Reply::Yes(fields) => Ok(answer(StatusCode::OK, fields)),
                Reply::Elsewhere(fields) => Ok(answer(StatusCode::TEMPORARY_REDIRECT, fields)),
                Reply::No(kind) => Err(UpstreamFailure::of(kind)),
            }
        })
    }

    fn account(&self) -> Arc<str> {
        self.account.clone()
    }
}

/// `held 07`, `public blob 07`, `public manifest latest`, `manifest head latest`: a digest by its first byte.
fn name_of(question: &OriginRequest) -> String {
    let short = |text: &str| text.split_once(':').map_or(text, |(_, encoded)| &encoded[..2]).to_owned();
    match question {
        OriginRequest::BlobExists(digest) => format!("held {}", short(digest.as_str())),
        OriginRequest::BlobFirstByte(digest) => format!("byte {}", short(digest.as_str())),
        OriginRequest::Public(Resource::Blob(digest)) => format!("public blob {}", short(digest.as_str())),
        OriginRequest::Public(Resource::Manifest(name)) => {
            format!("public manifest {}", short(name.as_str()))
        }
        OriginRequest::ManifestHead(name) | OriginRequest::Manifest(name) => {
            format!("manifest head {}", short(name.as_str()))
        }
        other => format!("{other:?}"),
    }
}

fn answer(status: StatusCode, fields: Vec<(header::HeaderName, &'static str)>) -> OriginResponse {
    let fields = fields.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
    OriginResponse {
        status,
        headers: fields.collect::<HeaderMap>(),
        body: Body::empty(),
        from: Provenance::Upstream,
    }
}

/// An upstream's cache in a directory of its own, at its defaults but for what `change` does.
pub(crate) fn upstream_cache(
    change: impl FnOnce(&mut config::UpstreamCacheOptions),
) -> (TempDir, Arc<UpstreamCache>) {
    let directory = TempDir::new().unwrap();
    config::private_folder::make_private(directory.path());
    let settings = config::Cache {
        path: directory.path().to_owned(),
        max_size: 1 << 30,
        min_free: config::MinFree::Bytes(0),
        max_object: u64::MAX,
        verify_after: config::limits::VERIFY_AFTER,
        prefetch: false,
        keep: Vec::new(),
    };
    let cache = Cache::open(&settings, None, None);
    let upstream = config::Upstream::at("https://registry.example", &Environment::default()).unwrap();
    let mut settings = config::UpstreamCacheOptions {
        tag_ttl: Duration::from_secs(300),
        stale_after: Duration::from_secs(3600),
        stale_if_error: Duration::from_secs(7 * 24 * 3600),
        not_found_ttl: Duration::from_secs(60),
        offline: false,
        pull_authorization: PullAuthorization::Shared,
        grant_stale: Duration::from_secs(3600),
    };
    change(&mut settings);
    (directory, UpstreamCache::new(cache, &upstream, &settings))
}

/// `library/alpine` for `user`, who is known to the upstream by `source`.
pub(crate) fn view(upstream_cache: &Arc<UpstreamCache>, user: &str, source: &Arc<Script>) -> View {
    View::new(upstream_cache, permit(user, true), repository(), source.clone())
}

/// Returns the view of a user who may pull, but not fetch.
pub(crate) fn view_of_held(upstream_cache: &Arc<UpstreamCache>, user: &str, source: &Arc<Script>) -> View {
    View::new(upstream_cache, permit(user, false), repository(), source.clone())
}

pub(crate) fn repository() -> RepositoryName {
    RepositoryName::parse("library/alpine").unwrap()
}

pub(crate) fn digest(number: u8) -> Digest {
    Digest::sha256(&[number; 32])
}

pub(crate) fn permit(user: &str, may_fetch: bool) -> Permit {
    let mut no_fetch = AccessRule::everything();
    no_fetch.effect = Effect::Deny;
    no_fetch.actions = Actions { fetch: true, ..Actions::default() };
    let everything = AccessRule::everything();
    let rules = if may_fetch { vec![everything] } else { vec![no_fetch, everything] };
    let identity = Identity::User(UserName::parse(user).unwrap());
    let operation = Operation::GetBlob { repository: repository(), digest: digest(1), head: false };
    let permit = Rules::new(rules, true).authorize(&identity.into(), &operation).unwrap();
    assert_eq!(permit.may_fetch(), may_fetch);
    permit
}
