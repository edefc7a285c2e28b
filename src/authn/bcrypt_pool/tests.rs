use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::authn::bcrypt_pool::*;

fn peer(last: u8) -> Client {
    Client::V4([192, 0, 2, last])
}

fn enter<T: Clone + Send + 'static>(
    checks: &Checks<T>,
    number: u32,
    from: u8,
    work: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    match checks.enter(Fingerprint::numbered(number), peer(from), || Ok::<_, ()>(Box::new(work))) {
        Entry::Wait(receiver) => receiver,
        Entry::Settled(()) | Entry::Full => panic!("not queued"),
    }
}

/// Returns a pool whose threads are all busy until the returned sender is dropped.
fn held() -> (Checks<usize>, mpsc::Sender<()>) {
    let checks = Checks::start().unwrap();
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let (busy, is_busy) = mpsc::channel();
    let threads = threads();
    for thread in 0..threads {
        let (held, busy) = (Arc::clone(&held), busy.clone());
        let work = move || {
            busy.send(()).unwrap();
            let _ = held.lock().recv();
            0
        };
        drop(enter(&checks, 1000 + u32::try_from(thread).unwrap(), 250, work));
    }
    (0..threads).for_each(|_| is_busy.recv().unwrap());
    (checks, hold)
}

#[tokio::test]
async fn equal_work_is_done_once_for_all_callers() {
    let (checks, hold) = held();
    let runs = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..50)
        .map(|from| {
            let runs = Arc::clone(&runs);
            enter(&checks, 1, from, move || runs.fetch_add(1, Ordering::SeqCst) + 7)
        })
        .collect();
    drop(hold);
    for receiver in waiting {
        assert_eq!(receiver.await, Ok(7));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn one_client_with_a_hundred_waiting_does_not_starve_another() {
    let (checks, hold) = held();
    let order = Arc::new(AtomicUsize::new(0));
    let mut greedy = Vec::new();
    for number in 0..100 {
        let order = Arc::clone(&order);
        greedy.push(enter(&checks, number, 1, move || order.fetch_add(1, Ordering::SeqCst)));
    }
    let modest = enter(&checks, 200, 2, move || order.fetch_add(1, Ordering::SeqCst));
    drop(hold);
    let place = modest.await.unwrap();
    assert!(place <= 3, "served as number {place}");
    for receiver in greedy {
        receiver.await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_kills_neither_the_threads_nor_the_next_check() {
    let checks = Checks::start().unwrap();
    for number in 0..5 {
        let broken =
            enter(&checks, number, 1, || -> usize { panic!("a broken check, as this test wants it") });
        assert!(broken.await.is_err());
    }
    assert_eq!(enter(&checks, 0, 1, || 42).await, Ok(42));
}

#[test]
fn work_is_done_even_when_its_asker_went_away() {
    let checks = Checks::start().unwrap();
    let (done, is_done) = mpsc::channel();
    drop(enter(&checks, 1, 1, move || done.send(()).unwrap()));
    is_done.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn what_is_settled_meanwhile_is_not_queued() {
    let checks = Checks::<usize>::start().unwrap();
    let entry = checks.enter(Fingerprint::numbered(1), peer(1), || Err("known by now"));
    assert!(matches!(entry, Entry::Settled("known by now")));
}

/// Returns a queue that no thread empties.
fn queue_of(waiting: &[(u8, usize)]) -> Queue<usize> {
    let mut queue = Shared::default().queue.into_inner();
    let mut number = 0;
    for &(from, count) in waiting {
        for _ in 0..count {
            number += 1;
            let job = Job { key: Fingerprint::numbered(number), work: Box::new(|| 0) };
            queue.push(peer(from), job);
        }
    }
    queue
}

#[test]
fn a_full_queue_drops_work_of_the_greediest_client() {
    let mut queue = queue_of(&[(1, LONGEST_QUEUE - 2), (2, 2)]);
    assert!(!queue.has_room_for(peer(1)));
    assert!(queue.has_room_for(peer(2)));
    assert_eq!(queue.waiting[&peer(1)].len(), LONGEST_QUEUE - 3);
    assert_eq!(queue.flights.len(), LONGEST_QUEUE - 1, "the client whose work was dropped is told");
}

#[test]
fn turns_go_round() {
    let mut queue = queue_of(&[(1, 3), (2, 1), (3, 2)]);
    let order: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|job| job.key).collect();
    assert!(order == [1, 4, 5, 2, 6, 3].map(Fingerprint::numbered));
    assert!(queue.waiting.is_empty() && queue.turns.is_empty() && queue.length == 0);
}
