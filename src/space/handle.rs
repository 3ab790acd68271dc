//! A space as its callers hold it: every call becomes a message to the pump, and waits for the answer.

mod members;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::Stream;
use serde_json::Value;
use syncline_model::{DeviceId, DocumentKey, Role, SpaceId, Ticket};
use syncline_storage::LogReader;
use tokio::sync::{mpsc, oneshot};

use super::core::WriteError;
use super::pump::{Figures, Link, Message, Uncounted, Watched};
use super::steward::Act;
use crate::documents::{
    Answer, AuditStart, ChangeEvent, ChangePage, Comparison, ConflictPage, ConflictScope, DocumentError, DocumentView,
    Edit, HistoryItem, List, Pointer, Query, Stats, Step, SumPage, Version, Written, parse_hash,
};
use crate::error::Error;
use crate::node::Node;
use crate::node::info::{InvitationTerms, MemberInfo, MembershipEvent, SpaceStatus};

/// A space on this device. Clones share it.
#[derive(Clone)]
pub struct Space {
    pub(crate) node: Node,
    pub(crate) link: Link,
    pub(crate) name: String,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({}, {})", self.name, self.link.space.short())
    }
}

impl Space {
    /// The space's id.
    pub fn id(&self) -> SpaceId {
        self.link.space
    }

    /// The name it has on this device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes a document equal to a JSON object, changing only what differs.
    pub async fn put(&self, key: &str, value: Value) -> Result<Written, Error> {
        self.edit(key, Edit::Put(value)).await
    }

    /// Applies a JSON merge patch (RFC 7396).
    pub async fn patch(&self, key: &str, patch: Value) -> Result<Written, Error> {
        self.edit(key, Edit::Merge(patch)).await
    }

    /// Deletes a document; concurrent edits elsewhere restore it.
    pub async fn delete(&self, key: &str) -> Result<Written, Error> {
        self.transact(vec![Step::Delete { key: key.parse()? }]).await
    }

    /// Deletes and inserts characters of a collaborative text; positions count Unicode code points.
    pub async fn splice(
        &self,
        key: &str,
        path: &str,
        index: usize,
        delete: usize,
        insert: &str,
    ) -> Result<Written, Error> {
        let insert = insert.to_owned();
        self.edit(key, Edit::Splice { path: pointer(path)?, index, delete, insert }).await
    }

    /// Adds to a counter.
    pub async fn increment(&self, key: &str, path: &str, by: i64) -> Result<Written, Error> {
        self.edit(key, Edit::Increment { path: pointer(path)?, by }).await
    }

    /// Ends a conflict by writing the value that remains.
    pub async fn resolve(&self, key: &str, path: &str, value: Value) -> Result<Written, Error> {
        self.edit(key, Edit::Resolve { path: pointer(path)?, value }).await
    }

    async fn edit(&self, key: &str, edit: Edit) -> Result<Written, Error> {
        self.transact(vec![Step::Edit { key: key.parse()?, edit }]).await
    }

    /// Makes several steps one operation: all become visible at once, here and everywhere, or none does.
    pub async fn transact(&self, steps: Vec<Step>) -> Result<Written, Error> {
        let answer = self.ask(None, |token, reply| Message::Transact { token, steps, reply }).await?;
        expect(answer, |answer| if let Answer::Written(written) = answer { Some(written) } else { None })
    }

    /// A document, or none.
    pub async fn get(&self, key: &str) -> Result<Option<DocumentView>, Error> {
        self.get_after(key, None, None).await
    }

    /// A document as of a version or later; waits for the version, at most `timeout`.
    pub async fn get_after(
        &self,
        key: &str,
        wait_for: Option<Version>,
        timeout: Option<Duration>,
    ) -> Result<Option<DocumentView>, Error> {
        self.document(Query::Get { key: key.parse()?, wait_for }, timeout).await
    }

    /// A document as it was after some of its changes (as [`Space::history`] names them).
    pub async fn value_at(&self, key: &str, heads: &[String]) -> Result<Option<DocumentView>, Error> {
        let heads = heads.iter().map(|text| hash(text)).collect::<Result<_, _>>()?;
        self.document(Query::ValueAt { key: key.parse()?, heads }, None).await
    }

    async fn document(&self, query: Query, timeout: Option<Duration>) -> Result<Option<DocumentView>, Error> {
        match self.query(query, timeout).await {
            Err(Error::Document(DocumentError::NotFound { .. })) => Ok(None),
            Err(error) => Err(error),
            Ok(answer) => {
                expect(answer, |answer| if let Answer::Document(view) = answer { Some(view) } else { None }).map(Some)
            }
        }
    }

    /// A page of the documents whose keys begin with `prefix`, in key order.
    pub async fn list(&self, prefix: &str, after: Option<&str>, limit: usize, values: bool) -> Result<List, Error> {
        let after = after.map(DocumentKey::from_str).transpose()?;
        let query = Query::List { prefix: prefix.to_owned(), after, limit, values };
        let answer = self.query(query, None).await?;
        expect(answer, |answer| if let Answer::List(list) = answer { Some(list) } else { None })
    }

