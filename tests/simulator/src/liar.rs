//! Devices that lie: they speak the real messages, and say in them what is not so.
//!
//! An invited liar runs a real replica; what leaves it is tampered with on the way out, and now and then it says
//! something that nobody asked for. It writes nothing but operations that must not count or change anything, sponsors
//! nobody, and admits that it exists: what it cannot do is forge a signature. A stranger has no keys at all. Both go on
//! lying to the very end of the run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use syncline::space::join::JoinRequest;
use syncline_model::keys::seal;
use syncline_model::membership::{Certificate, Cut, Member, Statement};
use syncline_model::run::RunBuilder;
use syncline_model::{
    Dependency, DeviceId, DeviceKey, ForkProof, Header, IdPrefix, Kind, OperationId, ReplicationSecret, Role, Run,
    SpaceId, SpaceTag, canonical,
};
use syncline_sync::limits::{PAGE_BYTES_MAX, RANGES_MAX};
use syncline_sync::{
    Forked, Message as SyncMessage, Misbehaviour, Page, Part, Range, Request, Response, RunBytes, Scope, SummaryAnswer,
    SummaryEntry,
};

use crate::happening::Happening;
use crate::hosted::Hosted;
use crate::message::{Blame, Frame, Protocol, Purpose, Wish};
use crate::plan::{LiarKind, MILLISECOND_US, SECOND_US};
use crate::random::Choices;
use crate::world::{Event, World};

/// Runs that a liar keeps in mind, to say them again where they do not belong.
const HEARD_RUNS_MAX: usize = 32;
/// Requests that a liar keeps in mind until it answers.
const ASKED_MAX: usize = 64;
/// Requests of one flood.
const FLOOD_REQUESTS: u64 = 40;
/// A claim goes so far beyond what is held.
const CLAIM_OPERATIONS: u64 = 1 << 40;
/// What stands at the end of a run.
const SIGNATURE_BYTES: usize = 64;
/// Membership records that a liar claims to know.
const UNKNOWN_RECORDS: u64 = 1000;
/// One page in so many is far too large, since that takes long.
const OVERSIZED_EVERY: u64 = 3;

/// What a gossip frame carries under its seal.
#[derive(Debug, Serialize, Deserialize)]
enum Sealed {
    Run(RunBytes),
    Heads(Vec<SummaryEntry>),
}

/// A device that lies.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) kind: LiarKind,
    choices: Choices,
    /// Runs of its spaces.
    heard: BTreeMap<usize, Vec<Run>>,
    /// Requests that it was sent.
    asked: BTreeMap<u64, Request>,
    /// What kind of operation it signs where its role writes.
    signs: Signs,
    /// What it signed in each space: two branches if they are documents.
    unentitled: BTreeMap<(usize, u64), Run>,
}

/// What an invited liar signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signs {
    /// Writing that claims to know more records than there are, on two branches.
    Documents,
    /// A record that removes somebody, as only the steward may write it.
    Removal,
    /// A proof that an honest device forked, which does not hold.
    Proof,
}

/// What an invited liar is in a space.
#[derive(Debug)]
struct Standing {
    role: Role,
    /// How many membership records it knows.
    records: u64,
    /// The record that would remove another member next.
    removal: Vec<u8>,
    /// What shows that it was let in.
    admission: Dependency,
}

impl Standing {
    fn of(hosted: &Hosted) -> Option<Self> {
        let state = hosted.replica.core().state();
        let member = state.membership().members().get(&state.device_id())?;
        let author = member.admissions.first()?.sponsor;
        let admitted = state.admission().admitted();
        let (sequence, id) = (admitted.sequence(&author), admitted.head(&author));
        let admission = Dependency { author, sequence, id };
        let other =
            |(device, member): &(&DeviceId, &Member)| **device != state.device_id() && member.role != Role::Steward;
        let cut = |(device, _): (&DeviceId, &Member)| Cut {
            author: *device,
            sequence: admitted.sequence(device),
            id: admitted.head(device),
        };
        let cuts = state.membership().members().iter().filter(other).map(cut).take(1).collect();
        let removal = state.membership().next_record(Statement::Removal { cuts }, 0).encode();
        Some(Self { role: member.role, records: state.membership().records(), removal, admission })
    }
}

