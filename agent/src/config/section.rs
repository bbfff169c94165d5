//! Typed reading of one section. Every reader notes what is wrong, and goes on.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;
use super::value::{Located, absolute, describe, integer, nearest, scalar, string};

/// The prefix that hints show for example.
const EXAMPLE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8));

/// A section of the file: its header, its values and the keys that it may have.
pub(super) struct Section<'a, 'text> {
    header: &'static str,
    table: &'a DeTable<'text>,
    /// Place of the header.
    pub(super) span: Range<usize>,
    keys: &'static [&'static str],
}

impl<'a, 'text> Section<'a, 'text> {
    pub(super) fn new(
        header: &'static str,
        table: &'a DeTable<'text>,
        span: Range<usize>,
        keys: &'static [&'static str],
    ) -> Self {
        Self {
            header,
            table,
            span,
            keys,
        }
    }

    /// Notes each key that the section may not have.
    pub(super) fn refuse_unknown(&self, problems: &mut Problems) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.keys.contains(&name) {
                continue;
            }
            let (message, help) = match nearest(name, self.keys.iter().copied()) {
                Some(known) => (
                    format!("unknown key `{name}`, did you mean `{known}`?"),
                    None,
                ),
                None => (
                    format!("unknown key `{name}`"),
                    Some(format!("{} has: {}", self.header, self.keys.join(", "))),
                ),
            };
            problems.add(key.span(), message, help);
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'text>>> {
        self.table.get(key)
    }

    /// Whether a required key is there. Notes that it is missing, unless it is there but mistyped.
    pub(super) fn require(&self, key: &str, example: &str, problems: &mut Problems) -> bool {
        let there = self.table.contains_key(key);
        let is_mistyped = || {
            let unknown = self.table.keys().map(|name| name.get_ref().as_ref());
            unknown
                .filter(|name| !self.keys.contains(name))
                .any(|name| nearest(name, self.keys.iter().copied()) == Some(key))
        };
        if !there && !is_mistyped() {
            problems.add(
                self.span.clone(),
                format!("{} has no `{key}`", self.header),
                Some(format!("add a line such as `{key} = {example}`")),
            );
        }
        there
    }

    /// A string.
    pub(super) fn string(&self, key: &str, problems: &mut Problems) -> Option<Located<&'a str>> {
        let value = self.get(key)?;
        string(key, value, problems)
    }

    /// An absolute path.
    pub(super) fn path(&self, key: &str, problems: &mut Problems) -> Option<Located<PathBuf>> {
        self.string(key, problems)
            .map(|located| absolute(key, located, problems))
    }

    /// A list of absolute paths.
    pub(super) fn paths(&self, key: &str, problems: &mut Problems) -> Option<Vec<PathBuf>> {
        let paths = self.strings(key, problems)?.into_iter();
        let absolute = paths.map(|located| absolute(key, located, problems).0);
        Some(absolute.collect())
    }

    /// A whole number within `allowed`.
    pub(super) fn integer(
        &self,
        key: &str,
        allowed: RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> Option<Located<u32>> {
        integer(
            key,
            &format!("{key} = "),
            self.get(key)?,
            &allowed,
            problems,
        )
    }

    /// A list of whole numbers within `allowed`.
    pub(super) fn integers(
        &self,
        key: &str,
        allowed: RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> Option<Vec<Located<u32>>> {
        self.list(key, "", problems, |item, problems| {
            integer(key, "", item, &allowed, problems)
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.get(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            problems.add(
                value.span(),
                format!("`{key}` is {}, not a boolean", describe(value.get_ref())),
                Some(format!("write `{key} = true` or `{key} = false`")),
            );
        }
        boolean
    }

    /// The value of one of `words`, and its place. Without the key, it is that of the first word, at the header.
    pub(super) fn word<T: Copy>(
        &self,
        key: &str,
        words: &[(&'static str, T)],
        problems: &mut Problems,
    ) -> Located<T> {
        let default = (words[0].1, self.span.clone());
        let Some((text, span)) = self.string(key, problems) else {
            return default;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return (*value, span);
        }
        let all: Vec<_> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let all = all.join(", ");
        let help = match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean \"{word}\"? There are {all}"),
            None => format!("there are {all}"),
        };
        problems.add(span, format!("`{key}` cannot be \"{text}\""), Some(help));
        default
    }

    /// A list of strings.
    pub(super) fn strings(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Option<Vec<Located<&'a str>>> {
        self.list(key, "\"", problems, |item, problems| {
            string(key, item, problems)
        })
    }

    /// A list of address prefixes.
    pub(super) fn prefixes(&self, key: &str, problems: &mut Problems) -> Vec<IpNet> {
        let located = self.located_prefixes(key, problems);
        located.into_iter().map(|(prefix, _)| prefix).collect()
    }

    /// A list of address prefixes with their places in the text.
    pub(super) fn located_prefixes(
        &self,
        key: &str,
        problems: &mut Problems,
    ) -> Vec<Located<IpNet>> {
        let texts = self.strings(key, problems).unwrap_or_default();
        let mut prefixes = Vec::new();
        for (text, span) in texts {
            let wrong = match text.parse::<IpNet>() {
                Ok(prefix) if prefix.trunc() == prefix => {
                    prefixes.push((canonical(prefix), span));
                    continue;
                }
                Ok(prefix) => (
                    format!("`{key}`: \"{text}\" has bits set beyond its prefix length"),
                    prefix.trunc(),
                ),
                Err(_) => (
                    format!("`{key}` holds what is not an address prefix: \"{text}\""),
                    text.parse::<IpAddr>().map_or_else(|_| EXAMPLE, IpNet::from),
                ),
            };
            let (message, nearest) = wrong;
            problems.add(span, message, Some(format!("write \"{nearest}\"")));
        }
        prefixes
    }

    /// Notes that an empty list means what is said behind its key, and what to write instead.
    pub(super) fn refuse_empty(
        &self,
        key: &str,
        meaning: &str,
        help: impl Into<String>,
        problems: &mut Problems,
    ) {
        if let Some(value) = self.get(key)
            && value
                .get_ref()
                .as_array()
                .is_some_and(|list| list.is_empty())
        {
            let message = format!("`{key}` is empty: {meaning}");
            problems.add(value.span(), message, Some(help.into()));
        }
    }

    /// A list, of which `read` reads the items. Hints show items within `quote`.
    fn list<T>(
        &self,
        key: &str,
        quote: &str,
        problems: &mut Problems,
        mut read: impl FnMut(&'a Spanned<DeValue<'text>>, &mut Problems) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            problems.add(
                value.span(),
                format!("`{key}` is {}, not a list", describe(value.get_ref())),
                scalar(value.get_ref())
                    .map(|text| format!("write `{key} = [{quote}{text}{quote}]`")),
            );
            return None;
        };
        Some(
            array
                .iter()
                .filter_map(|item| read(item, problems))
                .collect(),
        )
    }
}

/// The IPv4 prefix that is meant by one within `::ffff:0:0/96` (RFC 4291, 2.5.5.2); any other as it is.
fn canonical(prefix: IpNet) -> IpNet {
    let mapped = prefix.prefix_len().checked_sub(96);
    match (prefix.addr().to_canonical(), mapped) {
        (IpAddr::V4(address), Some(length)) if !prefix.addr().is_ipv4() => {
            IpNet::V4(Ipv4Net::new_assert(address, length))
        }
        _ => prefix,
    }
}

/// Notes that a value stands where a section is expected.
pub(super) fn not_a_section(
    span: Range<usize>,
    name: &str,
    value: &DeValue<'_>,
    problems: &mut Problems,
) {
    problems.add(
        span,
        format!("`{name}` is {}, not a section", describe(value)),
        Some(format!("write `[{name}]`")),
    );
}

/// The sections of a name that can occur several times.
pub(super) fn sections<'a, 'text>(
    name: &str,
    header: &'static str,
    keys: &'static [&'static str],
    value: &'a Spanned<DeValue<'text>>,
    problems: &mut Problems,
) -> Vec<Section<'a, 'text>> {
    let mut not_sections = |span, value: &DeValue<'_>| {
        let message = match value {
            DeValue::Table(_) => format!("`{name}` is one section, but there can be several"),
            other => format!("`{name}` is {}, not a list of sections", describe(other)),
        };
        let help = format!("write `{header}`, in double brackets");
        problems.add(span, message, Some(help));
    };
    let DeValue::Array(array) = value.get_ref() else {
        not_sections(value.span(), value.get_ref());
        return Vec::new();
    };
    let mut sections = Vec::new();
    for item in array.iter() {
        match item.get_ref() {
            DeValue::Table(table) => sections.push(Section::new(header, table, item.span(), keys)),
            other => not_sections(item.span(), other),
        }
    }
    sections
}
