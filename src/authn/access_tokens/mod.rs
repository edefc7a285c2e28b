//! The gateway's own tokens: issuing and verifying.
//!
//! Access tokens are what clients get at `/token` and show at `/v2/`; robots' tokens are minted by the operator and shown as a
//! password. One key signs both. They differ in `typ` and `aud`, so that none serves in the other's place.

mod key_file;
mod key_ring;
mod revoked;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde_json::Value;

use crate::authn::Authenticator;
use crate::authn::access_tokens::key_ring::{ALGORITHM, KeyRing, VerifyingKey};
use crate::authn::access_tokens::revoked::RevokedFile;
use crate::clock;
use crate::config::{TokenService, limits};
use crate::file_stamp::Stamp;
use crate::proto::claims::{Claims, Login, Provider};
use crate::proto::identity::{Identity, ProvidedName, ROBOT_PREFIX, RobotName, UserName};
use crate::proto::jwt::{self, OwnHeader, Unverified};
use crate::proto::{Fingerprint, Grant, Secret};

pub(crate) use key_file::{KeyFileError, rotate};

/// The token service: its keys, and the tokens that it has verified.
pub(crate) struct AccessTokens {
    settings: TokenService,
    keys: ArcSwap<Keys>,
    seen: Mutex<Stamp>,
    revoked: Option<RevokedFile>,
    /// Tokens whose signature and claims were found right, by their signature: hashing all of a token would cost more than the
    /// rest of a small request's check.
    known: Cache<Arc<str>, Arc<Proof>>,
}

/// The keys in force.
struct Keys {
    ring: KeyRing,
    /// Keys that are no longer in the file, and until when their access tokens live, in seconds since 1970.
    retired: Vec<(VerifyingKey, u64)>,
}

/// The kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Access,
    Robot,
}

/// The proof that a token is: of an identity, and of its rights.
#[derive(Debug)]
pub(crate) struct Proof {
    /// The identity of its holder.
    pub(crate) identity: Identity,
    /// The groups that the holder's provider says it is in.
    pub(crate) groups: Vec<Box<str>>,
    /// The grants of an access token; none for a robot's token.
    pub(crate) access: Option<Arc<[Grant]>>,
    /// The limits of a robot.
    pub(crate) limits: Option<Arc<[Grant]>>,
    /// The fingerprint of what the login rested upon.
    pub(crate) rested_upon: Option<Fingerprint>,
    id: Box<str>,
    robot: Option<Box<str>>,
    not_before: u64,
    expires: u64,
    kind: Kind,
    /// The token itself, without a prefix.
    token: Secret,
}

/// The reason why a token does not count. The client is not told.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// No token in the form of RFC 7515.
    #[error("it is malformed")]
    Malformed,
    /// The header names another algorithm.
    #[error("its algorithm is not {ALGORITHM}")]
    Algorithm,
    /// A token of another kind.
    #[error("its type is another")]
    Kind,
    /// No key has its `kid`.
    #[error("its key is not known here")]
    Key,
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// The claims are not those of such a token.
    #[error("its claims are malformed")]
    Claims,
    /// A token of another issuer.
    #[error("its issuer is another")]
    Issuer,
    /// A token for another service.
    #[error("its audience is another")]
    Audience,
    /// A token that is not good yet.
    #[error("it is not valid yet")]
    Early,
    /// A token that has died. The proof is still good for uploads that it began, unless it died long ago.
    #[error("it has expired")]
    Expired(Option<Arc<Proof>>),
    /// A token whose id is revoked, or that of the robot's token by which it was got.
    #[error("it is revoked")]
    Revoked,
    /// The user's password was set anew, or the user is gone.
    #[error("the user's password has changed")]
    Password,
}

/// A login that gets an access token.
#[derive(Debug)]
pub(crate) struct Holder<'a> {
    /// The identity.
    pub(crate) identity: &'a Identity,
    /// The fingerprint of what the login rests upon, as it was when it was checked: a user's htpasswd line, the settings of a
    /// platform, the authorities of clients.
    pub(crate) rests_upon: Option<Fingerprint>,
    /// The robot's token, if it is one.
    pub(crate) robot: Option<&'a Proof>,
    /// The groups that the provider says it is in.
    pub(crate) groups: &'a [Box<str>],
    /// When its own credential dies, in seconds since 1970.
    pub(crate) until: Option<u64>,
}

/// A token that was issued.
#[derive(Debug)]
pub(crate) struct Issued {
    /// The token.
    pub(crate) token: Secret,
    /// Its id.
    pub(crate) id: String,
    /// When it was issued, in seconds since 1970.
    pub(crate) issued_at: u64,
    /// The seconds for which clients may use it.
    pub(crate) expires_in: u64,
}

