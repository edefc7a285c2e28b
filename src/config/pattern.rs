//! The patterns of rules, matched by our own small matcher: a glob crate lets `*` cross `/` and reads braces as
//! alternation. Matching never takes longer than the product of both lengths.

use std::fmt;
use std::ops::Range;

use crate::config::value_error::ValueError;
use crate::proto::{Components, RepositoryName};

/// The users that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserPattern {
    /// `anonymous`: clients without a login.
    Anonymous,
    /// `*`: anyone who has logged in.
    Anyone,
    /// A name, or a pattern over names, of those who have logged in. `*` and `?` stand for no `:` and no `/`: a pattern
    /// over the names of htpasswd must not match what another provider calls its users.
    Glob(Glob),
}

impl UserPattern {
    /// Returns true if the pattern is for this user; `None` is an anonymous client.
    pub fn matches(&self, user: Option<&str>) -> bool {
        match (self, user) {
            (Self::Anonymous, None) | (Self::Anyone, Some(_)) => true,
            (Self::Glob(glob), Some(user)) => glob.fits(user.as_bytes(), |byte| !matches!(byte, b':' | b'/')),
            _ => false,
        }
    }

    /// Returns the name or the pattern over names, if it is one.
    pub(crate) fn as_glob(&self) -> Option<&Glob> {
        match self {
            Self::Glob(glob) => Some(glob),
            Self::Anonymous | Self::Anyone => None,
        }
    }

    pub(super) fn parse(written: &str) -> Result<Self, ValueError> {
        if written.contains(['[', ']', '{', '}']) {
            return Err(ValueError::value("has brackets or braces; only * and ? stand for other characters"));
        }
        let provider = written.split_once(':').map(|(provider, _)| provider);
        let is_open = |provider: &str| provider.contains(['*', '?']) && !provider.starts_with(FORWARDED);
        if provider.is_some_and(|provider| provider.is_empty() || is_open(provider)) {
            let why = "does not say whose names it is over: write the provider before the \":\", as in \"repo:acme/*\"";
            return Err(ValueError::value(why));
        }
        if written.is_empty() || written.trim() != written || written.contains(char::is_control) {
            return Err(ValueError::value(
                "is no user name; write a name, a pattern, \"*\" or \"anonymous\"",
            ));
        }
        Ok(match written {
            "anonymous" => Self::Anonymous,
            "*" => Self::Anyone,
            pattern => Self::Glob(Glob::new(pattern)),
        })
    }
}

impl fmt::Display for UserPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Anyone => f.write_str("*"),
            Self::Glob(glob) => glob.fmt(f),
        }
    }
}

/// The prefix of the names of users whose password an upstream accepted: `forward/docker.io:alice`.
pub(super) const FORWARDED: &str = "forward/";

/// A pattern over a whole text: `*` is any run of characters, `?` is one, everything else is itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    written: Box<str>,
    /// How many bytes there are before the first of `*` and `?`: all if it has none.
    head: usize,
    /// How many there are behind the last of them.
    tail: usize,
}

impl Glob {
    /// Parses a pattern. Every text is one.
    pub fn new(pattern: &str) -> Self {
        let head = pattern.find(['*', '?']).unwrap_or(pattern.len());
        let tail = pattern.rfind(['*', '?']).map_or(0, |last| pattern.len() - last - 1);
        Self { written: pattern.into(), head, tail }
    }

