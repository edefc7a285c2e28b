//! The storage hosts of known registries.
//!
//! A proxy resolves names by itself, so that addresses can't be checked: a redirect may then lead only to names that
//! are known to be public. Without a proxy the addresses are checked and this table is not used.

/// Returns true if `registry` is known to redirect to `host`, by https and at its own port.
pub(crate) fn is_known(registry: &str, host: &str) -> bool {
    let of_registry = KNOWN.iter().filter(|(registries, _)| registries.iter().any(|p| matches(p, registry)));
    of_registry.flat_map(|(_, hosts)| hosts.iter()).any(|pattern| matches(pattern, host))
}

/// Matches a pattern. A star stands for a part of one label; as the first label, for one label or more.
fn matches(pattern: &str, host: &str) -> bool {
    if let Some(domain) = pattern.strip_prefix("*.")
        && !domain.contains('*')
    {
        return host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
    }
    let same_length = pattern.split('.').count() == host.split('.').count();
    same_length
        && pattern.split('.').zip(host.split('.')).all(|(pattern, label)| label_matches(pattern, label))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => {
            label.len() > start.len() + end.len() && label.starts_with(start) && label.ends_with(end)
        }
    }
}

type Known = (&'static [&'static str], &'static [&'static str]);

/// Registries, and the hosts that they redirect to.
const KNOWN: &[Known] = &[
    (
        &["registry-1.docker.io", "index.docker.io"],
        &[
            "production.cloudflare.docker.com",
            "production.cloudfront.docker.com",
            "*.r2.cloudflarestorage.com",
        ],
    ),
    (&["ghcr.io"], &["pkg-containers.githubusercontent.com"]),
    (
        &["quay.io", "registry.redhat.io", "registry.access.redhat.com"],
        &["cdn.quay.io", "cdn0*.quay.io", "quayio-production-s3.s3.amazonaws.com"],
    ),
    (&["*.dkr.ecr.*.amazonaws.com"], &["prod-*-starport-layer-bucket.s3.*.amazonaws.com"]),
    (&["*.dkr.ecr.*.amazonaws.com.cn"], &["prod-*-starport-layer-bucket.s3.*.amazonaws.com.cn"]),
    (&["public.ecr.aws"], &["*.cloudfront.net"]),
    (&["gcr.io", "*.gcr.io", "*.pkg.dev"], &["storage.googleapis.com"]),
    (&["*.azurecr.io"], &["*.blob.core.windows.net", "*.data.azurecr.io"]),
    (&["mcr.microsoft.com"], &["*.data.mcr.microsoft.com"]),
    (
        &["registry.k8s.io"],
        &["*.pkg.dev", "storage.googleapis.com", "prod-registry-k8s-io-*.s3.dualstack.*.amazonaws.com"],
    ),
    (&["registry.gitlab.com"], &["cdn.registry.gitlab-static.net", "storage.googleapis.com"]),
    (&["nvcr.io"], &["*.nvcr.io", "*.ngc.nvidia.com"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_registries_redirect_to_their_own_storage() {
        for (registry, host) in [
            ("registry-1.docker.io", "production.cloudflare.docker.com"),
            (
                "registry-1.docker.io",
                "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com",
            ),
            ("ghcr.io", "pkg-containers.githubusercontent.com"),
            ("quay.io", "cdn03.quay.io"),
            (
                "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
                "prod-eu-west-1-starport-layer-bucket.s3.eu-west-1.amazonaws.com",
            ),
            ("public.ecr.aws", "d5l0dvt14r5h8.cloudfront.net"),
            ("us-docker.pkg.dev", "storage.googleapis.com"),
            ("acme.azurecr.io", "eusmanaged1.blob.core.windows.net"),
            ("acme.azurecr.io", "acme.westeurope.data.azurecr.io"),
            ("mcr.microsoft.com", "eastus.data.mcr.microsoft.com"),
            ("registry.k8s.io", "europe-west3-docker.pkg.dev"),
            ("registry.k8s.io", "prod-registry-k8s-io-us-east-1.s3.dualstack.us-east-1.amazonaws.com"),
            ("registry.gitlab.com", "cdn.registry.gitlab-static.net"),
        ] {
            assert!(is_known(registry, host), "{registry} {host}");
        }
    }

    #[test]
    fn storage_of_other_registries_is_unknown() {
        for (registry, host) in [
            ("ghcr.io", "production.cloudflare.docker.com"),
            ("registry.example", "storage.googleapis.com"),
            ("registry-1.docker.io", "r2.cloudflarestorage.com"),
            ("registry-1.docker.io", ".r2.cloudflarestorage.com"),
            ("registry-1.docker.io", "evilr2.cloudflarestorage.com"),
            ("registry-1.docker.io", "production.cloudflare.docker.com.evil.example"),
            ("evil.example.gcr.io.evil.example", "storage.googleapis.com"),
            ("quay.io", "cdn0.quay.io"),
            ("quay.io", "cdn0x.evil.quay.io"),
            (
                "1.dkr.ecr.eu-west-1.amazonaws.com",
                "prod-a.evil-starport-layer-bucket.s3.eu-west-1.amazonaws.com",
            ),
            ("1.dkr.ecr.eu-west-1.amazonaws.com", "evil.s3.eu-west-1.amazonaws.com"),
        ] {
            assert!(!is_known(registry, host), "{registry} {host}");
        }
    }
}
