//! Attachments of pods to a network.

use std::{fmt, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    config::{Config, ConfigError},
    host::netns::{Netns, boot_id},
    workloads::workload::PodName,
};

/// Identifies an attachment to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Id {
    /// The container whose network namespace the whole pod shares (`CNI_CONTAINERID`).
    pub container_id: String,
    /// The interface inside the pod (`CNI_IFNAME`).
    pub ifname: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

/// Sections `[[steer]]` or `[[unwrap]]` of a configuration, as JSON.
pub type Sections = Vec<Map<String, Value>>;

/// A network interface of a pod, and the sections that apply to the pod's network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id.
    pub id: Id,
    /// Name of the runtime's network that it belongs to.
    pub network: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Inode of the namespace, as sockets and `lsns` show it.
    pub netns_inode: u64,
    /// Cookie of the namespace. Unlike path and inode, it is never reused during a boot.
    pub netns_cookie: u64,
    /// Id of the boot during which the namespace exists (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The pod, where the runtime names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Which connections are steered in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steer: Sections,
    /// Where the data path takes PROXY headers off in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwrap: Sections,
}

impl Attachment {
    /// Its network namespace; `None` if that is gone, even if its path leads to another one by now.
    pub fn open_netns(&self) -> Result<Option<Netns>> {
        let inode = fs::metadata(&self.netns).map(|metadata| metadata.ino());
        if self.boot_id != boot_id()? || inode.ok() != Some(self.netns_inode) {
            return Ok(None);
        }
        let netns = Netns::open(&self.netns)?;
        Ok((netns.cookie() == self.netns_cookie).then_some(netns))
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pod {
            Some(pod) => write!(f, "{} of pod {pod}", self.id.ifname),
            None => self.id.fmt(f),
        }
    }
}

/// The steers and unwraps of all attachments of one network namespace, read and checked as the agent's own
/// configuration is.
pub fn rules<'a>(
    attachments: impl IntoIterator<Item = &'a Attachment>,
) -> Result<Config, ConfigError> {
    let mut name = String::new();
    let (mut steers, mut unwraps) = (Sections::new(), Sections::new());
    for attachment in attachments {
        name = attachment.to_string();
        let inside = |section: &Map<String, Value>| {
            let mut section = section.clone();
            section.insert("netns".into(), json!(attachment.netns));
            section
        };
        steers.extend(attachment.steer.iter().map(inside));
        unwraps.extend(attachment.unwrap.iter().map(inside).map(|mut section| {
            let interface = || json!(attachment.id.ifname);
            section.entry("interface").or_insert_with(interface);
            section
        }));
    }
    let sections = json!({"steer": steers, "unwrap": unwraps});
    Config::from_json(&sections, &name)
}