impl Liar {
    pub(crate) fn new(seed: u64, number: usize, kind: LiarKind) -> Self {
        let choices = Choices::new(seed, "liar", number as u64);
        let (heard, asked, unentitled) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let signs = match Choices::new(seed, "signs", number as u64).below(4) {
            0 => Signs::Removal,
            1 => Signs::Proof,
            _ => Signs::Documents,
        };
        Self { kind, choices, heard, asked, signs, unentitled }
    }

    /// A peer's request arrives.
    pub(crate) fn asked(&mut self, exchange: u64, bytes: &[u8]) {
        if let Ok(SyncMessage::Space { request, .. }) = SyncMessage::decode(bytes) {
            self.asked.insert(exchange, request);
            if self.asked.len() > ASKED_MAX {
                self.asked.pop_first();
            }
        }
    }

    fn percent(&self) -> u64 {
        match self.kind {
            LiarKind::Member { percent, .. } => percent,
            LiarKind::Stranger => 100,
        }
    }

    /// Whether it leaves this request without an answer.
    fn keeps_silent(&self, exchange: u64) -> bool {
        let mute = matches!(self.kind, LiarKind::Member { mute: true, .. });
        mute && matches!(self.asked.get(&exchange), Some(Request::Pull { .. }))
    }

    /// Keeps the runs of a page in mind.
    fn hear(&mut self, space: usize, id: SpaceId, page: &Page) {
        let heard = self.heard.entry(space).or_default();
        for bytes in &page.runs {
            if heard.len() < HEARD_RUNS_MAX
                && let Ok(run) = Run::decode(id, bytes.0.clone())
            {
                heard.push(run);
            }
        }
    }

    fn heard_run(&mut self, space: usize) -> Option<Run> {
        let heard = self.heard.get(&space)?;
        let at = self.choices.below(heard.len().max(1) as u64) as usize;
        heard.get(at).cloned()
    }

    /// Bytes without a meaning, which claim to be of a format that is known.
    fn garbage(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = self.choices.bytes(length);
        bytes[0] = 1;
        bytes
    }

    /// Another answer than the true one, with what kind of lie it is.
    fn answer(&mut self, exchange: u64, space: usize, ids: &[SpaceId], truth: &[u8]) -> Option<(Happening, Vec<u8>)> {
        let asked = self.asked.remove(&exchange)?;
        let response = Response::decode(truth).ok()?;
        if let Response::Page(page) = &response {
            self.hear(space, ids[space], page);
        }
        match self.choices.below(10) {
            0 => return Some((Happening::LieMalformed, self.garbage(40))),
            1 => {
                let (busy, refused) = (Response::Busy, Response::NotServed);
                let lie = if self.choices.chance(50) { busy } else { refused };
                return Some((Happening::LieRefusal, lie.encode()));
            }
            2 => {
                let lie = match &asked {
                    Request::Pull { .. } | Request::Branch { .. } => Response::Summary(SummaryAnswer::Equal),
                    Request::Summary { .. } => Response::Page(Page::default()),
                };
                return Some((Happening::LieWrongAnswer, lie.encode()));
            }
            _ => {}
        }
        match (asked, response) {
            (Request::Pull { ranges, .. }, Response::Page(page)) => {
                let (happening, page) = self.page(space, ids, &ranges, page)?;
                Some((happening, Response::Page(page).encode()))
            }
            (Request::Summary { part, .. }, Response::Summary(answer)) => {
                let (happening, answer) = self.summary(&part, answer)?;
                Some((happening, Response::Summary(answer).encode()))
            }
            _ => None,
        }
    }

