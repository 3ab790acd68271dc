//! How much one peer may send and ask for: token buckets, looked at before a frame is opened or a request decoded.
//!
//! Each bucket fills at its rate up to [`BURST_SECONDS`] of it. What arrives passes while there is anything in the
//! bucket and is taken out whole, so that the bucket may go into debt by one item: a page of two megabytes need not
//! fit. What does not pass costs nothing but the memory that it came in.

/// How many seconds' worth a bucket holds: what a peer that was silent may send at once.
pub const BURST_SECONDS: u32 = 4;
/// Gossip frames of one peer in a second unless told otherwise. A space's thread publishes one frame for each sync of
/// its disk, of which 8,000 were measured in a second, and a peer forwards the frames of others.
pub const FRAMES_PER_SECOND: u32 = 16_384;
/// Bytes of gossip frames of one peer in a second unless told otherwise.
pub const FRAME_BYTES_PER_SECOND: u64 = 64 << 20;
/// Requests of one peer in a second unless told otherwise.
pub const REQUESTS_PER_SECOND: u32 = 1024;
/// Bytes of answers to one peer in a second unless told otherwise.
pub const SERVED_BYTES_PER_SECOND: u64 = 128 << 20;

/// How much one peer may send and ask for in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRates {
    /// Gossip frames.
    pub frames: u32,
    /// Bytes of gossip frames.
    pub frame_bytes: u64,
    /// Requests.
    pub requests: u32,
    /// Bytes of answers to its requests.
    pub served_bytes: u64,
}

impl Default for PeerRates {
    fn default() -> Self {
        Self {
            frames: FRAMES_PER_SECOND,
            frame_bytes: FRAME_BYTES_PER_SECOND,
            requests: REQUESTS_PER_SECOND,
            served_bytes: SERVED_BYTES_PER_SECOND,
        }
    }
}

/// What is left of one allowance.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: f64,
    at_ms: u64,
}

impl Bucket {
    fn full(rate: f64, now_ms: u64) -> Self {
        Self { level: rate * f64::from(BURST_SECONDS), at_ms: now_ms }
    }

    /// Adds what has run in since it was last looked at.
    fn fill(&mut self, rate: f64, now_ms: u64) {
        let seconds = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        self.level = (self.level + rate * seconds).min(rate * f64::from(BURST_SECONDS));
        self.at_ms = self.at_ms.max(now_ms);
    }

    fn is_full(&mut self, rate: f64, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        self.level >= rate * f64::from(BURST_SECONDS)
    }
}

/// The allowances of one peer.
#[derive(Debug, Clone)]
pub(super) struct Allowances {
    frames: Bucket,
    frame_bytes: Bucket,
    requests: Bucket,
    served_bytes: Bucket,
}

impl Allowances {
    /// Those of a peer that has not been heard of.
    pub(super) fn new(rates: &PeerRates, now_ms: u64) -> Self {
        Self {
            frames: Bucket::full(f64::from(rates.frames), now_ms),
            frame_bytes: Bucket::full(rates.frame_bytes as f64, now_ms),
            requests: Bucket::full(f64::from(rates.requests), now_ms),
            served_bytes: Bucket::full(rates.served_bytes as f64, now_ms),
        }
    }

    /// Whether a frame passes.
    pub(super) fn frame(&mut self, rates: &PeerRates, bytes: usize, now_ms: u64) -> bool {
        self.frames.fill(f64::from(rates.frames), now_ms);
        self.frame_bytes.fill(rates.frame_bytes as f64, now_ms);
        if self.frames.level <= 0.0 || self.frame_bytes.level <= 0.0 {
            return false;
        }
        self.frames.level -= 1.0;
        self.frame_bytes.level -= bytes as f64;
        true
    }

    /// Whether a request passes.
    pub(super) fn request(&mut self, rates: &PeerRates, now_ms: u64) -> bool {
        self.requests.fill(f64::from(rates.requests), now_ms);
        self.served_bytes.fill(rates.served_bytes as f64, now_ms);
        if self.requests.level <= 0.0 || self.served_bytes.level <= 0.0 {
            return false;
        }
        self.requests.level -= 1.0;
        true
    }

    /// Takes note of an answer.
    pub(super) fn served(&mut self, rates: &PeerRates, bytes: usize, now_ms: u64) {
        self.served_bytes.fill(rates.served_bytes as f64, now_ms);
        self.served_bytes.level -= bytes as f64;
    }

    /// Whether they are as those of a peer that has not been heard of.
    pub(super) fn are_full(&mut self, rates: &PeerRates, now_ms: u64) -> bool {
        self.frames.is_full(f64::from(rates.frames), now_ms)
            && self.frame_bytes.is_full(rates.frame_bytes as f64, now_ms)
            && self.requests.is_full(f64::from(rates.requests), now_ms)
            && self.served_bytes.is_full(rates.served_bytes as f64, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: PeerRates = PeerRates { frames: 10, frame_bytes: 1000, requests: 5, served_bytes: 2000 };

    fn passing(allowances: &mut Allowances, bytes: usize, now_ms: u64) -> usize {
        (0..1000).take_while(|_| allowances.frame(&RATES, bytes, now_ms)).count()
    }

    #[test]
    fn a_burst_passes_and_then_what_the_rate_gives() {
        let mut allowances = Allowances::new(&RATES, 0);
        assert_eq!(passing(&mut allowances, 1, 0), 40);
        assert_eq!(passing(&mut allowances, 1, 500), 5);
        assert_eq!(passing(&mut allowances, 1, 1000), 5);
        assert_eq!(passing(&mut allowances, 1, 3_600_000), 40, "a long silence gives one burst, not more");
        assert_eq!(passing(&mut allowances, 1, 0), 0, "a clock that steps back gives nothing");
    }

    #[test]
    fn bytes_are_bounded_as_well_as_frames() {
        let mut allowances = Allowances::new(&RATES, 0);
        assert_eq!(passing(&mut allowances, 900, 0), 5, "the last one may go into debt");
        assert_eq!(passing(&mut allowances, 900, 400), 0, "the debt is paid first");
        assert_eq!(passing(&mut allowances, 900, 600), 1);
    }

    #[test]
    fn requests_are_bounded_by_their_number_and_by_what_they_are_answered_with() {
        let mut allowances = Allowances::new(&RATES, 0);
        assert_eq!((0..100).filter(|_| allowances.request(&RATES, 0)).count(), 20);
        assert!(allowances.request(&RATES, 1000));
        allowances.served(&RATES, 10_000, 1000);
        assert!(!allowances.request(&RATES, 1000));
        assert!(!allowances.request(&RATES, 1900));
        assert!(allowances.request(&RATES, 2100), "what was served too much is paid back by waiting");
        assert!(!allowances.are_full(&RATES, 2100));
        assert!(allowances.are_full(&RATES, 60_000));
    }
}
