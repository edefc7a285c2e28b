//! `dockgate token`: tokens of robots, and the key that signs them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use rustix::process::getuid;

use crate::authn::{AccessTokens, KeyFileError, OpenError, rotate};
use crate::authz::{Rules, Subject, Wish};
use crate::clock;
use crate::config::{Config, ConfigErrors, Environment, PatternError, RepositoryPattern, parse_duration};
use crate::proto::claims::ANY;
use crate::proto::identity::{Identity, RobotName, UserNameError};
use crate::proto::{Action, Grant, RepositoryName};
use crate::telemetry::{self, AuditError, AuditKind, PrintedToken};

/// Mint tokens for robots, and rotate the key of the token service
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  dockgate token mint --user ci --access 'team/**:pull,push' --ttl 30d")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a new token: a password, with any user name, for the access that is named and that the rules allow robot:NAME
    #[command(
        after_help = "The id on standard error revokes it: write it to the file of auth.token.revoked. Where log.audit is set, the \
        token is printed only when it is in the audit log.\n\n\
        Examples:\n  dockgate token mint --user ci --access 'team/**:pull,push' --ttl 30d\n  \
        dockgate token mint --user backup --access '**:pull,catalog' --ttl 365d > robot.token\n  \
        docker login registry.example.com -u robot --password-stdin < robot.token"
    )]
    Mint(Mint),
    /// Put a new key into the token service's key file; the keys before it verify as long as they stand there
    #[command(
        after_help = "The gateway reads the file within seconds. Remove an old key from it when the tokens of all robots that it \
        signed have died.\n\nExample:\n  dockgate token rotate --config /etc/dockgate/dockgate.toml"
    )]
    Rotate(Rotate),
}

