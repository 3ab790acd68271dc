//! Reading an event stream (HTML Living Standard, server-sent events).

use super::failure::{Exit, Failure};

/// Longest event, in bytes: a document of the greatest size as JSON.
const EVENT_BYTES_MAX: usize = 128 << 20;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamEvent {
    /// Its type.
    pub(super) name: String,
    /// From where to resume after it.
    pub(super) id: String,
    /// Its data.
    pub(super) data: String,
}

/// Makes events out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    /// The line that is not complete yet.
    line: Vec<u8>,
    event: StreamEvent,
}

impl EventReader {
    /// Takes the next bytes and gives the events that they complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Vec<StreamEvent>, Failure> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() + self.event.data.len() > EVENT_BYTES_MAX {
                return Err(Failure::new(Exit::Failed, "the node sent an event that is too long"));
            }
            if piece.ends_with(b"\n") {
                events.extend(self.end_line());
            }
        }
        Ok(events)
    }

    /// Takes in the line; an empty one ends an event.
    fn end_line(&mut self) -> Option<StreamEvent> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            let id = self.event.id.clone();
            let event = std::mem::replace(&mut self.event, StreamEvent { id, ..StreamEvent::default() });
            return (!event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "id" => self.event.id = value.to_owned(),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments have no field name; they keep the connection open.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let stream = "event: watching\nid: a-1\ndata: {}\n\n:\n\nevent: change\r\ndata: é\r\ndata:2\r\n\r\nid: b\n";
        for size in 1..stream.len() {
            let mut reader = EventReader::default();
            let chunks = stream.as_bytes().chunks(size);
            let events: Vec<_> = chunks.flat_map(|chunk| reader.take(chunk).unwrap()).collect();
            let event = |name: &str, data: &str| StreamEvent { name: name.into(), id: "a-1".into(), data: data.into() };
            assert_eq!(events, [event("watching", "{}"), event("change", "é\n2")], "{size}");
        }
    }

    #[test]
    fn an_endless_line_is_given_up() {
        let mut reader = EventReader::default();
        let mut chunks = (0..=EVENT_BYTES_MAX >> 20).map(|_| reader.take(&vec![b'x'; 1 << 20]));
        assert!(chunks.any(|result| result.is_err()));
    }
}
