//! The file with the keys that sign TOA.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::Result;

use super::check::{Check, Outcome};
use crate::config::keys::Keys;

const NAME: &str = "keys";
/// Permissions of group and others.
const OTHERS: u32 = 0o077;

pub(super) fn check(path: &Path) -> Check {
    look(path).unwrap_or_else(|error| {
        Check::wrong(
            Outcome::Fail,
            NAME,
            format!("{error:#}"),
            "signed TOA is neither believed nor sent with a tag until it has keys; an agent that has some keeps them",
            "write a line of 32 hexadecimal digits, such as `openssl rand -hex 16` prints, into the file that \
             `keys` of [toa] names",
        )
    })
}

fn look(path: &Path) -> Result<Check> {
    let keys = Keys::read(path)?;
    let found = fs::metadata(path)?;
    let (mode, name) = (found.mode() & 0o7777, path.display());
    if found.uid() != 0 || mode & OTHERS != 0 {
        return Ok(Check::wrong(
            Outcome::Warn,
            NAME,
            format!(
                "{name} is not root's alone: user {}, mode {mode:03o}",
                found.uid()
            ),
            "whoever has a key can name any client",
            format!(
                "run `chown root {name}` and `chmod 600 {name}`; for a Kubernetes Secret, set `defaultMode: 0400`"
            ),
        ));
    }
    let number = if keys.other.is_some() {
        "two keys"
    } else {
        "one key"
    };
    Ok(Check::ok(NAME, format!("{number} in {name}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f\n";

    #[test]
    fn keys_are_to_be_there_and_roots_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        assert_eq!(check(&path).outcome, Outcome::Fail);
        fs::write(&path, "no key\n").unwrap();
        assert_eq!(check(&path).outcome, Outcome::Fail);
        fs::write(&path, KEY).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let found = check(&path);
        assert_eq!(found.outcome, Outcome::Warn);
        assert!(found.reason.contains("mode 640"), "{}", found.reason);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        // Only root can give the file to root.
        let is_roots = chown(&path, Some(0), None).is_ok();
        let expected = if is_roots { Outcome::Ok } else { Outcome::Warn };
        assert_eq!(check(&path).outcome, expected);
    }
}
