//! Looks at an upstream of the configuration as the gateway would use it.

use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use serde_json::Value;

use crate::body::RequestBody;
use crate::cli::probe::auditor::{Auditor, configured, sha256};
use crate::cli::probe::check::{Check, Table};
use crate::cli::probe::diagnosis::{Diagnosis, Kind};
use crate::cli::probe::error::ProbeError;
use crate::cli::probe::format;
use crate::cli::probe::jwt::Jwt;
use crate::cli::probe::trace::{apart, date, fields, format_lifetime, is_redirect, now, parsed};
use crate::config::Redirects;
use crate::meaning::Meaning;
use crate::proto::{Action, Challenge, Digest, Reference, RepositoryName, Scheme};
use crate::upstream::answer;
use crate::upstream::{Error, Probe, ProbeAuthorization, RequiredScope, Response, Upstream};
use crate::x509::Certificate;

/// The part of an upstream to look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    /// The upstream's name for it.
    pub(super) repository: Option<RepositoryName>,
    pub(super) reference: Option<Reference>,
    /// True if anything may be pushed.
    pub(super) write: bool,
}

impl Wanted {
    /// Parses `NAME`, `NAME:TAG` or `NAME@DIGEST`.
    pub(super) fn parse(repository: Option<&str>, write: bool) -> Result<Self, ProbeError> {
        let Some(text) = repository else { return Ok(Self { write, ..Self::default() }) };
        let (name, reference) = match text.split_once('@').or_else(|| text.split_once(':')) {
            Some((name, reference)) => (name, Some(reference)),
            None => (text, None),
        };
        let wrong = |why: String| ProbeError::Usage(format!("--repository {text:?}: {why}"));
        let repository = RepositoryName::parse(name).map_err(|error| wrong(error.to_string()))?;
        let reference =
            reference.map(Reference::parse).transpose().map_err(|error| wrong(error.to_string()))?;
        Ok(Self { repository: Some(repository), reference, write })
    }
}

/// Looks at everything. Changes nothing unless `wanted` says so.
pub(super) async fn run(probe: &Probe, wanted: Wanted) -> Table {
    let settings = probe.settings();
    let identity = probe.username().await.ok().flatten();
    let has_login = probe.has_credentials().await.unwrap_or_default();
    let anonymous = if has_login { "the holder of a token" } else { "anonymous" };
    let (upstream, url) = (settings.name.clone(), settings.url.to_string());
    let mut auditor = Auditor { probe, checks: Vec::new() };
    // A registry that refuses this would fail all further checks.
    if auditor.door().await.is_some() {
        auditor.inside(&wanted).await;
    }
    let checks = auditor.checks;
    let identity = identity.unwrap_or_else(|| anonymous.to_owned());
    Table { upstream, url, identity, checks, diagnosis: None }.judged()
}

/// A blob to look at.
struct Blob {
    digest: Digest,
    size: u64,
}

