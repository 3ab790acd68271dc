//! Networks that talk to each other over loopback; each wait has a deadline, and none is a sleep.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use prometheus_client::registry::Registry;
use syncline_model::DeviceId;

use super::identity::peer_of;
use super::*;

/// No step of a test may take longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// For so long a thing that must not happen is given the chance to.
const QUIET: Duration = Duration::from_millis(1500);

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

struct Node {
    network: Network,
    events: NetworkEvents,
    registry: Registry,
}

fn config(seed: u8, listen: &str) -> NetworkConfig {
    let mut secret = [seed; 32];
    secret[0] = 0x5a;
    NetworkConfig { listen: vec![listen.parse().unwrap()], mdns: false, ..NetworkConfig::new(secret) }
}

async fn start(config: NetworkConfig) -> Node {
    let mut registry = Registry::default();
    let (network, events) = Network::start(config, &mut registry).await.unwrap();
    Node { network, events, registry }
}

impl Node {
    async fn on(seed: u8, listen: &str) -> Self {
        start(config(seed, listen)).await
    }

    fn device(&self) -> DeviceId {
        self.network.device()
    }

    fn address(&self) -> Multiaddr {
        self.network.listen_addresses().remove(0)
    }

    fn full_address(&self) -> Multiaddr {
        self.address().with(Part::P2p(peer_of(self.device()).unwrap()))
    }

    /// The first event that is wanted; others are passed over.
    async fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.next().await.expect("the network runs");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    async fn connected(&mut self, peer: DeviceId) {
        self.wait("a connection", |event| {
            matches!(event, NetworkEvent::Connected { peer: it } if it == peer).then_some(())
        })
        .await;
    }

    async fn disconnected(&mut self, peer: DeviceId) {
        let wanted = |event| matches!(event, NetworkEvent::Disconnected { peer: it } if it == peer).then_some(());
        self.wait("the end of a connection", wanted).await;
    }

    async fn subscribed(&mut self, peer: DeviceId) {
        let wanted = |event| matches!(event, NetworkEvent::Subscribed { peer: it, .. } if it == peer).then_some(());
        self.wait("a subscription", wanted).await;
    }

    async fn gossip(&mut self) -> (DeviceId, Vec<u8>, GossipId) {
        let wanted = |event| match event {
            NetworkEvent::Gossip { from, data, id, .. } => Some((from, data, id)),
            _ => None,
        };
        self.wait("gossip", wanted).await
    }

    async fn request(&mut self) -> (Vec<u8>, Reply) {
        let wanted = |event| match event {
            NetworkEvent::Request { bytes, reply, .. } => Some((bytes, reply)),
            _ => None,
        };
        self.wait("a request", wanted).await
    }

    /// All events of some time in which nothing is awaited.
    async fn quiet(&mut self) -> Vec<NetworkEvent> {
        let mut seen = Vec::new();
        let deadline = tokio::time::Instant::now() + QUIET;
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline, self.events.next()).await {
            seen.push(event);
        }
        seen
    }

    async fn info(&self, device: DeviceId) -> Option<PeerInfo> {
        self.network.peers().await.into_iter().find(|info| info.device == device)
    }
}

async fn connect(a: &mut Node, b: &mut Node) {
    assert_eq!(a.network.connect(b.full_address()).await, Ok(b.device()));
    a.connected(b.device()).await;
    b.connected(a.device()).await;
}

fn topic() -> Topic {
    "syncline/test".parse().unwrap()
}

#[tokio::test]
async fn two_nodes_connect_over_tcp_and_over_quic() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = (Node::on(1, listen).await, Node::on(2, listen).await);
        connect(&mut a, &mut b).await;
        let info = a.info(b.device()).await.unwrap();
        assert_eq!((info.state, info.direction, info.kept), (PeerState::Connected, Some(Direction::Outgoing), true));
        assert_eq!(info.addresses[0], b.address());
        assert_eq!(b.info(a.device()).await.unwrap().direction, Some(Direction::Incoming));
    }
}

