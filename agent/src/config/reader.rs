//! Typed reading of one section, with every problem noted and none fatal.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problems;

/// A prefix for hints.
const EXAMPLE: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8));

/// A value with its place in the text.
pub(super) type Located<T> = (T, Range<usize>);

/// A section of the file: its header, its keys and the keys that it may have.
pub(super) struct Section<'a, 'text> {
    header: &'static str,
    table: &'a DeTable<'text>,
    /// Of the header.
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

    /// Notes each key that does not exist.
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

    /// Notes it when a key that must be there is not, unless it is there mistyped.
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

    /// The same with their places in the text.
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
                    prefixes.push((prefix, span));
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

    /// A list of items that are written within `quote`.
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

fn absolute(key: &str, (text, span): Located<&str>, problems: &mut Problems) -> Located<PathBuf> {
    if !text.starts_with('/') {
        problems.add(
            span.clone(),
            format!("`{key}` is not an absolute path: \"{text}\""),
            Some(format!("write \"/{text}\", for example")),
        );
    }
    (text.into(), span)
}

/// A whole number, which hints write after `prefix`.
fn integer(
    key: &str,
    prefix: &str,
    value: &Spanned<DeValue<'_>>,
    allowed: &RangeInclusive<u32>,
    problems: &mut Problems,
) -> Option<Located<u32>> {
    let span = value.span();
    let (low, high) = (*allowed.start(), *allowed.end());
    let DeValue::Integer(integer) = value.get_ref() else {
        let help = value
            .get_ref()
            .as_str()
            .and_then(|text| text.parse::<u32>().ok())
            .map(|n| format!("write `{prefix}{n}`, without quotes"));
        problems.add(
            span,
            format!("`{key}` is {}, not a number", describe(value.get_ref())),
            help,
        );
        return None;
    };
    let number = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
    match u32::try_from(number) {
        Ok(number) if allowed.contains(&number) => Some((number, span)),
        _ => {
            let nearest = number.clamp(low.into(), high.into());
            problems.add(
                span,
                format!("`{key}` must be between {low} and {high}"),
                Some(format!("the nearest is `{prefix}{nearest}`")),
            );
            None
        }
    }
}

fn string<'a>(
    key: &str,
    value: &'a Spanned<DeValue<'_>>,
    problems: &mut Problems,
) -> Option<Located<&'a str>> {
    let text = value.get_ref().as_str();
    if text.is_none() {
        problems.add(
            value.span(),
            format!("`{key}` holds {}, not a string", describe(value.get_ref())),
            scalar(value.get_ref()).map(|text| format!("write \"{text}\", in quotes")),
        );
    }
    Some((text?, value.span()))
}

/// A string or a number as it was written.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.to_string()),
        _ => None,
    }
}

/// The type of a value, in a sentence.
pub(super) fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// The word that was probably meant by `word`, if one is near enough.
pub(super) fn nearest(
    word: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}
