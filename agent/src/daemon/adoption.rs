//! Pods that the CNI plugin never saw, as they are older than it.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use tracing::{info, warn};

use crate::{
    cni,
    host::netns::{Netns, boot_id},
    workloads::{
        PodName, Sandbox,
        containers::Containers,
        pods::{self, Attachment, Directory, Id},
    },
};

/// Writes for each of them that asks for something the file that the plugin would have written.
pub(super) fn adopt(containers: &Containers, directory: &Directory) -> Result<()> {
    let known = directory.ids()?;
    let known: HashSet<_> = known.iter().map(|id| &id.container_id).collect();
    containers.refresh();
    for sandbox in containers.sandboxes() {
        if sandbox.annotations.is_empty() || known.contains(&sandbox.id) {
            continue;
        }
        match attachment(&sandbox) {
            Ok(attachment) if attachment.steer.is_empty() && attachment.unwrap.is_empty() => {}
            Ok(attachment) => {
                directory.write(&attachment)?;
                info!("{attachment} is older than the CNI plugin: adopted");
            }
            Err(error) => warn!("pod {} is not adopted: {error:#}", name(&sandbox)),
        }
    }
    Ok(())
}

fn attachment(sandbox: &Sandbox) -> Result<Attachment> {
    let (steer, unwrap) = cni::read_annotations(&sandbox.annotations)?;
    let netns = Netns::open(&sandbox.netns)?;
    ensure!(netns.cookie() == sandbox.netns_cookie, "it is gone");
    let attachment = Attachment {
        id: Id {
            container_id: sandbox.id.clone(),
            ifname: sandbox.interface.clone(),
        },
        network: sandbox.network.clone(),
        netns: sandbox.netns.clone(),
        netns_inode: netns.inode(),
        netns_cookie: netns.cookie(),
        boot_id: boot_id()?,
        pod: sandbox.workload.as_ref().map(|workload| PodName {
            namespace: workload.namespace.clone(),
            name: workload.pod.clone(),
            uid: None,
        }),
        steer,
        unwrap,
    };
    pods::rules([&attachment])?;
    Ok(attachment)
}

fn name(sandbox: &Sandbox) -> String {
    let workload = sandbox.workload.as_ref();
    workload.map_or_else(|| sandbox.id.clone(), ToString::to_string)
}
