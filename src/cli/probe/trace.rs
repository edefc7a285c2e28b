//! The trace through a challenge, as a person would do it by hand.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::cli::probe::diagnosis::{Diagnosis, Kind};
use crate::cli::probe::format;
use crate::cli::probe::image::ProbeTarget;
use crate::cli::probe::jwt::Jwt;
use crate::cli::probe::step::{Exchange, Header, Shown, Step, Token, TokenAnswer, Trace};
use crate::clock;
use crate::config::limits;
use crate::proto::authority::is_loopback;
use crate::proto::{Challenge, ErrorBody, Scheme, challenge};
use crate::upstream::{Error, Probe, ProbeAuthorization, ProbeDestination, RateLimit, Response};

/// Traces the requests to `place`. `username` is the login, if there is one.
pub(super) async fn run(probe: &Probe, place: &ProbeTarget, asked: &str, username: Option<&str>) -> Trace {
    let mut tracer =
        Tracer { probe, place, username, steps: Vec::new(), notes: Vec::new(), token: None, skew: None };
    let done = tracer.run().await;
    tracer.note_skew();
    let (result, diagnosis) = match done {
        Ok(result) => (Some(result), None),
        Err(diagnosis) => (None, Some(tracer.without_secrets(diagnosis))),
    };
    Trace {
        asked: asked.to_owned(),
        identity: username.unwrap_or("anonymous").to_owned(),
        steps: tracer.steps,
        notes: tracer.notes,
        result,
        diagnosis,
    }
}

struct Tracer<'a> {
    probe: &'a Probe,
    place: &'a ProbeTarget,
    username: Option<&'a str>,
    steps: Vec<Step>,
    notes: Vec<String>,
    /// The token that was given, if it can be read.
    token: Option<Jwt>,
    /// By how much the registry's clock is ahead of ours, in seconds.
    skew: Option<i64>,
}

/// The answer to the last request.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    shown: Shown,
    /// The place that answered.
    way: ProbeDestination,
    /// The errors in the body.
    errors: Vec<String>,
}