#[tokio::test]
async fn peers_describe_themselves_and_traffic_is_counted() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    connect(&mut a, &mut b).await;
    let described = async {
        loop {
            let info = a.info(b.device()).await.unwrap();
            if info.agent.is_some() && info.latency_us.is_some() {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let info = tokio::time::timeout(PATIENCE, described).await.unwrap();
    assert!(info.agent.unwrap().starts_with("syncline/"));
    assert!(info.protocols.contains(&Protocol::Sync.name().to_owned()), "{:?}", info.protocols);
    let traffic = a.network.traffic();
    assert!(traffic.received > 0 && traffic.sent > 0, "{traffic:?}");
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &a.registry).unwrap();
    assert!(page.contains("network_sent_bytes_total "), "{page}");
}

#[tokio::test]
async fn a_request_is_answered_over_both_transports_up_to_the_caps() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = (Node::on(1, listen).await, Node::on(2, listen).await);
        connect(&mut a, &mut b).await;
        for protocol in Protocol::ALL {
            let answer = a.network.send_request(b.device(), protocol, vec![1; 1024 * 1024]);
            let (bytes, reply) = b.request().await;
            assert_eq!(bytes.len(), 1024 * 1024);
            reply.send(vec![2; 10 * 1024 * 1024]);
            assert_eq!(answer.await.unwrap(), vec![2; 10 * 1024 * 1024]);
        }
    }
}

#[tokio::test]
async fn a_request_over_the_cap_is_refused_by_its_sender_and_by_its_receiver() {
    let mut a = Node::on(1, TCP).await;
    let mut b = start(NetworkConfig {
        limits: Limits { request_bytes: 1000, response_bytes: 1000, ..Limits::default() },
        ..config(2, TCP)
    })
    .await;
    connect(&mut a, &mut b).await;
    let too_large = b.network.send_request(a.device(), Protocol::Sync, vec![0; 1001]).await;
    assert!(matches!(too_large, Err(RequestError::Message(_))), "{too_large:?}");
    let refused = a.network.send_request(b.device(), Protocol::Sync, vec![0; 500_000]).await;
    assert!(matches!(refused, Err(RequestError::Refused)), "{refused:?}");
    // A response over the asker's cap is malformed to it.
    let answer = b.network.send_request(a.device(), Protocol::Sync, vec![1]);
    a.request().await.1.send(vec![0; 1001]);
    let too_large = answer.await;
    assert!(matches!(too_large, Err(RequestError::Message(_))), "{too_large:?}");
    // None of this costs the connection.
    let answer = a.network.send_request(b.device(), Protocol::Sync, vec![1]);
    b.request().await.1.send(vec![2]);
    assert_eq!(answer.await, Ok(vec![2]));
}

#[tokio::test]
async fn requests_that_cannot_be_answered_say_why() {
    let mut a = Node::on(1, TCP).await;
    let mut b = start(NetworkConfig { serve: vec![Protocol::Sync], ..config(2, TCP) }).await;
    let ask = |protocol| a.network.send_request(b.device(), protocol, b"hello".to_vec());
    assert_eq!(ask(Protocol::Sync).await, Err(RequestError::PeerNotFound));
    let (network, device) = (a.network.clone(), b.device());
    connect(&mut a, &mut b).await;
    let ask = |protocol| network.send_request(device, protocol, b"hello".to_vec());
    assert_eq!(ask(Protocol::Join).await, Err(RequestError::Protocol));
    let answer = ask(Protocol::Sync);
    drop(b.request().await);
    let refused = answer.await.unwrap_err();
    assert!(refused == RequestError::Refused && !refused.is_retryable(), "{refused:?}");
    let answer = ask(Protocol::Sync);
    let (_, held) = b.request().await;
    b.network.shutdown().await;
    let lost = answer.await.unwrap_err();
    assert!(lost.is_retryable(), "{lost:?}");
    assert!(!held.is_wanted());
}

#[tokio::test]
async fn a_request_without_a_response_times_out() {
    let mut a = start(NetworkConfig { request_timeout: Duration::from_millis(200), ..config(1, TCP) }).await;
    let mut b = Node::on(2, TCP).await;
    connect(&mut a, &mut b).await;
    let answer = a.network.send_request(b.device(), Protocol::Sync, vec![1]);
    let _held = b.request().await;
    assert_eq!(answer.await, Err(RequestError::Timeout));
}

