//! Tests of what is kept of upstreams.

use crate::config::tests::*;

const LOGIN: &str = "[auth.htpasswd]\npath = 'auth/htpasswd'\n";
const HUB: &str = "[[upstream]]\nname = 'docker.io'\n";
const CACHED: &str = "[upstream.cache]\n";

/// Returns a configuration with these sections before Docker Hub's, and these keys in it.
fn config(before: &str, keys: &str) -> Config {
    read(&format!("{before}{LOGIN}{HUB}{keys}")).unwrap()
}

fn upstream_cache(keys: &str) -> UpstreamCacheOptions {
    config("", keys).upstreams.remove(0).cache.unwrap()
}

/// Returns the errors of Docker Hub's keys, which begin at line 3.
fn wrong(keys: &str) -> Vec<String> {
    refusal(&format!("{HUB}{keys}\n{LOGIN}"))
}

const HOUR: u64 = 3600;

fn defaults() -> UpstreamCacheOptions {
    UpstreamCacheOptions {
        tag_ttl: Duration::from_secs(300),
        stale_after: Duration::from_secs(5),
        stale_if_error: Duration::from_secs(7 * 24 * HOUR),
        not_found_ttl: Duration::from_secs(30),
        offline: false,
        pull_authorization: PullAuthorization::Shared,
        grant_stale: Duration::from_secs(HOUR),
    }
}

#[test]
fn an_upstream_is_not_cached_unless_that_is_written() {
    let config = config("", "");
    assert_eq!((&config.upstreams[0].cache, &config.cache), (&None, &None));
    assert!(!config.upstreams[0].read_only && config.warnings.is_empty());
}

#[test]
fn a_table_without_keys_turns_the_cache_on_with_every_default() {
    let config = config("", CACHED);
    assert_eq!(config.upstreams[0].cache, Some(defaults()));
    assert!(config.upstreams[0].read_only, "what is cached is read only");
    let expected = Cache {
        path: "/var/lib/dockgate".into(),
        max_size: 100 << 30,
        min_free: MinFree::Percent(5),
        max_object: 25 << 30,
        verify_after: Duration::from_secs(7 * 24 * HOUR),
        prefetch: true,
        keep: Vec::new(),
    };
    assert_eq!(config.cache, Some(expected));
    assert!(config.warnings.is_empty());
}

#[test]
fn the_largest_object_is_a_quarter_unless_written() {
    let largest = |keys: &str| config(&format!("[cache]\n{keys}\n"), CACHED).cache.unwrap().max_object;
    assert_eq!(largest("max_size = '8MiB'"), 2 << 20);
    assert_eq!(largest("max_size = '8MiB'\nmax_object = '0'"), 2 << 20);
    assert_eq!(largest("max_size = '8MiB'\nmax_object = '8MiB'"), 8 << 20);
    assert_eq!(largest("max_object = '1GiB'"), 1 << 30);
}

#[test]
fn everything_written_about_a_cache_is_read() {
    let before = "[cache]\npath = 'kept/here'\nmax_size = '500MB'\nmin_free = '10GiB'\nverify_after = '2d'\nprefetch = false\n\
                  keep = ['docker.io/library/*', '**']\n";
    let keys = "tag_ttl = '1h30m'\nstale_after = '1500ms'\nstale_if_error = '30d'\nnot_found_ttl = '0s'\noffline = true\n\
                pull_authorization = 'each'\ngrant_stale = '10m'\n";
    let config = config(before, &format!("{CACHED}{keys}"));
    let cache = config.cache.unwrap();
    assert_eq!(cache.path, Path::new("/etc/dockgate/kept/here"));
    assert_eq!(
        (cache.max_size, cache.min_free, cache.prefetch),
        (500_000_000, MinFree::Bytes(10 << 30), false)
    );
    assert_eq!(cache.verify_after, Duration::from_secs(48 * HOUR));
    assert!(cache.keep[0].matches(&RepositoryName::parse("docker.io/library/alpine").unwrap()));
    assert_eq!(cache.keep.len(), 2);
    let expected = UpstreamCacheOptions {
        tag_ttl: Duration::from_secs(90 * 60),
        stale_after: Duration::from_millis(1500),
        stale_if_error: Duration::from_secs(30 * 24 * HOUR),
        not_found_ttl: Duration::ZERO,
        offline: true,
        pull_authorization: PullAuthorization::Each,
        grant_stale: Duration::from_secs(600),
    };
    assert_eq!(config.upstreams[0].cache, Some(expected));
}

