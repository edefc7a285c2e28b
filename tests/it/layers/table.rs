//! The imports that the design allows between rooms.

/// The base rooms, in order. Each may import the rooms before it, and all other rooms may import them.
pub(super) const BASE: &[&str] = &[
    "proto",
    "x509",
    "meaning",
    "config",
    "budget",
    "clock",
    "file_stamp",
    "read_size",
    "worker_id",
    "watchdog",
    "single_flight",
    "body",
    "json_lines",
    "telemetry",
    "net",
];

/// A room above the base.
pub(super) struct Row {
    pub(super) room: &'static str,
    /// The rooms that it may import besides the base. All are above it in the table, so that rooms form no circle.
    pub(super) rooms: &'static [&'static str],
    /// The items that it may import from other rooms.
    pub(super) items: &'static [&'static str],
}

pub(super) const TABLE: &[Row] = &[
    row("authn", &[], &[]),
    row("authz", &[], &[]),
    row("upstream", &[], &["authz::Permit"]),
    row("cache", &[], &["authz::Permit"]),
    row("peers", &["cache"], &["authz::Permit"]),
    row("bucket", &["upstream", "cache"], &[]),
    row("origin", &["upstream", "cache"], &["authz::Permit"]),
    row("issuer", &["authn", "upstream"], &[]),
    row("gateway", &["authn", "authz", "upstream", "cache"], &[]),
    row("server", &[], &[]),
    row("demo", &[], &[]),
    row("acme", &["upstream", "server"], &[]),
    row("admin", &["authn", "upstream", "cache", "peers", "gateway", "server", "acme"], &[]),
    row(
        "app",
        &[
            "authn", "authz", "upstream", "cache", "peers", "bucket", "origin", "issuer", "gateway",
            "server", "acme", "admin",
        ],
        &[],
    ),
    row(
        "cli",
        &[
            "authn", "authz", "upstream", "cache", "peers", "bucket", "origin", "gateway", "demo", "admin",
            "app",
        ],
        &[],
    ),
    row("internals", &["authn", "authz", "cache", "demo", "peers", "bucket", "app", "cli"], &[]),
];

/// Imports that contradict the design and must disappear. An entry that nothing needs any more is a failure.
pub(super) const UNTIL_MOVED: &[(&str, &str)] = &[];

/// Rooms with circles that must be cut. An entry whose room has no circle any more is a failure.
pub(super) const KNOWN_CIRCLES: &[&str] = &[];

/// Paths of other crates that the grammar may not use. Addresses are values, so they are allowed.
pub(super) const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::io", "std::net", "std::process", "std::thread", "std::time"];
pub(super) const ADDRESSES: &[&str] = &["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];

/// Names of modules that collect unrelated things.
pub(super) const UNRELATED: &[&str] = &["common", "helper", "helpers", "misc", "shared", "util", "utils"];

const fn row(room: &'static str, rooms: &'static [&'static str], items: &'static [&'static str]) -> Row {
    Row { room, rooms, items }
}

/// Returns the rooms that a room may import as a whole, or `None` if the table does not have the room.
pub(super) fn rooms_of(room: &str) -> Option<Vec<&'static str>> {
    if let Some(at) = BASE.iter().position(|base| *base == room) {
        return Some(BASE[..at].to_vec());
    }
    let row = TABLE.iter().find(|row| row.room == room)?;
    Some([BASE, row.rooms].concat())
}

/// Returns the items that a room may import from rooms that it may not import as a whole.
pub(super) fn items_of(room: &str) -> Vec<&'static str> {
    let row = TABLE.iter().filter(|row| row.room == room).flat_map(|row| row.items).copied();
    row.chain(UNTIL_MOVED.iter().filter(|(own, _)| *own == room).map(|(_, item)| *item)).collect()
}