/// Three nodes of which the first and the last know only the middle one; all follow the topic.
async fn line() -> (Node, Node, Node) {
    let (mut a, mut b, mut c) = (Node::on(1, TCP).await, Node::on(2, TCP).await, Node::on(3, TCP).await);
    for node in [&a, &b, &c] {
        node.network.subscribe(topic()).await.unwrap();
    }
    for end in [&mut a, &mut c] {
        connect(end, &mut b).await;
        end.subscribed(b.device()).await;
        b.subscribed(end.device()).await;
    }
    (a, b, c)
}

#[tokio::test]
async fn gossip_goes_on_only_after_it_was_accepted() {
    let (a, mut b, mut c) = line().await;
    a.network.publish(topic(), b"frame".to_vec());
    let (from, data, id) = b.gossip().await;
    assert_eq!((from, data.as_slice()), (a.device(), &b"frame"[..]));
    assert!(c.quiet().await.is_empty());
    b.network.report(id, from, Verdict::Accept);
    let (from, data, _) = c.gossip().await;
    assert_eq!((from, data.as_slice()), (b.device(), &b"frame"[..]));
}

#[tokio::test]
async fn rejected_and_ignored_gossip_goes_no_further() {
    let (a, mut b, mut c) = line().await;
    for (frame, verdict) in [("bad", Verdict::Reject), ("pending", Verdict::Ignore)] {
        a.network.publish(topic(), frame.into());
        let (from, _, id) = b.gossip().await;
        b.network.report(id, from, verdict);
    }
    assert!(c.quiet().await.is_empty());
    a.network.publish(topic(), b"good".to_vec());
    let (from, _, id) = b.gossip().await;
    b.network.report(id, from, Verdict::Accept);
    assert_eq!(c.gossip().await.1, b"good");
}

#[tokio::test]
async fn publishing_to_nobody_is_no_error_and_a_late_subscriber_is_told_of_followers() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    a.network.publish(topic(), b"unheard".to_vec());
    b.network.subscribe(topic()).await.unwrap();
    connect(&mut a, &mut b).await;
    // Followers are known a moment after connecting; one frame per try shows when.
    let first = async {
        for at in 0u64.. {
            a.network.publish(topic(), at.to_be_bytes().to_vec());
            if tokio::time::timeout(Duration::from_millis(50), b.events.next()).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, first).await.unwrap();
    a.network.subscribe(topic()).await.unwrap();
    a.subscribed(b.device()).await;
}

#[tokio::test]
async fn a_peer_with_many_topics_is_understood() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    let name = |at: usize| format!("syncline/{at:0>91}").parse::<Topic>().unwrap();
    for at in 0..config::MAX_TOPICS {
        b.network.subscribe(name(at)).await.unwrap();
    }
    assert_eq!(b.network.subscribe(name(config::MAX_TOPICS)).await, Err(SubscribeError::TooMany));
    a.network.subscribe(name(config::MAX_TOPICS - 1)).await.unwrap();
    connect(&mut a, &mut b).await;
    a.subscribed(b.device()).await;
}

#[tokio::test]
async fn a_busy_explicit_address_is_a_clear_error_for_both_transports() {
    for listen in [TCP, QUIC] {
        let first = Node::on(1, listen).await;
        let second = NetworkConfig { listen: vec![first.address()], ..config(2, listen) };
        let error = Network::start(second, &mut Registry::default()).await.unwrap_err();
        assert!(matches!(&error, NetworkError::AddressInUse { address } if *address == first.address()), "{error}");
        assert!(error.to_string().contains("choose another"), "{error}");
    }
}

#[tokio::test]
async fn without_an_explicit_address_a_busy_port_is_replaced_by_one_for_all_transports() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let busy = taken.local_addr().unwrap().port();
    let node = start(NetworkConfig { listen: Vec::new(), preferred_port: Some(busy), ..config(1, TCP) }).await;
    let ports = node.network.listen_addresses().into_iter().filter_map(|address| {
        address.iter().find_map(|part| match part {
            Part::Tcp(port) => Some(("tcp", port)),
            Part::Udp(port) => Some(("udp", port)),
            _ => None,
        })
    });
    let ports: BTreeMap<&str, u16> = ports.collect();
    assert_eq!(ports["tcp"], ports["udp"]);
    assert_ne!(ports["tcp"], busy);
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again_and_each_transition_is_told_once() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    connect(&mut a, &mut b).await;
    let (device, address) = (b.device(), b.address());
    b.network.shutdown().await;
    drop(b);
    a.disconnected(device).await;
    let mut b = start(NetworkConfig { listen: vec![address], ..config(2, TCP) }).await;
    a.connected(device).await;
    b.connected(a.device()).await;
    let more = a.quiet().await;
    assert!(more.is_empty(), "{more:?}");
}

