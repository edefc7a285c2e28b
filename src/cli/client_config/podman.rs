//! podman, buildah, skopeo and CRI-O: a file for `registries.conf.d`, and the folder of certificates.

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::served_gateway::{ServedGateway, quoted};

/// Returns the files of the programs that use containers/image.
pub(super) fn files(gateway: &ServedGateway) -> ClientFiles {
    let mut files = ClientFiles::default();
    if let Some(ca) = &gateway.ca {
        files.add(format!("/etc/containers/certs.d/{}/ca.crt", gateway.authority()), ca);
    }
    let text = registries(gateway);
    if !text.is_empty() {
        files.add("/etc/containers/registries.conf.d/50-dockgate.conf", text);
    }
    note(&mut files, gateway);
    files
}

fn registries(gateway: &ServedGateway) -> String {
    let mut text = String::new();
    for mirror in &gateway.mirrors {
        let (name, location) = (quoted(&mirror.name), quoted(&gateway.location(mirror)));
        if gateway.fallback {
            text += &format!("[[registry]]\nprefix = {name}\nlocation = {name}\n\n");
            text += &format!("[[registry.mirror]]\nlocation = {location}\n{}\n", insecure(gateway));
        } else {
            text += "# Not a mirror but the place itself: what the gateway refuses is not asked of the registry.\n";
            text += &format!("[[registry]]\nprefix = {name}\nlocation = {location}\n{}\n", insecure(gateway));
        }
    }
    if !gateway.url.https {
        let own = quoted(gateway.authority());
        text += &format!("[[registry]]\nprefix = {own}\nlocation = {own}\ninsecure = true\n");
    }
    text
}

fn insecure(gateway: &ServedGateway) -> &'static str {
    if gateway.url.https { "" } else { "insecure = true\n" }
}

fn note(files: &mut ClientFiles, gateway: &ServedGateway) {
    files.note(format!(
        "podman login {0}: the login of the mirror's own host is what it gets, also without being asked for. For CRI-O, put it \
         into the file of global_auth_file in [crio.image], with podman login --authfile FILE {0}. A pod's pull secret for \
         docker.io is not sent to a mirror.",
        gateway.authority()
    ));
    if gateway.fallback {
        files.note(
            "After any failure of the mirror, a denial included, the registry itself is asked. --no-fallback ends that.",
        );
    }
    files.note("Pushes never go to a mirror; with --no-fallback they go to the gateway too.");
    files.note(
        "CRI-O reads the files again on SIGHUP (systemctl reload crio); the others read them each time.",
    );
}
