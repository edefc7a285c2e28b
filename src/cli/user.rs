//! `dockgate user`: the users of an htpasswd file.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::authn::htpasswd::{Change, EditError, Editor, HashError, LoadError, hash, read};
use crate::proto::Secret;
use crate::proto::htpasswd::{HIGHEST_COST, LEAST_COST, LONGEST_PASSWORD};
use crate::proto::identity::{UserName, UserNameError};

/// Manage the users of an htpasswd file
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dockgate user add auth/htpasswd alice")]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a user, or change a user's password
    #[command(after_help = "Examples:\n  dockgate user add auth/htpasswd alice\n  \
        pass show alice | dockgate user add auth/htpasswd alice --password-stdin")]
    Add(Add),
    /// Remove a user
    #[command(after_help = "Example:\n  dockgate user remove auth/htpasswd alice")]
    Remove(Of),
    /// Check a password: exit code 0 when it is the user's, 1 when it is not
    #[command(after_help = "Example:\n  dockgate user verify auth/htpasswd alice")]
    Verify(Verify),
    /// List the users, and the lines that cannot be used
    #[command(after_help = "Example:\n  dockgate user list auth/htpasswd")]
    List(List),
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    of: Of,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    /// The bcrypt cost: each step doubles the time that a check takes
    #[arg(long, value_name = "N", default_value_t = COST,
        value_parser = clap::value_parser!(u32).range(i64::from(LEAST_COST)..=i64::from(HIGHEST_COST)))]
    cost: u32,
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    of: Of,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
struct Of {
    /// The htpasswd file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The user's name
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
struct List {
    /// The htpasswd file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs a `user` command and returns its exit code: 0, or 1 for a password that is not the user's.
///
/// # Errors
/// [`UserError`] names the file, and never the password.
pub(crate) fn run(args: &UserArgs, input: &mut dyn Read, output: &mut dyn Write) -> Result<u8, UserError> {
    match &args.command {
        Command::Add(args) => add(args, input, output),
        Command::Remove(of) => remove(of, output),
        Command::Verify(args) => verify(args, input, output),
        Command::List(args) => list(&args.file, output),
    }
}

/// The reason why a `user` command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// The name cannot be a user's.
    #[error(transparent)]
    Name(#[from] UserNameError),
    /// The file could not be edited.
    #[error("{}: {error}", file.display())]
    Edit {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: EditError,
    },
    /// The file could not be used.
    #[error("{}: {error}", file.display())]
    Load {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: LoadError,
    },
    /// The file has no such user.
    #[error("{}: no user `{name}`", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The user.
        name: UserName,
    },
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The answer could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl UserError {
    /// Returns 2 if the command line is wrong, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Name(_) => 2,
            Self::Edit { .. }
            | Self::Load { .. }
            | Self::Unknown { .. }
            | Self::Password(_)
            | Self::Output(_) => 1,
        }
    }
}

