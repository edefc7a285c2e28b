use std::path::Path;

use serde_json::json;

use super::*;
use crate::authn::HtpasswdFile;
use crate::proto::Action;

struct Service {
    dir: tempfile::TempDir,
    tokens: AccessTokens,
    authenticator: Authenticator,
}

impl Service {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("revoked"), "").unwrap();
        write_user(dir.path(), "pw");
        let file = HtpasswdFile::open(dir.path().join("htpasswd")).unwrap();
        let tokens = AccessTokens::open(&settings(dir.path(), "service")).unwrap();
        Self { tokens, authenticator: Authenticator::new(Some(file)).unwrap(), dir }
    }

    fn issue(&self, identity: &Identity) -> Secret {
        let grants = vec![Grant::repository("a", [Action::Pull])];
        let rests_upon = self.authenticator.fingerprint(identity.name());
        let holder = Holder { identity, rests_upon, robot: None, groups: &[], until: None };
        self.tokens.issue(&holder, grants).unwrap().token
    }

    fn verify(&self, token: &Secret) -> Result<Arc<Proof>, Refusal> {
        self.tokens.verify(token, &self.authenticator)
    }

    fn refusal(&self, token: &Secret) -> String {
        self.verify(token).map(|_| "none".to_owned()).unwrap_or_else(|refusal| refusal.to_string())
    }

    /// Signs claims as the service would, changed by `change`.
    fn forge(&self, typ: &'static str, change: impl FnOnce(&mut Value)) -> Secret {
        let keys = self.tokens.keys.load();
        let mut claims = json!({
            "iss": "issuer", "sub": "al", "aud": "service", "exp": now() + 100, "nbf": now(), "iat": now(), "jti": "id",
            "access": [], "dockgate": { "provider": "htpasswd", "line": self.line() },
        });
        change(&mut claims);
        let header = OwnHeader { alg: ALGORITHM, typ, kid: keys.ring.id(), x5c: &[] };
        let signed = jwt::to_sign(&header, &claims).unwrap();
        let signature = keys.ring.sign(signed.as_bytes()).unwrap();
        Secret::new(jwt::joined(signed, &signature))
    }

    fn line(&self) -> String {
        self.authenticator.fingerprint("al").unwrap().to_text()
    }
}

fn settings(dir: &Path, service: &str) -> TokenService {
    TokenService {
        issuer: "issuer".to_owned(),
        service: service.to_owned(),
        key: dir.join("key.pem"),
        ttl: Duration::from_secs(300),
        revoked: Some(dir.join("revoked")),
    }
}

fn write_user(dir: &Path, password: &str) {
    let hash = crate::authn::htpasswd::hash(&Secret::new(password), 4).unwrap();
    std::fs::write(dir.join("htpasswd"), format!("al:{hash}\n")).unwrap();
}

fn user() -> Identity {
    Identity::User(UserName::parse("al").unwrap())
}

#[test]
fn an_issued_token_proves_who_and_what() {
    let service = Service::start();
    let proof = service.verify(&service.issue(&user())).unwrap();
    assert_eq!(proof.identity, user());
    assert!(proof.access.as_ref().unwrap()[0].contains(Action::Pull) && proof.limits.is_none());
    let anonymous = service.verify(&service.issue(&Identity::Anonymous)).unwrap();
    assert_eq!(anonymous.identity, Identity::Anonymous);
}

