//! What must hold: while it runs, after a device starts again, and once everything has healed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use syncline_model::membership::{ChainRecord, Statement};
use syncline_model::{DeviceId, Role, VectorEntry, VersionVector};
use syncline_sync::Replica;
use syncline_sync::limits::{
    FORKS_MAX, GAPS_BYTES_MAX, PULLS_MAX, STRANGERS_BYTES_MAX, UNWRITTEN_BYTES_MAX, UNWRITTEN_RUNS_MAX,
};

use crate::actions::text_of;
use crate::happening::Happening;
use crate::hosted::Hosted;
use crate::ledger::{Fate, Shown, Tried};
use crate::network::EXCHANGES_PER_PAIR_MAX;
use crate::world::{Violation, World};

/// One seed in so many has its logs verified at the end, since signatures take long to check.
const VERIFIED_EVERY: u64 = 8;
/// Characters from which a value counts as large at the end.
const LARGE_CHARACTERS: usize = 900;
/// One run or page may be handed over beyond what stops further ones.
const UNWRITTEN_SLACK_BYTES: usize = syncline_sync::limits::RESPONSE_BYTES_MAX * 2;
/// Operations of one page, each of which may be a run, may be handed over beyond what stops further ones.
const UNWRITTEN_SLACK_RUNS: usize = 4096;

impl World {
    /// One replica of a device that runs.
    pub(crate) fn hosted(&self, number: usize, space: usize) -> Option<&Hosted> {
        self.devices[number].running.as_ref()?.hosted.get(&space)
    }