    /// Another page than the true one.
    fn page(&mut self, space: usize, ids: &[SpaceId], ranges: &[Range], mut page: Page) -> Option<(Happening, Page)> {
        let first = page.runs.first().map(|run| run.0.to_vec());
        let happening = match self.choices.below(8) {
            0 => {
                page.runs.clear();
                Happening::LieWithheld
            }
            1 | 2 => {
                let mut bytes = first?;
                // The last bytes are the signature; others belong to what it is about.
                let at = if self.choices.chance(70) { bytes.len() - 1 } else { bytes.len() / 2 };
                bytes[at] ^= 1;
                page.runs[0] = RunBytes(bytes.into());
                Happening::LieForged
            }
            3 => {
                page.runs.push(RunBytes(self.garbage(200).into()));
                Happening::LieMalformedRun
            }
            4 => {
                let other = (0..ids.len()).find(|other| *other != space && self.heard.contains_key(other))?;
                page.runs.insert(0, RunBytes(self.heard_run(other)?.bytes().clone()));
                Happening::LieReplayed
            }
            5 => {
                let lies_in = |run: &Run, range: &Range| {
                    run.author() == range.author && run.first() <= range.through && run.last() > range.after
                };
                let run = self.heard_run(space).filter(|run| !ranges.iter().any(|range| lies_in(run, range)))?;
                page.runs.push(RunBytes(run.bytes().clone()));
                Happening::LieNotAskedFor
            }
            6 if self.choices.below(OVERSIZED_EVERY) == 0 => {
                let half: RunBytes = RunBytes(vec![0; PAGE_BYTES_MAX / 2 + 1].into());
                page.runs = vec![half.clone(), half];
                Happening::LieOversized
            }
            _ => {
                let range = ranges[self.choices.below(ranges.len() as u64) as usize];
                page.forked = vec![Forked { author: range.author, sequence: range.after }];
                if range.after_id.is_some() { Happening::LieFork } else { Happening::LieNotAskedFor }
            }
        };
        Some((happening, page))
    }

    /// Another answer to a comparison than the true one.
    fn summary(&mut self, part: &Part, answer: SummaryAnswer) -> Option<(Happening, SummaryAnswer)> {
        match answer {
            SummaryAnswer::Entries { scope, mut entries, next } => {
                if self.choices.chance(40) {
                    entries.clear();
                    return Some((Happening::LieWithheld, SummaryAnswer::Entries { scope, entries, next }));
                }
                self.exaggerate(&mut entries);
                Some((Happening::LieClaim, SummaryAnswer::Entries { scope, entries, next }))
            }
            SummaryAnswer::Equal if matches!(part, Part::Digest | Part::Entries(_)) => {
                let mut entries = Vec::new();
                self.exaggerate(&mut entries);
                Some((Happening::LieClaim, SummaryAnswer::Entries { scope: Scope::All, entries, next: None }))
            }
            _ => Some((Happening::LieWithheld, SummaryAnswer::Equal)),
        }
    }

    /// Claims more than there is, of authors known and unknown.
    fn exaggerate(&mut self, entries: &mut Vec<SummaryEntry>) {
        for entry in entries.iter_mut() {
            if self.choices.chance(50) {
                entry.sequence += self.choices.between(1, CLAIM_OPERATIONS);
            }
        }
        let unknown = DeviceKey::generate(self.choices.generator()).id();
        entries.push(SummaryEntry { author: unknown, sequence: CLAIM_OPERATIONS, id: IdPrefix([7; 16]) });
        entries.sort_by_key(|entry| entry.author);
    }

    /// Whether it writes what may be admitted, and has no effect.
    pub(crate) fn signs_control(&self) -> bool {
        self.signs != Signs::Documents
    }

    /// An operation of the membership under its own key: a removal that is not its to decide, or a false proof.
    fn control_run(&mut self, space: (usize, SpaceId), key: &DeviceKey, standing: &Standing) -> Option<Run> {
        if let Some(run) = self.unentitled.get(&(space.0, 0)) {
            return Some(run.clone());
        }
        let (kind, payload) = match self.signs {
            Signs::Removal => (Kind::MEMBERSHIP, standing.removal.clone()),
            _ => {
                let (true_run, mut bytes) = self.heard_run(space.0).map(|run| (run.clone(), run.bytes().to_vec()))?;
                // The last byte before the signature, which is of what was there before.
                let last = bytes.len().checked_sub(SIGNATURE_BYTES + 1)?;
                bytes[last] ^= 1;
                let forged = Run::decode(space.1, bytes).ok()?;
                (Kind::EQUIVOCATION, ForkProof::of(&true_run, &forged)?.encode())
            }
        };
        let header = Header {
            kind,
            space: space.1,
            author: key.id(),
            sequence: 1,
            previous: OperationId::ZERO,
            membership: standing.records,
            epoch: 0,
            dependencies: vec![standing.admission],
            payload_length: payload.len() as u32,
        };
        let mut builder = RunBuilder::new(space.1, key.id(), 1, OperationId::ZERO);
        builder.push(&header, |_| payload).ok()?;
        let run = Run::clone(&*builder.finish(key)?);
        self.unentitled.insert((space.0, 0), run.clone());
        Some(run)
    }

