//! Pods: what a container runtime has told the CNI plugin about them.
//!
//! The plugin writes a file for each network interface of a pod ([`Directory`]); these files are the truth.
//! The agent puts in place what they ask for, and tells of [`Pods`] what it serves.

mod directory;
mod request;

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::{
    directory::Directory,
    request::{Action, Refusal, Request},
};
use crate::{
    config::{Config, ConfigError},
    host::netns::{Netns, boot_id},
};

/// What truepeer's annotations of pods begin with.
pub const ANNOTATIONS: &str = "truepeer.io/";

/// What a runtime knows an attachment by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Id {
    /// The container whose network namespace all of the pod share (`CNI_CONTAINERID`).
    pub container_id: String,
    /// The interface inside (`CNI_IFNAME`).
    pub ifname: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

/// A pod's name, as Kubernetes gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Steers or unwraps in the configuration's own words, as JSON.
pub type Sections = Vec<Map<String, Value>>;

/// A network interface of a pod, and what is to be done in the pod's network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// What the runtime knows it by.
    pub id: Id,
    /// Name of the runtime's network, of which it is a part.
    pub network: String,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Inode of the namespace, as sockets and `lsns` show it.
    pub netns_inode: u64,
    /// Cookie of the namespace, which is never another's during a boot: path and inode can be.
    pub netns_cookie: u64,
    /// The boot during which the namespace exists (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The pod, where the runtime tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// What is steered in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steer: Sections,
    /// Where PROXY headers are taken off in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwrap: Sections,
}

impl Attachment {
    /// Its network namespace; `None`: it is gone, whatever is at its path by now.
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

/// What the attachments of one network namespace ask for together; only `steer` and `unwrap` are set. It is
/// read and checked as the agent's own configuration is.
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

/// The attachments that are served, by their ids. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<RwLock<BTreeMap<Id, Served>>>);

#[derive(Debug)]
struct Served {
    attachment: Arc<Attachment>,
    /// Held, so that no other namespace gets its inode.
    netns: Netns,
}

impl Pods {
    /// Every attachment.
    pub fn all(&self) -> Vec<Arc<Attachment>> {
        let served = self.read();
        served.values().map(|s| s.attachment.clone()).collect()
    }

    /// The attachment with this id.
    pub fn get(&self, id: &Id) -> Option<Arc<Attachment>> {
        self.read().get(id).map(|s| s.attachment.clone())
    }

    /// The attachment in the network namespace with this cookie; the first, if there are several, which
    /// are of the same pod.
    pub fn by_netns(&self, cookie: u64) -> Option<Arc<Attachment>> {
        self.find(|attachment| attachment.netns_cookie == cookie)
            .into_iter()
            .next()
    }

    /// The attachments whose namespace is at this path.
    pub(crate) fn at(&self, netns: &Path) -> Vec<Arc<Attachment>> {
        self.find(|attachment| attachment.netns == netns)
    }

    /// The network namespace of every attachment.
    pub(crate) fn namespaces(&self) -> Vec<Netns> {
        self.read().values().map(|s| s.netns.clone()).collect()
    }

    /// Adds one, or replaces the one with the same id.
    pub(crate) fn insert(&self, attachment: Attachment, netns: Netns) {
        let id = attachment.id.clone();
        let served = Served {
            attachment: attachment.into(),
            netns,
        };
        self.write().insert(id, served);
    }

    /// Removes one.
    pub(crate) fn remove(&self, id: &Id) -> Option<Arc<Attachment>> {
        self.write().remove(id).map(|s| s.attachment)
    }

    fn find(&self, wanted: impl Fn(&Attachment) -> bool) -> Vec<Arc<Attachment>> {
        let served = self.read();
        let attachments = served.values().map(|s| &s.attachment);
        attachments.filter(|a| wanted(a)).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Id, Served>> {
        self.0.read().expect("no writer panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Id, Served>> {
        self.0.write().expect("no writer panics")
    }
}
