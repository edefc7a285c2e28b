use std::time::Instant;

use crate::clock;
use crate::upstream::auth::credentials::program::*;

/// Puts the program `docker-credential-NAME` into `directory`. The file is written by a process of its own: one that
/// this process has open for writing can't be run as long as a child that another test has just forked has it too.
pub(crate) fn install(directory: &Path, name: &str, script: &str) -> HelperProgram {
    let source = directory.join("source");
    std::fs::write(&source, format!("#!/bin/sh\n{script}\n")).unwrap();
    let path = directory.join(format!("docker-credential-{name}"));
    let mut install = std::process::Command::new("install");
    assert!(install.args(["-m", "755"]).args([&source, &path]).status().unwrap().success());
    HelperProgram { path, limit: DEADLINE }
}

async fn get(script: &str) -> Result<Credential, HelperError> {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "test", script).get("r.example:5000").await
}

/// When a program was begun that has 300 ms, and what came of it.
async fn ended(script: &str) -> (Instant, Result<Credential, HelperError>) {
    let directory = tempfile::tempdir().unwrap();
    let mut program = install(directory.path(), "test", script);
    program.limit = Duration::from_millis(300);
    (clock::now(), program.get("r.example").await)
}

#[tokio::test]
async fn a_helper_reads_the_key_and_prints_credentials() {
    let script = r#"printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}' "$1" "$(cat)""#;
    let Credential::Password(login) = get(script).await.unwrap() else { panic!("no password") };
    assert_eq!((login.username.as_str(), login.password.expose()), ("get", "r.example:5000"));
}

#[tokio::test]
async fn the_user_name_token_marks_a_refresh_token() {
    let credential = get(r#"echo '{"Username":"<token>","Secret":"refresh-me"}'"#).await.unwrap();
    assert!(matches!(credential, Credential::IdentityToken(token) if token.expose() == "refresh-me"));
}

#[tokio::test]
async fn a_helper_may_ignore_its_input() {
    let script = r#"exec <&-; echo '{"Username":"a","Secret":"b"}'"#;
    assert!(matches!(get(script).await, Ok(Credential::Password(_))));
}

#[tokio::test]
async fn a_helper_without_the_credentials_says_so() {
    let error = get("echo credentials not found in native keychain; exit 1").await.unwrap_err();
    assert_eq!(error, HelperError::Nothing("r.example:5000".into()));
}

#[tokio::test]
async fn a_failed_helper_is_quoted_in_one_line() {
    let error = get(r"printf 'no \033[31mregion\007 is set\nmore\n'; echo no >&2; exit 1").await.unwrap_err();
    assert_eq!(error.to_string(), "it failed (exit status: 1: no [31mregion is set)");
    let error = get("exit 3").await.unwrap_err();
    assert_eq!(error.to_string(), "it failed (exit status: 3)");
    let error = get("kill -TERM $$").await.unwrap_err();
    assert!(error.to_string().starts_with("it failed (signal: 15"), "{error}");
}

#[tokio::test]
async fn output_that_may_hold_secrets_is_not_quoted() {
    for script in [
        r#"echo '{"Username":"robot","Secret":"hunter2"}'; exit 1"#,
        r#"echo; echo 'warning'; echo '{"Username":"robot","Secret":"hunter2"}'; exit 1"#,
        r#"echo '["hunter2"]'; exit 1"#,
        r#"echo '"hunter2"'; exit 1"#,
        r#"echo '{"Username":"robot","Secret":"hunter2"'"#,
        r#"echo '{"Username":["hunter2"],"Secret":"hunter2"}'"#,
        r#"echo '{"Username":"robot","Secret":"hunter2\n"}'"#,
        "echo hunter2",
    ] {
        let error = get(script).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{script}: {error:?}");
    }
}

#[tokio::test]
async fn answers_outside_the_protocol_are_refused() {
    for (script, expected) in [
        ("", HelperError::Answer),
        ("echo '{}'", HelperError::Answer),
        (r#"echo '{"Username":"","Secret":"x"}'"#, HelperError::Flawed(CredentialFlaw::NoName)),
        (r#"echo '{"Username":"<token>","Secret":""}'"#, HelperError::Flawed(CredentialFlaw::Token)),
    ] {
        assert_eq!(get(script).await.unwrap_err(), expected, "{script}");
    }
}

#[tokio::test]
async fn a_hanging_helper_is_killed() {
    for script in ["sleep 60", "sleep 60 & wait", "exec >&-; sleep 60"] {
        let (start, result) = ended(script).await;
        assert_eq!(result.unwrap_err(), HelperError::Slow(Duration::from_millis(300)), "{script}");
        assert!(clock::now() - start < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_hanging_helper_leaves_no_children() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("sleep 60 & echo $! >{}; wait", pid.display());
    let mut program = install(directory.path(), "test", &script);
    program.limit = Duration::from_secs(2);
    program.get("r.example").await.unwrap_err();
    let child = std::fs::read_to_string(&pid).unwrap();
    let gone = async {
        while lives(child.trim()) {
            tokio::time::sleep(Duration::from_millis(5)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

/// A process that has ended may be waiting for its parent to notice.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

#[tokio::test]
async fn endless_output_is_cut() {
    assert_eq!(get("yes; sleep 60").await.unwrap_err(), HelperError::Long);
    assert_eq!(get("yes; exit 1").await.unwrap_err(), HelperError::Long);
}

#[tokio::test]
async fn a_missing_or_unusable_program_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker-credential-x");
    let program = HelperProgram { path: path.clone(), limit: DEADLINE };
    assert_eq!(program.get("r.example").await.unwrap_err(), HelperError::Absent);
    std::fs::write(&path, "").unwrap();
    assert!(matches!(program.get("r.example").await.unwrap_err(), HelperError::Run(_)));
    assert_eq!(program.name(), "docker-credential-x");
}

#[test]
fn a_program_lies_on_path_and_nowhere_else() {
    assert_eq!(HelperProgram::new(Path::new(""), "ecr-login").path, Path::new("docker-credential-ecr-login"));
    assert!(is_name("ecr-login") && is_name("osxkeychain.v2_x"));
    for name in ["", "a/b", "../x", "a b", "a\0", "ü"] {
        assert!(!is_name(name), "{name:?}");
    }
}
