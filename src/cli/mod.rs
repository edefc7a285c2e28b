//! The command line, one file per command.

use std::ffi::OsString;
use std::io::{self, IsTerminal};

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::exit::fail;
use crate::cli::plain_output::PlainOutput;
use crate::config::Environment;

pub(crate) mod cache;
pub(crate) mod certificate;
pub(crate) mod check;
pub(crate) mod client_config;
pub(crate) mod completions;
pub(crate) mod credential_provider;
pub(crate) mod demo;
mod exit;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod htpasswd;
mod plain_output;
pub(crate) mod probe;
pub(crate) mod secret;
pub(crate) mod serve;
mod service_manager;
pub(crate) mod token;
pub(crate) mod user;

/// An authenticating gateway in front of container registries
#[derive(Debug, Parser)]
#[command(name = "dockgate", version = env!("DOCKGATE_VERSION"), args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  dockgate demo                 everything in one process, to try it out\n  \
    dockgate check                is the configuration right?\n  dockgate --config FILE        run the gateway"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    Check(CheckArgs),
    User(user::UserArgs),
    Htpasswd(htpasswd::HtpasswdArgs),
    Certificate(certificate::CertificateArgs),
    ClientConfig(client_config::ClientConfigArgs),
    Health(health::HealthArgs),
    Probe(probe::ProbeArgs),
    Explain(explain::ExplainArgs),
    Cache(cache::CacheArgs),
    Token(token::TokenArgs),
    Secret(secret::SecretArgs),
    CredentialProvider(credential_provider::CredentialProviderArgs),
    Completions(completions::CompletionsArgs),
}

/// Validate a configuration: every mistake at once, each with its line and what to write
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dockgate check --config config/internal-registry.toml")]
struct CheckArgs {
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
}

/// Runs what the command line asks for. The answer is the exit code: 0 done, 1 it failed while running, 2 the command
/// line or the configuration is wrong.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    // Called `htpasswd`, it is htpasswd.
    if arguments.first().and_then(|program| program.to_str()).is_some_and(htpasswd::is_called_for) {
        arguments.insert(1, "htpasswd".into());
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => dispatch(cli),
        Err(error) => {
            // Closed streams leave no other place to report to.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2)
        }
    }
}

fn dispatch(cli: Cli) -> u8 {
    let environment = Environment::from_process();
    let (mut input, terminal) = (io::stdin(), io::stderr().is_terminal());
    let (mut output, mut messages) = (PlainOutput::new(io::stdout()), PlainOutput::new(io::stderr()));
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve::run(&args, environment),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(args.config.as_deref(), &environment, &mut output, &mut messages),
        Command::User(args) => match user::run(&args, &mut input, &mut output) {
            Ok(code) => code,
            Err(error) => fail(&error, error.exit_code()),
        },
        Command::Htpasswd(args) => {
            let done = htpasswd::run(&args, &mut input, &mut output, &mut messages);
            done.map_or_else(|error| fail(&error, error.exit_code()), |()| 0)
        }
        Command::Certificate(args) => {
            certificate::run(&args, &mut output).map_or_else(|error| fail(&error, error.exit_code()), |()| 0)
        }
        Command::ClientConfig(args) => {
            let done = client_config::run(&args, &environment, &mut input, &mut output);
            done.map_or_else(|error| fail(&error, error.exit_code()), |()| 0)
        }
        Command::Health(args) => {
            let done = health::run(&args, &environment, &mut output);
            done.map_or_else(|error| fail(&error, error.exit_code()), |()| 0)
        }
        Command::Probe(args) => {
            // The probe escapes foreign text by itself, since it colours its own.
            let palette = probe::Palette::of(&io::stdout(), &environment);
            let done = probe::run(&args, &environment, palette, &mut input, &mut io::stdout());
            done.unwrap_or_else(|error| fail(&error, error.exit_code()))
        }
        Command::Explain(args) => match explain::run(&args, &environment, &mut output) {
            Ok(allowed) => u8::from(!allowed),
            Err(error) => fail(&error, error.exit_code()),
        },
        Command::Cache(args) => {
            let terminal = terminal && environment.get("TERM") != Some("dumb");
            let done = cache::run(&args, &environment, terminal, &mut input, &mut output, &mut messages);
            done.unwrap_or_else(|error| fail(&error, error.exit_code()))
        }
        Command::Token(args) => {
            let done = token::run(&args, &environment, &mut output, &mut messages);
            done.map_or_else(|error| fail(&error, error.exit_code()), |()| 0)
        }
        Command::Secret(secret::SecretArgs {}) => {
            secret::run(&mut output).map_or_else(|error| fail(&error, 1), |()| 0)
        }
        Command::CredentialProvider(args) => {
            // JSON, for a program: no character of it may be escaped in another way.
            let done = credential_provider::run(&args, &mut input, &mut io::stdout());
            done.map_or_else(|error| fail(&error, 1), |()| 0)
        }
        Command::Completions(args) => {
            // A program for the shell: no character of it may be escaped in another way.
            let done = completions::run(&args, &mut Cli::command(), &mut io::stdout());
            done.map_or_else(|error| fail(&error, 1), |()| 0)
        }
    }
}
