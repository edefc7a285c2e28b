//! Kubernetes: a pull secret.

use serde_json::json;

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::served_gateway::{ServedGateway, quoted};

/// Returns the manifest of a pull secret, and the pods' part of it.
pub(super) fn files(gateway: &ServedGateway) -> ClientFiles {
    let mut files = ClientFiles::default();
    files.add_secret("/dockgate-pull-secret.yaml", text(gateway));
    note(&mut files, gateway);
    files
}

fn text(gateway: &ServedGateway) -> String {
    let entry = match &gateway.login {
        Some(login) => json!({
            "username": login.name,
            "password": login.password.expose(),
            "auth": login.encoded(),
        }),
        None => json!({ "username": "NAME", "password": "PASSWORD" }),
    };
    let authority = gateway.authority();
    let config = json!({ "auths": { authority: entry } });
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: dockgate\ntype: kubernetes.io/dockerconfigjson\nstringData:\n  \
         .dockerconfigjson: {}\n",
        quoted(&config.to_string())
    )
}

fn note(files: &mut ClientFiles, gateway: &ServedGateway) {
    files.note(
        "kubectl apply --namespace NAMESPACE -f dockgate-pull-secret.yaml, and imagePullSecrets: [{name: dockgate}] in the pod or \
         in its service account.",
    );
    files.note(format!(
        "The secret is for images that are named {}/.... The kubelet sends it to no mirror: for those see client-config containerd.",
        gateway.authority()
    ));
    files.note(
        "Nodes must trust the gateway's certificate: client-config containerd (or podman, for CRI-O) has the files.",
    );
    files.note("Without any secret: dockgate credential-provider, see deploy/kubernetes/README.md.");
}
