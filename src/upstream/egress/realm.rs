//! Decides if a realm's host has the registry's owner.

use std::net::IpAddr;

/// Returns true if two host names have one owner: the same name, or names of one registrable domain by the
/// public-suffix list, private suffixes included. Addresses and `localhost` have no owner.
pub(crate) fn is_related(one: &str, other: &str) -> bool {
    if !is_name(one) || !is_name(other) {
        return false;
    }
    if is_aliyun(one, other) || is_aliyun(other, one) {
        return true;
    }
    one == other
        || (!is_shared(one)
            && domain(one)
                .is_some_and(|domain| Some(domain) == crate::upstream::egress::realm::domain(other)))
}

/// Returns true if a host is a name that can have an owner; `localhost` can't (RFC 6761 section 6.3).
pub(crate) fn is_name(host: &str) -> bool {
    host.parse::<IpAddr>().is_err() && host != "localhost" && !host.ends_with(".localhost")
}

/// Returns the registrable domain; `None` for a public suffix, and for a single label.
fn domain(host: &str) -> Option<&str> {
    psl::domain_str(host)
}

/// Returns true for a registry of Alibaba Cloud and its token endpoint: `registry.REGION`, `registry-vpc.REGION` or
/// `NAME.REGION.cr`, and `dockerauth.REGION`, `dockerauth-ee.REGION` or `dockerauth-REGION`. Its customers' storage and
/// functions share the domain, but are never right below a region.
fn is_aliyun(registry: &str, auth: &str) -> bool {
    let names = registry.strip_suffix(ALIYUN).zip(auth.strip_suffix(ALIYUN));
    names.is_some_and(|(registry, auth)| {
        aliyun_region(registry).is_some_and(|region| is_aliyun_auth(auth, region))
    })
}

/// Returns the region of a registry, without the domain.
fn aliyun_region(registry: &str) -> Option<&str> {
    if let Some(name) = registry.strip_suffix(".cr") {
        let name = name.strip_suffix(".personal").unwrap_or(name);
        return name.rsplit_once('.').map(|(_, region)| region);
    }
    let (name, region) = registry.split_once('.')?;
    let known = matches!(name, "registry" | "registry-vpc" | "registry-intl" | "registry-internal");
    (known && !region.contains('.')).then_some(region)
}

fn is_aliyun_auth(auth: &str, region: &str) -> bool {
    if let Some((name, own)) = auth.split_once('.') {
        let kind = name.strip_prefix("dockerauth");
        return own == region && matches!(kind, Some("" | "-vpc" | "-intl" | "-ee" | "-ee-vpc"));
    }
    auth.strip_prefix("dockerauth-") == Some(region)
}

const ALIYUN: &str = ".aliyuncs.com";

