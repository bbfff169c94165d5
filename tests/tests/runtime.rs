//! Pods of a real container runtime.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tests::agent::binary;
use tests::host::scenario;
use tests::netns::Netns;
use tests::runtime::{Runtime, Spec, own_mounts};

const PLAYGROUND: &str = env!("CARGO_BIN_EXE_playground");

#[test]
fn a_pod() {
    scenario(|directory| {
        own_mounts(|| {
            let node = Netns::new("node")?;
            let network = json!({
                "cniVersion": "1.0.0",
                "name": "node",
                "plugins": [
                    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]],
                              "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
                    {"type": "portmap", "capabilities": {"portMappings": true}},
                ],
            });
            let runtime = Runtime::start(
                directory,
                &node,
                Path::new(PLAYGROUND),
                &network,
                &binary()?,
            )?;
            let pod = runtime.run_pod(&Spec::new("shop", "web-0"))?;
            println!("{pod:?}");
            let id = runtime.run_container(&pod, "app", &["pause"])?;
            println!("{id}");
            if std::env::var("HOLD").is_ok() {
                std::thread::sleep(std::time::Duration::from_secs(120));
            }
            runtime.remove_pod(&pod)?;
            runtime.assert_nothing_left()
        })
    });
}