impl Tracer<'_> {
    async fn run(&mut self) -> Result<String, Diagnosis> {
        let way = self.probe.own(&self.place.target);
        let first = self.ask(way.clone(), &ProbeAuthorization::default(), Shown::Nothing).await?;
        if first.status != StatusCode::UNAUTHORIZED {
            if self.username.is_some() {
                self.notes.push("it did not ask who is there: the password was not tried".to_owned());
            }
            return self.arrive(first, &ProbeAuthorization::default()).await;
        }
        let challenges = self.challenges(&first).await?;
        let (pass, shown) = self.pass(&challenges).await?;
        let url = &self.probe.settings().url;
        if self.username.is_some() && !url.https && !is_loopback(&url.host) {
            self.notes.push("name and password travelled unencrypted".to_owned());
        }
        let second = self.ask(way, &pass, shown).await?;
        self.arrive(second, &pass).await
    }

    /// Returns the challenges of the 401. Some registries send them at `/v2/` alone.
    async fn challenges(&mut self, first: &Answer) -> Result<Vec<Challenge>, Diagnosis> {
        let mut challenges = parsed(&first.headers);
        if challenges.is_empty() && self.place.target != "/v2/" {
            self.notes.push("the 401 does not say what is wanted, so /v2/ is asked".to_owned());
            let version =
                self.ask(self.probe.own("/v2/"), &ProbeAuthorization::default(), Shown::Nothing).await?;
            challenges = parsed(&version.headers);
        }
        for challenge in &challenges {
            let told = |(key, value): &(String, String)| {
                (key.clone(), Value::from(self.probe.without_secrets(value)))
            };
            let parameters = challenge.params.iter().map(told).collect();
            self.steps.push(Step::Challenge { scheme: challenge.scheme.as_str().to_owned(), parameters });
        }
        let usable =
            challenges.iter().any(|challenge| matches!(challenge.scheme, Scheme::Basic | Scheme::Bearer));
        if usable {
            return Ok(challenges);
        }
        Err(Diagnosis::new(
            Kind::NoRegistry,
            "it answers 401 and asks for nothing that a registry's client can give",
        ))
    }

    /// Chooses the credentials. Bearer goes first, as with the gateway.
    async fn pass(&mut self, challenges: &[Challenge]) -> Result<(ProbeAuthorization, Shown), Diagnosis> {
        for challenge in challenges {
            if let Some(pass) = self.token(challenge).await? {
                return Ok((pass, Shown::Token));
            }
        }
        let pass = self.probe.basic().await.map_err(|error| self.diagnosis(&error.into()))?;
        if pass.is_nothing() {
            return Err(Diagnosis::new(Kind::NeedsLogin, "it wants a name and a password").advise("-u NAME"));
        }
        Ok((pass, Shown::Password))
    }

    async fn token(&mut self, challenge: &Challenge) -> Result<Option<ProbeAuthorization>, Diagnosis> {
        let request = self.probe.token_request(challenge, &self.place.access).await;
        let Some(request) = request.map_err(|error| self.diagnosis(&error.into()))? else { return Ok(None) };
        if request.is_needless() {
            return Ok(None);
        }
        self.steps.push(Step::TokenRequest {
            method: request.method(),
            url: self.probe.without_secrets(&request.url()),
            scope: self.probe.without_secrets(&request.scope()),
            identity: self.username.unwrap_or("anonymous").to_owned(),
        });
        let given = self.probe.token(&request).await;
        let given = given.map_err(|error| Diagnosis::of_token(&error, self.username, now()))?;
        let lifetime = given.answer.lifetime();
        let said = given.answer.expires_in.is_some();
        self.steps.push(Step::TokenAnswer(TokenAnswer {
            lifetime_seconds: lifetime,
            lifetime_said: said,
            issued_at: given.answer.issued_at.as_deref().map(|text| self.probe.without_secrets(text)),
            words: format_lifetime(lifetime, said, given.answer.issued_at_unix()),
        }));
        self.read_token(given.answer.token.expose());
        Ok(Some(given.pass))
    }

    fn read_token(&mut self, token: &str) {
        self.token = Jwt::decode(token).map(|jwt| jwt.with_texts(&|text| self.probe.without_secrets(text)));
        self.steps.push(Step::Token(match &self.token {
            Some(jwt) => Token::Jwt { verified: false, times: jwt.moments(now()), jwt: jwt.clone() },
            None => Token::Opaque { characters: token.chars().count() },
        }));
    }

    /// Sends one request. For an image it is a HEAD, which Docker Hub does not count.
    async fn ask(
        &mut self,
        way: ProbeDestination,
        pass: &ProbeAuthorization,
        shown: Shown,
    ) -> Result<Answer, Diagnosis> {
        let method = if self.place.image.is_some() { Method::HEAD } else { Method::GET };
        self.ask_by(&method, way, pass, shown).await
    }

    async fn ask_by(
        &mut self,
        method: &Method,
        way: ProbeDestination,
        pass: &ProbeAuthorization,
        shown: Shown,
    ) -> Result<Answer, Diagnosis> {
        let with = if pass.is_nothing() || !way.is_own() { Shown::Nothing } else { shown };
        let asked = self.probe.ask(method, &way, fields(), pass).await;
        let mut exchange = Exchange {
            method: method.to_string(),
            url: self.probe.without_secrets(&way.to_string()),
            with,
            status: None,
            headers: Vec::new(),
            errors: Vec::new(),
        };
        let response = match asked {
            Ok(response) => response,
            Err(error) => {
                self.steps.push(Step::Request(exchange));
                return Err(self.no_answer(&error).await);
            }
        };
        self.see_clock(&response.headers);
        let (status, headers) = (response.status, response.headers.clone());
        exchange.status = Some(status.as_u16());
        exchange.headers = self.told(&headers);
        exchange.errors = self.errors(response).await;
        let errors = exchange.errors.clone();
        self.steps.push(Step::Request(exchange));
        if status == StatusCode::BAD_REQUEST && !self.probe.settings().url.https {
            self.other_scheme(Kind::NeedsTls).await?;
        }
        Ok(Answer { status, headers, shown: with, way, errors })
    }

    /// Follows the redirects of the last answer, and returns its meaning.
    async fn arrive(&mut self, mut answer: Answer, pass: &ProbeAuthorization) -> Result<String, Diagnosis> {
        for _ in 0..limits::REDIRECTS {
            if !is_redirect(answer.status) {
                break;
            }
            let way = self.redirect(&answer)?;
            answer = self.ask(way, pass, answer.shown).await?;
        }
        if let Some(limit) = RateLimit::of(&answer.headers) {
            self.steps.push(Step::RateLimit {
                limit: limit.limit,
                remaining: limit.remaining,
                window_seconds: limit.window.map(|window| window.as_secs()),
                source: limit.source.map(|source| self.probe.without_secrets(&source)),
            });
        }
        // Registries refuse HEAD where GET works, with almost any status.
        let is_final = answer.status.is_success()
            || is_redirect(answer.status)
            || matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS);
        let image_is_refused = self.place.image.is_some() && !is_final;
        if image_is_refused {
            // The answer to a HEAD has no body that says why.
            let again = self.ask_by(&Method::GET, answer.way.clone(), pass, answer.shown).await?;
            if again.status.is_success() {
                self.notes.push(format!("HEAD is answered {}, where GET works", answer.status.as_u16()));
            }
            answer = again;
        }
        if answer.status.is_success() { Ok(self.success(&answer)) } else { Err(self.refusal(&answer)) }
    }

    fn redirect(&mut self, answer: &Answer) -> Result<ProbeDestination, Diagnosis> {
        let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location =
            location.ok_or_else(|| Diagnosis::new(Kind::Redirect, "its redirect has no usable Location"))?;
        let way = self.probe.redirect(&answer.way, location);
        let to = match &way {
            Ok(way) => way.to_string(),
            Err(_) => without_query(location).to_owned(),
        };
        self.steps.push(Step::Redirect { to: self.probe.without_secrets(&to), allowed: way.is_ok() });
        way.map_err(|error| Diagnosis::elsewhere(Kind::Redirect, &error))
    }

    fn success(&self, answer: &Answer) -> String {
        let text = |name: &HeaderName| {
            let value = answer.headers.get(name).and_then(|value| value.to_str().ok());
            value.map(|value| self.probe.without_secrets(value))
        };
        let Some(image) = &self.place.image else {
            return format!(
                "{} answers {}",
                self.probe.without_secrets(&answer.way.to_string()),
                answer.status.as_u16()
            );
        };
        let digest =
            text(&DIGEST).unwrap_or_else(|| "there, though it does not say by which digest".to_owned());
        let kind = text(&header::CONTENT_TYPE).map(|kind| format!(", {kind}")).unwrap_or_default();
        format!("{} {} is {digest}{kind}", image.repository, image.reference)
    }

    fn refusal(&self, answer: &Answer) -> Diagnosis {
        let said = answer.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        match answer.status {
            StatusCode::UNAUTHORIZED => self.unauthorized(answer),
            StatusCode::TOO_MANY_REQUESTS => Diagnosis::of_limit(&answer.headers, now()),
            StatusCode::FORBIDDEN => {
                let who = self.username.unwrap_or("an anonymous client");
                Diagnosis::new(Kind::Denied, format!("this is not for {who}{said}"))
            }
            StatusCode::NOT_FOUND => self.not_found(answer, &said),
            status if is_redirect(status) => Diagnosis::new(Kind::Redirect, "it redirects too many times"),
            status => Diagnosis::new(Kind::Answer, format!("it answers {status}{said}")),
        }
    }

    fn not_found(&self, answer: &Answer, said: &str) -> Diagnosis {
        let Some(image) = &self.place.image else {
            let kind = if self.place.target == "/v2/" { Kind::NoRegistry } else { Kind::Answer };
            let words = if kind == Kind::NoRegistry { "there is no /v2/" } else { "there is no such thing" };
            return Diagnosis::new(kind, format!("{words}{said}"));
        };
        if answer.errors.iter().any(|error| error.starts_with("MANIFEST_UNKNOWN")) {
            let words = format!("{} has no {}{said}", image.repository, image.reference);
            return Diagnosis::new(Kind::NoSuchImage, words);
        }
        self.no_repository(said)
    }

    /// Registries do not tell what is not there from what is not to be seen.
    fn no_repository(&self, said: &str) -> Diagnosis {
        let Some(image) = &self.place.image else {
            let words = format!(
                "it refuses what its own token endpoint gave{said}: not there, or not for this account"
            );
            return Diagnosis::new(Kind::NoSuchRepository, words);
        };
        let client = self.username.map_or_else(|| "anonymous clients".to_owned(), |name| format!("{name:?}"));
        let words = format!("{} is not there, or not for {client}{said}", image.repository);
        let diagnosis = Diagnosis::new(Kind::NoSuchRepository, words);
        match self.username {
            _ if image.may_be_host => {
                diagnosis.advise("for a registry of that name write https:// before it")
            }
            None => diagnosis.advise("-u NAME asks with a login"),
            Some(_) => diagnosis,
        }
    }

    fn unauthorized(&self, answer: &Answer) -> Diagnosis {
        match answer.shown {
            Shown::Nothing => Diagnosis::new(Kind::NeedsLogin, "it wants to know who asks").advise("-u NAME"),
            Shown::Password => {
                let who = self.username.unwrap_or("these credentials");
                Diagnosis::new(
                    Kind::WrongPassword,
                    format!("the registry does not take the password of {who}"),
                )
            }
            Shown::Token => self.clock_diagnosis(answer).unwrap_or_else(|| {
                if invalid_token(&answer.headers) {
                    let words = "the registry says invalid_token to what its own token endpoint gave";
                    return Diagnosis::new(Kind::TokenRefused, words)
                        .advise("do both know the same key, issuer and service?");
                }
                self.no_repository("")
            }),
        }
    }

    /// Returns a diagnosis where a refused token is not valid yet, or no more, by one of the clocks.
    fn clock_diagnosis(&self, answer: &Answer) -> Option<Diagnosis> {
        let token = self.token.as_ref()?;
        let there = date(&answer.headers);
        let (here, host) = (now(), &self.probe.settings().url.host);
        let skew = self.skew.filter(|skew| skew.abs() > TOLERATED);
        let theirs = skew.map(|skew| format!(", which is {}", apart(skew, "the one here")));
        let ours = skew.map(|skew| format!(", which is {}", apart(-skew, &format!("that of {host}"))));
        let clocks = [
            (there, format!("the clock of {host}{}", theirs.unwrap_or_default())),
            (Some(here), format!("the clock here{}", ours.unwrap_or_default())),
        ];
        let words = clocks.into_iter().find_map(|(clock, whose)| {
            let clock = clock?;
            Some(format!("the token is {} by {whose}", out_of_time(token, clock)?))
        })?;
        Some(
            Diagnosis::new(Kind::ClockSkew, words)
                .advise("set the clocks of registry, token endpoint and this machine"),
        )
    }

    fn see_clock(&mut self, headers: &HeaderMap) {
        let there = date(headers);
        self.skew = there.map(|there| there.saturating_sub(now())).or(self.skew);
    }

    fn note_skew(&mut self) {
        if let Some(skew) = self.skew.filter(|skew| skew.abs() > TOLERATED) {
            let host = &self.probe.settings().url.host;
            self.notes.push(format!("the clock of {host} is {}", apart(skew, "the one here")));
        }
    }

    /// Returns the diagnosis of a missing answer. A server spoken to by the wrong one of http and https mostly does not
    /// say so.
    async fn no_answer(&self, error: &Error) -> Diagnosis {
        let diagnosis = self.diagnosis(error);
        let kind = match diagnosis.kind {
            Kind::Tls => Kind::PlainHttp,
            Kind::Unreachable if self.probe.settings().url.https => Kind::PlainHttp,
            Kind::Broken | Kind::Unreachable if !self.probe.settings().url.https => Kind::NeedsTls,
            _ => return diagnosis,
        };
        self.other_scheme(kind).await.err().unwrap_or(diagnosis)
    }

    async fn other_scheme(&self, kind: Kind) -> Result<(), Diagnosis> {
        if !self.probe.speaks_other_scheme().await {
            return Ok(());
        }
        let url = &self.probe.settings().url;
        let (asked, other) = if url.https { ("TLS", "http") } else { ("plain HTTP", "https") };
        let words = format!("{} is asked by {asked}, and speaks {other}", url.authority());
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        Err(Diagnosis::new(kind, words).advise(format!("write {other}://{host}:{}{}", url.port, url.path)))
    }

    fn diagnosis(&self, error: &Error) -> Diagnosis {
        self.without_secrets(Diagnosis::of(error, now()))
    }

    fn without_secrets(&self, diagnosis: Diagnosis) -> Diagnosis {
        Diagnosis { message: self.probe.without_secrets(&diagnosis.message), ..diagnosis }
    }

    /// Returns the fields that matter here; others may hold secrets.
    fn told(&self, headers: &HeaderMap) -> Vec<Header> {
        let told = |name: &&str| {
            headers
                .get_all(*name)
                .iter()
                .map(|value| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    let value = if *name == "Location" { without_query(&value).to_owned() } else { value };
                    Header { name: (*name).to_owned(), value: self.probe.without_secrets(&value) }
                })
                .collect::<Vec<_>>()
        };
        TOLD.iter().flat_map(told).collect()
    }

    async fn errors(&self, response: Response) -> Vec<String> {
        if response.status.is_success() || is_redirect(response.status) {
            return Vec::new();
        }
        let body = Limited::new(response.body, ErrorBody::MAX_LENGTH).collect();
        let Ok(Ok(body)) = tokio::time::timeout(limits::TOKEN_DEADLINE, body).await else {
            return Vec::new();
        };
        let errors = ErrorBody::parse(&body.to_bytes()).unwrap_or_default().errors;
        errors
            .iter()
            .map(|error| self.probe.without_secrets(&format!("{}: {}", error.code, error.message)))
            .collect()
    }
}

