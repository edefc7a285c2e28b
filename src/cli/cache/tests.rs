//! On a directory that no gateway has, which is filled from a registry in this process.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use clap::Parser;
use serde_json::Value;

use crate::app::App;
use crate::authn::htpasswd;
use crate::cli::cache::*;
use crate::demo::image;
use crate::demo::registry::Registry;
use crate::proto::Secret;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: CacheArgs,
}

/// Lets a cache work on a disk that other things have filled.
const ROOM: &str = "min_free = \"1MiB\"\n";

/// A configuration, and the registry that it names.
struct CacheAccess {
    dir: tempfile::TempDir,
    registry: Registry,
}

/// The result of a command.
struct Told {
    code: u8,
    out: String,
    err: String,
}

impl CacheAccess {
    fn new() -> Self {
        let registry = Registry::new();
        image::seed(&registry).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = registry.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                serving.serve(listener, std::future::pending::<()>()).await;
            });
        });
        let place = Self { dir: tempfile::tempdir().unwrap(), registry };
        let text = format!(
            "[admin]\naddress = \"\"\n[[access]]\nusers = [\"anonymous\"]\nrepositories = [\"**\"]\n\
             actions = [\"*\"]\n[cache]\npath = \"cache\"\n{ROOM}[[upstream]]\nname = \"up\"\n\
             url = \"http://{address}\"\nretries = 0\n[upstream.cache]\n"
        );
        fs::write(place.config(), text).unwrap();
        place
    }

    /// Runs a gateway until the tests end.
    fn serve(&self) {
        let config = Config::load(Some(&self.config()), &Environment::default()).unwrap();
        let (started, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let app = App::start(config, None, None).await.unwrap();
                started.send(()).unwrap();
                std::future::pending::<()>().await;
                drop(app);
            });
        });
        wait.recv().unwrap();
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("dockgate.toml")
    }

    /// Returns where the cache has a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let (algorithm, encoded) = digest.split_once(':').unwrap();
        self.dir.path().join("cache/blobs").join(algorithm).join(&encoded[..2]).join(encoded)
    }

    fn try_run(&self, words: &[&str]) -> Result<Told, CacheError> {
        self.try_run_with(words, "")
    }

    /// Runs a command that reads `input`.
    fn try_run_with(&self, words: &[&str], input: &str) -> Result<Told, CacheError> {
        let config = self.config();
        let with = ["--config", config.to_str().unwrap()];
        let line = ["cache"].iter().chain(words).chain(&with);
        let line = Line::try_parse_from(line).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let environment = Environment::default();
        let code = run(&line.args, &environment, false, &mut input.as_bytes(), &mut out, &mut err)?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok(Told { code, out: text(out), err: text(err) })
    }

    fn run(&self, words: &[&str]) -> Told {
        self.try_run(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.run(words).out).unwrap()
    }

    /// Returns the digests of the blobs of an image that the registry has.
    fn blobs(&self, tag: &str) -> Vec<String> {
        let (_, _, bytes) = self.registry.manifest(image::REPOSITORY, tag).unwrap();
        let manifest: Value = serde_json::from_slice(&bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let all = std::iter::once(&manifest["config"]).chain(layers);
        all.map(|descriptor| descriptor["digest"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_gateway_is_asked_by_socket_and_login() {
    let place = CacheAccess::new();
    let hash = htpasswd::hash(&Secret::new("secret"), 4).unwrap();
    fs::write(place.dir.path().join("operators"), format!("alice:{hash}\n")).unwrap();
    let text = fs::read_to_string(place.config()).unwrap();
    let text = text.replace("address = \"\"", "address = \"unix:admin.sock\"\nhtpasswd = \"operators\"");
    fs::write(place.config(), format!("[server]\naddress = \"127.0.0.1:0\"\n{text}")).unwrap();
    place.serve();
    let refused = |words: &[&str], input: &str| place.try_run_with(words, input).err().unwrap().to_string();
    let login = ["-u", "alice", "--password-stdin"];
    for command in [&["stats"][..], &["list"], &["verify"], &["remove", "up/**"], &["warm", "up/hello:multi"]]
    {
        // The directory is in use: it is not looked at instead.
        assert!(refused(command, "").contains("add `-u NAME`"), "{command:?}");
        let words = [command, &login].concat();
        assert!(refused(&words, "wrong\n").contains("another password"), "{command:?}");
    }
    let words = |command: &[&'static str]| [command, &login].concat();
    let warmed = place.try_run_with(&words(&["warm", "up/hello:multi"]), "secret\n").unwrap();
    assert_eq!(warmed.code, 0, "{}", warmed.err);
    let listed = place.try_run_with(&words(&["list"]), "secret\n").unwrap();
    assert!(listed.out.contains("up/hello"), "{}", listed.out);
    let health = crate::cli::health::run(
        &crate::cli::health::HealthArgs { config: Some(place.config()) },
        &Environment::default(),
        &mut Vec::new(),
    );
    assert!(health.is_ok(), "health needs no login");
}

#[test]
fn a_gateway_that_runs_is_asked_instead() {
    let place = CacheAccess::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = fs::read_to_string(place.config()).unwrap();
    let text = text.replace("address = \"\"", &format!("address = \"127.0.0.1:{port}\""));
    fs::write(place.config(), format!("[server]\naddress = \"127.0.0.1:0\"\n{text}")).unwrap();
    place.serve();

    let told = place.run(&["warm", "up/hello:multi", "up/hello:none", "--platform", "linux/amd64"]);
    assert_eq!(told.code, 1);
    assert!(told.out.ends_with("1 image is here, 1 is not\n"), "{}", told.out);
    assert!(told.err.starts_with("up/hello:none: "), "{}", told.err);
    let stats = place.json(&["stats", "--json"]);
    assert_eq!((&stats["blobs"]["count"], &stats["counted"]["fills"]), (&2.into(), &2.into()), "{stats}");
    assert_eq!(stats["upstreams"][0]["breaker"], "closed");
    assert_eq!(place.json(&["list", "up/*:multi", "--json"]).as_array().unwrap().len(), 1);

    fs::write(place.blob(&place.blobs("1.0-amd64")[1]), "something else").unwrap();
    let told = place.run(&["verify"]);
    assert_eq!((told.code, told.out.as_str()), (1, "4 files, 1 wrong\n"));
    assert_eq!(place.run(&["remove", "up/hello"]).code, 0);
    assert_eq!(place.json(&["stats", "--json"])["blobs"]["count"], 0);
}

#[test]
fn an_image_is_pulled_for_the_platforms_that_are_wanted() {
    let place = CacheAccess::new();
    let told = place.run(&["warm", "up/hello:multi", "--platform", "linux/arm64"]);
    assert_eq!(told.code, 0, "{}{}", told.out, told.err);
    assert!(
        told.out.starts_with("up/hello:multi  sha256:") && told.out.contains("  2 blobs, "),
        "{}",
        told.out
    );
    assert!(told.out.ends_with("1 image is here\n"), "{}", told.out);
    assert!(!told.out.contains("was here"), "{}", told.out);
    assert!(place.blobs("1.0-arm64").iter().all(|digest| place.blob(digest).exists()));
    assert!(!place.blob(&place.blobs("1.0-amd64")[0]).exists());

    let again = place.run(&["warm", "up/hello:multi", "--platform", "all"]);
    assert_eq!((again.code, again.out.matches("was here").count()), (0, 2), "{}", again.out);
    assert!(place.blob(&place.blobs("1.0-amd64")[0]).exists());
}

#[test]
fn what_can_not_be_had_is_named_and_the_rest_is_pulled() {
    let place = CacheAccess::new();
    let told = place.run(&["warm", "up/hello:none", "quay.io/o/i", "up/hello:1.0-amd64"]);
    assert_eq!(told.code, 1);
    assert!(told.out.ends_with("1 image is here, 2 are not\n"), "{}", told.out);
    let lines: Vec<&str> = told.err.lines().collect();
    assert!(lines[0].starts_with("up/hello:none: "), "{lines:?}");
    assert_eq!(lines[1], "quay.io/o/i: no upstream is configured for it");
    let told = place.run(&["warm", "up/hello:multi", "--platform", "linux/s390x"]);
    assert_eq!(told.code, 1);
    let why = "up/hello:multi: no manifest for linux/s390x; the index has: linux/amd64, linux/arm64\n";
    assert_eq!(told.err, why);
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl CacheAccess {
    /// Deletes a manifest of the registry.
    fn delete(&self, digest: &str) {
        use std::io::{Read, Write};
        let text = fs::read_to_string(self.config()).unwrap();
        let address = text.split("http://").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let target = format!("/v2/{}/manifests/{digest}", image::REPOSITORY);
        write!(stream, "DELETE {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    }

    /// Pushes an index of `entries`, in which AMD64 and ARM64 stand for the digests of the images.
    fn push_index(&self, tag: &str, entries: &str, more: &str) -> String {
        let digest = |tag: &str| self.registry.manifest(image::REPOSITORY, tag).unwrap().0.to_string();
        let entries = entries.replace("AMD64", &digest("1.0-amd64")).replace("ARM64", &digest("1.0-arm64"));
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]{more}}}"#);
        let digest = self.registry.push_manifest(image::REPOSITORY, tag, INDEX, text.into());
        digest.unwrap().to_string()
    }
}

#[test]
fn odd_entries_of_an_index_spoil_no_others() {
    let place = CacheAccess::new();
    let attested = r#""annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
    let entries = format!(
        r#"{{"digest":"ARM64","platform":{{}}}},{{"digest":"ARM64","platform":{{"os":"linux"}}}},
        {{"digest":"ARM64","platform":{{"os":"linux","architecture":"amd64"}},{attested}}},{{"digest":"ARM64"}},
        {{"digest":"AMD64","platform":{{"os":"linux","architecture":"amd64","os.features":null}}}}"#
    );
    place.push_index("odd", &entries, r#","layers":null,"config":null"#);
    let told = place.run(&["warm", "up/hello:odd", "--platform", "linux/amd64"]);
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{}", told.out);
    assert!(told.out.contains("  2 blobs, ") && told.out.ends_with("1 image is here\n"), "{}", told.out);
    assert!(place.blob(&place.blobs("1.0-amd64")[0]).exists());
    assert!(!place.blob(&place.blobs("1.0-arm64")[0]).exists());
    let list = place.json(&["list", "up/*:odd", "--json"]);
    let one =
        place.blobs("1.0-amd64").iter().map(|digest| fs::metadata(place.blob(digest)).unwrap().len()).sum();
    assert!(list[0]["size"].as_u64() > Some(one), "what the index leads to counts: {list}");
}

#[test]
fn an_index_of_which_nothing_is_chosen_is_an_error() {
    let place = CacheAccess::new();
    place.push_index(
        "half",
        r#"{"digest":"AMD64","platform":{}},{"digest":"ARM64","platform":{"os":"linux"}}"#,
        "",
    );
    place.push_index("empty", "", "");
    let told = place.run(&["warm", "up/hello:half", "up/hello:empty", "--platform", "linux/amd64"]);
    assert_eq!((told.code, told.out.as_str()), (1, "0 images are here, 2 are not\n"));
    let lines: Vec<&str> = told.err.lines().collect();
    let expected = [
        "up/hello:half: no manifest for linux/amd64: no entry of the index names a platform",
        "up/hello:empty: the index names no manifest",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_platform_that_is_missing_fails_alone() {
    let place = CacheAccess::new();
    let platforms = ["--platform", "linux/riscv64", "--platform", "linux/arm64"];
    let told = place.run(&[&["warm", "up/hello:multi"], &platforms[..]].concat());
    assert_eq!(told.code, 1);
    assert_eq!(
        told.err,
        "up/hello:multi: no manifest for linux/riscv64; the index has: linux/amd64, linux/arm64\n"
    );
    assert!(
        told.out.contains("  2 blobs, ") && told.out.ends_with("0 images are here, 1 is not\n"),
        "{}",
        told.out
    );
    assert!(place.blobs("1.0-arm64").iter().all(|digest| place.blob(digest).exists()));

    let (_, _, bytes) = place.registry.manifest(image::REPOSITORY, "1.0-arm64").unwrap();
    let other = [&bytes[..], b" "].concat();
    let image = "application/vnd.oci.image.manifest.v1+json";
    let absent = place.registry.push_manifest(image::REPOSITORY, "other", image, other.into()).unwrap();
    let entries = format!(
        r#"{{"digest":"{absent}","platform":{{"os":"linux","architecture":"s390x"}}}},
        {{"digest":"AMD64","platform":{{"os":"linux","architecture":"amd64"}}}}"#
    );
    place.push_index("torn", &entries, "");
    place.delete(&absent.to_string());
    let told = place.run(&["warm", "up/hello:torn", "--platform", "all"]);
    assert_eq!(told.code, 1);
    assert!(told.err.starts_with(&format!("up/hello:torn: {absent}: ")), "{}", told.err);
    assert!(place.blobs("1.0-amd64").iter().all(|digest| place.blob(digest).exists()));
}

#[test]
fn a_platform_may_be_in_any_of_nested_indexes() {
    let place = CacheAccess::new();
    let entry = |digest: &str, architecture: &str| {
        format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"{architecture}"}}}}"#)
    };
    let inner = [("a", "AMD64", "amd64"), ("b", "ARM64", "arm64")]
        .map(|(tag, digest, architecture)| place.push_index(tag, &entry(digest, architecture), ""));
    let entries = inner.map(|digest| format!(r#"{{"digest":"{digest}"}}"#)).join(",");
    place.push_index("nested", &entries, "");
    let told =
        place.run(&["warm", "up/hello:nested", "--platform", "linux/amd64", "--platform", "linux/arm64"]);
    assert_eq!((told.code, told.err.as_str()), (0, ""), "{}", told.out);
    assert!(told.out.contains("  3 blobs, "), "{}", told.out);
    let told = place.run(&["warm", "up/hello:nested", "--platform", "linux/s390x"]);
    assert_eq!(
        told.err,
        "up/hello:nested: no manifest for linux/s390x; the index has: linux/amd64, linux/arm64\n"
    );
}

#[test]
fn an_image_without_an_index_is_for_its_own_platform() {
    let place = CacheAccess::new();
    let told = place.run(&["warm", "up/hello:1.0-arm64", "--platform", "linux/amd64"]);
    assert_eq!(told.code, 1);
    assert_eq!(told.err, "up/hello:1.0-arm64: it is for linux/arm64 alone, and not for linux/amd64\n");
    assert_eq!(place.run(&["warm", "up/hello:1.0-arm64", "--platform", "linux/arm64/v8"]).code, 0);
    assert_eq!(
        place.run(&["warm", "up/hello:1.0-arm64", "up/hello:1.0-amd64"]).code,
        0,
        "no platform was asked for"
    );
}

#[test]
fn what_is_here_is_counted_and_listed() {
    let place = CacheAccess::new();
    place.run(&["warm", "up/hello:1.0-amd64", "up/hello:multi", "--platform", "linux/amd64"]);
    let stats = place.json(&["stats", "--json"]);
    assert_eq!((&stats["blobs"]["count"], &stats["manifests"]["count"]), (&2.into(), &2.into()), "{stats}");
    let upstream = &stats["upstreams"][0];
    assert_eq!((&upstream["repositories"], &upstream["tags"]), (&1.into(), &2.into()), "{stats}");
    assert!(stats["counted"].is_null(), "{stats}");
    assert!(place.run(&["stats"]).out.contains("\nup\n  1 repository, 2 tags\n"));

    let list = place.json(&["list", "--json"]);
    let tags: Vec<_> = list.as_array().unwrap().iter().map(|entry| &entry["tag"]).collect();
    assert_eq!(tags, ["1.0-amd64", "multi"], "{list}");
    let (one, index) = (list[0]["size"].as_u64().unwrap(), list[1]["size"].as_u64().unwrap());
    assert!(0 < one && one < index, "{list}");
    assert_eq!(place.json(&["list", "up/*:1.*", "--json"]).as_array().unwrap().len(), 1);
    let told = place.run(&["list", "other/**"]);
    assert_eq!((told.code, told.out.as_str()), (1, ""), "what was asked for is not there");
    assert_eq!(place.run(&["list"]).code, 0);
}

#[test]
fn what_is_wrong_is_found_and_removed() {
    let place = CacheAccess::new();
    place.run(&["warm", "up/hello:1.0-amd64"]);
    assert_eq!(place.run(&["verify"]).out, "3 files, all of them what their names say\n");
    let digest = &place.blobs("1.0-amd64")[0];
    fs::write(place.blob(digest), "something else").unwrap();
    let told = place.run(&["verify"]);
    assert_eq!((told.code, told.out.as_str()), (1, "3 files, 1 wrong\n"));
    assert!(told.err.starts_with(&format!("{digest}: it was not what its name says")), "{}", told.err);
    assert!(!place.blob(digest).exists());
    assert_eq!(place.run(&["verify"]).code, 0);
}

#[test]
fn an_image_is_removed_with_what_nothing_else_needs() {
    let place = CacheAccess::new();
    place.run(&["warm", "up/hello:1.0-amd64", "up/hello:1.0-arm64"]);
    let (amd64, arm64) = (place.blobs("1.0-amd64"), place.blobs("1.0-arm64"));
    assert_eq!(amd64[1], arm64[1], "the layer is the same");
    let told = place.run(&["remove", "up/hello:*-arm64"]);
    assert_eq!(told.code, 0);
    assert!(
        told.out.starts_with("removed 1 tag and 1 manifest of 1 repository; that gave back "),
        "{}",
        told.out
    );
    assert!(!place.blob(&arm64[0]).exists());
    assert!(amd64.iter().all(|digest| place.blob(digest).exists()));
    assert_eq!(place.json(&["list", "--json"]).as_array().unwrap().len(), 1);

    assert_eq!(place.run(&["remove", "up/**"]).code, 0);
    let stats = place.json(&["stats", "--json"]);
    assert_eq!((&stats["blobs"]["count"], &stats["manifests"]["count"]), (&0.into(), &0.into()), "{stats}");
    let told = place.run(&["remove", "up/**"]);
    assert_eq!(told.code, 1);
    assert!(told.out.starts_with("nothing here is called so"), "{}", told.out);
}

#[test]
fn what_is_not_there_is_said_and_not_made() {
    let place = CacheAccess::new();
    for words in [&["stats"][..], &["list"], &["verify"], &["remove", "**"]] {
        let error = place.try_run(words).err().map(|error| (error.exit_code(), error.to_string())).unwrap();
        assert!(error.0 == 1 && error.1.contains("No such file"), "{error:?}");
    }
    assert!(!place.dir.path().join("cache").exists());
}

#[test]
fn without_a_cache_there_is_nothing_to_look_after() {
    let place = CacheAccess::new();
    let text = fs::read_to_string(place.config()).unwrap().replace("[upstream.cache]", "");
    fs::write(place.config(), text.replace(&format!("[cache]\npath = \"cache\"\n{ROOM}"), "")).unwrap();
    let error = place.try_run(&["stats"]).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("[upstream.cache]"), "{error}");
}

#[test]
fn the_command_line_is_checked_before_anything_is_done() {
    for words in
        [&["cache", "remove"][..], &["cache", "warm"], &["cache", "remove", "A/b"], &["cache", "list", "a:"]]
    {
        assert!(Line::try_parse_from(words).is_err(), "{words:?}");
    }
    let place = CacheAccess::new();
    let error = place.try_run(&["warm", "up/hello", "--platform", "linux"]).err().unwrap();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn places_that_are_not_configured_are_refused() {
    let place = CacheAccess::new();
    for (words, told) in [
        (&["list", "--fleet"][..], "there are no [peers]"),
        (&["list", "--store"], "there is no [cache.store]"),
        (&["verify", "--fleet"], "there are no [peers]"),
        (&["verify", "--store"], "there is no [cache.store]"),
    ] {
        let error = place.try_run(words).err().unwrap();
        assert!(error.to_string().contains(told) && error.exit_code() == 2, "{words:?}: {error}");
    }
}

#[test]
fn a_command_without_a_gateway_says_that_it_cannot_ask_the_replicas() {
    let place = CacheAccess::new();
    assert_eq!(place.run(&["warm", "up/hello:multi"]).code, 0);
    let text = fs::read_to_string(place.config()).unwrap();
    let peers = "[peers]\naddress = \"127.0.0.1:0\"\nmembers = [\"127.0.0.1:1\"]\n";
    let secret = "0123456789abcdef".repeat(4);
    fs::write(place.config(), format!("[server]\nsecret = \"{secret}\"\n{text}\n{peers}")).unwrap();
    for words in [&["list", "--fleet"][..], &["verify", "--fleet"], &["remove", "up/hello"]] {
        let told = place.run(words);
        assert!(told.code == 1 && told.err.contains("no gateway runs here"), "{words:?}: {}", told.err);
    }
    assert!(
        place.json(&["list", "--json"]).as_array().unwrap().is_empty(),
        "it is removed here all the same"
    );
}
