//! Documents as lines of JSON, one each, plain or gzip: what an export prints and an import reads.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::body::Operation;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes of lines after which a transaction is full, whatever their number.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Size of the read buffer in bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// The first bytes of every gzip file (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// One line: what `export` prints and `import` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The document's key.
    pub key: String,
    /// Its value, a JSON object.
    pub value: Value,
}

/// Lines that go into one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    /// Their numbers, from 1, and what they ask for.
    pub lines: Vec<(u64, Operation)>,
    /// The documents that they name.
    pub keys: BTreeSet<String>,
    bytes: usize,
}

/// Why the lines end early.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line, from 1.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// The source of lines, and how many of its bytes were read.
pub struct Lines {
    input: Box<dyn BufRead + Send>,
    number: u64,
    per_batch: usize,
    /// What stopped the reading, to be told after the batch before it.
    fault: Option<BadLine>,
}

impl Lines {
    /// The lines of a source, `per_batch` of them at most in a transaction; `read` counts the bytes of the source.
    ///
    /// # Errors
    /// When not even the first bytes can be read.
    pub fn new(source: impl Read + Send + 'static, per_batch: usize, read: &Arc<AtomicU64>) -> io::Result<Self> {
        let counted = Counted { source, read: Arc::clone(read) };
        let mut input = BufReader::with_capacity(BUFFER_BYTES, counted);
        // A pipe may give one byte at first; the buffer keeps what is looked at.
        let mut first = Vec::new();
        (&mut input).take(GZIP_MAGIC.len() as u64).read_to_end(&mut first)?;
        let packed = first == GZIP_MAGIC;
        let input = io::Cursor::new(first).chain(input);
        let input: Box<dyn BufRead + Send> = if packed {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(input)))
        } else {
            Box::new(input)
        };
        Ok(Self { input, number: 0, per_batch, fault: None })
    }

    /// The next transaction; none at the end. What comes before a bad line is given before the line is told.
    ///
    /// # Errors
    /// The line at which the reading ends, when that is not the end.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, BadLine> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut batch = Batch::default();
        while batch.lines.len() < self.per_batch && batch.bytes < BATCH_BYTES_MAX {
            match self.next_line() {
                Ok(Some((line, bytes))) => {
                    batch.bytes += bytes;
                    batch.keys.insert(line.key.clone());
                    batch.lines.push((self.number, Operation::Put { key: line.key, value: line.value }));
                }
                Ok(None) => break,
                Err(fault) if batch.lines.is_empty() => return Err(fault),
                Err(fault) => {
                    self.fault = Some(fault);
                    break;
                }
            }
        }
        Ok(if batch.lines.is_empty() { None } else { Some(batch) })
    }

    fn next_line(&mut self) -> Result<Option<(Line, usize)>, BadLine> {
        let mut text = Vec::new();
        loop {
            text.clear();
            self.number += 1;
            let number = self.number;
            let bad = |reason: String| BadLine { number, reason };
            let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64 + 1);
            let read = limited.read_until(b'\n', &mut text).map_err(|error| bad(format!("cannot be read: {error}")))?;
            if read == 0 {
                return Ok(None);
            }
            if text.len() > LINE_BYTES_MAX {
                return Err(bad(format!("it is longer than {} MiB", LINE_BYTES_MAX >> 20)));
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_slice(&text).map_err(|error| {
                bad(format!("{}; expected {{\"key\":\"…\",\"value\":{{…}}}}", without_position(&error)))
            })?;
            if !line.value.is_object() {
                return Err(bad("the value is not a JSON object".to_owned()));
            }
            return Ok(Some((line, read)));
        }
    }
}

/// The message of a JSON error with the column, and without the line, which is always the first.
fn without_position(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// Counts what is read through it.
struct Counted<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(bytes: &[u8], per_batch: usize) -> Lines {
        Lines::new(io::Cursor::new(bytes.to_vec()), per_batch, &Arc::default()).unwrap()
    }

    fn numbers(batch: &Batch) -> Vec<u64> {
        batch.lines.iter().map(|(number, _)| *number).collect()
    }

    const THREE: &str =
        "{\"key\":\"a\",\"value\":{}}\n\n{\"key\":\"b\",\"value\":{\"n\":1}}\r\n{\"value\":{},\"key\":\"a\"}";

    #[test]
    fn lines_come_in_batches_with_their_numbers() {
        let mut lines = lines(THREE.as_bytes(), 2);
        let batch = lines.next_batch().unwrap().unwrap();
        assert_eq!(numbers(&batch), [1, 3]);
        assert_eq!(batch.keys.len(), 2);
        assert_eq!(numbers(&lines.next_batch().unwrap().unwrap()), [4]);
        assert!(lines.next_batch().unwrap().is_none());
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(THREE.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        assert_eq!(numbers(&lines(&packed, 9).next_batch().unwrap().unwrap()), [1, 3, 4]);
        let mut cut = lines(&packed[..packed.len() - 12], 9);
        let fault = std::iter::from_fn(|| match cut.next_batch() {
            Ok(Some(_)) => Some(None),
            Ok(None) => None,
            Err(fault) => Some(Some(fault)),
        });
        assert!(fault.flatten().next().is_some_and(|fault| fault.reason.contains("cannot be read")));
    }

    #[test]
    fn an_empty_file_has_no_lines() {
        for empty in ["", "\n \n", "\u{1f}"] {
            let outcome = lines(empty.as_bytes(), 2).next_batch();
            assert!(matches!(outcome, Ok(None) | Err(BadLine { number: 1, .. })), "{empty:?}");
        }
    }

    #[test]
    fn what_stands_before_a_bad_line_is_given_first() {
        for (bad, expected) in [
            ("{\"key\":\"x\"}", "value"),
            ("{\"key\":1,\"value\":{}}", "key"),
            ("{\"key\":\"x\",\"value\":{},\"extra\":1}", "extra"),
            ("{\"key\":\"x\",\"value\":[]}", "not a JSON object"),
            ("nonsense", "column"),
            ("\u{feff}{}", "column"),
        ] {
            let text = format!("{{\"key\":\"a\",\"value\":{{}}}}\n{bad}\n{THREE}");
            let mut lines = lines(text.as_bytes(), 9);
            assert_eq!(numbers(&lines.next_batch().unwrap().unwrap()), [1], "{bad}");
            let fault = lines.next_batch().unwrap_err();
            assert_eq!(fault.number, 2, "{bad}");
            assert!(fault.reason.contains(expected), "{bad}: {}", fault.reason);
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::new(io::repeat(b'x'), 2, &Arc::default()).unwrap();
        assert!(lines.next_batch().unwrap_err().reason.contains("longer than 16 MiB"));
    }

    #[test]
    fn large_lines_make_small_batches() {
        let large = format!("{{\"key\":\"a\",\"value\":{{\"t\":\"{}\"}}}}\n", "x".repeat(BATCH_BYTES_MAX));
        let mut lines = lines(large.repeat(2).as_bytes(), 500);
        assert_eq!(numbers(&lines.next_batch().unwrap().unwrap()), [1]);
        assert_eq!(numbers(&lines.next_batch().unwrap().unwrap()), [2]);
    }
}