/// The reason why no usable password was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Standard input or the terminal could not be read.
    #[error("cannot read the password: {0}")]
    Read(#[from] io::Error),
    /// There is no terminal to ask on.
    #[error("there is no terminal to ask for the password; pipe it in with {0}")]
    NoTerminal(&'static str),
    /// The two inputs differ.
    #[error("the two passwords differ")]
    Differ,
    /// The password is not UTF-8.
    #[error("the password is not UTF-8 text")]
    NotText,
    /// The line is empty.
    #[error("the password is empty")]
    Empty,
    /// The password cannot be hashed, or would never match.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Reads one line of standard input, without its end.
///
/// # Errors
/// [`PasswordError`], which never contains the input.
pub(crate) fn password_from(input: &mut dyn Read) -> Result<Secret, PasswordError> {
    let mut line = Vec::new();
    BufReader::new(input.take(LONGEST_LINE)).read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| PasswordError::NotText)?;
    Ok(Secret::new(text))
}

/// Asks on the terminal, without echo: twice where the password is new.
///
/// # Errors
/// [`PasswordError::NoTerminal`] names the option by which the password can be piped in.
pub(crate) fn ask_for_password(twice: bool, instead: &'static str) -> Result<Secret, PasswordError> {
    if !io::stdin().is_terminal() {
        return Err(PasswordError::NoTerminal(instead));
    }
    let first = Secret::new(rpassword::prompt_password(if twice { "New password: " } else { "Password: " })?);
    if twice && !Secret::new(rpassword::prompt_password("Once more: ")?).ct_eq(&first) {
        return Err(PasswordError::Differ);
    }
    Ok(first)
}

fn add(args: &Add, input: &mut dyn Read, output: &mut dyn Write) -> Result<u8, UserError> {
    let (file, name) = (&args.of.file, UserName::parse(&args.of.name)?);
    let mut editor = Editor::open_or_new(file).map_err(editing(file))?;
    let password = password(args.password_stdin, true, input)?;
    if password.expose().is_empty() {
        return Err(PasswordError::Empty.into());
    }
    let hashed = hash(&password, args.cost).map_err(PasswordError::Hash)?;
    let change = editor.set(&name, &hashed);
    editor.save().map_err(editing(file))?;
    let done = if change == Change::Added { "Added user" } else { "Changed the password of" };
    writeln!(output, "{done} {name} in {}", file.display())?;
    Ok(0)
}

fn remove(of: &Of, output: &mut dyn Write) -> Result<u8, UserError> {
    let (file, name) = (&of.file, UserName::parse(&of.name)?);
    let mut editor = Editor::open(file).map_err(editing(file))?;
    if !editor.remove(&name) {
        return Err(UserError::Unknown { file: file.clone(), name });
    }
    editor.save().map_err(editing(file))?;
    writeln!(output, "Removed user {name} from {}", file.display())?;
    Ok(0)
}

fn verify(args: &Verify, input: &mut dyn Read, output: &mut dyn Write) -> Result<u8, UserError> {
    let (file, name) = (&args.of.file, UserName::parse(&args.of.name)?);
    let load = |error| UserError::Load { file: file.clone(), error };
    let table = read(file).map_err(load)?;
    let Some(line) = table.line(name.as_str()) else {
        return Err(UserError::Unknown { file: file.clone(), name });
    };
    let right = line.matches(&password(args.password_stdin, false, input)?);
    let not = if right { "" } else { "not " };
    writeln!(output, "That is {not}the password of {name}")?;
    Ok(u8::from(!right))
}

fn list(file: &Path, output: &mut dyn Write) -> Result<u8, UserError> {
    let editor = Editor::open(file).map_err(editing(file))?;
    for (number, entry) in editor.entries() {
        match entry {
            Ok(line) => writeln!(output, "{}", line.name())?,
            Err(reason) => writeln!(output, "# line {number} cannot be used: {reason}")?,
        }
    }
    Ok(0)
}

fn password(stdin: bool, twice: bool, input: &mut dyn Read) -> Result<Secret, PasswordError> {
    if stdin { password_from(input) } else { ask_for_password(twice, "--password-stdin") }
}

fn editing(file: &Path) -> impl FnOnce(EditError) -> UserError {
    let file = file.to_owned();
    |error| UserError::Edit { file, error }
}

/// The cost that the tutorials of registries advise: some 50 ms for each check.
const COST: u32 = 10;

/// The most that is read of a line: more than bcrypt takes, so that a longer password is refused.
const LONGEST_LINE: u64 = LONGEST_PASSWORD as u64 + 4096;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UserArgs,
    }

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("htpasswd")
        }

        /// Runs `user COMMAND FILE REST...` with this standard input.
        fn run(&self, command: &str, rest: &[&str], input: &str) -> (Result<u8, String>, String) {
            let path = self.path();
            let words = ["user", command, path.to_str().unwrap()];
            let line = Line::try_parse_from(words.iter().chain(rest)).unwrap();
            let mut output = Vec::new();
            let done = run(&line.args, &mut input.as_bytes(), &mut output).map_err(|e| e.to_string());
            (done, String::from_utf8(output).unwrap())
        }

        fn add(&self, name: &str, password: &str) -> Result<u8, String> {
            self.run("add", &[name, "--password-stdin", "--cost", "4"], password).0
        }
    }

    #[test]
    fn a_user_is_added_verified_listed_and_removed() {
        let files = Files::new();
        assert_eq!(files.add("al", "pw\n"), Ok(0));
        assert_eq!(files.add("bo", "px\r\n"), Ok(0));
        assert_eq!(files.run("verify", &["al", "--password-stdin"], "pw").0, Ok(0));
        assert_eq!(files.run("verify", &["bo", "--password-stdin"], "px").0, Ok(0));
        assert_eq!(files.run("verify", &["al", "--password-stdin"], "px").0, Ok(1));
        let listed = Line::try_parse_from(["user", "list", files.path().to_str().unwrap()]).unwrap();
        let mut output = Vec::new();
        run(&listed.args, &mut io::empty(), &mut output).unwrap();
        assert_eq!(output, b"al\nbo\n");
        assert_eq!(files.run("remove", &["al"], "").0, Ok(0));
        assert!(files.run("remove", &["al"], "").0.unwrap_err().ends_with("no user `al`"));
    }

    #[test]
    fn passwords_that_bcrypt_would_cut_short_are_refused() {
        let files = Files::new();
        assert!(files.add("al", &"x".repeat(73)).unwrap_err().contains("72 bytes"));
        assert!(files.add("al", "a\0b").unwrap_err().contains("NUL"));
        assert!(files.add("al", "\n").unwrap_err().contains("empty"));
        assert!(!files.path().exists());
    }

    #[test]
    fn names_that_could_not_log_in_are_refused() {
        let files = Files::new();
        for name in ["a:b", "anonymous", "a*", "a?", "a[b]", "{a}", ""] {
            assert!(files.add(name, "pw").is_err(), "{name}");
        }
    }

    #[test]
    fn without_a_terminal_the_error_names_password_stdin() {
        if io::stdin().is_terminal() {
            return;
        }
        let (done, _) = Files::new().run("add", &["al"], "");
        assert!(done.unwrap_err().contains("--password-stdin"));
    }

    #[test]
    fn a_cost_outside_the_limits_is_refused() {
        for cost in ["3", "18", "x"] {
            assert!(Line::try_parse_from(["user", "add", "f", "al", "--cost", cost]).is_err());
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let (done, _) = Files::new().run("remove", &["al"], "");
        assert!(done.unwrap_err().contains("htpasswd"));
    }
}
