//! The words that HTTP's header grammars share (RFC 9110 sections 5.6 and 11.2), and a scanner for them.

/// Returns true for a `tchar`.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns true for `token = 1*tchar`.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Returns true for `token68 = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
pub(super) fn is_token68(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    // Without an early end the compiler tests many bytes at once: a token has a thousand.
    let others = body.bytes().fold(false, |others, byte| others | !is_token68_byte(byte));
    !body.is_empty() && !others
}

/// Quotes `text`: `DQUOTE *( qdtext / quoted-pair ) DQUOTE`. Control characters, which no header can carry, are left
/// out.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars().filter(|char| !char.is_ascii_control() || *char == '\t') {
        if matches!(char, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted.push('"');
    quoted
}

fn is_token68_byte(byte: u8) -> bool {
    b"-._~+/".iter().fold(byte.is_ascii_alphanumeric(), |is, other| is | (byte == *other))
}

/// The reason why a scanner cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The text ends where more must follow.
    Incomplete,
    /// The byte at the scanner's position cannot stand there.
    Invalid,
}

/// Reads a header value from left to right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    pub(super) fn is_done(&self) -> bool {
        self.peek().is_none()
    }

    /// Takes `byte` if it is next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.position += usize::from(there);
        there
    }

    /// Skips `OWS = *( SP / HTAB )`, and returns true if there was any.
    pub(super) fn whitespace(&mut self) -> bool {
        !self.take_while(|b| matches!(b, b' ' | b'\t')).is_empty()
    }

    /// Skips the empty elements of a list and the space around them (RFC 9110 section 5.6.1.2).
    pub(super) fn commas(&mut self) {
        self.take_while(|b| matches!(b, b' ' | b'\t' | b','));
    }

    /// Skips commas, semicolons and the space around them.
    pub(super) fn separators(&mut self) {
        self.take_while(|b| matches!(b, b' ' | b'\t' | b',' | b';'));
    }

    /// Checks that a comma or the end follows an element of a list.
    pub(super) fn element_end(&mut self) -> Result<(), Stop> {
        self.whitespace();
        if self.is_done() || self.eat(b',') { Ok(()) } else { Err(Stop::Invalid) }
    }

    pub(super) fn token(&mut self) -> Result<&'a str, Stop> {
        let end = if self.is_done() { Stop::Incomplete } else { Stop::Invalid };
        self.text(is_token_byte).filter(|token| !token.is_empty()).ok_or(end)
    }

    /// Reads a `token68` that is a whole list element; takes nothing when there is none.
    pub(super) fn token68(&mut self) -> Option<&'a str> {
        let mut ahead = *self;
        let start = ahead.position;
        let body = ahead.take_while(is_token68_byte).len();
        ahead.take_while(|b| b == b'=');
        let token = std::str::from_utf8(&ahead.text[start..ahead.position]).ok()?;
        ahead.element_end().ok().filter(|()| body > 0)?;
        *self = ahead;
        Some(token)
    }

    /// Reads a quoted string, or a bare one of the bytes that `bare` admits (at least one).
    pub(super) fn value(&mut self, bare: fn(u8) -> bool) -> Result<String, Stop> {
        match self.peek() {
            None => Err(Stop::Incomplete),
            Some(b'"') => self.quoted(),
            Some(_) => {
                self.text(bare).filter(|text| !text.is_empty()).map(str::to_owned).ok_or(Stop::Invalid)
            }
        }
    }

    /// Reads a value like [`value`](Self::value), and a malformed one as far as it goes: a quoted string in Latin-1, one that is
    /// not closed, and a bare one behind which `;` begins the parameter of another of `keys`. Returns true if it was closed.
    pub(super) fn lenient_value(
        &mut self,
        bare: fn(u8) -> bool,
        keys: &[&str],
    ) -> Result<(String, bool), Stop> {
        match self.peek() {
            None => Err(Stop::Incomplete),
            Some(b'"') => self.lenient_quoted(keys),
            Some(_) => {
                let mut ahead = *self;
                let text = ahead.text(bare).unwrap_or_default();
                let begins =
                    |rest: &str| rest.is_empty() || keys.iter().any(|key| is_key(rest.as_bytes(), key));
                let ends = text.match_indices(';').map(|(at, _)| at).find(|at| begins(&text[at + 1..]));
                let text = &text[..ends.unwrap_or(text.len())];
                self.position += text.len();
                if text.is_empty() { Err(Stop::Invalid) } else { Ok((text.to_owned(), true)) }
            }
        }
    }

    /// Reads a `quoted-string`. One that ends with `,KEY=` of another parameter, and a value right behind it, was not closed: its
    /// end is that one's beginning.
    fn lenient_quoted(&mut self, keys: &[&str]) -> Result<(String, bool), Stop> {
        self.position += 1;
        let (start, mut bytes) = (self.position, Vec::new());
        let closed = loop {
            match self.next() {
                None => break false,
                Some(b'"') => break true,
                Some(b'\\') => match self.next() {
                    None => break false,
                    Some(byte) if is_quotable(byte) => bytes.push(byte),
                    Some(_) => return Err(Stop::Invalid),
                },
                Some(byte) if is_quotable(byte) => bytes.push(byte),
                Some(_) => return Err(Stop::Invalid),
            }
        };
        let comma = bytes.iter().rposition(|&byte| byte == b',');
        let rest = comma.map(|at| bytes[at + 1..].trim_ascii_start()).unwrap_or_default();
        let goes_on = !matches!(self.peek(), None | Some(b' ' | b'\t' | b',' | b';'));
        let swallowed = goes_on && keys.iter().any(|key| rest.len() == key.len() + 1 && is_key(rest, key));
        let raw = &self.text[start..self.position - usize::from(closed)];
        if swallowed && let Some(raw_comma) = raw.iter().rposition(|&byte| byte == b',') {
            bytes.truncate(comma.unwrap_or_default());
            self.position = start + raw_comma;
            return Ok((latin1(bytes), false));
        }
        Ok((latin1(bytes), closed))
    }

    /// Reads a `quoted-string`, unescaped. Stricter: UTF-8 only.
    fn quoted(&mut self) -> Result<String, Stop> {
        let mut bytes = Vec::new();
        self.position += 1;
        loop {
            match self.next().ok_or(Stop::Incomplete)? {
                b'"' => return String::from_utf8(bytes).map_err(|_| Stop::Invalid),
                b'\\' => bytes.push(self.next().filter(|&b| is_quotable(b)).ok_or_else(|| self.stop())?),
                byte if is_quotable(byte) => bytes.push(byte),
                _ => return Err(Stop::Invalid),
            }
        }
    }

    fn stop(&self) -> Stop {
        if self.is_done() { Stop::Incomplete } else { Stop::Invalid }
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.position += 1;
        Some(byte)
    }

    fn text(&mut self, member: impl Fn(u8) -> bool) -> Option<&'a str> {
        std::str::from_utf8(self.take_while(member)).ok()
    }

    pub(super) fn take_while(&mut self, member: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.text.get(self.position..).unwrap_or_default();
        let length = rest.iter().take_while(|&&b| member(b)).count();
        self.position += length;
        &rest[..length]
    }
}

/// Returns true if a text begins with `KEY=`, in any case.
fn is_key(text: &[u8], key: &str) -> bool {
    let begins = text.get(..key.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(key.as_bytes()));
    begins && text.get(key.len()) == Some(&b'=')
}

/// Returns bytes as text: UTF-8, else Latin-1, which HTTP once had (RFC 9110 section 5.5).
fn latin1(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| error.as_bytes().iter().copied().map(char::from).collect())
}

/// Returns true for `HTAB / SP / VCHAR / obs-text`.
fn is_quotable(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}
