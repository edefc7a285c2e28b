//! An order of a certificate (RFC 8555 section 7.4), from the challenges to the chain.

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use crate::acme::challenge;
use crate::acme::error::AcmeError;
use crate::acme::issued::IssuedCertificate;
use crate::config::limits;
use crate::server::{AlpnChallenges, ShownChallenge};

/// Orders a certificate for `domains`, and shows the server's validations what they ask for. Returns the key and the chain as one
/// PEM text.
///
/// # Errors
/// [`AcmeError`] says why there is none.
pub(super) async fn issue(
    account: &Account,
    domains: &[String],
    challenges: &AlpnChallenges,
) -> Result<(String, IssuedCertificate), AcmeError> {
    let identifiers: Vec<Identifier> = domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    validate(&mut order, challenges).await?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(domains)?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    let chain = order.poll_certificate(&patience()).await?;
    let pem = format!("{}{chain}", key.serialize_pem());
    let issued = IssuedCertificate::parse(pem.as_bytes()).map_err(AcmeError::Unusable)?;
    if !issued.covers(domains) {
        return Err(AcmeError::Unusable("is not for all names that were ordered".to_owned()));
    }
    Ok((pem, issued))
}

/// Waits until the server has validated all names.
async fn validate(order: &mut Order, challenges: &AlpnChallenges) -> Result<(), AcmeError> {
    let shown = answer_challenges(order, challenges).await?;
    let ready = order.poll_ready(&patience()).await;
    drop(shown);
    match ready {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) => Err(refusal(order).await.unwrap_or(AcmeError::Invalid)),
        Err(error) => Err(refusal(order).await.unwrap_or_else(|| error.into())),
    }
}

/// Shows the certificates of all challenges, and has the server look. They are shown until what is returned is dropped.
async fn answer_challenges(
    order: &mut Order,
    challenges: &AlpnChallenges,
) -> Result<Vec<ShownChallenge>, AcmeError> {
    let mut shown = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        // A name that was validated lately is valid still.
        if authorization.status != AuthorizationStatus::Valid {
            shown.push(answer_challenge(&mut authorization, challenges).await?);
        }
    }
    Ok(shown)
}

async fn answer_challenge<'a>(
    authorization: &'a mut AuthorizationHandle<'a>,
    challenges: &AlpnChallenges,
) -> Result<ShownChallenge, AcmeError> {
    let domain = authorization.identifier().to_string();
    let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
    let mut challenge = challenge.ok_or_else(|| AcmeError::NoChallenge(domain.clone()))?;
    let digest = challenge.key_authorization().digest();
    let shown = challenges.show(&domain, challenge::certificate(&domain, digest.as_ref())?);
    challenge.set_ready().await?;
    Ok(shown)
}

/// Asks the server which name it has refused, and why. `None` if it does not say.
async fn refusal(order: &mut Order) -> Option<AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        authorization.refresh().await.ok()?;
        let error = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(error) = error {
            let reason = error.detail.clone().unwrap_or_else(|| error.to_string());
            return Some(AcmeError::Refused { domain: authorization.identifier().to_string(), reason });
        }
    }
    None
}

fn patience() -> RetryPolicy {
    RetryPolicy::new().timeout(limits::ACME_POLL_DEADLINE)
}