/// A token service that cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The key file cannot be used.
    #[error("auth.token.key: {0}")]
    Key(#[from] KeyFileError),
    /// The file of revoked tokens cannot be read.
    #[error("auth.token.revoked: {}: cannot be read: {error}", path.display())]
    Revoked {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        error: io::Error,
    },
}

/// The result of reading a file again: the configuration's key of the file, and its defect.
pub(crate) type Reread = (&'static str, Option<String>);

impl AccessTokens {
    /// Opens the service; its key is made where there is none yet.
    ///
    /// # Errors
    /// [`OpenError`] when a file cannot be used.
    pub(crate) fn open(settings: &TokenService) -> Result<Self, OpenError> {
        let (ring, stamp) = key_file::open_or_make(&settings.key)?;
        let revoked = settings.revoked.as_deref().map(open_revoked).transpose()?;
        let weigh = |_: &Arc<str>, proof: &Arc<Proof>| {
            u32::try_from(5 * proof.token.expose().len() + 512).unwrap_or(u32::MAX)
        };
        Ok(Self {
            settings: settings.clone(),
            keys: ArcSwap::from_pointee(Keys { ring, retired: Vec::new() }),
            seen: Mutex::new(stamp),
            revoked,
            known: Cache::builder().weigher(weigh).max_capacity(limits::TOKEN_MEMORY_BYTES).build(),
        })
    }

    /// Returns its settings.
    pub(crate) fn settings(&self) -> &TokenService {
        &self.settings
    }

    /// Returns the public keys as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        let (keys, now) = (self.keys.load(), now());
        let retired = keys.retired.iter().filter(|(_, until)| *until > now);
        keys.ring.jwks(retired.map(|(key, _)| key))
    }

    /// Returns a secret for the gateway's other seals, which all holders of the key can derive.
    pub(crate) fn derived_secret(&self) -> Option<Secret> {
        self.keys.load().ring.derived_secret("dockgate server.secret v1")
    }

    /// Returns the proof that an access token is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn verify(
        &self,
        token: &Secret,
        authenticator: &Authenticator,
    ) -> Result<Arc<Proof>, Refusal> {
        let proof = self.proof(token.expose(), Kind::Access)?;
        self.admit(&proof)?;
        // A user's token ends with the password.
        if let (Identity::User(name), line) = (&proof.identity, proof.rested_upon)
            && (line.is_none() || authenticator.fingerprint(name.as_str()) != line)
        {
            return Err(Refusal::Password);
        }
        self.in_time(proof)
    }

    /// Returns the proof that a robot's token is, a password that begins with [`ROBOT_PREFIX`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn verify_robot(&self, password: &Secret) -> Result<Arc<Proof>, Refusal> {
        let token = password.expose().strip_prefix(ROBOT_PREFIX).ok_or(Refusal::Malformed)?;
        let proof = self.proof(token, Kind::Robot)?;
        self.admit(&proof)?;
        self.in_time(proof)
    }

    /// Issues an access token. `None` if the machine has no randomness.
    pub(crate) fn issue(&self, holder: &Holder<'_>, access: Vec<Grant>) -> Option<Issued> {
        let (identity, now) = (holder.identity, now());
        let line = match identity {
            Identity::User(_) | Identity::Workload(_) | Identity::Certificate(_) => {
                Some(holder.rests_upon?.to_text())
            }
            Identity::Anonymous | Identity::Robot(_) | Identity::Forwarded(_) => None,
        };
        let login = Login {
            provider: provider(identity)?,
            groups: holder.groups.to_vec(),
            line,
            robot: holder.robot.map(|robot| robot.id.to_string()),
            limits: holder.robot.and_then(|robot| robot.limits.as_deref()).map(<[Grant]>::to_vec),
        };
        let dies = now + self.settings.ttl.as_secs();
        let dies = holder.robot.map_or(dies, |robot| dies.min(robot.expires));
        let dies = holder.until.map_or(dies, |until| dies.min(until.max(now)));
        let name = if identity.is_anonymous() { "" } else { identity.name() };
        let issued = self.sign(Kind::Access, name, (now, dies), access, login)?;
        // Clients must be able to rely on 60 s; so much is forgiven when it is verified.
        let least = limits::TOKEN_TTL_LEAST.as_secs();
        Some(Issued { expires_in: issued.expires_in.max(least), ..issued })
    }

    /// Mints a robot's token. `None` if the machine has no randomness.
    pub(crate) fn mint(&self, robot: &RobotName, limits: Vec<Grant>, ttl: Duration) -> Option<Issued> {
        let now = now();
        let login =
            Login { provider: Provider::Robot, groups: Vec::new(), line: None, robot: None, limits: None };
        let issued = self.sign(Kind::Robot, robot.as_str(), (now, now + ttl.as_secs()), limits, login)?;
        Some(Issued { token: Secret::new(format!("{ROBOT_PREFIX}{}", issued.token.expose())), ..issued })
    }

    /// Reads the files again: those that have changed, or all. Blocks on the disk; ask every two seconds.
    pub(crate) fn reload(&self, in_any_case: bool) -> Vec<Reread> {
        let mut read = Vec::new();
        if let Some(revoked) = &self.revoked
            && let Some(result) = revoked.reload(in_any_case)
        {
            match result {
                Ok(ids) => {
                    tracing::info!(file = %revoked.path().display(), ids, "revoked tokens reloaded");
                    read.push(("auth.token.revoked", None));
                }
                Err(error) => read.push(("auth.token.revoked", Some(error.to_string()))),
            }
        }
        read.extend(self.reload_keys(in_any_case));
        read
    }

    fn reload_keys(&self, in_any_case: bool) -> Option<Reread> {
        let (now, before) = (now(), self.keys.load_full());
        let stamp = Stamp::of(&self.settings.key);
        let mut seen = self.seen.lock();
        let ended = before.retired.iter().any(|(_, until)| *until <= now);
        if !in_any_case && *seen == stamp && !ended {
            return None;
        }
        *seen = stamp;
        let ring = match key_file::open(&self.settings.key) {
            Ok((ring, stamp)) => {
                *seen = stamp;
                ring
            }
            Err(error) => return Some(("auth.token.key", Some(error.to_string()))),
        };
        // A token lives no longer than this.
        let until = now + (self.settings.ttl + limits::TOKEN_LEEWAY).as_secs();
        let gone = before.ring.verifying().iter().map(|key| (key.clone(), until));
        let retired = before.retired.iter().filter(|(_, until)| *until > now).cloned().chain(gone);
        let retired: Vec<_> = retired.filter(|(key, _)| !ring.verifying().contains(key)).collect();
        let changed = ring.verifying() != before.ring.verifying() || retired != before.retired;
        self.keys.store(Arc::new(Keys { ring, retired }));
        // Tokens that a removed key signed are not to be believed any more.
        self.known.invalidate_all();
        if changed {
            tracing::info!(file = %self.settings.key.display(), "the token service's keys reloaded");
        }
        Some(("auth.token.key", None))
    }

    /// Returns the proof of a token that is signed, of this issuer and of this kind, whether or not it has died.
    fn proof(&self, token: &str, kind: Kind) -> Result<Arc<Proof>, Refusal> {
        let (_, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        if let Some(proof) = self.known.get(signature)
            && proof.kind == kind
            && proof.token.expose() == token
        {
            return Ok(proof);
        }
        let read = Unverified::parse(token).ok_or(Refusal::Malformed)?;
        if read.header.alg != ALGORITHM {
            return Err(Refusal::Algorithm);
        }
        if read.header.typ.as_deref() != Some(kind.typ()) {
            return Err(Refusal::Kind);
        }
        let id = read.header.kid.as_deref().ok_or(Refusal::Key)?;
        self.check_signature(id, &read)?;
        let claims: Claims = read.claims().ok_or(Refusal::Claims)?;
        if claims.iss != self.settings.issuer {
            return Err(Refusal::Issuer);
        }
        if claims.aud != self.audience(kind) {
            return Err(Refusal::Audience);
        }
        let proof = Arc::new(Proof::of(claims, kind, token).ok_or(Refusal::Claims)?);
        self.known.insert(signature.into(), proof.clone());
        Ok(proof)
    }

    fn check_signature(&self, id: &str, read: &Unverified<'_>) -> Result<(), Refusal> {
        let (keys, now) = (self.keys.load(), now());
        let retired = keys.retired.iter().filter(|(_, until)| *until > now).map(|(key, _)| key);
        let key =
            keys.ring.verifying().iter().chain(retired).find(|key| key.id() == id).ok_or(Refusal::Key)?;
        let right = key.verify(read.signed.as_bytes(), &read.signature);
        right.then_some(()).ok_or(Refusal::Signature)
    }

    /// Refuses a token that has been revoked since.
    fn admit(&self, proof: &Proof) -> Result<(), Refusal> {
        let Some(revoked) = &self.revoked else { return Ok(()) };
        let ids = [Some(&proof.id), proof.robot.as_ref()];
        if ids.into_iter().flatten().any(|id| revoked.contains(id)) { Err(Refusal::Revoked) } else { Ok(()) }
    }

    fn in_time(&self, proof: Arc<Proof>) -> Result<Arc<Proof>, Refusal> {
        let (now, leeway) = (now(), limits::TOKEN_LEEWAY.as_secs());
        if proof.not_before > now + leeway {
            return Err(Refusal::Early);
        }
        if now > proof.expires.saturating_add(leeway) {
            let recent = now - proof.expires <= limits::TOKEN_UPLOAD_GRACE.as_secs();
            return Err(Refusal::Expired(recent.then_some(proof)));
        }
        Ok(proof)
    }

    fn sign(
        &self,
        kind: Kind,
        subject: &str,
        (now, dies): (u64, u64),
        access: Vec<Grant>,
        login: Login,
    ) -> Option<Issued> {
        let mut id = [0u8; 16];
        aws_lc_rs::rand::fill(&mut id).ok()?;
        let id = URL_SAFE_NO_PAD.encode(id);
        let claims = Claims {
            iss: self.settings.issuer.clone(),
            sub: subject.to_owned(),
            aud: self.audience(kind),
            exp: dies,
            // Another registry's clock may be a little behind.
            nbf: now.saturating_sub(BACKDATED),
            iat: now,
            jti: id.clone(),
            access,
            dockgate: login,
        };
        let keys = self.keys.load();
        let chain = if kind == Kind::Access { keys.ring.chain() } else { &[] };
        let header = OwnHeader { alg: ALGORITHM, typ: kind.typ(), kid: keys.ring.id(), x5c: chain };
        let signed = jwt::to_sign(&header, &claims)?;
        let signature = keys.ring.sign(signed.as_bytes())?;
        let token = Secret::new(jwt::joined(signed, &signature));
        Some(Issued { token, id, issued_at: now, expires_in: dies.saturating_sub(now) })
    }

    fn audience(&self, kind: Kind) -> String {
        match kind {
            Kind::Access => self.settings.service.clone(),
            Kind::Robot => format!("robot:{}", self.settings.service),
        }
    }
}

