//! The world of one run: devices, connections, people, and virtual time.
//!
//! All that is to come stands in one queue, by time and then by the order in which it was put there. Nothing else
//! decides what happens next, so a run is a function of its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline::documents::Job;
use syncline_storage::StorageError;

use crate::device::{Device, Message, Surroundings, Wish};
use crate::faults::Fault;
use crate::happening::Happening;
use crate::ledger::Ledger;
use crate::network::{Connection, Exchange};
use crate::plan::{MILLISECOND_US, Plan, SECOND_US};
use crate::random::Choices;
use crate::trace::{Detail, Trace};

/// How long after everything healed all devices must agree, in virtual time.
const AGREEMENT_US_MAX: u64 = 400 * SECOND_US;
/// How long everything that was asked at the end may take.
const ANSWERS_US_MAX: u64 = 120 * SECOND_US;
/// How often it is looked whether they agree.
const LOOK_EVERY_US: u64 = 500 * MILLISECOND_US;
/// How often a node does what it does in rounds.
const ROUND_US: u64 = 5 * SECOND_US;
/// Most requests of one device to another that may be under way at once.
const EXCHANGES_PER_PAIR_MAX: usize = 24;
/// Most events that one run may take: something keeps itself busy beyond it.
const EVENTS_MAX: u64 = 2_000_000;

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
    /// A device takes its ticket and starts for the first time.
    Join { device: usize },
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
    Work { device: usize, boot: u64, job: Box<Job> },
    /// Somebody does something.
    Act,
    /// Something goes wrong.
    Fault(Fault),
    /// Something that went wrong is over.
    PartitionEnds(u64),
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
    /// Directions in which messages are lost, by partition.
    pub(crate) parted: BTreeMap<u64, BTreeSet<(usize, usize)>>,
    pub(crate) exchanges: BTreeMap<u64, Exchange>,
    pub(crate) ledger: Ledger,
    pub(crate) network: Choices,
    pub(crate) fate: Choices,
    pub(crate) people: Choices,
    pub(crate) healed: bool,
    numbers: u64,
    pub(crate) trace: Trace,
    violation: Option<Violation>,
}

impl World {
    pub(crate) fn new(plan: Plan, detail: Detail) -> Self {
        let seed = plan.seed;
        let devices = plan.skews_ms.iter().enumerate().map(|(number, skew)| Device::new(number, *skew)).collect();
        let connections = plan.edges.iter().map(|edge| Connection::new(*edge)).collect();
        Self {
            surroundings: Arc::new(Surroundings::new(plan)),
            now_us: 0,
            queue: BTreeMap::new(),
            queued: 0,
            handled: 0,
            devices,
            connections,
            parted: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            ledger: Ledger::default(),
            network: Choices::new(seed, "network"),
            fate: Choices::new(seed, "faults"),
            people: Choices::new(seed, "people"),
            healed: false,
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
        self.plan_faults();
        let horizon_us = self.plan().horizon_us;
        for edge in 0..self.connections.len() {
            self.later(0, Event::Connect { edge });
        }
        for device in 1..self.devices.len() {
            let at_us = self.plan().joins_us[device];
            self.later(at_us, Event::Join { device });
        }
        for _ in 0..self.plan().actions {
            let at_us = self.people.below(horizon_us);
            self.later(at_us, Event::Act);
        }
        self.run_until(horizon_us)?;
        self.heal();
        self.run_until_agreed()?;
        self.look_at_documents()?;
        if self.plan().restart_at_end {
            self.restart_all()?;
            self.run_until_agreed()?;
            self.look_at_documents()?;
            self.note(0, Happening::RestartedAtEnd, [0, 0], String::new);
        }
        self.check_outcome()
    }

    /// Operations that the founder holds.
    pub(crate) fn operations(&self) -> u64 {
        self.ledger.durable.get(&0).map_or(0, |vector| vector.operations())
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
        let deadline_us = self.now_us + AGREEMENT_US_MAX;
        while let Some(difference) = self.disagreement() {
            if self.now_us >= deadline_us {
                let seconds = AGREEMENT_US_MAX / SECOND_US;
                return Err(Violation(format!("no agreement {seconds} s after everything healed: {difference}")));
            }
            self.run_until(self.now_us + LOOK_EVERY_US)?;
        }
        self.note(0, Happening::Converged, [0, 0], String::new);
        // What is still under way must not change anything any more.
        self.run_until(self.now_us + 2 * SECOND_US)?;
        match self.disagreement() {
            None => Ok(()),
            Some(difference) => Err(Violation(format!("agreement was lost again: {difference}"))),
        }
    }

    /// Lets time pass until all questions are answered.
    pub(crate) fn run_until_answered(&mut self) -> Result<(), Violation> {
        let deadline_us = self.now_us + ANSWERS_US_MAX;
        while self.ledger.open_questions() > 0 {
            if self.now_us >= deadline_us {
                let open = self.ledger.open_questions();
                return Err(Violation(format!("{open} questions are not answered after the devices agreed")));
            }
            self.run_until(self.now_us + LOOK_EVERY_US)?;
        }
        Ok(())
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
            Event::Join { device } => self.join(device),
            Event::Connect { edge } => self.connect(edge),
            Event::Notice { edge, generation } => self.notice_dead(edge, generation),
            Event::Deliver { edge, generation, to, message } => self.deliver(edge, generation, to, message),
            Event::Answer { exchange, bytes } => self.answer(exchange, bytes),
            Event::Timeout { exchange } => self.end_exchange(exchange, None),
            Event::Work { device, boot, job } => self.work(device, boot, *job),
            Event::Act => self.act(),
            Event::Fault(fault) => self.fault(fault),
            Event::PartitionEnds(number) => self.end_partition(number),
        }
    }

