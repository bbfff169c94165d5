//! What documents tell to type: command lines and configurations must be true of this tree.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    finding::Finding,
    markdown::{Block, Document},
    shell,
};

/// Programs that others make: what they are told of this tree is checked, and nothing else.
const FOREIGN: [&str; 7] = ["cd", "git", "helm", "kubectl", "openssl", "skopeo", "umask"];
/// Commands that change nothing and need no privilege, so that a document's line is run as it stands.
const HARMLESS: [&str; 3] = ["completions", "config", "man"];

/// The programs that this workspace makes.
pub(crate) struct Programs {
    /// The agent.
    pub(crate) truepeer: PathBuf,
    /// These chores.
    pub(crate) xtask: PathBuf,
    /// The benchmark, to which `cargo xtask bench -- …` hands its arguments.
    pub(crate) bench: PathBuf,
}

/// Checks all documents.
pub(crate) fn check(
    root: &Path,
    documents: &[Document],
    programs: &Programs,
) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for document in documents {
        let checker = Checker {
            root,
            file: &document.file,
            programs,
            routes: routes(&root.join("agent/src/api"))?,
            directory: tempfile::tempdir().context("cannot make a directory to run commands in")?,
        };
        let mut tell = |line, what: String| found.push(Finding::new(&document.file, line, what));
        for block in &document.blocks {
            checker.block(block, &mut tell);
        }
        for (code, line) in &document.code {
            checker.inline(code, &mut |what| tell(*line, what));
        }
    }
    Ok(found)
}

/// The paths that the API answers.
fn routes(directory: &Path) -> Result<BTreeSet<String>> {
    let mut routes = BTreeSet::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("no API in {}", directory.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            // Tests, which have no routes.
            continue;
        }
        let text = fs::read_to_string(path)?;
        for (at, opening) in text.match_indices(".route(\"") {
            routes.extend(
                text[at + opening.len()..]
                    .split('"')
                    .next()
                    .map(str::to_owned),
            );
        }
    }
    Ok(routes)
}

/// Checks one document.
struct Checker<'a> {
    root: &'a Path,
    /// The document.
    file: &'a Path,
    programs: &'a Programs,
    routes: BTreeSet<String>,
    /// Where harmless commands are run, one after the other.
    directory: TempDir,
}

