use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Parser;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ClientConfigArgs,
}

const CONFIG: &str = "[server]\naddress = '127.0.0.1:5000'\nexternal_url = 'https://gw.example:5000'\n\
    [server.tls]\ncertificate = 'certs/domain.crt'\nkey = 'certs/domain.key'\n\
    [auth.htpasswd]\npath = 'htpasswd'\n\
    [[upstream]]\nname = 'docker.io'\nhosts = ['hub.gw.example']\n[upstream.cache]\n\
    [[upstream]]\nname = 'ghcr.io'\nurl = 'https://ghcr.io'\nprefix = 'github'\nhosts = ['ghcr.gw.example']\n\
    [[upstream]]\nname = 'internal'\nurl = 'http://127.0.0.1:5002'\nprefix = ''\n\
    [cache]\npath = 'cache'\n";

/// A folder with the configuration and the CA that `dockgate certificate` leaves beside the gateway's certificate.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("certs/client")).unwrap();
    std::fs::write(folder.path().join("certs/client/ca.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    std::fs::write(folder.path().join("dockgate.toml"), CONFIG).unwrap();
    folder
}

fn made(folder: &Path, words: &[&str]) -> Result<String, ClientConfigError> {
    let config = folder.join("dockgate.toml");
    let words = ["client-config"].iter().chain(words).copied().chain(["--config", config.to_str().unwrap()]);
    let args = Line::try_parse_from(words).unwrap().args;
    let mut output = Vec::new();
    run(&args, &Environment::default(), &mut &b"p\"w\n"[..], &mut output)?;
    Ok(String::from_utf8(output).unwrap())
}

/// The text of one file that was printed.
fn file(printed: &str, path: &str) -> String {
    let rest = printed.split_once(&format!("==> {path} <==\n"));
    let rest = rest.unwrap_or_else(|| panic!("{path} is not in\n{printed}")).1;
    rest.split("\n==> ").next().unwrap().split("\n\n- ").next().unwrap().to_owned()
}

fn toml(printed: &str, path: &str) -> Value {
    let text = file(printed, path);
    let table = DeTable::parse(&text).unwrap_or_else(|error| panic!("{error}: {printed}"));
    object(table.get_ref())
}

fn object(table: &DeTable<'_>) -> Value {
    table.iter().map(|(name, value)| (name.get_ref().to_string(), json(value.get_ref()))).collect()
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => object(table),
        other => panic!("{other:?} is in no file"),
    }
}

const HUB: &str = "/etc/containerd/certs.d/docker.io/hosts.toml";

#[test]
fn containerd_gets_a_folder_for_each_registry() {
    let folder = folder();
    let printed = made(folder.path(), &["containerd"]).unwrap();
    let hosts = toml(&printed, HUB);
    assert_eq!(hosts["server"], "https://registry-1.docker.io");
    let host = &hosts["host"]["https://gw.example:5000"];
    assert_eq!(host["ca"], "/etc/containerd/certs.d/gw.example:5000/ca.crt");
    assert_eq!(host.get("header"), None, "there is no login");
    assert!(
        printed.contains("certs.d/ghcr.io/hosts.toml") && !printed.contains("certs.d/internal/"),
        "{printed}"
    );
    let own = toml(&printed, "/etc/containerd/certs.d/gw.example:5000/hosts.toml");
    assert_eq!(own["capabilities"].as_array().unwrap().len(), 3);
    assert!(!printed.contains("_default"), "{printed}");
}

#[test]
fn containerd_can_be_kept_to_the_gateway_alone() {
    let folder = folder();
    let words = ["containerd", "--no-fallback", "--every-registry", "-u", "node", "--password-stdin"];
    let printed = made(folder.path(), &words).unwrap();
    for path in [HUB, "/etc/containerd/certs.d/_default/hosts.toml"] {
        let hosts = toml(&printed, path);
        assert_eq!(hosts["server"], "https://gw.example:5000");
        // node:p"w
        assert_eq!(hosts["header"]["authorization"], "Basic bm9kZTpwInc=");
        assert_eq!(hosts["host"], serde_json::json!({}), "{printed}");
    }
}

#[test]
fn docker_gets_a_mirror_of_docker_hub_alone() {
    let folder = folder();
    let printed = made(folder.path(), &["docker"]).unwrap();
    let daemon: Value = serde_json::from_str(&file(&printed, "/etc/docker/daemon.json")).unwrap();
    assert_eq!(daemon, serde_json::json!({ "registry-mirrors": ["https://hub.gw.example:5000"] }));
    for host in ["gw.example:5000", "hub.gw.example:5000"] {
        assert!(printed.contains(&format!("==> /etc/docker/certs.d/{host}/ca.crt <==")), "{printed}");
    }
    let alone = made(folder.path(), &["docker", "--no-fallback"]).unwrap();
    assert!(!alone.contains("==> /etc/docker/daemon.json"), "{alone}");
}

#[test]
fn docker_gets_no_mirror_with_a_path() {
    let folder = folder();
    std::fs::write(folder.path().join("dockgate.toml"), CONFIG.replace("hosts = ['hub.gw.example']\n", ""))
        .unwrap();
    let printed = made(folder.path(), &["docker"]).unwrap();
    assert!(!printed.contains("daemon.json <=="), "{printed}");
    assert!(printed.contains("docker takes no path in registry-mirrors"), "{printed}");
}

