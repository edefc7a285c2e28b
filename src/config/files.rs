//! Looks at the files that a configuration names: whether they are there, can be read, and hold what they should.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::RootCertStore;

use crate::config::context::Context;
use crate::config::limits::{DOCKER_CONFIG_BYTES, HTPASSWD_BYTES, KEY_SET_BYTES, PEM_BYTES, REVOKED_BYTES};
use crate::config::private_folder;
use crate::config::reference::{Located, Reference};
use crate::proto::Htpasswd;
use crate::proto::jwk::PublicKey;
use crate::x509::{Chain, Keys, PairError, blocks, pair};

/// Reports every file that cannot serve.
pub(super) fn check(context: &Context) {
    for reference in context.references() {
        check_one(context, &reference);
    }
}

fn check_one(context: &Context, reference: &Reference) {
    let (file, result) = match reference {
        Reference::Htpasswd(file) => (file, check_htpasswd(context, file)),
        Reference::TokenKey(file) => (file, check_token_key(&file.path)),
        Reference::Revoked(file) => (file, check_revoked(&file.path)),
        Reference::Ca(file) | Reference::ClientCa(file) => (file, check_ca(&file.path)),
        Reference::KeySet(file) => (file, check_key_set(&file.path)),
        Reference::DockerConfig(file) => (file, check_docker_config(&file.path)),
        Reference::Folder(folder) => (folder, check_folder(&folder.path)),
        Reference::PrivateFolder(folder) => (folder, check_private_folder(&folder.path)),
        Reference::Pair { certificate, key } => {
            let chain = check_chain(&certificate.path);
            warn_of_names(context, certificate, chain.as_ref().ok());
            return check_pair(context, (certificate, chain), key);
        }
        Reference::ClientPair { certificate, key } => {
            return check_pair(context, (certificate, chain(&certificate.path)), key);
        }
    };
    usable(context, file, result);
}

/// The reason why a file cannot serve; goes behind its path.
type Why = String;

fn report(context: &Context, file: &Located, why: &str) {
    context.mistake(&file.place, &file.key, format!("{} {why}", file.path.display()));
}

fn usable<T>(context: &Context, file: &Located, result: Result<T, Why>) -> Option<T> {
    result.map_err(|why| report(context, file, &why)).ok()
}

/// Checks that a user can log in, and warns of the lines that count for nothing.
fn check_htpasswd(context: &Context, file: &Located) -> Result<(), Why> {
    let path = file.path.as_path();
    let command = || format!("make it with `dockgate user add {} NAME`", path.display());
    let content = read(path, HTPASSWD_BYTES).map_err(|why| with_command(path, why, command))?;
    let table = Htpasswd::parse(&content);
    let is_taken = |name: &str| table.names(name);
    if let Some(name) = context.provider(is_taken).filter(|_| file.key.starts_with("auth.")) {
        return Err(format!(
            "has a user called {name:?} like a provider of [[auth.oidc]], for which passwords are tokens; rename one of them"
        ));
    }
    let defects = table.warnings().iter();
    if table.users() > 0 {
        defects.for_each(|defect| context.warn(format!("{}: {defect}", path.display())));
        return Ok(());
    }
    let shown: String = defects.take(DEFECTS).map(|defect| format!("; {defect}")).collect();
    let add = format!("add one with `dockgate user add {} NAME`", path.display());
    Err(format!("has no user who can log in{shown}; {add}"))
}

/// Defects of an htpasswd file that one mistake names.
const DEFECTS: usize = 3;

/// Adds the command that makes a missing file.
fn with_command(path: &Path, why: Why, command: impl Fn() -> String) -> Why {
    if path.exists() { why } else { format!("{why}; {}", command()) }
}

