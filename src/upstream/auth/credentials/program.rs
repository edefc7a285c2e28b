//! Runs the programs `docker-credential-NAME` (docker-credential-helpers).

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::config::limits;
use crate::upstream::auth::credentials::credential::{Credential, CredentialFlaw};

/// The reason why a helper gave no credentials. Never repeats its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelperError {
    /// The program is in no directory of PATH.
    #[error("there is no such program on PATH")]
    Absent,
    /// The program could not be started, or its pipes broke.
    #[error("it can't be run: {0}")]
    Run(String),
    /// The program ran for longer than this and was killed.
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    /// Its answer is too long.
    #[error("its answer is longer than {} KiB", ANSWER_BYTES / 1024)]
    Long,
    /// The program keeps nothing under this key.
    #[error("it holds nothing for {0}")]
    Nothing(String),
    /// The program failed, with this exit status and message.
    #[error("it failed ({0})")]
    Failed(String),
    /// The program succeeded, and its answer is not that of the protocol.
    #[error("its answer is not JSON with Username and Secret")]
    Answer,
    /// Its credential can't be used.
    #[error("its answer can't be used: {0}")]
    Flawed(#[from] CredentialFlaw),
    /// The gateway is shutting down.
    #[error("it was interrupted")]
    Interrupted,
}

/// A helper's program.
#[derive(Debug, Clone)]
pub(crate) struct HelperProgram {
    path: PathBuf,
    limit: Duration,
}

impl HelperProgram {
    /// Names `docker-credential-NAME` in `directory`, or on PATH where that is empty.
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        Self { path: directory.join(format!("docker-credential-{name}")), limit: DEADLINE }
    }

    /// Returns its file name.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Asks it for the credentials kept under `server`. Kills it and its children when it takes too long or the caller
    /// leaves.
    pub(crate) async fn get(&self, server: &str) -> Result<Credential, HelperError> {
        let run = tokio::time::timeout(self.limit, self.run(server)).await;
        let (status, output) = run.map_err(|_| HelperError::Slow(self.limit))??;
        if status.success() { answer(&output) } else { Err(failure(status, &output, server)) }
    }

    async fn run(&self, server: &str) -> Result<(ExitStatus, Vec<u8>), HelperError> {
        let mut running = self.start()?;
        let output = running.converse(server).await?;
        let status = running.0.wait().await.map_err(|error| HelperError::Run(error.to_string()))?;
        Ok((status, output))
    }

    /// Starts it in a process group of its own, so that its children can be killed with it.
    fn start(&self) -> Result<Running, HelperError> {
        let mut command = Command::new(&self.path);
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.process_group(0).kill_on_drop(true).spawn();
        child.map(Running).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => HelperError::Absent,
            _ => HelperError::Run(error.to_string()),
        })
    }
}

/// Returns true if `docker-credential-NAME` is a file name and not a path.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A running program, killed on drop.
struct Running(Child);

impl Running {
    async fn converse(&mut self, server: &str) -> Result<Vec<u8>, HelperError> {
        if let Some(mut input) = self.0.stdin.take() {
            // The helper may answer without reading its input. Dropping the pipe ends the input.
            let _ = input.write_all(server.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(pipe) = self.0.stdout.take() {
            let read = pipe.take(ANSWER_BYTES + 1).read_to_end(&mut output).await;
            read.map_err(|error| HelperError::Run(error.to_string()))?;
        }
        if output.len() as u64 > ANSWER_BYTES { Err(HelperError::Long) } else { Ok(output) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The id is `None` once the end has been seen; until then no other process can have it.
        let number = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = number {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

fn answer(output: &[u8]) -> Result<Credential, HelperError> {
    // serde's error would repeat the answer.
    let Answer { username, secret } = serde_json::from_slice(output).map_err(|_| HelperError::Answer)?;
    if username == IDENTITY_TOKEN {
        return Ok(Credential::identity_token(secret)?);
    }
    Ok(Credential::password(username, secret)?)
}

/// Reads the error of a helper, which it writes to its standard output.
fn failure(status: ExitStatus, output: &[u8], server: &str) -> HelperError {
    match message(output) {
        Some(message) if message == NOT_FOUND => HelperError::Nothing(server.to_owned()),
        Some(message) => HelperError::Failed(format!("{status}: {message}")),
        None => HelperError::Failed(status.to_string()),
    }
}

/// Returns the first line, fit for a log; `None` where the output may hold credentials.
fn message(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    if text.contains(['{', '}']) || text.trim_start().starts_with(['[', '"']) {
        return None;
    }
    let line = text.trim().lines().next()?.trim();
    let shown: String = line.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARACTERS).collect();
    (!shown.is_empty()).then_some(shown)
}

/// How long a helper may run: helpers for clouds ask a server over a slow network.
const DEADLINE: Duration = Duration::from_secs(30);

/// The longest answer, in bytes: a token in a little JSON.
const ANSWER_BYTES: u64 = limits::TOKEN_BYTES as u64;

/// The longest message of a failed helper, in characters: a line for a log.
const MESSAGE_CHARACTERS: usize = 200;

/// The message of a helper without the credentials (docker-credential-helpers `credentials/error.go`).
const NOT_FOUND: &str = "credentials not found in native keychain";

/// The user name that makes the secret a refresh token (docker-credential-helpers `credentials/credentials.go`).
const IDENTITY_TOKEN: &str = "<token>";

#[cfg(test)]
pub(crate) mod tests;