#[test]
fn every_claim_is_checked() {
    let service = Service::start();
    let forged =
        |change: &dyn Fn(&mut Value)| service.refusal(&service.forge("JWT", |claims| change(claims)));
    assert_eq!(forged(&|_| ()), "none");
    assert_eq!(forged(&|claims| claims["iss"] = json!("other")), "its issuer is another");
    assert_eq!(forged(&|claims| claims["aud"] = json!("Service")), "its audience is another");
    assert_eq!(forged(&|claims| claims["aud"] = json!("robot:service")), "its audience is another");
    assert_eq!(forged(&|claims| claims["exp"] = json!(now() - 61)), "it has expired");
    assert_eq!(forged(&|claims| claims["exp"] = json!(now() - 50)), "none", "within the leeway");
    assert_eq!(forged(&|claims| claims["nbf"] = json!(now() + 70)), "it is not valid yet");
    assert_eq!(forged(&|claims| claims["nbf"] = json!(now() + 50)), "none", "within the leeway");
    assert_eq!(forged(&|claims| claims["dockgate"]["line"] = json!(null)), "the user's password has changed");
    for (key, value) in [
        ("exp", json!(null)),
        ("exp", json!("1")),
        ("sub", json!("")),
        ("sub", json!("robot:x")),
        ("sub", json!("anonymous")),
        ("access", json!({})),
        ("aud", json!(["service"])),
        ("dockgate", json!({"provider": "anonymous"})),
        ("dockgate", json!({"provider": "robot"})),
        ("dockgate", json!({"provider": "forward"})),
    ] {
        assert_eq!(
            forged(&|claims| claims[key] = value.clone()),
            "its claims are malformed",
            "{key} {value}"
        );
    }
    assert_eq!(service.refusal(&service.forge("robot+jwt", |_| ())), "its type is another");
    assert_eq!(service.refusal(&service.forge("jwt", |_| ())), "its type is another");
}

#[test]
fn other_algorithms_and_keys_are_refused() {
    let service = Service::start();
    let token = service.issue(&user());
    let (signed, signature) = token.expose().rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let with = |key: &str, value: Value, signature: &str| {
        let mut header = header.clone();
        header[key] = value;
        Secret::new(format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string())))
    };
    for algorithm in ["none", "None", "HS256", "ES384", "RS256", "es256", ""] {
        for signature in ["", signature] {
            let refused = service.refusal(&with("alg", json!(algorithm), signature));
            assert_eq!(refused, "its algorithm is not ES256", "{algorithm}");
        }
    }
    for key in ["jwk", "jku", "x5u", "x5c"] {
        let refused = service.refusal(&with(key, json!({"kty": "EC"}), signature));
        assert_eq!(refused, "its signature is wrong", "{key}");
    }
    assert_eq!(service.refusal(&with("kid", json!("other"), signature)), "its key is not known here");
    assert_eq!(service.refusal(&with("kid", json!(null), signature)), "its key is not known here");
    let other = Service::start();
    assert_eq!(other.refusal(&token), "its key is not known here");
}

#[test]
fn a_token_is_remembered_and_still_ends_with_the_password() {
    let service = Service::start();
    let token = service.issue(&user());
    assert!(service.verify(&token).is_ok());
    assert_eq!(service.tokens.known.iter().count(), 1);
    assert!(service.verify(&token).is_ok());
    // Its signature alone opens nothing.
    let (_, signature) = token.expose().rsplit_once('.').unwrap();
    let other = service.forge("JWT", |claims| claims["sub"] = json!("root"));
    let (signed, _) = other.expose().rsplit_once('.').unwrap();
    assert_eq!(service.refusal(&Secret::new(format!("{signed}.{signature}"))), "its signature is wrong");
    assert_eq!(service.refusal(&Secret::new(signature)), "it is malformed");
    write_user(service.dir.path(), "other");
    service.authenticator.reload();
    assert_eq!(service.refusal(&token), "the user's password has changed");
    std::fs::write(service.dir.path().join("htpasswd"), "# nobody\n").unwrap();
    service.authenticator.reload();
    assert_eq!(service.refusal(&token), "the user's password has changed");
}

#[test]
fn revoking_ends_a_robot_and_the_tokens_that_it_got() {
    let service = Service::start();
    let robot = RobotName::new("ci").unwrap();
    let minted =
        service.tokens.mint(&robot, vec![Grant::repository("a/**", [Action::Pull])], Duration::from_secs(9));
    let minted = minted.unwrap();
    let proof = service.tokens.verify_robot(&minted.token).unwrap();
    assert_eq!((proof.identity.name(), proof.access.is_none()), ("robot:ci", true));
    let holder =
        Holder { identity: &proof.identity, rests_upon: None, robot: Some(&proof), groups: &[], until: None };
    let token = service.tokens.issue(&holder, Vec::new()).unwrap();
    assert_eq!(token.expires_in, 60, "clients rely on it, though the robot has less");
    let access = service.verify(&token.token).unwrap();
    assert!(access.limits.as_ref().unwrap()[0].name == "a/**" && access.expires <= proof.expires);
    std::fs::write(service.dir.path().join("revoked"), &minted.id).unwrap();
    assert_eq!(service.tokens.reload(false), [("auth.token.revoked", None)]);
    assert_eq!(service.refusal(&token.token), "it is revoked");
    assert!(matches!(service.tokens.verify_robot(&minted.token), Err(Refusal::Revoked)));
}

