//! `dockgate check`: validates a configuration, every mistake at once.

use std::io::{self, Write};
use std::path::Path;

use crate::config::{Address, Config, ConfigErrors, Environment, Upstream};

/// Says on `out` what the configuration amounts to, or on `err` everything that is wrong with it.
///
/// The answer is the exit code: 0, or 2 where the configuration is wrong, or 1 where it could not be said.
pub fn run(path: Option<&Path>, environment: &Environment, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let told = match Config::check(path, environment) {
        Ok(config) => summary(&config, out, err).map(|()| 0),
        Err(errors) => complain(&errors, err).map(|()| 2),
    };
    told.unwrap_or(1)
}

fn complain(errors: &ConfigErrors, err: &mut dyn Write) -> io::Result<()> {
    writeln!(err, "{errors}")?;
    match errors.count() {
        1 => writeln!(err, "1 mistake"),
        count => writeln!(err, "{count} mistakes"),
    }
}

fn summary(config: &Config, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    for warning in &config.warnings {
        writeln!(err, "warning: {warning}")?;
    }
    match config.files.first() {
        Some(file) => writeln!(out, "{} is valid", file.display())?,
        None => writeln!(out, "the variables are a valid configuration")?,
    }
    for (what, how) in lines(config) {
        writeln!(out, "  {what:<12}{how}")?;
    }
    Ok(())
}

fn lines(config: &Config) -> Vec<(&'static str, String)> {
    let mut lines = vec![("listens on", listeners(config))];
    lines.push(("admin", config.admin.as_ref().map_or("off".to_owned(), |admin| admin.address.to_string())));
    lines.push(("users", users(config)));
    lines.extend(config.access.iter().map(|rule| ("allows", rule.to_string())));
    lines.extend(config.upstreams.iter().map(|upstream| ("upstream", describe(upstream))));
    lines
}

fn listeners(config: &Config) -> String {
    let addresses: Vec<String> = config.server.addresses.iter().map(Address::to_string).collect();
    let how = if config.server.tls.is_some() { "TLS" } else { "plain HTTP" };
    format!("{} ({how})", addresses.join(", "))
}

fn users(config: &Config) -> String {
    let path = config.auth.htpasswd.as_ref();
    path.map_or("none: nobody can log in".to_owned(), |path| path.display().to_string())
}

fn describe(upstream: &Upstream) -> String {
    let names = if upstream.prefix.is_empty() { "every other name" } else { &upstream.prefix };
    let below = if upstream.prefix.is_empty() { "" } else { "/..." };
    let mode = if upstream.read_only { ", read only" } else { "" };
    format!("{names}{below} -> {} ({}{mode})", upstream.url, upstream.name)
}
