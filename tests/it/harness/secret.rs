//! The secrets between the gateway and its upstreams.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::message::Answer;

/// Stands in every secret that a test gives to the gateway or to those behind it.
pub(crate) const MARK: &str = "t0psecret";

/// The gateway's account at registries.
pub(crate) const ROBOT: &str = "robot";
/// Its password.
pub(crate) const PASSWORD: &str = "t0psecret-password";

/// All pairs of name and password that tests log in with behind the gateway, since base64 hides the mark.
pub(crate) const PAIRS: &[(&str, &str)] = &[
    (ROBOT, PASSWORD),
    ("special", "t0psecret-special"),
    ("egress", "t0psecret-egress"),
    ("alice", "t0psecret-alice"),
    ("bob", "t0psecret-bob"),
    ("_json_key", KEY),
];

/// A service account's key, which is the password of Google's `_json_key`.
pub(crate) const KEY: &str = "{\n  \"type\": \"service_account\",\r\n\t\"private_key\": \"t0psecret\"\n}\n";

/// Returns the `Authorization` of a pair out of [`PAIRS`].
pub(crate) fn basic(user: &str, password: &str) -> String {
    assert!(PAIRS.contains(&(user, password)), "no test looks for {user}:{password}");
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// A token, by what it is called in a test.
pub(crate) fn token(name: &str) -> String {
    format!("{MARK}-token-{name}")
}

/// Returns true if a secret is in `text`.
pub(crate) fn is_told(text: &str) -> bool {
    let pair = |(user, password): &(&str, &str)| text.contains(&basic(user, password)["Basic ".len()..]);
    text.contains(MARK) || PAIRS.iter().any(pair)
}

/// Nothing that is between the gateway and those behind it may reach a client, whatever a test asks of an answer.
#[track_caller]
pub(super) fn assert_untold(answer: &Answer) {
    let location = answer.headers.all("location");
    for (name, value) in &answer.headers.0 {
        assert!(name != "set-cookie", "{answer:?}");
        let own = ["Basic realm=\"dockgate\"", "Basic realm=\"dockgate admin\"", "Basic realm=\"other\""];
        let own = own.contains(&value.as_str())
            || value.starts_with("Bearer realm=\"") && value.contains("/token\",service=\"dockgate\"");
        assert!(name != "www-authenticate" || own, "{answer:?}");
        // Where the client is to follow a redirect, it is told its signature.
        let handed = answer.status == 307 && location.contains(&value.as_str());
        assert!(handed || !is_told(value), "{answer:?}");
    }
    let length = answer.body.len().min(LONGEST_REFUSAL);
    assert!(!is_told(&String::from_utf8_lossy(&answer.body[..length])), "{answer:?}");
}

/// The longest body that is searched; longer ones are blobs.
const LONGEST_REFUSAL: usize = 64 * 1024;