    /// Returns true if the pattern fits all of `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.fits(text.as_bytes(), |_| true)
    }

    /// Returns the pattern as written.
    pub(crate) fn as_str(&self) -> &str {
        &self.written
    }

    /// Returns true if it has neither `*` nor `?`.
    pub(crate) fn is_plain(&self) -> bool {
        self.head == self.written.len()
    }

    /// Returns true if the pattern fits all of `text`, where `*` and `?` stand only for bytes that `may_stand`. The plain
    /// characters at both ends are compared first: most texts differ there.
    fn fits(&self, text: &[u8], may_stand: impl Fn(&u8) -> bool) -> bool {
        let pattern = self.written.as_bytes();
        let Some((start, rest)) = text.split_at_checked(self.head) else { return false };
        if *start != pattern[..self.head] {
            return false;
        }
        if self.head == pattern.len() {
            return rest.is_empty();
        }
        let tail = pattern.len() - self.tail;
        let Some((rest, end)) = rest.len().checked_sub(self.tail).map(|middle| rest.split_at(middle)) else {
            return false;
        };
        *end == pattern[tail..] && fit(&pattern[self.head..tail], rest, may_stand)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Returns true if a pattern fits all of a text. Bytes stand for characters, since a pattern's are whole ones: only `*` and `?`
/// must not end within one. On a mismatch only the latest `*` takes more, which is enough, since what came before it has
/// been found at its earliest.
fn fit(pattern: &[u8], text: &[u8], may_stand: impl Fn(&u8) -> bool) -> bool {
    let (mut at, mut place, mut latest) = (0, 0, None);
    loop {
        let (behind, from) = match (pattern.get(at), text.get(place)) {
            (None, None) => return true,
            (Some(b'*'), _) => (at + 1, place),
            (Some(b'?'), Some(byte)) if may_stand(byte) => {
                (at, place) = (at + 1, next_character(text, place));
                continue;
            }
            (Some(one), Some(byte)) if one == byte && *one != b'?' => {
                (at, place) = (at + 1, place + 1);
                continue;
            }
            _ => match latest {
                Some((behind, from)) if text.get(from).is_some_and(&may_stand) => {
                    (behind, next_character(text, from))
                }
                _ => return false,
            },
        };
        let Some(from) = begin(&pattern[behind..], text, from, &may_stand) else { return false };
        (at, place, latest) = (behind, from, Some((behind, from)));
    }
}

/// Returns the first place, at `from` or behind it, where what is left of a pattern behind a `*` may begin.
fn begin(pattern: &[u8], text: &[u8], from: usize, may_stand: impl Fn(&u8) -> bool) -> Option<usize> {
    match pattern.first() {
        None => text[from..].iter().all(may_stand).then_some(text.len()),
        Some(b'*' | b'?') => Some(from),
        Some(first) => {
            let taken = text[from..].iter().position(|byte| byte == first || !may_stand(byte))?;
            (text[from + taken] == *first).then_some(from + taken)
        }
    }
}

/// Returns the place behind the character that begins at `place`.
fn next_character(text: &[u8], place: usize) -> usize {
    let continues = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    place + 1 + text[place + 1..].iter().take_while(continues).count()
}

/// A pattern over a repository's canonical name, component by component: `*` and `?` stay within a component, a
/// component `**` is any number of components. At the end it is at least one: `team/**` is everything below `team`,
/// not `team` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPattern {
    written: Box<str>,
    components: Box<[Component]>,
    /// How many components stand before the first run, and how many behind the last. `None` without a run.
    around: Option<(usize, usize)>,
    needs_user: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Component {
    /// Any number of components, none among them.
    Run,
    One(Glob),
    /// `{user}`: the name of the user who asks, as it is.
    User,
}

impl RepositoryPattern {
    /// Reads a pattern for repositories, whichever user asks; the error says what to write instead.
    pub fn parse(written: &str) -> Result<Self, PatternError> {
        if written.contains("{user}") {
            return Err(PatternError("has \"{user}\", which only rules know; name the repositories"));
        }
        Self::parse_for_users(written)
    }

    /// Reads a pattern in which a component `{user}` is the name of the user who asks.
    pub fn parse_for_users(written: &str) -> Result<Self, PatternError> {
        let mut components = written.split('/').map(component).collect::<Result<Vec<_>, _>>()?;
        if components.last() == Some(&Component::Run) {
            components.insert(components.len() - 1, Component::One(Glob::new("*")));
        }
        let run = |component: &Component| *component == Component::Run;
        let last = components.iter().rev().position(run);
        let around = components.iter().position(run).zip(last);
        let needs_user = components.contains(&Component::User);
        Ok(Self { written: written.into(), components: components.into(), around, needs_user })
    }

    /// Returns true if the repository is one of those that the pattern names, whichever user asks.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        self.matches_for(name, None)
    }

    /// Returns true if the repository is one of those that the pattern names for `user`. `None` is an anonymous client, for
    /// whom `{user}` is no component. Nor is it for a user whose name no component can have: one with `/`, `:` or upper case.
    pub fn matches_for(&self, name: &RepositoryName, user: Option<&str>) -> bool {
        self.matches_components(&name.indexed(), user)
    }

    /// Returns true as [`matches_for`](Self::matches_for) does. Components before the first run and behind the last one have their
    /// places in the name: only between two runs are several places tried.
    pub(crate) fn matches_components(&self, name: &Components<'_>, user: Option<&str>) -> bool {
        if self.needs_user && user.is_none() {
            return false;
        }
        let takes = |(part, number): (&Component, usize)| part.takes(name.at(number), user);
        let (parts, length) = (&self.components, name.len());
        let Some((head, tail)) = self.around else {
            return parts.len() == length && parts.iter().zip(0..).all(takes);
        };
        if head + tail > length {
            return false;
        }
        let (first, rest) = parts.split_at(head);
        let (runs, last) = rest.split_at(rest.len() - tail);
        first.iter().zip(0..).all(takes)
            && last.iter().zip(length - tail..).all(takes)
            && fits(runs, name, head..length - tail, user)
    }

    /// Returns true if it matches every repository below `prefix`, a path, or every repository if that is empty.
    pub fn matches_all_below(&self, prefix: &str) -> bool {
        // A pattern that ends in `*` and a run, and fits a name of one component below the prefix, fits all longer ones.
        let text = format!("{prefix}/x");
        let Ok(below) = RepositoryName::parse(text.trim_start_matches('/')) else { return false };
        let below = below.indexed();
        self.components.last() == Some(&Component::Run)
            && self.components.get(self.components.len() - 2) == Some(&Component::One(Glob::new("*")))
            && fits(&self.components, &below, 0..below.len(), None)
    }

    /// Returns true if all that it can match plainly is below `prefix`.
    pub fn is_below(&self, prefix: &str) -> bool {
        self.as_str().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Returns true if it can match a repository below `prefix`, a path, or any repository if that is empty.
    pub fn may_match_below(&self, prefix: &str) -> bool {
        let mut components = self.components.iter();
        for part in prefix.split('/').filter(|part| !part.is_empty()) {
            match components.next() {
                Some(Component::Run) => return true,
                Some(Component::User) => {}
                Some(one) if one.takes(part.as_bytes(), None) => {}
                _ => return false,
            }
        }
        components.next().is_some()
    }

    /// Returns how many components the names have that it matches; none without a single number.
    pub fn component_count(&self) -> Option<usize> {
        self.around.is_none().then_some(self.components.len())
    }

    /// Returns true if it is `**`, which every repository matches.
    pub fn is_every(&self) -> bool {
        self.as_str() == "**"
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.written
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// The reason why a text is no repository pattern, and what to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(&'static str);

impl PatternError {
    pub(super) fn wrong(self) -> ValueError {
        ValueError::value(self.0)
    }
}

impl Component {
    /// Returns true if it stands for this component of a name, where `user` asks.
    fn takes(&self, component: &[u8], user: Option<&str>) -> bool {
        match self {
            Self::Run => false,
            Self::One(glob) => glob.fits(component, |_| true),
            Self::User => user.is_some_and(|user| user.as_bytes() == component),
        }
    }
}

fn component(written: &str) -> Result<Component, PatternError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*?".contains(&b);
    match written {
        "" => Err(PatternError(
            "has an empty component; write for example \"team/**\", without a slash at an end",
        )),
        "**" => Ok(Component::Run),
        "{user}" => Ok(Component::User),
        _ if written.contains("{user}") => Err(PatternError(
            "has {user} within a component; write it as a component of its own, as in \"home/{user}/**\"",
        )),
        _ if written.contains("**") => Err(PatternError(
            "has ** within a component; write it as a component of its own, as in \"team/**\"",
        )),
        _ if !written.bytes().all(plain) => Err(PatternError(
            "can match no repository: their names are lower-case letters, digits and . _ - between slashes",
        )),
        _ => Ok(Component::One(Glob::new(written))),
    }
}

/// Returns true if the parts of a pattern fit the components of a name at `places`. On a mismatch only the latest run takes one
/// more, as in [`fit`].
fn fits(parts: &[Component], name: &Components<'_>, places: Range<usize>, user: Option<&str>) -> bool {
    let (mut at, mut place, mut latest) = (0, places.start, None);
    loop {
        match parts.get(at) {
            // The last run takes all components that are left.
            Some(Component::Run) if at + 1 == parts.len() => return true,
            Some(Component::Run) => {
                at += 1;
                latest = Some((at, place));
                continue;
            }
            Some(part) if place < places.end && part.takes(name.at(place), user) => {
                (at, place) = (at + 1, place + 1);
                continue;
            }
            None if place == places.end => return true,
            _ => {}
        }
        let Some((behind, from)) = latest else { return false };
        if from == places.end {
            return false;
        }
        (at, place, latest) = (behind, from + 1, Some((behind, from + 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        RepositoryPattern::parse(pattern).unwrap().matches(&RepositoryName::parse(name).unwrap())
    }

    #[test]
    fn a_star_stays_within_a_component() {
        assert!(matches("team/*", "team/app"));
        assert!(!matches("team/*", "team"));
        assert!(!matches("team/*", "team/app/sub"));
        assert!(matches("team/a*p", "team/app"));
        assert!(matches("*/b?c", "a/bxc"));
        assert!(!matches("team*", "team/app"));
    }

    #[test]
    fn two_stars_are_any_number_of_components() {
        assert!(matches("**", "a"));
        assert!(matches("**", "a/b/c"));
        assert!(matches("team/**", "team/a"));
        assert!(matches("team/**", "team/a/b"));
        assert!(matches("a/**/z", "a/z"));
        assert!(matches("a/**/z", "a/b/c/z"));
        assert!(matches("**/z", "z"));
        assert!(matches("**/a/**/b", "x/a/y/a/b/b"));
    }

    #[test]
    fn two_stars_at_the_end_are_at_least_one_component() {
        assert!(!matches("team/**", "team"));
        assert!(!matches("team/**", "teams/a"));
        assert!(matches("**/**", "a/b"));
    }

    #[test]
    fn the_user_is_one_component_literally() {
        let matches = |pattern: &str, name: &str, user| {
            let pattern = RepositoryPattern::parse_for_users(pattern).unwrap();
            pattern.matches_for(&RepositoryName::parse(name).unwrap(), user)
        };
        assert!(matches("home/{user}/**", "home/alice/app", Some("alice")));
        for (name, user) in [
            ("home/alice/app", None),
            ("home/alice/app", Some("bob")),
            ("home/alice/app", Some("Alice")),
            ("home/alice/app", Some("a*")),
            ("home/alice/app", Some("*")),
            ("home/alice/app/x", Some("alice/app")),
            ("home/alice", Some("alice")),
        ] {
            assert!(!matches("home/{user}/**", name, user), "{name} {user:?}");
        }
        for written in ["home/x{user}", "{user}{user}", "home/{User}", "{user}*"] {
            assert!(RepositoryPattern::parse_for_users(written).is_err(), "{written}");
        }
    }

    #[test]
    fn a_pattern_that_can_match_nothing_is_refused() {
        for written in
            ["", "/", "/a", "a/", "a//b", "Team/**", "a**", "***", "{user}/**", "a b", "[ab]", "a:b"]
        {
            assert!(RepositoryPattern::parse(written).is_err(), "{written}");
        }
    }

    #[test]
    fn a_pattern_is_below_a_prefix_if_a_name_could_be() {
        let below = |pattern, prefix| RepositoryPattern::parse(pattern).unwrap().may_match_below(prefix);
        for (pattern, prefix) in [
            ("**", ""),
            ("**", "hub"),
            ("hub/**", "hub"),
            ("h*/a", "hub"),
            ("a/**", "a/b"),
            ("**/x", "a/b"),
            ("a", ""),
        ] {
            assert!(below(pattern, prefix), "{pattern} below {prefix}");
        }
        for (pattern, prefix) in
            [("hub", "hub"), ("other/**", "hub"), ("hubs/**", "hub"), ("a/c/**", "a/b"), ("*", "hub")]
        {
            assert!(!below(pattern, prefix), "{pattern} below {prefix}");
        }
    }

    #[test]
    fn a_pattern_that_covers_a_prefix_is_known() {
        let covers = |pattern, prefix| RepositoryPattern::parse(pattern).unwrap().matches_all_below(prefix);
        for (pattern, prefix) in [
            ("**", ""),
            ("**", "hub"),
            ("**/**", "hub"),
            ("hub/**", "hub"),
            ("h*/**", "hub"),
            ("a/**", "a/b"),
            ("**/b/**", "a/b"),
        ] {
            assert!(covers(pattern, prefix), "{pattern} below {prefix}");
        }
        for (pattern, prefix) in [
            ("*", ""),
            ("hub/*", "hub"),
            ("hub/**/x", "hub"),
            ("hub/x/**", "hub"),
            ("*/x*/**", "hub"),
            ("**/x*", "hub"),
            ("hub", "hub"),
            ("hub/**", ""),
        ] {
            assert!(!covers(pattern, prefix), "{pattern} below {prefix}");
        }
        let below = |pattern, prefix| RepositoryPattern::parse(pattern).unwrap().is_below(prefix);
        assert!(below("hub/**", "hub") && below("hub/a", "hub"));
        assert!(!below("hub", "hub") && !below("hubs/**", "hub") && !below("h*/a", "hub"));
    }

    #[test]
    fn anonymous_is_not_anyone() {
        let parse = |written| UserPattern::parse(written).unwrap();
        assert!(parse("anonymous").matches(None));
        assert!(!parse("anonymous").matches(Some("anonymous")));
        assert!(!parse("*").matches(None));
        assert!(parse("*").matches(Some("alice")));
        assert!(!parse("a*").matches(None));
        assert!(parse("builder-?").matches(Some("builder-é")));
        assert!(!parse("alice").matches(Some("Alice")));
    }

    #[test]
    fn a_star_over_users_stays_within_their_provider() {
        let matches = |pattern: &str, user: &str| UserPattern::parse(pattern).unwrap().matches(Some(user));
        for (pattern, user) in [
            ("*-admin", "forward/hub:evil-admin"),
            ("*admin", "forward/hub:admin"),
            ("f*", "forward/hub:admin"),
            ("????????????????", "forward/hub:evil"),
            ("**", "forward/hub:evil"),
            ("forward/hub*", "forward/hub:evil"),
            ("forward/*", "forward/hub:evil"),
            ("forward/hub:*", "forward/hub2:evil"),
            ("forward/hub:*", "forward/hub/x:evil"),
            ("forward/hub:*-admin", "forward/hub:team/evil-admin"),
            ("build*", "build/evil"),
            ("repo:acme/*", "repo:acme/app/x"),
            ("repo:*", "repo:acme/app"),
        ] {
            assert!(!matches(pattern, user), "{pattern} {user}");
        }
        for (pattern, user) in [
            ("*-admin", "good-admin"),
            ("forward/hub:*", "forward/hub:alice"),
            ("forward/hub:*-admin", "forward/hub:good-admin"),
            ("forward/*:bob", "forward/hub:bob"),
            ("*/*", "build/alice"),
            ("*", "forward/hub:anyone"),
            ("repo:acme/*", "repo:acme/app"),
            ("repo:a*e/a*p", "repo:acme/app"),
            ("robot:*", "robot:ci"),
        ] {
            assert!(matches(pattern, user), "{pattern} {user}");
        }
    }

    #[test]
    fn names_that_no_user_can_have_are_refused() {
        for written in ["", "a[b]", "{user}", ":a", "*:a", "re?o:acme/app", " alice", "a\nb"] {
            assert!(UserPattern::parse(written).is_err(), "{written:?}");
        }
    }

    #[test]
    fn many_stars_do_not_blow_up() {
        let pattern = Glob::new(&"*a".repeat(500));
        assert!(!pattern.matches(&"a".repeat(499)));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(5000))));
    }

    /// Returns the obvious matcher, exponential, to compare with. `*` and `?` take no colon.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', after)), None | Some((':', _))) => naive(after, text),
            (Some(('*', after)), Some((_, rest))) => naive(after, text) || naive(pattern, rest),
            (Some(('?', after)), Some((c, rest))) => *c != ':' && naive(after, rest),
            (Some((p, after)), Some((c, rest))) => p == c && naive(after, rest),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_matcher_agrees_with_the_obvious_one(pattern in "[abé:*?]{0,8}", text in "[abéÃ:]{0,10}") {
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(Glob::new(&pattern).fits(text.as_bytes(), |byte| *byte != b':'), naive(&p, &t));
        }

        #[test]
        fn runs_agree_with_the_obvious_matcher(pattern in "(a|b|\\*|\\*\\*)(/(a|b|\\*|\\*\\*)){0,6}", name in "[ab](/[ab]){0,6}") {
            // A component is a character here, and a run a star; one at the end takes at least one component.
            let one = |part: &str| if part == "**" { '*' } else if part == "*" { '?' } else { part.chars().next().unwrap() };
            let mut p: Vec<char> = pattern.split('/').map(one).collect();
            if p.last() == Some(&'*') {
                p.insert(p.len() - 1, '?');
            }
            let t: Vec<char> = name.split('/').map(one).collect();
            prop_assert_eq!(matches(&pattern, &name), naive(&p, &t));
        }

        #[test]
        fn a_name_matches_itself_and_everything_above_it(name in "[a-z]{1,3}(/[a-z]{1,3}){0,4}") {
            prop_assert!(matches(&name, &name));
            prop_assert!(matches("**", &name));
            let parents = name.match_indices('/').map(|(at, _)| &name[..at]);
            for parent in parents {
                let below = format!("{parent}/**");
                prop_assert!(matches(&below, &name));
            }
        }

        #[test]
        fn no_input_panics(written in "\\PC{0,40}") {
            let _ = RepositoryPattern::parse(&written);
            let _ = UserPattern::parse(&written);
        }
    }
}
