//! The key `groups` of a table: names of `[auth.groups]`.

use crate::config::group::Group;
use crate::config::reader::Reader;
use crate::config::value_error::ValueError;

/// Returns the groups that a table names; none if there is no group of a name that it has.
pub(super) fn groups_of(table: &Reader<'_>) -> Option<Vec<Group>> {
    let find = |written: &str| {
        let found = table.context.group(written);
        found.ok_or_else(|| ValueError::value("is no group; write it to [auth.groups]"))
    };
    let items = table.texts("groups");
    let found: Vec<Group> = items.iter().filter_map(|item| item.parsed(find)).collect();
    (found.len() == items.len()).then_some(found)
}
