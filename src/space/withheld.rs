//! Whether membership may be other than it looks here, since something is announced or built on and not delivered.
//!
//! Nobody can tell a peer that withholds from one that does not hold. What can be known: operations here build on one
//! that nobody gives, or peers say that they hold more of the steward's log than they give. When that lasts for
//! [`WITHHELD_MS`] while peers are connected, it is told in words. Without peers nothing is told, since then nobody
//! withholds anything.

use std::collections::BTreeSet;

use syncline_model::DeviceId;

/// How long something is missing while peers are connected before it is told: longer than a peer is left alone after
/// failures.
pub const WITHHELD_MS: u64 = 120_000;
/// How many peers are named.
const NAMED_MAX: usize = 4;

/// What is seen at one moment.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// The steward, as far as is known.
    pub(super) steward: Option<DeviceId>,
    /// How much of the steward's log is held.
    pub(super) held: u64,
    /// An operation that held ones build on.
    pub(super) wanted: Option<(DeviceId, u64)>,
    /// How much of the steward's log peers say they hold, of those who hold more.
    pub(super) claims: Vec<(DeviceId, u64)>,
    /// The connected peers that share the space.
    pub(super) peers: BTreeSet<DeviceId>,
}

#[derive(Debug)]
struct Wait {
    author: DeviceId,
    sequence: u64,
    since_ms: u64,
    /// Who says that it holds it.
    claimed_by: BTreeSet<DeviceId>,
}

/// What has been missing, and since when.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    steward: Option<DeviceId>,
    wanted: Option<Wait>,
    claimed: Option<Wait>,
    peers: BTreeSet<DeviceId>,
}

impl Withheld {
    /// Looks once more.
    pub(super) fn look(&mut self, sight: Sight, now_ms: u64) {
        self.steward = sight.steward;
        self.look_for_wanted(&sight, now_ms);
        self.look_for_claimed(&sight, now_ms);
        self.peers = sight.peers;
    }

    fn look_for_wanted(&mut self, sight: &Sight, now_ms: u64) {
        let wanted = sight.wanted.filter(|_| !sight.peers.is_empty());
        let same = |wait: &Wait| Some((wait.author, wait.sequence)) == wanted;
        if self.wanted.as_ref().is_some_and(same) {
            return;
        }
        let begun = |(author, sequence)| Wait { author, sequence, since_ms: now_ms, claimed_by: BTreeSet::new() };
        self.wanted = wanted.map(begun);
    }

    /// What a peer said is remembered until it is held or the peer is gone: it is asked in vain only now and then.
    fn look_for_claimed(&mut self, sight: &Sight, now_ms: u64) {
        if let Some(wait) = &mut self.claimed {
            wait.claimed_by.retain(|peer| sight.peers.contains(peer));
            let over = wait.claimed_by.is_empty() || wait.sequence <= sight.held;
            if over || sight.steward != Some(wait.author) {
                self.claimed = None;
            }
        }
        let Some(author) = sight.steward else { return };
        for (peer, sequence) in sight.claims.iter().filter(|(_, sequence)| *sequence > sight.held) {
            // The least that is missing: more may be announced all the time.
            let wait = self.claimed.get_or_insert_with(|| Wait {
                author,
                sequence: sight.held + 1,
                since_ms: now_ms,
                claimed_by: BTreeSet::new(),
            });
            if *sequence >= wait.sequence {
                wait.claimed_by.insert(*peer);
            }
        }
    }

