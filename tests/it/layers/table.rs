//! Which room may import which: the design as a table.

/// The rooms that all others may import, in order: each may import those before it.
pub(super) const BASE: &[&str] = &[
    "proto",
    "config",
    "clock",
    "file_stamp",
    "read_size",
    "worker_id",
    "single_flight",
    "body",
    "telemetry",
    "net",
];

/// A room above the base.
pub(super) struct Row {
    pub(super) room: &'static str,
    /// The rooms that it may import besides the base. All stand above it in the table: so no two can know each other.
    pub(super) rooms: &'static [&'static str],
    /// What it may import of other rooms.
    pub(super) items: &'static [&'static str],
}

pub(super) const TABLE: &[Row] = &[
    row("authn", &[], &[]),
    row("authz", &[], &["authn::Identity"]),
    row("upstream", &[], &["authz::Permit"]),
    row("cache", &[], &["authz::Permit"]),
    row("gateway", &["authn", "authz", "upstream", "cache"], &[]),
    row("server", &[], &[]),
    row("demo", &[], &[]),
    row("admin", &["cache", "gateway"], &[]),
    row("app", &["authn", "authz", "upstream", "cache", "gateway", "server", "admin"], &[]),
    row("cli", &["authn", "authz", "upstream", "cache", "gateway", "demo", "admin", "app"], &[]),
    row("internals", &["authn", "authz", "demo", "app", "cli"], &[]),
];

/// Imports that the design does not have and that are to go: an entry that nothing needs any more is a failure.
pub(super) const UNTIL_MOVED: &[(&str, &str)] = &[
    // Identity is to lie in the base.
    ("upstream", "authn::Identity"),
    ("upstream", "authn::Forwarded"),
    ("cache", "authn::Identity"),
    // The access log is to be told by a callback.
    ("body", "telemetry::AccessRecord"),
];

/// Rooms whose files import in a circle and are to be cut: an entry whose room has no circle any more is a failure.
pub(super) const KNOWN_CIRCLES: &[&str] =
    &["admin", "authn", "cache", "cli", "config", "demo", "gateway", "proto", "telemetry", "upstream"];

/// What the grammar must do without, as paths of other crates. Addresses are values; sockets are not.
pub(super) const IMPURE: &[&str] =
    &["tokio", "std::fs", "std::io", "std::net", "std::process", "std::thread", "std::time"];
pub(super) const ADDRESSES: &[&str] = &["std::net::IpAddr", "std::net::Ipv4Addr", "std::net::Ipv6Addr"];

/// Names of drawers into which anything goes.
pub(super) const DRAWERS: &[&str] = &["common", "helper", "helpers", "misc", "shared", "util", "utils"];

const fn row(room: &'static str, rooms: &'static [&'static str], items: &'static [&'static str]) -> Row {
    Row { room, rooms, items }
}

/// The rooms that a room may import as a whole. `None`: it is not in the table.
pub(super) fn rooms_of(room: &str) -> Option<Vec<&'static str>> {
    if let Some(at) = BASE.iter().position(|base| *base == room) {
        return Some(BASE[..at].to_vec());
    }
    let row = TABLE.iter().find(|row| row.room == room)?;
    Some([BASE, row.rooms].concat())
}

/// What a room may import of rooms that it may not import as a whole.
pub(super) fn items_of(room: &str) -> Vec<&'static str> {
    let row = TABLE.iter().filter(|row| row.room == room).flat_map(|row| row.items).copied();
    row.chain(UNTIL_MOVED.iter().filter(|(own, _)| *own == room).map(|(_, item)| *item)).collect()
}
