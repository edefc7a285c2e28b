//! The one parser and the one renderer of queries.

use crate::proto::percent;
use crate::proto::target_error::TargetError;

/// Returns the decoded value of a parameter that may occur once in the query `raw`.
///
/// # Errors
/// [`TargetError::QueryInvalid`] when it can't be decoded, or occurs twice.
pub(crate) fn parameter(raw: &str, name: &'static str) -> Result<Option<String>, TargetError> {
    Ok(Query::parse(raw)?.one(name)?.map(str::to_owned))
}

/// The decoded parameters of a query, in order. A value that cannot be decoded is kept as `None`, so that it harms
/// only the caller that asks for it.
pub(super) struct Query {
    pairs: Vec<(String, Option<String>)>,
}

impl Query {
    /// WHATWG URL, application/x-www-form-urlencoded parsing: pairs divided by `&`, `+` for a space, percent-encoded
    /// UTF-8. Stricter: a `%` without two hexadecimal digits, or bytes that are not UTF-8, do not decode.
    pub(super) fn parse(raw: &str) -> Result<Self, TargetError> {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty()).map(parse_pair);
        Ok(Self { pairs: pairs.collect::<Option<_>>().ok_or(TargetError::QueryInvalid { parameter: "" })? })
    }

    /// Returns the value of a parameter that may occur once.
    pub(super) fn one(&self, parameter: &'static str) -> Result<Option<&str>, TargetError> {
        let mut values = self.values(parameter);
        let first = values.next();
        if values.next().is_some() || first == Some(None) {
            return Err(TargetError::QueryInvalid { parameter });
        }
        Ok(first.flatten())
    }

    /// Returns all values of a parameter that may be repeated.
    pub(super) fn all(&self, parameter: &'static str) -> Result<Vec<&str>, TargetError> {
        let values: Option<Vec<_>> = self.values(parameter).collect();
        values.ok_or(TargetError::QueryInvalid { parameter })
    }

    /// Returns true if the parameter occurs, whatever its value.
    pub(super) fn has(&self, parameter: &str) -> bool {
        self.values(parameter).next().is_some()
    }

    /// Returns all pairs but those of the `known` parameters, in order.
    pub(super) fn others(&self, known: &[&str]) -> Result<Vec<(String, String)>, TargetError> {
        let pairs = self.pairs.iter().filter(|(key, _)| !known.contains(&key.as_str()));
        let decoded = pairs.map(|(key, value)| Some((key.clone(), value.clone()?)));
        decoded.collect::<Option<_>>().ok_or(TargetError::QueryInvalid { parameter: "" })
    }

    fn values(&self, parameter: &str) -> impl Iterator<Item = Option<&str>> {
        self.pairs.iter().filter(move |(key, _)| key == parameter).map(|(_, value)| value.as_deref())
    }
}

/// Renders `k=v&k=v`, everything outside RFC 3986's `unreserved` percent-encoded.
pub(crate) fn render<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut query = String::new();
    for (key, value) in pairs {
        if !query.is_empty() {
            query.push('&');
        }
        query.extend(percent::encode(key));
        query.push('=');
        query.extend(percent::encode(&value));
    }
    query
}

fn parse_pair(pair: &str) -> Option<(String, Option<String>)> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Some((decode(key)?, decode(value)))
}

fn decode(raw: &str) -> Option<String> {
    percent::decode(&raw.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plus_is_a_space_and_percent_sequences_are_bytes() {
        let query = Query::parse("a=x+y%2B%C3%A9&&b&c=&=d").unwrap();
        assert_eq!(query.one("a").unwrap(), Some("x y+é"));
        assert_eq!(query.one("b").unwrap(), Some(""));
        assert_eq!(query.one("c").unwrap(), Some(""));
        assert_eq!(query.one("").unwrap(), Some("d"));
        assert_eq!(query.one("x").unwrap(), None);
    }

    #[test]
    fn an_undecodable_value_fails_only_when_it_is_read() {
        for raw in ["a=%&b=1", "a=%2&b=1", "a=%zz&b=1", "a=%ff&b=1", "a=%2&b=1"] {
            let query = Query::parse(raw).unwrap();
            assert_eq!(query.one("a"), Err(TargetError::QueryInvalid { parameter: "a" }));
            assert_eq!(query.one("b"), Ok(Some("1")));
        }
        assert!(Query::parse("%=1").is_err());
    }

    #[test]
    fn a_doubled_parameter_is_no_single_one() {
        let query = Query::parse("a=1&%61=1").unwrap();
        assert_eq!(query.one("a"), Err(TargetError::QueryInvalid { parameter: "a" }));
        assert_eq!(query.all("a").unwrap(), ["1", "1"]);
    }

    proptest! {
        #[test]
        fn what_is_rendered_parses_back(pairs in proptest::collection::vec((any::<String>(), any::<String>()), 0..6)) {
            let rendered = render(pairs.iter().map(|(key, value)| (key.as_str(), value.clone())));
            prop_assert_eq!(Query::parse(&rendered).unwrap().others(&[]).unwrap(), pairs);
        }

        #[test]
        fn no_query_panics(raw in any::<String>()) {
            let _ = Query::parse(&raw);
        }
    }
}
