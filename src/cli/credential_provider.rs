//! `dockgate credential-provider`: the kubelet's plugin that makes a pod's service account token its login here.
//!
//! The kubelet writes a `CredentialProviderRequest` to standard input and reads a `CredentialProviderResponse` from
//! standard output (`credentialprovider.kubelet.k8s.io/v1`, KEP-4412). It logs standard error, so that no message may hold
//! anything of the token.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::time::UNIX_EPOCH;

use clap::Args;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::clock;
use crate::config::limits;
use crate::proto::authority::AuthorityError;
use crate::proto::identity::{UserName, UserNameError};
use crate::proto::jwt::{Unverified, numeric_date};
use crate::proto::{Authority, ImageName, ImageNameError, Secret};

/// Answer the kubelet as its image credential provider: a pod's service account token becomes its login here
#[derive(Args, Debug)]
#[command(
    after_help = "The kubelet runs it, as its CredentialProviderConfig says, with a CredentialProviderRequest on standard \
    input. The token must be of the issuer and audience of the provider. deploy/kubernetes/README.md tells how to install \
    it on a node.\n\n\
    Example:\n  dockgate credential-provider --provider kubernetes --registry registry.example.com < request.json"
)]
pub(crate) struct CredentialProviderArgs {
    /// The name of the [[auth.oidc]] provider, which is the user name beside the token
    #[arg(long, value_name = "NAME", default_value = "kubernetes", value_parser = provider)]
    provider: String,
    /// A registry that gets the token, as images name it: HOST or HOST:PORT. Images of others get no login. Without the
    /// option, each registry that the kubelet asks about gets it
    #[arg(long, value_name = "REGISTRY", value_parser = Authority::parse)]
    registry: Vec<Authority>,
}

fn provider(written: &str) -> Result<String, UserNameError> {
    UserName::parse(written).map(|name| name.as_str().to_owned())
}

/// The reason why the kubelet gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialProviderError {
    /// Standard input can't be read.
    #[error("cannot read standard input: {0}")]
    Input(io::Error),
    /// Standard input has no end that a request would have.
    #[error("standard input has more than {REQUEST_BYTES} bytes: it is no CredentialProviderRequest")]
    TooLong,
    /// Standard input is no JSON, or its members have other types. serde's own message would quote them.
    #[error(
        "standard input is no CredentialProviderRequest: malformed in line {line}, column {column}; the kubelet runs this \
         command"
    )]
    Malformed {
        /// The line of the mistake.
        line: usize,
        /// The column of the mistake.
        column: usize,
    },
    /// `apiVersion` is another.
    #[error(
        "the request's apiVersion is not \"{API_VERSION}\"; write that to the provider in the kubelet's \
         CredentialProviderConfig"
    )]
    ApiVersion,
    /// `kind` is another.
    #[error("the request's kind is not \"{REQUEST}\"")]
    Kind,
    /// `image` is missing or malformed.
    #[error("the request's image is malformed: {0}")]
    Image(#[from] ImageNameError),
    /// The image's registry is malformed.
    #[error("the registry of the request's image is malformed: {0}")]
    Registry(#[from] AuthorityError),
    /// The pod has no service account, or the kubelet was not told to send its token.
    #[error(
        "the request has no serviceAccountToken; write tokenAttributes, with requireServiceAccount: true, to the provider \
         in the kubelet's CredentialProviderConfig"
    )]
    NoToken,
    /// The token can't be read.
    #[error("the request's serviceAccountToken is no JSON Web Token")]
    Token,
    /// The token says of no time that it ends then. No gateway takes such a token.
    #[error("the request's serviceAccountToken has no time of expiry (exp)")]
    Endless,
    /// The token has ended.
    #[error("the request's serviceAccountToken has expired; is this node's clock right?")]
    Expired,
    /// The output is closed.
    #[error("cannot write: {0}")]
    Output(io::Error),
}

/// The members of a `CredentialProviderRequest` that the answer depends on. Later versions of the kubelet may send more.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    image: String,
    #[serde(default, deserialize_with = "secret")]
    service_account_token: Option<Secret>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()).map(Secret::new))
}

/// A `CredentialProviderResponse`. The kubelet refuses one with other members.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    api_version: &'static str,
    kind: &'static str,
    cache_key_type: &'static str,
    cache_duration: String,
    /// The login at each registry; none where there is no login for the image.
    auth: Option<BTreeMap<String, Login<'a>>>,
}

#[derive(Serialize)]
struct Login<'a> {
    username: &'a str,
    password: &'a str,
}

