//! The image that `cargo xtask dist` makes, as other tools for images read it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::daemonset::{image, unpack};
use tests::cluster::manifests::{deploy, piped};

#[test]
fn others_read_the_image_and_it_holds_the_binary_alone() -> Result<()> {
    let name = format!("oci:{}", image()?);
    let text = piped(
        Command::new("skopeo").args(["inspect", "--config", &name]),
        "",
    )?;
    let config: Value = serde_json::from_str(&text)?;
    ensure!(config["os"] == "linux", "{config}");

    // skopeo reads the image as `docker load` and others do, and checks every digest on the way.
    let directory = tempfile::tempdir()?;
    let copy = format!("docker-archive:{}/copy.tar", directory.path().display());
    piped(
        Command::new("skopeo").args(["copy", "--quiet", &name, &copy]),
        "",
    )?;

    let root = unpack(directory.path())?.join("rootfs");
    let entrypoint = config["config"]["Entrypoint"][0]
        .as_str()
        .context("no entrypoint")?;
    ensure!(files(&root)? == [entrypoint.trim_start_matches('/')]);

    // The binary runs in an empty root: it is static.
    let mut command = Command::new("chroot");
    let printed = piped(command.arg(&root).args([entrypoint, "--version"]), "")?;
    ensure!(printed.starts_with("truepeer "), "{printed}");

    let dockerfile = fs::read_to_string(deploy().join("image/Dockerfile"))?;
    for line in [
        format!("ENTRYPOINT [\"{entrypoint}\"]"),
        format!(
            "ENV {}",
            config["config"]["Env"][0]
                .as_str()
                .context("no variables")?
        ),
    ] {
        ensure!(
            dockerfile.contains(&line),
            "{line} is not in the Dockerfile"
        );
    }
    Ok(())
}

/// Every file below a directory, relative to it.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files.push(path.strip_prefix(root)?.display().to_string());
            }
        }
    }
    Ok(files)
}
