//! Lines and columns of a text, each found without reading the text again.

/// Where something is in a file, both counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// Bytes between two counts of characters.
const BLOCK: usize = 1024;

/// An index of a text.
#[derive(Debug)]
pub(super) struct Places {
    /// Where each line begins, bytes.
    lines: Vec<usize>,
    /// How many characters begin before each block.
    characters: Vec<usize>,
}

impl Places {
    pub(super) fn of(text: &str) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let mut characters = vec![0];
        let mut so_far = 0;
        for block in text.as_bytes().chunks(BLOCK) {
            so_far += beginning_in(block);
            characters.push(so_far);
        }
        Self {
            lines: std::iter::once(0).chain(newlines).collect(),
            characters,
        }
    }

    /// The place of a byte of that text; none outside it or inside a character.
    pub(super) fn at(&self, text: &str, at: usize) -> Option<Place> {
        if !text.is_char_boundary(at) {
            return None;
        }
        let line = self.lines.partition_point(|start| *start <= at);
        let start = *self.lines.get(line.checked_sub(1)?)?;
        let column = self.before(text, at)? - self.before(text, start)? + 1;
        Some(Place { line, column })
    }

    /// How many characters begin before this byte.
    fn before(&self, text: &str, at: usize) -> Option<usize> {
        let block = at / BLOCK;
        let rest = text.as_bytes().get(block * BLOCK..at)?;
        Some(self.characters.get(block)? + beginning_in(rest))
    }
}

/// How many characters begin in these bytes of UTF-8: all that do not go on with one.
fn beginning_in(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_if_counted_from_the_start(text in "[aä€𝄞\n]{0,600}", repeat in 1usize..6) {
            let text = text.repeat(repeat);
            let places = Places::of(&text);
            for (at, _) in text.char_indices().step_by(7) {
                let before = &text[..at];
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().map_or(0, |it| it.chars().count()) + 1;
                prop_assert_eq!(places.at(&text, at), Some(Place { line, column }));
            }
        }
    }

    #[test]
    fn the_end_is_a_place_and_the_inside_of_a_character_is_none() {
        let text = "ä\n";
        let places = Places::of(text);
        assert_eq!(places.at(text, 3), Some(Place { line: 2, column: 1 }));
        assert_eq!(places.at(text, 1), None);
        assert_eq!(places.at(text, 4), None);
    }
}
