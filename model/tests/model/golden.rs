//! Bytes written today are read for ever: one file for each format, compared with what the code makes and reads.

use std::convert::Infallible;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rand_core::{TryCryptoRng, TryRng};
use syncline_model::bytes::{open_bytes, seal_bytes};
use syncline_model::keys::{WrappedSecret, open, seal};
use syncline_model::membership::{
    Admit, Certificate, Cut, Genesis, KeyDelivery, Record, Statement, Takeover, invitation_tag,
};
use syncline_model::payload::{Action, Entry, Lineage, Transaction};
use syncline_model::run::RunBuilder;
use syncline_model::{
    BytesSignature, ContentKey, Dependency, DeviceId, DeviceKey, DeviceText, ForkProof, Header, Kind, OperationId,
    ReplicationSecret, Role, Run, RunSummary, SpaceId, Strings, Ticket, VerifiedRun, VersionVector, branch_log,
};

/// Set it to write the files anew.
const BLESS: &str = "SYNCLINE_BLESS";
const HEX_LINE: usize = 100;

/// The same bytes at every call, for ever.
struct Fixed(u8);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(5).wrapping_add(71);
            *byte = self.0;
        }
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

/// Compares formats with their files and remembers which differ.
#[derive(Default)]
struct Goldens {
    names: Vec<String>,
    broken: Vec<String>,
}

impl Goldens {
    fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
    }

    /// The bytes in the file of that name, after writing them there when that is asked for.
    fn file(&mut self, name: &str, made: &[u8]) -> Vec<u8> {
        let name = format!("{name}.hex");
        let path = Self::directory().join(&name);
        self.names.push(name);
        if std::env::var_os(BLESS).is_some() {
            let hex = HEXLOWER.encode(made);
            let lines: Vec<&str> = hex.as_bytes().chunks(HEX_LINE).map(|line| str::from_utf8(line).unwrap()).collect();
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        HEXLOWER.decode(text.split_whitespace().collect::<String>().as_bytes()).unwrap()
    }

    /// A derived value: identifiers, names, keys.
    fn derives(&mut self, name: &str, made: &[u8]) {
        if self.file(name, made) != made {
            self.broken.push(format!("{name}: derived differently"));
        }
    }

    /// A format of which one value has one form.
    fn writes<T: PartialEq + Debug, E: Debug>(
        &mut self,
        name: &str,
        value: &T,
        made: &[u8],
        read: impl Fn(&[u8]) -> Result<T, E>,
    ) {
        if self.file(name, made) != made {
            self.broken.push(format!("{name}: written differently"));
        }
        self.reads(name, value, made, read);
    }

    /// A format of which one value has several forms: only reading is promised.
    fn reads<T: PartialEq + Debug, E: Debug>(
        &mut self,
        name: &str,
        value: &T,
        made: &[u8],
        read: impl Fn(&[u8]) -> Result<T, E>,
    ) {
        match read(&self.file(name, made)) {
            Ok(read) if read == *value => {}
            other => self.broken.push(format!("{name}: read as {other:?}")),
        }
    }

    fn finish(mut self) {
        self.names.sort();
        self.names.dedup();
        let mut files: Vec<String> = std::fs::read_dir(Self::directory())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, self.names, "files in model/tests/golden and the formats in this test");
        assert!(
            self.broken.is_empty(),
            "formats changed:\n  {}\nReplicas that run other releases, and logs on disk, hold the bytes of the files. \
             To change a format is to raise FORMAT_VERSION and to keep reading what was written before; only then, \
             `{BLESS}=1 cargo test -p syncline-model golden` writes the files anew.",
            self.broken.join("\n  ")
        );
    }
}

fn device(seed: u8) -> DeviceKey {
    DeviceKey::from_seed(&[seed; 32])
}

fn genesis() -> Genesis {
    Genesis {
        steward: device(1).id(),
        steward_exchange: device(1).exchange_public(),
        recovery: device(2).id(),
        strings: Strings::Text,
        nonce: [3; 16],
    }
}

fn space() -> SpaceId {
    genesis().space()
}

fn dependency(seed: u8, sequence: u64) -> Dependency {
    Dependency { author: DeviceId([seed; 32]), sequence, id: OperationId([seed + 1; 32]) }
}

fn header(sequence: u64, previous: OperationId, payload: &[u8]) -> Header {
    Header {
        kind: Kind::DATA,
        space: space(),
        author: device(1).id(),
        sequence,
        previous,
        membership: 300,
        epoch: 2,
        dependencies: vec![dependency(10, 5), dependency(20, 70_000)],
        payload_length: payload.len() as u32,
    }
}

