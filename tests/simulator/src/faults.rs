//! What goes wrong once: partitions, cut and slow connections, devices that stop or pause, disks that fail, clocks that
//! jump. Each draws from a stream of its own.

use std::collections::BTreeSet;

use syncline_storage::disk::{DiskOperation, Fault as DiskFault, FaultKind as DiskFailure};

use crate::happening::Happening;
use crate::plan::{FaultKind, MILLISECOND_US, SECOND_US, draw_skew};
use crate::random::Choices;
use crate::world::{Event, Violation, World};

/// How long a silent connection is believed in.
const SILENCE_US_MAX: u64 = 12 * SECOND_US;
/// Calls of the disk among which a device is stopped.
const KILL_WITHIN_CALLS: u64 = 12;

/// What follows from something that went wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Later {
    /// A stop that was prepared did not come by itself.
    Overdue { device: usize, boot: u64 },
    /// A partition is over.
    PartitionEnds(u64),
    /// A page is half sent.
    CutInPage { edge: usize, generation: u64 },
    /// A disk has room again.
    DiskFreed { device: usize },
    /// The steward removes a device, or takes its right to write.
    Cut { space: usize, device: usize, removes: bool },
}

/// How a device goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    /// The process dies; the page cache survives.
    Process,
    /// The machine loses power.
    Power,
}

pub(crate) fn draw_down(choices: &mut Choices) -> Down {
    if choices.chance(60) { Down::Power } else { Down::Process }
}

impl World {
    /// Something of the plan goes wrong.
    pub(crate) fn fault(&mut self, place: usize) {
        if self.healed {
            return;
        }
        let surroundings = self.surroundings.clone();
        let fault = &surroundings.plan.faults[place];
        let (device, mut choices) = (fault.device, Choices::new(surroundings.plan.seed, "fault", fault.index));
        let choices = &mut choices;
        match fault.kind {
            FaultKind::Partition => self.part(choices, false),
            FaultKind::PartitionOneWay => self.part(choices, true),
            FaultKind::Cut => self.cut(choices),
            FaultKind::CutInPage => self.page_cuts += 1,
            FaultKind::SlowLink => self.slow_link(choices),
            FaultKind::Clog => self.clog(choices),
            FaultKind::Pause => self.pause(device, choices),
            FaultKind::ClockJump => self.jump(device, choices),
            _ if self.devices[device].running.is_none() => {}
            FaultKind::Close => self.close(device, choices),
            FaultKind::ProcessDeath => self.stop(device, Down::Process, choices),
            FaultKind::PowerLoss => self.stop(device, Down::Power, choices),
            FaultKind::Kill => {
                let calls = choices.below(KILL_WITHIN_CALLS);
                self.devices[device].disk.kill_after(calls);
                self.arm(device, Happening::KillArmed, calls, choices);
            }
            FaultKind::DiskError => self.fail_disk(device, choices),
            FaultKind::FullDisk => self.fill_disk(device, choices),
            FaultKind::IndexLoss => {
                let down = draw_down(choices);
                self.stop(device, down, choices);
                self.lose_index(device);
            }
            FaultKind::BitFlip => self.flip_bit(device, choices),
        }
    }

    /// What went wrong has consequences.
    pub(crate) fn go_on(&mut self, later: Later) {
        match later {
            Later::Overdue { device, boot } => {
                let here = &self.devices[device];
                let is_due = here.running.is_some() && here.boots == boot && !self.healed;
                if let Some(mut choices) = here.armed.clone().filter(|_| is_due) {
                    self.stop(device, Down::Power, &mut choices);
                }
            }
            Later::PartitionEnds(number) => {
                if self.parted.remove(&number).is_some() {
                    self.note(0, Happening::PartitionEnded, [number, 0], String::new);
                }
            }
            Later::CutInPage { edge, generation } => {
                let (a, b) = self.connections[edge].ends;
                if self.connections[edge].is_open && self.connections[edge].generation == generation && !self.healed {
                    self.note(a, Happening::CutInPage, [b as u64, 0], || format!("with #{b}"));
                    self.disconnect(edge);
                }
            }
            Later::DiskFreed { device } => self.free_disk(device),
            Later::Cut { space, device, removes } => self.cut_off(space, device, removes),
        }
    }

