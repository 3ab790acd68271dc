//! The conductor: the one task that owns the list of spaces and the list of peers.
//!
//! It greets peers (which spaces do we share?), asks sponsors for admission, and hands what arrives to the space that
//! it concerns. It never waits for a peer or a space inside the loop: whatever takes time runs elsewhere and comes back
//! as a [`Notice`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use syncline_model::canonical::DecodeError;
use syncline_model::membership::{Certificate, Genesis, invitation_tag};
use syncline_model::{DeviceId, DeviceKey, SpaceId, Strings, Ticket};
use syncline_storage::Incarnation;
use syncline_sync::{HelloAnswer, Message as SyncMessage, PeerTags, SharedSpace};
use tokio::sync::{mpsc, oneshot, watch};

use super::builder::blocking;
use super::files::{self, KnownPeer};
use super::parse_address;
use super::recovery::RecoveryKey;
use super::workshop::Workshop;
use crate::error::Error;
use crate::network::{Fault, NetworkEvent, NetworkEvents, Protocol, Reply, Topic};
use crate::space::join::{JoinAnswer, JoinRefusal, JoinRequest};
use crate::space::pump::{Link, Message};
use crate::space::{SpaceCore, SpaceKeys};

/// Commands that may wait.
const COMMAND_QUEUE: usize = 64;
/// Notices that may wait; those who send more wait for room.
const NOTICE_QUEUE: usize = 1024;
/// How often peers are asked again for admission, known peers are written down and spaces share room for documents.
const ROUND: Duration = Duration::from_secs(5);
/// Told of a space that has neither admitted this device nor is about to, as far as is known here.
const NO_TICKET: &str = "nobody has admitted this device, as far as is known here; if it was restored from a backup, \
                         ask for a ticket and take it with `syncline space join`";
/// Peers remembered for the next start.
const KNOWN_PEERS_MAX: usize = 256;

/// A space in the node's list.
#[derive(Debug, Clone)]
pub(crate) struct SpaceEntry {
    pub(crate) name: String,
    pub(crate) link: Link,
    pub(crate) joining_problem: Option<JoiningProblem>,
}

/// Why joining has not completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoiningProblem {
    pub(crate) text: String,
    pub(crate) is_final: bool,
}

/// What callers ask of the conductor.
#[derive(Debug)]
pub(crate) enum Command {
    /// Found a space; answers its id and the recovery key.
    Create { name: String, strings: Strings, reply: oneshot::Sender<Result<(SpaceId, String), Error>> },
    /// Take a ticket.
    Join { ticket: Ticket, name: String, reply: oneshot::Sender<Result<SpaceId, Error>> },
    /// End a space here and delete it.
    Leave { space: SpaceId, reply: oneshot::Sender<Result<(), Error>> },
    /// End everything.
    Shutdown { reply: oneshot::Sender<()> },
}

/// What comes back from work that was started elsewhere.
#[derive(Debug)]
pub(crate) enum Notice {
    /// What is known of a space changed.
    FactsChanged(SpaceId),
    /// A space was opened again in the middle of its work, and knows of no peer.
    BegunAnew(SpaceId),
    /// A peer answered a hello of a greeting.
    Greeted { peer: DeviceId, greeting: u64, shared: Vec<SharedSpace> },
    /// A peer answered an application for admission.
    JoinAnswered(SpaceId, JoinAnswer),
}

/// A space as the conductor sees it.
struct Hosted {
    name: String,
    link: Link,
    topic: Option<Topic>,
    /// The epochs with whose secrets peers were greeted.
    greeted: Vec<u32>,
    ticket: Option<Ticket>,
    joining_problem: Option<JoiningProblem>,
}

/// A connected peer.
#[derive(Default)]
struct Peer {
    tags: PeerTags,
    shares: BTreeMap<SpaceId, SharedSpace>,
    greeting: Greeting,
}

/// The last greeting of a peer: a hello for each group of spaces that are here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Greeting {
    /// Tells it from all others: an answer to an earlier one says nothing of spaces that came since.
    number: u64,
    /// Hellos that are not answered.
    open: usize,
}

impl Greeting {
    fn answered(&mut self, number: u64) {
        if self.number == number {
            self.open = self.open.saturating_sub(1);
        }
    }
}