    /// A page of a document's changes, newest first.
    pub async fn history(&self, key: &str, after: Option<&str>, limit: usize) -> Result<Vec<HistoryItem>, Error> {
        let query = Query::History { key: key.parse()?, after: after.map(hash).transpose()?, limit };
        let answer = self.query(query, None).await?;
        expect(answer, |answer| if let Answer::History(items) = answer { Some(items) } else { None })
    }

    /// Places of one document where concurrent writes left several values.
    pub async fn conflicts(&self, key: &str) -> Result<ConflictPage, Error> {
        self.conflicts_within(ConflictScope::Document(key.parse()?)).await
    }

    /// The same for a page of documents.
    pub async fn all_conflicts(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<ConflictPage, Error> {
        let after = after.map(DocumentKey::from_str).transpose()?;
        self.conflicts_within(ConflictScope::Page { prefix: prefix.to_owned(), after, limit }).await
    }

    async fn conflicts_within(&self, within: ConflictScope) -> Result<ConflictPage, Error> {
        let answer = self.query(Query::Conflicts { within }, None).await?;
        expect(answer, |answer| if let Answer::Conflicts(page) = answer { Some(page) } else { None })
    }

    /// A page of what became visible after a version.
    pub async fn changes(&self, since: Option<Version>, limit: usize) -> Result<ChangePage, Error> {
        let answer = self.query(Query::Changes { since, limit }, None).await?;
        expect(answer, |answer| if let Answer::Changes(page) = answer { Some(page) } else { None })
    }

    /// The changes of documents whose keys begin with `prefix` from now on, or after a version.
    pub async fn watch(&self, prefix: &str, since: Option<Version>, values: bool) -> Result<Watch, Error> {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut watch_token = 0;
        let prefix = prefix.to_owned();
        let answer = self
            .ask(None, |token, reply| {
                watch_token = token;
                Message::Watch { token, prefix, since, values, events, reply }
            })
            .await?;
        let version =
            expect(answer, |answer| if let Answer::Watching(version) = answer { Some(version) } else { None })?;
        Ok(Watch { link: self.link.clone(), token: watch_token, version, receiver, ready: Vec::new().into_iter() })
    }

    /// The present version, once it has reached `version`; waits at most `timeout`.
    pub async fn wait_for(&self, version: Version, timeout: Duration) -> Result<Version, Error> {
        self.version(Some(version), Some(timeout)).await
    }

    /// The present version.
    pub async fn present_version(&self) -> Result<Version, Error> {
        self.version(None, None).await
    }

    async fn version(&self, wait_for: Option<Version>, timeout: Option<Duration>) -> Result<Version, Error> {
        let answer = self.query(Query::Version { wait_for }, timeout).await?;
        expect(answer, |answer| if let Answer::Version(version) = answer { Some(version) } else { None })
    }

    /// Figures about the documents here.
    pub async fn stats(&self) -> Result<Stats, Error> {
        let answer = self.query(Query::Stats, None).await?;
        expect(answer, |answer| if let Answer::Stats(stats) = answer { Some(stats) } else { None })
    }

    /// Opens an invitation and returns the ticket to hand over. Only the steward can.
    pub async fn invite(&self, terms: InvitationTerms) -> Result<Ticket, Error> {
        if terms.role == Role::Steward {
            return Err(Error::BadRole);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let expires_ms = now.saturating_add(terms.lasts_ms);
        let invitation = self
            .tell(|reply| Message::Invite { role: terms.role, uses: terms.uses, expires_ms, reply })
            .await?
            .map_err(Error::Write)?;
        let founder = self.link.facts.borrow().founder.ok_or(Error::Write(WriteError::NotAdmitted))?;
        let addresses = self.node.listen_addresses();
        Ok(Ticket::new(self.id(), &self.name, terms.role, expires_ms, &invitation, founder, addresses))
    }

    /// Who is a member.
    pub async fn members(&self) -> Result<Vec<MemberInfo>, Error> {
        self.tell(|reply| Message::Members { reply }).await
    }

    /// What was decided about the members, by whom and when.
    pub async fn membership_log(&self) -> Result<Vec<MembershipEvent>, Error> {
        self.tell(|reply| Message::MembershipLog { reply }).await
    }

    /// Changes the membership. All but [`Act::TakeOver`] is for the steward.
    ///
    /// # Errors
    /// [`Error::Write`] says why it is not possible; nothing is changed then.
    pub async fn govern(&self, act: Act) -> Result<(), Error> {
        self.tell(|reply| Message::Govern { act, reply }).await?.map_err(Error::Write)
    }

    /// How the space is doing on this device.
    pub async fn status(&self) -> Result<SpaceStatus, Error> {
        self.node.space_status(self).await
    }

    /// Ends the space on this device and deletes its log and keys. Other members keep theirs.
    pub async fn leave(self) -> Result<(), Error> {
        let node = self.node.clone();
        node.leave(self.id()).await
    }

    pub(crate) async fn figures(&self) -> Result<Figures, Error> {
        self.tell(|reply| Message::Figures { reply }).await
    }

    pub(crate) async fn log_reader(&self) -> Result<LogReader, Error> {
        self.tell(|reply| Message::Reader { reply }).await
    }

    pub(crate) async fn audit_start(&self) -> Result<AuditStart, Error> {
        self.tell(|reply| Message::AuditStart { reply }).await
    }

    pub(crate) async fn audit_sums(
        &self,
        after: Option<DocumentKey>,
        applied: Arc<BTreeMap<DeviceId, u64>>,
    ) -> Result<SumPage, Error> {
        Ok(self.tell(|reply| Message::AuditSums { after, applied, reply }).await??)
    }

    /// What is kept of a document against what its operations give.
    pub(crate) async fn compare(&self, key: DocumentKey, timeout: Duration) -> Result<Comparison, Error> {
        let answer = self.query(Query::Compare { key }, Some(timeout)).await?;
        expect(answer, |answer| if let Answer::Compared(comparison) = answer { Some(comparison) } else { None })
    }

    pub(crate) async fn uncounted_operations(&self) -> Result<Uncounted, Error> {
        self.tell(|reply| Message::Uncounted { reply }).await
    }

    /// All changes of a document as raw chunks; none when it does not exist.
    pub(crate) async fn chunks(&self, key: DocumentKey) -> Result<Vec<Vec<u8>>, Error> {
        match self.query(Query::Chunks { key, heads: Vec::new() }, None).await {
            Err(Error::Document(DocumentError::NotFound { .. })) => Ok(Vec::new()),
            Err(error) => Err(error),
            Ok(answer) => {
                expect(answer, |answer| if let Answer::Chunks(chunks) = answer { Some(chunks.changes) } else { None })
            }
        }
    }

    async fn query(&self, query: Query, timeout: Option<Duration>) -> Result<Answer, Error> {
        self.ask(timeout, |token, reply| Message::Query { token, query, reply }).await
    }

    /// Sends a message with a token and waits for the documents' answer.
    async fn ask(
        &self,
        timeout: Option<Duration>,
        message: impl FnOnce(u64, oneshot::Sender<Result<Answer, DocumentError>>) -> Message,
    ) -> Result<Answer, Error> {
        let _permit = self.link.permits.acquire().await.map_err(|_| Error::Stopping)?;
        let (reply, mut answer) = oneshot::channel();
        let token = self.link.token();
        if !self.link.send(message(token, reply)) {
            return Err(self.ended());
        }
        let answer = match timeout {
            None => answer.await,
            Some(timeout) => match tokio::time::timeout(timeout, &mut answer).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.link.send(Message::Cancel { token });
                    return Err(Error::Timeout { waited: timeout });
                }
            },
        };
        answer.map_err(|_| self.ended())?.map_err(Error::Document)
    }

