//! The beginning of a run: nodes, a space that all of them join, and the documents that are shared from the start.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::clients::document;
use crate::failure::Failure;
use crate::history::Outcome;
use crate::keys;
use crate::node::{Node, Process, Role, Started, data_directory};
use crate::proxy::Proxy;
use crate::stage::{SmallDisk, Stage};
use crate::world::{COUNTERS, SPACE, World, locked};

/// Five nodes that hold documents and one that is blind.
const ROLES: [Role; 6] = [Role::Steward, Role::Writer, Role::Writer, Role::Writer, Role::Reader, Role::Relay];
/// The writer whose disk is full at times.
pub(crate) const ON_SMALL_DISK: usize = 3;

/// Mounts the disk that is full at times, if the stage can.
pub(crate) fn mount_small_disk(stage: Stage, directory: &Path) -> Result<Option<Arc<SmallDisk>>, Failure> {
    let data = data_directory(directory, ON_SMALL_DISK);
    std::fs::create_dir_all(&data).map_err(|error| Failure::setup("make a node's directory", error))?;
    Ok(stage.mount(&data)?.map(Arc::new))
}
/// How long everybody may take to be admitted and to see the first documents.
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Where each counter begins.
const FIRST_ADDITION: i64 = 1;

/// Starts the nodes and makes the space.
pub(crate) async fn set_up(
    stage: Stage,
    directory: &Path,
    program: &Path,
    seed: u64,
    clients_per_node: usize,
) -> Result<(Arc<World>, Vec<Process>), Failure> {
    let places = stage.places(ROLES.len())?;
    let proxy = Proxy::start(&places).await?;
    let nodes: Vec<Arc<Node>> = (0..)
        .zip(ROLES)
        .zip(&places)
        .map(|((number, role), place)| Arc::new(Node::new(number, role, directory, place, program)))
        .collect();
    let mut processes = Vec::new();
    for node in &nodes {
        let mut process = Process::new(node.clone());
        if let Started::Ended(status) = process.start().await? {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            return Err(Failure::Setup(format!("{} did not start ({status}): {}", node.name(), log.trim())));
        }
        processes.push(process);
    }
    let world = Arc::new(World::new(seed, nodes, proxy, clients_per_node));
    share(&world).await?;
    make_documents(&world).await?;
    Ok((world, processes))
}

async fn ask(node: &Node, method: Method, path: &str, body: &Value) -> Result<Answer, Failure> {
    let answer = Client::new(&node.door).request(method, path, body.to_string()).await;
    let answer = answer.map_err(|error| Failure::setup(&format!("ask {} for {path}", node.name()), error))?;
    if answer.is_success() {
        return Ok(answer);
    }
    Err(Failure::Setup(format!("{} answered {path} with {}", node.name(), answer.shown())))
}

/// Founds the space and lets everybody join.
async fn share(world: &World) -> Result<(), Failure> {
    let steward = &world.nodes[0];
    ask(steward, Method::POST, "/v1/spaces", &json!({"name": SPACE})).await?;
    for node in &world.nodes[1..] {
        let invitation = json!({"role": node.role.name()});
        let path = format!("/v1/spaces/{SPACE}/invitations");
        let ticket = ask(steward, Method::POST, &path, &invitation).await?.json()["ticket"].clone();
        ask(node, Method::POST, "/v1/spaces/join", &json!({"ticket": ticket, "name": SPACE})).await?;
    }
    for node in &world.nodes {
        eventually(&format!("{} is not a member", node.name()), async || {
            let status = ask(node, Method::GET, &format!("/v1/spaces/{SPACE}"), &Value::Null).await?.json();
            Ok(status["standing"] == "member" && status["role"] == node.role.name())
        })
        .await?;
    }
    Ok(())
}

/// Makes the counters and texts once, before anybody adds to them: two that are made apart would be two.
async fn make_documents(world: &World) -> Result<(), Failure> {
    let steward = &world.nodes[0];
    let counters = (0..COUNTERS).map(
        |counter| json!({"op": "increment", "key": keys::counter(counter), "path": "/count", "by": FIRST_ADDITION}),
    );
    let writing = world.nodes.iter().filter(|node| node.role.writes());
    let texts = writing
        .map(|node| json!({"op": "splice", "key": keys::text(node.number), "path": "/text", "index": 0, "insert": ""}));
    let operations: Vec<Value> = counters.chain(texts).collect();
    let path = format!("/v1/spaces/{SPACE}/transactions");
    ask(steward, Method::POST, &path, &json!({"operations": operations})).await?;
    for counter in &world.records.additions {
        let mut additions = locked(&counter[steward.number]);
        additions.begin(FIRST_ADDITION);
        additions.end(FIRST_ADDITION, Outcome::Acknowledged);
    }
    for node in world.nodes.iter().filter(|node| node.role.reads()) {
        eventually(&format!("{} does not see the first documents", node.name()), async || {
            let mut client = Client::new(&node.door);
            let seen = client.get(&document(&keys::counter(COUNTERS - 1))).await;
            Ok(seen.is_ok_and(|answer| answer.is_success()))
        })
        .await?;
    }
    Ok(())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let began = Instant::now();
    while !holds().await? {
        if began.elapsed() > SETUP_TIMEOUT {
            return Err(Failure::Setup(format!("{what} after {} s", SETUP_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
