//! What the checks need of a Markdown document.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A Markdown document.
pub(crate) struct Document {
    /// Its file, from the workspace's directory.
    pub(crate) file: PathBuf,
    /// Its code blocks.
    pub(crate) blocks: Vec<Block>,
    /// Code within its text, and the line of each.
    pub(crate) code: Vec<(String, usize)>,
    /// Where its links and images lead, and the line of each.
    pub(crate) links: Vec<(String, usize)>,
    /// The anchors of its headings.
    pub(crate) anchors: BTreeSet<String>,
}

/// A code block.
pub(crate) struct Block {
    /// What stands behind its fence; `None` for an indented block.
    pub(crate) info: Option<String>,
    /// Its text.
    pub(crate) text: String,
    /// The line where the text begins.
    pub(crate) line: usize,
}

impl Document {
    /// Reads all documents of the workspace in `root`.
    pub(crate) fn read_all(root: &Path) -> Result<Vec<Self>> {
        let mut files = Vec::new();
        find(root, Path::new(""), &mut files)?;
        files.sort();
        let read = |file: PathBuf| {
            let text = fs::read_to_string(root.join(&file))
                .with_context(|| format!("cannot read {}", file.display()))?;
            Ok(Self::parse(file, &text))
        };
        files.into_iter().map(read).collect()
    }

    /// Parses a document.
    pub(crate) fn parse(file: PathBuf, text: &str) -> Self {
        let mut document = Self {
            file,
            blocks: Vec::new(),
            code: Vec::new(),
            links: Vec::new(),
            anchors: BTreeSet::new(),
        };
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = 1 + text[..range.start].matches('\n').count();
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let (info, line) = match kind {
                        CodeBlockKind::Fenced(info) => (Some(info.to_string()), line + 1),
                        CodeBlockKind::Indented => (None, line),
                    };
                    block = Some(Block {
                        info,
                        text: String::new(),
                        line,
                    });
                }
                Event::End(TagEnd::CodeBlock) => document.blocks.extend(block.take()),
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    document.add_anchor(&heading.take().unwrap_or_default());
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push((dest_url.to_string(), line));
                }
                Event::Text(text) => match (&mut block, &mut heading) {
                    (Some(block), _) => block.text.push_str(&text),
                    (None, Some(heading)) => heading.push_str(&text),
                    (None, None) => {}
                },
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    document.code.push((code.to_string(), line));
                }
                _ => {}
            }
        }
        document
    }

    /// Adds a heading's anchor as GitHub makes it: lower case, no punctuation, hyphens for spaces, and a number
    /// where another heading has the same.
    fn add_anchor(&mut self, heading: &str) {
        let anchor: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut unique = anchor.clone();
        let mut number = 0;
        while !self.anchors.insert(unique) {
            number += 1;
            unique = format!("{anchor}-{number}");
        }
    }
}

/// Collects the documents in `directory` and below it.
fn find(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" {
                find(root, &path, files)?;
            }
        } else if name.ends_with(".md") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_taken_apart() {
        let text = "# The `top` command\n\nSee [a](b.md#c) and `truepeer top`.\n\n## Twice\n## Twice\n\n\
                    ```toml no-check\nx = 1\n```\n\n- item\n\n  ```console\n  $ true\n  ```\n\ntext\n\n    indented\n";
        let document = Document::parse("x.md".into(), text);
        let anchors: Vec<_> = document.anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["the-top-command", "twice", "twice-1"]);
        assert_eq!(document.links, [("b.md#c".to_owned(), 3)]);
        assert_eq!(document.code[1], ("truepeer top".to_owned(), 3));
        let blocks: Vec<_> = document
            .blocks
            .iter()
            .map(|block| (block.info.as_deref(), block.text.as_str(), block.line))
            .collect();
        let expected = [
            (Some("toml no-check"), "x = 1\n", 9),
            (Some("console"), "$ true\n", 15),
            (None, "indented\n", 20),
        ];
        assert_eq!(blocks, expected);
    }
}