#[tokio::test]
async fn a_bootstrap_peer_without_a_known_device_is_awaited() {
    let b = Node::on(2, TCP).await;
    let address = b.address();
    b.network.shutdown().await;
    let mut a = start(NetworkConfig { bootstrap: vec![address.clone()], ..config(1, TCP) }).await;
    let tried = async {
        while a.network.unreached().await.iter().all(|peer| peer.error.is_none()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.unwrap();
    assert_eq!(a.network.unreached().await[0].address, address);
    let b = start(NetworkConfig { listen: vec![address], ..config(2, TCP) }).await;
    a.connected(b.device()).await;
    assert_eq!(a.network.unreached().await, []);
}

#[tokio::test]
async fn a_deliberate_disconnect_stays_until_the_peer_is_named_again() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    connect(&mut a, &mut b).await;
    // The peer keeps connected from its side too, and so will come back.
    b.network.keep(a.device(), vec![a.address()]).await;
    a.network.disconnect(b.device()).await;
    a.disconnected(b.device()).await;
    b.disconnected(a.device()).await;
    let seen = a.quiet().await;
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(a.info(b.device()).await, None);
    assert_eq!(a.network.connect(b.full_address()).await, Ok(b.device()));
    a.connected(b.device()).await;
    a.network.disconnect(b.device()).await;
    a.disconnected(b.device()).await;
    // An address alone names the peer too, once it is seen who answers there.
    assert_eq!(a.network.connect(b.address()).await, Ok(b.device()));
    a.connected(b.device()).await;
}

#[tokio::test]
async fn a_banned_peer_is_cut_off_and_refused_until_the_ban_ends() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    connect(&mut a, &mut b).await;
    let bans = a.network.ban(b.device(), Duration::from_secs(3600)).await.unwrap();
    assert_eq!(bans.iter().map(|ban| ban.device).collect::<Vec<_>>(), [b.device()]);
    a.disconnected(b.device()).await;
    b.disconnected(a.device()).await;
    // The peer keeps connected from its side, and this device had kept it, too.
    b.network.keep(a.device(), vec![a.address()]).await;
    let seen = a.quiet().await;
    assert!(seen.is_empty(), "{seen:?}");
    let info = a.info(b.device()).await.expect("who is banned is shown");
    assert!(info.conduct.banned_by_person && info.connections == 0);
    for address in [b.full_address(), b.address()] {
        let named = a.network.connect(address).await;
        assert!(matches!(named, Err(ConnectError::Banned { device, .. }) if device == b.device()), "{named:?}");
    }
    assert_eq!(a.network.unban(b.device()).await, (true, Vec::new()));
    a.connected(b.device()).await;
    // A short one ends by itself, and so does one that was kept from before the start.
    a.network.ban(b.device(), Duration::from_millis(300)).await.unwrap();
    a.disconnected(b.device()).await;
    a.connected(b.device()).await;
    let c = start(NetworkConfig { bans: bans.clone(), ..config(3, TCP) }).await;
    let refused = b.network.connect(c.full_address()).await;
    assert!(refused.is_err() || c.info(b.device()).await.is_none_or(|info| info.connections == 0), "{refused:?}");
    assert!(c.info(b.device()).await.unwrap().conduct.banned_until_ms.is_some());
}

