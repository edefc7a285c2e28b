//! Configuration: raw to checked, every mistake at once.