    /// Sends a message that has an answer of its own.
    pub(crate) async fn tell<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        if !self.link.send(message(reply)) {
            return Err(self.ended());
        }
        answer.await.map_err(|_| self.ended())
    }

    /// Why the space answers no more.
    fn ended(&self) -> Error {
        match &self.link.facts.borrow().failure {
            Some(reason) => Error::Document(DocumentError::Storage { reason: reason.clone() }),
            None => Error::Stopping,
        }
    }
}

fn pointer(text: &str) -> Result<Pointer, Error> {
    text.parse().map_err(|error| Error::BadPointer { reason: format!("{error}") })
}

fn hash(text: &str) -> Result<crate::documents::ChangeHash, Error> {
    parse_hash(text).ok_or_else(|| Error::BadHash { text: text.chars().take(80).collect() })
}

/// The documents answer each question with its own kind of answer.
fn expect<T>(answer: Answer, pick: impl FnOnce(Answer) -> Option<T>) -> Result<T, Error> {
    pick(answer).ok_or(Error::Stopping)
}

/// A stream of changes; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    link: Link,
    token: u64,
    version: Version,
    receiver: mpsc::UnboundedReceiver<Watched>,
    ready: std::vec::IntoIter<ChangeEvent>,
}

impl Watch {
    /// The version after which the stream's events come.
    pub fn version(&self) -> Version {
        self.version
    }
}

impl Stream for Watch {
    type Item = Result<ChangeEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.next() {
                self.version = event.version;
                return Poll::Ready(Some(Ok(event)));
            }
            match std::task::ready!(self.receiver.poll_recv(context)) {
                Some(Watched::Events(events)) => {
                    let message = Message::Taken { token: self.token, events: events.len() };
                    self.link.send(message);
                    self.ready = events.into_iter();
                }
                Some(Watched::Ended(version, reason)) => {
                    self.version = version;
                    return Poll::Ready(Some(Err(Error::Document(reason))));
                }
                Some(Watched::Broken(reason)) => return Poll::Ready(Some(Err(Error::Document(reason)))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.link.send(Message::Unwatch { token: self.token });
    }
}
