//! How peers conduct themselves: faults with their points, bans that end, and what goes beyond a peer's allowance.
//!
//! A fault is what no correct peer does, whatever it knows or lacks: bytes that are wrong by themselves, answers to
//! what was not asked. To be late, to know less, to forward the two sides of somebody's fork is none. Each fault has
//! points; a peer's score is their sum, halved every [`SCORE_HALF_LIFE_MS`]. At [`BAN_SCORE`] the peer is banned for
//! [`BAN_MS`], twice as long each further time up to [`BAN_MAX_MS`]; after [`BAN_MEMORY_MS`] without a ban it begins
//! anew. A person may ban a peer for any time, and end any ban.
//!
//! What exceeds the [allowances](super::rates) is dropped and counted, and is no fault: a correct peer may be faster
//! than this one likes. It is one only when more was dropped within one second than any correct peer can bring about,
//! whatever the allowances are: [`FLOOD_FRAMES`], [`FLOOD_FRAME_BYTES`] or [`FLOOD_REQUESTS`].
//!
//! No clock in here: the time is an argument, in milliseconds since 1970, and never steps back.

use std::collections::BTreeMap;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use syncline_model::DeviceId;

use super::rates::{Allowances, PeerRates};

/// The score at which a peer is banned.
pub const BAN_SCORE: f64 = 100.0;
/// How long it takes until half of a score is forgotten.
pub const SCORE_HALF_LIFE_MS: u64 = 10 * 60 * 1000;
/// How long a peer is banned the first time.
pub const BAN_MS: u64 = 10 * 60 * 1000;
/// How long a peer is banned at most for its faults.
pub const BAN_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// How long after a ban the next one is longer for it.
pub const BAN_MEMORY_MS: u64 = 24 * 60 * 60 * 1000;
/// How many gossip frames of a peer that floods are dropped within one second. A correct peer makes one frame for each
/// sync of its disk and space, and nobody's queue towards a peer holds more than a thousand.
pub const FLOOD_FRAMES: u32 = 65_536;
/// How many bytes of them: a correct peer signs, seals and stores what it sends first.
pub const FLOOD_FRAME_BYTES: u64 = 512 << 20;
/// How many requests of a peer that floods are dropped within one second. A correct peer has a few thousand open at
/// most, and leaves alone for some time whoever refused one.
pub const FLOOD_REQUESTS: u32 = 16_384;
/// How many bans of persons are kept.
pub const BANS_MAX: usize = 1024;
/// Of how many peers anything is remembered.
const PEERS_MAX: usize = 4096;
/// A score below this is as good as none.
const SCORE_MIN: f64 = 1.0;
/// The time in which a flood is measured.
const FLOOD_WINDOW_MS: u64 = 1000;

/// What no correct peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fault {
    /// It sent operations whose signature does not hold.
    BadSignature,
    /// It sent operations that do not decode.
    MalformedRun,
    /// It answered with bytes that do not decode.
    MalformedResponse,
    /// It gave the answer to another question.
    UnexpectedResponse,
    /// It sent operations that were not asked for.
    NotAskedFor,
    /// It sent more bytes than were asked for.
    OversizedPage,
    /// It forwarded gossip that is invalid by itself.
    InvalidGossip,
    /// It asked with bytes that do not decode.
    MalformedRequest,
    /// It sent more within a second than any correct peer can.
    Flood,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::BadSignature,
        Self::MalformedRun,
        Self::MalformedResponse,
        Self::UnexpectedResponse,
        Self::NotAskedFor,
        Self::OversizedPage,
        Self::InvalidGossip,
        Self::MalformedRequest,
        Self::Flood,
    ];

    /// Its name, as in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadSignature => "bad-signature",
            Self::MalformedRun => "malformed-run",
            Self::MalformedResponse => "malformed-response",
            Self::UnexpectedResponse => "unexpected-response",
            Self::NotAskedFor => "not-asked-for",
            Self::OversizedPage => "oversized-page",
            Self::InvalidGossip => "invalid-gossip",
            Self::MalformedRequest => "malformed-request",
            Self::Flood => "flood",
        }
    }

    /// How much it counts towards [`BAN_SCORE`].
    pub const fn points(self) -> u32 {
        match self {
            Self::BadSignature | Self::MalformedRun => 50,
            Self::MalformedResponse | Self::UnexpectedResponse | Self::NotAskedFor | Self::OversizedPage => 25,
            Self::InvalidGossip | Self::MalformedRequest | Self::Flood => 10,
        }
    }
}

