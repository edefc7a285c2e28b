//! k3s and RKE2: `registries.yaml`, of which they make containerd's files.

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::served_gateway::{ServedGateway, quoted};

const CA: &str = "/etc/rancher/k3s/dockgate-ca.crt";

/// Returns the files of a k3s node.
pub(super) fn files(gateway: &ServedGateway) -> ClientFiles {
    let mut files = ClientFiles::default();
    if let Some(ca) = &gateway.ca {
        files.add(CA, ca);
    }
    files.add_secret("/etc/rancher/k3s/registries.yaml", text(gateway));
    note(&mut files);
    files
}

fn text(gateway: &ServedGateway) -> String {
    let mut text = String::new();
    let names = gateway.mirrors.iter().map(|mirror| mirror.name.as_str());
    let names: Vec<_> = names.chain(gateway.every_registry.then_some("*")).collect();
    if !names.is_empty() {
        text += "mirrors:\n";
    }
    for name in names {
        text += &format!("  {}:\n    endpoint: [{}]\n", quoted(name), quoted(&gateway.url.to_string()));
    }
    if gateway.login.is_none() && gateway.ca.is_none() {
        return text;
    }
    text += &format!("configs:\n  {}:\n", quoted(gateway.authority()));
    if let Some(login) = &gateway.login {
        let (name, password) = (quoted(&login.name), quoted(login.password.expose()));
        text += &format!("    auth:\n      username: {name}\n      password: {password}\n");
    }
    if gateway.ca.is_some() {
        text += &format!("    tls:\n      ca_file: {}\n", quoted(CA));
    }
    text
}

fn note(files: &mut ClientFiles) {
    files.note("RKE2 reads /etc/rancher/rke2/registries.yaml. Both read it when they start: systemctl restart k3s (or k3s-agent).");
    files.note(
        "Credentials: k3s sends the login under configs to the gateway, as a mirror too: -u puts one in.",
    );
    files.note(
        "k3s asks the registry itself after the gateway, also after a denial. Start it with \
         --disable-default-registry-endpoint to end that.",
    );
}
