//! Output that cannot speak to the terminal.

use std::io::{self, Write};

use crate::cli::probe::format::speaks_to_terminals;

/// A writer in which control characters, other than line ends and tabs, are escaped: names of users, images and files may
/// have been chosen by others. It must be flushed, or end with a line, to show an unfinished character.
pub(super) struct PlainOutput<W> {
    output: W,
    /// The beginning of a character whose last bytes are still to come.
    begun: Vec<u8>,
}

impl<W: Write> PlainOutput<W> {
    pub(super) fn new(output: W) -> Self {
        Self { output, begun: Vec::new() }
    }

    fn write_text(&mut self, text: &str) -> io::Result<()> {
        let mut plain = String::with_capacity(text.len());
        for character in text.chars() {
            if speaks_to_terminals(character) && !matches!(character, '\n' | '\t') {
                plain.extend(character.escape_unicode());
            } else {
                plain.push(character);
            }
        }
        self.output.write_all(plain.as_bytes())
    }
}

impl<W: Write> Write for PlainOutput<W> {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(more);
        let bytes = std::mem::take(&mut self.begun);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.write_text(text)?;
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.write_text(std::str::from_utf8(good).unwrap_or_default())?;
                    let Some(length) = error.error_len() else {
                        self.begun = bad.to_vec();
                        break;
                    };
                    // Some terminals take single bytes for control characters.
                    self.output.write_all("\u{fffd}".as_bytes())?;
                    rest = &bad[length..];
                }
            }
        }
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.begun).is_empty() {
            self.output.write_all("\u{fffd}".as_bytes())?;
        }
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&[u8]]) -> String {
        let mut output = Vec::new();
        let mut plain = PlainOutput::new(&mut output);
        for piece in pieces {
            plain.write_all(piece).unwrap();
        }
        plain.flush().unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn escape_sequences_come_out_as_text() {
        let title = b"\x1b]0;owned\x07 \x1b[2J\r\x9b31m\xc2\x9b \x7f\x08";
        assert_eq!(
            written(&[title]),
            "\\u{1b}]0;owned\\u{7} \\u{1b}[2J\\u{d}\u{fffd}31m\\u{9b} \\u{7f}\\u{8}"
        );
        assert_eq!(written(&["\u{202e}gpj.exe".as_bytes()]), "\\u{202e}gpj.exe");
    }

    #[test]
    fn text_in_any_pieces_stays_as_it_is() {
        let text = "Österreich\t漢\u{1f40b}\n";
        assert_eq!(written(&[text.as_bytes()]), text);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(written(&bytes), text);
        assert_eq!(written(&["a".as_bytes(), &"漢".as_bytes()[..2]]), "a\u{fffd}");
    }
}
