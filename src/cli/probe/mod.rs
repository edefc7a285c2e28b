//! `dockgate probe`: what a registry asks for and answers, step by step; or what of it works through the gateway.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::app::gateway_names;
use crate::authz::Permit;
use crate::cli::user::{PasswordError, ask_for_password, password_from};
use crate::config;
use crate::config::{Config, CredentialSource, Environment, Login};
use crate::proto::Secret;
use crate::proto::identity::{Forwarded, Identity};
use crate::upstream::Probe;

mod audit;
mod auditor;
mod check;
mod diagnosis;
mod error;
pub(super) mod format;
mod image;
mod jwt;
mod print;
mod step;
mod style;
mod trace;
mod write;

use crate::cli::probe::diagnosis::Kind;
use crate::cli::probe::format::plain_json;
pub(crate) use error::ProbeError;

use image::ProbeTarget;
use step::Trace;
pub(crate) use style::Palette;

/// Show what a registry asks for, step by step, and what is wrong with it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dockgate probe alpine:3\n  \
    pass show ghcr | dockgate probe ghcr.io/o/i -u alice --password-stdin\n  \
    dockgate probe https://registry.example.com --ca ca.crt\n  \
    dockgate probe --upstream docker.io --config dockgate.toml\n\n\
    Neither passwords nor tokens are printed; of a token that is a JWT, what it says.")]
pub(crate) struct ProbeArgs {
    /// An image as docker names it, or the URL of a registry
    #[arg(value_name = "IMAGE-OR-URL", required_unless_present = "upstream", conflicts_with = "upstream")]
    place: Option<String>,
    /// The user to log in as; without it, anonymous
    #[arg(short = 'u', long = "user", value_name = "NAME")]
    user: Option<String>,
    /// Read the password from standard input instead of asking for it
    #[arg(long, requires = "user")]
    password_stdin: bool,
    /// PEM certificates to trust besides the system's
    #[arg(long, value_name = "FILE", conflicts_with = "upstream")]
    ca: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Examine an upstream of the configuration as the gateway would use it
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// The repository to look at, by the upstream's name for it; else one that it lists
    #[arg(long, value_name = "NAME[:TAG]", requires = "upstream", conflicts_with = "place")]
    repository: Option<String>,
    /// Push and delete tiny blobs in a repository named dockgate-probe, below --repository
    #[arg(long, requires = "upstream", conflicts_with = "place")]
    write: bool,
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE", requires = "upstream", conflicts_with = "place")]
    config: Option<PathBuf>,
}

/// Probes, and gives the exit code: 0 when it went through, or when nothing important is missing; else 1.
///
/// # Errors
/// [`ProbeError`], never with a secret. What is wrong with the registry is no error: it is what this is for.
pub(crate) fn run(
    args: &ProbeArgs,
    environment: &Environment,
    palette: Palette,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<u8, ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match (&args.place, &args.upstream) {
        (Some(text), _) => {
            let place = ProbeTarget::parse(text)?;
            let settings = settings(args, &place, environment, input)?;
            let trace = runtime.block_on(trace_to(&place, text, settings))?;
            report(args, &trace, |out| print::trace(&trace, palette, out), output)?;
            Ok(u8::from(trace.diagnosis.is_some()))
        }
        (None, Some(name)) => {
            let probe = configured(args, name, environment, input)?;
            let wanted = audit::Wanted::parse(args.repository.as_deref(), args.write)?;
            let table = runtime.block_on(audit::run(&probe, wanted));
            report(args, &table, |out| table.print(palette, out), output)?;
            Ok(u8::from(!table.is_good()))
        }
        (None, None) => Err(ProbeError::Usage("name an image, a URL or --upstream".to_owned())),
    }
}

fn report(
    args: &ProbeArgs,
    report: &impl serde::Serialize,
    print: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    output: &mut dyn Write,
) -> io::Result<()> {
    if !args.json {
        return print(output);
    }
    writeln!(output, "{}", plain_json(&serde_json::to_string_pretty(report)?))
}

/// Returns the settings of a registry that is in no configuration.
fn settings(
    args: &ProbeArgs,
    place: &ProbeTarget,
    environment: &Environment,
    input: &mut dyn Read,
) -> Result<config::Upstream, ProbeError> {
    let mut settings = config::Upstream::at(&place.registry, environment).map_err(ProbeError::Usage)?;
    settings.ca.clone_from(&args.ca);
    // A probe shows the first answer.
    settings.retries = 0;
    if let Some(username) = &args.user {
        let login = Login { username: checked(username)?, password: password(args, input)? };
        settings.credentials.source = CredentialSource::Login(login);
    }
    Ok(settings)
}

/// Checks that HTTP can carry a name (RFC 7617 section 2).
fn checked(username: &str) -> Result<String, ProbeError> {
    if username.is_empty() || username.contains(':') || username.contains(char::is_control) {
        return Err(ProbeError::Usage("a user name is not empty and has no \":\" in it".to_owned()));
    }
    Ok(username.to_owned())
}

fn password(args: &ProbeArgs, input: &mut dyn Read) -> Result<Secret, PasswordError> {
    if args.password_stdin { password_from(input) } else { ask_for_password(false, "--password-stdin") }
}

/// Walks, and where docker would fall back to plain HTTP, walks again.
async fn trace_to(place: &ProbeTarget, asked: &str, settings: config::Upstream) -> Result<Trace, ProbeError> {
    let probe = Probe::new(settings.clone(), Permit::operator(Identity::Anonymous))?;
    let username = probe.username().await?;
    let trace = trace::run(&probe, place, asked, username.as_deref()).await;
    let plain = trace.diagnosis.as_ref().is_some_and(|diagnosis| diagnosis.kind == Kind::PlainHttp);
    if !(plain && place.may_be_plain) {
        return Ok(trace);
    }
    let mut settings = settings;
    settings.url.https = false;
    let probe = Probe::new(settings, Permit::operator(Identity::Anonymous))?;
    let mut trace = trace::run(&probe, place, asked, username.as_deref()).await;
    trace.notes.insert(0, "it speaks plain HTTP, which will do on this machine alone".to_owned());
    Ok(trace)
}

/// Returns the upstream of that name, as the gateway would ask it.
fn configured(
    args: &ProbeArgs,
    name: &str,
    environment: &Environment,
    input: &mut dyn Read,
) -> Result<Probe, ProbeError> {
    let config = Config::load(args.config.as_deref(), environment)?;
    let gateway = gateway_names(&config);
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    let found = config.upstreams.into_iter().find(|upstream| upstream.name == name);
    let unknown =
        || ProbeError::Usage(format!("there is no upstream {name:?}; there are: {}", names.join(", ")));
    let settings = found.ok_or_else(unknown)?;
    let identity = match &args.user {
        None => Identity::Anonymous,
        Some(_) if settings.credentials.source != CredentialSource::Forward => {
            let why =
                "-u is for upstreams with credentials.forward: this one is asked with credentials of its own";
            return Err(ProbeError::Usage(why.to_owned()));
        }
        Some(username) => {
            let client = Forwarded::new(name, checked(username)?, password(args, input)?);
            Identity::Forwarded(Arc::new(client))
        }
    };
    let probe = Probe::new(settings, Permit::operator(identity))?;
    probe.set_gateway(gateway);
    Ok(probe)
}