/// How often a peer was at one fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultCount {
    /// What it did.
    pub fault: Fault,
    /// How often.
    pub count: u64,
    /// When it did so last, in milliseconds since 1970.
    pub last_ms: u64,
}

/// How a peer conducts itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerConduct {
    /// The points of its faults that are not forgotten; at 100 it is banned.
    pub score: u32,
    /// Its faults.
    pub faults: Vec<FaultCount>,
    /// Until when it is banned, in milliseconds since 1970.
    pub banned_until_ms: Option<u64>,
    /// Whether a person banned it.
    pub banned_by_person: bool,
    /// Gossip frames of it that were dropped unopened, beyond what it may send.
    pub frames_limited: u64,
    /// Requests of it that were dropped unread, beyond what it may ask.
    pub requests_limited: u64,
}

/// A ban that a person set, to be kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Who is banned.
    pub device: DeviceId,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
}

/// As many bans are kept as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{BANS_MAX} peers are banned already: end a ban first (`syncline peers unban`)")]
pub struct TooManyBans;

/// What becomes of something that a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    /// It is looked at.
    Passed,
    /// It is dropped.
    Limited,
    /// It is dropped, and its sender is banned from now on.
    Banned,
}

#[derive(Debug, Clone, Copy)]
struct Banned {
    until_ms: u64,
    by_person: bool,
}

/// What is remembered of one peer.
#[derive(Debug)]
struct Record {
    points: f64,
    points_at_ms: u64,
    faults: BTreeMap<Fault, (u64, u64)>,
    ban: Option<Banned>,
    /// Bans for faults, the latest of which ended or ends at `banned_ms`.
    bans: u32,
    banned_ms: u64,
    allowances: Allowances,
    frames_limited: u64,
    requests_limited: u64,
    /// How much of a flood was dropped since.
    dropped: f64,
    dropped_since_ms: u64,
}

impl Record {
    fn score(&self, now_ms: u64) -> f64 {
        let age = now_ms.saturating_sub(self.points_at_ms) as f64 / SCORE_HALF_LIFE_MS as f64;
        self.points * (-age).exp2()
    }

    /// Whether forgetting it changes nothing.
    fn is_idle(&mut self, rates: &PeerRates, now_ms: u64) -> bool {
        self.ban.is_none()
            && self.score(now_ms) < SCORE_MIN
            && (self.bans == 0 || self.banned_ms + BAN_MEMORY_MS <= now_ms)
            && self.allowances.are_full(rates, now_ms)
    }
}

/// The conduct of all peers.
#[derive(Debug)]
pub(super) struct Conduct {
    rates: PeerRates,
    peers: BTreeMap<DeviceId, Record>,
    figures: Figures,
}

impl Conduct {
    /// Nothing remembered but the bans of persons that have not ended.
    pub(super) fn new(rates: PeerRates, bans: &[Ban], figures: Figures, now_ms: u64) -> Self {
        let mut conduct = Self { rates, peers: BTreeMap::new(), figures };
        for ban in bans.iter().filter(|ban| ban.until_ms > now_ms).take(BANS_MAX) {
            conduct.record(ban.device, now_ms).ban = Some(Banned { until_ms: ban.until_ms, by_person: true });
        }
        conduct.count_bans();
        conduct
    }

    /// Holds a fault against a peer; tells whether it is banned for it.
    pub(super) fn blame(&mut self, device: DeviceId, fault: Fault, now_ms: u64) -> bool {
        self.figures.faults.get_or_create(&[("fault", fault.name())]).inc();
        let record = self.record(device, now_ms);
        let count = record.faults.entry(fault).or_default();
        *count = (count.0.saturating_add(1), now_ms);
        record.points = record.score(now_ms) + f64::from(fault.points());
        record.points_at_ms = now_ms;
        if record.ban.is_some() || record.points < BAN_SCORE {
            return false;
        }
        if record.banned_ms + BAN_MEMORY_MS <= now_ms {
            record.bans = 0;
        }
        let length = BAN_MS.saturating_mul(1 << record.bans.min(30)).min(BAN_MAX_MS);
        record.bans += 1;
        record.banned_ms = now_ms + length;
        record.ban = Some(Banned { until_ms: record.banned_ms, by_person: false });
        // It has been paid for with the ban.
        record.points = 0.0;
        self.figures.bans.inc();
        self.count_bans();
        true
    }

    /// Bans a peer because a person wants it.
    pub(super) fn ban(&mut self, device: DeviceId, until_ms: u64, now_ms: u64) -> Result<(), TooManyBans> {
        let others = self.peers.iter().filter(|(peer, record)| **peer != device && record.is_banned_by_person());
        if others.count() >= BANS_MAX {
            return Err(TooManyBans);
        }
        self.record(device, now_ms).ban = Some(Banned { until_ms, by_person: true });
        self.figures.bans.inc();
        self.count_bans();
        Ok(())
    }

