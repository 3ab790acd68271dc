//! A fuzzer's bytes, read as instructions: any bytes are some script, and small changes of them small changes of it.

use serde_json::{Map, Number, Value, json};

/// What is left of the instructions.
#[derive(Debug, Clone)]
pub struct Script<'a>(&'a [u8]);

/// Fields of generated values; the first are those that edits by path aim at.
const FIELDS: [&str; 6] = ["n", "t", "a", "b", "o", ""];
/// Characters of generated strings: of one to four bytes, alone and combining.
const CHARACTERS: [char; 8] = ['a', 'b', 'z', ' ', 'é', '\u{301}', '漢', '🦀'];

impl<'a> Script<'a> {
    /// The whole script.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte; 0 when nothing is left.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`, which is not above 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// Two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Bytes behind their length, or what there is of them.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.short()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A short text.
    pub fn text(&mut self) -> String {
        (0..self.below(6)).map(|_| CHARACTERS[self.below(CHARACTERS.len())]).collect()
    }

    /// The name of a field.
    pub fn field(&mut self) -> &'static str {
        FIELDS[self.below(FIELDS.len())]
    }

    /// A JSON object that nests `depth` levels more at most.
    pub fn object(&mut self, depth: usize) -> Map<String, Value> {
        (0..self.below(4)).map(|_| (self.field().to_owned(), self.value(depth))).collect()
    }

    /// A JSON value that nests `depth` levels more at most.
    pub fn value(&mut self, depth: usize) -> Value {
        match self.byte() % 12 {
            0 => Value::Null,
            1 => Value::Bool(self.byte().is_multiple_of(2)),
            2 | 3 => json!(i8::from_le_bytes([self.byte()])),
            4 => [json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!(0)][self.below(4)].clone(),
            5 => Number::from_f64(f64::from(self.byte()) / 4.0).map_or(Value::Null, Value::Number),
            6 | 7 if depth > 0 => (0..self.below(4)).map(|_| self.value(depth - 1)).collect(),
            8 | 9 if depth > 0 => Value::Object(self.object(depth - 1)),
            _ => Value::String(self.text()),
        }
    }
}

/// The instruction that [`Script::bytes`] reads, for seeds.
pub fn instruction(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes(), &bytes[..usize::from(length)]].concat()
}
