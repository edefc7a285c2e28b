//! `dockgate secret`: prints 32 random bytes for `server.secret`.

use std::io::{self, Write};

use clap::Args;

/// Print 32 random bytes for server.secret
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  (umask 077; dockgate secret > auth/secret)")]
pub(crate) struct SecretArgs {}

/// Prints the bytes as hexadecimal digits.
///
/// # Errors
/// When the system has no random bytes, or the output is closed.
pub(crate) fn run(output: &mut impl Write) -> io::Result<()> {
    let mut bytes = [0u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no random bytes"))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(output, "{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed() -> String {
        let mut output = Vec::new();
        run(&mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn every_secret_is_64_other_digits() {
        let (one, two) = (printed(), printed());
        assert_ne!(one, two);
        for secret in [one, two] {
            let digits = secret.strip_suffix('\n').unwrap();
            assert!(digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
        }
    }
}
