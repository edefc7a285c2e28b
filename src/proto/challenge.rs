//! The `WWW-Authenticate` header: a server's challenges.

use std::fmt;

use crate::proto::scope::ScopeSet;
use crate::proto::syntax::{Scanner, Stop, is_token_byte, quote};

/// A challenge (RFC 9110 section 11.6.1):
///
/// ```text
/// WWW-Authenticate = #challenge
/// challenge        = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
/// auth-param       = token BWS "=" BWS ( token / quoted-string )
/// ```
///
/// Deviations, because registries and the proxies before them write it so: a bare value may contain every visible
/// character but `"`, `,` and `\`; `;` or a space may stand between parameters; a quoted value may be Latin-1, or not be
/// closed; of a parameter that is there twice the first counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme to authenticate with.
    pub scheme: Scheme,
    /// Its parameters, keys in lower case, each once, in order.
    pub params: Vec<(String, String)>,
    /// The `token68` that some schemes have instead of parameters.
    pub token68: Option<String>,
}

/// An authentication scheme, recognised in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// RFC 7617.
    Basic,
    /// RFC 6750 and the Docker token documents.
    Bearer,
    /// Any other, as it was written.
    Other(String),
}

/// The reason why a token was not enough (RFC 6750 section 3.1). Never said to a request that carried none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BearerError {
    /// Expired, revoked or not ours.
    InvalidToken,
    /// Good, but not for this.
    InsufficientScope,
}

/// The challenges of one header line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// All challenges up to the end, or up to the place where nothing can be read any more; the last one then has the
    /// parameters before it.
    pub challenges: Vec<Challenge>,
    /// The way that reading ended.
    pub end: End,
    /// True if a parameter was passed over, because it is there twice.
    pub doubled: bool,
}

impl Parsed {
    /// Returns true if there is more in the line than was understood.
    pub(crate) fn is_partial(&self) -> bool {
        self.end != End::Complete || self.doubled
    }
}

/// The way that reading a header line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All of it was read.
    Complete,
    /// The line ends in the middle of a challenge, or a quoted value is not closed.
    Incomplete,
    /// A challenge is outside the grammar. What follows it is not read: where the next one begins is anyone's guess.
    Invalid {
        /// The byte at which it cannot go on.
        position: usize,
    },
}

/// Returns every challenge of every header line, in order, each as far as it can be read. What is wrong with one line does
/// not touch the others.
pub fn parse_all<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<Challenge> {
    lines.into_iter().flat_map(|line| parse(line).challenges).collect()
}

/// Reads one header line. More than 16 challenges, or more than 32 parameters in one, are outside the grammar.
pub(crate) fn parse(line: &[u8]) -> Parsed {
    let mut scanner = Scanner::new(line);
    let mut reading = Reading { challenges: Vec::new(), unclosed: false, doubled: false };
    let end = match reading.line(&mut scanner) {
        Ok(()) if reading.unclosed => End::Incomplete,
        Ok(()) => End::Complete,
        Err(stop) => End::at(stop, scanner.position()),
    };
    Parsed { challenges: reading.challenges, end, doubled: reading.doubled }
}

impl Challenge {
    /// Builds `Basic realm="…"`.
    pub fn basic(realm: &str) -> Self {
        Self { scheme: Scheme::Basic, params: vec![("realm".into(), realm.into())], token68: None }
    }

    /// `Bearer realm="…",service="…",scope="…",error="…"` in this order, as distribution writes it. No scope when
    /// there is none to ask for, no error when the request had no token (token auth, "How to authenticate").
    pub fn bearer(realm: &str, service: &str, scopes: &ScopeSet, error: Option<BearerError>) -> Self {
        let scope = Some(scopes.to_string()).filter(|scope| !scope.is_empty());
        let error = error.map(|error| error.as_str().to_owned());
        let params = [
            ("realm", Some(realm.to_owned())),
            ("service", Some(service.to_owned())),
            ("scope", scope),
            ("error", error),
        ];
        let params = params.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Self { scheme: Scheme::Bearer, params: params.collect(), token68: None }
    }

    /// Returns the value of a parameter; `key` in lower case.
    pub fn param(&self, key: &str) -> Option<&str> {
        self.params.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

impl BearerError {
    /// Returns the word in the challenge.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
        }
    }
}

impl Scheme {
    fn named(name: &str) -> Self {
        if name.eq_ignore_ascii_case("basic") {
            Self::Basic
        } else if name.eq_ignore_ascii_case("bearer") {
            Self::Bearer
        } else {
            Self::Other(name.into())
        }
    }

