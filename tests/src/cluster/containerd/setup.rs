//! The configuration of containerd and of its network.

use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::cni::ipam;

/// The network of pods.
pub(super) const NETWORK: &str = "node";
pub(super) const IMAGE: &str = "truepeer.test/program:1";

/// A CNI configuration list.
pub(super) fn network(directory: &Path, more: &[Value]) -> Value {
    let bridge = json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipam": ipam(directory),
    });
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let plugins = [&[bridge, portmap], more].concat();
    json!({"cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins})
}

/// containerd's configuration: its images below `directory`, plugins and networks from elsewhere than
/// the host's.
pub(super) fn configuration(directory: &Path, plugins: &Path, networks: &Path) -> String {
    format!(
        r#"
version = 2
root = "{root}/containerd"
# What would look for devices of the host.
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
# Where this process may not lower it, containerd may not either.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
"#,
        root = directory.display(),
        plugins = plugins.display(),
        networks = networks.display(),
    )
}