#[derive(Args, Debug)]
struct Rotate {
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Mint {
    /// The robot's name, which rules and logs know as robot:NAME
    #[arg(long, value_name = "NAME")]
    user: String,
    /// The access: a repository or a pattern, and pull, push, delete, catalog or *
    #[arg(long, value_name = "REPOSITORY:ACTIONS", required = true)]
    access: Vec<String>,
    /// The lifetime of the token, at most 365d
    #[arg(long, value_name = "DURATION")]
    ttl: String,
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The reason why no token was minted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// There is no token service that would take the token.
    #[error("the configuration has no [auth.token], so that no gateway takes a robot's token; add it")]
    NoService,
    /// No robot can have that name.
    #[error("--user: {0}")]
    Name(#[from] UserNameError),
    /// The access is malformed.
    #[error("--access {written:?}: {why}")]
    Access {
        /// The access as written.
        written: String,
        /// The correction.
        why: String,
    },
    /// The lifetime is malformed.
    #[error("--ttl: {0}")]
    Ttl(String),
    /// The key cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The key cannot be rotated.
    #[error(transparent)]
    Rotate(#[from] KeyFileError),
    /// The machine gives no randomness.
    #[error("the system gave no random bytes")]
    Random,
    /// The audit log can't be written. Then no token is printed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The output is closed.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl TokenError {
    /// Returns 2 if the command line or the configuration is wrong, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoService | Self::Name(_) | Self::Access { .. } | Self::Ttl(_) => 2,
            Self::Open(_) | Self::Rotate(_) | Self::Random | Self::Audit(_) | Self::Output(_) => 1,
        }
    }
}

/// Runs a `token` command. The token alone goes to `output`, its id and warnings to `messages`.
///
/// # Errors
/// [`TokenError`].
pub(crate) fn run(
    args: &TokenArgs,
    environment: &Environment,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> Result<(), TokenError> {
    match &args.command {
        Command::Mint(args) => mint(args, environment, output, messages),
        Command::Rotate(args) => {
            let config = Config::load(args.config.as_deref(), environment)?;
            let key = config.auth.token.ok_or(TokenError::NoService)?.key;
            let id = rotate(&key)?;
            writeln!(output, "{}: the key {id} signs now, and those before it verify", key.display())?;
            Ok(())
        }
    }
}

fn mint(
    args: &Mint,
    environment: &Environment,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> Result<(), TokenError> {
    let (robot, ttl) = (RobotName::new(&args.user)?, ttl(&args.ttl)?);
    let access: Vec<Grant> =
        args.access.iter().map(|written| grants(written)).collect::<Result<Vec<_>, _>>()?.concat();
    let config = Config::load(args.config.as_deref(), environment)?;
    let tokens = AccessTokens::open(config.auth.token.as_ref().ok_or(TokenError::NoService)?)?;
    let minted = tokens.mint(&robot, access.clone(), ttl).ok_or(TokenError::Random)?;
    let until = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default() + ttl;
    let until = i64::try_from(until.as_secs()).ok().and_then(|second| Timestamp::from_second(second).ok());
    let until = until.map_or_else(String::new, |until| until.to_string());
    if let Some(path) = &config.log.audit {
        let scope = access.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let event = PrintedToken {
            event: AuditKind::TokenMinted,
            user: robot.as_str(),
            token: &minted.id,
            scope: &scope,
            expires: &until,
            uid: getuid().as_raw(),
        };
        if !telemetry::append_to_audit_log(path, &event)? {
            writeln!(
                messages,
                "log.audit is no file: only the gateway can write there, and this token is not in it"
            )?;
        }
    }
    writeln!(output, "{}", minted.token.expose())?;
    writeln!(messages, "{}, id {}, until {until}", robot.as_str(), minted.id)?;
    let subject = Subject::from(Identity::Robot(robot));
    let rules = Rules::new(config.access, true);
    for (action, name) in denied(&rules, &subject, &access) {
        writeln!(messages, "no rule allows it to {action} {name}; see dockgate explain")?;
    }
    Ok(())
}

/// Returns the part of an access that the rules do not allow, where it names single repositories.
fn denied(rules: &Rules, subject: &Subject, access: &[Grant]) -> Vec<(Action, String)> {
    let mut denied = Vec::new();
    for grant in access.iter().filter(|grant| grant.is_of_repository()) {
        let Ok(name) = RepositoryName::parse(&grant.name) else { continue };
        let refused = |action: &Action| {
            grant.contains(*action) && !rules.explain(subject, Some(&name), Wish::Do(*action)).allowed
        };
        let actions = [Action::Pull, Action::Push, Action::Delete].into_iter().filter(refused);
        denied.extend(actions.map(|action| (action, grant.name.clone())));
    }
    denied
}

fn ttl(written: &str) -> Result<Duration, TokenError> {
    let ttl = parse_duration(written).map_err(|why| TokenError::Ttl(format!("{written:?} {why}")))?;
    if ttl < LEAST_TTL {
        return Err(TokenError::Ttl(format!("{written:?} is less than a minute")));
    }
    Ok(ttl)
}

/// Reads `REPOSITORY:ACTIONS`.
fn grants(written: &str) -> Result<Vec<Grant>, TokenError> {
    let wrong = |why: String| TokenError::Access { written: written.to_owned(), why };
    let (repository, actions) = written
        .rsplit_once(':')
        .ok_or_else(|| wrong("has no actions; write for example 'team/**:pull,push'".to_owned()))?;
    RepositoryPattern::parse(repository).map_err(|why: PatternError| wrong(why.to_string()))?;
    let (mut own, mut catalog) = (Vec::new(), false);
    for action in actions.split(',') {
        match action {
            "pull" => own.push(Action::Pull),
            "push" => own.push(Action::Push),
            "delete" => own.push(Action::Delete),
            "catalog" => catalog = true,
            ANY => {
                own.extend([Action::Pull, Action::Push, Action::Delete]);
                catalog = true;
            }
            _ => {
                return Err(wrong(format!(
                    "{action:?} is no action; write pull, push, delete, catalog or *"
                )));
            }
        }
    }
    own.sort();
    own.dedup();
    let grant = (!own.is_empty()).then(|| Grant::repository(repository, own));
    Ok(grant.into_iter().chain(catalog.then(Grant::catalog)).collect())
}

const LEAST_TTL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TokenArgs,
    }

    fn minted(config: &str, words: &[&str]) -> (Result<(), TokenError>, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dockgate.toml");
        std::fs::write(&path, format!("{config}\n[[upstream]]\nname = 'up'\nurl = 'http://127.0.0.1:1'\n"))
            .unwrap();
        let words = ["token", "mint"].into_iter().chain(words.iter().copied());
        let words = words.chain(["--config", path.to_str().unwrap()]);
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut output, mut messages) = (Vec::new(), Vec::new());
        let result = run(&cli.args, &Environment::from([("", ""); 0]), &mut output, &mut messages);
        (result, String::from_utf8(output).unwrap(), String::from_utf8(messages).unwrap())
    }

