//! What `/proc` tells.

/// The number after `key` in a list of keys and values.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
