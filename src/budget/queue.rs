//! The requests that wait for a budget: each client has a queue of its own, and the clients take turns.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use crate::budget::client::Client;

/// The queues of all clients.
pub(super) struct FairQueue<T> {
    waiting: HashMap<Client, VecDeque<Waiter<T>>>,
    /// The clients in `waiting`, each once, in the order of their turns.
    turns: VecDeque<Client>,
    length: usize,
    /// The amounts of all waiters together.
    asked: u64,
    next: u64,
}

struct Waiter<T> {
    number: u64,
    amount: u64,
    sender: oneshot::Sender<T>,
}

/// The answer to a waiter whose turn it is.
pub(super) enum Turn<T> {
    /// The waiter gets this.
    Granted(T),
    /// The client has its share: another client's turn.
    OverShare,
    /// There is no room: all wait.
    NoRoom,
}

/// The place of a waiter in the queue.
pub(super) struct Place<T> {
    pub(super) number: u64,
    pub(super) receiver: oneshot::Receiver<T>,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new(), length: 0, asked: 0, next: 0 }
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Returns the number of waiters of one client.
    pub(super) fn length_of(&self, client: Client) -> usize {
        self.waiting.get(&client).map_or(0, VecDeque::len)
    }

    /// Puts a waiter at the end of its client's queue.
    pub(super) fn enter(&mut self, client: Client, amount: u64) -> Place<T> {
        let (sender, receiver) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        let queue = self.waiting.entry(client).or_default();
        if queue.is_empty() {
            self.turns.push_back(client);
        }
        queue.push_back(Waiter { number, amount, sender });
        self.length += 1;
        self.asked += amount;
        Place { number, receiver }
    }

    /// Takes out a waiter that has left.
    pub(super) fn leave(&mut self, client: Client, number: u64) {
        let Some(queue) = self.waiting.get_mut(&client) else { return };
        // The numbers of a queue rise.
        let Ok(at) = queue.binary_search_by_key(&number, |waiter| waiter.number) else { return };
        if let Some(waiter) = queue.remove(at) {
            self.length -= 1;
            self.asked -= waiter.amount;
        }
        if queue.is_empty() {
            self.waiting.remove(&client);
            self.turns.retain(|turn| *turn != client);
        }
    }

    /// Offers each client's first waiter its turn, until there is no room or all clients have their share. Returns what was
    /// granted to waiters that had just left, and true if there is no room.
    pub(super) fn serve(&mut self, mut offer: impl FnMut(Client, u64) -> Turn<T>) -> (Vec<T>, bool) {
        let (mut returned, mut passed) = (Vec::new(), 0);
        while passed < self.turns.len() {
            let Some(client) = self.turns.pop_front() else { break };
            let Some(queue) = self.waiting.get_mut(&client) else { continue };
            let Some(amount) = queue.front().map(|waiter| waiter.amount) else { continue };
            match offer(client, amount) {
                Turn::Granted(granted) => {
                    passed = 0;
                    if let Some(waiter) = queue.pop_front() {
                        self.length -= 1;
                        self.asked -= amount;
                        returned.extend(waiter.sender.send(granted).err());
                    }
                    if queue.is_empty() {
                        self.waiting.remove(&client);
                    } else {
                        self.turns.push_back(client);
                    }
                }
                Turn::OverShare => {
                    passed += 1;
                    self.turns.push_back(client);
                }
                Turn::NoRoom => {
                    self.turns.push_front(client);
                    return (returned, true);
                }
            }
        }
        (returned, false)
    }
}
