//! Places in a text: the line that each is in, and what is shown of that line.

use std::ops::Range;

/// How many characters of a line are shown at most, and how many of those are before the place if there are more behind it.
const WIDTH: usize = 140;
const BEFORE: usize = 50;
/// Stands for what is not shown.
const REST: char = '…';

/// Goes from place to place in a text. It reads what is between a place and a later one, so that places in their order
/// cost no more than the text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// The place, in bytes.
    at: usize,
    /// Number of the line, from 1.
    pub(super) line: usize,
    /// Which character of the line it is, from 1.
    pub(super) column: usize,
    /// Where the line begins, and where its line break does, in bytes.
    begin: usize,
    end: usize,
}

/// A part of a line, or all of it.
pub(super) struct Excerpt {
    pub(super) text: String,
    /// Blanks as wide as what is shown before the place.
    pub(super) indent: String,
    /// How many characters are shown of what begins at the place, at least 1.
    pub(super) length: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
            column: 1,
            begin: 0,
            end: end(text, 0),
        }
    }

    /// Goes to a place, in bytes.
    pub(super) fn seek(&mut self, place: usize) {
        let mut place = place.min(self.text.len());
        if self.text[..place].ends_with('\r') && self.text[place..].starts_with('\n') {
            // Between the two bytes of a line break.
            place -= 1;
        }
        if place < self.at {
            *self = Self::new(self.text);
        }
        let passed = &self.text[self.at..place];
        let mut passed_in_line = passed;
        if let Some((before, in_line)) = passed.rsplit_once('\n') {
            self.line += 1 + before.matches('\n').count();
            self.column = 1;
            self.begin = place - in_line.len();
            self.end = end(self.text, self.begin);
            passed_in_line = in_line;
        }
        self.column += passed_in_line.chars().count();
        self.at = place;
    }

    /// What is shown of the line, and of what reaches from the place to `until`.
    pub(super) fn excerpt(&self, until: usize) -> Excerpt {
        let Range { start, end } = self.shown();
        let (is_begun, is_ended) = (start == self.begin, end == self.end);
        let mut text = String::new();
        let mut inner = self.text[start..end].chars();
        if !is_begun {
            inner.next();
            text.push(REST);
        }
        if !is_ended {
            inner.next_back();
        }
        text.push_str(inner.as_str());
        if !is_ended {
            text.push(REST);
        }
        // The pointer stays under its text when that is indented with tabs.
        let before = self.text[start..self.at].chars();
        let indent = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let meant = &self.text[self.at..until.clamp(self.at, end)];
        Excerpt {
            text,
            indent,
            length: meant.chars().count().max(1),
        }
    }

    /// The part of the line that is shown, in bytes.
    fn shown(&self) -> Range<usize> {
        if self.text[self.begin..self.end].chars().nth(WIDTH).is_none() {
            return self.begin..self.end;
        }
        let (before, behind) = (
            &self.text[self.begin..self.at],
            &self.text[self.at..self.end],
        );
        let behind = behind.chars().take(WIDTH).count();
        let before = before.char_indices().rev();
        let first = before.take(BEFORE.max(WIDTH - behind)).last();
        let start = first.map_or(self.at, |(at, _)| self.begin + at);
        let mut shown = self.text[start..self.end].char_indices();
        start..shown.nth(WIDTH).map_or(self.end, |(at, _)| start + at)
    }
}

/// Where the line break is of the line that begins at `begin`.
fn end(text: &str, begin: usize) -> usize {
    let line = text[begin..].lines().next().unwrap_or_default();
    begin + line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_same_line_wherever_one_comes_from() {
        let text = "a\u{fc}c\r\n\n\tlast\r";
        // Each line break belongs to the line before it, and so does the end of the text.
        let expected = [
            (0, 1, 1),
            (1, 1, 2),
            (3, 1, 3),
            (4, 1, 4),
            (5, 1, 4),
            (6, 2, 1),
            (7, 3, 1),
            (8, 3, 2),
            (13, 3, 7),
        ];
        let mut steady = Cursor::new(text);
        for (place, line, column) in expected {
            for from in [0, 3, 6, 13] {
                let mut cursor = Cursor::new(text);
                cursor.seek(from);
                cursor.seek(place);
                assert_eq!((cursor.line, cursor.column), (line, column), "{place}");
            }
            steady.seek(place);
            assert_eq!((steady.line, steady.column), (line, column), "{place}");
        }
        steady.seek(usize::MAX);
        assert_eq!((steady.line, steady.column), (3, 7));
    }

    /// What is shown of a line, with the part that is pointed at.
    fn shown(line: &str, place: usize, until: usize) -> (String, String) {
        let text = format!("# before\n{line}\n# behind\n");
        let begin = "# before\n".len();
        let mut cursor = Cursor::new(&text);
        cursor.seek(begin + place);
        let Excerpt {
            text,
            indent,
            length,
        } = cursor.excerpt(begin.saturating_add(until));
        let skipped = indent.chars().count();
        let pointed = text.chars().skip(skipped).take(length).collect();
        (text, pointed)
    }

    #[test]
    fn a_line_that_has_room_is_shown_whole() {
        let line = "\u{fc}".repeat(WIDTH);
        for place in [0, 2 * 70, line.len()] {
            let (text, pointed) = shown(&line, place, usize::MAX);
            assert_eq!((&text, &*pointed), (&line, &line[place..]));
        }
    }

    #[test]
    fn of_a_long_line_what_is_around_the_place_is_shown() {
        let numbers: String = (1000..2000).map(|number| format!("{number} ")).collect();
        let at = |number: &str| {
            let place = numbers.find(number).unwrap();
            let (text, pointed) = shown(&numbers, place, place + number.len());
            assert_eq!((text.chars().count(), &*pointed), (WIDTH, number));
            text
        };
        assert!(at("1000").starts_with("1000 1001") && at("1000").ends_with(REST));
        assert!(at("1010").starts_with("1000 ") && at("1010").ends_with(REST));
        assert!(at("1500").starts_with(REST) && at("1500").ends_with(REST));
        assert!(at("1999").starts_with(REST) && at("1999").ends_with("1998 1999 "));
        // What is pointed at may itself be long, and the place may be the line's end.
        let (text, pointed) = shown(&numbers, 2500, usize::MAX);
        assert_eq!(pointed.chars().count(), WIDTH - BEFORE);
        assert!(pointed.starts_with("1500 ") && text.ends_with(&pointed));
        let (text, pointed) = shown(&numbers, numbers.len(), usize::MAX);
        assert_eq!((text.chars().count(), &*pointed), (WIDTH, ""));
    }
}
