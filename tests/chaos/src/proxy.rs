//! The fault proxy between the nodes: one listener for each ordered pair of them, and a state for each direction.
//!
//! What node A sends to node B obeys the state of (A, B), whoever of the two opened the connection. Bytes are held back
//! and later delivered, delayed and throttled, or their connection is closed in the middle; none is dropped or changed,
//! since TCP below would not do that either.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::failure::Failure;
use crate::stage::Place;

/// Most bytes that are carried at once.
const CHUNK: usize = 64 << 10;
/// Pause after the system refuses to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How one direction between two nodes is at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LinkState {
    /// Nothing is carried.
    held: bool,
    /// How long every chunk waits.
    delay: Duration,
    /// How many bytes a chunk has at most; 0 for no limit. With the delay it makes the bandwidth.
    chunk: usize,
    /// Connections that saw another number are closed.
    cuts: u64,
}

/// All links.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    count: usize,
    /// By from × count + to.
    links: Arc<Vec<watch::Sender<LinkState>>>,
}

impl Proxy {
    /// Opens the listeners.
    pub(crate) async fn start(places: &[Place]) -> Result<Self, Failure> {
        let count = places.len();
        let links = (0..count * count).map(|_| watch::Sender::new(LinkState::default())).collect();
        let proxy = Self { count, links: Arc::new(links) };
        for (from, place) in places.iter().enumerate() {
            for (to, target) in places.iter().enumerate().filter(|(to, _)| *to != from) {
                let at = place.proxies[to];
                let listener = TcpListener::bind(at).await;
                let listener = listener.map_err(|error| Failure::setup(&format!("listen on {at}"), error))?;
                let (there, back) = (proxy.link(from, to).subscribe(), proxy.link(to, from).subscribe());
                tokio::spawn(accept(listener, target.peers, there, back));
            }
        }
        Ok(proxy)
    }

    fn link(&self, from: usize, to: usize) -> &watch::Sender<LinkState> {
        &self.links[from * self.count + to]
    }

    /// Carries nothing from one node to the other, or carries again.
    pub(crate) fn hold(&self, from: usize, to: usize, held: bool) {
        self.link(from, to).send_modify(|state| state.held = held);
    }

    /// Makes one direction slow; nothing and 0 make it fast again.
    pub(crate) fn slow(&self, from: usize, to: usize, delay: Duration, chunk: usize) {
        self.link(from, to).send_modify(|state| (state.delay, state.chunk) = (delay, chunk));
    }

    /// Closes the connections between two nodes, wherever they are in their bytes.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.link(from, to).send_modify(|state| state.cuts += 1);
    }

    /// Makes all links good.
    pub(crate) fn heal(&self) {
        for link in self.links.iter() {
            link.send_modify(|state| *state = LinkState { cuts: state.cuts, ..LinkState::default() });
        }
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    there: watch::Receiver<LinkState>,
    back: watch::Receiver<LinkState>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(carry(stream, target, there.clone(), back.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Carries one connection until either side ends it or it is cut.
async fn carry(
    near: TcpStream,
    target: SocketAddr,
    mut there: watch::Receiver<LinkState>,
    mut back: watch::Receiver<LinkState>,
) {
    // While nothing is carried, a new connection is a black hole: accepted, and then silence.
    if there.wait_for(|state| !state.held).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _best_effort = (near.set_nodelay(true), far.set_nodelay(true));
    let cuts = (there.borrow().cuts, back.borrow().cuts);
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let (mut cut_there, mut cut_back) = (there.clone(), back.clone());
    // Whatever ends first closes both directions: the halves are dropped with this task.
    tokio::select! {
        () = pump(near_read, far_write, &mut there) => {}
        () = pump(far_read, near_write, &mut back) => {}
        _ = cut_there.wait_for(|state| state.cuts != cuts.0) => {}
        _ = cut_back.wait_for(|state| state.cuts != cuts.1) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: &mut watch::Receiver<LinkState>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let limit = match link.borrow().chunk {
            0 => CHUNK,
            chunk => chunk.min(CHUNK),
        };
        let length = match from.read(&mut buffer[..limit]).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let delay = link.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if link.wait_for(|state| !state.held).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
