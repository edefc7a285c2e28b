//! Files of certificates and keys in PEM form (RFC 7468): every block, with its line.
//!
//! The parser of rustls skips what it does not understand, so that a file may hold less than its author thinks. Here what is
//! not understood is an error that names the line.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The words behind `BEGIN`: `CERTIFICATE`.
    pub(crate) label: String,
    /// The line of its `BEGIN`, from 1.
    pub(crate) line: usize,
    pub(crate) der: Vec<u8>,
    /// True if it is encrypted in the way of old keys (RFC 1421 section 4.6.1.1).
    pub(crate) encrypted: bool,
}

/// Returns the blocks of a file in their order. Text around them is skipped, and so is a byte order mark.
///
/// # Errors
/// What is wrong with the file, as the end of a sentence that begins with its name.
pub(crate) fn blocks(file: &[u8]) -> Result<Vec<Block>, String> {
    let text = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut blocks = Vec::new();
    let mut open: Option<Open> = None;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let (line, number) = (String::from_utf8_lossy(line.trim_ascii()), index + 1);
        let Some(boundary) = Boundary::of(&line, number)? else {
            if let Some(open) = &mut open {
                open.add(&line);
            }
            continue;
        };
        match (boundary, open.take()) {
            (Boundary::Begin(label), None) => open = Some(Open::new(label, number)),
            (Boundary::End(label), Some(open)) if open.label == label => blocks.push(open.close()?),
            (_, Some(open)) => return Err(open.unfinished(number)),
            (Boundary::End(label), None) => {
                return Err(format!("has an END {label} at line {number} without a BEGIN before it"));
            }
        }
    }
    match open {
        Some(open) => Err(format!(
            "ends within the {} that begins at line {}: the file is cut off",
            open.label, open.line
        )),
        None if blocks.is_empty() => {
            Err(format!("is not in PEM form (-----BEGIN CERTIFICATE-----){}", foreign(file)))
        }
        None => Ok(blocks),
    }
}

/// A block whose end has not been seen.
struct Open {
    label: String,
    line: usize,
    base64: String,
    encrypted: bool,
}

impl Open {
    fn new(label: &str, line: usize) -> Self {
        Self { label: label.to_owned(), line, base64: String::new(), encrypted: false }
    }

    fn add(&mut self, line: &str) {
        match line.split_once(':') {
            Some((name, value)) => self.encrypted |= name == "Proc-Type" && value.contains("ENCRYPTED"),
            None => self.base64.extend(line.split_ascii_whitespace()),
        }
    }

    fn close(self) -> Result<Block, String> {
        let Self { label, line, base64, encrypted } = self;
        let decoded = BASE64.decode(&base64).ok().filter(|der| !der.is_empty());
        let der = decoded
            .ok_or_else(|| format!("is damaged: the {label} that begins at line {line} is not base64"))?;
        Ok(Block { label, line, der, encrypted })
    }

    fn unfinished(&self, number: usize) -> String {
        let Self { label, line, .. } = self;
        format!("is damaged: the {label} that begins at line {line} has no end before line {number}")
    }
}

/// A line that begins or ends a block.
enum Boundary<'a> {
    Begin(&'a str),
    End(&'a str),
}

impl<'a> Boundary<'a> {
    fn of(line: &'a str, number: usize) -> Result<Option<Self>, String> {
        if !line.contains("-----BEGIN ") && !line.contains("-----END ") {
            return Ok(None);
        }
        let label = |start: &str| line.strip_prefix(start).and_then(|rest| rest.strip_suffix(DASHES));
        let label = |start: &str| label(start).filter(|label| !label.contains(DASHES));
        if let Some(label) = label("-----BEGIN ") {
            return Ok(Some(Self::Begin(label)));
        }
        if let Some(label) = label("-----END ") {
            return Ok(Some(Self::End(label)));
        }
        let several = line.matches("-----BEGIN ").count() + line.matches("-----END ").count() > 1;
        let why = if several {
            "ends one block and begins another (a file without a newline at its end was put before one)"
        } else {
            "has something beside the BEGIN or END of a block"
        };
        Err(format!("is damaged: line {number} {why}; write a newline between them"))
    }
}

const DASHES: &str = "-----";

/// Base64 as RFC 7468 wants parsers to read it: padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns what a file without a block seems to be, and what to do.
fn foreign(file: &[u8]) -> &'static str {
    match file {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => ": it is UTF-16 text; save it as UTF-8",
        [0xfe, 0xed, 0xfe, 0xed, ..] => ": it is a Java keystore; export it with keytool and openssl",
        [0x30, 0x80..=0x84, ..] if file.windows(PKCS7_DATA.len()).any(|part| part == PKCS7_DATA) => {
            ": it is PKCS#12 (.p12, .pfx); convert it with `openssl pkcs12 -in FILE -nodes -out FILE.pem`"
        }
        [0x30, 0x80..=0x84, ..] => {
            ": it is DER; convert it with `openssl x509 -inform der` or `openssl pkey -inform der`"
        }
        [] => ": it is empty",
        _ => "",
    }
}