#[test]
fn where_one_may_push_each_tag_is_asked_for_unless_it_is_said_otherwise() {
    let written = |keys: &str| upstream_cache(&format!("read_only = false\n{CACHED}{keys}")).tag_ttl;
    assert_eq!(written(""), Duration::ZERO);
    assert_eq!(written("tag_ttl = '1m'"), Duration::from_secs(60));
    let upstream = config("", &format!("read_only = false\n{CACHED}")).upstreams.remove(0);
    assert!(!upstream.read_only);
    assert_eq!(upstream_cache(&format!("read_only = true\n{CACHED}")), defaults());
    assert_eq!(upstream_cache(&format!("{CACHED}tag_ttl = '0'")).tag_ttl, Duration::ZERO);
}

#[test]
fn several_upstreams_share_one_cache() {
    let text = format!(
        "{LOGIN}{HUB}{CACHED}[[upstream]]\nname = 'quay.io'\nurl = 'https://quay.io'\n{CACHED}offline = true\n\
                        [[upstream]]\nname = 'internal'\nurl = 'http://127.0.0.1:5002'\n[cache]\npath = '/data'\n"
    );
    let config = read(&text).unwrap();
    let offline: Vec<_> =
        config.upstreams.iter().map(|upstream| Some(upstream.cache.as_ref()?.offline)).collect();
    assert_eq!(offline, [Some(false), Some(true), None]);
    assert!(!config.upstreams[2].read_only);
    assert_eq!(config.cache.unwrap().path, Path::new("/data"));
}

/// Sections in front of Docker Hub, which has no cache, and what they are refused with.
const MISTAKES: &[(&str, &[&str])] = &[
    (
        "path = ''\nmax_size = '0'\nmin_free = '100%'\nkeep = ['Library/*']",
        &[
            r#"dockgate.toml:2: cache.path: this names no folder; write for example "/var/lib/dockgate""#,
            r#"dockgate.toml:3: cache.max_size: "0" leaves no room at all; write for example "100GiB""#,
            r#"dockgate.toml:4: cache.min_free: "100%" is neither a share of the disk nor a size; write for example "5%" or "10GiB""#,
            concat!(
                r#"dockgate.toml:5: cache.keep[0]: "Library/*" can match no repository: their names are lower-case "#,
                "letters, digits and . _ - between slashes"
            ),
        ],
    ),
    (
        "max_size = '100 GiB'\nmin_free = '5 %'\nprefetch = 'no'\npaht = '/'",
        &[
            r#"dockgate.toml:2: cache.max_size: "100 GiB" is not a size; write for example "100GiB" or "500MB""#,
            r#"dockgate.toml:3: cache.min_free: "5 %" is neither a share of the disk nor a size; write for example "5%" or "10GiB""#,
            "dockgate.toml:4: cache.prefetch: this is a string; write true or false",
            r#"dockgate.toml:5: cache.paht: unknown key; the nearest is "path""#,
        ],
    ),
    (
        "verify_after = '59m'",
        &[
            r#"dockgate.toml:2: cache.verify_after: "59m" would read the disk all the time; write at least "1h""#,
        ],
    ),
    (
        "max_size = 100\nkeep = 'a'",
        &[
            "dockgate.toml:2: cache.max_size: this is a number; write a string in quotes",
            r#"dockgate.toml:3: cache.keep: this is a string; write a list of strings, for example ["a", "b"]"#,
        ],
    ),
];

#[test]
fn what_the_cache_cannot_be_is_refused() {
    for (keys, expected) in MISTAKES {
        for cached in ["", CACHED] {
            assert_eq!(refusal(&format!("[cache]\n{keys}\n{LOGIN}{HUB}{cached}")), *expected, "{keys}");
        }
    }
}

