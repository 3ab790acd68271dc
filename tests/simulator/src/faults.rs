//! What goes wrong: partitions, cut connections, devices that stop, disks that fail, clocks that jump.

use std::collections::BTreeSet;

use syncline_storage::disk::{DiskOperation, Fault as DiskFault, FaultKind};

use crate::happening::Happening;
use crate::plan::{MILLISECOND_US, SECOND_US, draw_skew};
use crate::world::{Event, Violation, World};

/// How long a silent connection is believed in.
const SILENCE_US_MAX: u64 = 12 * SECOND_US;
/// The founder is left alone until the space exists and its first documents are written.
const FIRST_CRASH_US: u64 = SECOND_US;
/// Calls of the disk among which a device is stopped.
const KILL_WITHIN_CALLS: u64 = 12;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Partition,
    Cut,
    Crash,
    ClockJump,
    /// A stop that was prepared did not come by itself.
    Overdue {
        device: usize,
        boot: u64,
    },
}

/// How a device goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    /// The process dies; the page cache survives.
    Process,
    /// The machine loses power.
    Power,
}

impl World {
    /// Puts what will go wrong into the queue.
    pub(crate) fn plan_faults(&mut self) {
        let horizon_us = self.plan().horizon_us;
        let faults = self.plan().faults.clone();
        let kinds = [
            (Fault::Partition, faults.partitions),
            (Fault::Cut, faults.cuts),
            (Fault::Crash, faults.crashes),
            (Fault::ClockJump, faults.clock_jumps),
        ];
        for (fault, times) in kinds {
            for _ in 0..times {
                let at_us = self.fate.between(FIRST_CRASH_US, horizon_us);
                self.later(at_us, Event::Fault(fault));
            }
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.healed {
            return;
        }
        match fault {
            Fault::Partition => self.part(),
            Fault::Cut => {
                let edge = self.fate.below(self.connections.len() as u64) as usize;
                if self.connections[edge].is_open {
                    let (a, b) = self.connections[edge].ends;
                    self.note(a, Happening::CutConnection, [b as u64, 0], || format!("with #{b}"));
                    self.disconnect(edge);
                }
            }
            Fault::Crash => self.crash(),
            Fault::ClockJump => {
                let device = self.fate.below(self.devices.len() as u64) as usize;
                let skew_ms = draw_skew(&mut self.fate);
                self.devices[device].skew_ms = skew_ms;
                if let Some(running) = &mut self.devices[device].running {
                    running.skew_ms = skew_ms;
                }
                self.note(device, Happening::ClockJumped, [skew_ms as u64, 0], || format!("to {skew_ms} ms off"));
            }
            Fault::Overdue { device, boot } => {
                let here = &self.devices[device];
                if here.running.is_some() && here.boots == boot && here.armed {
                    self.stop(device, Down::Power);
                }
            }
        }
    }

    /// Parts the devices into two groups, or one from all others.
    fn part(&mut self) {
        let count = self.devices.len();
        let mut group: BTreeSet<usize> = (0..count).filter(|_| self.fate.chance(50)).collect();
        if group.is_empty() || group.len() == count {
            group = BTreeSet::from([self.fate.below(count as u64) as usize]);
        }
        let one_way = self.plan().faults.asymmetric && self.fate.chance(60);
        let (noticed, first) = (self.fate.chance(40), self.fate.chance(50));
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
                let noticed_us = self.fate.between(SECOND_US, SILENCE_US_MAX);
                self.later(noticed_us, Event::Notice { edge, generation });
            }
        }
        let lasts_us = self.fate.between(100 * MILLISECOND_US, self.plan().horizon_us / 2);
        self.later(lasts_us, Event::PartitionEnds(number));
    }

    pub(crate) fn end_partition(&mut self, number: u64) {
        if self.parted.remove(&number).is_some() {
            self.note(0, Happening::PartitionEnded, [number, 0], String::new);
        }
    }

    /// Stops a device: at once, cleanly, or at one of its next disk calls.
    fn crash(&mut self) {
        let device = self.fate.below(self.devices.len() as u64) as usize;
        if self.devices[device].running.is_none() {
            return;
        }
        let (kills, errors) = (self.plan().faults.kills, self.plan().faults.disk_errors);
        match self.fate.below(6) {
            0 => self.close(device),
            1 | 2 if kills => {
                let calls = self.fate.below(KILL_WITHIN_CALLS);
                self.devices[device].disk.kill_after(calls);
                self.arm(device, Happening::KillArmed, calls);
            }
            3 | 4 if errors => {
                let kinds = [
                    (DiskOperation::Sync, FaultKind::Error),
                    (DiskOperation::Write, FaultKind::Error),
                    (DiskOperation::Write, FaultKind::HalfWritten),
                    (DiskOperation::Write, FaultKind::Full),
                    (DiskOperation::SyncDirectory, FaultKind::Error),
                ];
                let (operation, kind) = self.fate.pick(&kinds);
                let skip = self.fate.below(3);
                self.devices[device].disk.inject(DiskFault { operation, skip, kind });
                self.arm(device, Happening::DiskErrorArmed, skip);
            }
            _ => {
                let down = self.draw_down();
                self.stop(device, down);
            }
        }
    }

    fn arm(&mut self, device: usize, happening: Happening, calls: u64) {
        self.devices[device].armed = true;
        self.note(device, happening, [calls, 0], || format!("after {calls} calls"));
        if self.fate.chance(60) {
            self.write_before_stop(device);
        }
        let (boot, overdue_us) = (self.devices[device].boots, self.fate.between(SECOND_US, 5 * SECOND_US));
        self.later(overdue_us, Event::Fault(Fault::Overdue { device, boot }));
    }

    pub(crate) fn draw_down(&mut self) -> Down {
        if self.fate.chance(60) { Down::Power } else { Down::Process }
    }

    fn close(&mut self, number: usize) {
        self.hang_up(number);
        let now_us = self.now_us;
        let device = &mut self.devices[number];
        let Some(running) = device.running.take() else { return };
        let armed = device.armed;
        match running.close(now_us) {
            Ok(()) => self.note(number, Happening::ClosedCleanly, [0, 0], String::new),
            Err(_) if armed => {}
            Err(error) => self.violate(format!("#{number} cannot be closed: {error}")),
        }
        self.ledger.stopped(number);
        self.devices[number].stop();
        self.devices[number].disk.restart();
        self.start_later(number);
    }

    /// Stops a device at once.
    pub(crate) fn stop(&mut self, number: usize, down: Down) {
        self.hang_up(number);
        self.ledger.stopped(number);
        let device = &mut self.devices[number];
        device.stop();
        match down {
            Down::Process => device.disk.restart(),
            Down::Power => {
                let mut choose = |limit| self.fate.below(limit);
                device.disk.lose_power(&mut choose);
                device.index.lose_power(&mut choose);
            }
        }
        let happening = if down == Down::Power { Happening::CrashedPower } else { Happening::CrashedProcess };
        self.note(number, happening, [0, 0], String::new);
        if self.plan().faults.index_losses && self.fate.chance(20) {
            self.devices[number].index.erase();
            self.note(number, Happening::IndexLost, [0, 0], String::new);
        }
        self.start_later(number);
    }

    fn start_later(&mut self, number: usize) {
        if !self.healed && self.plan().faults.kills && self.fate.chance(15) {
            // It is stopped again while it opens its log.
            let calls = self.fate.below(KILL_WITHIN_CALLS);
            self.devices[number].disk.kill_after(calls);
            self.devices[number].armed = true;
            self.note(number, Happening::KillArmed, [calls, 1], String::new);
        }
        let down_us = self.fate.between(50 * MILLISECOND_US, 8 * SECOND_US);
        self.later(down_us, Event::Start { device: number });
    }

    /// Closes all connections of a device.
    fn hang_up(&mut self, number: usize) {
        for edge in 0..self.connections.len() {
            let (a, b) = self.connections[edge].ends;
            if a == number || b == number {
                self.disconnect(edge);
            }
        }
    }

    /// From here on nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.parted.clear();
        self.note(0, Happening::Healed, [0, 0], String::new);
        for number in 0..self.devices.len() {
            if self.devices[number].armed {
                // Stopping it is the only way to take back what was prepared.
                self.stop(number, Down::Process);
            }
            self.later(0, Event::Start { device: number });
        }
    }

    /// All devices lose power and start again.
    pub(crate) fn restart_all(&mut self) -> Result<(), Violation> {
        for number in 0..self.devices.len() {
            self.stop(number, Down::Power);
        }
        self.run_until(self.now_us + 10 * SECOND_US)
    }
}
