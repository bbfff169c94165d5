//! An image in the layout of the OCI image specification, made without a daemon. It holds the binary and nothing else.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use super::archive::{Archive, gzip, sha256};

/// The binary's path in the image, as in `deploy/image/Dockerfile`.
const BINARY: &str = "usr/bin/truepeer";

/// An image layout: images of several architectures under one name.
#[derive(Default)]
pub(super) struct Layout {
    /// Contents by digest.
    blobs: BTreeMap<String, Vec<u8>>,
    /// Descriptors of the images.
    manifests: Vec<Value>,
}

impl Layout {
    /// Adds the image of an architecture; returns the size of its compressed layer, which is what a node pulls.
    pub(super) fn add(&mut self, architecture: &str, truepeer: &[u8]) -> Result<usize> {
        let mut root = Archive::default();
        root.add(BINARY, 0o755, truepeer.to_vec());
        let tar = root.tar()?;
        let layer = gzip(&tar)?;
        let size = layer.len();
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar+gzip", layer);
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": [format!("/{BINARY}")],
                "Env": ["PATH=/usr/bin"],
                "Labels": {
                    "org.opencontainers.image.title": "truepeer",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))]},
        });
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let mut manifest = self.json(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config,
                "layers": [layer],
            }),
        );
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        self.manifests.push(manifest);
        Ok(size)
    }

    /// Writes the layout as a directory.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        for (path, bytes) in self.files() {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap_or(directory))?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }

    /// The layout as an archive, for `ctr images import`, `podman load` and `docker load`.
    pub(super) fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for (path, bytes) in self.files() {
            archive.add(path, 0o644, bytes);
        }
        archive.tar()
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let kind = "application/vnd.oci.image.index.v1+json";
        let images = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "manifests": self.manifests,
        });
        let images = images.to_string().into_bytes();
        let mut named = descriptor(kind, &images);
        let version = env!("CARGO_PKG_VERSION");
        named["annotations"] = json!({
            "io.containerd.image.name": format!("localhost/truepeer:{version}"),
            "org.opencontainers.image.ref.name": version,
        });
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [named]});
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        let mut files = BTreeMap::from([
            ("index.json".to_owned(), index.to_string().into_bytes()),
            ("oci-layout".to_owned(), layout.to_string().into_bytes()),
            (format!("blobs/sha256/{}", sha256(&images)), images),
        ]);
        for (digest, bytes) in &self.blobs {
            files.insert(format!("blobs/sha256/{digest}"), bytes.clone());
        }
        files
    }

    fn json(&mut self, kind: &str, value: &Value) -> Value {
        self.blob(kind, value.to_string().into_bytes())
    }

    /// Keeps a blob; returns its descriptor.
    fn blob(&mut self, kind: &str, bytes: Vec<u8>) -> Value {
        let descriptor = descriptor(kind, &bytes);
        self.blobs.insert(sha256(&bytes), bytes);
        descriptor
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": kind,
        "digest": format!("sha256:{}", sha256(bytes)),
        "size": bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_same_binary_makes_the_same_image() {
        let make = || {
            let mut layout = Layout::default();
            layout.add("amd64", b"a binary").unwrap();
            layout.tar().unwrap()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn digests_name_what_is_in_the_layout() {
        let mut layout = Layout::default();
        let size = layout.add("arm64", b"a binary").unwrap();
        let files = layout.files();
        for (path, bytes) in &files {
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest, sha256(bytes));
            }
        }
        // Index, list of images, manifest, configuration, layer, and the layout's version.
        assert_eq!(files.len(), 6);

        let layer = files.values().find(|bytes| bytes.len() == size).unwrap();
        let mut tar = Vec::new();
        GzDecoder::new(&layer[..]).read_to_end(&mut tar).unwrap();
        let mut archive = tar::Archive::new(&tar[..]);
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
                (
                    entry.path().unwrap().display().to_string(),
                    header.mode().unwrap(),
                )
            })
            .collect();
        let expected =
            [("usr/", 0o755), ("usr/bin/", 0o755), (BINARY, 0o755)].map(|(p, m)| (p.to_owned(), m));
        assert_eq!(entries, expected);
    }
}
