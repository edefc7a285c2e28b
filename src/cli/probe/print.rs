//! The trace, for people.

use std::io::{self, Write};

use http::StatusCode;
use serde_json::{Map, Value};

use crate::cli::probe::format;
use crate::cli::probe::format::plain;
use crate::cli::probe::jwt::{Jwt, Moment};
use crate::cli::probe::step::{Exchange, Shown, Step, Token, Trace};
use crate::cli::probe::style::Palette;

/// Writes all steps, notes, and the one line that says what came of it.
pub(super) fn trace(trace: &Trace, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    for each in &trace.steps {
        step(each, palette, out)?;
    }
    for note in &trace.notes {
        writeln!(out, "{} {}", palette.warning("note:"), plain(note))?;
    }
    match (&trace.diagnosis, &trace.result) {
        (Some(diagnosis), _) => writeln!(out, "{}", palette.bad(diagnosis)),
        (None, result) => {
            writeln!(out, "{} {}", palette.good("ok:"), plain(result.as_deref().unwrap_or_default()))
        }
    }
}

fn step(step: &Step, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    match step {
        Step::Request(exchange) => request(exchange, palette, out)?,
        Step::Challenge { scheme, parameters } => {
            writeln!(out, "{} {}", palette.strong("It asks for"), palette.strong(plain(scheme)))?;
            rows(parameters, &[], palette, out)?;
        }
        Step::Redirect { to, allowed } => {
            let refused = if *allowed { "" } else { ", where the gateway does not go" };
            writeln!(out, "{} {}{refused}", palette.strong("It redirects to"), plain(to))?;
        }
        Step::TokenRequest { method, url, scope, identity } => {
            writeln!(out, "{} {}", palette.strong(method), palette.strong(plain(url)))?;
            row("as", identity, palette, out)?;
            row("scope", if scope.is_empty() { "none: only to log in" } else { scope }, palette, out)?;
            return Ok(());
        }
        Step::TokenAnswer(answer) => {
            writeln!(out, "  {} {}", palette.good("a token,"), plain(&answer.words))?;
        }
        Step::Token(token) => self::token(token, palette, out)?,
        Step::RateLimit { limit, remaining, window_seconds, source } => {
            let of = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
            let window = window_seconds.map(|seconds| format!(" in {}", format::duration(seconds)));
            let source = source.as_ref().map(|source| format!(", counted for {}", plain(source)));
            let (window, source) = (window.unwrap_or_default(), source.unwrap_or_default());
            writeln!(out, "{} {remaining} left{of}{window}{source}", palette.strong("Rate limit:"))?;
        }
    }
    writeln!(out)
}

fn request(exchange: &Exchange, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    let with = match exchange.with {
        Shown::Nothing => "",
        Shown::Password => "  (with name and password)",
        Shown::Token => "  (with the token)",
    };
    let (method, url) = (plain(&exchange.method), plain(&exchange.url));
    writeln!(out, "{} {}{}", palette.strong(method), palette.strong(url), palette.faint(with))?;
    let Some(status) = exchange.status else { return writeln!(out, "  {}", palette.bad("no answer")) };
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let line = format!("{status} {}", reason.unwrap_or_default());
    let line = line.trim_end();
    match status {
        200..300 => writeln!(out, "  {}", palette.good(line))?,
        300..500 => writeln!(out, "  {}", palette.warning(line))?,
        _ => writeln!(out, "  {}", palette.bad(line))?,
    }
    for header in &exchange.headers {
        writeln!(out, "  {} {}", palette.name(format_args!("{}:", header.name)), plain(&header.value))?;
    }
    exchange.errors.iter().try_for_each(|error| writeln!(out, "  {}", palette.warning(plain(error))))
}

fn token(token: &Token, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    let Token::Jwt { jwt: Jwt { header, claims }, times, .. } = token else {
        let Token::Opaque { characters } = token else { return Ok(()) };
        return writeln!(out, "{} opaque, {characters} characters", palette.strong("The token:"));
    };
    writeln!(
        out,
        "{} {}",
        palette.strong("The token says"),
        palette.faint("(a JWT; its signature is not verified)")
    )?;
    rows(header, &[], palette, out)?;
    writeln!(out, "  {}", palette.faint("--"))?;
    rows(claims, times, palette, out)
}

fn rows(
    object: &Map<String, Value>,
    times: &[Moment],
    palette: Palette,
    out: &mut dyn Write,
) -> io::Result<()> {
    object.iter().try_for_each(|(key, value)| {
        let moment = times.iter().find(|moment| moment.claim == key);
        let text = match (moment.and_then(|moment| moment.words.as_ref()), value) {
            (Some(words), _) => words.clone(),
            (None, Value::Array(_)) if key == "x5c" => "a chain of certificates".to_owned(),
            (None, Value::String(text)) => text.clone(),
            (None, other) => other.to_string(),
        };
        row(key, &text, palette, out)
    })
}

fn row(key: &str, text: &str, palette: Palette, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "  {} {}", palette.name(format_args!("{:<8}", plain(key))), plain(text))
}
