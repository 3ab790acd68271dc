//! The clients that write: each records what it sends before it sends it, and how that ended.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::client::{Answer, Client, NoAnswer};
use crate::history::{Outcome, check_chain};
use crate::keys;
use crate::random::{Choices, Purpose};
use crate::world::{COUNTERS, Phase, SPACE, World, locked};

/// The pause after a node could not be reached.
const AWAY: Duration = Duration::from_millis(30);
/// Of so many acknowledged elements one is read back at once.
const READ_BACK_EVERY: usize = 32;
/// How often a node's counting client adds.
const COUNTING: Duration = Duration::from_millis(100);
/// The most that is added at once.
const ADDITION_MAX: u64 = 9;
/// How often a node's text grows.
const WRITING: Duration = Duration::from_millis(150);
/// How often a causal chain looks for its next link, and for how long.
const CHAIN_LOOK: Duration = Duration::from_millis(30);
const CHAIN_LOOKS: usize = 500;
/// How long a text's client waits for its node to come back, before it gives its last piece up as undecided.
const COMEBACK_LOOKS: usize = 1500;

/// How a request to write ended.
#[derive(Debug)]
pub(crate) enum Written {
    /// Acknowledged, with the version that shows it.
    Acknowledged(String),
    Refused,
    /// The node answered, but not whether it happened.
    Failed,
    /// No answer: the node may still be at it.
    Unanswered,
    NotSent,
}

impl Written {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Acknowledged(_) => Outcome::Acknowledged,
            Self::Refused | Self::NotSent => Outcome::Refused,
            Self::Failed | Self::Unanswered => Outcome::Unknown,
        }
    }
}

/// The path of a document.
pub(crate) fn document(key: &str) -> String {
    format!("/v1/spaces/{SPACE}/documents/{key}")
}

/// Makes a document equal to a value.
pub(crate) async fn put(world: &World, client: &mut Client, key: &str, value: &Value) -> Written {
    judge(world, client.request(Method::PUT, &document(key), value.to_string()).await)
}

/// Makes a transaction of one operation.
pub(crate) async fn transact(world: &World, client: &mut Client, operation: &Value) -> Written {
    let body = json!({"operations": [operation]}).to_string();
    judge(world, client.request(Method::POST, &format!("/v1/spaces/{SPACE}/transactions"), body).await)
}

fn judge(world: &World, answer: Result<Answer, NoAnswer>) -> Written {
    let answer = match answer {
        Ok(answer) => answer,
        Err(NoAnswer::NotSent) => return Written::NotSent,
        Err(NoAnswer::Broken | NoAnswer::Timeout) => {
            world.counts.unknown.one();
            return Written::Unanswered;
        }
    };
    if answer.is_success() {
        return Written::Acknowledged(answer.json()["version"].as_str().unwrap_or_default().to_owned());
    }
    if is_refused_for_room(&answer) {
        world.counts.refused.one();
        return Written::Refused;
    }
    if answer.status < 500 {
        world.violated(format!("a write was answered with {}", answer.shown()));
    }
    world.counts.unknown.one();
    Written::Failed
}

/// Whether the node says that it wrote nothing since the disk is full. Any other failure leaves the outcome open.
fn is_refused_for_room(answer: &Answer) -> bool {
    answer.status == 503
        && answer.json()["detail"].as_str().is_some_and(|detail| detail.contains("nothing was written"))
}

fn pace(every: Duration) -> tokio::time::Interval {
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    pace
}

/// Adds elements to the set, on one node.
pub(crate) async fn add_elements(world: Arc<World>, stream: usize, every: Duration) {
    let own = &world.records.streams[stream];
    let mut client = Client::new(&world.nodes[own.node].door);
    let (mut pace, mut unsent) = (pace(every), None);
    while !world.reached(Phase::Quiet) {
        pace.tick().await;
        let number = unsent.take().unwrap_or_else(|| locked(&own.stream).begin());
        let written =
            put(&world, &mut client, &keys::element(stream, number), &keys::element_value(stream, number)).await;
        if matches!(written, Written::NotSent) {
            unsent = Some(number);
            tokio::time::sleep(AWAY).await;
            continue;
        }
        locked(&own.stream).end(number, written.outcome());
        let Written::Acknowledged(version) = written else { continue };
        world.counts.set.one();
        if number.is_multiple_of(READ_BACK_EVERY) {
            read_back(&world, &mut client, (stream, number), &version).await;
        }
    }
}

