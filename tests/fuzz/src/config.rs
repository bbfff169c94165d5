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

/// Asserts that every problem of an error is one a reader can find: each shows the line that it is in, what is wrong, and
/// where in the line.
pub(crate) fn points_at(error: &ConfigError, text: &str) {
    let error = error.to_string();
    let mut lines = error.split('\n').peekable();
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
        let mut place = place.rsplitn(3, ':').map(str::to_owned);
        let mut number = || {
            place
                .next()
                .and_then(|n| n.parse::<usize>().ok())
                .expect("a number")
        };
        let (column, line) = (number(), number());
        assert_eq!(place.next().as_deref(), Some(FILE));
        let (_, blank) = next().split_once(" |").expect("the frame");
        assert_eq!(blank, "");
        let (told, shown) = next().split_once(" | ").expect("the line");
        assert_eq!(told, line.to_string());
        // The place behind the last line break is in a line, too, though that has nothing in it.
        assert!(line <= text.matches('\n').count() + 1);
        let actual = text.lines().nth(line - 1).unwrap_or_default();
        let is_shown = |(a, b): (char, char)| a == b && !is_obeyed(a) || is_obeyed(b);
        assert_eq!(shown.chars().count(), actual.chars().count());
        assert!(shown.chars().zip(actual.chars()).all(is_shown) && !shown.contains(is_obeyed));
        let (_, pointer) = next().split_once(" | ").expect("the pointer");
        let indent = pointer.trim_end_matches('^');
        assert_eq!(indent.chars().count(), column - 1);
        let carets = pointer.len() - indent.len();
        assert!(carets > 0 && column - 1 + carets <= shown.chars().count().max(column));
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

/// Whether a terminal obeys a character instead of showing it.
fn is_obeyed(character: char) -> bool {
    character.is_control() && character != '\t'
}
