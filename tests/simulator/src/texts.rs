//! Texts that one author writes, beside what a plain string would be after the same edits.
//!
//! An edit is certain once it is acknowledged. When its device stops before that, the text may have any of the states
//! since the last certain one; the author reads it before writing on.

use std::collections::{BTreeSet, VecDeque};

use crate::random::Choices;

/// Characters of which texts are made: of one to four bytes in UTF-8, and one that joins with the one before it.
const CHARACTERS: [char; 8] = ['a', 'b', ' ', '\n', 'é', '\u{301}', '漢', '🦀'];
/// Characters from which on more is deleted than inserted.
const LONG: usize = 200;

/// One author's text in one space.
#[derive(Debug, Clone, Default)]
pub(crate) struct Text {
    /// The last certain state.
    certain: String,
    /// States that are asked for and not acknowledged, with the transactions that make them.
    open: VecDeque<(u64, String)>,
    /// What it may be, after a stop; empty when it is known.
    possible: Vec<String>,
    /// An edit failed for a reason of the disk, so that those after it may have been made on another text or not.
    is_unknown: bool,
    /// That has ever been so.
    was_unknown: bool,
    /// A stop has ever left open what became of an edit.
    was_uncertain: bool,
    /// The states that were acknowledged, with the positions of the operations that made them.
    acknowledged: Vec<(u64, String)>,
    /// All states that it ever had or was asked to have.
    history: BTreeSet<String>,
}

/// One edit of a text.
#[derive(Debug, Clone)]
pub(crate) struct TextEdit {
    pub(crate) index: usize,
    pub(crate) delete: usize,
    pub(crate) insert: String,
}

impl Text {
    /// Whether its author must read it before writing on.
    pub(crate) fn is_uncertain(&self) -> bool {
        !self.possible.is_empty() || self.is_unknown
    }

    /// Draws the next edit and makes it on the string.
    pub(crate) fn edit(&mut self, token: u64, choices: &mut Choices) -> TextEdit {
        let before = self.open.back().map_or(&self.certain, |(_, text)| text);
        let characters: Vec<char> = before.chars().collect();
        let index = choices.below(characters.len() as u64 + 1) as usize;
        let room = characters.len() - index;
        let most = if characters.len() > LONG { room } else { room.min(4) };
        let delete = choices.below(most as u64 + 1) as usize;
        let insert: String = (0..choices.between(1, 12)).map(|_| choices.pick(&CHARACTERS)).collect();
        let after: String = characters[..index]
            .iter()
            .copied()
            .chain(insert.chars())
            .chain(characters[index + delete..].iter().copied())
            .collect();
        self.history.insert(after.clone());
        self.open.push_back((token, after));
        TextEdit { index, delete, insert }
    }

    /// An edit is acknowledged; false when another one should have been first.
    pub(crate) fn acknowledged(&mut self, token: u64, sequence: Option<u64>) -> bool {
        match self.open.pop_front() {
            Some((first, text)) if first == token => {
                self.acknowledged.extend(sequence.map(|sequence| (sequence, text.clone())));
                self.certain = text;
                true
            }
            _ => self.was_unknown,
        }
    }

    /// An edit was refused, and so will be those made on top of it.
    pub(crate) fn refused(&mut self, token: u64) {
        if let Some(at) = self.open.iter().position(|(other, _)| *other == token) {
            self.open.truncate(at);
        }
    }

    /// An edit failed for a reason of the disk.
    pub(crate) fn lost_track(&mut self) {
        self.open.clear();
        (self.is_unknown, self.was_unknown) = (true, true);
    }

    /// Its device stopped.
    pub(crate) fn stopped(&mut self) {
        if self.open.is_empty() {
            return;
        }
        self.was_uncertain = true;
        if self.possible.is_empty() {
            self.possible.push(self.certain.clone());
        }
        self.possible.extend(self.open.drain(..).map(|(_, text)| text));
    }

    /// Its author read it: from here on it is known again. False when it cannot be this.
    pub(crate) fn settled(&mut self, found: &str) -> bool {
        if !self.is_uncertain() {
            return true;
        }
        let is_possible = self.was_unknown || self.possible.iter().any(|text| text == found);
        self.is_unknown = false;
        self.possible.clear();
        found.clone_into(&mut self.certain);
        is_possible
    }

    /// Whether it may be shown like this somewhere.
    pub(crate) fn may_be_seen(&self, found: &str) -> bool {
        found.is_empty() || self.was_unknown || self.history.contains(found)
    }

    /// Whether it may be this at the end, when so many operations of its author count.
    pub(crate) fn may_end_as_after(&self, counts: u64, found: &str) -> bool {
        if self.was_uncertain || self.was_unknown {
            return self.may_be_seen(found);
        }
        let counting = self.acknowledged.iter().rev().find(|(sequence, _)| *sequence <= counts);
        found == counting.map_or("", |(_, text)| text.as_str())
    }

    /// Whether it may be this at the end.
    pub(crate) fn may_end_as(&self, found: &str) -> bool {
        let may = if self.possible.is_empty() {
            self.certain == found
        } else {
            self.possible.iter().any(|text| text == found)
        };
        may || self.was_unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_of_its_open_states_after_a_stop() {
        let (mut text, mut choices) = (Text::default(), Choices::new(1, "text", 0));
        for token in 1..=3 {
            text.edit(token, &mut choices);
        }
        assert!(text.acknowledged(1, Some(4)));
        assert!(!text.clone().acknowledged(3, Some(5)));
        let states: Vec<String> = text.open.iter().map(|(_, text)| text.clone()).collect();
        text.stopped();
        assert!(states.iter().all(|state| text.may_end_as(state)) && !text.may_end_as("other"));
        assert!(text.settled(&states[0]) && !text.may_end_as(&states[1]));
    }

    #[test]
    fn a_refused_edit_takes_those_on_top_with_it() {
        let (mut text, mut choices) = (Text::default(), Choices::new(1, "text", 0));
        for token in 1..=3 {
            text.edit(token, &mut choices);
        }
        text.refused(2);
        text.refused(3);
        assert!(text.acknowledged(1, Some(4)) && text.open.is_empty());
    }
}
