//! The world of one run: devices, connections, people, and virtual time.
//!
//! All that is to come stands in one queue, by time and then by the order in which it was put there. Nothing else
//! decides what happens next, so a run is a function of its plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline::documents::Job;
use syncline_storage::StorageError;

use crate::device::{Device, Surroundings};
use crate::faults::Later;
use crate::governing::{Revocation, Revoked};
use crate::happening::Happening;
use crate::ledger::Ledger;
use crate::message::{Message, SpaceInput, Wish};
use crate::network::{Connection, Exchange, Flow};
use crate::plan::{MILLISECOND_US, Plan, SECOND_US};
use crate::random::Choices;
use crate::trace::{Detail, Trace};

/// How long after everything healed all devices must agree, in virtual time.
pub const AGREEMENT_US_MAX: u64 = 400 * SECOND_US;
/// How long everything that was asked at the end may take.
const ANSWERS_US_MAX: u64 = 120 * SECOND_US;
/// How often it is looked whether they agree.
const LOOK_EVERY_US: u64 = 500 * MILLISECOND_US;
/// How often a node does what it does in rounds.
const ROUND_US: u64 = 5 * SECOND_US;
/// How often documents are looked at, since each look may meet damage that nobody has met before.
const LOOKS_MAX: usize = 12;
/// Most events that one run may take: something keeps itself busy beyond it.
const EVENTS_MAX: u64 = 4_000_000;

/// What is to come.
#[derive(Debug)]
pub(crate) enum Event {
    /// A device takes what has queued up.
    Step { device: usize, boot: u64 },
    /// A device's deadline.
    Timer { device: usize, boot: u64 },
    /// A device's round.
    Round { device: usize, boot: u64 },
    /// A device starts, if it does not run.
    Start { device: usize },
    /// A device takes its ticket for a space, and starts if it does not run.
    Join { device: usize, space: usize },
    /// Two devices try to connect.
    Connect { edge: usize },
    /// A connection whose messages are lost is noticed to be dead.
    Notice { edge: usize, generation: u64 },
    /// A message arrives on a connection.
    Deliver { edge: usize, generation: u64, to: usize, message: Message },
    /// An answer arrives.
    Answer { exchange: u64, bytes: Vec<u8> },
    /// A request took too long.
    Timeout { exchange: u64 },
    /// A worker finishes a job.
    Work { device: usize, boot: u64, space: usize, job: Box<Job> },
    /// Somebody does something, by its place in the plan.
    Act(usize),
    /// Something goes wrong, by its place in the plan.
    Fault(usize),
    /// What follows from something that went wrong.
    Later(Later),
    /// A liar thinks of something.
    Lie { device: usize },
}

/// A violation of what must hold ends the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

/// The state of a run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) now_us: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    handled: u64,
    pub(crate) devices: Vec<Device>,
    pub(crate) connections: Vec<Connection>,
    /// By the two ends, the smaller number first.
    pub(crate) edges: BTreeMap<(usize, usize), usize>,
    /// What the ways of messages are drawn from, by sender and receiver.
    pub(crate) flows: BTreeMap<(usize, usize), Flow>,
    /// Directions in which messages are lost, by partition.
    pub(crate) parted: BTreeMap<u64, BTreeSet<(usize, usize)>>,
    pub(crate) exchanges: BTreeMap<u64, Exchange>,
    /// How many requests are under way, by sender and receiver.
    pub(crate) under_way: BTreeMap<(usize, usize), usize>,
    /// Pages to come in whose middle their connection is cut.
    pub(crate) page_cuts: u64,
    /// Who waits for what follows a page that its size cut short, and from whom.
    pub(crate) cut_short: BTreeSet<(usize, usize)>,
    /// One for each space.
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) timing: Choices,
    pub(crate) healed: bool,
    pub(crate) healed_us: u64,
    pub(crate) revocations: Vec<Revocation>,
    /// How the removals went.
    pub(crate) revoked: Vec<Revoked>,
    /// What all devices sent so far.
    pub(crate) sent_bytes: u64,
    /// The longest time from everything having healed to agreement.
    pub(crate) agreed_after_us: u64,
    numbers: u64,
    pub(crate) trace: Trace,
    violation: Option<Violation>,
}

