//! What clients recorded, and the rules it is judged by. No IO, no clock.
//!
//! The rules are those of Jepsen's checkers of the same names: *set-full* (an acknowledged element is there in the end,
//! and no replica forgets what it once showed), *counter* (every value lies between what was acknowledged and what was
//! attempted), *causal* (whoever sees an effect sees its cause).

use std::ops::Range;

/// How a write ended, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No answer came: it may have happened or not.
    Unknown,
    /// It was acknowledged: it has to stay.
    Acknowledged,
    /// It was refused in a way that rules it out: it may not show.
    Refused,
}

/// The elements that one client added to the set, numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    outcomes: Vec<Outcome>,
}

impl Stream {
    /// Notes, before it is sent, that an element is written, and gives its number.
    pub(crate) fn begin(&mut self) -> usize {
        self.outcomes.push(Outcome::Unknown);
        self.outcomes.len() - 1
    }

    /// Notes how a write ended.
    pub(crate) fn end(&mut self, number: usize, outcome: Outcome) {
        self.outcomes[number] = outcome;
    }

    /// How many elements were begun.
    pub(crate) fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Which elements of a range were acknowledged by now; numbers not begun yet were not.
    pub(crate) fn acknowledged(&self, range: Range<usize>) -> Vec<bool> {
        range.map(|number| self.outcomes.get(number) == Some(&Outcome::Acknowledged)).collect()
    }
}

/// What one node has shown of one stream so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen(Vec<bool>);

impl Seen {
    fn has(&self, number: usize) -> bool {
        self.0.get(number).copied().unwrap_or(false)
    }

    /// Takes one look at the elements from `first` on, and tells the first that was missing without right: one that
    /// the node had shown before, or one that `promised` names.
    pub(crate) fn look(&mut self, first: usize, present: &[bool], promised: &[bool]) -> Result<(), usize> {
        let end = first + present.len();
        if self.0.len() < end {
            self.0.resize(end, false);
        }
        let mut missing = None;
        for (offset, present) in present.iter().enumerate() {
            let (number, promised) = (first + offset, promised.get(offset).copied().unwrap_or(false));
            if !present && (self.0[number] || promised) {
                missing = missing.or(Some(number));
            }
            self.0[number] |= *present;
        }
        missing.map_or(Ok(()), Err)
    }
}

/// What is wrong with a stream in the end, by number.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SetFaults {
    /// Acknowledged, or shown by some node, and now missing.
    pub(crate) lost: Vec<usize>,
    /// Present though refused, or never written.
    pub(crate) invented: Vec<usize>,
}

/// Compares what one node holds of a stream in the end with what was recorded.
pub(crate) fn check_set(stream: &Stream, seen: &[Seen], held: &[bool]) -> SetFaults {
    let mut faults = SetFaults::default();
    for number in 0..stream.len().max(held.len()) {
        let held = held.get(number).copied().unwrap_or(false);
        let outcome = stream.outcomes.get(number);
        let expected = outcome == Some(&Outcome::Acknowledged) || seen.iter().any(|seen| seen.has(number));
        if expected && !held {
            faults.lost.push(number);
        }
        if held && matches!(outcome, None | Some(Outcome::Refused)) {
            faults.invented.push(number);
        }
    }
    faults
}

/// What clients of one node added to one counter; only positive numbers.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Additions {
    acknowledged: i64,
    attempted: i64,
}

impl Additions {
    /// Notes, before it is sent, that something is added.
    pub(crate) fn begin(&mut self, by: i64) {
        self.attempted += by;
    }

    /// Notes how an addition ended.
    pub(crate) fn end(&mut self, by: i64, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.acknowledged += by,
            Outcome::Refused => self.attempted -= by,
            Outcome::Unknown => {}
        }
    }

    /// The sum of what was acknowledged.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged
    }

    /// The sum of what was acknowledged or may have happened.
    pub(crate) fn attempted(&self) -> i64 {
        self.attempted
    }
}

/// Whether a counter may show a value: at least what was promised, at most what was attempted.
pub(crate) fn check_counter(value: i64, promised: i64, attempted: i64) -> Result<(), String> {
    if value < promised {
        return Err(format!("it shows {value}, though {promised} were acknowledged or shown before"));
    }
    if value > attempted {
        return Err(format!("it shows {value}, though only {attempted} were ever added"));
    }
    Ok(())
}

/// Whether the links of a causal chain, in order, may be present like this: no link without those before it.
pub(crate) fn check_chain(present: &[bool]) -> Result<(), usize> {
    match present.windows(2).position(|pair| pair[1] && !pair[0]) {
        Some(cause) => Err(cause),
        None => Ok(()),
    }
}

/// A text that one client appends to, one piece after the other.
#[derive(Debug, Default)]
pub(crate) struct TextModel {
    text: String,
    length: usize,
    /// A piece that was sent and of which it is not known whether it is there.
    open: Option<String>,
}

impl TextModel {
    /// How many code points are known to be there: where the next piece goes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Notes, before it is sent, that a piece is appended.
    pub(crate) fn begin(&mut self, piece: String) {
        self.open = Some(piece);
    }

