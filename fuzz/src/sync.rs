//! Decoders of the protocol: none panics, and what they accept encodes to the bytes it came from.

use syncline_sync::{HelloAnswer, Message, Response};

/// What a peer asks.
pub fn message(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else { return };
    assert_eq!(message.encode(), bytes);
}

/// What a peer answers about a space.
pub fn response(bytes: &[u8]) {
    let Ok(response) = Response::decode(bytes) else { return };
    assert_eq!(response.encode(), bytes);
}

/// What a peer answers to a hello.
pub fn hello_answer(bytes: &[u8]) {
    let Ok(answer) = HelloAnswer::decode(bytes) else { return };
    assert_eq!(answer.encode(), bytes);
}
