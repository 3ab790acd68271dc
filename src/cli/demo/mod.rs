//! `syncline demo`: three nodes in one process, over real loopback connections and with real files.
//!
//! Two of them replay a recorded history of two people who typed into one text at the same time. Half way the link
//! between them is cut; both go on as far as they can without the other, then it is mended. The third joins late, by
//! ticket. In the end all three texts must equal the recording's, and all stores must verify.

mod history;
mod screen;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use syncline::documents::{ChangeHash, DocumentError, Edit, EditError, Step};
use syncline::node::info::InvitationTerms;
use syncline::{Error, Node, Role, Space, Strings};
use tokio::sync::watch;

use self::history::{Burst, History};
use self::screen::Screen;
use super::failure::{Exit, Failure};

const KEY: &str = "friends/forever";
const PATH: &str = "/text";
/// How often an editor looks whether the other's edit that it waits for has arrived.
const RETRY: Duration = Duration::from_millis(2);
/// How long everything may take to be the same everywhere.
const PATIENCE: Duration = Duration::from_secs(120);
/// An editor that has waited this long during the cut has come as far as it can.
const STUCK_AFTER: Duration = Duration::from_millis(300);

/// One of the three devices.
struct Device {
    name: &'static str,
    node: Node,
}

/// What the editors share: which change each edit became, and how far each editor is.
struct Stage {
    history: History,
    changes: Mutex<Vec<Option<ChangeHash>>>,
    /// Whether each editor waits for an edit of the other that has not arrived.
    stuck: [watch::Sender<bool>; 2],
}

/// Runs the demonstration on the first `most` edits of the recording (all of them: the text must be the known one).
pub(super) async fn run(most: Option<usize>) -> Result<(), Failure> {
    let mut history = History::load()?;
    let whole = most.is_none_or(|most| most >= history.edits.len());
    history.edits.truncate(most.unwrap_or(usize::MAX));
    let directory = tempfile::tempdir()?;
    let mut devices = Vec::new();
    for name in ["ada", "bob", "cleo"] {
        let builder = Node::builder().data(directory.path().join(name)).create(true).mdns(false);
        devices.push(Device { name, node: builder.listen("/ip4/127.0.0.1/tcp/0").start().await? });
    }
    let [ada, bob, cleo] = devices.try_into().unwrap_or_else(|_| unreachable!("three names make three devices"));
    let screen = Screen::new(&history, [ada.name, bob.name, cleo.name]);
    let started = Instant::now();

    screen.say("ada founds a space and invites bob");
    let shared = ada.node.create_space("friends", Strings::Scalar).await?.space;
    let ticket = shared.invite(InvitationTerms { role: Role::Writer, uses: 2, lasts_ms: 3_600_000 }).await?.to_string();
    let bobs = bob.node.join(&ticket, None).await?;
    wait_for(|| async { bobs.status().await.is_ok_and(|status| status.role.is_some()) }, "bob's admission").await?;

    let stage = Arc::new(Stage {
        changes: Mutex::new(vec![None; history.edits.len()]),
        stuck: [watch::channel(false).0, watch::channel(false).0],
        history,
    });
    let counted = [screen.counter(0, &shared), screen.counter(1, &bobs)];
    screen.say("both replay what two friends typed into one text, each on their own device");
    let editors = [
        spawn(stage.clone(), 0, shared.clone(), screen.clone()),
        spawn(stage.clone(), 1, bobs.clone(), screen.clone()),
    ];
    cut_and_mend(&stage, &ada, &bob, &screen).await?;
    for editor in editors {
        editor.await.map_err(|_| Failure::new(Exit::Failed, "an editor ended early"))??;
    }
    let typed = started.elapsed();

    screen.say("cleo joins late, by the same ticket, and takes in everything");
    let late = Instant::now();
    let cleos = cleo.node.join(&ticket, None).await?;
    let counter = screen.counter(2, &cleos);
    let spaces = [&shared, &bobs, &cleos];
    let operations = shared.status().await?.operations;
    let same = || async {
        for space in spaces {
            // Cleo's admission adds two operations to what ada held before it.
            if space.status().await.map_or(0, |status| status.operations) < operations + 2 {
                return false;
            }
        }
        let texts = texts(&spaces).await;
        texts.windows(2).all(|pair| pair[0].is_some() && pair[0] == pair[1])
    };
    wait_for(same, "all three to be the same").await?;
    let joined = late.elapsed();
    counted.into_iter().chain([counter]).for_each(|counter| counter.abort());

    let texts = texts(&spaces).await;
    let expected = whole.then_some(&stage.history.end);
    let right = texts.iter().all(|text| text.is_some() && expected.is_none_or(|end| text.as_ref() == Some(end)));
    let mut sound = true;
    for (device, space) in [&ada, &bob, &cleo].into_iter().zip(spaces) {
        sound &= device.node.verify(space).await?.is_sound();
    }
    screen.finish(&[(&ada, &shared), (&bob, &bobs), (&cleo, &cleos)], typed, joined, right, sound).await?;
    for device in [ada, bob, cleo] {
        device.node.shutdown().await;
    }
    if right && sound { Ok(()) } else { Err(Failure::new(Exit::Failed, "the replicas are not what they should be")) }
}