/// Reads the kubelet's request from `input` and writes the response to `output`.
///
/// # Errors
/// [`CredentialProviderError`].
pub(crate) fn run(
    args: &CredentialProviderArgs,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<(), CredentialProviderError> {
    let request = Request::read(input)?;
    let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let response = respond(args, &request, now)?;
    let json =
        serde_json::to_vec(&response).map_err(|error| CredentialProviderError::Output(error.into()))?;
    let written = output.write_all(&json).and_then(|()| output.write_all(b"\n"));
    written.and_then(|()| output.flush()).map_err(CredentialProviderError::Output)
}

impl Request {
    fn read(input: &mut dyn Read) -> Result<Self, CredentialProviderError> {
        let mut bytes = Vec::new();
        input.take(REQUEST_BYTES + 1).read_to_end(&mut bytes).map_err(CredentialProviderError::Input)?;
        if bytes.len() as u64 > REQUEST_BYTES {
            return Err(CredentialProviderError::TooLong);
        }
        serde_json::from_slice(&bytes).map_err(|error| CredentialProviderError::Malformed {
            line: error.line(),
            column: error.column(),
        })
    }
}

fn respond<'a>(
    args: &'a CredentialProviderArgs,
    request: &'a Request,
    now: u64,
) -> Result<Response<'a>, CredentialProviderError> {
    if request.api_version != API_VERSION {
        return Err(CredentialProviderError::ApiVersion);
    }
    if request.kind != REQUEST {
        return Err(CredentialProviderError::Kind);
    }
    let image = ImageName::parse(&request.image)?;
    let host = image.host.unwrap_or_else(|| HUB.to_owned());
    let registry = Authority::parse(&host)?;
    if !args.registry.is_empty() && !args.registry.contains(&registry) {
        return Ok(Response::new(0, None));
    }
    let token = request.service_account_token.as_ref().ok_or(CredentialProviderError::NoToken)?;
    let seconds = cached_for(token, now)?;
    let login = Login { username: &args.provider, password: token.expose() };
    // As the image has it: the kubelet compares it with the image, capital letters and all.
    Ok(Response::new(seconds, Some(BTreeMap::from([(host, login)]))))
}

impl<'a> Response<'a> {
    fn new(seconds: u64, auth: Option<BTreeMap<String, Login<'a>>>) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "CredentialProviderResponse",
            // The login is good for all images of the registry. The kubelet keeps those of other tokens apart where its
            // configuration says `cacheType: Token`.
            cache_key_type: "Registry",
            cache_duration: format!("{seconds}s"),
            auth,
        }
    }
}

/// Returns for how many seconds the kubelet may send the token: until shortly before its end, so that a pull which begins
/// then is still served. Where clocks differ, a gateway takes a token for as long behind its end.
fn cached_for(token: &Secret, now: u64) -> Result<u64, CredentialProviderError> {
    let unverified = Unverified::parse(token.expose()).ok_or(CredentialProviderError::Token)?;
    let claims = unverified.claims::<Map<String, Value>>().ok_or(CredentialProviderError::Token)?;
    let expires = claims.get("exp").and_then(numeric_date).ok_or(CredentialProviderError::Endless)?;
    let leeway = limits::TOKEN_LEEWAY.as_secs();
    if now >= expires.saturating_add(leeway) {
        return Err(CredentialProviderError::Expired);
    }
    Ok(expires.saturating_sub(now.saturating_add(leeway)).min(LONGEST_CACHED))
}

const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

const REQUEST: &str = "CredentialProviderRequest";

/// The registry of images that name none, as the kubelet writes it.
const HUB: &str = "docker.io";

/// The longest request: a token, a name and annotations, which Kubernetes limits to 256 KiB.
const REQUEST_BYTES: u64 = 1024 * 1024;

