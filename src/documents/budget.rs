//! The bytes of documents that one node keeps in memory, shared by the caches of all its spaces.
//!
//! Every cache counts what it holds here and lets go of its own idle documents while all of them together hold too
//! much; no cache reaches into another one. So the bound holds whichever spaces are busy, and a single busy space may
//! use all of it. What a space would lose by that is its share: once another one has to let go although it holds less
//! than an even share, those that hold more are told to give back the difference ([`CacheBudget::share_out`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A bound on loaded documents; clones share it.
#[derive(Debug, Clone)]
pub struct CacheBudget(Arc<Account>);

/// The counters say how much there is, and order nothing else: every access is relaxed.
#[derive(Debug)]
struct Account {
    bytes_max: usize,
    bytes: AtomicUsize,
    caches: AtomicUsize,
    /// A cache below its share had to let go since the last sharing out.
    short: AtomicBool,
    /// Caches above their share give back the difference.
    sharing: AtomicBool,
}

impl CacheBudget {
    /// A bound of so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Account {
            bytes_max,
            bytes: AtomicUsize::new(0),
            caches: AtomicUsize::new(0),
            short: AtomicBool::new(false),
            sharing: AtomicBool::new(false),
        }))
    }

    /// Bytes that all caches hold.
    pub fn used_bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether spaces that hold more than their share have to give back the rest; each of them must then be given
    /// [`Input::MakeRoom`](super::Input::MakeRoom), since an idle one would not notice. To be called now and then.
    pub fn share_out(&self) -> bool {
        let short = self.0.short.swap(false, Ordering::Relaxed);
        self.0.sharing.store(short, Ordering::Relaxed);
        short
    }

    pub(super) fn join(&self) {
        self.0.caches.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of a cache that still holds some bytes.
    pub(super) fn leave(&self, bytes: usize) {
        self.give_back(bytes);
        self.0.caches.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn take(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether a cache that holds so many bytes should let go of some.
    pub(super) fn is_exceeded(&self, held: usize) -> bool {
        let account = &*self.0;
        let share = account.bytes_max / account.caches.load(Ordering::Relaxed).max(1);
        if self.used_bytes() > account.bytes_max {
            if held < share {
                account.short.store(true, Ordering::Relaxed);
            }
            return true;
        }
        held > share && account.sharing.load(Ordering::Relaxed)
    }
}

impl From<usize> for CacheBudget {
    /// A bound that nothing else shares.
    fn from(bytes_max: usize) -> Self {
        Self::new(bytes_max)
    }
}