    /// What has been missing for long, in words.
    pub(super) fn problems(&self, now_ms: u64) -> Vec<String> {
        let lasts = |wait: &&Wait| now_ms.saturating_sub(wait.since_ms) >= WITHHELD_MS;
        let minutes = |wait: &Wait| now_ms.saturating_sub(wait.since_ms) / 60_000;
        let mut problems = Vec::new();
        if let Some(wait) = self.claimed.as_ref().filter(lasts) {
            problems.push(format!(
                "members may have changed: operation {} of the steward's log is announced and has not been given for \
                 {} minutes; withheld by {}",
                wait.sequence,
                minutes(wait),
                named(&wait.claimed_by)
            ));
        }
        if let Some(wait) = self.wanted.as_ref().filter(lasts) {
            let (what, of) = match self.steward == Some(wait.author) {
                true => ("members may have changed", "the steward's log".to_owned()),
                false => ("something is missing that others built on", format!("device {}", wait.author.short())),
            };
            problems.push(format!(
                "{what}: operation {} of {of} has not been given for {} minutes; withheld, or not held, by {}",
                wait.sequence,
                minutes(wait),
                named(&self.peers)
            ));
        }
        problems
    }
}

/// Some of the peers.
fn named(peers: &BTreeSet<DeviceId>) -> String {
    let names: Vec<String> = peers.iter().take(NAMED_MAX).map(|peer| peer.short()).collect();
    match peers.len().saturating_sub(NAMED_MAX) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEWARD: DeviceId = DeviceId([1; 32]);
    const WRITER: DeviceId = DeviceId([2; 32]);
    const PEER: DeviceId = DeviceId([3; 32]);

    fn sight() -> Sight {
        Sight { steward: Some(STEWARD), held: 5, peers: BTreeSet::from([PEER]), ..Sight::default() }
    }

    #[test]
    fn what_is_announced_and_not_given_for_long_is_told() {
        let mut withheld = Withheld::default();
        withheld.look(Sight { claims: vec![(PEER, 7)], ..sight() }, 0);
        // In between the claim is forgotten, since asking was in vain.
        withheld.look(sight(), 1000);
        withheld.look(Sight { claims: vec![(PEER, 9)], ..sight() }, 60_000);
        assert!(withheld.problems(WITHHELD_MS - 1).is_empty());
        let problem = withheld.problems(WITHHELD_MS).remove(0);
        assert!(problem.starts_with("members may have changed: operation 6 of the steward's log"), "{problem}");
        assert!(problem.ends_with(&format!("withheld by {}", PEER.short())), "{problem}");
        withheld.look(Sight { held: 6, ..sight() }, WITHHELD_MS);
        assert!(withheld.problems(2 * WITHHELD_MS).is_empty(), "it came");
    }

    #[test]
    fn a_claim_leaves_with_its_peer() {
        let mut withheld = Withheld::default();
        withheld.look(Sight { claims: vec![(PEER, 7)], ..sight() }, 0);
        withheld.look(Sight { peers: BTreeSet::from([WRITER]), ..sight() }, 10);
        assert!(withheld.problems(WITHHELD_MS).is_empty());
    }

    #[test]
    fn what_is_built_on_and_not_given_is_told_while_peers_are_connected() {
        let mut withheld = Withheld::default();
        let wants = |author| Sight { wanted: Some((author, 9)), ..sight() };
        withheld.look(wants(STEWARD), 0);
        withheld.look(wants(STEWARD), WITHHELD_MS);
        assert!(withheld.problems(WITHHELD_MS)[0].starts_with("members may have changed: operation 9"));
        withheld.look(wants(WRITER), WITHHELD_MS);
        assert!(withheld.problems(WITHHELD_MS).is_empty(), "another wait begins anew");
        assert!(withheld.problems(2 * WITHHELD_MS)[0].starts_with("something is missing"));
        withheld.look(Sight { peers: BTreeSet::new(), ..wants(WRITER) }, 2 * WITHHELD_MS);
        assert!(withheld.problems(9 * WITHHELD_MS).is_empty(), "alone nothing is withheld from anybody");
    }

    #[test]
    fn peers_that_have_more_all_the_time_withhold_nothing() {
        let mut withheld = Withheld::default();
        for step in 0..1000 {
            let sight = Sight { held: step, claims: vec![(PEER, step + 1)], ..sight() };
            withheld.look(sight, step * 1000);
            assert!(withheld.problems(step * 1000).is_empty());
        }
    }
}
