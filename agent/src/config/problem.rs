//! Problems of a configuration, shown as a compiler shows errors.

use std::fmt::{self, Write as _};
use std::ops::Range;

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
        let rendered: Vec<_> = self
            .0
            .drain(..)
            .map(|p| p.render("error", text, file_name))
            .collect();
        Err(ConfigError(rendered.join("\n\n")))
    }
}

impl Problem {
    /// The problem with its line of the text. `word` says how grave it is.
    pub(super) fn render(&self, word: &str, text: &str, file_name: &str) -> String {
        let start = self.span.start.min(text.len());
        let number = text[..start].matches('\n').count() + 1;
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let before = &text[line_start..start];
        // The pointer stays under its text when the line is indented with tabs.
        let indent: String = before
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let end = self.span.end.min(line_start + line.len()).max(start);
        let carets = "^".repeat(text[start..end].chars().count().max(1));
        let column = before.chars().count() + 1;
        let gutter = " ".repeat(number.to_string().len());
        let mut out = format!(
            "{word}: {}\n{gutter}--> {file_name}:{number}:{column}\n{gutter} |\n{number} | {}\n{gutter} | {indent}{carets}",
            printable(&self.message),
            printable(line),
        );
        let help: Vec<_> = self.help.iter().map(|line| printable(line)).collect();
        if !help.is_empty() {
            let _ = write!(out, "\n{gutter} = help: {}", help.join("\n      "));
        }
        out
    }
}

/// A line without characters that a terminal would obey: in place of each stands its picture, which is as wide.
fn printable(line: &str) -> String {
    let picture = |c: char| match c {
        '\t' => c,
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or(char::REPLACEMENT_CHARACTER),
        _ if c.is_control() => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    line.chars().map(picture).collect()
}