    /// Checks after a step that nothing piles up, and remembers what is durable.
    pub(crate) fn settled(&mut self, number: usize) {
        let Some(running) = &self.devices[number].running else { return };
        let mut wrong = None;
        for (space, hosted) in &running.hosted {
            let role = self.surroundings.plan.spaces[*space].role(number);
            if role == Some(Role::Relay) && !hosted.replica.core().state().keys().content.is_empty() {
                wrong = Some(format!("the relay #{number} holds content keys"));
            }
            let load = hosted.replica.core().engine().load();
            let too_much = load.pending_bytes > GAPS_BYTES_MAX + STRANGERS_BYTES_MAX
                || load.pulls_in_flight > PULLS_MAX
                || load.unwritten_bytes > UNWRITTEN_BYTES_MAX + UNWRITTEN_SLACK_BYTES
                || load.unwritten_runs > UNWRITTEN_RUNS_MAX + UNWRITTEN_SLACK_RUNS
                || load.forks > FORKS_MAX;
            if too_much {
                wrong = Some(format!("#{number} keeps more than it may in space {space}: {load:?}"));
            }
            let open = hosted.open_work();
            if open > EXCHANGES_PER_PAIR_MAX * self.devices.len() {
                wrong = Some(format!("{open} requests and frames of peers pile up at #{number}"));
            }
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
        for space in 0..self.ledgers.len() {
            self.remember_durable(number, space);
            self.learn_decisions(number, space);
        }
        if !self.revocations.is_empty() {
            self.watch_revocations();
        }
    }

    /// Remembers what a device now says to be durable; its own log must never have two operations at one place.
    fn remember_durable(&mut self, number: usize, space: usize) {
        let id = self.surroundings.ids[number];
        let Some(running) = &self.devices[number].running else { return };
        let Some(hosted) = running.hosted.get(&space) else { return };
        let state = hosted.replica.core().state();
        let (ledger, durable) = (&mut self.ledgers[space], state.vector());
        let known = ledger.durable.entry(number).or_default();
        let is_healing = self.devices[number].damage.is_healing(space);
        if durable == known && !is_healing {
            return;
        }
        // What damage took is fetched again; until then it counts as held before.
        if is_healing {
            known.join(durable);
        } else {
            known.clone_from(durable);
        }
        let log = ledger.logs.entry(number).or_default();
        let fresh: Vec<_> = (log.len() as u64 + 1..=durable.sequence(&id)).map(|at| state.prefix_at(&id, at)).collect();
        log.extend(fresh.into_iter().flatten());
        self.note(number, Happening::Appended, [space as u64, 0], String::new);
    }

    /// A device that starts again holds all that it ever said to be durable, but for what damage took.
    pub(crate) fn check_recovered(&mut self, number: usize) {
        for space in 0..self.ledgers.len() {
            let Some(hosted) = self.hosted(number, space) else { continue };
            let Some(before) = self.ledgers[space].durable.get(&number).cloned() else { continue };
            let operations = hosted.replica.core().state().vector().operations();
            let lost = self.lost(number, space, hosted, &before);
            if lost.is_empty() {
                if operations > 0 {
                    self.note(number, Happening::Recovered, [operations, space as u64], || {
                        format!("{operations} operations of space {space}")
                    });
                }
                continue;
            }
            let damage = &mut self.devices[number].damage;
            let damaged = |author: usize| damage.flipped.iter().any(|(other, by, ..)| (*other, *by) == (space, author));
            if lost.iter().all(|(author, ..)| author.is_some_and(damaged)) {
                damage.healing.push((space, before));
                continue;
            }
            return self.violate(format!("#{number} lost what was durable when it stopped in space {space}: {lost:?}"));
        }
    }

    /// What a device held and does not hold: author, sequence, and what is held instead.
    fn lost(
        &self,
        number: usize,
        space: usize,
        hosted: &Hosted,
        before: &VersionVector,
    ) -> Vec<(Option<usize>, u64, u64)> {
        let (state, mut lost) = (hosted.replica.core().state(), Vec::new());
        let mut miss = |author: &DeviceId, sequence: u64| {
            lost.push((self.surroundings.number(author), sequence, state.vector().sequence(author)));
        };
        for (author, entry) in before.iter() {
            if state.prefix_at(author, entry.sequence) != Some(entry.id.prefix()) {
                miss(author, entry.sequence);
            }
        }
        let (own, log) = (self.surroundings.ids[number], self.ledgers[space].logs.get(&number));
        for (at, id) in (1..).zip(log.into_iter().flatten()) {
            if state.prefix_at(&own, at) != Some(*id) {
                miss(&own, at);
            }
        }
        lost
    }

    /// What keeps the honest devices from agreeing; none when they do.
    pub(crate) fn disagreement(&self) -> Option<String> {
        let open: usize = self.ledgers.iter().map(crate::ledger::Ledger::open_questions).sum();
        (0..self.ledgers.len())
            .find_map(|space| self.disagreement_in(space).map(|text| format!("in space {space} {text}")))
            .or_else(|| (open > 0).then(|| format!("{open} transactions or questions are open")))
    }

    fn disagreement_in(&self, space: usize) -> Option<String> {
        let (plan, mut first) = (&self.plan().spaces[space], None);
        for (number, member) in plan.members.iter().filter(|(number, _)| !self.plan().lies(**number)) {
            let number = *number;
            if self.is_removed(number, space) {
                continue;
            }
            let Some(hosted) = self.hosted(number, space) else { return Some(format!("#{number} does not run")) };
            let state = hosted.replica.core().state();
            let role = *self.ledgers[space].decided.roles.get(&number).unwrap_or(&member.role);
            if state.role() != Some(role) {
                let forks = |number: usize| {
                    let forks =
                        self.hosted(number, space).map(|hosted| hosted.replica.core().state().membership().forks());
                    let named = |(author, at): (&DeviceId, &u64)| (self.surroundings.number(author), *at);
                    forks.map(|forks| forks.iter().map(named).collect::<Vec<_>>())
                };
                let id = self.surroundings.ids[number];
                let came = |number: usize| {
                    let hosted = self.hosted(number, space);
                    let member =
                        hosted.and_then(|hosted| hosted.replica.core().state().membership().members().get(&id));
                    member.map(|member| {
                        member
                            .admissions
                            .iter()
                            .map(|by| (self.surroundings.number(&by.sponsor), by.sequence))
                            .collect::<Vec<_>>()
                    })
                };
                return Some(format!(
                    "#{number} knows itself as {:?}, forks {:?}; the steward, forks {:?}, admitted it by {:?}",
                    state.role(),
                    forks(number),
                    forks(self.ledgers[space].decided.steward),
                    came(self.ledgers[space].decided.steward)
                ));
            }
            let (vector, admission) = (state.vector(), state.admission());
            if let Some((author, (sequence, refusal))) =
                admission.refused().iter().find(|(author, _)| !self.is_liar(author))
            {
                let author = self.surroundings.number(author);
                return Some(format!("#{number} does not count #{author:?} from {sequence} on: {refusal}"));
            }
            if self.honest_operations(admission.admitted()) != self.honest_operations(vector) {
                let waiting = admission.waiting_operations();
                let ids = self.surroundings.ids.iter();
                let both = ids.map(|id| (admission.admitted().sequence(id), vector.sequence(id)));
                return Some(format!(
                    "{waiting} operations wait at #{number} for {:?}, by id {:?}; admitted and held are {:?}",
                    admission.wanted(),
                    admission.wanted_by_id(),
                    both.collect::<Vec<_>>()
                ));
            }
            if let Some(lacking) = self.lacks_keys(number, space) {
                return Some(lacking);
            }
            let (other, expected) = *first.get_or_insert((number, vector));
            if !self.honest_entries(expected).eq(self.honest_entries(vector)) {
                let ahead = |one: &VersionVector| {
                    let sequences = self.surroundings.ids.iter().map(|id| one.sequence(id));
                    sequences.collect::<Vec<_>>()
                };
                return Some(format!("#{other} holds {:?}, #{number} {:?}", ahead(expected), ahead(vector)));
            }
        }
        None
    }

    fn is_liar(&self, author: &DeviceId) -> bool {
        self.surroundings.number(author).is_some_and(|number| self.plan().lies(number))
    }

    fn honest_entries<'a>(
        &'a self,
        vector: &'a VersionVector,
    ) -> impl Iterator<Item = (&'a DeviceId, &'a VectorEntry)> + 'a {
        // Branches of forked logs, which have names of their own, are liars' too.
        let is_honest = |author: &DeviceId| self.surroundings.number(author).is_some_and(|of| !self.plan().lies(of));
        vector.iter().filter(move |(author, _)| is_honest(author))
    }

    fn honest_operations(&self, vector: &VersionVector) -> u64 {
        self.honest_entries(vector).map(|(_, entry)| entry.sequence).sum()
    }

    /// Nothing counts that a liar wrote, and nothing is kept where its role does not write.
    fn check_unentitled(&mut self, space: usize) -> Result<(), Violation> {
        let mut kept = 0;
        let (liars, honest): (Vec<_>, Vec<_>) =
            self.plan().spaces[space].members.iter().partition(|(number, _)| self.plan().lies(**number));
        for (number, _) in honest {
            let Some(hosted) = self.hosted(*number, space) else { continue };
            let state = hosted.replica.core().state();
            for (liar, member) in &liars {
                let id = self.surroundings.ids[**liar];
                let (held, counts) = (state.vector().sequence(&id), state.admission().admitted().sequence(&id));
                // What its device writes beside the lies, as keys that it owes somebody, is as good as anybody's.
                let written = self.hosted(**liar, space).map_or(0, |own| own.replica.core().state().own_head().0);
                // One operation of the membership may be admitted too: it has no effect.
                let control = self.devices[**liar].liar.as_ref().is_some_and(crate::liar::Liar::signs_control);
                if counts > written.max(u64::from(control)) {
                    return Err(Violation(format!("an operation of the liar #{liar} counts at #{number}")));
                }
                if held > 0 && !member.role.writes() {
                    return Err(Violation(format!(
                        "#{number} keeps an operation of #{liar}, whose role does not write"
                    )));
                }
                kept += held;
            }
        }
        self.trace.count(Happening::KeptUnentitled, kept);
        Ok(())
    }

    /// What every device has stored is as it was signed, and the index says of it what is so.
    fn check_logs(&mut self, space: usize) -> Result<(), Violation> {
        let members: Vec<usize> = self.plan().spaces[space].members.keys().copied().collect();
        for number in members {
            let Some(hosted) = self.hosted(number, space) else { continue };
            let was_damaged = !self.devices[number].damage.flipped.is_empty();
            let report = match hosted.replica.log().reader().verify(&mut |_| {}) {
                Ok(report) => report,
                Err(error) => return Err(Violation(format!("the log of #{number} cannot be verified: {error}"))),
            };
            // Damage stays where it is, and in the index too until somebody reads it.
            let wrong = report.unsigned.count + report.misindexed.count;
            let is_whole = report.is_sound() && report.unchained.count == 0;
            if wrong > 0 || !(is_whole || was_damaged) {
                return Err(Violation(format!("the log of #{number} is unsound: {report:?}")));
            }
            self.trace.count(Happening::CheckedLogs, 1);
        }
        Ok(())
    }

    /// Asks all devices for all documents and compares.
    pub(crate) fn look_at_documents(&mut self) -> Result<(), Violation> {
        let surroundings = self.surroundings.clone();
        let plan = &surroundings.plan;
        for (space, members) in plan.spaces.iter().map(|space| &space.members).enumerate() {
            self.ledgers[space].shown.clear();
            self.ledgers[space].feeds.clear();
            self.take_counts(space);
            let present = members.keys().filter(|device| !plan.lies(**device) && !self.is_removed(**device, space));
            for device in present.copied().collect::<Vec<_>>() {
                self.ask_everything(device, space);
            }
        }
        self.run_until_answered()?;
        self.check_changes()?;
        for space in 0..self.ledgers.len() {
            let mut shown = std::mem::take(&mut self.ledgers[space].shown);
            let mut first: Option<(usize, &Shown)> = None;
            for (number, one) in &shown {
                if plan.spaces[space].role(*number) == Some(Role::Relay) {
                    self.check_relay(*number, space, one)?;
                    continue;
                }
                self.check_reader(*number, space, one)?;
                let (other, expected) = *first.get_or_insert((*number, one));
                if expected != one {
                    return Err(Violation(difference(other, expected, *number, one)));
                }
            }
            shown.retain(|number, _| plan.spaces[space].role(*number) != Some(Role::Relay));
            self.ledgers[space].shown = shown;
        }
        Ok(())
    }

    /// A removed device has no key of an epoch that began with its removal or later.
    fn check_removed(&mut self, space: usize) -> Result<(), Violation> {
        let Some(steward) = self.hosted(self.ledgers[space].decided.steward, space) else { return Ok(()) };
        let chain = steward.replica.core().state().membership().chain().to_vec();
        for number in self.ledgers[space].decided.removed.clone() {
            let id = self.surroundings.ids[number];
            let removes = |record: &&ChainRecord| match &record.record.statement {
                Statement::Removal { cuts } => cuts.iter().any(|cut| cut.author == id),
                Statement::Takeover(takeover) => takeover.cut.author == id,
                _ => false,
            };
            let after = chain.iter().skip_while(|record| !removes(record));
            let begun = after.filter_map(|record| match record.record.statement {
                Statement::Epoch { epoch, .. } => Some(epoch),
                _ => None,
            });
            let (begun, Some(hosted)) = (begun.min(), self.hosted(number, space)) else { continue };
            let keys = hosted.replica.core().state().keys();
            let latest = keys.content.keys().chain(keys.replication.keys()).max().copied();
            if begun.is_none() || latest >= begun {
                return Err(Violation(format!(
                    "#{number} was removed, with which epoch {begun:?} began, and has the keys of epoch {latest:?}"
                )));
            }
            self.trace.count(Happening::CheckedRemoved, 1);
        }
        Ok(())
    }

    fn check_relay(&mut self, number: usize, space: usize, shown: &Shown) -> Result<(), Violation> {
        let keys = self.hosted(number, space).map(|hosted| hosted.replica.core().state().keys().content.len());
        if keys != Some(0) {
            return Err(Violation(format!("the relay #{number} holds content keys")));
        }
        if !shown.documents.is_empty() {
            return Err(Violation(format!("the relay #{number} shows documents")));
        }
        self.trace.count(Happening::CheckedRelays, 1);
        Ok(())
    }

    fn check_reader(&self, number: usize, space: usize, shown: &Shown) -> Result<(), Violation> {
        let unreadable = self.hosted(number, space).map_or(0, |hosted| hosted.replica.core().unreadable());
        if unreadable > 0 {
            return Err(Violation(format!("#{number} cannot open {unreadable} operations")));
        }
        let conflicts = shown.conflicts.iter().flat_map(|page| &page.documents);
        match conflicts.flat_map(|document| &document.blocked).next() {
            Some(blocked) => {
                Err(Violation(format!("#{number} blocks a change of an honest device: {}", blocked.reason)))
            }
            None => Ok(()),
        }
    }

    /// What was acknowledged is there, what was refused is not, and the rest is there as a whole or not at all.
    pub(crate) fn check_outcome(&mut self) -> Result<(), Violation> {
        for number in 0..self.devices.len() {
            self.count_engines(number);
        }
        (0..self.ledgers.len()).try_for_each(|space| self.check_outcome_of(space))
    }

    fn check_outcome_of(&mut self, space: usize) -> Result<(), Violation> {
        self.check_unentitled(space)?;
        self.check_removed(space)?;
        self.check_cuts(space)?;
        if self.plan().seed.is_multiple_of(VERIFIED_EVERY) {
            self.check_logs(space)?;
        }
        let steward = self.ledgers[space].decided.steward;
        let Some(shown) = self.ledgers[space].shown.remove(&steward) else {
            // The space was left out.
            return Ok(());
        };
        let documents = &shown.documents;
        let places = shown.conflicts.iter().flat_map(|page| &page.documents).map(|document| document.places.len());
        self.trace.count(Happening::CheckedPlaces, places.sum::<usize>() as u64);
        let all_tried = self.ledgers[space].tried.clone();
        for tried in all_tried.values() {
            self.check_held(space, tried)?;
            self.check_own(space, tried, documents)?;
        }
        for name in self.ledgers[space].counters.keys().cloned().collect::<Vec<_>>() {
            self.check_counter(space, &name, &all_tried, documents.get(&name))?;
        }
        let ledger = &self.ledgers[space];
        for (name, devices) in &ledger.seen {
            if !documents.contains_key(name) && !ledger.condemned.contains(name) && !ledger.may_be_gone(name) {
                return Err(Violation(format!("{name} was seen at {devices:?} and is gone")));
            }
        }
        for (device, text) in &ledger.texts {
            let found = documents.get(&text_of(*device)).and_then(|value| value["text"].as_str()).unwrap_or_default();
            let may_be = match ledger.counts.get(device) {
                Some(counts) => text.may_end_as_after(*counts, found),
                None => text.may_end_as(found),
            };
            if !may_be {
                return Err(Violation(format!("the text of #{device} is {found:?}, expected {text:?}")));
            }
            self.trace.count(Happening::CheckedTexts, 1);
        }
        for (name, value) in documents {
            self.trace.hash(format!("{name}={value}\n").as_bytes());
        }
        Ok(())
    }

    /// An acknowledged operation is held by everybody; the vectors are equal, so one device speaks for all.
    fn check_held(&self, space: usize, tried: &Tried) -> Result<(), Violation> {
        let (Fate::Acknowledged, Some(sequence)) = (self.ledgers[space].fate(tried), tried.sequence) else {
            return Ok(());
        };
        let author = self.surroundings.ids[tried.device];
        let expected =
            self.ledgers[space].logs.get(&tried.device).and_then(|log| log.get(sequence as usize - 1)).copied();
        let members = self.plan().spaces[space].members.keys();
        for number in members.filter(|number| !self.plan().lies(**number) && !self.is_removed(**number, space)) {
            let state = self.hosted(*number, space).map(|hosted| hosted.replica.core().state());
            let held = state.and_then(|state| state.prefix_at(&author, sequence));
            let admitted = state.map_or(0, |state| state.admission().admitted().sequence(&author));
            if held != expected || expected.is_none() || admitted < sequence {
                let device = tried.device;
                return Err(Violation(format!(
                    "operation {sequence} of #{device} was acknowledged and #{number} lacks it"
                )));
            }
        }
        Ok(())
    }

    fn check_own(&mut self, space: usize, tried: &Tried, documents: &BTreeMap<String, Value>) -> Result<(), Violation> {
        let (mut found, fate) = (BTreeSet::new(), self.ledgers[space].fate(tried));
        for (name, value) in &tried.puts {
            if self.ledgers[space].condemned.contains(name) {
                continue;
            }
            found.insert(documents.contains_key(name));
            match (fate, documents.get(name)) {
                (_, Some(other)) if other != value => {
                    return Err(Violation(format!("{name} has another value than was written")));
                }
                (Fate::Acknowledged, None) => return Err(Violation(format!("{name} was acknowledged and is gone"))),
                (Fate::Refused, Some(_)) => return Err(Violation(format!("{name} was refused and is there"))),
                (Fate::Cut, Some(_)) => return Err(Violation(format!("{name} was cut and is there"))),
                (_, Some(value)) if value["text"].as_str().is_some_and(|text| text.len() > LARGE_CHARACTERS) => {
                    self.trace.count(Happening::CheckedLarge, 1);
                }
                _ => {}
            }
        }
        if found.len() > 1 {
            return Err(Violation(format!("of {:?} only a part is there", tried.puts)));
        }
        if let (Fate::Unanswered, Some(kept)) = (tried.fate, found.first()) {
            let happening = if *kept { Happening::UnansweredKept } else { Happening::UnansweredGone };
            self.trace.count(happening, 1);
        }
        for name in &tried.deletes {
            let put = self.ledgers[space].expected(name).map(|(put, _)| self.ledgers[space].fate(put));
            match (fate, documents.contains_key(name)) {
                (Fate::Cut, false) if put == Some(Fate::Acknowledged) => {
                    return Err(Violation(format!("the deletion of {name} was cut and it is gone")));
                }
                (Fate::Acknowledged, true) => {
                    return Err(Violation(format!("the deletion of {name} was acknowledged and it is there")));
                }
                (Fate::Refused, false) if put != Some(Fate::Cut) => {
                    return Err(Violation(format!("the deletion of {name} was refused and it is gone")));
                }
                (Fate::Acknowledged, false) => self.trace.count(Happening::CheckedDeleted, 1),
                _ => {}
            }
        }
        self.trace.count(Happening::Unanswered, u64::from(tried.fate == Fate::Unanswered));
        Ok(())
    }

    /// A counter holds at least what was acknowledged and at most what was asked for.
    fn check_counter(
        &mut self,
        space: usize,
        name: &str,
        all_tried: &BTreeMap<u64, Tried>,
        document: Option<&Value>,
    ) -> Result<(), Violation> {
        let (mut least, mut most, mut devices) = (0, 0, BTreeSet::new());
        for tried in all_tried.values() {
            let Some((_, by)) = tried.adds.as_ref().filter(|(counter, _)| counter == name) else { continue };
            match self.ledgers[space].fate(tried) {
                Fate::Acknowledged => {
                    (least, most) = (least + by, most + by);
                    devices.insert(tried.device);
                }
                Fate::Unanswered => most += by,
                Fate::Refused | Fate::Cut | Fate::Open => {}
            }
        }
        let value = document.and_then(|document| document["count"].as_u64());
        if value.is_none_or(|value| value < least || value > most) {
            return Err(Violation(format!("{name} is {value:?}, which is not between {least} and {most}")));
        }
        self.trace.count(Happening::CheckedCounters, u64::from(devices.len() > 1));
        Ok(())
    }

    /// Takes over what the engines of a device have counted, before they end.
    pub(crate) fn count_engines(&mut self, number: usize) {
        let Some(running) = &self.devices[number].running else { return };
        for hosted in running.hosted.values() {
            let counters = *hosted.replica.core().engine().counters();
            for (happening, times) in [
                (Happening::PulledPages, counters.pages_received),
                (Happening::EngineDuplicates, counters.operations_duplicate),
                (Happening::EngineFruitless, counters.fruitless_ranges),
                (Happening::EngineBusy, counters.busy),
                (Happening::EngineNotServed, counters.not_served),
                (Happening::EngineFailures, counters.failures),
                (Happening::EngineEqual, counters.summaries_equal),
                (Happening::EngineDropped, counters.pending_dropped),
            ] {
                self.trace.count(happening, times);
            }
        }
    }
}

/// The first thing in which two devices differ, for a person.
fn difference(number: usize, one: &Shown, other_number: usize, other: &Shown) -> String {
    let names: BTreeSet<&String> = one.documents.keys().chain(other.documents.keys()).collect();
    for name in names {
        let (here, there) = (one.documents.get(name), other.documents.get(name));
        if here != there {
            return format!("{name} is {here:?} at #{number} and {there:?} at #{other_number}");
        }
    }
    if one.heads != other.heads {
        return format!("the heads of documents at #{number} and #{other_number} differ");
    }
    format!("conflicts are {:?} at #{number} and {:?} at #{other_number}", one.conflicts, other.conflicts)
}
