//! `dockgate cache`: what is kept of upstreams; to look at it, check it, take from it and fill it.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cache::maintenance::{Elsewhere, Event, Listing, Platforms, Removed, Selection, Verified};
use crate::cli::probe::format::{plain, plain_json};
use crate::cli::user::{ask_for_password, password_from};
use crate::config::{Config, Environment, Login};

mod access;
mod bars;
mod error;
mod lists;
mod local;
mod look;
mod remote;
mod tally;

use access::CacheAccess;
pub(crate) use error::CacheError;
use look::Look;

/// Look after the pull-through cache
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dockgate cache stats\n  dockgate cache warm alpine:3.20 ghcr.io/o/i:1\n\n\
    A gateway that runs on this machine is asked, at its admin.address; without one, its directory is used as it is.\n\
    Where admin.htpasswd is set: pass show dockgate | dockgate cache stats -u alice --password-stdin"
)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How much there is, and what it was good for
    #[command(after_help = "Example:\n  dockgate cache stats --json")]
    Stats(Shown),
    /// The images that are here
    #[command(
        after_help = "Examples:\n  dockgate cache list\n  dockgate cache list 'docker.io/library/*'\n  \
        dockgate cache list '**:latest'\n  dockgate cache list --fleet --store"
    )]
    List(List),
    /// Hash everything again, and remove what is wrong: exit code 1 when something was
    #[command(after_help = "Examples:\n  dockgate cache verify\n  dockgate cache verify --fleet --store\n\n\
        --store reads all of the bucket, for which some stores take money.")]
    Verify(Verify),
    /// Remove images, and the content that nothing else needs: here, at all replicas and in the object store
    #[command(after_help = "Examples:\n  dockgate cache remove docker.io/library/alpine\n  \
        dockgate cache remove 'docker.io/me/**'\n  dockgate cache remove '**:nightly-*'\n\n\
        Repositories have their canonical names here, as dockgate cache list shows them.")]
    Remove(Remove),
    /// Pull images before clients ask for them
    #[command(after_help = "Examples:\n  dockgate cache warm alpine:3.20\n  \
        dockgate cache warm ghcr.io/o/i:1 --platform linux/amd64 --platform linux/arm64")]
    Warm(Warm),
}

#[derive(Debug, Args)]
struct Of {
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The user to log in as at the admin listener, where admin.htpasswd asks for it
    #[arg(short = 'u', long = "user", value_name = "NAME")]
    user: Option<String>,
    /// Read the password from standard input instead of asking for it
    #[arg(long, requires = "user")]
    password_stdin: bool,
}

#[derive(Debug, Args)]
struct Shown {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of: Of,
}

/// Where else than on this machine's disk.
#[derive(Debug, Args)]
struct Places {
    /// Also at the other replicas (peers.members)
    #[arg(long)]
    fleet: bool,
    /// Also in the object store (cache.store)
    #[arg(long)]
    store: bool,
}