#[tokio::test]
async fn faults_lead_to_a_ban_and_rejected_gossip_is_one() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    connect(&mut a, &mut b).await;
    for node in [&a, &b] {
        node.network.subscribe(topic()).await.unwrap();
    }
    b.subscribed(a.device()).await;
    b.network.publish(topic(), b"nonsense".to_vec());
    let (from, _, id) = a.gossip().await;
    a.network.report(id, from, Verdict::Reject);
    let conduct = a.info(b.device()).await.unwrap().conduct;
    assert_eq!((conduct.score, conduct.faults[0].fault), (Fault::InvalidGossip.points(), Fault::InvalidGossip));
    a.network.blame(b.device(), Fault::BadSignature);
    a.network.blame(b.device(), Fault::BadSignature);
    a.disconnected(b.device()).await;
    b.disconnected(a.device()).await;
    let conduct = a.info(b.device()).await.unwrap().conduct;
    assert!(conduct.banned_until_ms.is_some() && !conduct.banned_by_person);
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &a.registry).unwrap();
    for line in ["peer_faults_total{fault=\"bad-signature\"} 2", "peer_bans_total 1", "peers_banned 1"] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn a_flood_is_dropped_before_anybody_looks_and_others_get_through() {
    let rates = PeerRates { frames: 20, frame_bytes: 1 << 20, requests: 20, served_bytes: 1 << 20 };
    let mut victim = start(NetworkConfig { rates, ..config(1, TCP) }).await;
    let (mut flooder, mut other) = (Node::on(2, TCP).await, Node::on(3, TCP).await);
    connect(&mut flooder, &mut victim).await;
    connect(&mut other, &mut victim).await;
    for node in [&victim, &flooder, &other] {
        node.network.subscribe(topic()).await.unwrap();
    }
    flooder.subscribed(victim.device()).await;
    other.subscribed(victim.device()).await;
    for number in 0..150_u32 {
        flooder.network.publish(topic(), number.to_be_bytes().to_vec());
    }
    // On their way when this returns, whether or not anybody waits for the answers.
    let asked: Vec<_> =
        (0..99).map(|_| flooder.network.send_request(victim.device(), Protocol::Sync, vec![1])).collect();
    other.network.publish(topic(), b"heard".to_vec());
    let (mut frames, mut requests, mut heard) = (0, 0, false);
    for event in victim.quiet().await {
        match event {
            NetworkEvent::Gossip { from, data, .. } if from == other.device() => heard |= data == b"heard",
            NetworkEvent::Gossip { .. } => frames += 1,
            NetworkEvent::Request { .. } => requests += 1,
            _ => {}
        }
    }
    drop(asked);
    assert!(heard, "who keeps within its allowance is heard");
    // A burst, and what the rate gives in the time of this test.
    assert!((80..150).contains(&frames), "{frames} frames of the flood came through");
    assert!((80..99).contains(&requests), "{requests} requests of the flood came through");
    let conduct = victim.info(flooder.device()).await.unwrap().conduct;
    assert_eq!((conduct.frames_limited, conduct.requests_limited), (150 - frames, 99 - requests));
    assert_eq!(victim.info(other.device()).await.unwrap().conduct, PeerConduct::default());
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_at_once_are_connected_once_and_stay_so() {
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = (Node::on(1, listen).await, Node::on(2, listen).await);
        let (ab, ba) = tokio::join!(a.network.connect(b.full_address()), b.network.connect(a.full_address()));
        assert_eq!((ab, ba), (Ok(b.device()), Ok(a.device())));
        a.connected(b.device()).await;
        b.connected(a.device()).await;
        let (more_a, more_b) = tokio::join!(a.quiet(), b.quiet());
        assert!(more_a.is_empty() && more_b.is_empty(), "{more_a:?} {more_b:?}");
        assert_eq!(a.info(b.device()).await.unwrap().state, PeerState::Connected);
    }
}