    /// Returns the scheme's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
            Self::Other(name) => name,
        }
    }
}

impl End {
    fn at(stop: Stop, position: usize) -> Self {
        match stop {
            Stop::Incomplete => Self::Incomplete,
            Stop::Invalid => Self::Invalid { position },
        }
    }
}

/// Writes the challenge in one line: keys in lower case, values quoted, `,` without a space (oras compares keys
/// case-sensitively, the conformance suite demands quotes).
impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme.as_str())?;
        if let Some(token) = &self.token68 {
            write!(f, " {token}")?;
        }
        for (index, (key, value)) in self.params.iter().enumerate() {
            let divider = if index == 0 { ' ' } else { ',' };
            write!(f, "{divider}{}={}", key.to_ascii_lowercase(), quote(value))?;
        }
        Ok(())
    }
}

/// A line that is being read.
struct Reading {
    challenges: Vec<Challenge>,
    /// A quoted value was not closed.
    unclosed: bool,
    /// A parameter was there twice.
    doubled: bool,
}

impl Reading {
    fn line(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Stop> {
        loop {
            scanner.commas();
            if scanner.is_done() {
                return Ok(());
            }
            if self.challenges.len() == CHALLENGES {
                return Err(Stop::Invalid);
            }
            self.challenge(scanner)?;
        }
    }

    fn challenge(&mut self, scanner: &mut Scanner<'_>) -> Result<(), Stop> {
        let scheme = Scheme::named(scanner.token()?);
        let mut challenge = Challenge { scheme, params: Vec::new(), token68: None };
        let spaced = scanner.whitespace();
        if scanner.is_done() || scanner.eat(b',') {
            self.challenges.push(challenge);
            return Ok(());
        }
        if !spaced {
            return Err(Stop::Invalid);
        }
        if let Some(token) = scanner.token68() {
            challenge.token68 = Some(token.into());
            self.challenges.push(challenge);
            return Ok(());
        }
        let read = self.params(scanner, &mut challenge.params);
        // The parameters before one that can't be read are kept.
        if read.is_ok() || !challenge.params.is_empty() {
            self.challenges.push(challenge);
        }
        read
    }

    /// Parameters up to the end or to the next challenge, which shows by not having a `=` behind its first word.
    fn params(&mut self, scanner: &mut Scanner<'_>, params: &mut Vec<(String, String)>) -> Result<(), Stop> {
        loop {
            scanner.separators();
            if scanner.is_done() {
                return Ok(());
            }
            let start = *scanner;
            let key = scanner.token()?.to_ascii_lowercase();
            scanner.whitespace();
            if !scanner.eat(b'=') {
                return next_challenge(scanner, start, params);
            }
            scanner.whitespace();
            let (value, closed) = scanner.lenient_value(is_bare, &KEYS)?;
            self.unclosed |= !closed;
            param_end(scanner)?;
            if params.iter().any(|(known, _)| *known == key) {
                self.doubled = true;
            } else if params.len() == PARAMETERS {
                return Err(Stop::Invalid);
            } else {
                params.push((key, value));
            }
        }
    }
}

/// Checks that a separator, the end, or the next word follows a parameter.
fn param_end(scanner: &mut Scanner<'_>) -> Result<(), Stop> {
    scanner.whitespace();
    let ends = scanner.is_done() || matches!(scanner.peek(), Some(b',' | b';'));
    let goes_on = scanner.peek().is_some_and(is_token_byte);
    if ends || goes_on { Ok(()) } else { Err(Stop::Invalid) }
}

/// Reads a word without `=`, which begins a challenge if it follows a parameter; right behind a scheme it is nothing.
fn next_challenge<'a>(
    scanner: &mut Scanner<'a>,
    start: Scanner<'a>,
    params: &[(String, String)],
) -> Result<(), Stop> {
    if params.is_empty() {
        return Err(Stop::Invalid);
    }
    *scanner = start;
    Ok(())
}

/// The parameters that a parameter before them may have swallowed.
const KEYS: [&str; 5] = ["realm", "service", "scope", "error", "charset"];

/// In a line; registries send up to three.
const CHALLENGES: usize = 16;