/// The longest time that the kubelet is told, in seconds. Its durations end at 292 years, and it drops a response with a
/// longer one.
const LONGEST_CACHED: u64 = 365 * 24 * 3600;

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use clap::Parser;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: CredentialProviderArgs,
    }

    fn args(words: &[&str]) -> Result<CredentialProviderArgs, clap::Error> {
        let words = ["credential-provider"].iter().chain(words);
        Cli::try_parse_from(words).map(|cli| cli.args)
    }

    fn token(claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signature = URL_SAFE_NO_PAD.encode("s1gnature");
        format!("{}.{}.{signature}", part(&json!({ "alg": "RS256", "kid": "k" })), part(claims))
    }

    fn request(image: &str, token: &str) -> Value {
        json!({
            "apiVersion": API_VERSION, "kind": REQUEST, "image": image, "serviceAccountToken": token,
            "serviceAccountAnnotations": { "example.com/team": "a" },
        })
    }

    /// The response in the wire's form.
    fn answered(words: &[&str], request: &str) -> Result<Value, CredentialProviderError> {
        let request = Request::read(&mut request.as_bytes())?;
        let args = args(words).unwrap_or_else(|error| panic!("{error}"));
        respond(&args, &request, NOW).map(|response| serde_json::to_value(&response).unwrap())
    }

    #[test]
    fn a_token_is_the_login_at_the_images_registry() {
        let token = token(&json!({ "exp": NOW + 3600 }));
        for (image, registry) in [
            ("registry.example.com/team/app", "registry.example.com"),
            ("Registry.Example.com:5000/a:1.0", "Registry.Example.com:5000"),
            ("localhost/a/b/c", "localhost"),
            ("[::1]:5000/a", "[::1]:5000"),
            ("docker.io/library/alpine", "docker.io"),
        ] {
            let response = answered(&[], &request(image, &token).to_string()).unwrap();
            let expected = json!({
                "apiVersion": API_VERSION, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
                "cacheDuration": "3540s", "auth": { registry: { "username": "kubernetes", "password": token } },
            });
            assert_eq!(response, expected, "{image}");
        }
        let response =
            answered(&["--provider", "eu-1"], &request("r.example/a", &token).to_string()).unwrap();
        assert_eq!(response["auth"]["r.example"]["username"], "eu-1");
    }

    #[test]
    fn the_kubelet_keeps_no_token_to_its_end() {
        for (expires, cached) in [
            (json!(NOW + 3600), "3540s"),
            (json!(1_800_003_600.9), "3540s"),
            (json!(NOW + 61), "1s"),
            (json!(NOW + 60), "0s"),
            (json!(NOW), "0s"),
            (json!(NOW - 59), "0s"),
            (json!(u64::MAX), "31536000s"),
        ] {
            let request = request("r.example/a", &token(&json!({ "exp": expires })));
            assert_eq!(answered(&[], &request.to_string()).unwrap()["cacheDuration"], cached, "{expires}");
        }
    }

    #[test]
    fn other_registries_get_no_token() {
        let token = token(&json!({ "exp": NOW + 3600 }));
        let words = ["--registry", "r.example", "--registry", "R.example:5000", "--registry", "docker.io"];
        for (image, gets) in [
            ("r.example/a", true),
            ("R.Example/a", true),
            ("r.example:5000/a", true),
            ("docker.io/library/alpine", true),
            ("r.example:443/a", false),
            ("evil.r.example/a", false),
            ("r.example.evil/a", false),
            ("ghcr.io/r.example/a", false),
        ] {
            let response = answered(&words, &request(image, &token).to_string()).unwrap();
            assert_eq!(!response["auth"].is_null(), gets, "{image}");
            assert_eq!(response.to_string().contains(&token), gets, "{image}");
        }
    }

    #[test]
    fn what_is_no_request_is_told_without_the_token() {
        let good = token(&json!({ "exp": NOW + 3600 }));
        let with = |name: &str, value: Value| {
            let mut changed = request("r.example/a", &good);
            changed[name] = value;
            changed.to_string()
        };
        let of = |claims: Value| request("r.example/a", &token(&claims)).to_string();
        let whole = request("r.example/a", &good).to_string();
        for (input, why) in [
            (String::new(), "malformed in line 1"),
            (good.clone(), "malformed in line 1"),
            (whole[..whole.len() - 1].to_owned(), "malformed in line 1"),
            (format!("{whole}{whole}"), "malformed in line 1"),
            (format!("[{whole}]"), "malformed"),
            (with("image", json!([good])), "malformed"),
            (with("kind", json!({ "a": good })), "malformed"),
            (with("serviceAccountToken", json!([good])), "malformed"),
            (whole.replace("\"kind\"", "\"image\""), "malformed"),
            (" ".repeat(1024 * 1024 + 1), "more than 1048576 bytes"),
            (with("apiVersion", json!("credentialprovider.kubelet.k8s.io/v1beta1")), "apiVersion is not"),
            (with("apiVersion", json!(good)), "apiVersion is not"),
            ("{}".to_owned(), "apiVersion is not"),
            (with("kind", json!(good)), "kind is not"),
            (with("kind", json!("CredentialProviderResponse")), "kind is not"),
            (with("image", json!("")), "image is malformed"),
            (with("image", json!(format!("r.example/{good}"))), "image is malformed"),
            (with("image", json!(format!("user:{good}@r.example/a"))), "malformed"),
            (with("image", json!("r.*/a")), "registry of the request's image is malformed"),
            (with("serviceAccountToken", json!("")), "no serviceAccountToken"),
            (with("serviceAccountToken", Value::Null), "no serviceAccountToken"),
            (with("serviceAccountToken", json!("s1gnature")), "is no JSON Web Token"),
            (with("serviceAccountToken", json!(format!("{good}."))), "is no JSON Web Token"),
            (of(json!([])), "is no JSON Web Token"),
            (of(json!({})), "no time of expiry"),
            (of(json!({ "exp": "1900000000" })), "no time of expiry"),
            (of(json!({ "exp": NOW - 60 })), "has expired"),
            (of(json!({ "exp": 0 })), "has expired"),
        ] {
            let error = answered(&[], &input).unwrap_err().to_string();
            assert!(error.contains(why), "{input}: {error}");
            let parts = good.split('.').chain(["s1gnature", "czFnbmF0dXJl"]);
            for part in parts {
                assert!(!error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn names_that_can_be_none_are_refused() {
        for words in [
            ["--provider", ""],
            ["--provider", "a:b"],
            ["--provider", "git*"],
            ["--registry", "https://r.example"],
            ["--registry", "r.example/team"],
            ["--registry", "*.example"],
            ["--registry", ""],
        ] {
            assert!(args(&words).is_err(), "{words:?}");
        }
    }
}