/// 1.2.840.113549.1.7.1, by which every PKCS#12 file is wrapped.
const PKCS7_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "-----BEGIN CERTIFICATE-----\nAAEC\nAwQ=\n-----END CERTIFICATE-----\n";

    fn labels(text: &str) -> Vec<(String, usize)> {
        blocks(text.as_bytes()).unwrap().into_iter().map(|block| (block.label, block.line)).collect()
    }

    #[test]
    fn every_block_is_read_with_its_line() {
        let text = format!(
            "\u{feff}Bag Attributes\n  friendlyName: x\n{A}\n# key\n{}",
            A.replace("CERTIFICATE", "EC PRIVATE KEY")
        );
        assert_eq!(labels(&text), [("CERTIFICATE".to_owned(), 3), ("EC PRIVATE KEY".to_owned(), 9)]);
        assert_eq!(blocks(A.replace('\n', "\r\n").as_bytes()).unwrap()[0].der, [0, 1, 2, 3, 4]);
        assert_eq!(
            blocks(A.replace("AwQ=", "  AwQ ").trim_end().as_bytes()).unwrap()[0].der,
            [0, 1, 2, 3, 4]
        );
    }

    #[test]
    fn a_key_that_is_encrypted_is_known() {
        let text = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAEC\n-----END RSA PRIVATE KEY-----";
        let block = &blocks(text.as_bytes()).unwrap()[0];
        assert!(block.encrypted && block.der == [0, 1, 2]);
    }

    #[test]
    fn damaged_files_are_refused_with_the_line() {
        let glued = format!("{}{A}", A.trim_end());
        for (text, why) in [
            (glued, "is damaged: line 4 ends one block and begins another"),
            (
                format!("{A}{}", A.replace("AAEC", "AA!C")),
                "is damaged: the CERTIFICATE that begins at line 5 is not base64",
            ),
            (
                format!("{A}{}", A.replace("-----END CERTIFICATE-----\n", "")),
                "ends within the CERTIFICATE that begins at line 5",
            ),
            (
                A.replace("-----END CERTIFICATE-----\n", "") + A,
                "that begins at line 1 has no end before line 4",
            ),
            (
                A.replace("END CERTIFICATE", "END PRIVATE KEY"),
                "that begins at line 1 has no end before line 4",
            ),
            (
                A.replace("-----BEGIN CERTIFICATE-----\n", ""),
                "has an END CERTIFICATE at line 3 without a BEGIN",
            ),
            (
                A.replace("CERTIFICATE-----\nAAEC", "CERTIFICATE-----AAEC"),
                "line 1 has something beside the BEGIN or END",
            ),
            (A.replace("AAEC\nAwQ=\n", ""), "that begins at line 1 is not base64"),
        ] {
            let error = blocks(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}\n{text}");
        }
    }

    #[test]
    fn files_of_another_form_are_named() {
        let twelve = [&[0x30, 0x82, 1, 1][..], PKCS7_DATA].concat();
        for (file, what) in [
            (&b""[..], "it is empty"),
            (b"\xff\xfe-\0-\0", "UTF-16"),
            (&[0x30, 0x82, 3, 9, 0x30], "it is DER"),
            (&twelve, "PKCS#12"),
            (&[0xfe, 0xed, 0xfe, 0xed, 0], "Java keystore"),
            (b"hunter2", "-----BEGIN CERTIFICATE-----)"),
        ] {
            let error = blocks(file).unwrap_err();
            assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(file: Vec<u8>, text in "(-----(BEGIN|END) (A|B)-----|\n|A|:| ){0,12}") {
            let _ = blocks(&file);
            let _ = blocks(text.as_bytes());
        }
    }
}