    /// Operations under its own key, which must never count: its role does not write, or it claims to know membership
    /// records that there are not, and forks its log on top of that.
    fn unentitled_run(&mut self, space: (usize, SpaceId), key: &DeviceKey, standing: &Standing) -> Option<Run> {
        let writes = standing.role.writes();
        if writes && self.signs_control() {
            return self.control_run(space, key, standing);
        }
        let branch = if writes { self.choices.below(2) } else { 0 };
        if let Some(run) = self.unentitled.get(&(space.0, branch)) {
            return Some(run.clone());
        }
        let mut builder = RunBuilder::new(space.1, key.id(), 1, OperationId::ZERO);
        // The second branch is longer, so that it could be taken for what follows the first.
        for sequence in 1..=branch + 1 {
            let payload = self.choices.bytes(100);
            let header = Header {
                kind: Kind::DATA,
                space: space.1,
                author: key.id(),
                sequence,
                previous: builder.head().1,
                membership: if writes { UNKNOWN_RECORDS } else { standing.records },
                epoch: 1,
                dependencies: if sequence == 1 { vec![standing.admission] } else { Vec::new() },
                payload_length: payload.len() as u32,
            };
            builder.push(&header, |_| payload).ok()?;
        }
        let run = Run::clone(&*builder.finish(key)?);
        self.unentitled.insert((space.0, branch), run.clone());
        Some(run)
    }

    /// A run of an author that nobody admitted, or a part of one that begins later than at the beginning.
    fn own_run(&mut self, space: SpaceId, first: u64) -> Option<Run> {
        let key = DeviceKey::generate(self.choices.generator());
        let previous = if first == 1 { OperationId::ZERO } else { OperationId([9; 32]) };
        let mut builder = RunBuilder::new(space, key.id(), first, previous);
        let payload = self.choices.bytes(100);
        let header = Header {
            kind: Kind::DATA,
            space,
            author: key.id(),
            sequence: first,
            previous,
            membership: 1,
            epoch: 1,
            dependencies: Vec::new(),
            payload_length: payload.len() as u32,
        };
        builder.push(&header, |_| payload).ok()?;
        builder.finish(&key).map(|run| Run::clone(&run))
    }

    /// A gossip frame that no honest device makes.
    fn frame(
        &mut self,
        (space, id): (usize, SpaceId),
        (epoch, secret): (u32, &ReplicationSecret),
        key: &DeviceKey,
        standing: Option<&Standing>,
    ) -> Option<(Happening, Frame)> {
        let (happening, sealed) = match self.choices.below(8) {
            7 => {
                let run = self.unentitled_run((space, id), key, standing?)?;
                (Happening::LieUnentitled, Sealed::Run(RunBytes(run.bytes().clone())))
            }
            0 | 1 => {
                let bytes = self.choices.bytes(300);
                return Some((Happening::LieFrame, Frame::new((space, epoch), bytes)));
            }
            2 => {
                let mut bytes = self.heard_run(space)?.bytes().to_vec();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                (Happening::LieSealedFrame, Sealed::Run(RunBytes(bytes.into())))
            }
            3 => (Happening::LieSealedFrame, Sealed::Run(RunBytes(self.garbage(90).into()))),
            4 => (Happening::LieStranger, Sealed::Run(RunBytes(self.own_run(id, 1)?.bytes().clone()))),
            5 => (Happening::LieGapped, Sealed::Run(RunBytes(self.own_run(id, 5)?.bytes().clone()))),
            _ => {
                let mut heads = Vec::new();
                if let Some(run) = self.heard_run(space) {
                    let (author, sequence, id) = (run.author(), run.last(), run.last_id().prefix());
                    heads.push(SummaryEntry { author, sequence, id });
                }
                self.exaggerate(&mut heads);
                (Happening::LieClaim, Sealed::Heads(heads))
            }
        };
        let associated = [&b"syncline/gossip-frame/1\0"[..], &id.0].concat();
        let bytes = seal(&secret.gossip_key(), &associated, &canonical::encode(&sealed), self.choices.generator());
        Some((happening, Frame::new((space, epoch), bytes)))
    }

