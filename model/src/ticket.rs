//! The ticket: the text a person copies to another device to let it join a space.
//!
//! `syncline:` ‖ base32 (postcard behind a version byte ‖ 4 bytes of BLAKE3 over it). It holds the secret half of an
//! invitation, so whoever reads it can join: it is to be sent like a password.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::canonical::{self, DecodeError};
use crate::ids::{DeviceId, SpaceId};
use crate::keys::DeviceKey;
use crate::limits::{NAME_BYTES_MAX, TICKET_ADDRESSES_MAX, TICKET_TEXT_BYTES_MAX};
use crate::membership::Role;

/// What every ticket begins with.
pub const TICKET_PREFIX: &str = "syncline:";
const CHECKSUM_BYTES: usize = 4;

/// Everything a device needs to ask for admission.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Ticket {
    /// The space.
    #[zeroize(skip)]
    pub space: SpaceId,
    /// The name it has on the inviting device: a suggestion.
    pub name: String,
    /// The role that the invitation gives: shown before joining, decided by the membership log.
    #[zeroize(skip)]
    pub role: Role,
    /// When the invitation ends, in ms since 1970.
    pub expires_ms: u64,
    /// The seed of the invitation's key.
    secret: [u8; 32],
    /// Multiaddresses, ending in a peer id, of devices that can admit.
    pub addresses: Vec<String>,
    /// The steward of the genesis: the only author believed before the genesis itself is held.
    #[zeroize(skip)]
    pub founder: DeviceId,
}

/// Why a text is not a usable ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Another kind of text.
    #[error("this is not a ticket: a ticket begins with `{TICKET_PREFIX}`; `syncline space invite` makes one")]
    NotATicket,
    /// Characters are missing or changed.
    #[error("the ticket is damaged: copy it whole, from `{TICKET_PREFIX}` to its last character")]
    Damaged,
    /// Made by a newer release.
    #[error("the ticket was made by a newer release of Syncline: update this one, or invite with an older one")]
    Newer,
}

impl Ticket {
    /// A ticket for the holder of `invitation`; a name too long is cut, and addresses that do not fit are left out,
    /// the last ones first.
    pub fn new(
        space: SpaceId,
        name: &str,
        role: Role,
        expires_ms: u64,
        invitation: &DeviceKey,
        founder: DeviceId,
        addresses: Vec<String>,
    ) -> Self {
        let fits = |end: &usize| *end <= NAME_BYTES_MAX;
        let end = name.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(fits).last().unwrap_or(0);
        let name = name[..end].to_owned();
        let mut ticket = Self { space, name, role, expires_ms, secret: *invitation.seed(), addresses, founder };
        ticket.addresses.truncate(TICKET_ADDRESSES_MAX);
        while ticket.to_string().len() > TICKET_TEXT_BYTES_MAX {
            ticket.addresses.pop();
        }
        ticket
    }

    /// The invitation's key.
    pub fn invitation(&self) -> DeviceKey {
        DeviceKey::from_seed(&self.secret)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({}, {})", self.space.short(), self.role.name())
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = canonical::encode(self);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        write!(f, "{TICKET_PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let encoded = text.strip_prefix(TICKET_PREFIX).ok_or(TicketError::NotATicket)?;
        if text.len() > TICKET_TEXT_BYTES_MAX {
            return Err(TicketError::Damaged);
        }
        let bytes = BASE32_NOPAD.decode(encoded.to_ascii_uppercase().as_bytes()).map_err(|_| TicketError::Damaged)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(TicketError::Damaged)?;
        let (bytes, checksum) = bytes.split_at(at);
        if blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES] != *checksum {
            return Err(TicketError::Damaged);
        }
        let ticket: Self = canonical::decode(bytes, "ticket").map_err(|error| match error {
            DecodeError::NewerVersion { .. } => TicketError::Newer,
            _ => TicketError::Damaged,
        })?;
        if ticket.addresses.len() > TICKET_ADDRESSES_MAX || ticket.name.len() > NAME_BYTES_MAX {
            return Err(TicketError::Damaged);
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn a_ticket_survives_copying_and_tells_when_it_did_not() {
        let invitation = DeviceKey::generate(&mut random(1));
        let addresses = vec!["/ip4/192.0.2.1/tcp/34569/p2p/12D3KooW".to_owned()];
        let founder = DeviceId([3; 32]);
        let ticket = Ticket::new(SpaceId([1; 32]), "notes", Role::Writer, 99, &invitation, founder, addresses);
        let text = ticket.to_string();
        assert_eq!(
            format!(" {}\n", text.to_uppercase().replace("SYNCLINE:", "syncline:")).parse::<Ticket>().unwrap(),
            ticket
        );
        assert_eq!(text.parse::<Ticket>().unwrap().invitation().id(), invitation.id());
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        for end in TICKET_PREFIX.len()..text.len() {
            assert_eq!(text[..end].parse::<Ticket>(), Err(TicketError::Damaged));
        }
        let mut newer = vec![2];
        newer.extend_from_slice(&blake3::hash(&[2]).as_bytes()[..CHECKSUM_BYTES]);
        let newer = format!("{TICKET_PREFIX}{}", BASE32_NOPAD.encode(&newer));
        assert_eq!(newer.parse::<Ticket>(), Err(TicketError::Newer));
        assert!(!format!("{ticket:?}").contains(&text[40..60]));
    }

    #[test]
    fn whatever_goes_into_a_ticket_comes_out_of_its_text() {
        let invitation = DeviceKey::generate(&mut random(1));
        let ticket = |name: &str, addresses| {
            Ticket::new(SpaceId([1; 32]), name, Role::Reader, 99, &invitation, DeviceId([3; 32]), addresses)
        };
        let long = ticket(&"ü".repeat(NAME_BYTES_MAX), vec!["a".repeat(900); TICKET_ADDRESSES_MAX + 1]);
        assert_eq!(long.to_string().parse::<Ticket>().unwrap(), long);
        assert_eq!(long.name, "ü".repeat(NAME_BYTES_MAX / 2));
        assert_eq!(long.addresses.len(), 5);
        let empty = ticket("", Vec::new());
        assert_eq!(empty.to_string().parse::<Ticket>().unwrap(), empty);
    }
}
