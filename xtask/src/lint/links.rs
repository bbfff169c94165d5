//! Links of documents: the file and the heading must be there. Nothing is fetched.

use std::path::{Component, Path, PathBuf};

use super::{finding::Finding, markdown::Document};

/// Links that lead nowhere.
pub(crate) fn check(root: &Path, documents: &[Document]) -> Vec<Finding> {
    let mut found = Vec::new();
    for document in documents {
        for (link, line) in &document.links {
            if let Err(why) = resolve(root, documents, document, link) {
                found.push(Finding::new(
                    &document.file,
                    *line,
                    format!("the link `{link}` {why}"),
                ));
            }
        }
    }
    found
}

/// Fails with what is wrong with a link.
fn resolve(root: &Path, documents: &[Document], from: &Document, link: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = link.split_once("://") {
        return check_external(scheme, rest);
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    let target = if path.is_empty() {
        from.file.clone()
    } else {
        let target = normalize(&from.file.with_file_name(path)).ok_or("leaves the tree")?;
        if !root.join(&target).exists() {
            return Err(format!("leads nowhere: there is no {}", target.display()));
        }
        target
    };
    let Some(anchor) = anchor else { return Ok(()) };
    let Some(document) = documents.iter().find(|document| document.file == target) else {
        return Err(format!(
            "has an anchor, but {} is no document",
            target.display()
        ));
    };
    if document.anchors.contains(anchor) {
        return Ok(());
    }
    Err(format!(
        "leads nowhere: {} has no heading `#{anchor}`",
        target.display()
    ))
}

/// Fails when a link out of the tree cannot be one.
fn check_external(scheme: &str, rest: &str) -> Result<(), String> {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_host = host.contains('.')
        && host.split('.').all(|label| {
            !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        });
    match scheme {
        "http" | "https" if is_host => Ok(()),
        "http" | "https" => Err(format!("has no host: `{host}`")),
        _ => Err(format!("has a scheme that nobody expects: `{scheme}`")),
    }
}

/// `path` without `..`; `None` when it leads out of the tree.
fn normalize(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            _ => return None,
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is found in `docs/x.md` with this link, beside `docs/y.md` with the heading "Here" and a directory `code`.
    fn find(link: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("docs")).unwrap();
        fs::create_dir_all(directory.path().join("code")).unwrap();
        let files = [
            ("docs/x.md", format!("# Top\n\n[a]({link})")),
            ("docs/y.md", "# Here".into()),
        ];
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let documents = Document::read_all(directory.path()).unwrap();
        check(directory.path(), &documents)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        for link in [
            "#top",
            "y.md",
            "y.md#here",
            "../docs/y.md",
            "../code",
            "https://rustup.rs",
            "http://a.b/c#d",
        ] {
            assert_eq!(find(link), [""; 0], "{link}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for (link, why) in [
            ("#bottom", "no heading `#bottom`"),
            ("y.md#top", "docs/y.md has no heading"),
            ("z.md", "no docs/z.md"),
            ("../code#x", "no document"),
            ("../../etc", "leaves the tree"),
            ("/etc/passwd", "leaves the tree"),
            ("https://", "no host"),
            ("https://localhost/x", "no host"),
            ("ftp://a.b/c", "scheme"),
        ] {
            let found = find(link);
            assert_eq!(found.len(), 1, "{link}: {found:?}");
            assert!(found[0].starts_with("docs/x.md:3: "), "{found:?}");
            assert!(found[0].contains(why), "{found:?}");
        }
    }
}
