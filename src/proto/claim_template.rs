//! Names made of a token's claims: `repo:{repository}`.

use std::fmt;

use serde_json::{Map, Value};

/// A text with claims in braces. `{a/b}` is the member `b` of the claim `a`.
///
/// It begins with a literal word and a colon, so that no provider's names are another's: names of the htpasswd file have no
/// colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimTemplate {
    written: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Claim(Vec<String>),
}

/// A text that is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    /// A beginning that is not a provider's word and a colon.
    #[error("does not begin with a word and \":\"")]
    NoProvider,
    /// A brace without its other half, or with nothing in it.
    #[error("has a brace that is not part of {{CLAIM}}")]
    Braces,
    /// A character that no name has.
    #[error("has a character that no name may have: one of *?[] or a control character")]
    Character,
}

/// A claim that a name needs, and that the token does not have as a text that a name can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the claim {0} is missing, or is no text that can stand in a name")]
pub(crate) struct ClaimError(pub(crate) String);

impl ClaimTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub(crate) fn parse(written: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = written;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, brace) = rest.split_at(at);
            let (claim, behind) = brace
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'))
                .ok_or(TemplateError::Braces)?;
            if claim.contains('{') || claim.split('/').any(str::is_empty) {
                return Err(TemplateError::Braces);
            }
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(Part::Claim(claim.split('/').map(str::to_owned).collect()));
            rest = behind;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| !matches!(part, Part::Literal(text) if text.is_empty()));
        let literals = || {
            parts.iter().filter_map(|part| match part {
                Part::Literal(text) => Some(text.as_str()),
                Part::Claim(_) => None,
            })
        };
        if literals().any(|text| !is_nameable(text)) {
            return Err(TemplateError::Character);
        }
        match parts.first() {
            Some(Part::Literal(first)) if begins_with_provider(first) => {
                Ok(Self { written: written.to_owned(), parts })
            }
            _ => Err(TemplateError::NoProvider),
        }
    }

    /// Returns the name that the claims make.
    ///
    /// # Errors
    /// [`ClaimError`] names the claim that is missing, empty, no text, or has a character that a rule would read as a pattern.
    pub(crate) fn render(&self, claims: &Map<String, Value>) -> Result<String, ClaimError> {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => name.push_str(text),
                Part::Claim(path) => {
                    let value = text_of(claims, path).filter(|value| !value.is_empty() && is_nameable(value));
                    name.push_str(value.ok_or_else(|| ClaimError(path.join("/")))?);
                }
            }
        }
        if name.len() > LONGEST_NAME { Err(ClaimError(self.written.clone())) } else { Ok(name) }
    }

    /// Returns the literal word before the first colon.
    pub(crate) fn provider(&self) -> &str {
        self.written.split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for ClaimTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Returns the text of a claim, or of a member of one.
pub(crate) fn text_of<'a>(claims: &'a Map<String, Value>, path: &[String]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    let mut value = claims.get(first)?;
    for name in rest {
        value = value.as_object()?.get(name)?;
    }
    value.as_str()
}

fn begins_with_provider(text: &str) -> bool {
    let word = text.split_once(':').map(|(word, _)| word);
    word.is_some_and(|word| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    })
}

/// Returns true if no rule reads any of it as a pattern, and it stays on one line.
fn is_nameable(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '*' | '?' | '[' | ']' | '{' | '}'))
}

/// The longest name, in bytes: GitHub's longest `sub` has about 300.
const LONGEST_NAME: usize = 512;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str, claims: &Value) -> Result<String, String> {
        let template = ClaimTemplate::parse(template).unwrap();
        template.render(claims.as_object().unwrap()).map_err(|ClaimError(claim)| claim)
    }

    #[test]
    fn claims_stand_where_the_template_has_them() {
        let claims = json!({
            "repository": "acme/app", "ref": "refs/heads/main", "kubernetes.io": {"namespace": "ci", "pod": {"name": "p"}}
        });
        for (template, name) in [
            ("repo:{repository}", "repo:acme/app"),
            ("repo:{repository}:{ref}!", "repo:acme/app:refs/heads/main!"),
            ("k8s:{kubernetes.io/namespace}/{kubernetes.io/pod/name}", "k8s:ci/p"),
            ("robot-farm:all", "robot-farm:all"),
        ] {
            assert_eq!(rendered(template, &claims).as_deref(), Ok(name));
        }
    }

    #[test]
    fn a_claim_that_is_no_plain_text_makes_no_name() {
        for value in [
            json!(null),
            json!(7),
            json!(["a"]),
            json!({"a": 1}),
            json!(""),
            json!("a*"),
            json!("a\nb"),
            json!("{user}"),
        ] {
            let claims = json!({"c": value, "d": "x"});
            assert_eq!(rendered("p:{d}{c}", &claims), Err("c".to_owned()), "{claims}");
        }
        assert_eq!(rendered("p:{a/b}", &json!({"a": "text"})), Err("a/b".to_owned()));
        let long = json!({"c": "x".repeat(600)});
        assert_eq!(rendered("p:{c}", &long), Err("p:{c}".to_owned()));
    }

    #[test]
    fn a_template_names_its_provider_first() {
        for (written, error) in [
            ("{repository}", TemplateError::NoProvider),
            ("{a}:b", TemplateError::NoProvider),
            ("repo{a}:", TemplateError::NoProvider),
            (":x", TemplateError::NoProvider),
            ("", TemplateError::NoProvider),
            ("a/b:{c}", TemplateError::NoProvider),
            ("p:{}", TemplateError::Braces),
            ("p:{a", TemplateError::Braces),
            ("p:a}", TemplateError::Braces),
            ("p:{{a}}", TemplateError::Braces),
            ("p:{a//b}", TemplateError::Braces),
            ("p:*{a}", TemplateError::Character),
        ] {
            assert_eq!(ClaimTemplate::parse(written), Err(error), "{written}");
        }
        assert_eq!(ClaimTemplate::parse("repo:{a}").unwrap().provider(), "repo");
    }
}
