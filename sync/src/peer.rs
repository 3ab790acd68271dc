//! What is remembered of one connected peer.

use std::collections::BTreeMap;

use syncline_model::DeviceId;

use crate::event::Token;
use crate::limits::{
    FAILURE_BACKOFF_MAX_MS, FAILURE_BACKOFF_MS, PAGE_BYTES_FIRST, PAGE_BYTES_MAX, PAGE_BYTES_MIN, PEER_ENTRIES_MAX,
};

/// How far a peer is ahead in one author's log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    /// The highest sequence that the peer was heard to hold.
    pub(crate) sequence: u64,
    /// When that was heard.
    pub(crate) noted_ms: u64,
    /// When to begin pulling it.
    pub(crate) pull_from_ms: u64,
}

/// A connected peer that shares the space.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Authors of whom it holds more than is taken in here.
    pub(crate) ahead: BTreeMap<DeviceId, Ahead>,
    /// When to compare vectors next; far off while a comparison is in flight.
    pub(crate) summary_at_ms: u64,
    /// When one has to begin at the latest, since those that began before know nothing of what changed.
    compare_from_ms: Option<u64>,
    /// The comparison in flight.
    pub(crate) comparing: Option<Token>,
    /// Whether a comparison was completed since it connected.
    pub(crate) compared: bool,
    /// Whether its being in step was reported.
    pub(crate) synced: bool,
    /// Whether the membership let it be served when that was last looked at.
    pub(crate) served: bool,
    /// Whether it refuses to serve this device.
    pub(crate) refuses: bool,
    /// Nothing is asked of it before this time.
    pub(crate) quiet_until_ms: u64,
    /// Failures since the last answer.
    pub(crate) failures: u32,
    /// Ranges not sent since the last one that was.
    pub(crate) fruitless: u32,
    /// Pulls in flight to it.
    pub(crate) pulls: usize,
    /// Pulls of it that are being answered.
    pub(crate) serving: usize,
    /// How many bytes its pages should have.
    pub(crate) page_bytes: usize,
    /// How many they should have at most.
    page_bytes_max: usize,
    pub(crate) last_summary_ms: Option<u64>,
    pub(crate) received_bytes: u64,
    pub(crate) served_bytes: u64,
}

impl Peer {
    pub(crate) fn new(summary_at_ms: u64, served: bool, page_bytes_max: usize) -> Self {
        let page_bytes_max = page_bytes_max.clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX);
        Self {
            ahead: BTreeMap::new(),
            summary_at_ms,
            compare_from_ms: None,
            comparing: None,
            compared: false,
            synced: false,
            served,
            refuses: false,
            quiet_until_ms: 0,
            failures: 0,
            fruitless: 0,
            pulls: 0,
            serving: 0,
            page_bytes: PAGE_BYTES_FIRST.min(page_bytes_max),
            page_bytes_max,
            last_summary_ms: None,
            received_bytes: 0,
            served_bytes: 0,
        }
    }

    /// Vectors are compared at this time or before, whatever comes of a comparison that is in flight.
    pub(crate) fn compare_from(&mut self, at_ms: u64) {
        self.compare_from_ms = Some(self.compare_from_ms.map_or(at_ms, |known| known.min(at_ms)));
        self.summary_at_ms = self.summary_at_ms.min(at_ms);
        self.synced = false;
    }

    /// The next comparison is at this time, unless an earlier one has to be.
    pub(crate) fn compare_at(&mut self, at_ms: u64) {
        self.summary_at_ms = self.compare_from_ms.map_or(at_ms, |from_ms| from_ms.min(at_ms));
    }

    /// A comparison begins.
    pub(crate) fn begins_comparing(&mut self, now_ms: u64) {
        self.compare_from_ms = self.compare_from_ms.filter(|from_ms| *from_ms > now_ms);
    }

    /// Remembers that the peer holds an author's log up to `sequence`.
    pub(crate) fn note(&mut self, author: DeviceId, sequence: u64, now_ms: u64, pull_from_ms: u64) {
        if self.ahead.len() >= PEER_ENTRIES_MAX && !self.ahead.contains_key(&author) {
            return;
        }
        let ahead = self.ahead.entry(author).or_insert(Ahead { sequence, noted_ms: now_ms, pull_from_ms });
        ahead.sequence = ahead.sequence.max(sequence);
        ahead.noted_ms = now_ms;
        ahead.pull_from_ms = ahead.pull_from_ms.min(pull_from_ms);
    }

    /// It answered a pull in time: it may be asked for more.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.page_bytes = (self.page_bytes * 2).min(self.page_bytes_max);
    }

    /// It did not answer: leave it alone for a while, then ask for less.
    pub(crate) fn failed(&mut self, now_ms: u64) {
        self.page_bytes = (self.page_bytes / 2).max(PAGE_BYTES_MIN);
        // Requests that fail together count once.
        if self.quiet_until_ms <= now_ms {
            self.quiet_until_ms = now_ms + (FAILURE_BACKOFF_MS << self.failures.min(10)).min(FAILURE_BACKOFF_MAX_MS);
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// How many operations it was heard to hold beyond what `head` says is held here.
    pub(crate) fn missing(&self, head: impl Fn(&DeviceId) -> u64) -> u64 {
        let beyond = self.ahead.iter().map(|(author, ahead)| ahead.sequence.saturating_sub(head(author)));
        beyond.fold(0, u64::saturating_add)
    }
}
