//! Typed reading of one value. Every reader notes what is wrong, and goes on.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::problem::Problems;

/// What was read, with its place in the text.
pub(super) type Located<T> = (T, Range<usize>);

/// A string.
pub(super) fn string<'a>(
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

/// An absolute path.
pub(super) fn absolute(
    key: &str,
    (text, span): Located<&str>,
    problems: &mut Problems,
) -> Located<PathBuf> {
    if !text.starts_with('/') {
        problems.add(
            span.clone(),
            format!("`{key}` is not an absolute path: \"{text}\""),
            Some(format!("write \"/{text}\", for example")),
        );
    }
    (text.into(), span)
}

/// A whole number within `allowed`. Hints show the number behind `prefix`.
pub(super) fn integer(
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

/// The text of a string or a number, as it was written.
pub(super) fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(integer.to_string()),
        _ => None,
    }
}

/// The type of a value, as part of a sentence.
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

/// The word that somebody who wrote `word` probably meant, if one is near enough.
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
