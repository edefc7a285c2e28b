//! Reads a blob from the object store of a configuration: what the store's client costs alone.
//!
//!     stored_blob CONFIG [DIGEST proved|unproved]
//!
//! Without a digest it ends after it has read the configuration: what a start costs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what a program says")]

use std::path::Path;
use std::process::ExitCode;

use dockgate::internals::{Config, Digest, Environment, read_stored};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match read(&arguments).await {
        Ok(bytes) => {
            println!("{bytes}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn read(arguments: &[&str]) -> Result<u64, String> {
    let (file, blob) = arguments.split_first().ok_or("stored_blob CONFIG [DIGEST proved|unproved]")?;
    let config =
        Config::load(Some(Path::new(file)), &Environment::default()).map_err(|error| error.to_string())?;
    let [digest, way] = blob else { return Ok(0) };
    let digest = Digest::parse(digest).map_err(|error| error.to_string())?;
    read_stored(&config, &digest, *way == "proved").await
}