    fn is_boot(&self, device: usize, boot: u64) -> bool {
        self.devices[device].running.is_some() && self.devices[device].boots == boot
    }

    /// Queues a message at a device that runs, and a step to take it.
    pub(crate) fn tell(&mut self, device: usize, message: Message) {
        let gathers_us = self.network.between(0, self.surroundings.plan.step_us_max);
        let boot = self.devices[device].boots;
        let Some(running) = &mut self.devices[device].running else { return };
        running.inbox.push_back(message);
        if !std::mem::replace(&mut running.step_due, true) {
            self.later(gathers_us, Event::Step { device, boot });
        }
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
        for wish in wishes {
            self.fulfil(number, wish);
        }
        if let Some(running) = &mut self.devices[number].running
            && !running.inbox.is_empty()
            && !std::mem::replace(&mut running.step_due, true)
        {
            self.later(MILLISECOND_US, Event::Step { device: number, boot });
        }
        self.wind(number);
    }

    /// Starts a device; one that fails because of what was prepared starts again later.
    pub(crate) fn start(&mut self, number: usize) {
        let surroundings = self.surroundings.clone();
        let (now_us, device) = (self.now_us, &mut self.devices[number]);
        if device.running.is_some() || (number > 0 && device.ticket.is_none()) {
            return;
        }
        let mut wishes = Vec::new();
        let outcome = device.start(&surroundings, now_us, &mut wishes);
        let boot = device.boots;
        if let Err(error) = outcome {
            self.note(number, Happening::KilledInOpening, [0, 0], || error.to_string());
            return self.failed(number, &error);
        }
        self.note(number, Happening::Started, [boot, 0], String::new);
        self.check_recovered(number);
        self.settled(number);
        for wish in wishes {
            self.fulfil(number, wish);
        }
        let round_us = self.network.between(1, ROUND_US);
        self.later(round_us, Event::Round { device: number, boot });
        self.wind(number);
    }

    /// A device whose storage failed stops; that is right only when the failure was prepared.
    fn failed(&mut self, number: usize, error: &StorageError) {
        let device = &self.devices[number];
        if !device.armed {
            return self.violate(format!("the storage of #{number} failed by itself: {error}"));
        }
        let text = error.to_string();
        let was_killed = text.contains("the simulated process is dead");
        let happening = if was_killed { Happening::KilledInDisk } else { Happening::DiskFailed };
        self.note(number, happening, [0, 0], || text);
        let down = self.draw_down();
        self.stop(number, down);
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

    /// Does what a device wants.
    fn fulfil(&mut self, number: usize, wish: Wish) {
        match wish {
            Wish::Request { peer, protocol, bytes, purpose } => self.request(number, peer, protocol, bytes, purpose),
            Wish::Reply { exchange, bytes } => self.reply(number, exchange, bytes),
            Wish::Spread { frame, not_to } => self.spread(number, &frame, not_to),
            Wish::Work(job) => {
                let (shortest, longest) = self.plan().job_us;
                let delay_us = self.network.between(shortest, longest);
                let boot = self.devices[number].boots;
                self.note(number, Happening::WorkerStarted, [0, 0], String::new);
                self.later(delay_us, Event::Work { device: number, boot, job: Box::new(job) });
            }
            Wish::Answered { token, result } => self.answered(number, token, result),
            Wish::Changed { token, events } => self.changed(number, token, &events),
            Wish::Invited { token, outcome } => self.invited(token, outcome),
            Wish::Note(happening, numbers) => self.note(number, happening, numbers, || format!("{numbers:?}")),
            Wish::Violation(text) => self.violate(format!("at #{number}: {text}")),
        }
    }

    fn work(&mut self, device: usize, boot: u64, job: Job) {
        if !self.is_boot(device, boot) {
            return self.note(device, Happening::WorkerLost, [0, 0], String::new);
        }
        self.note(device, Happening::WorkerDone, [0, 0], String::new);
        self.tell(device, Message::Worked(job.run()));
    }

    /// Checks after a step that nothing piles up, and remembers what is durable.
    fn settled(&mut self, number: usize) {
        let Some(running) = &self.devices[number].running else { return };
        let engine = running.replica.core().engine();
        let status = engine.status(running.replica.core().state());
        let (pending, pulls) = (status.pending_bytes, status.pulls_in_flight);
        let limit = syncline_sync::limits::GAPS_BYTES_MAX + syncline_sync::limits::STRANGERS_BYTES_MAX;
        if pending > limit || pulls > syncline_sync::limits::PULLS_MAX {
            self.violate(format!("#{number} keeps {pending} bytes of pending runs and {pulls} pulls in flight"));
        }
        let open = self.devices[number].running.as_ref().map_or(0, |running| running.open_work());
        if open > EXCHANGES_PER_PAIR_MAX * self.devices.len() {
            self.violate(format!("{open} requests and frames of peers pile up at #{number}"));
        }
        self.remember_durable(number);
    }

    /// Counts the requests between two devices that are under way.
    pub(crate) fn check_exchanges(&mut self, from: usize, to: usize) {
        let open = self.exchanges.values().filter(|exchange| (exchange.from, exchange.to) == (from, to)).count();
        if open > EXCHANGES_PER_PAIR_MAX {
            self.violate(format!("#{from} has {open} requests to #{to} under way"));
        }
    }
}
