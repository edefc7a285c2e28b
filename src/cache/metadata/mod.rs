//! Records of what each repository holds, by its upstream's word: on disk and in memory.

pub(crate) mod generation;
pub(crate) mod grants;
pub(crate) mod membership;
pub(crate) mod negative_cache;
pub(crate) mod record;
pub(crate) mod records;
pub(crate) mod tags;
pub(crate) mod upstream_metadata;
