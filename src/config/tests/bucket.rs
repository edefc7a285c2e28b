//! Tests of the store behind the cache.

use crate::config::tests::*;

const SECRET: &str = "[server]\nsecret = '0123456789abcdef0123456789abcdef'\n";
const REST: &str = "[auth.htpasswd]\npath = 'htpasswd'\n[[upstream]]\nname = 'docker.io'\n[upstream.cache]\n";

fn written(keys: &str) -> String {
    format!("{SECRET}[cache.store]\n{keys}\n{REST}")
}

/// Returns what `[cache.store]` amounts to with these keys.
fn store(keys: &str) -> Bucket {
    read(&written(keys)).unwrap().store.unwrap()
}

/// Returns the errors of its keys, which begin at line 4.
fn wrong(keys: &str) -> Vec<String> {
    refusal(&written(keys))
}

#[test]
fn there_is_no_store_unless_one_is_written() {
    assert!(read(&format!("{SECRET}{REST}")).unwrap().store.is_none());
    let uncached = written("url = 's3://bucket'").replace("[upstream.cache]\n", "");
    let config = read(&uncached).unwrap();
    assert!(
        config.store.is_none() && config.warnings[0].contains("nothing is kept"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_bucket_alone_is_one_of_amazon() {
    let own = store("url = 's3://bucket/a/b/'\nregion = 'eu-central-1'");
    assert_eq!((own.name.as_str(), own.prefix.as_str(), own.path_style), ("bucket", "a/b", false));
    assert_eq!(own.endpoint.url.to_string(), "https://s3.eu-central-1.amazonaws.com");
    assert_eq!(own.credentials, BucketCredentials::Auto);
    assert_eq!(own.endpoint.connect_timeout, Duration::from_secs(3));
    assert_eq!(own.to_string(), "s3://bucket/a/b at https://s3.eu-central-1.amazonaws.com");
    assert_eq!(own.secret.expose(), "0123456789abcdef0123456789abcdef");
    let china = store("url = 's3://bucket'\nregion = 'cn-north-1'");
    assert_eq!(china.endpoint.url.to_string(), "https://s3.cn-north-1.amazonaws.com.cn");
    assert_eq!(china.prefix, "");
}

#[test]
fn an_endpoint_has_its_bucket_in_the_path() {
    let own = store(
        "url = 's3://my.bucket'\nendpoint = 'https://MinIO.example:9000'\nca = 'ca.pem'\nproxy = 'http://proxy:3128'\n\
         credentials = 'auto'\nkeep_for = '7d'\nmax_size = '1TiB'\nmin_object = '1KiB'\nmax_object = '1GiB'\nhedge = '0'\n\
         timeout = '1s'",
    );
    assert!(own.path_style);
    assert_eq!(own.endpoint.url.to_string(), "https://minio.example:9000");
    assert_eq!(own.endpoint.ca.as_deref(), Some(Path::new("/etc/dockgate/ca.pem")));
    assert_eq!(own.endpoint.proxy.as_ref().unwrap().host, "proxy");
    assert_eq!((own.min_object, own.max_object, own.max_size), (1024, 1 << 30, 1 << 40));
    assert_eq!((own.keep_for, own.hedge), (Duration::from_secs(7 * 24 * 3600), Duration::ZERO));
    assert_eq!(
        (own.timeout, own.endpoint.response_timeout),
        (Duration::from_secs(1), Duration::from_secs(1))
    );
    let by_host = store(
        "url = 's3://bucket'\nendpoint = 'https://s3.example'\npath_style = false\nmax_object = '1GiB'",
    );
    assert!(!by_host.path_style);
}

#[test]
fn keys_of_a_store_stand_in_a_table() {
    let keys = BucketCredentials::Keys { access_key: "me".into(), secret_key: Secret::new("hunter2") };
    let inline = store("url = 's3://bucket'\ncredentials = { access_key = 'me', secret_key = 'hunter2' }");
    assert_eq!(inline.credentials, keys);
    let table =
        store("url = 's3://bucket'\n[cache.store.credentials]\naccess_key = 'me'\nsecret_key = 'hunter2'");
    assert_eq!(table.credentials, keys);
    let variables = Environment::from([
        ("DOCKGATE_CACHE__STORE__CREDENTIALS__ACCESS_KEY", "me"),
        ("DOCKGATE_CACHE__STORE__CREDENTIALS__SECRET_KEY", "hunter2"),
    ]);
    let over = read_with(&written("url = 's3://bucket'\ncredentials = 'auto'"), &variables).unwrap();
    assert_eq!(over.store.unwrap().credentials, keys);
    assert_ne!(keys, BucketCredentials::Auto);
}

#[test]
fn the_proxy_of_the_environment_leads_to_a_store() {
    let proxied = |endpoint: &str| {
        let variables = Environment::from([("HTTPS_PROXY", "http://proxy:3128")]);
        let text = written(&format!("url = 's3://bucket'\nendpoint = '{endpoint}'"));
        read_with(&text, &variables).unwrap().store.unwrap().endpoint.proxy.is_some()
    };
    assert!(proxied("https://s3.example") && !proxied("http://127.0.0.1:9000"));
}

#[test]
fn wrong_stores_are_refused_with_their_line() {
    let names = "names no bucket; write for example \"s3://bucket/dockgate\"";
    for (keys, told) in [
        ("url = 'https://bucket'", format!("4: cache.store.url: \"https://bucket\" {names}")),
        ("url = 's3://a'", format!("4: cache.store.url: \"s3://a\" {names}")),
        ("url = 's3://-bucket'", format!("4: cache.store.url: \"s3://-bucket\" {names}")),
        (
            "url = 's3://bucket/a//b'",
            "4: cache.store.url: \"s3://bucket/a//b\" has a prefix with unusual characters, or a long one; write plain \
             components, for example \"s3://bucket/dockgate\""
                .to_owned(),
        ),
        (
            "url = 's3://bucket'\nregion = 'EU West'",
            "5: cache.store.region: \"EU West\" is no region; write for example \"eu-central-1\"".to_owned(),
        ),
        (
            "url = 's3://bucket'\nendpoint = 'https://s3.example/bucket'",
            "5: cache.store.endpoint: \"https://s3.example/bucket\" has a path; write scheme, host and port alone: the bucket \
             stands in url"
                .to_owned(),
        ),
        (
            "url = 's3://my.bucket'",
            "3: cache.store.path_style: the bucket \"my.bucket\" cannot be part of a host's name that a certificate covers; \
             write path_style = true"
                .to_owned(),
        ),
        (
            "url = 's3://bucket'\ncredentials = 'hunter2'",
            "5: cache.store.credentials: this is unknown; write \"auto\", or a table with access_key and secret_key".to_owned(),
        ),
        (
            "url = 's3://bucket'\ncredentials = 7",
            "5: cache.store.credentials: this is a number; write a string in quotes, or a [table]".to_owned(),
        ),
        (
            "url = 's3://bucket'\nkeep_for = '1d'",
            "5: cache.store.keep_for: \"1d\" is too short for a store that is swept once a day; write at least \"2d\"".to_owned(),
        ),
        (
            "url = 's3://bucket'\nmax_size = '0'",
            "5: cache.store.max_size: \"0\" leaves no room at all; write for example \"2TiB\"".to_owned(),
        ),
        (
            "url = 's3://bucket'\nmax_object = '200GiB'",
            "5: cache.store.max_object: \"200GiB\" is more than an object of 10,000 parts; write at most \"160000MiB\"".to_owned(),
        ),
        (
            "url = 's3://bucket'\nmin_object = '2MiB'\nmax_object = '1MiB'",
            "6: cache.store.max_object: \"1MiB\" is less than min_object; write more, or lower that".to_owned(),
        ),
        (
            "url = 's3://bucket'\ntimeout = '0'",
            "5: cache.store.timeout: \"0\" leaves no time at all; write for example \"10s\"".to_owned(),
        ),
    ] {
        assert_eq!(wrong(keys), [format!("dockgate.toml:{told}")], "{keys}");
    }
    let none = wrong("region = 'eu-central-1'");
    assert!(none[0].starts_with("dockgate.toml:3: cache.store.url: no bucket is named; add"), "{none:?}");
    let half = wrong("url = 's3://bucket'\n[cache.store.credentials]\naccess_key = 'me'");
    assert!(
        half[0].contains("cache.store.credentials.secret_key: both access_key and secret_key are needed;"),
        "{half:?}"
    );
}

#[test]
fn a_store_needs_a_secret_of_the_servers() {
    let errors = refusal(&format!("[cache.store]\nurl = 's3://bucket'\n{REST}"));
    let told = "dockgate.toml:1: cache.store: needs server.secret, the same on every replica: by a key that is derived from it \
                the records are signed that say which digest a tag has; make one with `dockgate secret`";
    assert_eq!(errors, [told]);
}

#[test]
fn an_unencrypted_store_is_warned_of() {
    let warned = |endpoint: &str| {
        let config = read(&written(&format!("url = 's3://bucket'\nendpoint = '{endpoint}'"))).unwrap();
        config.warnings.iter().any(|warning| warning.contains("travels unencrypted to this store"))
    };
    assert!(
        warned("http://s3.example:9000") && !warned("http://127.0.0.1:9000") && !warned("https://s3.example")
    );
}