fn transaction(changes: u8) -> Transaction {
    let entry = |n: u8| Entry {
        key: format!("cities/FR/{n:05}").parse().unwrap(),
        action: match n % 3 {
            0 => Action::Change(vec![n; 40]),
            1 => Action::ForeignChange(vec![n; 41]),
            _ => Action::Delete,
        },
    };
    Transaction {
        wall_time_ms: 1_700_000_000_000,
        lineage: Lineage([9; 16]),
        entries: (0..changes).map(entry).collect(),
    }
}

fn joined_run() -> VerifiedRun {
    let mut builder = RunBuilder::new(space(), device(1).id(), 1, OperationId::ZERO);
    for (payload, kind) in [(&b"one"[..], Kind::MEMBERSHIP), (b"two", Kind::DATA), (b"", Kind(77))] {
        let (sequence, previous) = builder.head();
        let header = Header { kind, ..header(sequence + 1, previous, payload) };
        builder.push(&header, |_| payload.to_vec()).unwrap();
    }
    builder.finish(&device(1)).unwrap()
}

fn certificate() -> Certificate {
    Certificate::new(&space(), &device(4), &device(5))
}

fn cut(seed: u8) -> Cut {
    Cut { author: DeviceId([seed; 32]), sequence: 1000, id: OperationId([seed + 1; 32]) }
}

fn statements() -> Vec<(&'static str, Statement)> {
    let (recovery, device, exchange) = (device(2), DeviceId([6; 32]), device(6).exchange_public());
    let takeover = Takeover::new(&space(), (9, [8; 32]), (device, exchange), cut(13), 5, &recovery);
    assert!(takeover.holds(&space(), 9, [8; 32], &recovery.id()));
    vec![
        ("genesis", Statement::Genesis(genesis())),
        (
            "epoch",
            Statement::Epoch {
                epoch: 2,
                content_commitment: [7; 32],
                replication_commitment: [8; 32],
                previous_key: Some(vec![9; 72]),
            },
        ),
        (
            "invitation",
            Statement::Invitation { invitation: device, role: Role::Reader, uses: 3, expires_ms: 1_800_000_000_000 },
        ),
        ("revocation", Statement::Revocation { invitation: device }),
        ("addition", Statement::Addition { device, exchange, role: Role::Relay }),
        ("removal", Statement::Removal { cuts: vec![cut(10), cut(11)] }),
        ("role-change", Statement::RoleChange { device, role: Role::Writer, cut: Some(cut(12)) }),
        ("handover", Statement::Handover { steward: device, exchange }),
        ("takeover", Statement::Takeover(takeover)),
        ("resolve", Statement::Resolve { heads: vec![cut(15)] }),
        ("history", Statement::History { shared: false }),
    ]
}

fn operations(goldens: &mut Goldens) {
    let header = header(70_000, OperationId([4; 32]), b"payload");
    goldens.writes("header", &header, &header.canonical_bytes(), Header::from_canonical_bytes);
    goldens.derives("operation-id", header.id(&blake3::hash(b"payload")).as_bytes());

    let decode = |bytes: &[u8]| Run::decode(space(), bytes);
    let single = VerifiedRun::author(&device(1), &header, |_| b"payload".to_vec()).unwrap();
    goldens.writes("run-of-one", &*single, single.bytes(), decode);
    let joined = joined_run();
    goldens.writes("run-joined", &*joined, joined.bytes(), decode);
    decode(joined.bytes()).unwrap().verify().unwrap();
    let summary = RunSummary::of(&joined);
    goldens.writes("run-summary", &summary, &summary.encode(), RunSummary::decode);

    let other = VerifiedRun::author(&device(1), &self::header(2, joined.operation(1).unwrap().id, b"fork"), |_| {
        b"fork".to_vec()
    });
    let proof = ForkProof::of(&joined, &other.unwrap()).unwrap();
    goldens.writes("fork-proof", &proof, &proof.encode(), ForkProof::decode);
    assert!(proof.holds(&space()));
    goldens.derives("branch-log", branch_log(&device(1).id(), &OperationId([4; 32])).as_bytes());

    let mut vector = VersionVector::default();
    (1..=3).for_each(|seed| vector.advance(DeviceId([seed; 32]), u64::from(seed) * 1000, OperationId([seed + 1; 32])));
    goldens.derives("vector-digest", &vector.digest());
    goldens.derives("vector-bucket-digests", vector.bucket_digests().as_flattened());
}

