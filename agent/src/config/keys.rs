//! The keys that sign TOA. They have a file of their own, a Kubernetes Secret for example.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_common::siphash::Key;
use anyhow::{Context as _, Result, bail, ensure};
use tracing::{error, info};

/// Hexadecimal digits of a key.
const DIGITS: usize = 32;

/// The keys of a file. They cannot be printed, lest a key gets into a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// The key that signs and verifies.
    pub first: Key,
    /// A second key that verifies, while keys are being replaced.
    pub other: Option<Key>,
}

impl Keys {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or does not hold one or two keys.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        Self::parse(&text).with_context(|| format!("{name} holds no valid keys"))
    }

    /// Parses one key a line, and skips empty lines and those that begin with `#`.
    fn parse(text: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for (n, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let is_key = line.len() == DIGITS && line.bytes().all(|b| b.is_ascii_hexdigit());
            ensure!(
                is_key,
                "line {} does not have {DIGITS} hexadecimal digits; `openssl rand -hex 16` prints a key",
                n + 1
            );
            let bytes = u128::from_str_radix(line, 16)?.to_be_bytes();
            let (words, _) = bytes.as_chunks();
            keys.push([0, 1].map(|i| u64::from_le_bytes(words[i])));
        }
        match keys[..] {
            [first] => Ok(Self { first, other: None }),
            [first, other] => Ok(Self {
                first,
                other: Some(other),
            }),
            [] => bail!("there is none; `openssl rand -hex 16` prints a key"),
            _ => bail!(
                "there are {}; leave the one that signs, and below it one more that is believed",
                keys.len()
            ),
        }
    }
}

/// A file of keys, which can change.
pub struct KeyFile {
    path: PathBuf,
    /// None while there never was a file.
    keys: Option<Keys>,
    /// Why the last attempt to read it failed, so that each problem is logged once.
    problem: Option<String>,
}

impl KeyFile {
    /// Reads the file for the first time, if it is there.
    ///
    /// # Errors
    ///
    /// When it is there and does not hold keys.
    pub fn open(path: &Path) -> Result<Self> {
        let keys = match path.exists() {
            true => Some(Keys::read(path)?),
            false => None,
        };
        Ok(Self {
            path: path.to_owned(),
            keys,
            problem: None,
        })
    }

    /// The keys as last read; `None` while there never was a file.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// Reads the file again, and keeps the former keys if that fails. It compares contents, not times: a Secret is
    /// replaced by way of links.
    pub fn follow(&mut self) {
        if self.keys.is_none() && !self.path.exists() {
            return;
        }
        let problem = match Keys::read(&self.path) {
            Ok(keys) => {
                if self.keys != Some(keys) {
                    info!("keys read again: {}", self.path.display());
                }
                self.keys = Some(keys);
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            match self.keys {
                Some(_) => error!("the former keys stay: {problem}"),
                None => error!("there are no keys yet: {problem}"),
            }
        }
        self.problem = problem;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "000102030405060708090a0b0c0d0e0f";
    const B: &str = "F0E0D0C0B0A090807060504030201000";

    fn error(text: &str) -> String {
        match Keys::parse(text) {
            Ok(_) => panic!("it is valid"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_file_has_one_key_or_two() {
        let one = Keys::parse(A).unwrap();
        // The key of SipHash's reference vectors.
        assert_eq!(one.first, [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908]);
        assert!(one.other.is_none());
        let two = Keys::parse(&format!("# signs\r\n {A}\r\n\n# is believed\n{B}\n")).unwrap();
        assert_eq!(
            (two.first, two.other.map(|k| k[1])),
            (one.first, Some(0x0010_2030_4050_6070))
        );
    }

    #[test]
    fn what_is_wrong_is_told_without_the_key() {
        for text in ["", "# nothing\n"] {
            assert!(error(text).contains("there is none; `openssl rand -hex 16`"));
        }
        assert!(error(&format!("{A}\n{B}\n{A}\n")).contains("there are 3"));
        for wrong in [
            &A[1..],
            &format!("{A}0"),
            &format!("+{}", &A[1..]),
            &format!("{A} # mine"),
        ] {
            let error = error(&format!("# comment\n{wrong}\n"));
            assert!(
                error.contains("line 2 does not have 32 hexadecimal digits"),
                "{error}"
            );
            assert!(!error.contains("0405"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let mut file = KeyFile::open(&path).unwrap();
        file.follow();
        assert!(file.keys().is_none() && file.problem.is_none());
        fs::write(&path, A).unwrap();
        file.follow();
        assert!(file.keys().is_some());
        fs::write(&path, "not a key").unwrap();
        assert!(KeyFile::open(&path).is_err());
    }

    #[test]
    fn what_cannot_be_read_any_more_leaves_the_keys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        fs::write(&path, A).unwrap();
        let mut file = KeyFile::open(&path).unwrap();
        let before = file.keys().copied();
        for text in ["", "not a key"] {
            fs::write(&path, text).unwrap();
            file.follow();
            assert!(file.keys().copied() == before && file.problem.is_some());
        }
        fs::remove_file(&path).unwrap();
        file.follow();
        assert!(file.keys().copied() == before && file.problem.is_some());
        fs::write(&path, B).unwrap();
        file.follow();
        assert!(file.keys().copied() != before && file.problem.is_none());
    }
}
