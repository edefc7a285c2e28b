//! Pods that pull by the token of their service account: the kubelet's plugin, and the files to install it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use dockgate::internals::clock;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{EMPTY_INDEX, Gateway, IssuerKey, Reply, Request, Upstream};

const API_VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a pod's token, as the API server makes them.
fn claims(namespace: &str) -> Value {
    json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["registry.example.com"],
        "exp": now() + 3600, "iat": now(), "nbf": now(), "jti": "0f1e",
        "sub": format!("system:serviceaccount:{namespace}:builder"),
        "kubernetes.io": {
            "namespace": namespace, "node": { "name": "n1", "uid": "1" }, "pod": { "name": "p", "uid": "2" },
            "serviceaccount": { "name": "builder", "uid": "3" },
        },
    })
}

fn request(image: &str, token: &str) -> String {
    let annotations = json!({ "example.com/team": "a" });
    let request = json!({
        "kind": "CredentialProviderRequest", "apiVersion": API_VERSION, "image": image,
        "serviceAccountToken": token, "serviceAccountAnnotations": annotations,
    });
    request.to_string()
}

/// The plugin's end.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs the plugin as the kubelet does: its arguments, and the request on standard input.
fn plugin(arguments: &[&str], request: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dockgate"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(request.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// A response, read as strictly as the kubelet reads it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Response {
    api_version: String,
    kind: String,
    cache_key_type: String,
    cache_duration: String,
    auth: Option<std::collections::BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: String,
    password: String,
}

fn answered(arguments: &[&str], request: &str) -> Response {
    let ran = plugin(arguments, request);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let response: Response = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (response.api_version.as_str(), response.kind.as_str()),
        (API_VERSION, "CredentialProviderResponse")
    );
    assert_eq!(response.cache_key_type, "Registry");
    response
}

fn deployed(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes").join(name))
        .unwrap()
}

