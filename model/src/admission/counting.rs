//! The third stratum: which sound operations are admitted.

use super::{Admission, Admitted, Shadow};
use crate::ids::DeviceId;
use crate::planted::{Bug, planted};

impl Admission {
    /// Admits a sound operation that counts by itself, with all that it builds on; keeps any other.
    pub(super) fn count(&mut self, sound: Shadow, limit: u64, admitted: &mut Vec<Admitted>) {
        let Admitted { author, log, sequence, .. } = sound.operation;
        let by_itself = log == author && sequence <= limit || planted(Bug::CutIgnored);
        let held = self.logs.get_mut(&log).expect("a sound operation is held");
        held.shadow.push_back(sound);
        if by_itself {
            self.let_in(log, sequence, admitted);
        } else {
            self.shadowed.insert(log);
        }
    }

    /// Admits a log's sound operations up to `through` and their causal past, in causal order.
    pub(super) fn let_in(&mut self, log: DeviceId, through: u64, admitted: &mut Vec<Admitted>) {
        let mut open = vec![(log, through)];
        while let Some((log, through)) = open.last().copied() {
            let held = &self.logs[&log];
            let next = held.sound + 1 - held.shadow.len() as u64;
            if next > through || held.shadow.is_empty() {
                if held.shadow.is_empty() {
                    self.shadowed.remove(&log);
                }
                open.pop();
                continue;
            }
            let lacking = held.shadow[0].builds_on.iter().find(|on| self.uncounted_at(&on.author, on.sequence));
            let lacking = lacking.map(|on| (on.author, on.sequence));
            match lacking {
                Some(position) if !planted(Bug::VouchingForgotten) => open.push(position),
                _ => {
                    let held = self.logs.get_mut(&log).expect("it was looked at");
                    let Some(Shadow { operation, .. }) = held.shadow.pop_front() else { continue };
                    self.admitted.advance(log, operation.sequence, operation.id);
                    admitted.push(operation);
                }
            }
        }
    }

    /// Whether a sound operation does not count yet.
    pub(super) fn uncounted_at(&self, log: &DeviceId, sequence: u64) -> bool {
        self.logs.get(log).is_some_and(|held| sequence > held.sound - held.shadow.len() as u64)
    }

    /// Admits what counts by itself since the membership changed, and finds what does not any more.
    pub(super) fn let_in_members(&mut self, admitted: &mut Vec<Admitted>) {
        for log in self.shadowed.clone() {
            let limit = self.membership.limit(&log).min(self.sound(&log));
            if self.uncounted(&log).is_some_and(|(first, _)| first <= limit) {
                self.let_in(log, limit, admitted);
            }
        }
        for (author, limit) in self.membership.take_lowered() {
            self.outdated |= self.sound(&author) > limit;
        }
        self.let_in_resolved(admitted);
    }

    /// Admits what the steward's records resolve, as far as it is sound.
    pub(super) fn let_in_resolved(&mut self, admitted: &mut Vec<Admitted>) {
        if self.resolved.len() == self.membership.resolved().len() {
            return;
        }
        for (index, head) in self.membership.resolved().to_vec().into_iter().enumerate() {
            if self.resolved.contains(&index) {
                continue;
            }
            let log = self.log_of(&head.author, head.sequence, &head.id);
            if let Some(log) = log.filter(|log| self.sound(log) >= head.sequence) {
                self.resolved.insert(index);
                self.let_in(log, head.sequence, admitted);
            }
        }
    }
}