/// Seconds by which two clocks may differ before it is worth a word.
const TOLERATED: i64 = 60;

/// In the order in which they are told.
const TOLD: [&str; 13] = [
    "WWW-Authenticate",
    "Location",
    "Docker-Distribution-Api-Version",
    "Docker-Content-Digest",
    "Content-Type",
    "Content-Length",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "Docker-RateLimit-Source",
    "Retry-After",
    "X-Retry-After",
    "Date",
    "Server",
];

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Every kind of manifest that clients take; without it registries convert, or say there is none.
pub(super) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.5";

/// Returns the header fields of every request.
pub(super) fn fields() -> HeaderMap {
    HeaderMap::from_iter([
        (header::ACCEPT, HeaderValue::from_static(MANIFESTS)),
        (header::USER_AGENT, HeaderValue::from_static(concat!("dockgate/", env!("CARGO_PKG_VERSION")))),
    ])
}

/// Returns seconds since 1970.
pub(super) fn now() -> i64 {
    format::unix(clock::wall())
}

/// Returns the server's time, in seconds since 1970.
pub(super) fn date(headers: &HeaderMap) -> Option<i64> {
    let date: SystemTime = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    Some(format::unix(date))
}

/// Returns all challenges of a 401.
pub(super) fn parsed(headers: &HeaderMap) -> Vec<Challenge> {
    challenge::parse_all(headers.get_all(header::WWW_AUTHENTICATE).iter().map(HeaderValue::as_bytes))
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Formats a clock skew: `5 min ahead of the clock of a.example`.
pub(super) fn apart(skew: i64, of: &str) -> String {
    let how = if skew > 0 { "ahead of" } else { "behind" };
    format!("{} {how} {of}", format::duration(skew.unsigned_abs()))
}

/// Returns why a token is not good at `clock`, if so.
fn out_of_time(token: &Jwt, clock: i64) -> Option<String> {
    let begins = token.time("nbf").or_else(|| token.time("iat")).filter(|begins| *begins > clock);
    let ends = token.time("exp").filter(|ends| *ends <= clock);
    let (how, at) = match begins {
        Some(at) => ("not valid before", at),
        None => ("valid until", ends?),
    };
    Some(format!("{how} {}", format::moment(at, clock)?))
}

/// Formats the lifetime of a token.
pub(super) fn format_lifetime(seconds: u64, said: bool, issued: Option<i64>) -> String {
    let mut words = format!("good for {}", format::duration(seconds));
    if !said {
        words += ", since it says nothing else";
    }
    if let Some(issued) = issued.and_then(|issued| format::moment(issued, now())) {
        words = format!("{words}, issued {issued}");
    }
    words
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

fn invalid_token(headers: &HeaderMap) -> bool {
    parsed(headers).iter().any(|challenge| challenge.param("error") == Some("invalid_token"))
}
