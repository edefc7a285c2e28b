//! `[server.cors]`: the web pages that may use the registry from a browser (Fetch, "HTTP CORS protocol").

use crate::config::host::Url;
use crate::config::reader::{Item, Reader};
use crate::config::schema::{Key, Kind, key};
use crate::config::value_error::ValueError;

/// The web pages that may use the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// All, without the browser's own credentials.
    Any,
    /// Those of these origins, written as browsers write them.
    Origins(Vec<String>),
}

impl Cors {
    /// Returns true if pages of `origin` may use the registry.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Origins(origins) => origins.iter().any(|known| known == origin),
        }
    }
}

pub(super) const KEYS: &[Key] = &[key("origins", Kind::OneOrMore)];

pub(super) fn read(cors: &Reader<'_>) -> Option<Cors> {
    let items = cors.texts("origins");
    if items.is_empty() && !cors.is_broken("origins") {
        let advice = cors.advice("origins = [\"https://ui.example\"]");
        cors.wrong("origins", format!("no page is allowed without it; {advice}"));
        return None;
    }
    if items.iter().any(|item| item.value() == "*") {
        for other in items.iter().filter(|item| item.value() != "*") {
            other.wrong(ValueError::value("beside \"*\" says nothing more; remove one of them"));
        }
        return Some(Cors::Any);
    }
    let origins: Vec<String> = items.iter().filter_map(|item: &Item<'_>| item.parsed(origin)).collect();
    (!origins.is_empty()).then_some(Cors::Origins(origins))
}

/// Parses an origin: a URL without a path, whose port is left out where it is the scheme's own.
fn origin(written: &str) -> Result<String, ValueError> {
    let wrong = "is not an origin; write the scheme and host of the page, for example \"https://ui.example\"";
    let url = Url::parse(written).map_err(|error| match error {
        ValueError::Value(_) => ValueError::value(wrong),
        hidden @ ValueError::Hidden(_) => hidden,
    })?;
    if !url.path.is_empty() {
        return Err(ValueError::value(wrong));
    }
    Ok(format!("{}://{}", if url.https { "https" } else { "http" }, url.authority()))
}