impl Auditor<'_> {
    /// Checks connection, challenge, token and login. `None` where the login fails.
    async fn door(&mut self) -> Option<()> {
        self.tls().await?;
        let challenges = self.challenge().await?;
        if !challenges.is_empty() {
            self.token(&challenges).await?;
        }
        self.login().await
    }

    async fn inside(&mut self, wanted: &Wanted) {
        match self.repository(wanted).await {
            Some(name) => self.read(&name, wanted.reference.clone()).await,
            None => self.add(
                Check::minor("repository", "it lists none").advise("name one to look at: --repository NAME"),
            ),
        }
        if wanted.write && self.probe.settings().read_only {
            self.add(Check::skipped("upload", "read_only is set: the gateway pushes nothing"));
        } else if wanted.write {
            self.write(wanted.repository.as_ref()).await;
        }
    }

    async fn tls(&mut self) -> Option<()> {
        match self.probe.certificates().await {
            Ok(None) => self.add(Check::ok("TLS", "none: its URL says http")),
            Ok(Some(chain)) if self.probe.settings().insecure => {
                let found = format!("not verified, since insecure is set: {}", shown(&chain));
                self.add(Check::minor("TLS", found).advise("upstream.ca = \"FILE\" names the CA to trust"));
            }
            Ok(Some(chain)) => self.add(Check::ok("TLS", shown(&chain))),
            Err(error) => {
                let diagnosis = Diagnosis::of(&error.into(), now());
                let other = diagnosis.kind == Kind::Tls && self.probe.speaks_other_scheme().await;
                self.add(Check::diagnosed("TLS", if other { speaks_http(self.probe) } else { diagnosis }));
                return None;
            }
        }
        Some(())
    }

    /// Asks for the challenge at `/v2/`; none is a good answer too.
    async fn challenge(&mut self) -> Option<Vec<Challenge>> {
        let way = self.probe.own("/v2/");
        let response =
            match self.probe.ask(&Method::GET, &way, fields(), &ProbeAuthorization::default()).await {
                Ok(response) => response,
                Err(error) => return self.failed("challenge", &error),
            };
        self.clock(&response.headers);
        let challenges = parsed(&response.headers);
        let schemes = challenges.iter().any(|one| matches!(one.scheme, Scheme::Bearer | Scheme::Basic));
        match response.status {
            StatusCode::UNAUTHORIZED if schemes => {
                let found: Vec<_> =
                    challenges.iter().map(|one| self.probe.without_secrets(&one.to_string())).collect();
                self.add(Check::ok("challenge", found.join(", ")));
            }
            StatusCode::UNAUTHORIZED => {
                let found = "401 without Basic or Bearer: no client can answer that";
                self.add(Check::diagnosed("challenge", Diagnosis::new(Kind::NoRegistry, found)));
                return None;
            }
            status if status.is_success() => {
                self.add(Check::ok("challenge", "none: /v2/ is open without a login"))
            }
            status => {
                let found = format!("/v2/ answers {status}");
                self.add(Check::diagnosed("challenge", Diagnosis::new(Kind::NoRegistry, found)));
                return None;
            }
        }
        Some(if response.status == StatusCode::UNAUTHORIZED { challenges } else { Vec::new() })
    }

    fn clock(&mut self, headers: &HeaderMap) {
        let Some(there) = date(headers) else {
            return self.add(Check::ok("clock", "it does not say what time it is"));
        };
        let skew = there.saturating_sub(now());
        if skew.abs() <= 60 {
            return self.add(Check::ok("clock", "the same as here"));
        }
        let found = format!("its clock is {}", apart(skew, "the one here"));
        self.add(Check::minor("clock", found).advise("tokens and certificates may seem too old or too new"));
    }

    /// Asks for a token that is good for `/v2/`.
    async fn token(&mut self, challenges: &[Challenge]) -> Option<()> {
        for challenge in challenges {
            let request = match self.probe.token_request(challenge, &RequiredScope::Version).await {
                Ok(Some(request)) if !request.is_needless() => request,
                Ok(_) => continue,
                Err(error) => return self.failed("token", &error.into()),
            };
            match self.probe.token(&request).await {
                Ok(given) => {
                    let answer = &given.answer;
                    let kind = match Jwt::decode(answer.token.expose()) {
                        Some(_) => "a JWT".to_owned(),
                        None => format!("opaque, {} characters", answer.token.expose().chars().count()),
                    };
                    let said = answer.expires_in.is_some();
                    let life = format_lifetime(answer.lifetime(), said, answer.issued_at_unix());
                    self.add(Check::ok("realm", format::plain(challenge.param("realm").unwrap_or_default())));
                    self.add(Check::ok("token", format!("{kind}, {life}")));
                }
                Err(error) => {
                    let name = self.probe.username().await.ok().flatten();
                    let diagnosis = Diagnosis::of_token(&error, name.as_deref(), now());
                    let row = if diagnosis.kind == Kind::RealmElsewhere { "realm" } else { "token" };
                    let diagnosis = configured(diagnosis);
                    self.add(Check::diagnosed(row, diagnosis));
                    return None;
                }
            }
            return Some(());
        }
        Some(())
    }

    async fn login(&mut self) -> Option<()> {
        match self.get("/v2/", RequiredScope::Version, &[]).await {
            Err(error) => self.failed("login", &error),
            Ok(response) if response.status.is_success() => {
                self.add(Check::ok("login", "/v2/ answers 200"));
                Some(())
            }
            Ok(response) => {
                let found = self.said(response).await;
                self.add(Check::bad("login", found));
                None
            }
        }
    }

    /// Returns the one that was named, or the first that is listed.
    async fn repository(&mut self, wanted: &Wanted) -> Option<RepositoryName> {
        let library = self.probe.settings().library;
        if let Some(name) = &wanted.repository {
            let single = library && !name.as_str().contains('/');
            return if single { name.with_prefix("library").ok() } else { Some(name.clone()) };
        }
        if library {
            return RepositoryName::parse("library/alpine").ok();
        }
        let response = self.get("/v2/_catalog?n=1", RequiredScope::Catalog, &[]).await.ok()?;
        let listed = self.json(response).await?;
        RepositoryName::parse(listed.get("repositories")?.get(0)?.as_str()?).ok()
    }

    /// Checks everything that a pull needs.
    async fn read(&mut self, name: &RepositoryName, reference: Option<Reference>) {
        let tags = self.tags(name).await;
        let reference = reference.or_else(|| Reference::parse(tags.as_deref().unwrap_or("latest")).ok());
        let Some(reference) = reference else { return };
        let Some((digest, manifest)) = self.manifest(name, &reference).await else { return };
        self.referrers(name, &digest).await;
        match self.blob_of(name, manifest).await {
            Some(blob) => self.blob(name, &blob).await,
            None => self.add(Check::skipped("blob", format!("{name} {reference} names none"))),
        }
    }

    /// Returns the tag to look at: `latest`, or the first.
    async fn tags(&mut self, name: &RepositoryName) -> Option<String> {
        let target = format!("/v2/{name}/tags/list");
        let response = match self.get(&target, pull(name), &[]).await {
            Ok(response) => response,
            Err(error) => return self.failed("tags/list", &error),
        };
        if !response.status.is_success() {
            let found = self.said(response).await;
            self.add(Check::minor("tags/list", found).advise("pulls do without"));
            return None;
        }
        let Some(listed) = self.list(response).await else {
            self.add(Check::bad("tags/list", format!("of {name}: something else than a list of tags")));
            return None;
        };
        let tags = listed.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
        let tags: Vec<_> = tags.iter().filter_map(Value::as_str).collect();
        self.add(Check::ok("tags/list", format!("of {name}: {}", tags.len())));
        let latest = tags.iter().find(|tag| **tag == "latest").or_else(|| tags.first());
        latest.map(|tag| (*tag).to_owned())
    }

    /// Checks HEAD and GET of a manifest, and returns its digest and content.
    async fn manifest(&mut self, name: &RepositoryName, reference: &Reference) -> Option<(Digest, Value)> {
        let target = format!("/v2/{name}/manifests/{reference}");
        let said = self.manifest_head(name, reference, &target).await?;
        let response = match self.get(&target, pull(name), &[]).await {
            Ok(response) if response.status.is_success() => response,
            Ok(response) => {
                let found = self.said(response).await;
                self.add(Check::bad("manifest", found));
                return None;
            }
            Err(error) => return self.failed("manifest", &error),
        };
        let named = digest_in(&response.headers).is_some();
        let response = match answer::manifest(reference, response, None).await {
            Ok(response) => response,
            Err(failure) => {
                self.add(
                    Check::bad("manifest", &*failure.cause).advise("clients get what is cached, or 502"),
                );
                return None;
            }
        };
        let body = self.body(response).await?;
        let actual = sha256(&body)?;
        let contradicted = said.filter(|said| !named && !said.is_of(&body));
        if let Some(said) = contradicted {
            let found = format!("HEAD says {said}, and it is {actual}");
            self.add(Check::bad("manifest", found).advise("clients refuse it"));
            return None;
        }
        self.add(Check::ok("manifest", format!("{reference} is {actual}, {} bytes", body.len())));
        Some((actual, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// Checks HEAD of a manifest, and returns the digest that it names. What it refuses, GET decides, as in the gateway. `None`
    /// where there is no answer at all.
    async fn manifest_head(
        &mut self,
        name: &RepositoryName,
        reference: &Reference,
        target: &str,
    ) -> Option<Option<Digest>> {
        let what = "manifest HEAD";
        let head = match self.send(&Method::HEAD, target, pull(name), &[]).await {
            Ok(head) => head,
            Err(error) => return self.failed(what, &error),
        };
        if !head.status.is_success() {
            let found = format!("HEAD of {name} {reference} answers {}", head.status);
            self.add(Check::minor(what, found).advise(BY_GET));
            return Some(None);
        }
        let head = match answer::manifest_head(head) {
            Ok(head) => head,
            Err(failure) if failure.meaning == Meaning::Unusable => {
                self.add(Check::bad(what, &*failure.cause).advise("clients get what is cached, or 502"));
                return None;
            }
            Err(failure) => {
                self.add(Check::minor(what, &*failure.cause).advise(BY_GET));
                return Some(None);
            }
        };
        let missing = [header::CONTENT_TYPE, header::CONTENT_LENGTH, DIGEST];
        let missing: Vec<_> = missing.iter().filter(|name| !head.headers.contains_key(*name)).collect();
        let missing: Vec<_> = missing.iter().map(|name| name.as_str()).collect();
        self.add(match missing.as_slice() {
            [] => Check::ok(what, "with type, length and digest"),
            missing => Check::minor(what, format!("without {}", missing.join(", ")))
                .advise("clients have to read the whole manifest"),
        });
        Some(digest_in(&head.headers))
    }

    async fn referrers(&mut self, name: &RepositoryName, digest: &Digest) {
        let what = "referrers";
        let target = format!("/v2/{name}/referrers/{digest}");
        let response = match self.get(&target, pull(name), &[]).await {
            Ok(response) => response,
            Err(error) => return self.add(Check::minor(what, format::chain(&error))),
        };
        let status = response.status;
        let body = self.body(response).await.unwrap_or_default();
        let check = match (Upstream::without_referrers(status, &body), status) {
            (Some(_), _) => {
                Check::ok(what, format!("not offered ({}): clients look for a tag instead", status.as_u16()))
            }
            (None, StatusCode::OK) => Check::ok(what, "listed"),
            (None, StatusCode::NOT_FOUND) => {
                Check::ok(what, "not listed (404): clients look for a tag instead")
            }
            (None, _) => {
                Check::minor(what, format!("answers {status}")).advise("signatures may not be found")
            }
        };
        self.add(check);
    }

    /// Returns a blob of the manifest, or of the first that an index names.
    async fn blob_of(&self, name: &RepositoryName, manifest: Value) -> Option<Blob> {
        let manifest = match manifest.get("manifests").and_then(|list| list.get(0)) {
            None => manifest,
            Some(first) => {
                let target = format!("/v2/{name}/manifests/{}", first.get("digest")?.as_str()?);
                self.json(self.get(&target, pull(name), &[]).await.ok()?).await?
            }
        };
        let first =
            manifest.get("layers").and_then(|layers| layers.get(0)).or_else(|| manifest.get("config"))?;
        let digest = Digest::parse(first.get("digest")?.as_str()?).ok()?;
        Some(Blob { digest, size: first.get("size")?.as_u64()? })
    }

    async fn blob(&mut self, name: &RepositoryName, blob: &Blob) {
        let target = format!("/v2/{name}/blobs/{}", blob.digest);
        if self.redirect(name, &target).await.is_none() {
            return;
        }
        let size = blob.size;
        let check = self.judged("blob HEAD", self.send(&Method::HEAD, &target, pull(name), &[]), |head| {
            let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
            match length.map(str::parse::<u64>) {
                _ if !head.status.is_success() => {
                    Err(Check::minor("blob HEAD", format!("answers {}", head.status)).advise(BY_GET))
                }
                Some(Ok(length)) if size == length => Ok(format!("{size} bytes")),
                None => Err(Check::minor("blob HEAD", "without Content-Length")),
                Some(_) => {
                    Err(Check::bad("blob HEAD", format!("its length is not {size}, as the manifest has it")))
                }
            }
        });
        let check = check.await;
        self.add(check);
        let range = [(header::RANGE, "bytes=0-0".to_owned())];
        let check = self.judged("Range", self.get(&target, pull(name), &range), |part| {
            let right = content_range(part) == Some(format!("bytes 0-0/{size}"));
            match part.status {
                StatusCode::PARTIAL_CONTENT if right => Ok("206 with the right Content-Range".to_owned()),
                StatusCode::PARTIAL_CONTENT => Err(Check::bad("Range", "206 with a wrong Content-Range")
                    .advise("what breaks off is not gone on with")),
                StatusCode::OK => Err(Check::minor("Range", "ignored (200)")
                    .advise("a blob that breaks off has to be pulled again from its start")),
                status => Err(Check::minor("Range", format!("answers {status}"))),
            }
        });
        let check = check.await;
        self.add(check);
        let range = [(header::RANGE, format!("bytes={size}-"))];
        let check = self.judged("Range beyond", self.get(&target, pull(name), &range), |part| {
            match (part.status, content_range(part)) {
                (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) if range == format!("bytes */{size}") => {
                    Ok("416 with the length".to_owned())
                }
                (StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                    Err(Check::minor("Range beyond", "416 without the right length"))
                }
                (status, _) => Err(Check::minor("Range beyond", format!("answers {status} instead of 416"))),
            }
        });
        let check = check.await;
        self.add(check);
    }

    /// Returns where its blobs are. `None` where the gateway does not go there.
    async fn redirect(&mut self, name: &RepositoryName, target: &str) -> Option<()> {
        let way = self.probe.own(target);
        let mut body = RequestBody::empty();
        let range = [(header::RANGE, "bytes=0-0".to_owned())];
        let request = self.request(&Method::GET, target, pull(name), &range, &mut body);
        let response = match self.probe.send_without_redirects(&way, request).await {
            Ok(response) => response,
            Err(error) => return self.failed("redirects", &error),
        };
        if !is_redirect(response.status) {
            self.add(Check::ok("redirects", "none: it serves its blobs itself"));
            return Some(());
        }
        let location = response.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let passed = self.probe.settings().redirects == Redirects::Pass;
        match self.probe.redirect(&way, location.unwrap_or_default()) {
            Ok(to) => {
                let how = if passed { "passed to the client" } else { "followed by the gateway" };
                self.add(Check::ok("redirects", format!("blobs are at {}: {how}", to.host())));
            }
            Err(error) if passed => {
                let found = format!("passed to the client; the gateway itself would not go there: {error}");
                self.add(Check::minor("redirects", found));
                return None;
            }
            Err(error) => {
                self.add(Check::diagnosed("redirects", Diagnosis::elsewhere(Kind::Redirect, &error)));
                return None;
            }
        }
        Some(())
    }

    async fn judged(
        &self,
        what: &'static str,
        asked: impl Future<Output = Result<Response, Error>>,
        judge: impl FnOnce(&Response) -> Result<String, Check>,
    ) -> Check {
        match asked.await {
            Ok(response) => judge(&response).map_or_else(|check| check, |found| Check::ok(what, found)),
            Err(error) => self.failure(what, &error),
        }
    }
}

const BY_GET: &str = "GET decides, also for the gateway";

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

fn pull(name: &RepositoryName) -> RequiredScope {
    RequiredScope::Repository(name.clone(), Action::Pull)
}

fn speaks_http(probe: &Probe) -> Diagnosis {
    let words = format!("{} is asked by https, and speaks http", probe.settings().url.authority());
    Diagnosis::new(Kind::PlainHttp, words).advise("upstream.url = \"http://...\", if the network is trusted")
}

/// Formats the server's own certificate, and its chain of signers.
fn shown(chain: &[Certificate]) -> String {
    let Some(own) = chain.first() else { return "a certificate that can't be read".to_owned() };
    let subject = if own.subject.is_empty() { "a certificate without a subject" } else { &own.subject };
    let until = chain.iter().map(|one| format::unix(one.not_after)).min();
    let until = until.and_then(|until| format::moment(until, now())).unwrap_or_default();
    let issuers: Vec<_> = chain.iter().map(|one| one.issuer.as_str()).collect();
    format!("{subject}, signed by {}, good until {until}", issuers.join(", by "))
}

fn content_range(response: &Response) -> Option<String> {
    response.headers.get(header::CONTENT_RANGE)?.to_str().ok().map(str::to_owned)
}

fn digest_in(headers: &HeaderMap) -> Option<Digest> {
    Digest::parse(headers.get(DIGEST)?.to_str().ok()?).ok()
}