#[tokio::test]
async fn a_node_does_not_connect_to_itself_or_to_another_device_than_named() {
    let (a, b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    let own = a.network.connect(a.full_address()).await;
    assert!(matches!(own, Err(ConnectError::OwnDevice(_))), "{own:?}");
    let own = a.network.connect(a.address()).await;
    assert!(matches!(own, Err(ConnectError::OwnDevice(_))), "{own:?}");
    let address = a.address();
    let port = address.iter().last().unwrap();
    let alias = Multiaddr::empty().with(Part::Dns4("localhost".into())).with(port);
    let own = a.network.connect(alias).await;
    assert!(matches!(own, Err(ConnectError::OwnDevice(_))), "{own:?}");
    let other = b.address().with(Part::P2p(peer_of(Node::on(3, TCP).await.device()).unwrap()));
    let wrong = a.network.connect(other).await;
    let found = b.device().to_string();
    assert!(matches!(&wrong, Err(ConnectError::WrongDevice { found: it, .. }) if *it == found), "{wrong:?}");
    let nobody = a.network.connect("/ip4/127.0.0.1/tcp/1".parse().unwrap()).await;
    assert!(matches!(nobody, Err(ConnectError::Unreachable { .. })), "{nobody:?}");
    let unknown = a.network.connect("/memory/1".parse().unwrap()).await;
    assert!(matches!(unknown, Err(ConnectError::BadAddress { .. })), "{unknown:?}");
}

#[tokio::test]
async fn nodes_that_found_each_other_outlast_the_idle_timeout() {
    let idle_timeout = Duration::from_millis(300);
    let mut a = start(NetworkConfig { idle_timeout, ..config(1, TCP) }).await;
    let mut b = start(NetworkConfig { idle_timeout, ..config(2, TCP) }).await;
    connect(&mut a, &mut b).await;
    let seen = a.quiet().await;
    assert!(seen.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_reader_that_pauses_loses_no_event_and_blocks_no_command() {
    let (mut a, mut b) = (Node::on(1, TCP).await, Node::on(2, TCP).await);
    b.network.subscribe(topic()).await.unwrap();
    connect(&mut a, &mut b).await;
    a.network.subscribe(topic()).await.unwrap();
    a.subscribed(b.device()).await;
    b.subscribed(a.device()).await;
    let frames = 2 * config::EVENT_QUEUE;
    for at in 0..frames {
        a.network.publish(topic(), (at as u64).to_be_bytes().to_vec());
        if at % 256 == 255 {
            // Gossip that outruns the wire is dropped by design; this test is about the reader.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    tokio::time::timeout(PATIENCE, b.network.peers()).await.expect("commands are taken while events wait");
    for _ in 0..frames {
        b.gossip().await;
    }
}

#[tokio::test]
async fn the_secret_is_not_printed_and_the_stream_ends_with_the_network() {
    assert!(!format!("{:?}", config(77, TCP)).contains("77, 77"));
    let mut node = Node::on(1, TCP).await;
    node.network.shutdown().await;
    while node.events.next().await.is_some() {}
    assert!(node.network.peers().await.is_empty());
    let late = node.network.send_request(DeviceId([1; 32]), Protocol::Sync, vec![]).await;
    assert_eq!(late, Err(RequestError::Internal));
}

/// The address by which other machines of the local network would reach this one, if there is a network.
fn local_network_address() -> Option<std::net::Ipv4Addr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: connecting only chooses the interface. The address is the group of multicast DNS (RFC 6762).
    socket.connect("224.0.0.251:5353").ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => Some(address),
        _ => None,
    }
}

#[tokio::test]
#[allow(clippy::print_stderr)]
async fn nodes_of_one_local_network_find_each_other() {
    let Some(address) = local_network_address() else {
        eprintln!("skipped: this machine has no network but the loopback, where multicast DNS is not used");
        return;
    };
    let listen = format!("/ip4/{address}/tcp/0");
    let with_mdns = |seed| NetworkConfig { mdns: true, ..config(seed, &listen) };
    let (mut a, mut b) = (start(with_mdns(1)).await, start(with_mdns(2)).await);
    a.connected(b.device()).await;
    b.connected(a.device()).await;
}

/// Measures; run with `--ignored --nocapture`, in a release build for figures that mean something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn latency_of_a_gossip_hop_and_of_a_request() {
    const ROUNDS: usize = 2000;
    for listen in [TCP, QUIC] {
        let (mut a, mut b) = (Node::on(1, listen).await, Node::on(2, listen).await);
        for node in [&a, &b] {
            node.network.subscribe(topic()).await.unwrap();
        }
        connect(&mut a, &mut b).await;
        a.subscribed(b.device()).await;
        let mut hops = Vec::new();
        for at in 0..ROUNDS as u64 {
            let begin = Instant::now();
            a.network.publish(topic(), [&at.to_be_bytes()[..], &[7; 500]].concat());
            let (from, _, id) = b.gossip().await;
            hops.push(begin.elapsed());
            b.network.report(id, from, Verdict::Accept);
        }
        let mut trips = Vec::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let answer = a.network.send_request(b.device(), Protocol::Sync, vec![1; 500]);
            b.request().await.1.send(vec![2; 500]);
            answer.await.unwrap();
            trips.push(begin.elapsed());
        }
        for (what, mut times) in [("gossip hop", hops), ("request", trips)] {
            times.sort();
            let (median, late) = (times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
            println!("{listen} {what}: p50 {median:?}, p99 {late:?}");
        }
    }
}