/// Reads what was just acknowledged, at the node that acknowledged it.
async fn read_back(world: &World, client: &mut Client, (stream, number): (usize, usize), version: &str) {
    let key = keys::element(stream, number);
    let path = document(&key);
    let mut answer = client.get(&format!("{path}?wait_for={version}")).await;
    if !matches!(&answer, Ok(answer) if answer.is_success() || answer.status == 404) {
        // The version need not mean anything after a restart; the document has to be there.
        answer = client.get(&path).await;
    }
    let node = world.nodes[world.records.streams[stream].node].name();
    match answer {
        Ok(answer) if answer.status == 404 => world.violated(format!("{node} acknowledged {key} and does not show it")),
        Ok(answer) if answer.is_success() && answer.json() != keys::element_value(stream, number) => {
            world.violated(format!("{node} shows {key} as {}", answer.shown()));
        }
        _ => {}
    }
}

/// Adds to the shared counters, on one node.
pub(crate) async fn count(world: Arc<World>, node: usize) {
    let mut client = Client::new(&world.nodes[node].door);
    let mut choices = Choices::new(world.seed, Purpose::Counting(node));
    let mut pace = pace(COUNTING);
    while !world.reached(Phase::Quiet) {
        pace.tick().await;
        let counter = choices.below(COUNTERS as u64) as usize;
        let by = choices.between(1, ADDITION_MAX) as i64;
        let additions = &world.records.additions[counter][node];
        locked(additions).begin(by);
        let operation = json!({"op": "increment", "key": keys::counter(counter), "path": "/count", "by": by});
        let written = transact(&world, &mut client, &operation).await;
        locked(additions).end(by, written.outcome());
        match written {
            Written::Acknowledged(_) => world.counts.counter.one(),
            Written::NotSent => tokio::time::sleep(AWAY).await,
            _ => {}
        }
    }
}

/// Appends to the text of one node.
pub(crate) async fn write_text(world: Arc<World>, node: usize) {
    let Some(model) = &world.records.texts[node] else { return };
    let mut client = Client::new(&world.nodes[node].door);
    let (mut pace, mut piece) = (pace(WRITING), 0_u64);
    while !world.reached(Phase::Quiet) {
        pace.tick().await;
        let generation = world.nodes[node].generation();
        let (insert, index) = (format!("{piece}·"), locked(model).length());
        piece += 1;
        locked(model).begin(insert.clone());
        let operation =
            json!({"op": "splice", "key": keys::text(node), "path": "/text", "index": index, "insert": insert});
        match transact(&world, &mut client, &operation).await {
            Written::Acknowledged(_) => {
                locked(model).applied();
                world.counts.text.one();
            }
            Written::Refused => locked(model).refused(),
            Written::NotSent => {
                locked(model).refused();
                tokio::time::sleep(AWAY).await;
            }
            Written::Failed => {
                if !settle_text(&world, &mut client, node).await {
                    return;
                }
            }
            Written::Unanswered => {
                // As long as the same process runs, it may still be at it.
                let mut looks = 0;
                while world.nodes[node].generation() == generation && looks < COMEBACK_LOOKS {
                    tokio::time::sleep(AWAY).await;
                    looks += 1;
                }
                if looks == COMEBACK_LOOKS || !settle_text(&world, &mut client, node).await {
                    return;
                }
            }
        }
    }
}

