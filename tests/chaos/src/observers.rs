//! The clients that read while everything goes on: no node forgets what it acknowledged or showed.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::client::Client;
use crate::clients::document;
use crate::history::check_counter;
use crate::keys::{self, Named};
use crate::random::{Choices, Purpose};
use crate::world::{COUNTERS, Phase, SPACE, World, locked};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(60);
/// How many elements one look takes in, at most.
const PAGE: usize = 400;
/// Of so many looks one is at a counter.
const COUNTER_EVERY: u64 = 4;

/// A page of documents, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Page {
    documents: Vec<Item>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    key: String,
}

/// Looks at one node until the run is quiet.
pub(crate) async fn observe(world: Arc<World>, node: usize) {
    let mut client = Client::new(&world.nodes[node].door);
    let mut choices = Choices::new(world.seed, Purpose::Observer(node));
    // The greatest value that each counter has shown here.
    let mut shown = [0; COUNTERS];
    while !world.sleep_unless(Phase::Quiet, PAUSE).await {
        if choices.below(COUNTER_EVERY) == 0 {
            let counter = choices.below(COUNTERS as u64) as usize;
            look_at_counter(&world, &mut client, node, counter, &mut shown[counter]).await;
        } else {
            look_at_set(&world, &mut client, node, &mut choices).await;
        }
    }
}

async fn look_at_counter(world: &World, client: &mut Client, node: usize, counter: usize, shown: &mut i64) {
    let own = locked(&world.records.additions[counter][node]).acknowledged();
    let Ok(answer) = client.get(&document(&keys::counter(counter))).await else { return };
    let value = match answer.status {
        200 => answer.json()["count"].as_i64(),
        404 => None,
        _ => return,
    };
    let (name, key) = (world.nodes[node].name(), keys::counter(counter));
    let Some(value) = value else {
        return world.violated(format!("{name} shows {key} as {}", answer.shown()));
    };
    let (_, attempted) = world.records.sums(counter);
    if let Err(how) = check_counter(value, own.max(*shown), attempted) {
        world.violated(format!("{key} on {name}: {how}"));
    }
    *shown = value.max(*shown);
    world.counts.counters_read.one();
}

async fn look_at_set(world: &World, client: &mut Client, node: usize, choices: &mut Choices) {
    let stream = choices.below(world.records.streams.len() as u64) as usize;
    let own = &world.records.streams[stream];
    // What is acknowledged before the request has to be in its answer, if this node acknowledged it.
    let (first, promised, length) = {
        let records = locked(&own.stream);
        let length = records.len();
        let first = choices.below(length as u64 + 1) as usize;
        let promised =
            if own.node == node { records.acknowledged(first..length.min(first + PAGE)) } else { Vec::new() };
        (first, promised, length)
    };
    let after = first.checked_sub(1).map(|before| format!("&after={}", keys::element(stream, before)));
    let (prefix, after) = (keys::stream_prefix(stream), after.unwrap_or_default());
    let path = format!("/v1/spaces/{SPACE}/documents?prefix={prefix}&limit={PAGE}{after}");
    let Ok(answer) = client.get(&path).await else { return };
    if !answer.is_success() {
        return;
    }
    let Ok(page) = answer.parse::<Page>() else {
        return world.violated(format!("{} listed {prefix} as {}", world.nodes[node].name(), answer.shown()));
    };
    let number = |key: &str| match keys::parse(key) {
        Some(Named::Element { number, .. }) => Some(number),
        _ => None,
    };
    // The page speaks of everything up to `next`, or to the end.
    let end = page.next.as_deref().and_then(number).map_or(length, |last| last + 1).max(first);
    let mut present = vec![false; end.min(first + PAGE) - first];
    for found in page.documents.iter().filter_map(|item| number(&item.key)).filter(|found| *found >= first) {
        if let Some(place) = present.get_mut(found - first) {
            *place = true;
        }
    }
    let looked = locked(&world.records.seen[node])[stream].look(first, &present, &promised);
    if let Err(missing) = looked {
        let (name, key) = (world.nodes[node].name(), keys::element(stream, missing));
        world.violated(format!("{name} does not show {key} any more"));
    }
    world.counts.looked_at.add(present.len());
}