pub(super) struct Conductor {
    workshop: Workshop,
    spaces: BTreeMap<SpaceId, Hosted>,
    peers: BTreeMap<DeviceId, Peer>,
    /// How many greetings there were.
    greetings: u64,
    random: StdRng,
    notices: mpsc::Sender<Notice>,
    published: watch::Sender<Arc<Vec<SpaceEntry>>>,
    written_peers: Vec<KnownPeer>,
}

impl Conductor {
    /// Opens the stored spaces and starts the task.
    pub(super) async fn start(
        workshop: Workshop,
        events: Option<NetworkEvents>,
        random: StdRng,
    ) -> Result<(mpsc::Sender<Command>, watch::Receiver<Arc<Vec<SpaceEntry>>>), Error> {
        let (commands, command_receiver) = mpsc::channel(COMMAND_QUEUE);
        let (notices, notice_receiver) = mpsc::channel(NOTICE_QUEUE);
        let (published, spaces) = watch::channel(Arc::default());
        let mut conductor = Self {
            workshop,
            spaces: BTreeMap::new(),
            peers: BTreeMap::new(),
            greetings: 0,
            random,
            notices,
            published,
            written_peers: Vec::new(),
        };
        conductor.open_stored_spaces().await?;
        conductor.redial_known_peers().await;
        tokio::spawn(conductor.run(command_receiver, notice_receiver, events));
        Ok((commands, spaces))
    }

    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut notices: mpsc::Receiver<Notice>,
        mut events: Option<NetworkEvents>,
    ) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = async {
                match &mut events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => {
                        self.shutdown().await;
                        // Whoever waits may open the data directory again at once.
                        drop(self);
                        let _gone = reply.send(());
                        return;
                    }
                    Some(command) => self.obey(command).await,
                    // The last handle is gone.
                    None => return self.shutdown().await,
                },
                Some(notice) = notices.recv() => self.notice(notice).await,
                event = event => match event {
                    Some(event) => self.network_event(event),
                    None => events = None,
                },
                _ = round.tick() => self.round().await,
            }
        }
    }

    async fn open_stored_spaces(&mut self) -> Result<(), Error> {
        for space in self.workshop.store.spaces()? {
            let Some(keys) = self.workshop.space_keys(space)? else {
                tracing::warn!(space = %space.short(), "a space without its key file is left alone");
                continue;
            };
            let core = self.workshop.core(keys);
            self.host(core).await?;
        }
        Ok(())
    }

    /// Opens a space's log and documents and starts its pump.
    ///
    /// A space whose founding was cut short has keys but no genesis and never was acknowledged: it is removed.
    async fn host(&mut self, core: SpaceCore) -> Result<SpaceId, Error> {
        let keys = core.state().keys();
        let (space, name) = (keys.space, keys.name.clone());
        let ticket = keys.ticket.as_ref().and_then(|text| text.parse().ok());
        let workshop = self.workshop.clone();
        let notices = self.notices.clone();
        let random = StdRng::from_rng(&mut self.random);
        let Some(link) = blocking(move || workshop.start_pump(core, random, notices)).await? else {
            tracing::warn!(space = %space.short(), "a space whose founding was cut short is removed");
            let store = self.workshop.store.clone();
            blocking(move || Ok(store.remove_space(space)?)).await?;
            return Ok(space);
        };
        self.spaces
            .insert(space, Hosted { name, link, topic: None, greeted: Vec::new(), ticket, joining_problem: None });
        self.publish();
        Ok(space)
    }

    async fn redial_known_peers(&mut self) {
        let Some(network) = &self.workshop.network else { return };
        self.written_peers = files::read_peers(&self.workshop.store.files());
        for peer in &self.written_peers {
            let addresses = peer.addresses.iter().filter_map(|text| parse_address(text).ok()).collect();
            network.keep(peer.device, addresses).await;
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Create { name, strings, reply } => {
                let outcome = self.create(name, strings).await;
                let _gone = reply.send(outcome);
            }
            Command::Join { ticket, name, reply } => {
                let outcome = self.join(ticket, name).await;
                let _gone = reply.send(outcome);
            }
            Command::Leave { space, reply } => {
                let outcome = self.leave(space).await;
                let _gone = reply.send(outcome);
            }
            Command::Shutdown { .. } => {}
        }
    }

    fn check_free(&self, name: &str) -> Result<(), Error> {
        match self.spaces.values().any(|hosted| hosted.name == name) {
            true => Err(Error::NameTaken { name: name.to_owned() }),
            false => Ok(()),
        }
    }

    async fn create(&mut self, name: String, strings: Strings) -> Result<(SpaceId, String), Error> {
        self.check_free(&name)?;
        let recovery = DeviceKey::generate(&mut self.random);
        let mut nonce = [0; 16];
        rand::Rng::fill_bytes(&mut self.random, &mut nonce);
        let device = &self.workshop.device;
        let genesis = Genesis {
            steward: device.id(),
            steward_exchange: device.exchange_public(),
            recovery: recovery.id(),
            strings,
            nonce,
        };
        let keys = empty_keys(genesis.space(), name, device.id());
        let mut core = self.workshop.core(keys);
        core.found(genesis, files::wall_ms(), &mut self.random)?;
        let space = self.store_and_host(core).await?;
        Ok((space, RecoveryKey::new(&recovery).reveal()))
    }

    async fn join(&mut self, ticket: Ticket, name: String) -> Result<SpaceId, Error> {
        if let Some(hosted) = self.spaces.get(&ticket.space) {
            let is_member = hosted.link.facts.borrow().role.is_some();
            if is_member || hosted.ticket.as_ref() == Some(&ticket) {
                return Err(Error::AlreadyJoined { name: hosted.name.clone() });
            }
            return self.take_another_ticket(ticket).await;
        }
        self.check_free(&name)?;
        let mut keys = empty_keys(ticket.space, name, ticket.founder);
        keys.ticket = Some(ticket.to_string());
        let space = self.store_and_host(self.workshop.core(keys)).await?;
        self.apply_for_admission(space);
        Ok(space)
    }

    /// Takes a ticket for a space that is here and that has not admitted this device: it was restored from a backup, or
    /// an earlier ticket was of no use.
    async fn take_another_ticket(&mut self, ticket: Ticket) -> Result<SpaceId, Error> {
        let space = ticket.space;
        let mut keys =
            self.workshop.space_keys(space)?.ok_or(Error::DamagedFile { what: "the key file of a space" })?;
        keys.ticket = Some(ticket.to_string());
        if let Some(hosted) = self.spaces.remove(&space) {
            if let (Some(network), Some(topic)) = (&self.workshop.network, hosted.topic) {
                network.unsubscribe(topic).await;
            }
            end_pump(&hosted.link).await;
        }
        let files = self.workshop.keys.clone();
        let core = self.workshop.core(keys.clone());
        blocking(move || Ok(files::write_space(&files, &keys)?)).await?;
        self.host(core).await?;
        self.name_peers(space);
        self.apply_for_admission(space);
        Ok(space)
    }

    async fn store_and_host(&mut self, core: SpaceCore) -> Result<SpaceId, Error> {
        let keys = core.state().keys().clone();
        let mut incarnation = [0; 16];
        rand::Rng::fill_bytes(&mut self.random, &mut incarnation);
        let (store, files) = (self.workshop.store.clone(), self.workshop.keys.clone());
        blocking(move || {
            let (name, bytes) = files::first_space_file(&files, &keys);
            Ok(store.create_space(keys.space, Incarnation(incarnation), &[(name, &bytes)])?)
        })
        .await?;
        self.host(core).await
    }

    async fn leave(&mut self, space: SpaceId) -> Result<(), Error> {
        let Some(hosted) = self.spaces.remove(&space) else {
            return Err(Error::UnknownSpace { asked: space.to_string(), known: Vec::new() });
        };
        self.publish();
        if let (Some(network), Some(topic)) = (&self.workshop.network, hosted.topic) {
            network.unsubscribe(topic).await;
        }
        end_pump(&hosted.link).await;
        self.renew_tags();
        let store = self.workshop.store.clone();
        blocking(move || Ok(store.remove_space(space)?)).await
    }

    async fn shutdown(&mut self) {
        self.write_known_peers().await;
        for hosted in self.spaces.values() {
            end_pump(&hosted.link).await;
        }
        if let Some(network) = &self.workshop.network {
            network.shutdown().await;
        }
        let store = self.workshop.store.clone();
        let flushed = blocking(move || Ok(store.flush()?)).await;
        if let Err(error) = flushed {
            tracing::warn!(%error, "the index was not written out; the next start completes it");
        }
    }

    async fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::FactsChanged(space) => self.facts_changed(space).await,
            Notice::BegunAnew(space) => self.name_peers(space),
            Notice::Greeted { peer, greeting, shared } => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.greeting.answered(greeting);
                }
                self.shares(peer, shared);
            }
            Notice::JoinAnswered(space, answer) => self.join_answered(space, answer),
        }
    }

    /// A space has new keys or a new membership: its topic and its tags may be others now.
    async fn facts_changed(&mut self, space: SpaceId) {
        let Some(hosted) = self.spaces.get_mut(&space) else { return };
        let facts = hosted.link.facts.borrow().clone();
        if facts.role.is_some() {
            hosted.joining_problem = None;
        }
        let topic = facts.gossip.as_ref().and_then(|secret| secret.topic().parse().ok());
        let epochs: Vec<u32> = facts.replication.iter().map(|(epoch, _)| *epoch).collect();
        let old = std::mem::replace(&mut hosted.topic, topic.clone());
        let greeted = std::mem::replace(&mut hosted.greeted, epochs.clone());
        self.publish();
        if greeted != epochs {
            self.renew_tags();
        }
        if old == topic {
            return;
        }
        if let Some(network) = &self.workshop.network {
            if let Some(old) = old {
                network.unsubscribe(old).await;
            }
            if let Some(topic) = topic
                && let Err(error) = network.subscribe(topic).await
            {
                tracing::error!(space = %space.short(), %error, "the space hears no gossip; it still reconciles");
            }
        }
    }

    /// Greets all peers anew, since the spaces or their secrets changed.
    fn renew_tags(&mut self) {
        let peers: Vec<DeviceId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.greet(peer);
        }
    }

    /// Tells a peer by tags which spaces are here.
    fn greet(&mut self, peer: DeviceId) {
        let Some(network) = &self.workshop.network else { return };
        let local = self.workshop.device.id();
        let of_space = |(space, hosted): (&SpaceId, &Hosted)| {
            let facts = hosted.link.facts.borrow().clone();
            facts.replication.iter().map(|(epoch, secret)| (*space, *epoch, secret.clone())).collect::<Vec<_>>()
        };
        let secrets: Vec<_> = self.spaces.iter().flat_map(of_space).collect();
        let tags = PeerTags::new(&local, &peer, secrets.iter().map(|(space, epoch, secret)| (*space, *epoch, secret)));
        let hellos = tags.hellos();
        self.greetings += 1;
        let greeting = self.greetings;
        let known = self.peers.entry(peer).or_default();
        (known.tags, known.greeting) = (tags.clone(), Greeting { number: greeting, open: hellos.len() });
        for hello in hellos {
            let answer = network.send_request(peer, Protocol::Sync, SyncMessage::Hello(hello.clone()).encode());
            let (notices, tags) = (self.notices.clone(), tags.clone());
            self.workshop.runtime.spawn(async move {
                let answer = answer.await.ok().and_then(|bytes| HelloAnswer::decode(&bytes).ok());
                if let Some(answer) = answer {
                    let shared = tags.shared(&hello, &answer);
                    let _ended = notices.send(Notice::Greeted { peer, greeting, shared }).await;
                }
            });
        }
    }

    fn shares(&mut self, peer: DeviceId, spaces: Vec<SharedSpace>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        for shared in spaces {
            let later = known.shares.get(&shared.space).is_none_or(|before| before.epoch < shared.epoch);
            if let Some(hosted) = self.spaces.get(&shared.space).filter(|_| later) {
                let first = known.shares.insert(shared.space, shared).is_none();
                hosted.link.send(Message::PeerShares { peer, tag: shared.tag });
                if let Some(network) = self.workshop.network.clone().filter(|_| first) {
                    self.workshop.runtime.spawn(async move { network.keep(peer, Vec::new()).await });
                }
            }
        }
    }

    /// Tells a space which connected peers share it.
    fn name_peers(&self, space: SpaceId) {
        let Some(hosted) = self.spaces.get(&space) else { return };
        for (peer, known) in &self.peers {
            if let Some(SharedSpace { tag, .. }) = known.shares.get(&space) {
                hosted.link.send(Message::PeerShares { peer: *peer, tag: *tag });
            }
        }
    }

    fn network_event(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Connected { peer } => {
                self.greet(peer);
                self.apply_at(peer);
            }
            NetworkEvent::Disconnected { peer } => {
                for space in self.peers.remove(&peer).map(|peer| peer.shares).unwrap_or_default().into_keys() {
                    if let Some(hosted) = self.spaces.get(&space) {
                        hosted.link.send(Message::PeerGone { peer });
                    }
                }
            }
            NetworkEvent::Gossip { from, topic, data, id } => {
                let hosted = self.spaces.values().find(|hosted| hosted.topic.as_ref() == Some(&topic));
                if let Some(hosted) = hosted {
                    hosted.link.offer(Message::Gossip { bytes: data, from, id });
                }
            }
            NetworkEvent::Request { peer, protocol: Protocol::Sync, bytes, reply } => self.asked(peer, &bytes, reply),
            NetworkEvent::Request { peer, protocol: Protocol::Join, bytes, reply } => {
                self.asked_to_sponsor(peer, &bytes, reply);
            }
            _ => {}
        }
    }

    /// A peer greets, or asks about a space.
    fn asked(&mut self, peer: DeviceId, bytes: &[u8], reply: Reply) {
        let known = self.peers.entry(peer).or_default();
        match SyncMessage::decode(bytes) {
            Ok(SyncMessage::Hello(hello)) => {
                let (answer, shared) = known.tags.answer(&hello);
                reply.send(answer.encode());
                self.shares(peer, shared);
            }
            Ok(SyncMessage::Space { tag, request }) => {
                let hosted = known.tags.space(&tag).and_then(|space| self.spaces.get(&space));
                if let Some(hosted) = hosted {
                    hosted.link.offer(Message::Requested { peer, request, reply });
                }
            }
            Err(error) => {
                tracing::debug!(peer = %peer.short(), %error, "a request is not understood");
                // A newer release may say what this one does not know; nonsense no release says.
                if let Some(network) = &self.workshop.network
                    && !matches!(error, DecodeError::NewerVersion { .. })
                {
                    network.blame(peer, Fault::MalformedRequest);
                }
            }
        }
    }

    fn asked_to_sponsor(&mut self, peer: DeviceId, bytes: &[u8], reply: Reply) {
        let request = match JoinRequest::decode(bytes) {
            Ok(request) if request.certificate.device == peer => request,
            _ => return,
        };
        let (local, invitation) = (self.workshop.device.id(), request.certificate.invitation);
        let named = invitation_tag(&invitation, &peer, &local) == request.tag;
        let knows = |hosted: &&Hosted| hosted.link.facts.borrow().invitations.contains(&invitation);
        match self.spaces.values().find(knows).filter(|_| named) {
            Some(hosted) => {
                hosted.link.offer(Message::Join { certificate: request.certificate, reply });
            }
            None => reply.send(JoinAnswer::Refused(JoinRefusal::Unknown).encode()),
        }
    }

    /// Dials the addresses of a ticket and asks everybody who is connected.
    fn apply_for_admission(&mut self, space: SpaceId) {
        let Some(network) = self.workshop.network.clone() else { return };
        let Some(ticket) = self.spaces.get(&space).and_then(|hosted| hosted.ticket.clone()) else { return };
        for address in ticket.addresses.iter().filter_map(|text| parse_address(text).ok()) {
            let network = network.clone();
            self.workshop.runtime.spawn(async move {
                if let Err(error) = network.connect(address.clone()).await {
                    tracing::debug!(%address, %error, "a ticket's address was not reached");
                }
            });
        }
        let peers: Vec<DeviceId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.apply_at(peer);
        }
    }

    /// Asks one peer to sponsor this device in all spaces that it wants to join.
    fn apply_at(&mut self, peer: DeviceId) {
        let Some(network) = &self.workshop.network else { return };
        let device = &self.workshop.device;
        for (space, hosted) in &self.spaces {
            let waiting = is_waiting(hosted);
            let refused = hosted.joining_problem.as_ref().is_some_and(|problem| problem.is_final);
            let Some(ticket) = hosted.ticket.as_ref().filter(|_| waiting && !refused) else { continue };
            let invitation = ticket.invitation();
            let request = JoinRequest {
                tag: invitation_tag(&invitation.id(), &device.id(), &peer),
                certificate: Certificate::new(space, device, &invitation),
            };
            let answer = network.send_request(peer, Protocol::Join, request.encode());
            let (notices, space) = (self.notices.clone(), *space);
            self.workshop.runtime.spawn(async move {
                let answer = answer.await.ok().and_then(|bytes| JoinAnswer::decode(&bytes).ok());
                if let Some(answer) = answer {
                    let _ended = notices.send(Notice::JoinAnswered(space, answer)).await;
                }
            });
        }
    }

    fn join_answered(&mut self, space: SpaceId, answer: JoinAnswer) {
        let Some(hosted) = self.spaces.get_mut(&space) else { return };
        match answer {
            JoinAnswer::Admitted(delivery) => {
                // Its keys are on their way; the rest comes with the log.
                hosted.joining_problem = None;
                hosted.link.send(Message::Admitted(delivery));
            }
            JoinAnswer::Refused(refusal) => {
                let problem = JoiningProblem { text: refusal.to_string(), is_final: !refusal.is_retryable() };
                // A peer that cannot help must not hide that another one said the ticket is of no use.
                if hosted.joining_problem.as_ref().is_none_or(|known| !known.is_final) {
                    hosted.joining_problem = Some(problem);
                }
            }
        }
        self.publish();
    }

    async fn round(&mut self) {
        if self.workshop.cache.share_out() {
            for hosted in self.spaces.values() {
                hosted.link.send(Message::MakeRoom);
            }
        }
        let joining = |(_, hosted): &(&SpaceId, &Hosted)| hosted.ticket.is_some() && is_waiting(hosted);
        let waiting: Vec<SpaceId> = self.spaces.iter().filter(joining).map(|(space, _)| *space).collect();
        for space in waiting {
            self.apply_for_admission(space);
        }
        let ungreeted: Vec<DeviceId> =
            self.peers.iter().filter(|(_, known)| known.greeting.open > 0).map(|(peer, _)| *peer).collect();
        for peer in ungreeted {
            self.greet(peer);
        }
        self.write_known_peers().await;
    }

    /// Writes down the peers that share a space, when they changed.
    async fn write_known_peers(&mut self) {
        let Some(network) = &self.workshop.network else { return };
        let mut known: Vec<KnownPeer> = network
            .peers()
            .await
            .into_iter()
            .filter(|peer| peer.kept && !peer.addresses.is_empty())
            .map(|peer| KnownPeer {
                device: peer.device,
                addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            })
            .collect();
        known.truncate(KNOWN_PEERS_MAX);
        if known == self.written_peers {
            return;
        }
        match files::write_peers(&self.workshop.store.files(), &known) {
            Ok(()) => self.written_peers = known,
            Err(error) => tracing::warn!(%error, "the known peers were not written down"),
        }
    }

    fn publish(&self) {
        let entry = |hosted: &Hosted| SpaceEntry {
            name: hosted.name.clone(),
            link: hosted.link.clone(),
            // What is known of a member's role does not go through here, so this may be outdated for members.
            joining_problem: hosted.joining_problem.clone().or_else(|| {
                let no_ticket = JoiningProblem { text: NO_TICKET.to_owned(), is_final: false };
                hosted.ticket.is_none().then_some(no_ticket)
            }),
        };
        let mut entries: Vec<SpaceEntry> = self.spaces.values().map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        self.published.send_replace(Arc::new(entries));
    }
}

/// Whether this device is to be admitted, for the first time or again.
fn is_waiting(hosted: &Hosted) -> bool {
    let facts = hosted.link.facts.borrow();
    facts.role.is_none() && !facts.was_removed
}

fn empty_keys(space: SpaceId, name: String, founder: DeviceId) -> SpaceKeys {
    SpaceKeys { space, name, founder, ticket: None, content: BTreeMap::new(), replication: BTreeMap::new() }
}

/// Ends a space's thread and waits until its log is closed.
async fn end_pump(link: &Link) {
    let (reply, done) = oneshot::channel();
    if link.send(Message::Close { reply }) {
        let _ended = done.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_to_the_last_greeting_end_it() {
        let mut greeting = Greeting { number: 2, open: 2 };
        greeting.answered(1);
        assert_eq!(greeting.open, 2, "an earlier greeting did not name every space that is here now");
        greeting.answered(2);
        greeting.answered(2);
        assert_eq!(greeting.open, 0);
    }
}
