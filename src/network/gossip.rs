//! Gossip: how gossipsub is set up, what a topic is, and which subscriptions of peers are listened to.

use std::fmt;
use std::str::FromStr;

use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, MaxCountSubscriptionFilter, Message, MessageAuthenticity, MessageId, TopicHash,
    TopicSubscriptionFilter, ValidationMode,
};

use super::config::{
    GOSSIP_HEARTBEAT, GOSSIP_QUEUE_PER_PEER, MAX_FRAMES_PER_RPC, MAX_GOSSIP_RPC, MAX_TOPIC_LENGTH, MAX_TOPICS,
    UNSUBSCRIBE_BACKOFF,
};
use super::error::{NetworkError, TopicError};

/// What every topic of Syncline begins with.
const TOPIC_PREFIX: &str = "syncline/";
/// What a message id is the hash of begins with this.
const MESSAGE_ID_DOMAIN: &str = "syncline gossip message id 1";

// The largest list of subscriptions fits one message; each topic has some bytes of framing around it.
const _: () = assert!(MAX_TOPICS * (MAX_TOPIC_LENGTH + 16) < MAX_GOSSIP_RPC);

/// The gossipsub behaviour of this module.
pub(super) type Gossip = gossipsub::Behaviour<gossipsub::IdentityTransform, MaxCountSubscriptionFilter<SynclineTopics>>;

/// The name of a gossip channel: `syncline/` and whatever its space derives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(String);

impl Topic {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What gossipsub calls it.
    pub(super) fn ident(&self) -> IdentTopic {
        IdentTopic::new(self.0.clone())
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        if !text.starts_with(TOPIC_PREFIX) || text.len() > MAX_TOPIC_LENGTH {
            return Err(TopicError(text.chars().take(MAX_TOPIC_LENGTH).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sets gossipsub up.
///
/// Frames are sealed and signed inside, so gossipsub neither signs nor names authors. The defaults of the mesh (6
/// peers, 5 to 12) suit small networks too: a peer's subscription puts it into a mesh that is short of peers at once,
/// and an author sends to every connected subscriber, so that nothing waits for a heartbeat.
pub(super) fn behaviour() -> Result<Gossip, NetworkError> {
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(message_id)
        .max_transmit_size(MAX_GOSSIP_RPC)
        // Counts subscriptions too, which a peer sends in one piece: the default of 16 KiB would cut a peer with some
        // two hundred spaces off.
        .max_control_message_size(MAX_GOSSIP_RPC)
        .max_publish_messages(MAX_FRAMES_PER_RPC)
        .connection_handler_queue_len(GOSSIP_QUEUE_PER_PEER)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT)
        .unsubscribe_backoff(UNSUBSCRIBE_BACKOFF)
        .flood_publish(true)
        .build()
        .map_err(|error| NetworkError::Setup(error.into()))?;
    let filter = MaxCountSubscriptionFilter {
        filter: SynclineTopics,
        max_subscribed_topics: MAX_TOPICS,
        max_subscriptions_per_request: MAX_TOPICS,
    };
    let authenticity = MessageAuthenticity::Anonymous;
    gossipsub::Behaviour::new_with_subscription_filter(authenticity, config, filter)
        .map_err(|error| NetworkError::Setup(error.into()))
}

/// The id by which copies of a message are recognised: BLAKE3 over topic and data.
///
/// The topic is part of it, or a peer that repeats a frame of one topic under another would make its neighbours drop
/// the original as a duplicate.
fn message_id(message: &Message) -> MessageId {
    let mut hasher = blake3::Hasher::new_derive_key(MESSAGE_ID_DOMAIN);
    let topic = message.topic.as_str().as_bytes();
    hasher.update(&(topic.len() as u64).to_be_bytes());
    hasher.update(topic);
    hasher.update(&message.data);
    MessageId::new(hasher.finalize().as_bytes())
}

/// Lets topics of Syncline pass, and nothing else.
pub(super) struct SynclineTopics;

impl TopicSubscriptionFilter for SynclineTopics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        topic.as_str().parse::<Topic>().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, data: &[u8]) -> Message {
        Message { source: None, data: data.to_vec(), sequence_number: None, topic: TopicHash::from_raw(topic) }
    }

    #[test]
    fn only_short_names_under_the_prefix_are_topics() {
        assert!("syncline/abc".parse::<Topic>().is_ok());
        assert!("other/abc".parse::<Topic>().is_err());
        assert!(format!("syncline/{}", "a".repeat(MAX_TOPIC_LENGTH)).parse::<Topic>().is_err());
    }

    #[test]
    fn one_frame_under_two_topics_has_two_ids() {
        assert_eq!(message_id(&message("syncline/a", b"x")), message_id(&message("syncline/a", b"x")));
        assert_ne!(message_id(&message("syncline/a", b"x")), message_id(&message("syncline/b", b"x")));
        assert_ne!(message_id(&message("syncline/a", b"bx")), message_id(&message("syncline/ab", b"x")));
    }

    #[test]
    fn the_settings_are_valid_and_the_filter_knows_our_topics() {
        assert!(behaviour().is_ok());
        assert!(SynclineTopics.can_subscribe(&TopicHash::from_raw("syncline/a")));
        assert!(!SynclineTopics.can_subscribe(&TopicHash::from_raw("elsewhere/a")));
    }
}