impl Places {
    /// Returns the places, if they are configured.
    fn elsewhere(&self, config: &Config) -> Result<Elsewhere, CacheError> {
        if self.fleet && config.peers.is_none() {
            return Err(CacheError::NoFleet);
        }
        if self.store && config.store.is_none() {
            return Err(CacheError::NoStore);
        }
        Ok(Elsewhere { fleet: self.fleet, store: self.store })
    }
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
struct List {
    /// Repositories, with * and ** as in access rules; and perhaps :TAG or @DIGEST
    #[arg(value_name = "PATTERN", default_value = "**", value_parser = Selection::parse)]
    pattern: Selection,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
struct Remove {
    /// Repositories, with * and ** as in access rules; and perhaps :TAG or @DIGEST
    #[arg(value_name = "PATTERN", value_parser = Selection::parse)]
    pattern: Selection,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Args)]
struct Warm {
    /// Images as docker names them, or by their canonical names
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// For which platforms, as linux/arm64, or all; else for this machine's
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    platforms: Vec<String>,
    #[command(flatten)]
    of: Of,
}

/// Runs a `cache` command and gives its exit code: 1 where something was wrong, missing or not to be had.
///
/// `terminal` says whether `messages` is a terminal, on which progress is then drawn.
///
/// # Errors
/// [`CacheError`].
pub(crate) fn run(
    args: &CacheArgs,
    environment: &Environment,
    terminal: bool,
    input: &mut dyn Read,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> Result<u8, CacheError> {
    let mut place_of = |of: &Of, places: Option<&Places>| {
        let config = Config::load(of.config.as_deref(), environment)?;
        let elsewhere = places.map(|places| places.elsewhere(&config)).transpose()?.unwrap_or_default();
        Ok::<_, CacheError>((CacheAccess::find(config, login(of, input)?.as_ref())?, elsewhere))
    };
    let mut place = |of: &Of| place_of(of, None).map(|(place, _)| place);
    match &args.command {
        Command::Stats(shown) => {
            let stats = place(&shown.of)?.stats()?;
            if shown.json {
                json(&stats, output)?
            } else {
                lists::stats(&stats, output)?
            }
            Ok(0)
        }
        Command::List(List { pattern, places, shown }) => {
            let (place, elsewhere) = place_of(&shown.of, Some(places))?;
            let Listing { entries, missing } = place.list(pattern, elsewhere)?;
            if shown.json {
                json(&entries, output)?
            } else {
                lists::entries(&entries, output)?
            }
            for place in &missing {
                writeln!(messages, "{}", plain(place))?;
            }
            Ok(u8::from(!missing.is_empty() || entries.is_empty() && !pattern.is_everything()))
        }
        Command::Verify(Verify { places, of }) => {
            let (place, elsewhere) = place_of(of, Some(places))?;
            verify(&place, elsewhere, terminal, output, messages)
        }
        Command::Remove(Remove { pattern, of }) => removed(&place(of)?.remove(pattern)?, output, messages),
        Command::Warm(args) => {
            let platforms = Platforms::parse(&args.platforms)?;
            let place = place(&args.of)?;
            warm(&place, args, &platforms, terminal, output, messages)
        }
    }
}

/// Returns the login that the command line names.
fn login(of: &Of, input: &mut dyn Read) -> Result<Option<Login>, CacheError> {
    let Some(username) = of.user.clone() else { return Ok(None) };
    let password = match of.password_stdin {
        true => password_from(input)?,
        false => ask_for_password(false, "--password-stdin")?,
    };
    Ok(Some(Login { username, password }))
}

fn json(value: &impl serde::Serialize, output: &mut dyn Write) -> Result<(), CacheError> {
    Ok(writeln!(output, "{}", plain_json(&serde_json::to_string_pretty(value)?))?)
}

fn verify(
    place: &CacheAccess,
    elsewhere: Elsewhere,
    terminal: bool,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> Result<u8, CacheError> {
    let mut look = Look::new(terminal);
    let mut wrong = None;
    let mut broken = Ok(());
    place.verify(elsewhere, &mut |event| {
        broken = look.verified(&event, output, messages);
        if let Verified::Done { wrong: count, .. } = event {
            wrong = Some(count);
        }
        broken.is_ok()
    })?;
    broken?;
    Ok(u8::from(wrong != Some(0)))
}

fn warm(
    place: &CacheAccess,
    args: &Warm,
    platforms: &Platforms,
    terminal: bool,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> Result<u8, CacheError> {
    let mut look = Look::new(terminal);
    let mut failed = None;
    let mut broken = Ok(());
    place.warm(&args.images, &args.platforms, platforms, &mut |event| {
        broken = look.warmed(&event, output, messages);
        if let Event::Done { failed: count, .. } = event {
            failed = Some(count);
        }
        broken.is_ok()
    })?;
    broken?;
    Ok(u8::from(failed != Some(0)))
}

/// Reports a removal. A pattern that matches nothing is most likely misspelt.
fn removed(removed: &Removed, output: &mut dyn Write, messages: &mut dyn Write) -> Result<u8, CacheError> {
    for replica in &removed.untold {
        writeln!(messages, "not removed there: {}", plain(replica))?;
    }
    let is_found = removed.repositories > 0 || removed.elsewhere > 0;
    if is_found {
        writeln!(output, "{}", lists::removed(removed))?;
    } else if removed.has_store {
        writeln!(output, "nothing here is called so; what the store has of it is removed there")?;
    } else {
        writeln!(output, "nothing here is called so; dockgate cache list shows what there is")?;
    }
    if removed.left {
        writeln!(output, "not all of it could be removed")?;
    }
    let is_misspelt = !is_found && !removed.has_store;
    Ok(u8::from(is_misspelt || removed.left || !removed.untold.is_empty()))
}

#[cfg(test)]
mod tests;