impl Checker<'_> {
    fn block(&self, block: &Block, tell: &mut impl FnMut(usize, String)) {
        let info = block.info.as_deref().unwrap_or_default();
        let (language, flags) = info.split_once(' ').unwrap_or((info, ""));
        let mut outcome = |outcome: Result<(), String>| {
            if let Err(why) = outcome {
                tell(block.line, why);
            }
        };
        match language {
            _ if block.info.is_none() => outcome(Err(
                "an indented code block: fence it, and say what it is".into(),
            )),
            "toml" if flags.is_empty() => outcome(self.configuration(block)),
            "toml" if flags.starts_with("no-check reason=") && flags.len() > 16 => {}
            "toml" => outcome(Err(format!(
                "`{info}`: write `toml no-check reason=…`, or `toml` alone"
            ))),
            "json" => outcome(
                serde_json::from_str::<Value>(&block.text)
                    .map(drop)
                    .map_err(|error| error.to_string()),
            ),
            "rust" => outcome(
                syn::parse_str::<syn::File>(&block.text)
                    .map(drop)
                    .map_err(|error| error.to_string()),
            ),
            "console" => {
                let lines = shell::lines(block);
                if lines.is_empty() {
                    outcome(Err(
                        "has no command: write `$ ` or `# ` before what is typed".into(),
                    ));
                }
                for line in lines {
                    if let Err(why) = self.line(&line.text) {
                        tell(line.line, why);
                    }
                }
            }
            "" | "text" if shell::lines(block).is_empty() => {}
            "" | "text" => outcome(Err("has commands: mark it as `console`".into())),
            _ => outcome(Err(format!(
                "nothing checks `{language}`: use console, toml, json or rust, or text for what nobody types"
            ))),
        }
    }

    /// Has the agent check a configuration, in a file that has the document's name and its lines.
    fn configuration(&self, block: &Block) -> Result<(), String> {
        let file = self.directory.path().join(self.file);
        let text = format!("{}{}", "\n".repeat(block.line - 1), block.text);
        fs::create_dir_all(file.parent().unwrap_or(self.directory.path()))
            .and_then(|()| fs::write(&file, text))
            .map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.programs.truepeer);
        command.args(["config", "check"]).arg(self.file);
        succeeds(command.current_dir(self.directory.path()))
    }

    /// Checks code within a sentence: a command of ours, or a path in the tree.
    fn inline(&self, code: &str, tell: &mut impl FnMut(String)) {
        let ours = ["truepeer ", "sudo truepeer ", "cargo xtask "];
        let outcome = if code.contains(['…', '\n']) {
            Ok(())
        } else if ours.iter().any(|start| code.starts_with(start)) {
            self.line(code)
        } else if code.contains(' ') {
            Ok(())
        } else {
            self.path(code)
        };
        if let Err(why) = outcome {
            tell(why);
        }
    }

    /// Checks a command line, and runs it if it is harmless.
    fn line(&self, line: &str) -> Result<(), String> {
        let commands =
            shell::commands(line).ok_or_else(|| format!("`{line}`: a quote is not closed"))?;
        for words in &commands {
            self.command(words)
                .map_err(|why| format!("`{line}`: {why}"))?;
        }
        let harmless = |words: &Vec<String>| {
            words[0] == "truepeer"
                && words
                    .get(1)
                    .is_some_and(|word| HARMLESS.contains(&word.as_str()))
        };
        if commands.iter().all(harmless) && writes_here(line) {
            let mut shell = Command::new("sh");
            let path = format!(
                "{}:{}",
                self.programs
                    .truepeer
                    .parent()
                    .unwrap_or(Path::new("."))
                    .display(),
                std::env::var("PATH").unwrap_or_default()
            );
            shell
                .args(["-ec", line])
                .env("PATH", path)
                .current_dir(self.directory.path());
            succeeds(&mut shell).map_err(|why| format!("`{line}`: {why}"))?;
        }
        Ok(())
    }

    /// Checks the words of one command.
    fn command(&self, words: &[String]) -> Result<(), String> {
        let is_variable =
            |word: &String| word.split_once('=').is_some_and(|(name, _)| is_upper(name));
        let words: Vec<&str> = words
            .iter()
            .skip_while(|word| is_variable(word) || *word == "sudo")
            .map(String::as_str)
            .collect();
        for word in &words {
            self.path(word)?;
        }
        match words.as_slice() {
            ["truepeer", arguments @ ..] => accepts(&self.programs.truepeer, arguments),
            ["cargo", "xtask", arguments @ ..] => self.chore(arguments),
            ["curl", arguments @ ..] => arguments.iter().try_for_each(|word| self.url(word)),
            ["helm", arguments @ ..] => self.values(arguments),
            [program, ..] if FOREIGN.contains(program) => Ok(()),
            [program, ..] => Err(format!("nothing checks the program `{program}`")),
            [] => Ok(()),
        }
    }

    /// Checks a chore, and what it hands to another program behind `--`.
    fn chore(&self, arguments: &[&str]) -> Result<(), String> {
        let mut parts = arguments.splitn(2, |word| *word == "--");
        let own = parts.next().unwrap_or_default();
        accepts(&self.programs.xtask, own)?;
        match (own.first(), parts.next()) {
            (Some(&"run"), Some(rest)) => {
                accepts(&self.programs.truepeer, &[&["run"], rest].concat())
            }
            (Some(&"bench"), Some(rest)) => accepts(&self.programs.bench, rest),
            (_, Some(_)) => Err("nothing takes arguments behind `--`".into()),
            (_, None) => Ok(()),
        }
    }

    /// Checks that the API answers a path.
    fn url(&self, word: &str) -> Result<(), String> {
        let Some((_, rest)) = word.split_once("://") else {
            return Ok(());
        };
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        let path = path.split('?').next().unwrap_or_default();
        if self.routes.contains(path) {
            return Ok(());
        }
        Err(format!(
            "the API does not answer `{path}`, but {:?}",
            self.routes
        ))
    }

    /// Checks that the Helm chart has the values that `--set` sets.
    fn values(&self, arguments: &[&str]) -> Result<(), String> {
        let schema = self.root.join("deploy/helm/truepeer/values.schema.json");
        let text =
            fs::read_to_string(schema).map_err(|error| format!("no schema of values: {error}"))?;
        let schema: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        for pair in arguments.windows(2).filter(|pair| pair[0] == "--set") {
            let key = pair[1].split('=').next().unwrap_or_default();
            let step = |schema: &'_ Value, name: &str| schema["properties"].get(name).cloned();
            let value = key
                .split('.')
                .try_fold(schema.clone(), |schema, name| step(&schema, name));
            if value.is_none() {
                return Err(format!("the chart has no value `{key}`"));
            }
        }
        Ok(())
    }

    /// Fails if a word looks like a path in the tree, and nothing is there.
    fn path(&self, word: &str) -> Result<(), String> {
        let Some((first, _)) = word.split_once('/') else {
            return Ok(());
        };
        let is_ours = first != "target" && !first.is_empty() && !first.starts_with('.');
        if is_ours && self.root.join(first).is_dir() && !self.root.join(word).exists() {
            return Err(format!("there is no {word}"));
        }
        Ok(())
    }
}

/// Whether all that a line redirects goes to files in the directory where it is run.
fn writes_here(line: &str) -> bool {
    let mut targets = line.split('>').skip(1).map(str::trim_start);
    targets.all(|target| target.starts_with(char::is_alphanumeric) && !target.contains(".."))
}

/// Whether a word is the name of a variable.
fn is_upper(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// Fails unless a program's own command line has these arguments. With `--help` behind them, it reads them all
/// and does nothing.
fn accepts(program: &Path, arguments: &[&str]) -> Result<(), String> {
    succeeds(Command::new(program).args(arguments).arg("--help"))
}

/// Runs a command; fails with what it says when it fails.
fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[cfg(test)]
mod tests;
