//! BuildKit: `buildkitd.toml`.

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::served_gateway::{ServedGateway, quoted};

const CA: &str = "/etc/buildkit/dockgate-ca.crt";

/// Returns the files of buildkitd.
pub(super) fn files(gateway: &ServedGateway) -> ClientFiles {
    let mut files = ClientFiles::default();
    if let Some(ca) = &gateway.ca {
        files.add(CA, ca);
    }
    files.add("/etc/buildkit/buildkitd.toml", text(gateway));
    note(&mut files, gateway);
    files
}

fn text(gateway: &ServedGateway) -> String {
    let mut text = String::new();
    for mirror in &gateway.mirrors {
        // The path of a mirror goes behind /v2.
        let location = quoted(&gateway.location(mirror));
        text += &format!("[registry.{}]\n  mirrors = [{location}]\n\n", quoted(&mirror.name));
    }
    text += &format!("[registry.{}]\n", quoted(gateway.authority()));
    // Without the key BuildKit speaks HTTP to localhost and 127.0.0.0/8 (its resolver's MatchLocalhost).
    text += &format!("  http = {}\n", !gateway.url.https);
    if gateway.ca.is_some() {
        text += &format!("  ca = [{}]\n", quoted(CA));
    }
    text
}

fn note(files: &mut ClientFiles, gateway: &ServedGateway) {
    files.note(format!(
        "docker login {}: BuildKit asks the client, docker buildx or buildctl, for the login of the mirror's host, which it \
         finds in the config.json of the user who builds.",
        gateway.authority()
    ));
    files.note(
        "docker buildx create --driver docker-container --config /etc/buildkit/buildkitd.toml gives the file, and the CA that it \
         names, to a builder in a container. The BuildKit inside dockerd reads daemon.json instead: see client-config docker.",
    );
    files.note(
        "After any failure of the mirror, a denial included, BuildKit asks the registry itself. No file changes that: name the \
         gateway in FROM where rules must hold.",
    );
}