/// In a challenge; registries send up to five. Each is compared with all before it.
const PARAMETERS: usize = 32;

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b'\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(line: &str) -> Challenge {
        let Parsed { mut challenges, end, .. } = parse(line.as_bytes());
        assert_eq!((challenges.len(), end), (1, End::Complete), "{line}");
        challenges.remove(0)
    }

    #[test]
    fn a_challenge_has_no_more_than_32_parameters() {
        let line = |count: usize| {
            let params: Vec<String> = (0..count).map(|number| format!("p{number}=x")).collect();
            format!("Bearer {}", params.join(","))
        };
        assert_eq!(one(&line(32)).params.len(), 32);
        for count in [33, 8000] {
            let Parsed { challenges, end, .. } = parse(line(count).as_bytes());
            assert!(matches!(end, End::Invalid { position: ..300 }), "{end:?}");
            assert_eq!(challenges[0].params.len(), 32);
        }
    }

    #[test]
    fn a_line_has_no_more_than_16_challenges() {
        let line = |count: usize| vec!["Basic realm=x"; count].join(", ");
        let Parsed { challenges, end, .. } = parse(line(16).as_bytes());
        assert_eq!((challenges.len(), end), (16, End::Complete));
        let Parsed { challenges, end, .. } = parse(line(17).as_bytes());
        assert_eq!((challenges.len(), end), (16, End::Invalid { position: 16 * 15 }));
    }

    fn params(challenge: &Challenge) -> Vec<(&str, &str)> {
        challenge.params.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn the_challenges_of_real_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:samalba/my-app:pull,push""#;
        let challenge = one(hub);
        assert_eq!(challenge.scheme, Scheme::Bearer);
        assert_eq!(challenge.param("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(challenge.param("scope"), Some("repository:samalba/my-app:pull,push"));
        assert_eq!(challenge.to_string(), hub);

        let ecr = r#"Basic realm="https://123.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#;
        assert_eq!(one(ecr).param("service"), Some("ecr.amazonaws.com"));
        assert_eq!(one("Basic realm=\"Registry Realm\"").param("realm"), Some("Registry Realm"));
    }

    #[test]
    fn schemes_and_keys_are_read_in_any_case() {
        for line in [
            "bearer REALM=\"x\",Service=\"y\"",
            "BEARER Realm=x, SERVICE=y",
            "BeArEr\trealm = x ,service= \"y\"",
        ] {
            let challenge = one(line);
            assert_eq!(challenge.scheme, Scheme::Bearer);
            assert_eq!(params(&challenge), [("realm", "x"), ("service", "y")]);
        }
    }

    #[test]
    fn bare_values_may_be_urls() {
        let challenge = one("Bearer realm=https://a.example:8443/token?a=b&c=d,service=s");
        assert_eq!(params(&challenge), [("realm", "https://a.example:8443/token?a=b&c=d"), ("service", "s")]);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(one(r#"Basic realm="a \"b\" \\ \c""#).param("realm"), Some(r#"a "b" \ c"#));
        assert_eq!(one(r#"Basic realm="a, Bearer realm=x""#).param("realm"), Some("a, Bearer realm=x"));
        assert_eq!(one(r#"Basic realm="""#).param("realm"), Some(""));
    }

    #[test]
    fn several_challenges_stand_in_one_line() {
        let line =
            br#", Negotiate,Basic realm="a", charset="UTF-8" ,, Negotiate YWJj==, bearer realm=b, Foo"#;
        let Parsed { challenges, end, .. } = parse(line);
        assert_eq!(end, End::Complete);
        let schemes: Vec<_> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["Negotiate", "Basic", "Negotiate", "Bearer", "Foo"]);
        assert_eq!(params(&challenges[1]), [("realm", "a"), ("charset", "UTF-8")]);
        assert_eq!(challenges[2].token68.as_deref(), Some("YWJj=="));
        assert_eq!(params(&challenges[3]), [("realm", "b")]);
    }

    #[test]
    fn every_line_is_read_and_a_bad_one_harms_no_other() {
        let lines: [&[u8]; 3] = [b"Basic realm=\"a", b"Basic realm=\"b\", Bearer \"", b"Bearer realm=\"c\""];
        let found: Vec<_> = parse_all(lines).iter().map(Challenge::to_string).collect();
        assert_eq!(found, ["Basic realm=\"a\"", "Basic realm=\"b\"", "Bearer realm=\"c\""]);
    }

    #[test]
    fn complete_incomplete_and_invalid_are_told_apart() {
        let cases: [(&[u8], End); 16] = [
            (b"", End::Complete),
            (b" , ", End::Complete),
            (b"Basic", End::Complete),
            (b"Basic ", End::Complete),
            (b"Basic realm=\"", End::Incomplete),
            (b"Basic realm=\"a\\", End::Incomplete),
            (b"Basic a=b, realm=", End::Incomplete),
            (b"Basic realm=\"a\" Bearer", End::Complete),
            (b"Basic realm=\"a\" /", End::Invalid { position: 16 }),
            (b"=", End::Invalid { position: 0 }),
            (b"Basic;", End::Invalid { position: 5 }),
            (b"Basic a b", End::Invalid { position: 8 }),
            (b"Basic a=b, realm=,", End::Invalid { position: 17 }),
            (b"Basic realm=a\"", End::Invalid { position: 13 }),
            (b"Basic realm=\"\x01\"", End::Invalid { position: 14 }),
            (b"Basic realm=\"\xff\"", End::Complete),
        ];
        for (line, end) in cases {
            assert_eq!(parse(line).end, end, "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn of_a_doubled_parameter_the_first_counts() {
        let parsed =
            parse(br#"Basic realm=a, Bearer realm="https://good/", REALM="https://evil/",service=s"#);
        assert_eq!((parsed.challenges.len(), parsed.end, parsed.is_partial()), (2, End::Complete, true));
        assert_eq!(params(&parsed.challenges[1]), [("realm", "https://good/"), ("service", "s")]);
    }

    #[test]
    fn a_challenge_is_read_as_far_as_it_can_be() {
        let whole = [("realm", "https://a/t"), ("service", "s"), ("scope", "repository:x:pull")];
        for (line, count, is_partial) in [
            (r#"Bearer realm="https://a/t" service="s" scope="repository:x:pull""#, 3, false),
            (r#"Bearer realm="https://a/t";service="s"; scope="repository:x:pull""#, 3, false),
            (r#"Bearer realm=https://a/t;service=s;scope=repository:x:pull"#, 3, false),
            (r#"Bearer realm=https://a/t; service=s; scope=repository:x:pull;"#, 3, false),
            (r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull"#, 3, true),
            (r#"Bearer realm="https://a/t,service="s",scope="repository:x:pull""#, 3, true),
            (r#"Bearer realm="https://a/t", service="s, scope="repository:x:pull""#, 3, true),
            (r#"Bearer realm="https://a/t",service="s",scope="#, 2, true),
            (r#"Bearer realm="https://a/t",service=,scope="x""#, 1, true),
            (r#"Bearer realm="https://a/t",{"error":1}"#, 1, true),
        ] {
            let parsed = parse(line.as_bytes());
            assert_eq!(params(&parsed.challenges[0]), whole[..count], "{line}");
            assert_eq!(parsed.is_partial(), is_partial, "{line}");
        }
        let latin1 = parse(b"Basic realm=\"R\xe9gistre\"");
        assert_eq!(
            (latin1.challenges[0].param("realm"), latin1.is_partial()),
            (Some("R\u{e9}gistre"), false)
        );
        let matrix = one("Bearer realm=https://a/t;x=1,service=s");
        assert_eq!(matrix.param("realm"), Some("https://a/t;x=1"));
    }

    #[test]
    fn a_closed_value_may_end_like_a_parameter() {
        for line in [
            r#"Bearer error="a,realm=",realm="https://a/t""#,
            r#"Bearer realm="https://a/t",error="a,realm=""#,
            r#"Bearer error="a, realm=" ; realm="https://a/t""#,
        ] {
            assert_eq!(one(line).param("realm"), Some("https://a/t"), "{line}");
            assert!(!parse(line.as_bytes()).is_partial(), "{line}");
        }
    }

    #[test]
    fn no_prefix_of_a_line_invents_a_challenge() {
        let line = br#"Basic realm="a \"b\"", charset="UTF-8", Bearer realm="https://x/t",service=y, Negotiate YWJj=="#;
        let whole = parse(line).challenges;
        for length in 0..line.len() {
            let found = parse(&line[..length]).challenges;
            // The last may be half a word: of a scheme, or of a parameter's key.
            for (found, whole) in found.iter().rev().skip(1).rev().zip(&whole) {
                assert_eq!(found.scheme, whole.scheme, "{length}");
                assert!(whole.params.starts_with(&found.params), "{length}");
            }
        }
    }

    #[test]
    fn our_bearer_challenge_has_distributions_order() {
        let scopes = ScopeSet::parse("repository:a/b:push,pull");
        let challenge =
            Challenge::bearer("https://gw/token", "gw", &scopes, Some(BearerError::InsufficientScope));
        assert_eq!(
            challenge.to_string(),
            r#"Bearer realm="https://gw/token",service="gw",scope="repository:a/b:pull,push",error="insufficient_scope""#
        );
        let challenge = Challenge::bearer("https://gw/token", "gw", &ScopeSet::default(), None);
        assert_eq!(challenge.to_string(), r#"Bearer realm="https://gw/token",service="gw""#);
    }

    #[test]
    fn no_realm_breaks_out_of_its_quotes_or_its_line() {
        assert_eq!(Challenge::basic("a\"b\\c\r\nX: y").to_string(), r#"Basic realm="a\"b\\cX: y""#);
    }

    fn any_challenge() -> impl Strategy<Value = Challenge> {
        let value = "[^\\pC]{0,12}";
        let params = proptest::collection::btree_map("[a-z][a-z0-9_*-]{0,6}", value, 1..4);
        let scheme = prop_oneof![
            Just(Scheme::Basic),
            Just(Scheme::Bearer),
            "X[a-zA-Z0-9-]{0,5}".prop_map(Scheme::Other)
        ];
        let token = "[a-zA-Z0-9._~+/-]{1,9}={0,2}".prop_map(|token| (Vec::new(), Some(token)));
        let rest = prop_oneof![
            params.prop_map(|params| (params.into_iter().collect(), None)),
            token,
            Just((Vec::new(), None))
        ];
        (scheme, rest).prop_map(|(scheme, (params, token68))| Challenge { scheme, params, token68 })
    }

    /// Returns the reading of another parser of the same grammar, if it takes the whole line.
    fn oracle(line: &str) -> Option<Vec<Challenge>> {
        let challenge = |read: http_auth::ChallengeRef<'_>| {
            let param = |(key, value): &(&str, http_auth::ParamValue<'_>)| {
                (key.to_ascii_lowercase(), value.to_unescaped())
            };
            let params = read.params.iter().map(param).collect();
            Challenge { scheme: Scheme::named(read.scheme), params, token68: None }
        };
        http_auth::parser::ChallengeParser::new(line).map(|read| read.map(challenge).ok()).collect()
    }

    /// Returns true for a text that is refused here on purpose.
    fn is_refused(challenge: &Challenge) -> bool {
        let keys: Vec<_> = challenge.params.iter().map(|(key, _)| key).collect();
        keys.len() > PARAMETERS || (1..keys.len()).any(|at| keys[..at].contains(&keys[at]))
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(challenges in proptest::collection::vec(any_challenge(), 0..4)) {
            let line = challenges.iter().map(Challenge::to_string).collect::<Vec<_>>().join(", ");
            prop_assert_eq!(parse(line.as_bytes()), Parsed { challenges, end: End::Complete, doubled: false });
        }

        #[test]
        fn no_line_panics(line in any::<Vec<u8>>()) {
            let _ = parse(&line);
        }

        #[test]
        fn no_line_of_likely_characters_panics_or_loops(line in "[Bb \t,=\"\\\\a/;\u{7f}é]{0,40}") {
            let parsed = parse(line.as_bytes());
            prop_assert!(parsed.challenges.len() <= line.len());
            for challenge in parsed.challenges {
                let keys: std::collections::BTreeSet<_> = challenge.params.iter().map(|(key, _)| key).collect();
                prop_assert_eq!(keys.len(), challenge.params.len());
            }
        }

        #[test]
        fn http_auth_reads_the_same(line in "((Basic|bearer|x!)( [a-d]{1,2}[ \t]?=[ \t]?([a-z:/]{1,3}|\"([a-z, =]|\\\\[a-z\"]){0,4}\"))?,? ?){0,4}") {
            if let Some(expected) = oracle(&line).filter(|read| !read.iter().any(is_refused)) {
                prop_assert_eq!(parse(line.as_bytes()), Parsed { challenges: expected, end: End::Complete, doubled: false });
            }
        }

        #[test]
        fn http_auth_reads_what_is_rendered(line in "(Basic|Bearer|x!)( [a-d]=\"[a-z, =]{0,4}\"(,[e-h]=\"[a-z, =]{0,4}\")?)?") {
            prop_assert_eq!(oracle(&line), Some(parse(line.as_bytes()).challenges));
        }
    }
}