    /// Forgives a peer everything; tells whether it was banned.
    pub(super) fn unban(&mut self, device: DeviceId) -> bool {
        let banned = self.peers.remove(&device).is_some_and(|record| record.ban.is_some());
        self.count_bans();
        banned
    }

    /// Ends the bans whose time is over, and names the peers.
    pub(super) fn end_bans(&mut self, now_ms: u64) -> Vec<DeviceId> {
        let mut ended = Vec::new();
        for (device, record) in &mut self.peers {
            if record.ban.is_some_and(|ban| ban.until_ms <= now_ms) {
                record.ban = None;
                ended.push(*device);
            }
        }
        self.count_bans();
        ended
    }

    /// When the next ban ends.
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.peers.values().filter_map(|record| Some(record.ban?.until_ms)).min()
    }

    /// Until when a peer is banned.
    pub(super) fn banned_until_ms(&self, device: DeviceId) -> Option<u64> {
        Some(self.peers.get(&device)?.ban?.until_ms)
    }

    /// Everybody who is banned.
    pub(super) fn banned(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.peers.iter().filter(|(_, record)| record.ban.is_some()).map(|(device, _)| *device)
    }

    /// The bans that persons set.
    pub(super) fn bans_of_persons(&self) -> Vec<Ban> {
        let of_person = |(device, record): (&DeviceId, &Record)| {
            let ban = record.ban.filter(|ban| ban.by_person)?;
            Some(Ban { device: *device, until_ms: ban.until_ms })
        };
        self.peers.iter().filter_map(of_person).collect()
    }

    /// Decides whether a gossip frame is looked at.
    pub(super) fn frame(&mut self, device: DeviceId, bytes: usize, now_ms: u64) -> Passage {
        let rates = self.rates;
        let record = self.record(device, now_ms);
        if record.allowances.frame(&rates, bytes, now_ms) {
            return Passage::Passed;
        }
        record.frames_limited += 1;
        self.figures.frames_limited.inc();
        let share = (1.0 / f64::from(FLOOD_FRAMES)).max(bytes as f64 / FLOOD_FRAME_BYTES as f64);
        self.dropped(device, share, now_ms)
    }

    /// Decides whether a request is looked at.
    pub(super) fn request(&mut self, device: DeviceId, now_ms: u64) -> Passage {
        let rates = self.rates;
        let record = self.record(device, now_ms);
        if record.allowances.request(&rates, now_ms) {
            return Passage::Passed;
        }
        record.requests_limited += 1;
        self.figures.requests_limited.inc();
        self.dropped(device, 1.0 / f64::from(FLOOD_REQUESTS), now_ms)
    }

    /// Takes note of an answer to a peer.
    pub(super) fn served(&mut self, device: DeviceId, bytes: usize, now_ms: u64) {
        let rates = self.rates;
        self.record(device, now_ms).allowances.served(&rates, bytes, now_ms);
    }

    /// What is shown of a peer.
    pub(super) fn of(&self, device: DeviceId, now_ms: u64) -> PeerConduct {
        let Some(record) = self.peers.get(&device) else { return PeerConduct::default() };
        let fault = |(fault, (count, last_ms)): (&Fault, &(u64, u64))| FaultCount {
            fault: *fault,
            count: *count,
            last_ms: *last_ms,
        };
        PeerConduct {
            score: record.score(now_ms).round() as u32,
            faults: record.faults.iter().map(fault).collect(),
            banned_until_ms: record.ban.map(|ban| ban.until_ms),
            banned_by_person: record.is_banned_by_person(),
            frames_limited: record.frames_limited,
            requests_limited: record.requests_limited,
        }
    }

    /// Takes note that so much of a flood was dropped.
    fn dropped(&mut self, device: DeviceId, share: f64, now_ms: u64) -> Passage {
        let record = self.record(device, now_ms);
        if record.dropped_since_ms + FLOOD_WINDOW_MS <= now_ms {
            (record.dropped, record.dropped_since_ms) = (0.0, now_ms);
        }
        let before = record.dropped;
        record.dropped += share;
        // Once for each window.
        let floods = before < 1.0 && record.dropped >= 1.0;
        match floods && self.blame(device, Fault::Flood, now_ms) {
            true => Passage::Banned,
            false => Passage::Limited,
        }
    }

    fn record(&mut self, device: DeviceId, now_ms: u64) -> &mut Record {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&device) {
            self.make_room(now_ms);
        }
        let rates = &self.rates;
        self.peers.entry(device).or_insert_with(|| Record {
            points: 0.0,
            points_at_ms: now_ms,
            faults: BTreeMap::new(),
            ban: None,
            bans: 0,
            banned_ms: 0,
            allowances: Allowances::new(rates, now_ms),
            frames_limited: 0,
            requests_limited: 0,
            dropped: 0.0,
            dropped_since_ms: 0,
        })
    }

    /// Forgets peers of whom nothing speaks against it, or else the one of whom the least does.
    fn make_room(&mut self, now_ms: u64) {
        let rates = self.rates;
        self.peers.retain(|_, record| !record.is_idle(&rates, now_ms));
        if self.peers.len() < PEERS_MAX {
            return;
        }
        let weight = |record: &Record| match record.ban {
            None => (false, record.score(now_ms) as u64),
            Some(ban) => (true, ban.until_ms),
        };
        let others = self.peers.iter().filter(|(_, record)| !record.is_banned_by_person());
        if let Some((device, _)) = others.min_by_key(|(_, record)| weight(record)) {
            let device = *device;
            self.peers.remove(&device);
        }
    }

    fn count_bans(&self) {
        self.figures.banned.set(self.banned().count() as i64);
    }
}

