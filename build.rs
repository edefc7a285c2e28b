//! Finds the commit that is built, for `dockgate --version`.

#![allow(clippy::print_stdout, reason = "cargo reads what a build script prints")]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=DOCKGATE_COMMIT");
    let package = env("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = env("DOCKGATE_COMMIT").or_else(commit);
    let version = commit.map_or_else(|| package.clone(), |commit| format!("{package} ({commit})"));
    println!("cargo::rustc-env=DOCKGATE_VERSION={version}");
}

/// Returns the commit and its date, `1a2b3c4d5e6f 2026-11-30`: not the time of the build, so that the same source makes the
/// same binary. Only in releases, since each new commit compiles the crate again; none outside a checkout.
fn commit() -> Option<String> {
    if env("PROFILE")? != "release" {
        println!("cargo::rerun-if-changed=build.rs");
        return None;
    }
    // The package of crates.io may lie within the checkout of another project.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Some(&top) != env("CARGO_MANIFEST_DIR").as_ref() {
        println!("cargo::rerun-if-changed=build.rs");
        return None;
    }
    // Written by each commit, checkout and rebase.
    let moved = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={moved}");
    git(&["log", "-1", "--abbrev=12", "--format=%h %cs"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