/// Reads a text to learn whether its last piece is there; tells whether that was learnt.
async fn settle_text(world: &World, client: &mut Client, node: usize) -> bool {
    let Some(model) = &world.records.texts[node] else { return false };
    for _ in 0..COMEBACK_LOOKS {
        match client.get(&document(&keys::text(node))).await {
            Ok(answer) if answer.is_success() => {
                let read = answer.json()["text"].as_str().unwrap_or_default().to_owned();
                let settled = locked(model).settle(&read);
                return match settled {
                    Ok(()) => true,
                    Err(how) => {
                        world.violated(format!("the text of {} is wrong there: {how}", world.nodes[node].name()));
                        false
                    }
                };
            }
            Ok(answer) if answer.status == 404 => {
                world.violated(format!("the text of {} is gone there", world.nodes[node].name()));
                return false;
            }
            _ => tokio::time::sleep(AWAY).await,
        }
    }
    false
}

/// Makes causal chains: a cause on one node, an effect on a second that has seen it, and a look at a third.
pub(crate) async fn make_chains(world: Arc<World>, number: usize) {
    let mut choices = Choices::new(world.seed, Purpose::Chain(number));
    let writing: Vec<usize> = world.nodes.iter().filter(|node| node.role.writes()).map(|node| node.number).collect();
    let reading: Vec<usize> = world.nodes.iter().filter(|node| node.role.reads()).map(|node| node.number).collect();
    while !world.reached(Phase::Quiet) {
        let first = choices.below(writing.len() as u64) as usize;
        let second = (first + 1 + choices.below(writing.len() as u64 - 1) as usize) % writing.len();
        let (cause, effect) = (writing[first], writing[second]);
        let others: Vec<usize> = reading.iter().copied().filter(|node| ![cause, effect].contains(node)).collect();
        let observer = others[choices.below(others.len() as u64) as usize];
        if !make_chain(&world, [cause, effect], observer).await {
            tokio::time::sleep(AWAY).await;
        }
    }
}

/// Makes one chain; tells whether it came to its end.
async fn make_chain(world: &World, nodes: [usize; 2], observer: usize) -> bool {
    let chain = {
        let mut chains = locked(&world.records.chains);
        chains.push([false; 2]);
        chains.len() - 1
    };
    for (link, node) in nodes.into_iter().enumerate() {
        let mut client = Client::new(&world.nodes[node].door);
        if link > 0 && !sees_link(world, &mut client, node, chain, link - 1).await {
            return false;
        }
        let written = put(world, &mut client, &keys::link(chain, link), &keys::link_value(chain, link)).await;
        if !matches!(written, Written::Acknowledged(_)) {
            return false;
        }
        locked(&world.records.chains)[chain][link] = true;
        world.counts.causal.one();
    }
    let mut client = Client::new(&world.nodes[observer].door);
    let seen = sees_link(world, &mut client, observer, chain, nodes.len() - 1).await;
    if seen {
        world.counts.chains.one();
    }
    seen
}

/// Waits until a node shows a link, and checks that it then shows those before it.
async fn sees_link(world: &World, client: &mut Client, node: usize, chain: usize, link: usize) -> bool {
    let prefix = keys::chain_prefix(chain);
    for _ in 0..CHAIN_LOOKS {
        if let Ok(answer) = client.get(&format!("/v1/spaces/{SPACE}/documents?prefix={prefix}&limit=10")).await
            && answer.is_success()
        {
            let page = answer.json();
            let listed: Vec<&str> =
                page["documents"].as_array().into_iter().flatten().filter_map(|item| item["key"].as_str()).collect();
            let present: Vec<bool> =
                (0..=link).map(|link| listed.contains(&keys::link(chain, link).as_str())).collect();
            if let Err(cause) = check_chain(&present) {
                let (name, cause, effect) =
                    (world.nodes[node].name(), keys::link(chain, cause), keys::link(chain, cause + 1));
                world.violated(format!("{name} shows {effect}, but not {cause} that was seen before it was written"));
            }
            if present[link] {
                return true;
            }
        }
        if world.sleep_unless(Phase::Quiet, CHAIN_LOOK).await {
            return false;
        }
    }
    false
}
