//! containerd: `hosts.toml`, one folder for each registry.

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::served_gateway::{Mirror, ServedGateway, quoted};

const FOLDER: &str = "/etc/containerd/certs.d";

/// Returns the files of containerd.
pub(super) fn files(gateway: &ServedGateway) -> ClientFiles {
    let mut files = ClientFiles::default();
    if let Some(ca) = &gateway.ca {
        files.add(ca_path(gateway), ca);
    }
    for mirror in &gateway.mirrors {
        files.add_secret(hosts_path(&mirror.name), mirror_text(gateway, Some(mirror)));
    }
    if gateway.every_registry {
        files.add_secret(hosts_path("_default"), mirror_text(gateway, None));
    }
    files.add(hosts_path(gateway.authority()), own_text(gateway));
    note(&mut files, gateway);
    files
}

fn hosts_path(registry: &str) -> String {
    format!("{FOLDER}/{registry}/hosts.toml")
}

fn ca_path(gateway: &ServedGateway) -> String {
    format!("{FOLDER}/{}/ca.crt", gateway.authority())
}

/// Returns what is asked of a registry, or of every registry that has no folder of its own: containerd names the registry in
/// `?ns=`, so that the gateway needs no path.
fn mirror_text(gateway: &ServedGateway, mirror: Option<&Mirror>) -> String {
    let url = gateway.url.to_string();
    let mut text = String::new();
    if gateway.fallback {
        // Without a server, containerd takes the registry's own.
        if let Some(mirror) = mirror {
            text += &format!(
                "# Asked when the gateway does not answer or refuses.\nserver = {}\n\n",
                quoted(&mirror.origin())
            );
        }
        text += &format!("[host.{}]\n", quoted(&url));
        text += &indented(&settings(gateway, &["pull", "resolve"]), "  ");
        text += &header(gateway, &format!("[host.{}.header]", quoted(&url)), "  ");
    } else {
        text += &format!(
            "# The gateway alone: what it refuses is not asked of the registry.\nserver = {}\n",
            quoted(&url)
        );
        text += &settings(gateway, &["pull", "resolve"]);
        text += &header(gateway, "[header]", "");
        text += NO_FURTHER_HOST;
    }
    text
}

/// Returns how images with the gateway's own name are pulled and pushed, by the login that the command brings.
fn own_text(gateway: &ServedGateway) -> String {
    let server = format!("server = {}\n", quoted(&gateway.url.to_string()));
    server + &settings(gateway, &["pull", "resolve", "push"]) + NO_FURTHER_HOST
}

/// containerd 1.6 and 1.7 do not read a file without this table.
const NO_FURTHER_HOST: &str = "\n[host]\n";

fn settings(gateway: &ServedGateway, capabilities: &[&str]) -> String {
    let mut text = format!("capabilities = {}\n", serde_json::json!(capabilities));
    if gateway.ca.is_some() {
        text += &format!("ca = {}\n", quoted(&ca_path(gateway)));
    }
    text
}

/// Returns the table with the login: containerd has no other place for one that mirrors get.
fn header(gateway: &ServedGateway, table: &str, indent: &str) -> String {
    match &gateway.login {
        Some(login) => indented(&format!("{table}\n  authorization = {}\n", quoted(&login.basic())), indent),
        None => indented(
            &format!("# {table}\n#   authorization = \"Basic ...\"   # printf NAME:PASSWORD | base64\n"),
            indent,
        ),
    }
}

fn indented(text: &str, indent: &str) -> String {
    text.lines().map(|line| format!("{indent}{line}\n")).collect()
}

fn note(files: &mut ClientFiles, gateway: &ServedGateway) {
    files.note(format!(
        "containerd reads {FOLDER} if its config.toml says so: config_path = {FOLDER:?} in \
         [plugins.\"io.containerd.cri.v1.images\".registry] (containerd 2) or \
         [plugins.\"io.containerd.grpc.v1.cri\".registry] (containerd 1). Changes in {FOLDER} need no restart.",
    ));
    files.note(
        "Credentials: a pull secret of a pod is for the registry that it names, so a mirror does not get it. What a mirror gets \
         is the header in hosts.toml, or nothing: allow anonymous pulls from the nodes' networks, or use -u.",
    );
    files.note(format!(
        "Images that are named {}/... are pulled with the login of the command or of the pod's pull secret.",
        gateway.authority()
    ));
    if gateway.fallback {
        files.note(
            "After any failure of the gateway, a denial included, containerd asks the registry itself. --no-fallback ends that.",
        );
    }
}
