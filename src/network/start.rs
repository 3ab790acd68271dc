//! Starting: from a configuration to a swarm that listens.

use std::num::NonZeroU8;
use std::sync::Arc;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::metrics::Metrics;
use libp2p::swarm::{Swarm, SwarmEvent};
use libp2p::{SwarmBuilder, TransportError, noise, tcp, tls, yamux};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

use super::behaviour::Behaviour;
use super::conduct::Figures;
use super::config::{COMMAND_QUEUE, EVENT_QUEUE, LISTEN_TIMEOUT, MAX_NEGOTIATING_STREAMS, NetworkConfig};
use super::driver::{Driver, DriverParts};
use super::error::NetworkError;
use super::event::NetworkEvents;
use super::handle::Network;
use super::identity::device_of;
use super::listen::{self, Socket};
use super::traffic::TrafficMeter;

/// How many addresses of one peer are dialled at the same time.
const DIAL_CONCURRENCY: NonZeroU8 = NonZeroU8::new(8).expect("8 is not 0");

/// See [`Network::start`].
pub(super) async fn start(
    config: NetworkConfig,
    registry: &mut Registry,
) -> Result<(Network, NetworkEvents), NetworkError> {
    let sockets = listen::sockets(&config)?;
    let keypair = Keypair::ed25519_from_bytes(*config.secret).map_err(|error| NetworkError::Setup(error.into()))?;
    let device = device_of(&keypair.public().to_peer_id()).map_err(|error| NetworkError::Setup(error.into()))?;
    let mut bandwidth = Registry::default();
    let swarm = swarm(keypair, &config, &mut bandwidth)?;
    let meter = TrafficMeter::new(bandwidth);
    registry.register_collector(Box::new(meter.clone()));

    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let (events, event_queue) = mpsc::channel(EVENT_QUEUE);
    let (listening, listen_addresses) = watch::channel(Arc::from([]));
    let network = Network {
        device,
        commands,
        listening: listen_addresses,
        meter,
        request_bytes: config.limits.request_bytes,
        connect_timeout: config.connect_timeout,
    };
    let metrics = Metrics::new(registry);
    let figures = Figures::register(registry);
    let parts = DriverParts { swarm, commands: command_queue, events, listening, metrics, figures };
    let mut driver = Driver::new(parts, device, &config);
    listen_on(&mut driver, sockets).await?;
    driver.keep_bootstrap(&config.bootstrap);
    tokio::spawn(driver.run());
    Ok((network, NetworkEvents(event_queue)))
}

/// Builds the swarm: TCP (Noise or TLS, yamux) and QUIC, names resolved by the system's DNS.
///
/// Both transports are always built; one that is switched off is neither listened on nor dialled.
fn swarm(keypair: Keypair, config: &NetworkConfig, bandwidth: &mut Registry) -> Result<Swarm<Behaviour>, NetworkError> {
    let behaviour = Behaviour::new(&keypair, config)?;
    let idle_timeout = config.idle_timeout;
    let setup = |error: Box<dyn std::error::Error + Send + Sync>| NetworkError::Setup(error);
    let builder = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), (noise::Config::new, tls::Config::new), yamux::Config::default)
        .map_err(|error| setup(error.into()))?
        .with_quic()
        .with_dns()
        .map_err(|error| setup(error.into()))?
        .with_bandwidth_metrics(bandwidth)
        .with_behaviour(|_| behaviour)
        .map_err(|error| match error {})?;
    Ok(builder
        .with_swarm_config(|settings| {
            settings
                .with_idle_connection_timeout(idle_timeout)
                .with_dial_concurrency_factor(DIAL_CONCURRENCY)
                .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS)
        })
        .build())
}

/// Opens the sockets and waits until each that is required has an address.
async fn listen_on(driver: &mut Driver, sockets: Vec<Socket>) -> Result<(), NetworkError> {
    let mut waiting: Vec<(ListenerId, Socket)> = Vec::new();
    for socket in sockets {
        match driver.swarm().listen_on(socket.address.clone()) {
            Ok(id) => waiting.push((id, socket)),
            Err(error) if !socket.required => tracing::debug!(address = %socket.address, %error, "not listening"),
            Err(TransportError::Other(cause)) => return Err(listen::failure(&socket.address, cause)),
            Err(error @ TransportError::MultiaddrNotSupported(_)) => {
                return Err(NetworkError::Listen { address: socket.address, cause: error.into() });
            }
        }
    }
    waiting.retain(|(_, socket)| socket.required);
    let deadline = tokio::time::Instant::now() + LISTEN_TIMEOUT;
    while let Some((_, socket)) = waiting.first() {
        let Ok(event) = tokio::time::timeout_at(deadline, driver.swarm().select_next_some()).await else {
            return Err(NetworkError::ListenTimeout { address: socket.address.clone(), waited: LISTEN_TIMEOUT });
        };
        match &event {
            SwarmEvent::NewListenAddr { listener_id, .. } => waiting.retain(|(id, _)| id != listener_id),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some((_, socket)) = waiting.iter().find(|(id, _)| id == listener_id) {
                    let cause = reason.as_ref().err().map_or("the socket closed".to_owned(), ToString::to_string);
                    return Err(NetworkError::Listen { address: socket.address.clone(), cause: cause.into() });
                }
            }
            _ => {}
        }
        driver.on_swarm_event(event);
    }
    Ok(())
}
