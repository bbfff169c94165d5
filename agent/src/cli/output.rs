//! Output of commands.

use std::{
    fmt,
    io::{self, ErrorKind, IsTerminal as _, Write as _, stderr, stdout},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;
use tracing::error;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{config::LogFormat, host::confinement};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The error that nobody reads standard output any more.
#[derive(Debug)]
pub(super) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Whether whoever reads standard error expects a JSON object a line.
static READS_JSON: AtomicBool = AtomicBool::new(false);

/// Tells why a command failed, on standard error and in the form of its log.
pub(super) fn tell(error: &anyhow::Error) {
    let remedy = confinement::remedy_of(error);
    if READS_JSON.load(Ordering::Relaxed) {
        error!(remedy, "{error:#}");
        return;
    }
    // There is nothing to do if standard error is closed too.
    let _ = writeln!(stderr(), "error: {error:#}");
    if let Some(remedy) = remedy {
        let _ = writeln!(stderr(), "{remedy}");
    }
}

/// Logs to standard error, in this form and at the levels in RUST_LOG.
pub(super) fn log_to_stderr(format: LogFormat) {
    READS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(filter);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Prints text without a delay.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        outcome => outcome.context("cannot write to standard output"),
    }
}

/// Prints indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints a table with a header.
pub(super) fn print_table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let columns = Columns::new(header, rows);
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    let lines = std::iter::once(&header).chain(rows);
    print(&lines.map(|row| columns.line(row)).collect::<String>())
}

/// The widths of a table's columns.
pub(super) struct Columns(Vec<usize>);

impl Columns {
    /// Columns that are wide enough for the header and these rows.
    pub(super) fn new(header: &[&str], rows: &[Vec<String>]) -> Self {
        let width = |i: usize, title: &str| {
            let cells = rows.iter().filter_map(|row| row.get(i));
            let widths = cells.map(|cell| cell.chars().count());
            widths.chain([title.chars().count()]).max().unwrap_or(0)
        };
        let titles = header.iter().enumerate();
        Self(titles.map(|(i, title)| width(i, title)).collect())
    }

    /// A line of the table. Control characters, which a process may have in its name to steer the terminal, show as `?`.
    pub(super) fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&self.0) {
            let cell: String = cell
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            line += &format!("{cell:<width$}  ");
        }
        line.truncate(line.trim_end().len());
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "bb\u{1b}[2J".into()]];
        let columns = Columns::new(&["LONG", "B"], &rows);
        assert_eq!(columns.line(&rows[0]), "a     bb?[2J\n");
        assert_eq!(
            columns.line(&["too wide".into(), "x".into()]),
            "too wide  x\n"
        );
    }
}
