//! `dockgate htpasswd`: Apache's htpasswd, as far as bcrypt goes.
//!
//! Has the options, files, texts and exit codes of httpd 2.4's htpasswd, with these differences: bcrypt is the only
//! algorithm, and so the default; passwords that bcrypt would cut short and names that the gateway could not use are
//! refused; a changed file is replaced as a whole.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::authn::htpasswd::{Change, EditError, Editor, HashError, hash, read};
use crate::cli::user::{PasswordError, ask_for_password, password_from};
use crate::proto::Secret;
use crate::proto::identity::{UserName, UserNameError};

/// Do as Apache's htpasswd does, with bcrypt
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dockgate htpasswd -Bbn alice secret >> auth/htpasswd\n  \
        dockgate htpasswd -B -C 10 auth/htpasswd alice",
    override_usage = "dockgate htpasswd [-cimBDv] [-C COST] FILE NAME\n       \
        dockgate htpasswd -b[cBDv] [-C COST] FILE NAME PASSWORD\n       \
        dockgate htpasswd -n[iB] [-C COST] NAME\n       \
        dockgate htpasswd -nb[B] [-C COST] NAME PASSWORD"
)]
pub(crate) struct HtpasswdArgs {
    /// Create the file, emptying the one that is there
    #[arg(short = 'c')]
    create: bool,
    /// Print the line instead of changing a file
    #[arg(short = 'n')]
    print: bool,
    /// Take the password from the command line, where others can see it
    #[arg(short = 'b')]
    batch: bool,
    /// Read the password from standard input
    #[arg(short = 'i')]
    stdin: bool,
    /// Hash with bcrypt; this is the default
    #[arg(short = 'B')]
    bcrypt: bool,
    /// The bcrypt cost
    #[arg(short = 'C', value_name = "COST", default_value_t = 5)]
    cost: u32,
    /// Delete the user
    #[arg(short = 'D')]
    delete: bool,
    /// Verify the password
    #[arg(short = 'v')]
    verify: bool,
    #[command(flatten)]
    refused: Refused,
    /// FILE, NAME and PASSWORD, as in the usage above
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true)]
    words: Vec<String>,
}

/// The algorithms of Apache's htpasswd that no registry accepts, declared so that they can be refused by name.
#[derive(Debug, Args)]
struct Refused {
    #[arg(short = 'm', hide = true)]
    md5: bool,
    #[arg(short = 'd', hide = true)]
    crypt: bool,
    #[arg(short = 's', hide = true)]
    sha1: bool,
    #[arg(short = 'p', hide = true)]
    plain: bool,
    #[arg(short = '2', hide = true)]
    sha256: bool,
    #[arg(short = '5', hide = true)]
    sha512: bool,
    #[arg(short = 'r', hide = true, value_name = "ROUNDS")]
    rounds: Option<String>,
}

/// Runs `htpasswd`: lines for a file go to `output`, everything else to `messages`.
///
/// # Errors
/// [`HtpasswdError`], with the exit code of Apache's htpasswd.
pub(crate) fn run(
    args: &HtpasswdArgs,
    input: &mut dyn Read,
    output: &mut dyn Write,
    messages: &mut dyn Write,
) -> Result<(), HtpasswdError> {
    let task = Task::of(args)?;
    match task.mode {
        Mode::Print => {
            let password = task.password(true, input)?;
            // Apache's htpasswd ends its output with an empty line; scripts may count on it.
            Ok(write!(output, "{}:{}\n\n", task.name, hashed(&password, args.cost)?)?)
        }
        Mode::Set { create } => {
            let mut editor = task.editor(create)?;
            let password = task.password(true, input)?;
            let change = editor.set(&task.name, &hashed(&password, args.cost)?);
            editor.save().map_err(|e| task.edit_error(e))?;
            let done = if change == Change::Added { "Adding" } else { "Updating" };
            Ok(writeln!(messages, "{done} password for user {}", task.name)?)
        }
        Mode::Delete => task.delete(messages),
        Mode::Verify => task.verify(input, messages),
    }
}

/// The reason why `htpasswd` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HtpasswdError {
    /// The command line is not valid.
    #[error("{0}")]
    Usage(String),
    /// The name cannot be a user's.
    #[error(transparent)]
    Name(#[from] UserNameError),
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The file could not be read or written.
    #[error("{}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: EditError,
    },
    /// Only `-c` makes new files.
    #[error("cannot modify file {}; use '-c' to create it", .0.display())]
    Missing(PathBuf),
    /// The user to verify is not in the file.
    #[error("User {0} not found")]
    Unknown(UserName),
    /// The password is not the user's.
    #[error("password verification failed")]
    Wrong,
    /// The line of the user cannot be used.
    #[error("the file has no usable line for user {0}")]
    Unusable(UserName),
    /// The answer could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl HtpasswdError {
    /// Returns the exit code that Apache's htpasswd gives.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Missing(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::Wrong | Self::Password(PasswordError::Differ) => 3,
            Self::Password(PasswordError::Hash(HashError::TooLong)) => 5,
            Self::Password(PasswordError::Hash(HashError::Cost)) => 2,
            Self::Password(_) => 1,
            Self::Name(_) | Self::Unknown(_) => 6,
            Self::Unusable(_) => 7,
        }
    }
}