impl Record {
    fn is_banned_by_person(&self) -> bool {
        self.ban.is_some_and(|ban| ban.by_person)
    }
}

/// What a monitoring system reads of the peers' conduct.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    faults: Family<[(&'static str, &'static str); 1], Counter>,
    bans: Counter,
    banned: Gauge,
    frames_limited: Counter,
    requests_limited: Counter,
}

impl Figures {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let figures = Self::default();
        registry.register("peer_faults", "What peers did that no correct peer does", figures.faults.clone());
        registry.register("peer_bans", "Bans of peers, for faults and by persons", figures.bans.clone());
        registry.register("peers_banned", "Peers that are banned now", figures.banned.clone());
        let help = "Gossip frames dropped unopened because their sender sent too many";
        registry.register("gossip_frames_limited", help, figures.frames_limited.clone());
        let help = "Requests dropped unread because their sender asked too much";
        registry.register("requests_limited", help, figures.requests_limited.clone());
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: DeviceId = DeviceId([1; 32]);
    const RATES: PeerRates = PeerRates { frames: 10, frame_bytes: 10_000, requests: 10, served_bytes: 10_000 };
    const BEGIN: u64 = 1_800_000_000_000;

    fn conduct() -> Conduct {
        Conduct::new(RATES, &[], Figures::default(), BEGIN)
    }

