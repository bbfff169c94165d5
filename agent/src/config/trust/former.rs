//! The section `[trust]` of former versions, which is refused with what to write instead.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::super::problem::Problems;

/// Notes that `[trust]` is `[[trust]]` by now, with the rules that say the same.
pub(crate) fn refuse(table: &DeTable<'_>, span: Range<usize>, problems: &mut Problems) {
    let list = |key: &str| {
        let items = table.get(key)?.get_ref().as_array()?.iter();
        let items: Vec<_> = items.filter_map(|item| written(item.get_ref())).collect();
        (!items.is_empty()).then(|| format!("[{}]", items.join(", ")))
    };
    let local_source = list("local_source");
    let local_source = local_source.map(|list| format!("local_source = {list}"));
    let mut lines = Vec::new();
    for (old, new, further) in [
        ("uids", "uid", "says = [\"bind\"]"),
        ("cgroups", "cgroup", "says = [\"bind\"]"),
        ("sources", "source", "says = [\"toa\", \"proxy\", \"xff\"]"),
        ("signers", "source", "says = [\"toa\"]"),
    ] {
        let Some(speakers) = list(old) else { continue };
        lines.extend([
            "[[trust]]".into(),
            format!("{new} = {speakers}"),
            further.into(),
        ]);
        match old {
            "signers" => lines.push("signed = true".into()),
            "uids" | "cgroups" => {
                // What the former section meant.
                lines.push("reach = \"carry\"".into());
                lines.extend(local_source.clone());
            }
            _ => {}
        }
    }
    let keys = table.get("keys").and_then(|keys| written(keys.get_ref()));
    let keys = keys.map(|keys| format!("keys = {keys}"));
    let kinds = list("toa").map(|kinds| format!("kinds = {kinds}"));
    if keys.is_some() || kinds.is_some() {
        lines.push("[toa]".into());
        lines.extend(keys.into_iter().chain(kinds));
    }
    let first = match lines.is_empty() {
        true => "leave it out: nobody is believed without a rule",
        false => "write, and leave out what a rule need not say:",
    };
    lines.insert(0, first.into());
    let message = "`[trust]` has become rules: who is believed, about what, and where";
    problems.add_with_lines(span, message, lines);
}

/// A string or a number as the configuration writes it.
fn written(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(format!("\"{text}\"")),
        DeValue::Integer(number) => Some(number.as_str().into()),
        _ => None,
    }
}