#[test]
fn no_kind_of_token_serves_as_the_other() {
    let service = Service::start();
    let access = service.issue(&user());
    let robot =
        service.tokens.mint(&RobotName::new("ci").unwrap(), Vec::new(), Duration::from_secs(9)).unwrap();
    let as_robot = Secret::new(format!("{ROBOT_PREFIX}{}", access.expose()));
    assert!(matches!(service.tokens.verify_robot(&as_robot), Err(Refusal::Kind)));
    assert!(matches!(service.tokens.verify_robot(&access), Err(Refusal::Malformed)));
    assert!(service.verify(&robot.token).is_err());
    let bare = Secret::new(robot.token.expose().strip_prefix(ROBOT_PREFIX).unwrap());
    // Also once it is remembered as a robot's.
    assert!(service.tokens.verify_robot(&robot.token).is_ok());
    assert_eq!(service.refusal(&bare), "its type is another");
}

#[test]
fn an_old_key_verifies_until_its_tokens_have_died() {
    let service = Service::start();
    let (old, path) = (service.issue(&user()), service.dir.path().join("key.pem"));
    std::fs::write(&path, key_file::new_key().unwrap()).unwrap();
    assert_eq!(service.tokens.reload(false), [("auth.token.key", None)]);
    assert!(service.verify(&old).is_ok() && service.verify(&service.issue(&user())).is_ok());
    assert_eq!(service.tokens.jwks()["keys"].as_array().unwrap().len(), 2);
    // The time has passed.
    let keys = service.tokens.keys.load_full();
    let ring = key_file::open(&path).unwrap().0;
    let retired = keys.retired.iter().map(|(key, _)| (key.clone(), now())).collect();
    service.tokens.keys.store(Arc::new(Keys { ring, retired }));
    assert_eq!(service.tokens.jwks()["keys"].as_array().unwrap().len(), 1);
    service.tokens.reload(false);
    assert_eq!(service.refusal(&old), "its key is not known here");
    assert!(service.tokens.reload(false).is_empty());
}

#[test]
fn a_broken_key_file_leaves_the_keys_in_force() {
    let service = Service::start();
    let token = service.issue(&user());
    std::fs::write(service.dir.path().join("key.pem"), "broken").unwrap();
    let read = service.tokens.reload(false);
    assert!(read.len() == 1 && read[0].1.is_some(), "{read:?}");
    assert!(service.verify(&token).is_ok() && service.tokens.reload(false).is_empty());
}

#[test]
fn a_token_that_died_today_still_says_whose_it_was() {
    let service = Service::start();
    let died = |ago: u64| service.verify(&service.forge("JWT", |claims| claims["exp"] = json!(now() - ago)));
    assert!(matches!(died(3600), Err(Refusal::Expired(Some(_)))));
    assert!(matches!(died(90_000), Err(Refusal::Expired(None))));
}

#[test]
fn a_token_is_bound_to_the_password_that_was_checked() {
    let service = Service::start();
    let rests_upon = service.authenticator.fingerprint("al");
    // The password changes while the old one is being checked.
    write_user(service.dir.path(), "new");
    service.authenticator.reload();
    let user = user();
    let holder = Holder { identity: &user, rests_upon, robot: None, groups: &[], until: None };
    let issued = service.tokens.issue(&holder, Vec::new()).unwrap();
    assert_eq!(service.refusal(&issued.token), "the user's password has changed");
    assert_eq!(service.refusal(&service.issue(&user)), "none");
}
