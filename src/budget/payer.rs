//! The client to which the current task's work is charged.
//!
//! A property of the task, as the worker is one of the thread: what is far below a request takes from budgets without every
//! function on the way handing the client on.

use std::future::Future;

use tokio::task::futures::TaskLocalFuture;

use crate::budget::client::Client;

tokio::task_local! {
    static PAYER: Client;
}

/// Runs `work` for `client`: what it takes is charged to that client.
pub(crate) fn charging<F: Future>(client: Client, work: F) -> TaskLocalFuture<Client, F> {
    PAYER.scope(client, work)
}

/// Returns the client that pays; [`Client::Trusted`] for work that is no client's.
pub(crate) fn current() -> Client {
    PAYER.try_with(|client| *client).unwrap_or(Client::Trusted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_charged_to_its_client_alone() {
        let client = Client::V4([192, 0, 2, 1]);
        assert_eq!(current(), Client::Trusted);
        assert_eq!(charging(client, async { current() }).await, client);
        assert_eq!(current(), Client::Trusted);
    }
}