    /// Parts the devices into two groups, or one from all others.
    fn part(&mut self, choices: &mut Choices, one_way: bool) {
        let count = self.devices.len();
        let mut group: BTreeSet<usize> = (0..count).filter(|_| choices.chance(50)).collect();
        if group.is_empty() || group.len() == count {
            group = BTreeSet::from([choices.below(count as u64) as usize]);
        }
        let (noticed, first) = (choices.chance(40), choices.chance(50));
        let crosses = |from: &usize, to: &usize| group.contains(from) != group.contains(to);
        let lost = |from: usize, to: usize| crosses(&from, &to) && (!one_way || group.contains(&from) == first);
        let directions = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        let directions: BTreeSet<(usize, usize)> = directions.filter(|(from, to)| lost(*from, *to)).collect();
        let number = self.number();
        self.parted.insert(number, directions);
        let happening = if one_way { Happening::PartitionAsymmetric } else { Happening::PartitionSymmetric };
        self.note(0, happening, [number, u64::from(noticed)], || format!("{group:?} from the others"));
        for edge in 0..self.connections.len() {
            let ((a, b), generation) = (self.connections[edge].ends, self.connections[edge].generation);
            if !crosses(&a, &b) {
                continue;
            }
            if noticed {
                self.disconnect(edge);
            } else {
                let noticed_us = choices.between(SECOND_US, SILENCE_US_MAX);
                self.later(noticed_us, Event::Notice { edge, generation });
            }
        }
        let lasts_us = choices.between(100 * MILLISECOND_US, self.plan().horizon_us / 2);
        self.later(lasts_us, Event::Later(Later::PartitionEnds(number)));
    }

    /// Parts one device from all others for a while.
    pub(crate) fn part_off(&mut self, device: usize, lasts_us: u64) {
        let others = (0..self.devices.len()).filter(|other| *other != device);
        let directions = others.flat_map(|other| [(device, other), (other, device)]).collect();
        let number = self.number();
        self.parted.insert(number, directions);
        self.note(device, Happening::PartitionSymmetric, [number, 0], || format!("#{device} from the others"));
        self.later(lasts_us, Event::Later(Later::PartitionEnds(number)));
    }

    /// One of the connections, by a number that stays the same when others are left out.
    fn draw_edge(&self, choices: &mut Choices) -> Option<usize> {
        let count = self.connections.len() as u64;
        (count > 0).then(|| choices.below(count) as usize)
    }

    fn cut(&mut self, choices: &mut Choices) {
        let Some(edge) = self.draw_edge(choices).filter(|edge| self.connections[*edge].is_open) else { return };
        let (a, b) = self.connections[edge].ends;
        self.note(a, Happening::CutConnection, [b as u64, 0], || format!("with #{b}"));
        self.disconnect(edge);
    }

    fn slow_link(&mut self, choices: &mut Choices) {
        let Some(edge) = self.draw_edge(choices) else { return };
        let (factor, lasts_us) = (choices.pick(&[5, 20, 100]), choices.between(SECOND_US, 10 * SECOND_US));
        let (a, b) = self.connections[edge].ends;
        self.connections[edge].slow = (factor, self.now_us + lasts_us);
        self.note(a, Happening::SlowLink, [b as u64, factor], || format!("with #{b}, {factor} times"));
    }

    fn clog(&mut self, choices: &mut Choices) {
        let Some(edge) = self.draw_edge(choices) else { return };
        let (a, b) = self.connections[edge].ends;
        self.connections[edge].clogged_until_us = self.now_us + choices.between(SECOND_US / 2, 8 * SECOND_US);
        self.note(a, Happening::ClogBegan, [b as u64, 0], || format!("with #{b}"));
    }

    fn pause(&mut self, device: usize, choices: &mut Choices) {
        let lasts_us = choices.between(100 * MILLISECOND_US, 15 * SECOND_US);
        if self.devices[device].running.is_some() {
            self.devices[device].paused_until_us = self.now_us + lasts_us;
            self.note(device, Happening::Paused, [lasts_us, 0], || format!("for {} ms", lasts_us / 1000));
        }
    }

    fn jump(&mut self, device: usize, choices: &mut Choices) {
        let skew_ms = draw_skew(choices);
        self.devices[device].skew_ms = skew_ms;
        if let Some(running) = &mut self.devices[device].running {
            running.skew_ms = skew_ms;
        }
        self.note(device, Happening::ClockJumped, [skew_ms as u64, 0], || format!("to {skew_ms} ms off"));
    }

    /// Prepares a stop, or a failure that leads to one.
    fn arm(&mut self, device: usize, happening: Happening, calls: u64, choices: &mut Choices) {
        self.note(device, happening, [calls, 0], || format!("after {calls} calls"));
        if choices.chance(60) {
            self.write_before_stop(device, choices);
        }
        let (boot, overdue_us) = (self.devices[device].boots, choices.between(SECOND_US, 5 * SECOND_US));
        self.devices[device].armed = Some(choices.clone());
        self.later(overdue_us, Event::Later(Later::Overdue { device, boot }));
    }