#[test]
fn podman_gets_mirrors_or_other_locations() {
    let folder = folder();
    let path = "/etc/containers/registries.conf.d/50-dockgate.conf";
    let mirrored = toml(&made(folder.path(), &["podman"]).unwrap(), path);
    let registries = mirrored["registry"].as_array().unwrap();
    assert_eq!(registries.len(), 2);
    assert_eq!(registries[1]["location"], "ghcr.io");
    assert_eq!(registries[1]["mirror"][0]["location"], "gw.example:5000/github");
    let alone = toml(&made(folder.path(), &["cri-o", "--no-fallback"]).unwrap(), path);
    assert_eq!(alone["registry"][1]["prefix"], "ghcr.io");
    assert_eq!(alone["registry"][1]["location"], "gw.example:5000/github");
}

#[test]
fn buildkit_gets_mirrors_and_the_ca() {
    let folder = folder();
    let written = toml(&made(folder.path(), &["buildkit"]).unwrap(), "/etc/buildkit/buildkitd.toml");
    let registries = &written["registry"];
    assert_eq!(registries["docker.io"]["mirrors"][0], "gw.example:5000/docker.io");
    assert_eq!(registries["gw.example:5000"]["ca"][0], "/etc/buildkit/dockgate-ca.crt");
    assert_eq!(registries["gw.example:5000"]["http"].as_bool(), Some(false));
}

#[derive(serde::Deserialize)]
struct Registries {
    mirrors: std::collections::BTreeMap<String, RegistryMirror>,
    configs: std::collections::BTreeMap<String, Value>,
}

#[derive(serde::Deserialize)]
struct RegistryMirror {
    endpoint: Vec<String>,
}

#[test]
fn k3s_gets_endpoints_and_the_login() {
    let folder = folder();
    let words = ["k3s", "--every-registry", "-u", "node", "--password-stdin"];
    let printed = made(folder.path(), &words).unwrap();
    let text = file(&printed, "/etc/rancher/k3s/registries.yaml");
    let written: Registries = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(written.mirrors.keys().collect::<Vec<_>>(), ["*", "docker.io", "ghcr.io"]);
    assert!(written.mirrors.values().all(|mirror| mirror.endpoint == ["https://gw.example:5000"]));
    assert_eq!(written.configs["gw.example:5000"]["auth"]["password"], "p\"w");
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PullSecret {
    string_data: std::collections::BTreeMap<String, String>,
}

#[test]
fn kubernetes_gets_a_pull_secret() {
    let folder = folder();
    let printed = made(folder.path(), &["kubernetes", "-u", "node", "--password-stdin"]).unwrap();
    let secret: PullSecret = serde_saphyr::from_str(&file(&printed, "/dockgate-pull-secret.yaml")).unwrap();
    let config: Value = serde_json::from_str(&secret.string_data[".dockerconfigjson"]).unwrap();
    assert_eq!(config["auths"]["gw.example:5000"]["username"], "node");
    assert_eq!(config["auths"]["gw.example:5000"]["auth"], "bm9kZTpwInc=");
}

#[test]
fn files_are_written_but_never_over_others() {
    let (folder, node) = (folder(), tempfile::tempdir().unwrap());
    let words =
        ["containerd", "-u", "node", "--password-stdin", "--directory", node.path().to_str().unwrap()];
    let said = made(folder.path(), &words).unwrap();
    let hosts = node.path().join(HUB.trim_start_matches('/'));
    assert!(said.contains(hosts.to_str().unwrap()), "{said}");
    assert_eq!(hosts.metadata().unwrap().permissions().mode() & 0o777, 0o600, "it holds a password");
    made(folder.path(), &words).unwrap();
    std::fs::write(&hosts, "server = 'https://other.example'\n").unwrap();
    std::fs::remove_file(node.path().join("etc/containerd/certs.d/ghcr.io/hosts.toml")).unwrap();
    assert!(matches!(made(folder.path(), &words), Err(ClientConfigError::Exists(file)) if file == hosts));
    let nothing = !node.path().join("etc/containerd/certs.d/ghcr.io/hosts.toml").exists();
    assert!(nothing, "a file was written although another could not be");
}

#[test]
fn without_a_url_the_error_says_what_to_add() {
    let folder = folder();
    let text = CONFIG.replace("external_url = 'https://gw.example:5000'\n", "");
    std::fs::write(folder.path().join("dockgate.toml"), text).unwrap();
    let error = made(folder.path(), &["docker"]).unwrap_err();
    assert!(matches!(error, ClientConfigError::NoUrl) && error.exit_code() == 2, "{error}");
    let printed = made(folder.path(), &["docker", "--url", "http://10.0.0.1:5000"]).unwrap();
    assert!(printed.contains("\"insecure-registries\""), "{printed}");
    assert!(matches!(
        made(folder.path(), &["docker", "--url", "https://a/b"]),
        Err(ClientConfigError::Url { .. })
    ));
}