/// A valid command line.
struct Task {
    mode: Mode,
    file: PathBuf,
    name: UserName,
    source: Source,
}

#[derive(Clone, Copy)]
enum Mode {
    Print,
    Set { create: bool },
    Delete,
    Verify,
}

enum Source {
    Argument(Secret),
    Stdin,
    Terminal,
}

impl Task {
    fn of(args: &HtpasswdArgs) -> Result<Self, HtpasswdError> {
        args.refused.check()?;
        let mode = args.mode()?;
        let mut words = args.words.iter();
        let mut next = |wanted: bool, what: &str| match wanted.then(|| words.next()) {
            None => Ok(""),
            Some(Some(word)) => Ok(word.as_str()),
            Some(None) => Err(HtpasswdError::Usage(format!("{what} is missing; see --help"))),
        };
        let file = next(!matches!(mode, Mode::Print), "the FILE")?.into();
        let name = UserName::parse(next(true, "the NAME")?)?;
        let batch = args.batch && !matches!(mode, Mode::Delete);
        let password = next(batch, "the PASSWORD")?;
        if words.next().is_some() {
            return Err(usage("too many arguments; a password on the command line needs -b"));
        }
        let source = match (batch, args.stdin) {
            (true, true) => return Err(usage("only one of -b and -i may be specified")),
            (true, false) => Source::Argument(Secret::new(password)),
            (false, true) => Source::Stdin,
            (false, false) => Source::Terminal,
        };
        Ok(Self { mode, file, name, source })
    }

    fn editor(&self, create: bool) -> Result<Editor, HtpasswdError> {
        if create {
            return Ok(Editor::new(&self.file));
        }
        Editor::open(&self.file).map_err(|e| self.edit_error(e))
    }

    fn edit_error(&self, error: EditError) -> HtpasswdError {
        match error {
            EditError::Io(e) if e.kind() == io::ErrorKind::NotFound => {
                HtpasswdError::Missing(self.file.clone())
            }
            error => HtpasswdError::File { file: self.file.clone(), error },
        }
    }

    fn password(&self, new: bool, input: &mut dyn Read) -> Result<Secret, PasswordError> {
        match &self.source {
            Source::Argument(password) => Ok(password.clone()),
            Source::Stdin => password_from(input),
            Source::Terminal => ask_for_password(new, "-i"),
        }
    }

    /// Deletes a user. As with Apache's htpasswd, a missing user is no failure.
    fn delete(&self, messages: &mut dyn Write) -> Result<(), HtpasswdError> {
        let mut editor = self.editor(false)?;
        if !editor.remove(&self.name) {
            return Ok(writeln!(messages, "User {} not found", self.name)?);
        }
        editor.save().map_err(|e| self.edit_error(e))?;
        Ok(writeln!(messages, "Deleting password for user {}", self.name)?)
    }

    fn verify(&self, input: &mut dyn Read, messages: &mut dyn Write) -> Result<(), HtpasswdError> {
        let password = self.password(false, input)?;
        let mut lines = self.editor(false)?;
        let table = read(&self.file).ok();
        if let Some(line) = table.as_ref().and_then(|table| table.line(self.name.as_str())) {
            let right = line.matches(&password).then_some(()).ok_or(HtpasswdError::Wrong);
            return right.and_then(|()| Ok(writeln!(messages, "Password for user {} correct.", self.name)?));
        }
        let name = self.name.clone();
        Err(if lines.remove(&name) { HtpasswdError::Unusable(name) } else { HtpasswdError::Unknown(name) })
    }
}

impl HtpasswdArgs {
    fn mode(&self) -> Result<Mode, HtpasswdError> {
        match (self.print, self.create, self.delete, self.verify) {
            (true, false, false, false) => Ok(Mode::Print),
            (false, create, false, false) => Ok(Mode::Set { create }),
            (false, false, true, false) => Ok(Mode::Delete),
            (false, false, false, true) => Ok(Mode::Verify),
            _ => Err(usage("only one of -c -n -v -D may be specified")),
        }
    }
}

impl Refused {
    fn check(&self) -> Result<(), HtpasswdError> {
        let asked = [
            (self.md5, "-m (MD5)"),
            (self.crypt, "-d (crypt)"),
            (self.sha1, "-s (SHA-1)"),
            (self.plain, "-p (plain text)"),
            (self.sha256, "-2 (SHA-256)"),
            (self.sha512, "-5 (SHA-512)"),
            (self.rounds.is_some(), "-r (rounds)"),
        ];
        let named = asked.into_iter().find_map(|(given, name)| given.then_some(name));
        named.map_or(Ok(()), |name| {
            Err(HtpasswdError::Usage(format!(
                "{name} is not available: registries accept bcrypt alone; use -B"
            )))
        })
    }
}

fn hashed(password: &Secret, cost: u32) -> Result<String, PasswordError> {
    Ok(hash(password, cost)?)
}

fn usage(text: &str) -> HtpasswdError {
    HtpasswdError::Usage(text.into())
}

