//! The keys of `[cache.store]`, which `[cache]` has among its own.

use crate::config::schema::{Key, Kind, key};

pub(super) const KEYS: &[Key] = &[
    key("url", Kind::Text),
    key("endpoint", Kind::Text),
    key("region", Kind::Text),
    key("path_style", Kind::Flag),
    key("ca", Kind::Text),
    key("proxy", Kind::Text),
    key("credentials", Kind::TextOrTable(CREDENTIAL_KEYS)),
    key("keep_for", Kind::Text),
    key("max_size", Kind::Text),
    key("min_object", Kind::Text),
    key("max_object", Kind::Text),
    key("hedge", Kind::Text),
    key("timeout", Kind::Text),
];

const CREDENTIAL_KEYS: &[Key] = &[key("access_key", Kind::Text), key("secret_key", Kind::Text)];
