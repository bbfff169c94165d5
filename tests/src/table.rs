//! Tables for people.

/// A row: what it is about, and its cells.
pub fn row(name: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells).collect()
}

/// Prints rows of the same length.
pub fn print<R: AsRef<[String]>>(rows: &[R]) {
    let rows: Vec<&[String]> = rows.iter().map(AsRef::as_ref).collect();
    let widths: Vec<_> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}
