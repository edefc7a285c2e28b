use std::path::Path;

use crate::config::{Config, Environment};
use crate::upstream::egress::policy::*;
use crate::upstream::egress::url::UrlError;

const HUB: &str = "https://registry-1.docker.io";

/// The rules of an upstream with these keys in its table.
fn policy(url: &str, keys: &str) -> EgressPolicy {
    policy_in(url, keys, &Environment::default())
}

fn policy_in(url: &str, keys: &str, environment: &Environment) -> EgressPolicy {
    let text =
        format!("[auth.htpasswd]\npath = \"users\"\n[[upstream]]\nname = \"up\"\nurl = {url:?}\n{keys}\n");
    let config = Config::from_toml(&text, "dockgate.toml", Path::new("/etc/dockgate"), environment).unwrap();
    EgressPolicy::new(&config.upstreams[0])
}

fn blob(policy: &EgressPolicy) -> Url {
    policy.own("/v2/a/blobs/sha256:0?x".into()).url().clone()
}

/// Where a request would go, or why there is none.
fn verdict(result: Result<Destination, EgressError>) -> &'static str {
    match result {
        Ok(destination) if destination.is_own() => "the upstream",
        Ok(destination) if destination.addresses() == Addresses::Any => "any address",
        Ok(destination) if destination.is_proxied() => "by proxy",
        Ok(_) => "public addresses",
        Err(EgressError::Url(_)) => "refused: no URL",
        Err(EgressError::ForeignRealm(_)) => "refused: foreign realm",
        Err(EgressError::PlainRealm(_)) => "refused: plain realm",
        Err(EgressError::UnlistedRedirect(_)) => "refused: not in redirect_hosts",
        Err(EgressError::PrivateRedirect(_)) => "refused: private",
        Err(EgressError::PlainRedirect(_)) => "refused: plain redirect",
        Err(EgressError::ProxiedRedirect(_)) => "refused: unknown behind proxy",
        Err(EgressError::ForeignUpload(_)) => "refused: foreign upload",
        Err(EgressError::SentBack) => "refused: sent back",
    }
}

