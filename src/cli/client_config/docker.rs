//! docker: `daemon.json` and the folder of certificates.

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::served_gateway::ServedGateway;

/// Returns the files of dockerd.
pub(super) fn files(gateway: &ServedGateway) -> ClientFiles {
    let mut files = ClientFiles::default();
    let authority = gateway.authority();
    if let Some(ca) = &gateway.ca {
        files.add(format!("/etc/docker/certs.d/{authority}/ca.crt"), ca);
    }
    let hub = gateway.mirrors.iter().find(|mirror| mirror.is_docker_hub());
    let mut daemon = serde_json::Map::new();
    let mirror = hub.filter(|_| gateway.fallback).and_then(|hub| gateway.root_url(hub));
    if let Some(url) = &mirror {
        let host = url.strip_prefix("https://").filter(|host| *host != authority);
        if let Some((host, ca)) = host.zip(gateway.ca.as_ref()) {
            files.add(format!("/etc/docker/certs.d/{host}/ca.crt"), ca);
        }
        daemon.insert("registry-mirrors".into(), serde_json::json!([url]));
    }
    if !gateway.url.https {
        daemon.insert("insecure-registries".into(), serde_json::json!([authority]));
    }
    if !daemon.is_empty() {
        files.add("/etc/docker/daemon.json", format!("{:#}\n", serde_json::Value::from(daemon)));
        files.note(
            "daemon.json may hold other settings: add these keys to it, and run systemctl reload docker.",
        );
    }
    if hub.is_some() && gateway.fallback && mirror.is_none() {
        files.note(
            "docker takes no path in registry-mirrors: the gateway can be its mirror when the upstream docker.io has a name of its \
             own, hosts = [\"hub.registry.example.com\"], which its certificate must have too.",
        );
    }
    note(&mut files, gateway);
    files
}

fn note(files: &mut ClientFiles, gateway: &ServedGateway) {
    let authority = gateway.authority();
    files.note(format!(
        "docker login {authority}, then pull by the gateway's name, for example {}: docker sends that login, and goes nowhere \
         else when it is refused. This is the way to rely on.",
        gateway.mirrors.first().map_or_else(
            || format!("{authority}/team/app"),
            |mirror| format!("{}/library/alpine", gateway.location(mirror)),
        ),
    ));
    files.note(
        "registry-mirrors is for Docker Hub alone. docker never sends the gateway's login to a mirror: the rules must allow \
         anonymous pulls of docker.io/**. dockerd without the containerd image store sends the user's Docker Hub login there.",
    );
    files.note(
        "After any failure of the mirror, a denial included, docker pulls from Docker Hub itself and says nothing. No file \
         changes that (--no-fallback leaves the mirror out): block Docker Hub in the network where rules must hold.",
    );
    files.note("Rootless docker reads ~/.config/docker/certs.d and ~/.config/docker/daemon.json instead.");
}