impl World {
    pub(crate) fn new(plan: Plan, detail: Detail) -> Self {
        let devices = (0..plan.devices.len()).map(|number| Device::new(&plan, number)).collect();
        let connections = plan.edges.iter().map(|edge| Connection::new(*edge)).collect();
        let edges = plan.edges.iter().copied().zip(0..).collect();
        let ledgers = plan.spaces.iter().map(|space| Ledger::new(space.steward)).collect();
        let timing = Choices::new(plan.seed, "timing", 0);
        Self {
            surroundings: Arc::new(Surroundings::new(plan)),
            now_us: 0,
            queue: BTreeMap::new(),
            queued: 0,
            handled: 0,
            devices,
            connections,
            edges,
            flows: BTreeMap::new(),
            parted: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            under_way: BTreeMap::new(),
            page_cuts: 0,
            cut_short: BTreeSet::new(),
            ledgers,
            timing,
            healed: false,
            healed_us: 0,
            revocations: Vec::new(),
            revoked: Vec::new(),
            sent_bytes: 0,
            agreed_after_us: 0,
            numbers: 0,
            trace: Trace::new(detail),
            violation: None,
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.surroundings.plan
    }

    /// Runs to the end and looks at the outcome.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        self.found()?;
        for edge in 0..self.connections.len() {
            self.later(0, Event::Connect { edge });
        }
        let surroundings = self.surroundings.clone();
        for (space, plan) in surroundings.plan.spaces.iter().enumerate() {
            for (device, member) in plan.members.iter().filter(|(_, member)| member.parent.is_some()) {
                self.later(member.joins_us, Event::Join { device: *device, space });
            }
        }
        for device in (0..self.devices.len()).filter(|device| surroundings.plan.is_stranger(*device)) {
            self.start(device);
        }
        for (place, action) in surroundings.plan.actions.iter().enumerate() {
            self.later(action.at_us, Event::Act(place));
        }
        for (place, fault) in surroundings.plan.faults.iter().enumerate() {
            self.later(fault.at_us, Event::Fault(place));
        }
        for device in 0..self.devices.len() {
            if self.devices[device].liar.is_some() {
                self.later(SECOND_US, Event::Lie { device });
            }
        }
        self.run_until(self.now_us + surroundings.plan.horizon_us)?;
        self.heal();
        self.agree_and_look()?;
        if surroundings.plan.restart_at_end {
            self.restart_all()?;
            self.agree_and_look()?;
            self.note(0, Happening::RestartedAtEnd, [0, 0], String::new);
        }
        self.check_outcome()
    }

    /// Lets all devices agree and compares what they show; once more when one met damage while it was looked at.
    fn agree_and_look(&mut self) -> Result<(), Violation> {
        for _ in 0..LOOKS_MAX {
            self.run_until_agreed()?;
            let (before, looked) = (self.starts(), self.look_at_documents());
            let is_undisturbed = self.starts() == before && self.devices.iter().all(|device| device.is_settled());
            if is_undisturbed {
                return looked;
            }
        }
        Err(Violation(format!("devices still met damage when they were looked at {LOOKS_MAX} times")))
    }

    /// Operations of all spaces, once each.
    pub(crate) fn operations(&self) -> u64 {
        let held = |space: usize| {
            let steward = self.ledgers[space].decided.steward;
            self.ledgers[space].durable.get(&steward).map_or(0, |vector| vector.operations())
        };
        (0..self.ledgers.len()).map(held).sum()
    }

    /// How often devices started, and whether each that has to run does.
    fn starts(&self) -> u64 {
        self.devices.iter().map(|device| device.boots + u64::from(!device.is_settled())).sum()
    }

    /// Operations that all devices hold together.
    fn held(&self) -> u64 {
        self.ledgers.iter().flat_map(|ledger| ledger.durable.values()).map(|vector| vector.operations()).sum()
    }

    pub(crate) fn into_trace(self) -> Trace {
        self.trace
    }

