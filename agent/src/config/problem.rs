//! Problems of a configuration, shown as a compiler shows errors.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Range;

use super::lines::Cursor;

/// All problems of a configuration, each with its reason, its line and, where there is one, the nearest valid form.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// A problem with the file as a whole.
    pub(super) fn file(name: &str, reason: String, help: &str) -> Self {
        Self(format!("error: {reason}\n --> {name}\n  = help: {help}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

/// A problem, or something that is shown as one.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) span: Range<usize>,
    pub(super) message: String,
    /// Lines.
    pub(super) help: Vec<String>,
}

impl Problems {
    /// Adds a problem: its place in the text, the reason, and what to write instead.
    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.add_with_lines(span, message, help.into_iter().collect());
    }

    /// Adds a problem in place of which several lines are to be written.
    pub(super) fn add_with_lines(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: Vec<String>,
    ) {
        self.0.push(Problem {
            span,
            message: message.into(),
            help,
        });
    }

    /// Returns the problems as an error, in the order of the text, if there are any.
    pub(super) fn done(&mut self, text: &str, file_name: &str) -> Result<(), ConfigError> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by_key(|problem| problem.span.start);
        let mut cursor = Cursor::new(text);
        let rendered: Vec<_> = self
            .0
            .drain(..)
            .map(|p| p.render("error", &mut cursor, file_name))
            .collect();
        Err(ConfigError(rendered.join("\n\n")))
    }
}

impl Problem {
    /// The problem with its line of the text. `word` says how grave it is.
    pub(super) fn render(&self, word: &str, cursor: &mut Cursor<'_>, file_name: &str) -> String {
        cursor.seek(self.span.start);
        let (number, column) = (cursor.line, cursor.column);
        let shown = cursor.excerpt(self.span.end);
        let gutter = " ".repeat(number.to_string().len());
        let mut out = format!(
            "{word}: {}\n{gutter}--> {file_name}:{number}:{column}\n{gutter} |\n{number} | {}\n{gutter} | {}{}",
            printable(&self.message),
            printable(&shown.text),
            shown.indent,
            "^".repeat(shown.length),
        );
        let help: Vec<_> = self.help.iter().map(|line| printable(line)).collect();
        if !help.is_empty() {
            let _ = write!(out, "\n{gutter} = help: {}", help.join("\n      "));
        }
        out
    }
}

/// A line without characters that a terminal would obey: in place of each stands its picture, which is as wide.
fn printable(line: &str) -> Cow<'_, str> {
    if !line.contains(char::is_control) {
        return line.into();
    }
    let picture = |c: char| match c {
        '\t' => c,
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        _ if c.is_control() => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    line.chars().map(picture).collect()
}
