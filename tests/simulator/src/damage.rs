//! Bits that flip on a disk: where they may, and that the device comes to hold again what they took.
//!
//! A bit flips only in a stored operation of another author of which another device holds a durable copy that nothing
//! happened to. What a device lost of its own log alone could be had from nobody, and it would have to know that others
//! may hold it.

use syncline_model::{DeviceId, VersionVector};
use syncline_storage::Disk;
use syncline_sync::Replica;

use crate::faults::draw_down;
use crate::happening::Happening;
use crate::random::Choices;
use crate::world::World;

/// Records at the end of a log that are left alone: without the index nothing may prove that they were durable, so that
/// recovery takes damage there for a torn write and cuts what follows.
const TAIL_RECORDS: usize = 80;
/// Bytes of a record in which a bit may flip; records are longer.
const RECORD_BYTES: u64 = 120;

/// What happened to a device's disk.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// What its operations hold no more: space, author, first and last sequence.
    pub(crate) flipped: Vec<(usize, usize, u64, u64)>,
    /// What it held before in each space, until it does again.
    pub(crate) healing: Vec<(usize, VersionVector)>,
}

impl Damage {
    /// Whether what it shows of a space may have gone back for a while.
    pub(crate) fn is_healing(&self, space: usize) -> bool {
        self.healing.iter().any(|(other, _)| *other == space)
    }

    /// Whether anything of a range was damaged here.
    fn concerns(&self, space: usize, author: usize, first: u64, last: u64) -> bool {
        let meets = |(other, by, from, to): &(usize, usize, u64, u64)| {
            (*other, *by) == (space, author) && *from <= last && first <= *to
        };
        self.flipped.iter().any(meets)
    }
}

/// A record in which a bit may flip.
#[derive(Debug, Clone, Copy)]
struct Victim {
    space: usize,
    author: usize,
    first: u64,
    last: u64,
    segment: u32,
    offset: u32,
}

impl World {
    /// Stops a device and flips a bit of what it has stored.
    pub(crate) fn flip_bit(&mut self, number: usize, choices: &mut Choices) {
        let victims = self.victims(number);
        let down = draw_down(choices);
        if victims.is_empty() {
            return self.stop(number, down, choices);
        }
        let victim = victims[choices.below(victims.len() as u64) as usize];
        let Victim { space, author, first, last, segment, offset } = victim;
        self.stop(number, down, choices);
        let directory = format!("spaces/{}/log", self.surroundings.spaces[space].id);
        let at = u64::from(offset) + choices.below(RECORD_BYTES);
        let device = &mut self.devices[number];
        let names = device.disk.list(&directory).unwrap_or_default();
        let name = names.iter().find(|name| name.trim_start_matches('0').starts_with(&format!("{segment}.")));
        let bit = choices.below(8) as u8;
        if !name.is_some_and(|name| device.disk.flip_bit(&format!("{directory}/{name}"), at, bit)) {
            return;
        }
        device.damage.flipped.push((space, author, first, last));
        self.note(number, Happening::BitFlipped, [space as u64, at], || {
            format!("in operations {first} to {last} of #{author} in space {space}")
        });
        if choices.chance(60) {
            self.lose_index(number);
        }
    }

    /// The records of a device that it could get again from an honest one.
    fn victims(&self, number: usize) -> Vec<Victim> {
        let mut victims = Vec::new();
        let Some(running) = &self.devices[number].running else { return victims };
        for (space, hosted) in &running.hosted {
            let space = *space;
            let (mut of_space, mut records, mut last_segment) = (Vec::new(), 0, 0);
            let mut visit = |position: syncline_storage::Position, summary: syncline_model::RunSummary| {
                let Some(author) = self.surroundings.number(&summary.author) else { return };
                let (first, last) = (summary.first, summary.last());
                (records, last_segment) = (records + 1, position.segment());
                if author != number && self.has_other_copy(number, space, author, first, last) {
                    let (segment, offset) = (position.segment(), position.offset());
                    of_space.push((records, Victim { space, author, first, last, segment, offset }));
                }
            };
            // A log that cannot be read is found out by its own device.
            let _unread = hosted.replica.log().replay(None, &mut visit);
            let is_proven = |at: usize, victim: &Victim| victim.segment < last_segment || at + TAIL_RECORDS <= records;
            victims.extend(of_space.into_iter().filter(|(at, one)| is_proven(*at, one)).map(|(_, one)| one));
        }
        victims
    }

    /// Whether another honest device holds a range, and nothing happened to it there.
    fn has_other_copy(&self, number: usize, space: usize, author: usize, first: u64, last: u64) -> bool {
        let id = self.surroundings.ids[author];
        let holds = |other: &usize| {
            let durable = self.ledgers[space].durable.get(other).map_or(0, |vector| vector.sequence(&id));
            durable >= last && !self.devices[*other].damage.concerns(space, author, first, last)
        };
        let others = self.plan().spaces[space].members.keys();
        let gives = |other: &&usize| {
            **other != number && !self.plan().lies(**other) && !self.plan().may_be_removed(space, **other)
        };
        others.filter(gives).any(holds)
    }

    /// Takes note that a device holds again what damage took from it.
    pub(crate) fn check_healing(&mut self, number: usize) {
        let Some(running) = &self.devices[number].running else { return };
        if self.devices[number].damage.healing.is_empty() {
            return;
        }
        let is_whole = |(space, before): &(usize, VersionVector)| {
            let cuts = &self.ledgers[*space].decided.cuts;
            // What lies behind a cut is not offered any more.
            let least = |id: &DeviceId, sequence: u64| {
                let cut = self.surroundings.number(id).and_then(|author| cuts.get(&author));
                cut.map_or(sequence, |cut| sequence.min(*cut))
            };
            running.hosted.get(space).is_some_and(|hosted| {
                let admitted = hosted.replica.core().state().admission().admitted();
                let vector = hosted.replica.core().state().vector();
                let covers = |held: &VersionVector| {
                    before.iter().all(|(id, entry)| held.sequence(id) >= least(id, entry.sequence))
                };
                covers(admitted) && covers(vector)
            })
        };
        let healed: Vec<usize> =
            self.devices[number].damage.healing.iter().filter(|one| is_whole(one)).map(|one| one.0).collect();
        for space in healed {
            let damage = &mut self.devices[number].damage;
            damage.healing.retain(|(other, _)| *other != space);
            self.note(number, Happening::DamageHealed, [space as u64, 0], || format!("in space {space}"));
        }
    }
}