#[test]
fn what_an_upstreams_cache_cannot_be_is_refused() {
    assert_eq!(
        wrong(
            "[upstream.cache]\ntag_ttl = 'never'\nstale_if_error = '366d'\npull_authorization = 'all'\nofline = true"
        ),
        [
            r#"dockgate.toml:4: upstream[0].cache.tag_ttl: "never" is not a duration; write for example "10s", "5m" or "1h30m""#,
            r#"dockgate.toml:5: upstream[0].cache.stale_if_error: "366d" is too long; write at most "365d""#,
            r#"dockgate.toml:6: upstream[0].cache.pull_authorization: "all" is unknown; write "shared" or "each""#,
            r#"dockgate.toml:7: upstream[0].cache.ofline: unknown key; the nearest is "offline""#,
        ]
    );
    assert_eq!(
        wrong("cache = true"),
        ["dockgate.toml:3: upstream[0].cache: this is a boolean; write it as a [table]"]
    );
}

#[test]
fn a_cache_follows_redirects_itself() {
    assert_eq!(
        wrong("redirects = 'pass'\n[upstream.cache]"),
        [concat!(
            r#"dockgate.toml:3: upstream[0].redirects: "pass" would send clients past the cache to where the upstream "#,
            r#"redirects, so nothing could be kept; write "follow", or remove [upstream.cache]"#
        )]
    );
    assert_eq!(wrong("redirects = 'follow'\n[upstream.cache]"), [""; 0]);
}

#[test]
fn a_cache_that_no_upstream_uses_is_warned_about() {
    let config = config("[cache]\npath = '/data'\n", "");
    assert_eq!(config.cache, None);
    assert_eq!(
        config.warnings,
        ["dockgate.toml:1: nothing is kept, since no upstream has a cache; add [upstream.cache] to one"]
    );
}

#[test]
fn sharing_what_different_people_fetched_is_warned_about_unless_it_is_written() {
    let rules = "[[access]]\nusers = ['*']\nrepositories = ['**']\nactions = ['pull']\n";
    let forward = "credentials.forward = true\n";
    let users = "[[upstream.credentials.users]]\nusers = ['a']\nusername = 'x'\npassword = 'y'\n";
    let warnings = |keys: &str, cache: &str| {
        read(&format!("{rules}{HUB}{keys}{CACHED}{cache}\n[auth]\nrealm = 'x'")).unwrap().warnings
    };
    let lines = warnings(forward, "");
    assert!(
        lines[0].starts_with("dockgate.toml:8: clients come to this upstream as different users"),
        "{lines:?}"
    );
    assert_eq!((lines.len(), warnings(forward, "pull_authorization = 'shared'").len()), (1, 0));
    assert!(warnings(forward, "pull_authorization = 'each'").is_empty());
    let of = |keys: &str| config("", &format!("{keys}{CACHED}")).warnings.len();
    assert_eq!((of(users), of(""), of("credentials.helper = 'gcr'\n")), (1, 0, 0));
    assert_eq!(
        upstream_cache("cache.pull_authorization = 'each'").pull_authorization,
        PullAuthorization::Each
    );
}