/// The types of `kubelet.config.k8s.io/v1` (k8s.io/kubelet/config/v1/types.go of Kubernetes 1.34), read as strictly as the
/// kubelet reads them. A member that is no `Option` is required.
mod schema {
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(super) struct CredentialProviderConfig {
        pub(super) api_version: String,
        pub(super) kind: String,
        pub(super) providers: Vec<CredentialProvider>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(super) struct CredentialProvider {
        pub(super) name: String,
        pub(super) match_images: Vec<String>,
        pub(super) default_cache_duration: String,
        pub(super) api_version: String,
        pub(super) args: Option<Vec<String>>,
        pub(super) env: Option<Vec<ExecEnvVar>>,
        pub(super) token_attributes: Option<ServiceAccountTokenAttributes>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct ExecEnvVar {
        pub(super) name: String,
        #[serde(rename = "value")]
        pub(super) _value: String,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(super) struct ServiceAccountTokenAttributes {
        pub(super) service_account_token_audience: String,
        pub(super) cache_type: CacheType,
        pub(super) require_service_account: bool,
        pub(super) required_service_account_annotation_keys: Option<Vec<String>>,
        pub(super) optional_service_account_annotation_keys: Option<Vec<String>>,
    }

    #[derive(Deserialize, Debug, PartialEq)]
    pub(super) enum CacheType {
        Token,
        ServiceAccount,
    }
}

/// Checks a configuration as the kubelet does before it starts (`validateCredentialProviderConfig` in
/// pkg/credentialprovider/plugin/config.go).
fn valid(text: &str) -> Result<schema::CredentialProviderConfig, String> {
    let config: schema::CredentialProviderConfig =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let ensure = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    ensure(config.api_version == "kubelet.config.k8s.io/v1", "apiVersion")?;
    ensure(config.kind == "CredentialProviderConfig", "kind")?;
    ensure(!config.providers.is_empty(), "providers")?;
    let names: BTreeSet<_> = config.providers.iter().map(|provider| &provider.name).collect();
    ensure(names.len() == config.providers.len(), "a name twice")?;
    for provider in &config.providers {
        let name = provider.name.as_str();
        ensure(!name.is_empty() && !name.contains(['/', ' ']) && ![".", ".."].contains(&name), "name")?;
        ensure(provider.api_version == API_VERSION, "apiVersion of the provider")?;
        ensure(!provider.match_images.is_empty(), "matchImages")?;
        ensure(
            provider.match_images.iter().all(|image| !image.is_empty() && !image.contains("://")),
            "image",
        )?;
        let number = provider.default_cache_duration.trim_end_matches(['s', 'm', 'h']);
        let unit = &provider.default_cache_duration[number.len()..];
        ensure(number.parse::<u32>().is_ok() && unit.len() == 1, "defaultCacheDuration")?;
        ensure(provider.env.iter().flatten().all(|variable| !variable.name.is_empty()), "env")?;
        let Some(token) = &provider.token_attributes else { continue };
        ensure(!token.service_account_token_audience.is_empty(), "serviceAccountTokenAudience")?;
        let required = token.required_service_account_annotation_keys.as_deref().unwrap_or_default();
        let optional = token.optional_service_account_annotation_keys.as_deref().unwrap_or_default();
        ensure(token.require_service_account || required.is_empty(), "requireServiceAccount")?;
        ensure(!required.iter().any(|key| optional.contains(key)), "annotation keys")?;
    }
    Ok(config)
}

#[test]
fn the_kubelets_configuration_is_of_its_schema() {
    let text = deployed("credential-provider.yaml");
    let config = valid(&text).unwrap_or_else(|error| panic!("{error}"));
    let provider = &config.providers[0];
    let token = provider.token_attributes.as_ref().unwrap();
    assert_eq!(provider.name, "dockgate", "the binary's name");
    // The login is the token itself: what is kept for a service account would outlive it.
    assert_eq!(token.cache_type, schema::CacheType::Token);
    assert!(token.require_service_account);
    // The check itself sees each of these.
    for (old, new) in [
        ("kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1"),
        ("kind: CredentialProviderConfig", "kind: KubeletConfiguration"),
        ("name: dockgate", "name: bin/dockgate"),
        ("matchImages", "matchImage"),
        ("credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v2"),
        ("defaultCacheDuration: 0s", "defaultCacheDuration: none"),
        ("cacheType: Token", "cacheType: Pod"),
        ("      cacheType: Token", "      #"),
        ("requireServiceAccount: true", "requireServiceAccount: 1"),
        ("      requireServiceAccount: true", "      #"),
        ("tokenAttributes:", "tokenAttributes:\n      audience: x"),
    ] {
        assert!(text.contains(old) && valid(&text.replacen(old, new, 1)).is_err(), "{new}");
    }
}

#[test]
fn nodes_may_ask_for_tokens_of_the_same_audience() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Object {
        api_version: String,
        kind: String,
        metadata: Value,
        rules: Option<Value>,
        role_ref: Option<Value>,
        subjects: Option<Value>,
    }
    let objects: Vec<Object> = serde_saphyr::from_multiple(&deployed("audience.yaml")).unwrap();
    let [role, binding] = objects.as_slice() else { panic!("{} objects", objects.len()) };
    let config = valid(&deployed("credential-provider.yaml")).unwrap();
    let audience = &config.providers[0].token_attributes.as_ref().unwrap().service_account_token_audience;
    let group = "rbac.authorization.k8s.io";
    for object in [role, binding] {
        assert_eq!(object.api_version, format!("{group}/v1"));
    }
    assert_eq!((role.kind.as_str(), binding.kind.as_str()), ("ClusterRole", "ClusterRoleBinding"));
    let verb = "request-serviceaccounts-token-audience";
    let rule = json!([{ "verbs": [verb], "apiGroups": [""], "resources": [audience] }]);
    assert_eq!(role.rules.as_ref(), Some(&rule));
    let reference = json!({ "apiGroup": group, "kind": "ClusterRole", "name": role.metadata["name"] });
    assert_eq!(binding.role_ref.as_ref(), Some(&reference));
    let nodes = json!([{ "apiGroup": group, "kind": "Group", "name": "system:nodes" }]);
    assert_eq!(binding.subjects.as_ref(), Some(&nodes));
}

/// The whole round with the deployed files: the kubelet's arguments, and the gateway's provider and rules.
#[tokio::test]
async fn a_pod_pulls_by_its_service_account() {
    let (key, upstream) = (IssuerKey::new(), Upstream::start().await);
    let part = deployed("pods.toml").replace("/run/secrets/dockgate/", "");
    let builder = Gateway::builder().user("alice", "secret").file("cluster-keys.json", &key.key_set());
    let builder = builder.auth(&format!("challenge = \"basic\"\n{part}"));
    let gateway = builder.upstream("up", "", upstream.address).start().await;
    upstream.always("GET", "/v2/team-a/app/manifests/1.0", |_| Reply::ok(EMPTY_INDEX));
    upstream.always("GET", "/v2/base/os/manifests/1.0", |_| Reply::ok(EMPTY_INDEX));
    let config = valid(&deployed("credential-provider.yaml")).unwrap();
    let arguments: Vec<&str> = config.providers[0].args.iter().flatten().map(String::as_str).collect();
    let registry = config.providers[0].match_images[0].as_str();

    let login = |token: &str| {
        let mut response = answered(&arguments, &request(&format!("{registry}/team-a/app"), token));
        let cached: u64 = response.cache_duration.strip_suffix('s').unwrap().parse().unwrap();
        assert!((3500..=3540).contains(&cached), "{cached}");
        response.auth.as_mut().and_then(|auth| auth.remove(registry)).expect("a login at the registry")
    };
    let get = |image: &str, login: &Login| {
        Request::get(format!("/v2/{image}/manifests/1.0")).login(&login.username, &login.password)
    };
    let own = login(&key.sign(&claims("team-a")));
    gateway.ask(get("team-a/app", &own)).await.is(200);
    gateway.ask(get("base/os", &own)).await.is(200);
    gateway.ask(get("team-b/app", &own)).await.is(403);
    gateway
        .ask(Request::put("/v2/team-a/app/manifests/1.0").body("{}").login("kubernetes", &own.password))
        .await
        .is(403);
    let other = login(&key.sign(&claims("team-b")));
    gateway.ask(get("team-a/app", &other)).await.is(403);
    gateway.ask(get("base/os", &other)).await.is(200);
    for stranger in [key.sign(&claims("kube-system")), IssuerKey::new().sign(&claims("team-a"))] {
        gateway.ask(get("base/os", &login(&stranger))).await.is(401);
    }
    gateway.ask(Request::get("/v2/team-a/app/manifests/1.0").login("alice", "secret")).await.is(200);
}

#[test]
fn another_registry_gets_no_login_of_a_pod() {
    let token = IssuerKey::new().sign(&claims("team-a"));
    let arguments = ["credential-provider", "--registry", "r.example:5000"];
    let response = answered(&arguments, &request("ghcr.io/a/b", &token));
    assert!(response.auth.is_none());
    let response = answered(&arguments, &request("r.example:5000/a/b", &token));
    assert_eq!(response.auth.unwrap()["r.example:5000"].password, token);
}

#[test]
fn a_request_that_has_no_answer_is_told_without_its_token() {
    let key = IssuerKey::new();
    let mut expired = claims("team-a");
    expired["exp"] = json!(now() - 61);
    let (token, expired) = (key.sign(&claims("team-a")), key.sign(&expired));
    let good = request("r.example/a", &token);
    let provider = "credential-provider";
    for (arguments, input, code, why) in [
        (vec![provider], request("r.example/a", &expired), 1, "has expired"),
        (vec![provider], request("r.example/a", ""), 1, "no serviceAccountToken"),
        (vec![provider], request("r.example/a", &format!("{token}.{token}")), 1, "no JSON Web Token"),
        (
            vec![provider],
            good.replace(API_VERSION, "credentialprovider.kubelet.k8s.io/v1beta1"),
            1,
            API_VERSION,
        ),
        (vec![provider], good.replace("CredentialProviderRequest", "ExecCredential"), 1, "kind is not"),
        (vec![provider], format!("{token}{good}"), 1, "malformed in line 1"),
        (
            vec![provider],
            good.replace("\"serviceAccountToken\":", "\"serviceAccountToken\":7,"),
            1,
            "malformed",
        ),
        (vec![provider], String::new(), 1, "malformed"),
        (vec![provider, "--provider", "a:b"], good.clone(), 2, "--provider"),
        (vec![provider, "--registry", "https://r.example"], good.clone(), 2, "--registry"),
        (vec![provider, "extra"], good.clone(), 2, "extra"),
    ] {
        let ran = plugin(&arguments, &input);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{input}: {}", ran.err);
        assert!(ran.err.contains(why), "{input}: {}", ran.err);
        assert!(
            code == 2 || (ran.err.starts_with("dockgate: ") && ran.err.lines().count() == 1),
            "{}",
            ran.err
        );
        for part in token.split('.').chain(expired.split('.')) {
            assert!(!ran.err.contains(part), "{}", ran.err);
        }
    }
}