    /// A request that no honest device makes.
    fn request(&mut self, tags: &[SpaceTag], authors: &[DeviceId]) -> (Happening, Vec<u8>, Purpose) {
        let tag = match tags {
            [] => SpaceTag(self.choices.bytes(16).try_into().expect("16 bytes were drawn")),
            tags => self.choices.pick(tags),
        };
        let author = self.choices.pick(authors);
        if !tags.is_empty() && self.choices.chance(20) {
            return (Happening::LieNotCanonical, not_canonical(tag, author), Purpose::NotCanonical);
        }
        let (happening, bytes) = match self.choices.below(4) {
            0 => (Happening::LieRequest, self.garbage(60)),
            1 => {
                let range = Range { author, after: 0, after_id: None, through: CLAIM_OPERATIONS };
                let request = Request::Pull { ranges: vec![range; RANGES_MAX], bytes_max: u32::MAX };
                (Happening::LieFlood, SyncMessage::Space { tag, request }.encode())
            }
            2 => {
                let id = IdPrefix([3; 16]);
                let part = Part::Entries(vec![SummaryEntry { author, sequence: CLAIM_OPERATIONS, id }]);
                let request = Request::Summary { digest: [5; 16], part };
                (Happening::LieClaim, SyncMessage::Space { tag, request }.encode())
            }
            _ => {
                let request = Request::Summary { digest: [5; 16], part: Part::Digest };
                (Happening::LieFlood, SyncMessage::Space { tag, request }.encode())
            }
        };
        (happening, bytes, Purpose::Lie)
    }
}

/// A request whose last number takes a byte more than it has to.
fn not_canonical(tag: SpaceTag, author: DeviceId) -> Vec<u8> {
    let range = Range { author, after: 0, after_id: None, through: 1 };
    let request = Request::Pull { ranges: vec![range], bytes_max: 1 };
    let mut bytes = SyncMessage::Space { tag, request }.encode();
    let last = bytes.len() - 1;
    bytes[last] |= 0x80;
    bytes.push(0);
    bytes
}

impl World {
    /// What becomes of a wish of a liar; one of an honest device stays as it is.
    pub(crate) fn tamper(&mut self, number: usize, wish: Wish) -> Result<Wish, Vec<Wish>> {
        let surroundings = self.surroundings.clone();
        let Some(liar) = &mut self.devices[number].liar else { return Ok(wish) };
        let ids: Vec<SpaceId> = surroundings.spaces.iter().map(|space| space.id).collect();
        let percent = liar.percent();
        match wish {
            Wish::Reply { exchange, space: Some(_), .. } if liar.keeps_silent(exchange) => {
                Err(vec![Wish::Note(Happening::LieMute, [exchange, 0])])
            }
            Wish::Reply { exchange, bytes, space: Some(space) } if liar.choices.chance(percent) => {
                let (happening, bytes) = match liar.answer(exchange, space, &ids, &bytes) {
                    Some(lie) => lie,
                    None => return Ok(Wish::Reply { exchange, bytes, space: Some(space) }),
                };
                Err(vec![Wish::Note(happening, [exchange, 0]), Wish::Reply { exchange, bytes, space: None }])
            }
            // It tells nobody of what it blames others for, least of all of what they said to its own lies.
            Wish::Blamed { .. } => Err(Vec::new()),
            Wish::Spread { .. } if liar.choices.chance(percent / 2) => {
                Err(vec![Wish::Note(Happening::LieWithheld, [0, 1])])
            }
            other => Ok(other),
        }
    }

