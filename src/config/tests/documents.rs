//! The documents beside the samples have the keys that the code has.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../config/dockgate.schema.json")).unwrap()
}

/// Compares a table's keys with those of its schema, in both directions, and their kinds.
fn compare(keys: &[Key], schema: &Value, path: &str) {
    assert_eq!(schema["type"], "object", "{path}");
    assert_eq!(schema["additionalProperties"], false, "{path}");
    let own: BTreeSet<_> = keys.iter().map(|key| key.name).collect();
    let properties = schema["properties"].as_object().unwrap();
    let documented: BTreeSet<_> = properties.keys().map(String::as_str).collect();
    assert_eq!(own, documented, "{path}");
    for key in keys {
        let path = format!("{path}.{}", key.name);
        let schema = &properties[key.name];
        assert!(schema["description"].is_string(), "{path} has no description");
        compare_kind(&key.kind, schema, &path);
    }
}

fn compare_kind(kind: &Kind, schema: &Value, path: &str) {
    let text = |schema: &Value| schema["type"] == "string" || schema["enum"].is_array();
    let texts = |schema: &Value| schema["type"] == "array" && text(&schema["items"]);
    let fits = match kind {
        Kind::Text => text(schema),
        Kind::Texts => texts(schema),
        Kind::OneOrMore => text(&schema["anyOf"][0]) && texts(&schema["anyOf"][1]),
        Kind::Flag => schema["type"] == "boolean",
        Kind::Number => schema["type"] == "integer",
        Kind::Table(keys) | Kind::Switch(keys) => {
            compare(keys, schema, path);
            true
        }
        Kind::TextOrTable(keys) => {
            compare(keys, &schema["anyOf"][1], path);
            text(&schema["anyOf"][0])
        }
        Kind::Tables(keys) => {
            compare(keys, &schema["items"], path);
            schema["type"] == "array"
        }
        Kind::Lists(kind) => {
            compare_kind(kind, &schema["additionalProperties"], path);
            schema["type"] == "object"
        }
    };
    assert!(fits, "{path}: {schema}");
}

#[test]
fn the_json_schema_has_every_key_and_no_other() {
    compare(KEYS, &schema(), "");
}

/// Finds a property of the schema by its path.
fn property(path: &str) -> Value {
    let step = |at: Value, name: &str| {
        let table = if at["items"].is_object() { &at["items"] } else { &at };
        table["properties"][name].clone()
    };
    path.split('.').fold(schema(), step)
}

/// Compares a default of the schema with the value that the code has when the key is not written.
fn is_default<T: PartialEq + std::fmt::Debug>(path: &str, parse: impl Fn(&Value) -> T, value: T) {
    let written = &property(path)["default"];
    assert!(!written.is_null(), "{path} has no default in the schema");
    assert_eq!(parse(written), value, "{path}");
}

fn as_duration(value: &Value) -> Duration {
    duration::parse(value.as_str().unwrap()).unwrap()
}

fn as_bytes(value: &Value) -> u64 {
    size::parse(value.as_str().unwrap()).unwrap()
}

fn as_number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn as_flag(value: &Value) -> bool {
    value.as_bool().unwrap()
}

const SHORT: &str =
    "[auth.htpasswd]\npath = 'htpasswd'\n[[upstream]]\nname = 'docker.io'\n[upstream.cache]\n";