    const SERVICE: &str = "[auth.token]\n";

    #[test]
    fn the_token_alone_is_printed_and_its_id_beside_it() {
        let (result, output, messages) = minted(
            SERVICE,
            &["--user", "ci", "--access", "team/**:pull,push", "--access", "a:*", "--ttl", "12h"],
        );
        result.unwrap();
        let token = output.strip_suffix('\n').unwrap();
        assert!(token.starts_with("dgr_") && token.matches('.').count() == 2, "{token}");
        assert!(messages.starts_with("robot:ci, id ") && messages.contains(", until 2"), "{messages}");
        assert_eq!(messages.lines().count(), 1, "the default rule allows it all");
    }

    #[test]
    fn a_token_that_cannot_be_audited_is_not_printed() {
        let unwritable = format!("{SERVICE}[log]\naudit = 'dockgate.toml/audit.log'\n");
        let (result, output, messages) =
            minted(&unwritable, &["--user", "ci", "--access", "a:pull", "--ttl", "1h"]);
        let error = result.unwrap_err();
        assert!(
            error.to_string().starts_with("log.audit: cannot write to ") && error.exit_code() == 1,
            "{error}"
        );
        assert_eq!((output.as_str(), messages.as_str()), ("", ""));

        let stream = format!("{SERVICE}[log]\naudit = '/dev/null'\n");
        let (result, output, messages) =
            minted(&stream, &["--user", "ci", "--access", "a:pull", "--ttl", "1h"]);
        result.unwrap();
        assert!(output.starts_with("dgr_") && messages.starts_with("log.audit is no file"), "{messages}");
    }

    #[test]
    fn access_that_no_rule_allows_is_told() {
        let rule =
            "[auth.token]\n[[access]]\nusers = ['robot:ci']\nrepositories = ['a']\nactions = ['pull']\n";
        let (result, _, messages) = minted(rule, &["--user", "ci", "--access", "a:pull,push", "--ttl", "1h"]);
        result.unwrap();
        assert!(messages.contains("no rule allows it to push a;"), "{messages}");
        assert!(!messages.contains("to pull"), "{messages}");
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        for (config, user, access, ttl, why) in [
            (
                "[[access]]\nusers = ['anonymous']\nrepositories = ['**']\nactions = ['pull']",
                "ci",
                "a:pull",
                "1h",
                "no [auth.token]",
            ),
            (SERVICE, "a:b", "a:pull", "1h", "--user: a name may not contain `:`"),
            (SERVICE, "ci", "a", "1h", "has no actions"),
            (SERVICE, "ci", "A:pull", "1h", "can match no repository"),
            (SERVICE, "ci", "{user}/a:pull", "1h", "{user}"),
            (SERVICE, "ci", "a:read", "1h", "\"read\" is no action"),
            (SERVICE, "ci", "a:pull", "1s", "less than a minute"),
            (SERVICE, "ci", "a:pull", "2y", "\"2y\" is not a duration"),
            (SERVICE, "ci", "a:pull", "1000d", "is too long"),
        ] {
            let (result, output, _) = minted(config, &["--user", user, "--access", access, "--ttl", ttl]);
            let error = result.unwrap_err();
            assert!(error.to_string().contains(why) && error.exit_code() == 2, "{error}");
            assert_eq!(output, "");
        }
    }
}
