//! `dockgate completions`: a script that completes commands and options in a shell.

use std::io::{self, Write};

use clap::Args;
use clap_complete::Shell;

/// Print a script that completes commands and options in a shell
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    dockgate completions bash > /usr/share/bash-completion/completions/dockgate\n  \
    dockgate completions zsh > /usr/local/share/zsh/site-functions/_dockgate\n  \
    dockgate completions fish > ~/.config/fish/completions/dockgate.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script for `command`, the whole command line.
///
/// # Errors
/// When the output is closed.
pub(crate) fn run(
    args: &CompletionsArgs,
    command: &mut clap::Command,
    output: &mut dyn Write,
) -> io::Result<()> {
    // The generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "dockgate", &mut script);
    output.write_all(&script)
}
