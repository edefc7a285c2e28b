//! Budgets: what clients could take without end is taken from one of these.
//!
//! A [`Budget`] has a limit, a share for each client, and a bounded wait. Clients are told apart by address, IPv6 by /64
//! ([`Client`]). To bound something:
//!
//! 1. Make one [`Budget`] where the state of all workers lives, from a limit that `config` or `config/limits` names, and
//!    describe it in [`plan`], which `dockgate check` prints.
//! 2. Take a [`Lease`] where the thing is taken: [`Budget::take`] waits for its turn, [`Budget::try_take`] does not. The
//!    lease gives back what it has when it is dropped, so keep it with the thing: in the body that reads a connection, or by
//!    [`hold`] in bytes that are to be sent. [`Lease::grow`], [`Lease::try_grow`] and [`Lease::shrink_to`] follow something that changes its size.
//! 3. Answer [`Spent`] with 503 or 429 and its `retry_after`, or close the connection. Work that can go on without, such as a
//!    download that may pass by the cache, takes with `try_take` and goes on without.
//! 4. Add [`Budget::usage`] to what the admin listener collects for `/metrics`.
//!
//! A future that waits for its turn leaves the queue when it is dropped: work whose last waiter has left takes nothing. Code
//! far below a request finds the client to charge with [`payer::current`].
//!
//! While a budget has room nothing waits, and taking and giving back are an atomic addition and, where clients have shares, a
//! lock that other clients seldom share. The queue and its lock are touched only while something waits.

#[expect(clippy::module_inception, reason = "the room's main type")]
mod budget;
mod client;
mod held;
pub(crate) mod payer;
pub(crate) mod plan;
mod queue;
mod shares;

pub(crate) use budget::{Budget, Lease, Spent, Usage};
pub(crate) use client::Client;
pub(crate) use held::hold;
