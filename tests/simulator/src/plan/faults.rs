//! What goes wrong: all the time with some probability, or once at some moment.

use super::SECOND_US;
use crate::random::Choices;
use crate::reduction::Reduction;

/// The founders are left alone until the spaces exist.
const FIRST_FAULT_US: u64 = SECOND_US;

/// What goes wrong all the time, in percent of the messages concerned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ambient {
    /// Gossip frames lost.
    pub(crate) gossip_loss: u64,
    /// Gossip frames that arrive twice.
    pub(crate) gossip_duplication: u64,
    /// Requests or answers lost.
    pub(crate) request_loss: u64,
    /// Messages that take ten times as long, so that later ones overtake them.
    pub(crate) stragglers: u64,
    /// Whether liars lie: 100, or 0.
    pub(crate) lies: u64,
}

impl Ambient {
    /// The kinds, as they are named when one is left out.
    pub(crate) const KINDS: &'static [&'static str] =
        &["gossip-loss", "gossip-duplication", "request-loss", "stragglers", "lies"];

    fn fields(&mut self) -> [&mut u64; 5] {
        let Self { gossip_loss, gossip_duplication, request_loss, stragglers, lies } = self;
        [gossip_loss, gossip_duplication, request_loss, stragglers, lies]
    }
}

/// What kind of thing goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the simulator's `faults` tells what each does")]
pub(crate) enum FaultKind {
    Partition,
    PartitionOneWay,
    Cut,
    CutInPage,
    SlowLink,
    Clog,
    Close,
    ProcessDeath,
    PowerLoss,
    Kill,
    DiskError,
    FullDisk,
    IndexLoss,
    BitFlip,
    Pause,
    ClockJump,
}

impl FaultKind {
    /// All kinds, each with how often it happens where it is on.
    const TIMES: &'static [(Self, [u64; 3])] = &[
        (Self::Partition, [1, 2, 3]),
        (Self::PartitionOneWay, [1, 1, 2]),
        (Self::Cut, [1, 5, 15]),
        (Self::CutInPage, [1, 2, 4]),
        (Self::SlowLink, [1, 2, 3]),
        (Self::Clog, [1, 2, 3]),
        (Self::Close, [1, 1, 2]),
        (Self::ProcessDeath, [1, 1, 3]),
        (Self::PowerLoss, [1, 2, 4]),
        (Self::Kill, [1, 2, 4]),
        (Self::DiskError, [1, 2, 4]),
        (Self::FullDisk, [1, 1, 2]),
        (Self::IndexLoss, [1, 1, 2]),
        (Self::BitFlip, [1, 2, 3]),
        (Self::Pause, [1, 2, 4]),
        (Self::ClockJump, [1, 3, 5]),
    ];
}

/// Something that goes wrong once.
#[derive(Debug, Clone)]
pub(crate) struct PlannedFault {
    /// Its place among all of them: the index of its stream.
    pub(crate) index: u64,
    /// When.
    pub(crate) at_us: u64,
    /// What.
    pub(crate) kind: FaultKind,
    /// Where, if it concerns one device.
    pub(crate) device: usize,
}

pub(super) fn draw_ambient(seed: u64, reduction: &Reduction) -> Ambient {
    let mut choices = Choices::new(seed, "ambient", 0);
    // Each kind is off in half of the seeds, so that no kind always hides another.
    let mut often = |values: &[u64]| {
        let (on, value) = (choices.chance(50), choices.pick(values));
        if on { value } else { 0 }
    };
    let mut ambient = Ambient {
        gossip_loss: often(&[5, 30, 100]),
        gossip_duplication: often(&[5, 30]),
        request_loss: often(&[2, 10, 30]),
        stragglers: often(&[5, 30]),
        lies: 100,
    };
    for (number, field) in (0..).zip(ambient.fields()) {
        if reduction.ambient.contains(&number) {
            *field = 0;
        }
    }
    ambient
}

pub(super) fn draw_faults(
    seed: u64,
    devices: usize,
    horizon_us: u64,
    large: bool,
    reduction: &Reduction,
) -> Vec<PlannedFault> {
    let mut choices = Choices::new(seed, "faults", 0);
    let (mut faults, mut index) = (Vec::new(), 0);
    for (kind, times) in FaultKind::TIMES {
        let (on, times) = (choices.chance(50), choices.pick(times));
        for _ in 0..if on { times } else { 0 } {
            let mut choices = Choices::new(seed, "fault planned", index);
            let at_us = choices.between(FIRST_FAULT_US, horizon_us * 9 / 10);
            let device = choices.below(devices as u64) as usize;
            faults.push(PlannedFault { index, at_us, kind: *kind, device });
            index += 1;
        }
    }
    // What takes the log of a large run to pieces is looked for in small ones.
    faults.retain(|fault| !(large && fault.kind == FaultKind::BitFlip));
    faults.retain(|fault| !reduction.faults.contains(&fault.index));
    faults
}
