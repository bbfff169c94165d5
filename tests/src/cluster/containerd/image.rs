//! A container image that the tests make themselves: an OCI image layout in a tar archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use crate::host::netns::run;

/// Where the image has its program.
const PROGRAM: &str = "program";

/// Writes an image called `name` to `path`: this program, and the libraries that it needs. A container
/// that is given no arguments runs it with `arguments`.
pub(super) fn write(path: &Path, name: &str, program: &Path, arguments: &[&str]) -> Result<()> {
    let mut layout = Layout::default();
    let layer = layout.add("application/vnd.oci.image.layer.v1.tar", layer(program)?);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [format!("/{PROGRAM}")], "Cmd": arguments},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = layout.add("application/vnd.oci.image.config.v1+json", json_of(&config));
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": config,
        "layers": [layer],
    });
    let mut manifest = layout.add(manifest_type, json_of(&manifest));
    manifest["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    layout.0.insert("index.json".into(), json_of(&index));
    let version = json!({"imageLayoutVersion": "1.0.0"});
    layout.0.insert("oci-layout".into(), json_of(&version));
    let mut archive = Builder::new(File::create(path)?);
    for (path, content) in layout.0 {
        append(&mut archive, &path, &content)?;
    }
    archive.finish()?;
    Ok(())
}

/// The files of an image layout by their paths.
#[derive(Default)]
struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    /// Adds a blob; its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let hex: String = Sha256::digest(&content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{hex}"),
            "size": content.len(),
        });
        self.0.insert(format!("blobs/sha256/{hex}"), content);
        descriptor
    }
}

fn layer(program: &Path) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    let mut add = |path: &str, file: &Path| -> Result<()> {
        let content = std::fs::read(file).with_context(|| file.display().to_string())?;
        append(&mut layer, path, &content)
    };
    add(PROGRAM, program)?;
    for library in libraries(program)? {
        let path = library.display().to_string();
        add(path.trim_start_matches('/'), &library)?;
    }
    Ok(layer.into_inner()?)
}

/// The dynamic linker of a program and the libraries that it loads, none of a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`
    let lines = run(std::process::Command::new("ldd").arg(program))?;
    let words = lines.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

fn append<W: std::io::Write>(archive: &mut Builder<W>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

fn json_of(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// This machine's, as Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