    fn fail_disk(&mut self, device: usize, choices: &mut Choices) {
        let kinds = [
            (DiskOperation::Sync, DiskFailure::Error),
            (DiskOperation::Write, DiskFailure::Error),
            (DiskOperation::Write, DiskFailure::HalfWritten),
            (DiskOperation::Write, DiskFailure::Full),
            (DiskOperation::Read, DiskFailure::Error),
            (DiskOperation::Create, DiskFailure::Error),
            (DiskOperation::SyncDirectory, DiskFailure::Error),
        ];
        let (operation, kind) = choices.pick(&kinds);
        let skip = choices.below(3);
        self.devices[device].disk.inject(DiskFault { operation, skip, kind });
        self.arm(device, Happening::DiskErrorArmed, skip, choices);
    }

    /// The disk takes nothing more for a while.
    fn fill_disk(&mut self, device: usize, choices: &mut Choices) {
        let lasts_us = choices.between(SECOND_US, 15 * SECOND_US);
        self.devices[device].disk.set_full(true);
        self.devices[device].full = Some(choices.clone());
        self.note(device, Happening::DiskFilled, [lasts_us, 0], || format!("for {} ms", lasts_us / 1000));
        self.write_before_stop(device, choices);
        self.later(lasts_us, Event::Later(Later::DiskFreed { device }));
    }

    fn free_disk(&mut self, device: usize) {
        if self.devices[device].full.take().is_some() {
            self.devices[device].disk.set_full(false);
            self.note(device, Happening::DiskFreed, [0, 0], String::new);
        }
    }

    pub(crate) fn lose_index(&mut self, number: usize) {
        if self.devices[number].running.is_none() {
            self.devices[number].index.erase();
            self.note(number, Happening::IndexLost, [0, 0], String::new);
        }
    }

    fn close(&mut self, number: usize, choices: &mut Choices) {
        self.hang_up(number);
        let now_us = self.now_us;
        self.count_engines(number);
        let device = &mut self.devices[number];
        let Some(running) = device.running.take() else { return };
        let is_prepared = device.armed.is_some() || device.full.is_some();
        match running.close(now_us) {
            Ok(()) => self.note(number, Happening::ClosedCleanly, [0, 0], String::new),
            Err(_) if is_prepared => {}
            Err(error) => self.violate(format!("#{number} cannot be closed: {error}")),
        }
        self.ledgers.iter_mut().for_each(|ledger| ledger.stopped(number));
        self.devices[number].stop();
        self.devices[number].disk.restart();
        self.start_later(number, choices);
    }

    /// Stops a device at once.
    pub(crate) fn stop(&mut self, number: usize, down: Down, choices: &mut Choices) {
        self.hang_up(number);
        self.count_engines(number);
        self.ledgers.iter_mut().for_each(|ledger| ledger.stopped(number));
        let device = &mut self.devices[number];
        device.stop();
        match down {
            Down::Process => device.disk.restart(),
            Down::Power => {
                let mut choose = |limit| choices.below(limit);
                device.disk.lose_power(&mut choose);
                device.index.lose_power(&mut choose);
            }
        }
        let happening = if down == Down::Power { Happening::CrashedPower } else { Happening::CrashedProcess };
        self.note(number, happening, [0, 0], String::new);
        self.start_later(number, choices);
    }

    fn start_later(&mut self, number: usize, choices: &mut Choices) {
        if !self.healed && choices.chance(15) {
            // It is stopped again while it opens its log.
            let calls = choices.below(KILL_WITHIN_CALLS);
            self.devices[number].disk.kill_after(calls);
            self.devices[number].armed = Some(choices.clone());
            self.note(number, Happening::KillArmed, [calls, 1], String::new);
        }
        let down_us = choices.between(50 * MILLISECOND_US, 8 * SECOND_US);
        self.later(down_us, Event::Start { device: number });
    }

    /// Closes all connections of a device.
    fn hang_up(&mut self, number: usize) {
        for edge in 0..self.connections.len() {
            if self.connections[edge].other(number).is_some() {
                self.disconnect(edge);
            }
        }
    }

    /// From here on nothing goes wrong any more, but for liars, who go on lying.
    pub(crate) fn heal(&mut self) {
        (self.healed, self.healed_us) = (true, self.now_us);
        self.parted.clear();
        self.note(0, Happening::Healed, [0, 0], String::new);
        for connection in &mut self.connections {
            (connection.slow, connection.clogged_until_us) = ((1, 0), 0);
        }
        for number in 0..self.devices.len() {
            self.free_disk(number);
            self.devices[number].paused_until_us = 0;
            if let Some(mut choices) = self.devices[number].armed.clone() {
                // Stopping it is the only way to take back what was prepared.
                self.stop(number, Down::Process, &mut choices);
            }
            self.later(0, Event::Start { device: number });
        }
    }

    /// All devices lose power and start again.
    pub(crate) fn restart_all(&mut self) -> Result<(), Violation> {
        for number in self.plan().present() {
            let mut choices = Choices::new(self.plan().seed, "restart at end", number as u64);
            self.stop(number, Down::Power, &mut choices);
        }
        self.run_until(self.now_us + 10 * SECOND_US)
    }
}
