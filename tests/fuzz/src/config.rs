//! The configuration: what is accepted is read the same from TOML and from JSON, and each error has its place.

use serde_json::Value;
use truepeer::config::{Config, ConfigError};

/// What errors call the file.
const FILE: &str = "truepeer.toml";

/// The text of a configuration.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Config::parse(text, FILE) {
        Err(error) => points_at(&error, text),
        Ok(config) => {
            let table: toml::Table = text.parse().expect("another reader takes it for TOML");
            let again = toml::to_string(&table).expect("it was TOML");
            assert_eq!(Config::parse(&again, FILE).as_ref(), Ok(&config), "{again}");
            let json: Value = serde_json::to_value(&table).expect("it has no dates");
            assert_eq!(Config::from_json(&json, FILE), Ok(config), "{json}");
        }
    }
}

/// How many characters of a line are shown at most, and what stands for the rest.
const WIDTH: usize = 140;
const REST: char = '…';

/// Asserts that every problem of an error is one a reader can find: each shows the line that it is in or a part of it, what
/// is wrong, and where in the line.
pub(crate) fn points_at(error: &ConfigError, text: &str) {
    let error = error.to_string();
    let mut lines = error.split('\n').peekable();
    // The place behind the last line break is in a line, too, though that has nothing in it.
    let last = (text.is_empty() || text.ends_with('\n')).then_some("");
    let actual: Vec<_> = text.lines().chain(last).collect();
    let mut problems = 0;
    while let Some(message) = lines.next() {
        let message = message
            .strip_prefix("error: ")
            .expect("it begins a problem");
        assert!(
            !message.is_empty() && !message.contains(is_obeyed),
            "{message:?}"
        );
        let mut next = || lines.next().expect("a problem has more lines");
        let (_, place) = next().split_once("--> ").expect("the place");
        let mut place = place.rsplitn(3, ':');
        let mut number = || {
            place
                .next()
                .and_then(|n| n.parse::<usize>().ok())
                .expect("a number")
        };
        let (column, line) = (number(), number());
        assert_eq!(place.next(), Some(FILE));
        let (_, blank) = next().split_once(" |").expect("the frame");
        assert_eq!(blank, "");
        let (told, shown) = next().split_once(" | ").expect("the line");
        assert_eq!(told, line.to_string());
        let (_, pointer) = next().split_once(" | ").expect("the pointer");
        let indent = pointer.trim_end_matches('^');
        let carets = pointer.len() - indent.len();
        assert!(indent.chars().all(|blank| matches!(blank, ' ' | '\t')));
        is_part(actual[line - 1], shown, column - 1, indent.len());
        let width = shown.chars().count();
        assert!(carets > 0 && indent.len() + carets <= width.max(indent.len() + 1));
        // A hint of several lines is what to write instead.
        while let Some(help) = lines.next_if(|line| !line.is_empty()) {
            assert!(!help.contains(is_obeyed), "{help:?}");
        }
        problems += 1;
        if let Some(blank) = lines.next() {
            assert_eq!(blank, "");
        }
    }
    assert!(problems > 0);
}

/// Asserts that as much of a line is shown as has room, and that the pointer is below the place.
fn is_part(line: &str, shown: &str, place: usize, pointer: usize) {
    assert!(!shown.contains(is_obeyed), "{shown:?}");
    let width = shown.chars().count();
    if line == shown {
        assert!(width <= WIDTH && place == pointer);
        return;
    }
    let line: Vec<_> = line.chars().collect();
    assert_eq!(width, line.len().min(WIDTH));
    let from = place - pointer;
    let to = from + width;
    for (shown, at) in shown.chars().zip(from..to) {
        let is_cut = at == from && from > 0 || at + 1 == to && to < line.len();
        let is_shown = match is_cut {
            true => shown == REST,
            false => shown == line[at] || is_obeyed(line[at]),
        };
        assert!(is_shown, "{shown:?} at {at}");
    }
}

/// Whether a terminal obeys a character instead of showing it.
fn is_obeyed(character: char) -> bool {
    character.is_control() && character != '\t'
}
