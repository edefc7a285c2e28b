//! Faults of the disk that tests order, below a path: every access to a file passes here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// An access to a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Opening or creating a file, or locking it.
    Open,
    /// Reading bytes, metadata or names.
    Read,
    /// Writing bytes, lengths and times.
    Write,
    /// Waiting until bytes are on the disk.
    Sync,
    /// Renaming, removing, or making a directory.
    Change,
}

/// The behaviour of a disk that does not work.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Each access waits until the fault ends.
    Hang,
    /// Each access takes so much longer.
    Slow(Duration),
    /// Each access fails with this error number.
    Fail(i32),
}

/// A fault, until it is dropped.
#[derive(Debug)]
pub struct Ordered(Arc<Order>);

#[derive(Debug)]
struct Order {
    below: PathBuf,
    accesses: Vec<Access>,
    fault: Fault,
    over: Mutex<bool>,
    ended: Condvar,
    /// Accesses that it has met.
    met: AtomicU64,
}

/// True while there is a fault: without one an access costs no more than to read this.
static ANY: AtomicBool = AtomicBool::new(false);
static ORDERS: Mutex<Vec<Arc<Order>>> = Mutex::new(Vec::new());

/// Lets these accesses (all if none is named) to what is below a path meet a fault.
pub fn order(below: &Path, accesses: &[Access], fault: Fault) -> Ordered {
    let order = Arc::new(Order {
        below: below.to_owned(),
        accesses: accesses.to_vec(),
        fault,
        over: Mutex::new(false),
        ended: Condvar::new(),
        met: AtomicU64::new(0),
    });
    let mut orders = ORDERS.lock();
    orders.push(order.clone());
    ANY.store(true, Ordering::Release);
    Ordered(order)
}

impl Ordered {
    /// Returns how many accesses have met the fault.
    pub fn met(&self) -> u64 {
        self.0.met.load(Ordering::Acquire)
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        let mut orders = ORDERS.lock();
        orders.retain(|order| !Arc::ptr_eq(order, &self.0));
        ANY.store(!orders.is_empty(), Ordering::Release);
        drop(orders);
        *self.0.over.lock() = true;
        self.0.ended.notify_all();
    }
}

/// Lets an access to a path meet its fault, if one was ordered.
pub(crate) fn meet(path: &Path, access: Access) -> io::Result<()> {
    if !ANY.load(Ordering::Acquire) {
        return Ok(());
    }
    find(path, access).map_or(Ok(()), |order| order.meet())
}

/// Lets an access to an open file meet its fault, if one was ordered.
pub(crate) fn meet_open(file: &File, access: Access) -> io::Result<()> {
    if !ANY.load(Ordering::Acquire) {
        return Ok(());
    }
    path_of(file).map_or(Ok(()), |path| meet(&path, access))
}

/// Returns true if an access to a path would meet a fault: it cannot be done at once.
pub(crate) fn is_met(path: &Path, access: Access) -> bool {
    ANY.load(Ordering::Acquire) && find(path, access).is_some()
}

/// Returns true likewise for an open file.
pub(crate) fn is_met_open(file: &File, access: Access) -> bool {
    ANY.load(Ordering::Acquire) && path_of(file).is_some_and(|path| find(&path, access).is_some())
}

fn find(path: &Path, access: Access) -> Option<Arc<Order>> {
    let is_of = |order: &&Arc<Order>| {
        path.starts_with(&order.below) && (order.accesses.is_empty() || order.accesses.contains(&access))
    };
    ORDERS.lock().iter().find(is_of).cloned()
}

/// Returns the path by which the system knows an open file.
fn path_of(file: &File) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

impl Order {
    fn meet(&self) -> io::Result<()> {
        self.met.fetch_add(1, Ordering::AcqRel);
        match self.fault {
            Fault::Fail(number) => return Err(io::Error::from_raw_os_error(number)),
            Fault::Slow(time) => std::thread::sleep(time),
            Fault::Hang => {
                let mut over = self.over.lock();
                self.ended.wait_while(&mut over, |over| !*over);
            }
        }
        Ok(())
    }
}
