//! The `dockgate` binary.
fn main() {}