fn payloads(goldens: &mut Goldens) {
    for (name, changes, padding) in [("plain", 3, 1), ("padded", 3, 256)] {
        let transaction = transaction(changes);
        let plaintext = transaction.to_plaintext(padding);
        goldens.writes(&format!("transaction-{name}"), &transaction, &plaintext, Transaction::from_plaintext);
    }
    // Another release of zstd may compress to other bytes.
    let transaction = transaction(60);
    let plaintext = transaction.to_plaintext(16);
    assert!(plaintext.len() < 1000, "it is compressed");
    goldens.reads("transaction-compressed", &transaction, &plaintext, Transaction::from_plaintext);

    let (key, header) = (ContentKey([5; 32]), header(2, OperationId([4; 32]), b"").canonical_bytes());
    let sealed = seal(&key, &header, b"plaintext", &mut Fixed(1));
    goldens.writes("sealed-payload", &b"plaintext".to_vec(), &sealed, |sealed| open(&key, &header, sealed));
    goldens.derives("actor", &Lineage([9; 16]).actor(&space(), &device(1).id()));
}

fn membership(goldens: &mut Goldens) {
    for (sequence, (name, statement)) in (1..).zip(statements()) {
        let record =
            Record { sequence, previous: [sequence as u8 - 1; 32], wall_time_ms: 1_700_000_000_000, statement };
        goldens.writes(&format!("record-{name}"), &record, &record.encode(), Record::decode);
        if name == "genesis" {
            goldens.derives("record-hash", &record.hash());
        }
    }
    goldens.derives("space-id", space().as_bytes());

    let admit = Admit { certificate: certificate(), wall_time_ms: 1_700_000_000_000 };
    goldens.writes("admit", &admit, &admit.encode(), Admit::decode);
    assert!(admit.certificate.holds(&space()));

    let recipient = device(7);
    let wrap = |purpose: &str, secret: u8| {
        let info = KeyDelivery::info(&space(), 2, &recipient.id(), purpose);
        WrappedSecret::wrap(&recipient.exchange_public(), &info, &[secret; 32], &mut Fixed(secret)).unwrap()
    };
    let delivery = KeyDelivery {
        recipient: recipient.id(),
        epoch: 2,
        content: Some(wrap("content", 1)),
        replication: wrap("replication", 2),
    };
    goldens.writes("key-delivery", &delivery, &delivery.encode(), KeyDelivery::decode);
    let info = KeyDelivery::info(&space(), 2, &recipient.id(), "content");
    goldens.derives("key-delivery-info", &info);
    goldens.derives("key-delivery-opened", &delivery.content.unwrap().unwrap(&recipient, &info).unwrap());

    let addresses = vec!["/ip4/192.0.2.1/udp/34569/quic-v1".to_owned(), "/dns/example.org/tcp/34569".to_owned()];
    let ticket = Ticket::new(space(), "notes", Role::Writer, 1_800_000_000_000, &device(5), device(1).id(), addresses);
    let parse = |text: &[u8]| str::from_utf8(text).unwrap().parse::<Ticket>();
    goldens.writes("ticket", &ticket, ticket.to_string().as_bytes(), parse);
    let text = DeviceText::new(&device(1));
    let parse = |text: &[u8]| str::from_utf8(text).unwrap().parse::<DeviceText>();
    goldens.writes("device-text", &text, text.to_string().as_bytes(), parse);
    let sealed = seal_bytes(&text, b"a letter", &mut Fixed(9)).unwrap();
    goldens.writes("sealed-bytes", &b"a letter".to_vec(), &sealed, |bytes| open_bytes(&device(1), bytes));
    let signature = BytesSignature::sign(&device(1), b"a letter").unwrap();
    let parse = |text: &[u8]| str::from_utf8(text).unwrap().parse::<BytesSignature>();
    goldens.writes("signature-of-bytes", &signature, signature.to_string().as_bytes(), parse);
}

fn names(goldens: &mut Goldens) {
    let (key, secret) = (ContentKey([1; 32]), ReplicationSecret([2; 32]));
    goldens.derives("device-id", device(1).id().as_bytes());
    goldens.derives("device-exchange-key", &device(1).exchange_public().0);
    goldens.derives("device-signature", &device(1).sign(b"text"));
    goldens.derives("topic", secret.topic().as_bytes());
    goldens.derives("gossip-key", &secret.gossip_key().0);
    goldens.derives("tag", &secret.tag(&device(1).id(), &device(2).id()).0);
    goldens.derives("tag-of-invitation", &invitation_tag(&device(5).id(), &device(1).id(), &device(2).id()).0);
    goldens.derives("commitment-of-content-key", &key.commitment(&space(), 2));
    goldens.derives("commitment-of-replication-secret", &secret.commitment(&space(), 2));
}

#[test]
fn golden_bytes_are_written_and_read_as_ever() {
    let mut goldens = Goldens::default();
    operations(&mut goldens);
    payloads(&mut goldens);
    membership(&mut goldens);
    names(&mut goldens);
    goldens.finish();
}