#[test]
fn the_defaults_of_the_schema_are_those_of_the_code() {
    let config =
        Config::from_toml(SHORT, "dockgate.toml", Path::new("/etc/dockgate"), &Environment::default())
            .unwrap();
    let (server, upstream) = (&config.server, &config.upstreams[0]);
    is_default(
        "server.address",
        |value| vec![Address::parse(value.as_str().unwrap()).unwrap()],
        server.addresses.clone(),
    );
    is_default("server.max_connections", as_number, server.max_connections as u64);
    is_default("server.max_held_bytes", as_bytes, server.max_held_bytes);
    is_default("server.header_timeout", as_duration, server.header_timeout);
    is_default("server.idle_timeout", as_duration, server.idle_timeout);
    is_default("server.stall_timeout", as_duration, server.stall_timeout);
    is_default("server.drain_timeout", as_duration, server.drain_timeout);
    is_default("server.proxy_protocol", as_flag, server.proxy_protocol);
    is_default("server.plaintext", as_flag, server.plaintext);
    is_default("auth.realm", |value| value.as_str().unwrap().to_owned(), config.auth.realm.clone());
    is_default("upstream.connect_timeout", as_duration, upstream.connect_timeout);
    is_default("upstream.response_timeout", as_duration, upstream.response_timeout);
    is_default("upstream.retries", as_number, u64::from(upstream.retries));
    is_default("upstream.max_connections", as_number, u64::from(upstream.max_connections));
    is_default("upstream.insecure", as_flag, upstream.insecure);
    let options = upstream.cache.as_ref().unwrap();
    is_default("upstream.cache.stale_after", as_duration, options.stale_after);
    is_default("upstream.cache.stale_if_error", as_duration, options.stale_if_error);
    is_default("upstream.cache.not_found_ttl", as_duration, options.not_found_ttl);
    is_default("upstream.cache.grant_stale", as_duration, options.grant_stale);
    is_default("upstream.cache.offline", as_flag, options.offline);
    let cache = config.cache.as_ref().unwrap();
    is_default("cache.path", |value| PathBuf::from(value.as_str().unwrap()), cache.path.clone());
    is_default("cache.max_size", as_bytes, cache.max_size);
    is_default("cache.verify_after", as_duration, cache.verify_after);
    is_default("cache.prefetch", as_flag, cache.prefetch);
}

#[test]
fn the_defaults_of_automatic_certificates_are_those_of_the_code() {
    let text = format!("[server.tls.acme]\ndomains = 'registry.example.com'\n{SHORT}");
    let acme = read(&text).unwrap().server.tls.unwrap().acme.unwrap();
    is_default("server.tls.acme.directory", |value| value.as_str().unwrap().to_owned(), acme.directory);
    is_default("server.tls.acme.path", |value| PathBuf::from(value.as_str().unwrap()), acme.path);
}

#[test]
fn the_defaults_of_peers_are_those_of_the_code() {
    let secret = "[server]\nsecret = '0123456789abcdef0123456789abcdef'\n";
    let text = format!("{secret}{SHORT}[peers]\nmembers = 'dns://dockgate-peers:5003'\n");
    let peers = read(&text).unwrap().peers.unwrap();
    is_default("peers.address", |value| Address::parse(value.as_str().unwrap()).unwrap(), peers.address);
    is_default("peers.refresh", as_duration, peers.refresh);
    is_default("peers.connect_timeout", as_duration, peers.connect_timeout);
    is_default("peers.resting", as_duration, peers.resting);
}

#[test]
fn the_defaults_of_the_store_are_those_of_the_code() {
    let secret = "[server]\nsecret = '0123456789abcdef0123456789abcdef'\n";
    let text = format!("{secret}{SHORT}[cache.store]\nurl = 's3://bucket/dockgate'\n");
    let store = read(&text).unwrap().store.unwrap();
    is_default("cache.store.region", |value| value.as_str().unwrap().to_owned(), store.region);
    is_default("cache.store.keep_for", as_duration, store.keep_for);
    is_default("cache.store.max_size", as_bytes, store.max_size);
    is_default("cache.store.min_object", as_bytes, store.min_object);
    is_default("cache.store.max_object", as_bytes, store.max_object);
    is_default("cache.store.hedge", as_duration, store.hedge);
    is_default("cache.store.timeout", as_duration, store.timeout);
}

#[test]
fn the_reference_has_a_row_for_every_key() {
    let reference = include_str!("../../../config/README.md");
    let mut missing = Vec::new();
    rows(KEYS, "", reference, &mut missing);
    assert_eq!(missing, [""; 0]);
}

/// Looks for a heading for each table, and for a row for each key below the heading of its own table.
fn rows(keys: &[Key], path: &str, reference: &str, missing: &mut Vec<String>) {
    let headings = [format!("## `[{path}]`\n"), format!("## `[[{path}]]`\n")];
    let section = headings.iter().find_map(|heading| reference.split_once(heading.as_str()));
    let section = section.map_or("", |(_, rest)| rest.split("\n## ").next().unwrap_or_default());
    if section.is_empty() && !path.is_empty() {
        missing.push(format!("[{path}]"));
    }
    for key in keys {
        let below = schema::below(path, key.name);
        if let Kind::TextOrTable(keys) = &key.kind {
            rows(keys, &below, reference, missing);
        }
        match &key.kind {
            Kind::Table(keys) | Kind::Tables(keys) | Kind::Switch(keys) => {
                rows(keys, &below, reference, missing)
            }
            _ if section.contains(&format!("\n| `{}` |", key.name)) => {}
            _ => missing.push(below),
        }
    }
}