    /// A liar says something that nobody asked for.
    pub(crate) fn lie(&mut self, number: usize) {
        let surroundings = self.surroundings.clone();
        let known = |(space, hosted): (&usize, &Hosted)| {
            let (epoch, secret) = hosted.latest_secret().filter(|_| hosted.greeted > 0)?;
            Some((*space, (epoch, secret.clone()), Standing::of(hosted)))
        };
        let running = self.devices[number].running.iter();
        let secrets: Vec<(usize, (u32, ReplicationSecret), Option<Standing>)> =
            running.flat_map(|running| running.hosted.iter().filter_map(known)).collect();
        let peers: Vec<usize> = self
            .connections
            .iter()
            .filter(|connection| connection.is_open)
            .filter_map(|connection| connection.other(number))
            .collect();
        let healed = self.healed;
        // Which invitations there are anybody in the space can see.
        let invitations: Vec<DeviceId> =
            self.ledgers[0].tickets.values().map(|ticket| ticket.invitation().id()).collect();
        let Some(liar) = &mut self.devices[number].liar else { return };
        let again_us = liar.choices.between(200 * MILLISECOND_US, if healed { 20 } else { 3 } * SECOND_US);
        let mut wishes = Vec::new();
        if let Some(&peer) = peers.get(liar.choices.below(peers.len().max(1) as u64) as usize) {
            let (local, other) = (surroundings.ids[number], surroundings.ids[peer]);
            let key = &surroundings.keys[number];
            if let Some((space, secret, standing)) = secrets.first() {
                let id = surroundings.spaces[*space].id;
                if let Some((happening, frame)) =
                    liar.frame((*space, id), (secret.0, &secret.1), key, standing.as_ref())
                {
                    wishes.push(Wish::Note(happening, [peer as u64, 1]));
                    wishes.push(Wish::Spread { frame, not_to: None });
                }
            }
            let tags: Vec<SpaceTag> = secrets.iter().map(|(_, (_, secret), _)| secret.tag(&local, &other)).collect();
            let flood = if liar.choices.chance(10) && !healed { FLOOD_REQUESTS } else { 1 };
            for _ in 0..flood {
                let (happening, bytes, purpose) = liar.request(&tags, &surroundings.ids);
                wishes.push(Wish::Note(happening, [peer as u64, 2]));
                wishes.push(Wish::Request { peer, protocol: Protocol::Sync, bytes, purpose });
            }
            if liar.choices.chance(20) && !invitations.is_empty() {
                let invitation = DeviceKey::generate(liar.choices.generator());
                let id = surroundings.spaces[0].id;
                let mut certificate = Certificate::new(&id, key, &invitation);
                certificate.invitation = liar.choices.pick(&invitations);
                let tag = syncline_model::membership::invitation_tag(&certificate.invitation, &local, &other);
                let bytes = JoinRequest { tag, certificate }.encode();
                wishes.push(Wish::Note(Happening::LieJoin, [peer as u64, 3]));
                wishes.push(Wish::Request { peer, protocol: Protocol::Join, bytes, purpose: Purpose::Lie });
            }
        }
        for wish in wishes {
            self.fulfil_one(number, wish);
        }
        self.later(again_us, Event::Lie { device: number });
    }

    /// A device blames another one: that one must be a liar.
    pub(crate) fn blamed(&mut self, by: usize, peer: usize, why: &Blame) {
        let lies = |number: usize| self.devices.get(number).is_none_or(|device| device.liar.is_some());
        // A log may be forked indeed: then whoever holds the other branch says so rightly, and its author lied.
        let forked = matches!(why, Blame::Equivocation { author, .. } if lies(*author));
        if !lies(peer) && !forked {
            return self.violate(format!("#{by} blames the honest #{peer}: {why:?}"));
        }
        let happening = match why {
            Blame::Misbehaviour(Misbehaviour::MalformedResponse) => Happening::BlamedMalformedResponse,
            Blame::Misbehaviour(Misbehaviour::UnexpectedResponse) => Happening::BlamedUnexpectedResponse,
            Blame::Misbehaviour(Misbehaviour::OversizedPage) => Happening::BlamedOversizedPage,
            Blame::Misbehaviour(Misbehaviour::MalformedRun) => Happening::BlamedMalformedRun,
            Blame::Misbehaviour(Misbehaviour::NotAskedFor) => Happening::BlamedNotAskedFor,
            Blame::Misbehaviour(Misbehaviour::BadSignature) => Happening::BlamedBadSignature,
            Blame::Misbehaviour(other) => {
                return self.violate(format!("the simulator does not know the misbehaviour {other:?}"));
            }
            Blame::Rejected => Happening::GossipRejected,
            Blame::Equivocation { .. } => Happening::Equivocation,
            Blame::MalformedRequest => Happening::RequestMalformed,
            Blame::MalformedJoinAnswer => {
                return self.violate(format!("#{by} got a malformed answer of #{peer}, which sponsors nobody"));
            }
        };
        self.note(by, happening, [peer as u64, 0], || format!("#{peer}: {why:?}"));
    }
}
