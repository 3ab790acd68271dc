//! Decoders of the model: none panics, and what they accept encodes to the bytes it came from.
//!
//! As everywhere here, a target tells whether the bytes were well-formed, so that its assertions were reached.

use syncline_model::bytes::{SEALED_BYTES_OVERHEAD, open_bytes};
use syncline_model::membership::{Admit, Facts, KeyDelivery, Record};
use syncline_model::payload::Transaction;
use syncline_model::{
    Admission, BytesSignature, DeviceKey, DeviceText, ForkProof, Header, Run, RunSummary, SpaceId, Ticket,
};

/// The space of the runs in the corpus, which come from the model's golden files.
pub const SPACE: SpaceId = SpaceId([
    0xde, 0x80, 0x8a, 0xc3, 0xb1, 0x4c, 0xb4, 0xd5, 0x76, 0x3c, 0x7c, 0x0b, 0xa4, 0xb9, 0x4d, 0x53, 0x72, 0x2b, 0xef,
    0xae, 0x74, 0x12, 0x2a, 0x3b, 0x4c, 0x66, 0xa5, 0x6b, 0x95, 0xb3, 0xfd, 0x60,
]);

/// A run, the form in which operations arrive and are stored.
pub fn run(bytes: &[u8]) -> bool {
    let Ok(run) = Run::decode(SPACE, bytes) else { return false };
    assert_eq!(run.encode_after(run.first() - 1).as_deref(), Some(bytes));
    assert_eq!(run.encode_after(run.last()), None);
    for (sequence, operation) in (run.first()..).zip(run.operations()) {
        let header = run.header(sequence).expect("the run covers it");
        assert_eq!(Header::from_canonical_bytes(&header.canonical_bytes()).as_ref(), Ok(&header));
        assert_eq!(header.id(&blake3::hash(run.payload(operation))), operation.id);
    }
    let summary = RunSummary::of(&run);
    assert_eq!((summary.last(), summary.last_id()), (run.last(), run.last_id()));
    run_summary(&summary.encode());
    if let Ok(verified) = run.verify() {
        let rest = verified.encode_after(verified.first()).map(|rest| Run::decode(SPACE, rest).unwrap());
        assert!(rest.is_none_or(|rest| rest.verify().is_ok()));
        return true;
    }
    false
}

/// An operation's header.
pub fn header(bytes: &[u8]) -> bool {
    let Ok(header) = Header::from_canonical_bytes(bytes) else { return false };
    assert_eq!(header.canonical_bytes(), bytes);
    true
}

/// An opened payload, which a hostile member may have sealed.
pub fn transaction(bytes: &[u8]) -> bool {
    let Ok(transaction) = Transaction::from_plaintext(bytes) else { return false };
    // One transaction has several plaintexts: padded, compressed or not.
    for padding in [1, 16] {
        assert_eq!(Transaction::from_plaintext(&transaction.to_plaintext(padding)).as_ref(), Ok(&transaction));
    }
    true
}

/// A membership record.
pub fn record(bytes: &[u8]) -> bool {
    let Ok(record) = Record::decode(bytes) else { return false };
    assert_eq!(record.encode(), bytes);
    true
}

/// An admission.
pub fn admit(bytes: &[u8]) -> bool {
    let Ok(admit) = Admit::decode(bytes) else { return false };
    assert_eq!(admit.encode(), bytes);
    admit.certificate.holds(&SPACE)
}

/// A key delivery.
pub fn key_delivery(bytes: &[u8]) -> bool {
    let Ok(delivery) = KeyDelivery::decode(bytes) else { return false };
    assert_eq!(delivery.encode(), bytes);
    true
}

/// A proof that a log forked; whether it holds is looked at, and takes no longer than its length.
pub fn fork_proof(bytes: &[u8]) -> bool {
    let Ok(proof) = ForkProof::decode(bytes) else { return false };
    assert_eq!(proof.encode(), bytes);
    proof.holds(&SPACE);
    true
}

/// A ticket, as a person pastes it.
pub fn ticket(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(ticket) = text.parse::<Ticket>() else { return false };
    assert_eq!(ticket.to_string(), text.trim().to_ascii_lowercase());
    true
}

/// A device text, as a person pastes it; white space in it does not matter.
pub fn device_text(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(device) = text.parse::<DeviceText>() else { return false };
    assert_eq!(device.to_string(), without_space(text));
    true
}

/// Bytes of a person's own: sealed for the device of the golden files, or the text of a signature.
pub fn own_bytes(bytes: &[u8]) -> bool {
    if let Ok(opened) = open_bytes(&DeviceKey::from_seed(&[1; 32]), bytes) {
        assert_eq!(opened.len() + SEALED_BYTES_OVERHEAD, bytes.len());
        return true;
    }
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let Ok(signature) = text.parse::<BytesSignature>() else { return false };
    assert_eq!(signature.to_string(), without_space(text));
    let device = signature.device();
    let (right, wrong) = (signature.verify(&device, b"a letter"), signature.verify(&device, b"another"));
    assert!(right.is_err() || wrong.is_err());
    true
}

fn without_space(text: &str) -> String {
    text.trim().to_ascii_lowercase().split_ascii_whitespace().collect()
}

/// A run's summary, from the index; and what admission makes of it.
pub fn run_summary(bytes: &[u8]) -> bool {
    let Ok(summary) = RunSummary::decode(bytes) else { return false };
    assert_eq!(summary.encode(), bytes);
    let mut admission = Admission::new(SPACE, &Facts::default());
    let mut admitted = Vec::new();
    let first_of_log = summary.first == 1 && summary.previous == syncline_model::OperationId::ZERO;
    assert_eq!(admission.hold(&summary, &mut admitted), first_of_log);
    let counted = admitted.len() + admission.waiting_operations();
    assert!(counted <= summary.operations.len());
    admission.wanted();
    true
}