    fn number(number: u32) -> DeviceId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        DeviceId(id)
    }

    #[test]
    fn faults_add_up_to_a_ban_and_tell_why() {
        let mut conduct = conduct();
        assert!(!conduct.blame(PEER, Fault::NotAskedFor, BEGIN));
        assert!(!conduct.blame(PEER, Fault::BadSignature, BEGIN + 1));
        assert_eq!(conduct.of(PEER, BEGIN + 1).score, 75);
        assert!(conduct.blame(PEER, Fault::BadSignature, BEGIN + 2));
        let shown = conduct.of(PEER, BEGIN + 2);
        let count = |fault, count, last_ms| FaultCount { fault, count, last_ms };
        let expected = [count(Fault::BadSignature, 2, BEGIN + 2), count(Fault::NotAskedFor, 1, BEGIN)];
        assert_eq!(shown.faults, expected);
        assert_eq!((shown.banned_until_ms, shown.banned_by_person), (Some(BEGIN + 2 + BAN_MS), false));
        assert!(!conduct.blame(PEER, Fault::BadSignature, BEGIN + 3), "one ban at a time");
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut conduct = conduct();
        for at in 0..100 {
            let now_ms = BEGIN + at * SCORE_HALF_LIFE_MS;
            assert!(!conduct.blame(PEER, Fault::NotAskedFor, now_ms), "one fault in a while bans nobody");
        }
        let later = BEGIN + 200 * SCORE_HALF_LIFE_MS;
        assert_eq!(conduct.of(PEER, later).score, 0);
        assert_eq!(conduct.of(PEER, later).faults[0].count, 100);
    }

    #[test]
    fn each_further_ban_is_twice_as_long_up_to_a_maximum() {
        let (mut conduct, mut now_ms, mut lengths) = (conduct(), BEGIN, Vec::new());
        for _ in 0..10 {
            while !conduct.blame(PEER, Fault::BadSignature, now_ms) {}
            let until_ms = conduct.banned_until_ms(PEER).unwrap();
            lengths.push(until_ms - now_ms);
            assert_eq!(conduct.end_bans(until_ms - 1), []);
            assert_eq!(conduct.next_end_ms(), Some(until_ms));
            assert_eq!(conduct.end_bans(until_ms), [PEER]);
            now_ms = until_ms;
        }
        assert_eq!(lengths[..3], [BAN_MS, 2 * BAN_MS, 4 * BAN_MS]);
        assert_eq!(lengths[9], BAN_MAX_MS);
        now_ms += BAN_MEMORY_MS;
        while !conduct.blame(PEER, Fault::BadSignature, now_ms) {}
        assert_eq!(conduct.banned_until_ms(PEER), Some(now_ms + BAN_MS), "in the end it begins anew");
    }

    #[test]
    fn who_is_faster_than_allowed_is_slowed_down_and_not_blamed() {
        let mut conduct = conduct();
        for second in 0..600 {
            // Six hundred times what it may, all the time: as fast as a correct peer can be.
            let passed =
                (0..6000).filter(|_| conduct.frame(PEER, 10, BEGIN + second * 1000) == Passage::Passed).count();
            assert!(second < 4 || passed <= 11, "{passed} at {second}");
        }
        let shown = conduct.of(PEER, BEGIN + 600_000);
        assert_eq!((shown.score, shown.faults.len(), shown.banned_until_ms), (0, 0, None));
        assert!(shown.frames_limited > 3_000_000, "{}", shown.frames_limited);
        assert_eq!(shown.requests_limited, 0);
    }

    #[test]
    fn who_floods_is_banned() {
        let mut conduct = conduct();
        // A hundred thousand in a second: a fault in each, and ten of them.
        let mut sent = (0..).map(|at| conduct.frame(PEER, 10, BEGIN + at / 100));
        let banned_after = sent.position(|passage| passage == Passage::Banned).unwrap();
        assert!((900_000..1_100_000).contains(&banned_after), "{banned_after}");
        assert_eq!(conduct.of(PEER, BEGIN + 10_000).faults[0].fault, Fault::Flood);
        let mut asked = (0..).map(|at| conduct.request(number(2), BEGIN + at / 100));
        assert!(asked.any(|passage| passage == Passage::Banned));
    }

    #[test]
    fn bans_of_persons_are_kept_and_bounded_and_can_be_ended() {
        let mut conduct = conduct();
        conduct.ban(PEER, BEGIN + 1000, BEGIN).unwrap();
        let bans = conduct.bans_of_persons();
        assert_eq!(bans, [Ban { device: PEER, until_ms: BEGIN + 1000 }]);
        let again = |now_ms| Conduct::new(RATES, &bans, Figures::default(), now_ms);
        assert!(again(BEGIN + 999).of(PEER, BEGIN).banned_by_person);
        assert_eq!(again(BEGIN + 1000).banned_until_ms(PEER), None, "a ban that ended meanwhile is none");
        for peer in 1..BANS_MAX as u32 {
            conduct.ban(number(peer), BEGIN + 1000, BEGIN).unwrap();
        }
        assert_eq!(conduct.ban(number(5000), BEGIN + 1, BEGIN), Err(TooManyBans));
        assert_eq!(conduct.ban(PEER, BEGIN + 5, BEGIN), Ok(()), "a ban may be replaced");
        assert!(conduct.unban(PEER) && !conduct.unban(PEER));
        while !conduct.blame(PEER, Fault::MalformedRun, BEGIN) {}
        assert_eq!(conduct.bans_of_persons().len(), BANS_MAX - 1, "those for faults do not outlast the node");
        assert!(conduct.unban(PEER), "a person may end any ban");
        assert_eq!(conduct.of(PEER, BEGIN), PeerConduct::default());
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let mut conduct = conduct();
        conduct.ban(PEER, BEGIN + 1, BEGIN).unwrap();
        while !conduct.blame(number(7), Fault::BadSignature, BEGIN) {}
        for peer in 10..3 * PEERS_MAX as u32 {
            conduct.blame(number(peer), Fault::InvalidGossip, BEGIN);
        }
        assert!(conduct.peers.len() <= PEERS_MAX);
        assert!(conduct.banned_until_ms(PEER).is_some() && conduct.banned_until_ms(number(7)).is_some());
        // A day later nothing of the small faults is left to remember.
        conduct.blame(number(1), Fault::Flood, BEGIN + BAN_MEMORY_MS);
        assert!(conduct.peers.len() <= 3, "{}", conduct.peers.len());
    }
}