/// Returns true if the program was called by this command's name.
pub(crate) fn is_called_for(program: &str) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "htpasswd")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: HtpasswdArgs,
    }

    struct Answer {
        done: Result<(), HtpasswdError>,
        output: String,
        messages: String,
    }

    impl Answer {
        fn code(&self) -> u8 {
            self.done.as_ref().map_or_else(HtpasswdError::exit_code, |()| 0)
        }
    }

    fn answer(words: &[&str], input: &str) -> Answer {
        let line = Line::try_parse_from(["htpasswd"].iter().chain(words)).unwrap();
        let (mut output, mut messages) = (Vec::new(), Vec::new());
        let done = run(&line.args, &mut input.as_bytes(), &mut output, &mut messages);
        let [output, messages] = [output, messages].map(|text| String::from_utf8(text).unwrap());
        Answer { done, output, messages }
    }

    /// Checks that the answer is one line for this user and an empty one.
    fn assert_line(answer: &Answer, name: &str, password: &str, cost: &str) {
        let line = answer.output.strip_suffix("\n\n").unwrap();
        let hash = line.strip_prefix(&format!("{name}:")).unwrap();
        assert!(hash.starts_with(&format!("$2y${cost}$")) && hash.len() == 60, "{hash}");
        assert!(bcrypt::verify(password, hash).unwrap());
    }

    #[test]
    fn the_line_is_printed_whichever_way_the_options_are_joined() {
        for words in [
            &["-Bbn", "al", "pw"][..],
            &["-nbB", "al", "pw"],
            &["-B", "-n", "-b", "al", "pw"],
            &["-nb", "al", "pw"],
        ] {
            assert_line(&answer(words, ""), "al", "pw", "05");
        }
        assert_line(&answer(&["-B", "-C", "6", "-n", "-b", "al", "pw"], ""), "al", "pw", "06");
        assert_line(&answer(&["-nbBC6", "al", "pw"], ""), "al", "pw", "06");
    }

    #[test]
    fn a_password_may_begin_with_a_dash_and_be_empty() {
        assert_line(&answer(&["-Bbn", "al", "-pw"], ""), "al", "-pw", "05");
        assert_line(&answer(&["-Bbn", "al", "-b"], ""), "al", "-b", "05");
        assert_line(&answer(&["-Bbn", "al", ""], ""), "al", "", "05");
    }

    #[test]
    fn the_first_line_of_standard_input_is_the_password() {
        assert_line(&answer(&["-Bin", "al"], "pw\nmore\n"), "al", "pw", "05");
    }

    #[test]
    fn a_file_is_created_changed_verified_and_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        let file = path.to_str().unwrap();
        assert_eq!(answer(&["-Bb", file, "al", "pw"], "").code(), 1, "only -c creates");
        assert_eq!(answer(&["-Bbc", file, "al", "pw"], "").messages, "Adding password for user al\n");
        assert_eq!(answer(&["-Bb", file, "al", "px"], "").messages, "Updating password for user al\n");
        assert_eq!(answer(&["-vb", file, "al", "px"], "").messages, "Password for user al correct.\n");
        assert_eq!(answer(&["-vb", file, "al", "pw"], "").code(), 3);
        assert_eq!(answer(&["-vb", file, "bo", "pw"], "").code(), 6);
        assert_eq!(answer(&["-D", file, "bo"], "").messages, "User bo not found\n");
        assert_eq!(answer(&["-D", file, "al"], "").messages, "Deleting password for user al\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn other_algorithms_are_refused_by_name() {
        for option in ["-m", "-d", "-s", "-p", "-2", "-5"] {
            let answer = answer(&[option, "-nb", "al", "pw"], "");
            assert_eq!(answer.code(), 2);
            assert!(answer.done.unwrap_err().to_string().starts_with(option));
        }
    }

    #[test]
    fn mistakes_have_the_exit_codes_of_apaches_htpasswd() {
        assert_eq!(answer(&["-Bbn", "a:b", "pw"], "").code(), 6);
        assert_eq!(answer(&["-Bbn", "al"], "").code(), 2);
        assert_eq!(answer(&["-Bbn", "al", "pw", "more"], "").code(), 2);
        assert_eq!(answer(&["-Bbcn", "al", "pw"], "").code(), 2);
        assert_eq!(answer(&["-Bbin", "al", "pw"], "").code(), 2);
        assert_eq!(answer(&["-Bbn", "al", &"x".repeat(73)], "").code(), 5);
        assert_eq!(answer(&["-Bbn", "-C", "3", "al", "pw"], "").code(), 2);
    }

    #[test]
    fn no_error_repeats_the_password() {
        for words in
            [&["-Bn", "al", "hunter2"][..], &["-mbn", "al", "hunter2"], &["-Bbn", "al", "hunter2", "x"]]
        {
            let error = answer(words, "").done.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_binary_called_htpasswd_runs_this_command() {
        assert!(is_called_for("/usr/bin/htpasswd") && is_called_for("htpasswd"));
        assert!(!is_called_for("/usr/bin/dockgate"));
    }
}