fn is_shared(host: &str) -> bool {
    SHARED.iter().any(|suffix| host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')))
}

/// Domains that give names to every customer and are not in the public-suffix list: names below them have different
/// owners.
const SHARED: &[&str] = &[
    "aliyuncs.com",
    "amazonaws.com",
    "amazonaws.com.cn",
    "azurecr.cn",
    "azurecr.io",
    "azurecr.us",
    "cloudsmith.io",
    "container-registry.ovh.net",
    "core.windows.net",
    "jfrog.io",
    "myhuaweicloud.com",
    "on.aws",
    "ondemand.com",
    "scw.cloud",
    "sonatype.app",
    "tencentcloudcr.com",
    "volces.com",
    // Names that are addresses, or services of one cluster.
    "cluster.local",
    "nip.io",
    "sslip.io",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_registrable_domain_are_related() {
        for (one, other) in [
            ("registry-1.docker.io", "auth.docker.io"),
            ("registry.gitlab.com", "gitlab.com"),
            ("docker.elastic.co", "docker-auth.elastic.co"),
            ("registry.digitalocean.com", "api.digitalocean.com"),
            ("eu.gcr.io", "gcr.io"),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
            ("registry-vpc.cn-hangzhou.aliyuncs.com", "dockerauth-vpc.cn-hangzhou.aliyuncs.com"),
            ("registry-intl.ap-southeast-1.aliyuncs.com", "dockerauth.ap-southeast-1.aliyuncs.com"),
            ("acme-registry.cn-hangzhou.cr.aliyuncs.com", "dockerauth-ee.cn-hangzhou.aliyuncs.com"),
            ("acme-registry.cn-zhangjiakou.cr.aliyuncs.com", "dockerauth-cn-zhangjiakou.aliyuncs.com"),
            ("crpi-1.cn-guangzhou.personal.cr.aliyuncs.com", "dockerauth-cn-guangzhou.aliyuncs.com"),
            ("rg.fr-par.scw.cloud", "rg.fr-par.scw.cloud"),
            ("registry.example.co.uk", "auth.example.co.uk"),
            ("registry.corp.internal", "auth.corp.internal"),
            ("registry", "registry"),
            ("acme.azurecr.io", "acme.azurecr.io"),
        ] {
            assert!(is_related(one, other) && is_related(other, one), "{one} {other}");
        }
    }

    #[test]
    fn neighbours_below_a_shared_suffix_are_not() {
        for (one, other) in [
            ("one.example.co.uk", "two.other.co.uk"),
            ("acme.azurecr.io", "evil.azurecr.io"),
            ("acme.jfrog.io", "evil.jfrog.io"),
            ("acme.github.io", "evil.github.io"),
            ("1.dkr.ecr.eu-west-1.amazonaws.com", "2.dkr.ecr.eu-west-1.amazonaws.com"),
            ("1.dkr.ecr.us-east-1.amazonaws.com", "evil.s3.us-east-1.amazonaws.com"),
            ("registry.team.svc.cluster.local", "auth.other.svc.cluster.local"),
            ("registry.10.0.0.1.nip.io", "10.6.6.6.nip.io"),
            ("d1.cloudfront.net", "d2.cloudfront.net"),
            ("registry.cn-hangzhou.aliyuncs.com", "evil.oss-cn-hangzhou.aliyuncs.com"),
            ("registry.cn-hangzhou.aliyuncs.com", "6.cn-hangzhou.fc.aliyuncs.com"),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.oss-cn-hangzhou.aliyuncs.com"),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-beijing.aliyuncs.com"),
            ("registry.cn-hangzhou.aliyuncs.com", "dockerauth-evil.cn-hangzhou.aliyuncs.com"),
            ("registry.cn-hangzhou.fc.aliyuncs.com", "dockerauth.cn-hangzhou.fc.aliyuncs.com"),
            ("evil.oss-cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com"),
            ("acme.cn-hangzhou.cr.aliyuncs.com", "evil.cn-hangzhou.cr.aliyuncs.com"),
            ("acme.cn-hangzhou.cr.aliyuncs.com", "dockerauth.evil.cn-hangzhou.aliyuncs.com"),
            ("acme.cr.volces.com", "evil.tos-cn-beijing.volces.com"),
            ("acme.sonatype.app", "evil.sonatype.app"),
            ("rg.fr-par.scw.cloud", "evil.s3.fr-par.scw.cloud"),
            ("rg.fr-par.scw.cloud", "evil.rg.fr-par.scw.cloud"),
        ] {
            assert!(!is_related(one, other) && !is_related(other, one), "{one} {other}");
        }
    }

    #[test]
    fn similar_names_are_not_related() {
        for (one, other) in [
            ("registry-1.docker.io", "evil-docker.io"),
            ("registry-1.docker.io", "docker.io.evil.com"),
            ("registry-1.docker.io", "auth.docker.com"),
            ("registry-1.docker.io", "io"),
            ("registry-1.docker.io", "xn--dcker-hva.io"),
            ("registry", "auth"),
            ("registry", "registry.com"),
            ("127.0.0.1", "127.0.0.1"),
            ("10.0.0.1", "11.0.0.1"),
            ("::1", "::1"),
            ("localhost", "localhost"),
            ("a.localhost", "a.localhost"),
        ] {
            assert!(!is_related(one, other) && !is_related(other, one), "{one} {other}");
        }
    }
}