    /// Notes that the open piece is there.
    pub(crate) fn applied(&mut self) {
        if let Some(piece) = self.open.take() {
            self.length += piece.chars().count();
            self.text.push_str(&piece);
        }
    }

    /// Notes that the open piece is not there.
    pub(crate) fn refused(&mut self) {
        self.open = None;
    }

    /// Whether the text may read like this; if it may, the open piece is settled by it.
    pub(crate) fn settle(&mut self, read: &str) -> Result<(), String> {
        if self.differs(read).is_none() {
            self.open = None;
            return Ok(());
        }
        let whole = self.open.as_deref().is_some_and(|open| read.strip_prefix(&self.text) == Some(open));
        if whole {
            self.applied();
            return Ok(());
        }
        Err(self.differs(read).unwrap_or_default())
    }

    /// Where a text differs from what is known to be there, if it does.
    fn differs(&self, read: &str) -> Option<String> {
        if read == self.text {
            return None;
        }
        let common = read.chars().zip(self.text.chars()).take_while(|(a, b)| a == b).count();
        let (read, known) = (read.chars().count(), self.length);
        Some(format!("it has {read} characters instead of {known}, and differs after {common}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(outcomes: &[Outcome]) -> Stream {
        Stream { outcomes: outcomes.to_vec() }
    }

    #[test]
    fn an_acknowledged_element_that_is_missing_is_lost() {
        let stream = stream(&[Outcome::Acknowledged, Outcome::Unknown, Outcome::Acknowledged]);
        let check = |held: &[bool]| check_set(&stream, &[], held);
        assert_eq!(check(&[true, false, true]), SetFaults::default());
        assert_eq!(check(&[true, true, true]), SetFaults::default());
        assert_eq!(check(&[true, true]).lost, [2]);
        assert_eq!(check(&[false, true, true]).lost, [0]);
    }

    #[test]
    fn an_element_that_some_node_showed_may_not_vanish_even_if_nobody_acknowledged_it() {
        let stream = stream(&[Outcome::Unknown, Outcome::Unknown]);
        let mut seen = Seen::default();
        assert_eq!(seen.look(1, &[true], &[]), Ok(()));
        assert_eq!(check_set(&stream, &[seen], &[false, false]).lost, [1]);
    }

    #[test]
    fn what_nobody_wrote_or_what_was_refused_may_not_show() {
        let stream = stream(&[Outcome::Refused, Outcome::Acknowledged]);
        assert_eq!(check_set(&stream, &[], &[true, true, true]).invented, [0, 2]);
    }

    #[test]
    fn a_node_keeps_what_it_showed_and_shows_what_it_acknowledged() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(5, &[true, false], &[true, false]), Ok(()));
        assert_eq!(seen.look(4, &[false, true, true], &[]), Ok(()));
        assert_eq!(seen.look(6, &[false], &[]), Err(6), "it was there before");
        assert_eq!(seen.look(9, &[false], &[true]), Err(9), "it was acknowledged");
    }

    #[test]
    fn acknowledgements_are_known_by_number() {
        let mut stream = Stream::default();
        for outcome in [Outcome::Acknowledged, Outcome::Refused, Outcome::Unknown, Outcome::Acknowledged] {
            let number = stream.begin();
            stream.end(number, outcome);
        }
        assert_eq!(stream.acknowledged(0..6), [true, false, false, true, false, false]);
    }

    #[test]
    fn a_counter_lies_between_what_was_acknowledged_and_what_was_attempted() {
        let mut added = Additions::default();
        for (by, outcome) in [(2, Outcome::Acknowledged), (3, Outcome::Unknown), (4, Outcome::Refused)] {
            added.begin(by);
            added.end(by, outcome);
        }
        let check = |value| check_counter(value, added.acknowledged(), added.attempted());
        assert_eq!([1, 2, 5, 6].map(|value| check(value).is_ok()), [false, true, true, false]);
    }

    #[test]
    fn an_effect_without_its_cause_is_noticed() {
        assert_eq!(check_chain(&[true, true, false]), Ok(()));
        assert_eq!(check_chain(&[false, false, false]), Ok(()));
        assert_eq!(check_chain(&[false, true, false]), Err(0));
        assert_eq!(check_chain(&[true, false, true]), Err(1));
    }

    #[test]
    fn a_text_is_what_was_appended_and_perhaps_the_piece_in_doubt() {
        let model = || {
            let mut model = TextModel::default();
            model.begin("äb".to_owned());
            model.applied();
            model
        };
        assert_eq!(model().length(), 2);
        assert!(model().settle("äb").is_ok());
        for wrong in ["", "äbäb", "bä", "äbc"] {
            assert!(model().settle(wrong).is_err(), "{wrong}");
        }
        let mut doubtful = model();
        doubtful.begin("cd".to_owned());
        assert!(doubtful.settle("äbc").is_err());
        assert!(doubtful.settle("äbcd").is_ok());
        assert_eq!(doubtful.length(), 4);
        assert!(doubtful.settle("äb").is_err(), "it was there before");
        doubtful.begin("e".to_owned());
        doubtful.refused();
        assert!(doubtful.settle("äbcde").is_err());
    }
}
