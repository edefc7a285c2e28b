//! A registry that wants tokens, and who gives them.

use super::Builder;
use super::gateway::Gateway;
use super::message::Headers;
use super::script::Reply;
use super::secret::{PASSWORD, ROBOT, basic};
use super::upstream::{Exchange, Upstream};

pub(crate) struct Guarded {
    pub(crate) registry: Upstream,
    pub(crate) tokens: Upstream,
}

impl Guarded {
    pub(crate) async fn start() -> Self {
        Self { registry: Upstream::start().await, tokens: Upstream::start().await }
    }

    /// A gateway before it, with an account, that may ask the token endpoint.
    pub(crate) async fn gateway(&self) -> Gateway {
        self.gateway_with("").await
    }

    /// Starts it with further lines of configuration.
    pub(crate) async fn gateway_with(&self, lines: &str) -> Gateway {
        self.before(Gateway::builder(), lines).start().await
    }

    pub(crate) fn before(&self, builder: Builder, lines: &str) -> Builder {
        let lines = format!("{lines}\n{}\n{}", self.realm_hosts(), account());
        builder.upstream_with("up", "", self.registry.address, &lines)
    }

    pub(crate) fn realm_hosts(&self) -> String {
        format!("realm_hosts = [\"{}\"]", self.tokens.address)
    }

    /// Returns the registry's challenge; `rest` are further parameters, such as `,scope="…"`.
    pub(crate) fn challenge(&self, rest: &str) -> String {
        format!("Bearer realm=\"{}\",service=\"registry\"{rest}", self.tokens.url("/token"))
    }

    pub(crate) fn refusal(&self, rest: &str) -> Reply {
        refusal(&self.challenge(rest))
    }

    /// The token endpoint gives the gateway's account a good token for these scopes, once.
    pub(crate) fn gives(&self, scopes: &[&str], token: &str) -> Exchange {
        self.answers(scopes, gift(token, 300))
    }

    /// The token endpoint answers so, once, when the gateway's account asks for these scopes.
    pub(crate) fn answers(&self, scopes: &[&str], reply: Reply) -> Exchange {
        self.tokens.expect("GET", asking(Some(ROBOT), scopes), reply)
    }

    /// Lets the registry give `reply` to requests with one of these tokens, and refuse all others.
    pub(crate) fn guards(&self, method: &str, target: &str, tokens: &[String], reply: Reply) {
        let (challenge, tokens) = (self.challenge(""), tokens.to_vec());
        self.registry.always(method, target, move |headers: &Headers| {
            let shown = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
            let good = shown.is_some_and(|shown| tokens.iter().any(|token| token == shown));
            if good { reply.clone() } else { refusal(&challenge) }
        });
    }

    /// Returns the `Authorization` of each request to the registry so far.
    pub(crate) fn shown(&self) -> Vec<Option<String>> {
        self.registry.heard_of("authorization")
    }

    /// All that asked for a token showed the gateway's own password.
    pub(crate) fn assert_asked_by_robot(&self) {
        let shown = self.tokens.heard_of("authorization");
        assert!(shown.iter().all(|shown| *shown == Some(basic(ROBOT, PASSWORD))), "{shown:?}");
    }
}

/// `[upstream.credentials]` of the gateway's account.
pub(crate) fn account() -> String {
    format!("[upstream.credentials]\nusername = \"{ROBOT}\"\npassword = \"{PASSWORD}\"\n")
}

/// A 401 with a challenge, and with what no client may be told.
pub(crate) fn refusal(challenge: &str) -> Reply {
    let body = "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"t0psecret\"}]}";
    let reply = Reply::status(401).header("WWW-Authenticate", challenge).body(body);
    reply.header("Set-Cookie", "session=t0psecret").header("Content-Type", "application/json")
}

/// The answer of a token endpoint.
pub(crate) fn gift(token: &str, seconds: u32) -> Reply {
    Reply::ok(format!("{{\"token\":\"{token}\",\"expires_in\":{seconds}}}"))
        .header("Content-Type", "application/json")
        .header("Set-Cookie", "session=t0psecret")
}

/// Returns the requests to a token endpoint at `/token`.
pub(crate) fn asking(account: Option<&str>, scopes: &[&str]) -> String {
    let account = account.map(|account| format!("account={account}&")).unwrap_or_default();
    let scopes = scopes.iter().map(|scope| format!("&scope={}", scope.replace(':', "%3A")));
    let scopes: String = scopes.collect();
    format!(
        "/token?{account}service=registry{}",
        scopes.replace('/', "%2F").replace(',', "%2C").replace('*', "%2A")
    )
}