impl Kind {
    /// Returns `typ`. Other registries know access tokens by `JWT`.
    fn typ(self) -> &'static str {
        match self {
            Self::Access => "JWT",
            Self::Robot => "robot+jwt",
        }
    }
}

impl Proof {
    fn of(claims: Claims, kind: Kind, token: &str) -> Option<Self> {
        let Login { provider, groups, line, robot, limits } = claims.dockgate;
        let identity = match (provider, kind) {
            (Provider::Anonymous, Kind::Access) if claims.sub.is_empty() => Identity::Anonymous,
            (Provider::Htpasswd, Kind::Access) => Identity::User(UserName::parse(&claims.sub).ok()?),
            (Provider::Robot, _) => Identity::Robot(RobotName::parse(&claims.sub)?),
            (Provider::Oidc, Kind::Access) => Identity::Workload(ProvidedName::new(&claims.sub)?),
            (Provider::Certificate, Kind::Access) => Identity::Certificate(ProvidedName::new(&claims.sub)?),
            (Provider::Anonymous | Provider::Htpasswd | Provider::Oidc | Provider::Certificate, _) => {
                return None;
            }
        };
        let (access, limits) = match kind {
            Kind::Access => (Some(claims.access.into()), limits.map(Into::into)),
            Kind::Robot => (None, Some(claims.access.into())),
        };
        // A robot's access token has limits, or none would bind it.
        if matches!(identity, Identity::Robot(_)) && limits.is_none() {
            return None;
        }
        let rested_upon = match line.as_deref() {
            Some(line) => Some(Fingerprint::parse(line)?),
            None => None,
        };
        Some(Self {
            identity,
            groups,
            access,
            limits,
            rested_upon,
            id: claims.jti.into(),
            robot: robot.map(Into::into),
            not_before: claims.nbf,
            expires: claims.exp,
            kind,
            token: Secret::new(token),
        })
    }
}

fn open_revoked(path: &Path) -> Result<RevokedFile, OpenError> {
    RevokedFile::open(path).map_err(|error| OpenError::Revoked { path: path.to_owned(), error })
}

/// Returns the provider of an identity that can have tokens.
fn provider(identity: &Identity) -> Option<Provider> {
    match identity {
        Identity::Anonymous => Some(Provider::Anonymous),
        Identity::User(_) => Some(Provider::Htpasswd),
        Identity::Robot(_) => Some(Provider::Robot),
        Identity::Workload(_) => Some(Provider::Oidc),
        Identity::Certificate(_) => Some(Provider::Certificate),
        // Each request to the upstream needs the client's own password.
        Identity::Forwarded(_) => None,
    }
}

fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The seconds by which a token is good before it is issued.
const BACKDATED: u64 = 10;

#[cfg(test)]
mod tests;
