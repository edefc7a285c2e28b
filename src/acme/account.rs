//! The gateway's account at the server (RFC 8555 section 7.3). Its file outlives the process.

use std::sync::Arc;

use instant_acme::{Account, AccountCredentials, NewAccount};
use serde::{Deserialize, Serialize};

use crate::acme::client::AcmeClient;
use crate::acme::error::AcmeError;
use crate::acme::folder::{Folder, blocking};
use crate::config::Acme;
use crate::upstream::DocumentClient;

/// The content of the account's file.
#[derive(Deserialize, Serialize)]
struct AccountFile {
    /// The directory that it is an account of.
    directory: String,
    email: Option<String>,
    credentials: AccountCredentials,
}

/// Returns the account of the folder, or a new one where there is none for this directory and address.
///
/// # Errors
/// [`AcmeError`] if the server can't be asked or refuses, or the file can't be written.
pub(super) async fn open(settings: &Acme, folder: &Folder) -> Result<Account, AcmeError> {
    let client = AcmeClient(Arc::new(DocumentClient::new(&settings.server)?));
    let builder = Account::builder_with_http(Box::new(client));
    match known(settings, folder).await? {
        Some(credentials) => Ok(builder.from_credentials(credentials).await?),
        None => {
            let contact = settings.email.as_ref().map(|email| format!("mailto:{email}"));
            let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
            let new =
                NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
            let (account, credentials) = builder.create(&new, settings.directory.clone(), None).await?;
            save(settings, folder, credentials).await?;
            tracing::info!(directory = settings.directory, account = account.id(), "ACME account made");
            Ok(account)
        }
    }
}

/// Removes the account's file, so that a new account is made.
///
/// # Errors
/// The system's.
pub(super) async fn forget(folder: &Folder) -> Result<(), AcmeError> {
    let folder = folder.clone();
    Ok(blocking(move || folder.remove_account()).await?)
}

/// Reads the file. One that can't be read is as good as none: an account holds nothing but its key.
async fn known(settings: &Acme, folder: &Folder) -> Result<Option<AccountCredentials>, AcmeError> {
    let folder = folder.clone();
    let Some(bytes) = blocking(move || folder.account()).await? else { return Ok(None) };
    let Ok(file) = serde_json::from_slice::<AccountFile>(&bytes) else {
        tracing::warn!("cannot read the file of the ACME account; making a new account");
        return Ok(None);
    };
    let is_same = file.directory == settings.directory && file.email == settings.email;
    Ok(is_same.then_some(file.credentials))
}

async fn save(settings: &Acme, folder: &Folder, credentials: AccountCredentials) -> Result<(), AcmeError> {
    let (directory, email) = (settings.directory.clone(), settings.email.clone());
    let file = serde_json::to_vec(&AccountFile { directory, email, credentials });
    let file = file.map_err(instant_acme::Error::from)?;
    let folder = folder.clone();
    Ok(blocking(move || folder.save_account(&file)).await?)
}
