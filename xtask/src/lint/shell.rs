//! The command lines of a console block, taken apart.

use super::markdown::Block;

/// A command line as a reader would type it, without the prompt.
pub(crate) struct Line {
    /// The text; a line that goes on behind a backslash is one.
    pub(crate) text: String,
    /// The line in the document.
    pub(crate) line: usize,
}

/// The lines behind a prompt, `$` or root's `#`. The others are what the commands print.
pub(crate) fn lines(block: &Block) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut goes_on = false;
    for (number, line) in block.text.lines().enumerate() {
        let prompted = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
        let text = match prompted {
            _ if goes_on => line,
            Some(text) => text,
            None => continue,
        };
        let (part, more) = match text.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (text, false),
        };
        match lines.last_mut() {
            Some(last) if goes_on => last.text.push_str(part),
            _ => lines.push(Line {
                text: part.to_owned(),
                line: block.line + number,
            }),
        }
        goes_on = more;
    }
    lines
}

/// The words of each command in a line: commands of a pipe, a list or a subshell each alone, without
/// redirections and comments. `None` when a quote is not closed.
pub(crate) fn commands(line: &str) -> Option<Vec<Vec<String>>> {
    let mut commands = vec![String::new()];
    let mut quote = None;
    let mut before = ' ';
    for c in line.chars() {
        let current = commands.last_mut()?;
        match (quote, c) {
            (None, '#') if before.is_whitespace() => break,
            (None, ';' | '|' | '&' | '(' | ')') => commands.push(String::new()),
            (None, '>' | '<') => {
                current.push(' ');
                current.push(c);
                current.push(' ');
            }
            (None, '\'' | '"') => {
                quote = Some(c);
                current.push(c);
            }
            (Some(open), _) => {
                if open == c {
                    quote = None;
                }
                current.push(c);
            }
            (None, _) => current.push(c),
        }
        before = c;
    }
    let mut words = Vec::new();
    for command in commands {
        let mut split = shlex::split(&command)?.into_iter();
        let mut kept = Vec::new();
        while let Some(word) = split.next() {
            if word == ">" || word == "<" {
                split.next();
            } else {
                kept.push(word);
            }
        }
        if !kept.is_empty() {
            words.push(kept);
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_what_they_print() {
        let text = "$ one --a \\\n    --b\nprinted\n# two   # as root\n";
        let block = Block {
            info: None,
            text: text.into(),
            line: 10,
        };
        let found: Vec<_> = lines(&block)
            .into_iter()
            .map(|line| (line.text, line.line))
            .collect();
        let expected = [("one --a     --b", 10), ("two   # as root", 13)];
        assert_eq!(found, expected.map(|(text, line)| (text.to_owned(), line)));
    }

    #[test]
    fn a_line_is_split_as_a_shell_would() {
        for (line, expected) in [
            (
                "a 'b c' d\"e\"  # it's a comment",
                vec![vec!["a", "b c", "de"]],
            ),
            (
                "a | b && c; d",
                vec![vec!["a"], vec!["b"], vec!["c"], vec!["d"]],
            ),
            (
                "(umask 077; a -x 16 > /etc/f)",
                vec![vec!["umask", "077"], vec!["a", "-x", "16"]],
            ),
            (
                "a 'x?b=c&d=e' http://h/#f",
                vec![vec!["a", "x?b=c&d=e", "http://h/#f"]],
            ),
        ] {
            assert_eq!(commands(line).unwrap(), expected, "{line}");
        }
        assert!(commands("a 'b").is_none());
    }
}