/// `--nocapture` prints the table.
#[test]
fn attacks_on_realm_redirect_and_upload_lead_nowhere() {
    type Rule = (&'static str, fn(&EgressPolicy, &str) -> Result<Destination, EgressError>);
    type Row = (Rule, &'static str, &'static str, &'static str, &'static str);
    let realm: Rule = ("realm", |policy, text| policy.realm(text));
    let redirect: Rule = ("redirect", |policy, text| policy.redirect(&blob(policy), text));
    let onward: Rule =
        ("onward", |policy, text| policy.redirect(&Url::parse("https://cdn.example/b").unwrap(), text));
    let upload_on: Rule =
        ("upload on", |policy, text| policy.upload(&Url::parse("https://cdn.example/u").unwrap(), text));
    let upload: Rule = ("upload", |policy, text| policy.upload(&blob(policy), text));

    const ACR: &str = "https://acme.azurecr.io";
    const ECR: &str = "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com";
    const ALI: &str = "https://registry.cn-hangzhou.aliyuncs.com";
    const LAN: &str = "http://10.0.0.5:5000";
    const LOCAL: &str = "http://localhost:5000";
    const PROXY: &str = "proxy = \"http://proxy.example:3128\"";
    const LISTED: &str = "redirect_hosts = [\"cdn.example\", \"10.0.0.9:9000\"]";
    const WILD: &str =
        "redirect_hosts = [\"*.cdn.example\", \"inside.cdn.example\"]\nrealm_hosts = [\"*.auth.example\"]";
    const TRUSTED: &str = "realm_hosts = [\"auth.example\", \"10.0.0.9:8443\"]";

    let rows: &[Row] = &[
        // The host is read from the URL as a whole.
        (realm, HUB, "", "https://auth.docker.io/token?service=a", "public addresses"),
        (realm, HUB, "", "https://registry-1.docker.io@evil.example/token", "refused: no URL"),
        (realm, HUB, "", "https://registry-1.docker.io:443@evil.example/", "refused: no URL"),
        (realm, HUB, "", "https://evil.example\\@registry-1.docker.io/", "refused: no URL"),
        (realm, HUB, "", "https://evil.example\\.docker.io/", "refused: no URL"),
        (realm, HUB, "", "https://evil.example/#@auth.docker.io/", "refused: foreign realm"),
        (realm, HUB, "", "https://evil.example?.docker.io/", "refused: foreign realm"),
        (realm, HUB, "", " https://auth.docker.io/token", "refused: no URL"),
        (realm, HUB, "", "https://auth.docker.io/\r\nX: y", "refused: no URL"),
        (realm, HUB, "", "https://auth.docker.io%00.evil.example/", "refused: no URL"),
        (realm, HUB, "", "/token", "refused: no URL"),
        (realm, HUB, "", "//evil.example/token", "refused: no URL"),
        (realm, HUB, "", "token", "refused: no URL"),
        (realm, HUB, "", "", "refused: no URL"),
        (realm, HUB, "", "file:///etc/passwd", "refused: no URL"),
        (realm, HUB, "", "gopher://auth.docker.io/", "refused: no URL"),
        (realm, HUB, "", "ftp://auth.docker.io/", "refused: no URL"),
        // The host must be the registry's own or a configured one.
        (realm, HUB, "", "https://evil.example/token", "refused: foreign realm"),
        (realm, HUB, "", "https://evil-docker.io/token", "refused: foreign realm"),
        (realm, HUB, "", "https://docker.io.evil.com/token", "refused: foreign realm"),
        (realm, HUB, "", "https://auth.docker.com/token", "refused: foreign realm"),
        (realm, HUB, "", "https://xn--dcker-hva.io/token", "refused: foreign realm"),
        (realm, HUB, "", "https://d\u{f6}cker.io/token", "refused: no URL"),
        (realm, HUB, "", "https://AUTH.docker.io./token", "public addresses"),
        (realm, HUB, "", "https://io/token", "refused: foreign realm"),
        (realm, HUB, "", "https://127.0.0.1/token", "refused: foreign realm"),
        (realm, HUB, "", "https://8.8.8.8/token", "refused: foreign realm"),
        (realm, HUB, "", "https://localhost/token", "refused: foreign realm"),
        (realm, HUB, "", "http://auth.docker.io/token", "refused: plain realm"),
        (realm, HUB, "", "http://registry-1.docker.io:443/token", "refused: plain realm"),
        (realm, ACR, "", "https://acme.azurecr.io/oauth2/token", "the upstream"),
        (realm, ACR, "", "https://evil.azurecr.io/oauth2/token", "refused: foreign realm"),
        (realm, ECR, "", "https://6.dkr.ecr.eu-west-1.amazonaws.com/", "refused: foreign realm"),
        (realm, ECR, "", "https://evil.s3.eu-west-1.amazonaws.com/", "refused: foreign realm"),
        (realm, ALI, "", "https://dockerauth.cn-hangzhou.aliyuncs.com/auth", "public addresses"),
        (realm, ALI, "", "https://evil.oss-cn-hangzhou.aliyuncs.com/auth", "refused: foreign realm"),
        (realm, ALI, "", "https://6.cn-hangzhou.fc.aliyuncs.com/auth", "refused: foreign realm"),
        (realm, ALI, "", "https://dockerauth.cn-hangzhou.fc.aliyuncs.com/", "refused: foreign realm"),
        (realm, "https://acme.cr.volces.com", "", "https://evil.tos-a.volces.com/", "refused: foreign realm"),
        (realm, "https://acme.sonatype.app", "", "https://evil.sonatype.app/", "refused: foreign realm"),
        (realm, "https://rg.fr-par.scw.cloud", "", "https://evil.scw.cloud/", "refused: foreign realm"),
        (realm, "https://me.github.io", "", "https://evil.github.io/", "refused: foreign realm"),
        (realm, LAN, "", "http://10.0.0.5:5000/token", "the upstream"),
        (realm, LAN, "", "http://10.0.0.5:5001/token", "refused: foreign realm"),
        (realm, LAN, "", "https://10.0.0.5:5001/token", "refused: foreign realm"),
        (realm, LAN, "", "http://[::ffff:10.0.0.5]:5000/token", "refused: foreign realm"),
        (realm, LOCAL, "", "https://localhost:5001/token", "refused: foreign realm"),
        (realm, HUB, TRUSTED, "https://auth.example/token", "any address"),
        (realm, HUB, TRUSTED, "https://auth.example:8443/token", "refused: foreign realm"),
        (realm, HUB, TRUSTED, "http://auth.example/token", "refused: plain realm"),
        (realm, HUB, TRUSTED, "http://10.0.0.9:8443/token", "any address"),
        (realm, HUB, TRUSTED, "https://evil.auth.example/token", "refused: foreign realm"),
        (realm, HUB, PROXY, "https://auth.docker.io/token", "by proxy"),
        (realm, HUB, PROXY, "https://169.254.169.254/token", "refused: foreign realm"),
        // Redirects of blobs.
        (redirect, HUB, "", "https://cdn.example/blob?sig=a", "public addresses"),
        (redirect, HUB, "", "//cdn.example/blob", "public addresses"),
        (redirect, HUB, "", "/other?sig=a", "the upstream"),
        (redirect, HUB, "", "http://registry-1.docker.io/blob", "the upstream"),
        (redirect, HUB, "", "http://cdn.example/blob", "refused: plain redirect"),
        (redirect, HUB, "", "http://registry-1.docker.io:80/blob", "refused: plain redirect"),
        (redirect, HUB, "", "https://169.254.169.254/latest/meta-data/", "refused: private"),
        (redirect, HUB, "", "http://169.254.169.254/latest/meta-data/", "refused: private"),
        (redirect, HUB, "", "https://[::ffff:169.254.169.254]/", "refused: private"),
        (redirect, HUB, "", "https://[::ffff:a9fe:a9fe]/", "refused: private"),
        (redirect, HUB, "", "https://[64:ff9b::a9fe:a9fe]/", "refused: private"),
        (redirect, HUB, "", "https://[fd00:ec2::254]/", "refused: private"),
        (redirect, HUB, "", "https://[fe80::1%25eth0]/", "refused: no URL"),
        (redirect, HUB, "", "https://[::1]:6443/", "refused: private"),
        (redirect, HUB, "", "https://127.0.0.1:6443/", "refused: private"),
        (redirect, HUB, "", "https://127.0.0.1./", "refused: private"),
        (redirect, HUB, "", "https://0/", "refused: no URL"),
        (redirect, HUB, "", "https://127.1/", "refused: no URL"),
        (redirect, HUB, "", "https://0x7f.1/", "refused: no URL"),
        (redirect, HUB, "", "https://0177.0.0.1/", "refused: no URL"),
        (redirect, HUB, "", "https://2130706433/", "refused: no URL"),
        (redirect, HUB, "", "https://localhost:2375/", "refused: private"),
        (redirect, HUB, "", "https://docker.localhost/", "refused: private"),
        (redirect, HUB, "", "https://8.8.8.8/blob", "public addresses"),
        (redirect, HUB, "", "file:///etc/passwd", "refused: no URL"),
        (redirect, HUB, "", "gopher://127.0.0.1:6379/_FLUSHALL", "refused: no URL"),
        (redirect, HUB, "", "\\\\evil.example\\blob", "refused: no URL"),
        (redirect, HUB, "", "/\\evil.example/blob", "refused: no URL"),
        (redirect, HUB, LISTED, "https://cdn.example/blob", "any address"),
        (redirect, HUB, LISTED, "http://10.0.0.9:9000/blob", "any address"),
        (redirect, HUB, LISTED, "http://cdn.example/blob", "refused: not in redirect_hosts"),
        (redirect, LAN, LISTED, "http://cdn.example/blob", "any address"),
        (onward, LAN, LISTED, "http://cdn.example/blob", "refused: not in redirect_hosts"),
        (redirect, HUB, WILD, "https://a.cdn.example/blob", "public addresses"),
        (redirect, HUB, WILD, "https://cdn.example/blob", "refused: not in redirect_hosts"),
        (redirect, HUB, WILD, "https://inside.cdn.example/blob", "any address"),
        (redirect, HUB, WILD, "http://a.cdn.example/blob", "refused: not in redirect_hosts"),
        (realm, HUB, WILD, "https://a.auth.example/token", "public addresses"),
        (upload, HUB, WILD, "https://a.cdn.example/v2/a", "public addresses"),
        (upload, HUB, LISTED, "http://cdn.example/v2/a", "refused: foreign upload"),
        (upload, LAN, LISTED, "http://cdn.example/v2/a", "any address"),
        (upload, HUB, LISTED, "http://10.0.0.9:9000/v2/a", "any address"),
        (redirect, HUB, LISTED, "http://10.0.0.9:9001/blob", "refused: not in redirect_hosts"),
        (redirect, HUB, LISTED, "https://cdn.example:8443/blob", "refused: not in redirect_hosts"),
        (redirect, HUB, LISTED, "https://cdn.example.evil.com/", "refused: not in redirect_hosts"),
        (redirect, HUB, LISTED, "https://other.example/blob", "refused: not in redirect_hosts"),
        (redirect, LAN, "", "http://cdn.example/blob", "public addresses"),
        (redirect, LAN, "", "http://10.0.0.6:5000/blob", "refused: private"),
        (redirect, HUB, PROXY, "https://production.cloudflare.docker.com/a", "by proxy"),
        (
            redirect,
            HUB,
            PROXY,
            "https://production.cloudflare.docker.com:8443/",
            "refused: unknown behind proxy",
        ),
        (redirect, HUB, PROXY, "https://intranet.corp.example/", "refused: unknown behind proxy"),
        (redirect, HUB, PROXY, "https://8.8.8.8/blob", "refused: unknown behind proxy"),
        (redirect, HUB, PROXY, "https://10.0.0.1/blob", "refused: private"),
        // Redirects by hosts that were redirected to.
        (onward, HUB, "", "/other", "public addresses"),
        (onward, HUB, "", "https://registry-1.docker.io/v2/a", "refused: sent back"),
        (onward, HUB, "", "//Registry-1.docker.io.:443/v2/a", "refused: sent back"),
        (onward, HUB, "", "http://registry-1.docker.io:443/v2/a", "refused: sent back"),
        (onward, HUB, "", "http://registry-1.docker.io/v2/a", "refused: plain redirect"),
        (onward, LAN, "", "http://10.0.0.5:5000/v2/a", "refused: sent back"),
        (
            onward,
            HUB,
            "redirect_hosts = [\"registry-1.docker.io\"]",
            "https://registry-1.docker.io/",
            "refused: sent back",
        ),
        // Uploads.
        (upload_on, HUB, LISTED, "https://registry-1.docker.io/v2/a", "refused: sent back"),
        (upload_on, HUB, LISTED, "http://registry-1.docker.io/v2/a", "refused: sent back"),
        (upload_on, HUB, LISTED, "/v2/a", "any address"),
        (upload, HUB, "", "/v2/a/blobs/uploads/1?_state=x", "the upstream"),
        (upload, HUB, "", "http://registry-1.docker.io/v2/a", "the upstream"),
        (upload, "https://r.example:5000", "", "https://r.example/v2/a", "the upstream"),
        (upload, HUB, "", "https://registry-1.docker.io:444/v2/a", "refused: foreign upload"),
        (upload, HUB, "", "https://auth.docker.io/v2/a", "refused: foreign upload"),
        (upload, HUB, "", "//evil.example/v2/a", "refused: foreign upload"),
        (upload, HUB, "", "https://registry-1.docker.io@evil.example/v2/a", "refused: no URL"),
        (upload, HUB, LISTED, "https://cdn.example/v2/a", "any address"),
        (upload, HUB, LISTED, "https://other.example/v2/a", "refused: foreign upload"),
    ];
    for ((name, rule), url, keys, text, expected) in rows {
        let given = verdict(rule(&policy(url, keys), text));
        let registry = url.trim_start_matches("https://");
        let text = text.escape_default().to_string();
        println!("{given:<31}{name:<9}{registry:<45}{text:<50}{keys}");
        assert_eq!(&given, expected, "{name} of {url} ({keys}): {text}");
    }
}

#[test]
fn the_challenges_of_real_registries_pass() {
    for (url, realm) in [
        (HUB, "https://auth.docker.io/token"),
        ("https://ghcr.io", "https://ghcr.io/token"),
        ("https://quay.io", "https://quay.io/v2/auth"),
        ("https://public.ecr.aws", "https://public.ecr.aws/token/"),
        ("https://us-docker.pkg.dev", "https://us-docker.pkg.dev/v2/token"),
        ("https://gcr.io", "https://gcr.io/v2/token"),
        ("https://eu.gcr.io", "https://eu.gcr.io/v2/token"),
        ("https://acme.azurecr.io", "https://acme.azurecr.io/oauth2/token"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://nvcr.io", "https://nvcr.io/proxy_auth"),
        ("https://docker.elastic.co", "https://docker-auth.elastic.co/auth"),
        ("https://registry.digitalocean.com", "https://api.digitalocean.com/v2/registry/auth"),
        ("https://acme.jfrog.io", "https://acme.jfrog.io/artifactory/api/docker/null/v2/token"),
        ("https://registry.corp.example:5000", "https://registry.corp.example:5001/auth"),
        ("https://harbor.corp.example", "https://harbor.corp.example/service/token"),
        ("https://registry:5000", "https://registry:5001/auth"),
        ("http://registry:5000", "http://registry:5000/auth"),
        ("http://registry:5000", "https://registry:5000/auth"),
        ("https://[::1]:5000", "https://[::1]:5000/auth"),
    ] {
        for keys in ["", "proxy = \"http://proxy.example:3128\""] {
            let destination = policy(url, keys).realm(&format!("{realm}?tenant=a%2fb")).unwrap();
            assert_eq!(destination.url().expose(), format!("{realm}?tenant=a%2fb"));
            assert_eq!(destination.is_proxied(), !keys.is_empty(), "{url}");
        }
    }
}

#[test]
fn token_endpoints_may_redirect_to_allowed_realms() {
    let hub = policy(HUB, "");
    let from = hub.realm("https://auth.docker.io/token?a").unwrap().url().clone();
    for (location, given) in [
        ("/v2/token", "public addresses"),
        ("https://registry-1.docker.io/token", "the upstream"),
        ("https://evil.example/token", "refused: foreign realm"),
        ("//evil.example/token", "refused: foreign realm"),
        ("http://auth.docker.io/token", "refused: plain realm"),
    ] {
        assert_eq!(verdict(hub.realm_redirect(&from, location)), given, "{location}");
    }
}

#[test]
fn redirects_to_the_upstream_keep_its_scheme_and_port() {
    for (url, location, home) in [
        ("https://r.example:5000", "http://r.example/b?c=%2b", "https://r.example:5000/b?c=%2b"),
        ("https://r.example:5000", "http://r.example:5000/b", "https://r.example:5000/b"),
        ("http://r.example:5000", "https://R.example/b", "http://r.example:5000/b"),
        ("https://r.example", "HTTP://r.example./b", "https://r.example/b"),
    ] {
        let policy = policy(url, "");
        for destination in
            [policy.redirect(&blob(&policy), location), policy.upload(&blob(&policy), location)]
        {
            let destination = destination.unwrap();
            assert_eq!(
                (destination.url().expose().as_str(), destination.is_own()),
                (home, true),
                "{location}"
            );
        }
    }
}

#[test]
fn a_redirect_from_http_to_https_is_followed() {
    let policy = policy("http://r.example", "");
    let destination = policy.redirect(&blob(&policy), "https://r.example/v2/a/blobs/sha256:0?x").unwrap();
    assert_eq!(destination.url().expose(), "https://r.example/v2/a/blobs/sha256:0?x");
    assert_eq!((destination.is_own(), destination.addresses()), (true, Addresses::Any));
    // From now on, it is the upstream.
    assert_eq!(policy.own("/v2/".into()).url().expose(), "https://r.example/v2/");
    let upload = policy.upload(&blob(&policy), "http://r.example/up").unwrap();
    assert_eq!(upload.url().expose(), "https://r.example/up");
}

#[test]
fn only_the_same_target_leads_from_http_to_https() {
    for (url, location, home) in [
        (
            "http://10.0.0.5:5000",
            "https://10.0.0.5:5443/v2/a/blobs/sha256:0?x",
            Some("https://10.0.0.5:5443/v2/"),
        ),
        ("http://10.0.0.5:5000", "https://10.0.0.5:5443/v2/other", None),
        ("http://10.0.0.5:5000", "https://10.0.0.6:5000/v2/a/blobs/sha256:0?x", None),
    ] {
        let policy = policy(url, "");
        let redirect = policy.redirect(&blob(&policy), location);
        assert_eq!(redirect.is_ok_and(|destination| destination.is_own()), home.is_some(), "{location}");
        let own = policy.own("/v2/".into()).url().expose();
        assert_eq!(own, home.map_or_else(|| format!("{url}/v2/"), str::to_owned), "{location}");
    }
}

#[test]
fn urls_that_name_the_gateway_mean_the_upstream() {
    let policy = policy("http://10.0.0.5:5000", "");
    policy.set_gateway(GatewayNames::new(|host| host == "r.example", vec![443], Vec::new()));
    let cdn = Url::parse("https://cdn.example/b").unwrap();
    for (there, is_own) in [
        ("https://r.example/x?y", true),
        ("https://r.example:9000/x?y", false),
        ("https://s.example/x?y", false),
    ] {
        let urls = [
            policy.redirect(&blob(&policy), there),
            policy.upload(&blob(&policy), there),
            policy.realm(there),
        ];
        for destination in urls {
            let own = destination.ok().filter(Destination::is_own);
            assert_eq!(own.is_some(), is_own, "{there}");
            assert!(own.is_none_or(|own| own.url().expose() == "http://10.0.0.5:5000/x?y"));
        }
        assert!(!policy.redirect(&cdn, there).is_ok_and(|destination| destination.is_own()), "{there}");
    }
}

#[test]
fn a_guests_token_endpoint_belongs_to_the_host_it_is_for() {
    let rules = "realm_hosts = [\"auth.corp.example\"]\nredirect_hosts = [\"10.0.0.9:5000\", \"ghcr.io\", \"10.0.0.8:80\"]";
    let policy = policy("https://lscr.io", rules);
    for (host, realm, given) in [
        ("https://ghcr.io/v2/", "https://ghcr.io/token", "any address"),
        ("https://ghcr.io/v2/", "https://auth.ghcr.io/token", "public addresses"),
        ("https://ghcr.io/v2/", "https://auth.corp.example/token", "any address"),
        ("https://ghcr.io/v2/", "https://10.0.0.9:5000/token", "any address"),
        ("https://ghcr.io/v2/", "https://evil.example/token", "refused: foreign realm"),
        ("https://ghcr.io/v2/", "http://ghcr.io/token", "refused: foreign realm"),
        ("https://ghcr.io/v2/", "https://169.254.169.254/token", "refused: foreign realm"),
        ("https://ghcr.io/v2/", "https://lscr.io/token", "refused: sent back"),
        ("https://ghcr.io/v2/", "/token", "refused: no URL"),
    ] {
        let host = policy.redirect(&blob(&policy), host).unwrap();
        assert_eq!(verdict(policy.guest_realm(&host, realm)), given, "{realm}");
    }
}

#[test]
fn redirects_never_fall_from_https_to_http() {
    let policy = policy("http://10.0.0.5:5000", "");
    let cdn = policy.redirect(&blob(&policy), "https://cdn.example/blob").unwrap();
    let next = policy.redirect(cdn.url(), "http://cdn.example/blob");
    assert_eq!(next.unwrap_err(), EgressError::PlainRedirect("cdn.example:80".into()));
    let relative = policy.redirect(cdn.url(), "other").unwrap();
    assert_eq!(relative.url().expose(), "https://cdn.example/other");
    assert!(!relative.is_own());
}

#[test]
fn hosts_outside_the_proxy_are_checked_by_address() {
    let variables = [("HTTPS_PROXY", "http://proxy.example:3128"), ("NO_PROXY", "cdn.example")];
    let policy = policy_in(HUB, "", &Environment::from(variables));
    assert!(policy.own("/v2/".into()).is_proxied());
    for (location, given) in [
        ("https://cdn.example/", "public addresses"),
        ("https://other.example/", "refused: unknown behind proxy"),
    ] {
        assert_eq!(verdict(policy.redirect(&blob(&policy), location)), given, "{location}");
    }
}

#[test]
fn errors_name_key_and_value_without_a_path() {
    let hub = policy(HUB, "");
    let told = |result: Result<Destination, EgressError>| result.unwrap_err().to_string();
    assert_eq!(
        told(hub.realm("https://evil.example/secret?token=secret")),
        "the realm is at evil.example, which is neither this registry's host nor of its domain; to trust it with the \
         credentials: realm_hosts = [\"evil.example\"]"
    );
    for (location, entry) in [
        ("https://10.0.0.9:9000/secret?sig=secret", "10.0.0.9:9000"),
        ("https://[fd00::1]/secret", "[fd00::1]"),
        ("http://[fd00::1]/secret", "[fd00::1]:80"),
        ("http://cdn.example/secret", "cdn.example:80"),
        ("http://cdn.example:443/secret", "cdn.example:443"),
        ("https://[fd00::1]:9000/secret", "[fd00::1]:9000"),
    ] {
        let error = hub.redirect(&blob(&hub), location).unwrap_err();
        assert!(error.to_string().contains(entry), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("redirect_hosts = [{entry:?}]")) && !text.contains("secret"),
            "{text}"
        );
        let listed = policy(HUB, &format!("redirect_hosts = [{entry:?}]"));
        let destination = listed.redirect(&blob(&listed), location).unwrap();
        assert_eq!(destination.addresses(), Addresses::Any, "{location}");
        let trusting = policy(HUB, &format!("realm_hosts = [{entry:?}]"));
        assert_eq!(verdict(trusting.realm(location)), "any address", "{location}");
    }
    assert_eq!(hub.realm("https://u:secret@a/").unwrap_err(), EgressError::Url(UrlError::UserInformation));
    assert!(!hub.realm("https://u:secret@a/").unwrap_err().to_string().contains("secret"));
}

#[test]
fn connections_serve_destinations_of_their_key() {
    let peer = |host: &str, addresses| {
        Destination::unchecked(Origin { https: true, host: host.into(), port: 443 }, addresses, false, false)
            .key()
    };
    let (any, public) = (peer("a.example", Addresses::Any), peer("a.example", Addresses::Public));
    assert!(any.serves(&any) && public.serves(&public) && public.serves(&any) && !any.serves(&public));
    assert!(!public.serves(&peer("b.example", Addresses::Public)));
}

#[test]
fn the_upstream_has_one_connection_key() {
    let policy =
        policy("https://r.example", "redirect_hosts = [\"r.example\"]\nrealm_hosts = [\"r.example\"]");
    let own = policy.own("/v2/".into()).key();
    let (from, place) = (blob(&policy), "https://r.example/x");
    for destination in [policy.redirect(&from, place), policy.upload(&from, place), policy.realm(place)] {
        let destination = destination.unwrap();
        assert!(destination.is_own() && destination.key() == own);
    }
}