/// Half way through cuts the link until both editors can go no further without the other, then mends it.
async fn cut_and_mend(stage: &Stage, ada: &Device, bob: &Device, screen: &Screen) -> Result<(), Failure> {
    let half = stage.history.edits.len() / 2;
    let done = || stage.changes.lock().is_ok_and(|changes| changes.iter().flatten().count() >= half);
    wait_for(|| async { done() }, "the first half").await?;
    screen.say("the link between ada and bob is cut; both go on writing");
    bob.node.disconnect(ada.node.device()).await?;
    for stuck in &stage.stuck {
        let mut stuck = stuck.subscribe();
        let _ended = stuck.wait_for(|stuck| *stuck).await;
    }
    screen.say("neither can go on without the other: the link is mended");
    let address = ada.node.listen_addresses().first().cloned().unwrap_or_default();
    bob.node.connect(&address).await?;
    Ok(())
}

/// Starts the editor of one of the two people.
fn spawn(
    stage: Arc<Stage>,
    agent: usize,
    space: Space,
    screen: Screen,
) -> tokio::task::JoinHandle<Result<(), Failure>> {
    tokio::spawn(async move {
        let outcome = type_all(&stage, agent, &space, &screen).await;
        stage.stuck[agent].send_replace(true);
        outcome
    })
}

/// Types one person's edits in order, each as of what that person had seen when typing it.
async fn type_all(stage: &Stage, agent: usize, space: &Space, screen: &Screen) -> Result<(), Failure> {
    for burst in stage.history.bursts().iter().filter(|burst| burst.agent == agent) {
        let mut waiting = None;
        loop {
            let seen: Option<Vec<ChangeHash>> = {
                let changes = stage.changes.lock().map_err(|_| Failure::new(Exit::Failed, "an editor failed"))?;
                burst.parents.iter().map(|parent| changes[*parent]).collect()
            };
            let written = match seen {
                Some(heads) => {
                    let steps = steps(&stage.history, burst, &heads)?;
                    space.transact(steps).await.map(Some).or_else(not_here_yet)?
                }
                None => None,
            };
            if let Some(written) = written {
                let change = written.documents.first().and_then(|document| document.change);
                if let Ok(mut changes) = stage.changes.lock() {
                    burst.edits.iter().for_each(|edit| changes[*edit] = change);
                }
                break;
            }
            let since = *waiting.get_or_insert_with(Instant::now);
            stage.stuck[agent].send_replace(since.elapsed() > STUCK_AFTER);
            tokio::time::sleep(RETRY).await;
        }
        stage.stuck[agent].send_replace(false);
        screen.typed(agent, burst.edits.len());
    }
    Ok(())
}

/// The other's edit that this one builds on has not arrived: no failure, only early.
fn not_here_yet<T>(error: Error) -> Result<Option<T>, Error> {
    match &error {
        Error::Document(DocumentError::BadEdit { source, .. }) if matches!(**source, EditError::UnknownHead { .. }) => {
            Ok(None)
        }
        _ => Err(error),
    }
}

fn steps(history: &History, burst: &Burst, heads: &[ChangeHash]) -> Result<Vec<Step>, Failure> {
    let splice = |(index, delete, insert): &(usize, usize, String)| -> Result<Step, Failure> {
        let (heads, insert) = (heads.to_vec(), insert.clone());
        let path = PATH.parse().map_err(|_| Failure::new(Exit::Failed, "the path is no pointer"))?;
        let edit = Edit::SpliceAt { path, heads, index: *index, delete: *delete, insert };
        Ok(Step::Edit { key: KEY.parse().map_err(Error::Key)?, edit })
    };
    burst.edits.iter().flat_map(|edit| &history.edits[*edit].patches).map(splice).collect()
}

async fn texts(spaces: &[&Space; 3]) -> Vec<Option<String>> {
    futures::stream::iter(spaces).then(|space| text(space)).collect().await
}

/// The text that a device holds.
async fn text(space: &Space) -> Option<String> {
    let document = space.get(KEY).await.ok()??;
    Some(document.value.get("text")?.as_str()?.to_owned())
}

async fn wait_for<F: Future<Output = bool>>(mut holds: impl FnMut() -> F, what: &str) -> Result<(), Failure> {
    let started = Instant::now();
    while !holds().await {
        if started.elapsed() > PATIENCE {
            return Err(Failure::new(Exit::Timeout, format!("waited too long for {what}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