/// Checks the token service's keys, if they are there yet: whether there is one to sign with.
fn check_token_key(path: &Path) -> Result<(), Why> {
    if !path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    let blocks = blocks(&read(path, PEM_BYTES)?)?;
    let signs = blocks.iter().any(|block| ["PRIVATE KEY", "EC PRIVATE KEY"].contains(&block.label.as_str()));
    if signs {
        Ok(())
    } else {
        Err("holds no private key of the curve P-256; remove it, and the gateway makes one".to_owned())
    }
}

fn check_revoked(path: &Path) -> Result<(), Why> {
    read(path, REVOKED_BYTES).map(drop).map_err(|why| {
        with_command(path, why, || {
            "make an empty file, and write to it the id of each token that is revoked".to_owned()
        })
    })
}

fn check_key_set(path: &Path) -> Result<(), Why> {
    let text = read(path, KEY_SET_BYTES)?;
    PublicKey::parse_set(&text).map(drop).map_err(|error| error.to_string())
}

fn check_ca(path: &Path) -> Result<(), Why> {
    let mut roots = RootCertStore::empty();
    for (line, certificate) in chain(path)?.into_certificates() {
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate at line {line} that cannot be used: {error}"))?;
    }
    Ok(())
}

/// Checks a docker `config.json`. The parser's message is not repeated: it quotes the text.
fn check_docker_config(path: &Path) -> Result<(), Why> {
    let content = read(path, DOCKER_CONFIG_BYTES)?;
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&content);
    object.map(drop).map_err(|error| format!("holds no JSON object: see its line {}", error.line()))
}

fn check_folder(path: &Path) -> Result<(), Why> {
    match path.metadata() {
        Ok(there) if !there.is_dir() => Err("is not a folder".to_owned()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}

/// Checks a folder that other users must not change. Its owner is checked by the process that uses it: this one may be another
/// user's.
fn check_private_folder(path: &Path) -> Result<(), Why> {
    check_folder(path)?;
    private_folder::check(path, None).map_err(|error| error.to_string())
}

fn check_pair(context: &Context, (certificate, chain): (&Located, Result<Chain, Why>), key: &Located) {
    let chain = usable(context, certificate, chain);
    let keys = usable(context, key, read(&key.path, PEM_BYTES).and_then(|pem| Keys::parse(&pem)));
    let (Some(chain), Some(keys)) = (chain, keys) else { return };
    match pair(chain, &keys) {
        Ok(_) => {}
        Err(PairError::Certificate(why)) => report(context, certificate, &why),
        Err(PairError::Key(why)) => report(context, key, &why),
        Err(PairError::Mismatch) => {
            let certificate = certificate.path.display();
            report(context, key, &format!("is not the key of the certificate {certificate}"));
        }
    }
}

/// Warns of a certificate without a subjectAltName: browsers, docker and everything written in Go refuse it.
fn warn_of_names(context: &Context, certificate: &Located, chain: Option<&Chain>) {
    let Some(chain) = chain.filter(|chain| !chain.has_san()) else { return };
    let names = match chain.names() {
        [] => "it names no host".to_owned(),
        names => format!("the common name {} counts alone", names.join(", ")),
    };
    context.warn(format!(
        "{}: the certificate has no subjectAltName, so that docker and most clients refuse it ({names}); make one with it, for \
         example with `dockgate certificate DIR --name NAME`",
        certificate.path.display()
    ));
}

fn check_chain(path: &Path) -> Result<Chain, Why> {
    let folder = path.parent().unwrap_or(path);
    let command = || format!("make one with `dockgate certificate {}`", folder.display());
    chain(path).map_err(|why| with_command(path, why, command))
}

fn chain(path: &Path) -> Result<Chain, Why> {
    Chain::parse(&read(path, PEM_BYTES)?)
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Why> {
    let mut content = Vec::new();
    let length = open(path).and_then(|file| file.take(most + 1).read_to_end(&mut content));
    match length {
        Ok(length) if length as u64 > most => Err(format!("is longer than {most} bytes")),
        Ok(_) => Ok(content),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Opens a regular file: opening a FIFO would wait for ever.
fn open(path: &Path) -> io::Result<File> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    File::open(path)
}
