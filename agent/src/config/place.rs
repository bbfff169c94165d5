//! Where in a configuration something is written.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A section, or a key or an item of a list in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The keys that lead to the section: `relay`, `carry.toa`.
    section: &'static str,
    /// Which of several sections of that name it is.
    number: Option<usize>,
    key: Option<&'static str>,
    item: Option<usize>,
}

impl Place {
    /// The section of this name, of which there is one.
    pub(super) fn of(section: &'static str) -> Self {
        Self {
            section,
            number: None,
            key: None,
            item: None,
        }
    }

    /// One of the sections of this name.
    pub(super) fn nth(section: &'static str, number: usize) -> Self {
        Self {
            number: Some(number),
            ..Self::of(section)
        }
    }

    /// The value of a key of the section.
    pub(super) fn key(self, key: &'static str) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// An item of the list that a key of the section has.
    pub(super) fn item(self, key: &'static str, item: usize) -> Self {
        Self {
            item: Some(item),
            ..self.key(key)
        }
    }

    /// The place in the text that was parsed to `document`: of the item, the key or the section, whichever of them is
    /// written down.
    pub(super) fn span(&self, document: &DeTable<'_>) -> Range<usize> {
        let mut names = self.section.split('.');
        let first = names.next().and_then(|name| document.get(name));
        let Some(mut found) = first else {
            return 0..0;
        };
        let keys = names.map(Step::Key);
        let keys = keys.chain(self.number.map(Step::Item));
        let keys = keys.chain(self.key.map(Step::Key));
        for step in keys.chain(self.item.map(Step::Item)) {
            match step.from(found) {
                Some(next) => found = next,
                None => break,
            }
        }
        found.span()
    }
}

/// From a value to one in it.
enum Step<'a> {
    Key(&'a str),
    Item(usize),
}

impl Step<'_> {
    fn from<'a, 'text>(
        &self,
        value: &'a Spanned<DeValue<'text>>,
    ) -> Option<&'a Spanned<DeValue<'text>>> {
        match (self, value.get_ref()) {
            (Self::Key(key), DeValue::Table(table)) => table.get(*key),
            (Self::Item(item), DeValue::Array(array)) => array.get(*item),
            _ => None,
        }
    }
}