    /// Puts something into the queue.
    pub(crate) fn later(&mut self, delay_us: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now_us + delay_us, self.queued), event);
    }

    /// A number that nobody else has.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn note(
        &mut self,
        device: usize,
        happening: Happening,
        numbers: [u64; 2],
        text: impl FnOnce() -> String,
    ) {
        self.trace.note(self.now_us, device, happening, numbers, text);
    }

    /// Remembers the first violation; the run ends with the present event.
    pub(crate) fn violate(&mut self, text: String) {
        self.violation.get_or_insert(Violation(text));
    }

    /// Lets time pass up to a moment.
    pub(crate) fn run_until(&mut self, until_us: u64) -> Result<(), Violation> {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= until_us
        {
            let ((at_us, _), event) = entry.remove_entry();
            self.now_us = at_us;
            self.handle(event);
            self.handled += 1;
            if self.handled > EVENTS_MAX {
                self.violate(format!("more than {EVENTS_MAX} events: something keeps itself busy"));
            }
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        self.now_us = until_us;
        Ok(())
    }

    fn run_until_agreed(&mut self) -> Result<(), Violation> {
        let healed_us = self.now_us;
        loop {
            self.run_until_first_agreed(healed_us)?;
            // What is still under way must not change anything any more, but that a liar may join late.
            let (operations, starts) = (self.held(), self.starts());
            self.run_until(self.now_us + 2 * SECOND_US)?;
            match self.disagreement() {
                None => return Ok(()),
                // One may have met damage that nobody had met before, or a liar's fork, which takes back what was held.
                Some(_) if self.held() != operations || self.starts() > starts => {}
                Some(difference) => return Err(Violation(format!("agreement was lost again: {difference}"))),
            }
        }
    }

    fn run_until_first_agreed(&mut self, healed_us: u64) -> Result<(), Violation> {
        while let Some(difference) = self.disagreement() {
            if self.now_us >= healed_us + AGREEMENT_US_MAX {
                let seconds = AGREEMENT_US_MAX / SECOND_US;
                return Err(Violation(format!("no agreement {seconds} s after everything healed: {difference}")));
            }
            self.watch_revocations();
            if let Some(late) = self.late_revocation() {
                return Err(Violation(late));
            }
            self.run_until(self.now_us + LOOK_EVERY_US)?;
        }
        self.watch_revocations();
        self.agreed_after_us = self.agreed_after_us.max(self.now_us - healed_us);
        self.note(0, Happening::Converged, [0, 0], String::new);
        Ok(())
    }

    /// Lets time pass until all questions are answered.
    pub(crate) fn run_until_answered(&mut self) -> Result<(), Violation> {
        let deadline_us = self.now_us + ANSWERS_US_MAX;
        loop {
            let open: usize = self.ledgers.iter().map(Ledger::open_questions).sum();
            let behind = if open == 0 { self.streams_behind() } else { 0 };
            if open + behind == 0 {
                return Ok(());
            }
            if self.now_us >= deadline_us {
                let what = format!("{open} questions are not answered and {behind} streams behind");
                return Err(Violation(format!("{what}, long after the devices agreed")));
            }
            self.run_until(self.now_us + LOOK_EVERY_US)?;
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Step { device, boot } => {
                if self.is_boot(device, boot) {
                    self.step(device);
                }
            }
            Event::Timer { device, boot } => self.timer(device, boot),
            Event::Round { device, boot } => {
                if self.is_boot(device, boot) {
                    self.later(ROUND_US, Event::Round { device, boot });
                    self.tell(device, Message::Round);
                }
            }
            Event::Start { device } => self.start(device),
            Event::Join { device, space } => self.join(device, space),
            Event::Connect { edge } => self.connect(edge),
            Event::Notice { edge, generation } => self.notice_dead(edge, generation),
            Event::Deliver { edge, generation, to, message } => self.deliver(edge, generation, to, message),
            Event::Answer { exchange, bytes } => self.end_exchange(exchange, Some(bytes)),
            Event::Timeout { exchange } => self.end_exchange(exchange, None),
            Event::Work { device, boot, space, job } => self.work(device, boot, space, *job),
            Event::Act(place) => self.act(place),
            Event::Fault(place) => self.fault(place),
            Event::Later(later) => self.go_on(later),
            Event::Lie { device } => self.lie(device),
        }
    }

    fn is_boot(&self, device: usize, boot: u64) -> bool {
        self.devices[device].running.is_some() && self.devices[device].boots == boot
    }

    /// Queues a message at a device that runs, and a step to take it.
    pub(crate) fn tell(&mut self, device: usize, message: Message) {
        let gathers_us = self.timing.between(0, self.surroundings.plan.step_us_max);
        let boot = self.devices[device].boots;
        let Some(running) = &mut self.devices[device].running else { return };
        running.inbox.push_back(message);
        if !std::mem::replace(&mut running.step_due, true) {
            self.later(gathers_us, Event::Step { device, boot });
        }
    }

    /// Tells one of a device's replicas something.
    pub(crate) fn tell_space(&mut self, device: usize, space: usize, input: SpaceInput) {
        self.tell(device, Message::Space { space, input });
    }

    fn timer(&mut self, device: usize, boot: u64) {
        if !self.is_boot(device, boot) {
            return;
        }
        let now_us = self.now_us;
        let Some(running) = &mut self.devices[device].running else { return };
        if running.timer_us != Some(now_us) {
            // A later one was replaced by an earlier one.
            return;
        }
        running.timer_us = None;
        self.note(device, Happening::Ticked, [0, 0], String::new);
        self.tell(device, Message::Tick);
    }

    fn step(&mut self, number: usize) {
        let (now_us, boot) = (self.now_us, self.devices[number].boots);
        let paused_us = self.devices[number].paused_until_us.saturating_sub(now_us);
        if paused_us > 0 {
            return self.later(paused_us, Event::Step { device: number, boot });
        }
        let Some(running) = &mut self.devices[number].running else { return };
        running.step_due = false;
        let (count, mut wishes) = (running.inbox.len(), Vec::new());
        let outcome = running.step(now_us, &mut wishes);
        self.note(number, Happening::Stepped, [count as u64, 0], String::new);
        if let Err(error) = outcome {
            // Nothing that was wished in a step that failed gets out.
            return self.failed(number, &error);
        }
        self.settled(number);
        self.fulfil_all(number, wishes);
        if let Some(running) = &mut self.devices[number].running
            && !running.inbox.is_empty()
            && !std::mem::replace(&mut running.step_due, true)
        {
            self.later(MILLISECOND_US, Event::Step { device: number, boot });
        }
        self.wind(number);
    }

    fn fulfil_all(&mut self, number: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            self.fulfil(number, wish);
        }
        // Some of them are answers from before what was damaged was there again.
        self.check_healing(number);
    }

    /// Starts a device; one that fails because of what was prepared starts again later.
    pub(crate) fn start(&mut self, number: usize) {
        let surroundings = self.surroundings.clone();
        let (now_us, device) = (self.now_us, &mut self.devices[number]);
        let nothing_to_do = device.spaces.is_empty() && !surroundings.plan.is_stranger(number);
        if device.running.is_some() || nothing_to_do {
            return;
        }
        let mut wishes = Vec::new();
        let outcome = device.start(&surroundings, now_us, &mut wishes);
        let boot = device.boots;
        if let Err(error) = outcome {
            self.note(number, Happening::StartFailed, [0, 0], || error.to_string());
            return self.failed(number, &error);
        }
        self.note(number, Happening::Started, [boot, 0], String::new);
        self.check_recovered(number);
        self.settled(number);
        self.fulfil_all(number, wishes);
        let round_us = self.timing.between(1, ROUND_US);
        self.later(round_us, Event::Round { device: number, boot });
        self.wind(number);
    }

    /// A person pastes a ticket.
    fn join(&mut self, number: usize, space: usize) {
        let Some(ticket) = self.ledgers[space].tickets.get(&number).cloned() else { return };
        let now_us = self.now_us;
        let device = &mut self.devices[number];
        device.spaces.insert(space, Some(ticket.clone()));
        let Some(running) = &mut device.running else {
            // One that is down takes it up when it starts again.
            if device.boots == 0 {
                self.start(number);
            }
            return;
        };
        let mut wishes = Vec::new();
        let clock = running.clock(now_us);
        let outcome = running.open(space, Some(ticket), clock, &mut wishes);
        if let Err(error) = outcome {
            return self.failed(number, &error);
        }
        self.note(number, Happening::JoinedWhileRunning, [space as u64, 0], || format!("space {space}"));
        self.settled(number);
        self.fulfil_all(number, wishes);
        self.wind(number);
    }

    /// A device whose storage failed stops; that is right only when the failure was prepared.
    fn failed(&mut self, number: usize, error: &StorageError) {
        let text = error.to_string();
        let was_killed = text.contains("the simulated process is dead");
        let device = &self.devices[number];
        let is_full = matches!(error, StorageError::Full { .. });
        if let (StorageError::Damaged { .. }, false) = (error, device.damage.flipped.is_empty()) {
            // It starts again without what is damaged, and fetches that from others.
            self.note(number, Happening::DamageMet, [0, 0], || text);
            let mut choices = Choices::new(self.surroundings.plan.seed, "damage met", self.now_us);
            return self.stop(number, crate::faults::Down::Process, &mut choices);
        }
        let Some(mut choices) = device.armed.clone().or_else(|| device.full.clone()) else {
            return self.violate(format!("the storage of #{number} failed by itself: {text}"));
        };
        let happening = match (was_killed, is_full && device.full.is_some()) {
            (true, _) => Happening::KilledInDisk,
            (false, true) => Happening::DiskRefused,
            (false, false) => Happening::DiskFailed,
        };
        self.note(number, happening, [0, 0], || text);
        let down = crate::faults::draw_down(&mut choices);
        self.stop(number, down, &mut choices);
    }

    /// Puts the device's next deadline into the queue, unless an earlier timer stands there.
    fn wind(&mut self, number: usize) {
        let (now_us, boot) = (self.now_us, self.devices[number].boots);
        let Some(running) = &mut self.devices[number].running else { return };
        let Some(deadline_us) = running.deadline_us() else { return };
        let due_us = deadline_us.max(now_us + MILLISECOND_US);
        if running.timer_us.is_none_or(|timer_us| timer_us > due_us) {
            running.timer_us = Some(due_us);
            self.later(due_us - now_us, Event::Timer { device: number, boot });
        }
    }

    /// Does what a device wants; of a liar, what it makes of it.
    fn fulfil(&mut self, number: usize, wish: Wish) {
        match self.tamper(number, wish) {
            Ok(wish) => self.fulfil_one(number, wish),
            Err(lies) => lies.into_iter().for_each(|wish| self.fulfil_one(number, wish)),
        }
    }

    pub(crate) fn fulfil_one(&mut self, number: usize, wish: Wish) {
        match wish {
            Wish::Request { peer, protocol, bytes, purpose } => self.request(number, peer, protocol, bytes, purpose),
            Wish::Reply { exchange, bytes, .. } => self.reply(number, exchange, bytes),
            Wish::Spread { frame, not_to } => self.spread(number, &frame, not_to),
            Wish::Work { space, job } => {
                let (shortest, longest) = self.plan().job_us;
                let delay_us = self.timing.between(shortest, longest);
                let boot = self.devices[number].boots;
                self.note(number, Happening::WorkerStarted, [0, 0], String::new);
                self.later(delay_us, Event::Work { device: number, boot, space, job: Box::new(job) });
            }
            Wish::Answered { space, token, result } => self.answered(number, space, token, result),
            Wish::Changed { space, token, events } => self.changed(number, space, token, &events),
            Wish::Unwatched { space, token, reason } => self.unwatched(number, space, token, &reason),
            Wish::Invited { space, token, outcome } => self.invited(space, token, outcome),
            Wish::Governed { space, token, outcome } => self.governed(number, space, token, outcome),
            Wish::Blamed { peer, why } => self.blamed(number, peer, &why),
            Wish::BeginAnew => {
                self.note(number, Happening::BegunAnew, [0, 0], String::new);
                let mut choices = Choices::new(self.surroundings.plan.seed, "begun anew", self.now_us);
                self.stop(number, crate::faults::Down::Process, &mut choices);
            }
            Wish::Note(happening, numbers) => self.note(number, happening, numbers, || format!("{numbers:?}")),
            Wish::Violation(text) => self.violate(format!("at #{number}: {text}")),
        }
    }

    fn work(&mut self, device: usize, boot: u64, space: usize, job: Job) {
        if !self.is_boot(device, boot) {
            return self.note(device, Happening::WorkerLost, [0, 0], String::new);
        }
        self.note(device, Happening::WorkerDone, [0, 0], String::new);
        self.tell_space(device, space, SpaceInput::Worked(job.run()));
    }
}
