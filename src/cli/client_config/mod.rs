//! `dockgate client-config`: the files that make a client use this gateway.
//!
//! How each client finds its mirrors, which credentials it sends to them, and where it goes when a mirror refuses, differs
//! from client to client. Each has a file here, which says so in its notes.

mod buildkit;
mod client_files;
mod containerd;
mod docker;
mod error;
mod k3s;
mod kubernetes;
mod podman;
mod served_gateway;

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::client_config::client_files::ClientFiles;
use crate::cli::client_config::error::ClientConfigError;
use crate::cli::client_config::served_gateway::{ClientLogin, ServedGateway};
use crate::cli::user::{PasswordError, ask_for_password, password_from};
use crate::config::{Config, Environment};

/// Print the files that make a client use this gateway
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  dockgate client-config containerd\n  \
    dockgate client-config containerd -u node --password-stdin --directory / < node.password\n  \
    dockgate client-config podman --no-fallback\n\n\
    The upstreams whose name is that of a registry (docker.io, ghcr.io) become mirrors of it. Every other repository is\n\
    pulled by the gateway's own name.")]
pub(crate) struct ClientConfigArgs {
    /// The client
    #[arg(value_enum)]
    client: Client,
    /// The configuration; else as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The URL by which clients reach the gateway; else server.external_url
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The certificate of the CA that clients must trust; else client/ca.crt or ca.crt beside server.tls.certificate
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The user whose login goes into the files of clients that take it from there
    #[arg(short = 'u', long = "user", value_name = "NAME")]
    user: Option<String>,
    /// Read the password from standard input instead of asking for it
    #[arg(long, requires = "user")]
    password_stdin: bool,
    /// Never ask the registry itself for what the gateway refuses; docker, buildkit and k3s have no file for that
    #[arg(long)]
    no_fallback: bool,
    /// Also ask the gateway for registries that are none of its upstreams, which it refuses (containerd, k3s)
    #[arg(long)]
    every_registry: bool,
    /// Write the files below this directory ("/": to this machine) instead of printing them
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// A client with files of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Client {
    /// dockerd and the docker command
    Docker,
    /// containerd, and Kubernetes nodes with it
    Containerd,
    /// podman, buildah, skopeo and CRI-O
    #[value(alias = "cri-o")]
    Podman,
    /// BuildKit and docker buildx
    Buildkit,
    /// k3s and RKE2
    K3s,
    /// A pull secret for pods
    Kubernetes,
}

impl Client {
    fn files(self, gateway: &ServedGateway) -> ClientFiles {
        match self {
            Self::Docker => docker::files(gateway),
            Self::Containerd => containerd::files(gateway),
            Self::Podman => podman::files(gateway),
            Self::Buildkit => buildkit::files(gateway),
            Self::K3s => k3s::files(gateway),
            Self::Kubernetes => kubernetes::files(gateway),
        }
    }
}

/// Prints or writes the files.
///
/// # Errors
/// [`ClientConfigError`]; a file that is there is never overwritten.
pub(crate) fn run(
    args: &ClientConfigArgs,
    environment: &Environment,
    input: &mut dyn Read,
    output: &mut dyn Write,
) -> Result<(), ClientConfigError> {
    let config = Config::load(args.config.as_deref(), environment)?;
    let gateway = ServedGateway {
        login: login(args, input)?,
        fallback: !args.no_fallback,
        every_registry: args.every_registry,
        ..ServedGateway::of(&config, args.url.as_deref(), args.ca.as_deref())?
    };
    let files = args.client.files(&gateway);
    match &args.directory {
        Some(directory) => files.write(directory, output),
        None => Ok(files.print(output)?),
    }
}

fn login(args: &ClientConfigArgs, input: &mut dyn Read) -> Result<Option<ClientLogin>, PasswordError> {
    let Some(name) = args.user.clone() else { return Ok(None) };
    let password = match args.password_stdin {
        true => password_from(input)?,
        false => ask_for_password(false, "--password-stdin")?,
    };
    Ok(Some(ClientLogin { name, password }))
}

#[cfg(test)]
mod tests;