#[test]
fn a_variable_turns_the_cache_on_and_off() {
    let on = |file: &str, written: &str| {
        let environment = Environment::from([("DOCKGATE_UPSTREAM__0__CACHE", written)]);
        read_with(&format!("{LOGIN}{HUB}{file}"), &environment).unwrap().upstreams.remove(0).cache
    };
    assert_eq!(on("", "true"), Some(defaults()));
    assert_eq!(on("", "false"), None);
    assert_eq!(on(CACHED, "false"), None);
    assert!(on("cache.offline = true", "true").unwrap().offline, "it leaves what is there");
    let environment = Environment::from([("DOCKGATE_UPSTREAM__0__CACHE", "yes")]);
    assert_eq!(
        lines(read_with(&format!("{LOGIN}{HUB}"), &environment)),
        [r#"environment: DOCKGATE_UPSTREAM__0__CACHE: "yes" is not a boolean; write true or false"#]
    );
}

#[test]
fn every_key_of_a_cache_can_be_a_variable() {
    let config = from_variables([
        ("DOCKGATE_AUTH__HTPASSWD__PATH", "h"),
        ("DOCKGATE_UPSTREAM__0__NAME", "docker.io"),
        ("DOCKGATE_UPSTREAM__0__CACHE__TAG_TTL", "1m"),
        ("DOCKGATE_UPSTREAM__0__CACHE__STALE_IF_ERROR", "2d"),
        ("DOCKGATE_UPSTREAM__0__CACHE__NOT_FOUND_TTL", "3s"),
        ("DOCKGATE_UPSTREAM__0__CACHE__STALE_AFTER", "2s"),
        ("DOCKGATE_UPSTREAM__0__CACHE__OFFLINE", "true"),
        ("DOCKGATE_UPSTREAM__0__CACHE__PULL_AUTHORIZATION", "each"),
        ("DOCKGATE_UPSTREAM__0__CACHE__GRANT_STALE", "4h"),
        ("DOCKGATE_CACHE__PATH", "kept"),
        ("DOCKGATE_CACHE__MAX_SIZE", "1TiB"),
        ("DOCKGATE_CACHE__MIN_FREE", "7%"),
        ("DOCKGATE_CACHE__PREFETCH", "false"),
        ("DOCKGATE_CACHE__KEEP", "docker.io/library/*, a/**"),
    ])
    .unwrap();
    let cache = config.cache.unwrap();
    assert_eq!(
        (cache.path, cache.max_size, cache.min_free),
        (PathBuf::from("kept"), 1 << 40, MinFree::Percent(7))
    );
    assert_eq!((cache.prefetch, cache.keep.len()), (false, 2));
    let expected = UpstreamCacheOptions {
        tag_ttl: Duration::from_secs(60),
        stale_after: Duration::from_secs(2),
        stale_if_error: Duration::from_secs(48 * HOUR),
        not_found_ttl: Duration::from_secs(3),
        offline: true,
        pull_authorization: PullAuthorization::Each,
        grant_stale: Duration::from_secs(4 * HOUR),
    };
    assert_eq!(config.upstreams[0].cache, Some(expected));
}

#[test]
fn a_misspelt_variable_of_a_cache_is_told_the_nearest() {
    let environment = Environment::from([
        ("DOCKGATE_UPSTREAM__0__CASHE", "true"),
        ("DOCKGATE_UPSTREAM__0__CACHE__TTL", "1m"),
    ]);
    assert_eq!(
        lines(read_with(&format!("{LOGIN}{HUB}"), &environment)),
        [
            concat!(
                "environment: DOCKGATE_UPSTREAM__0__CACHE__TTL: unknown variable; the nearest is ",
                "DOCKGATE_UPSTREAM__0__CACHE__TAG_TTL"
            ),
            "environment: DOCKGATE_UPSTREAM__0__CASHE: unknown variable; the nearest is DOCKGATE_UPSTREAM__0__CACHE",
        ]
    );
}

/// Returns the registry's variables for a mirror of Docker Hub, with these besides.
fn mirror(variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let least = [
        ("REGISTRY_AUTH_HTPASSWD_PATH", "h"),
        ("DOCKGATE_SERVER__PLAINTEXT", "true"),
        ("REGISTRY_PROXY_REMOTEURL", "https://registry-1.docker.io"),
    ];
    assemble(None, &least.iter().chain(variables).copied().collect(), Look::Away)
}

fn mirror_cache(variables: &[(&str, &str)]) -> Option<UpstreamCacheOptions> {
    mirror(variables).unwrap().upstreams.remove(0).cache
}

#[test]
fn the_registrys_ttl_turns_the_cache_on_and_is_how_long_it_serves_by_itself() {
    let ttl = |written| mirror_cache(&[("REGISTRY_PROXY_TTL", written)]).unwrap();
    let asked_each_time = UpstreamCacheOptions { tag_ttl: Duration::ZERO, ..defaults() };
    assert_eq!(ttl("168h"), asked_each_time);
    assert_eq!(ttl("1.5h").stale_if_error, Duration::from_secs(5400));
    for never in ["0", "0s", "-1h", "100000h"] {
        assert_eq!(ttl(never).stale_if_error, Duration::from_secs(365 * 24 * HOUR), "{never}");
    }
    assert_eq!(mirror_cache(&[("REGISTRY_PROXY_TTL", "")]), None);
    assert_eq!(
        lines(mirror(&[("REGISTRY_PROXY_TTL", "7 days")])),
        [r#"environment: REGISTRY_PROXY_TTL: "7 days" is not a duration; write for example "168h""#]
    );
}

#[test]
fn what_the_registrys_ttl_turns_on_can_be_set_further() {
    let cache =
        mirror_cache(&[("REGISTRY_PROXY_TTL", "24h"), ("DOCKGATE_UPSTREAM__0__CACHE__TAG_TTL", "5m")])
            .unwrap();
    assert_eq!((cache.tag_ttl.as_secs(), cache.stale_if_error.as_secs()), (300, 24 * HOUR));
    assert_eq!(
        mirror_cache(&[("REGISTRY_PROXY_TTL", "24h"), ("DOCKGATE_UPSTREAM__0__CACHE", "false")]),
        None
    );
    assert_eq!(mirror_cache(&[("DOCKGATE_UPSTREAM__0__CACHE", "true")]), Some(defaults()));
}

#[test]
fn the_registrys_folder_is_the_caches() {
    let folder = ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/data/${x}");
    let config = mirror(&[folder, ("REGISTRY_PROXY_TTL", "168h")]).unwrap();
    assert_eq!(config.cache.unwrap().path, Path::new("/data/${x}"));
    assert!(config.warnings.is_empty() && config.upstreams[0].read_only);
    let config = mirror(&[folder]).unwrap();
    assert_eq!(config.cache, None);
    assert_eq!(config.warnings, ["REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY has no meaning without a cache"]);
}

#[test]
fn the_files_cache_overrules_the_registrys() {
    let environment = Environment::from([
        ("REGISTRY_PROXY_REMOTEURL", "https://elsewhere"),
        ("REGISTRY_PROXY_TTL", "1h"),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/registry"),
    ]);
    let text = format!("{LOGIN}{HUB}{CACHED}[cache]\npath = '/data'\n");
    let config = read_with(&text, &environment).unwrap();
    assert_eq!(config.upstreams[0].cache, Some(defaults()));
    assert_eq!(config.cache.unwrap().path, Path::new("/data"));
    assert_eq!(
        config.warnings,
        [
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY is overruled by dockgate.toml:7",
            "REGISTRY_PROXY_REMOTEURL is overruled by dockgate.toml:3",
        ]
    );
}

#[test]
fn the_registrys_ttl_means_nothing_without_its_upstream() {
    let environment = Environment::from([("REGISTRY_PROXY_TTL", "1h")]);
    let config = read_with(REST, &environment).unwrap();
    assert_eq!(config.upstreams[0].cache, None);
    assert_eq!(config.warnings, ["REGISTRY_PROXY_TTL has no meaning without REGISTRY_PROXY_REMOTEURL"]);
}

#[test]
fn the_path_of_a_cache_may_be_missing_but_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dockgate.toml");
    let hash = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
    std::fs::write(folder.path().join("h"), format!("alice:{hash}\n")).unwrap();
    private_folder::make_private(folder.path());
    let check = |kept: &str| {
        let text = format!("[cache]\npath = '{kept}'\n[auth.htpasswd]\npath = 'h'\n{HUB}{CACHED}");
        std::fs::write(&path, text).unwrap();
        lines(Config::check(Some(&path), &Environment::default()))
    };
    assert_eq!((check("none/yet"), check(".")), (Vec::<String>::new(), Vec::new()));
    let shown = path.display();
    assert_eq!(
        check("h"),
        [format!("{shown}:2: cache.path: {} is not a folder", folder.path().join("h").display())]
    );
    assert!(check("h/below")[0].contains("h/below cannot be used: "), "{:?}", check("h/below"));
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (path, open) = (folder.path().join("dockgate.toml"), folder.path().join("open"));
    let hash = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
    std::fs::write(folder.path().join("h"), format!("alice:{hash}\n")).unwrap();
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let check = |cached: &str| {
        let text = format!("[cache]\npath = 'open'\n[auth.htpasswd]\npath = 'h'\n{HUB}{cached}");
        std::fs::write(&path, text).unwrap();
        lines(Config::check(Some(&path), &Environment::default()))
    };
    let (shown, open) = (path.display(), open.display());
    let expected = format!(
        "{shown}:2: cache.path: {open} is open to other users (mode 0755), who could read or change its content; run \
         `chmod 0700 {open}`"
    );
    assert_eq!(check(CACHED), [expected]);
    assert_eq!(check(""), [""; 0], "no upstream has a cache");
}

#[test]
fn a_cache_is_shown_in_one_line() {
    let cache = config("[cache]\nmin_free = '500MB'\n", CACHED).cache.unwrap();
    assert_eq!(cache.to_string(), "/var/lib/dockgate (100GiB at most, 500MB left free)");
    let cache = config("[cache]\npath = '/data'\nmax_size = '1001'\n", CACHED).cache.unwrap();
    assert_eq!(cache.to_string(), "/data (1001 bytes at most, 5% left free)");
}
