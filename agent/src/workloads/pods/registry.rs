//! The attachments that the agent serves.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::attachment::{Attachment, Id};
use crate::host::netns::Netns;

/// The attachments that the agent serves, by their ids. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<RwLock<BTreeMap<Id, Served>>>);

#[derive(Debug)]
struct Served {
    attachment: Arc<Attachment>,
    /// An open handle, so that no other namespace gets its inode.
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

    /// An attachment in the network namespace with this cookie. If there are several, all belong to the same pod.
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

    /// Adds an attachment, or replaces the one with the same id.
    pub(crate) fn insert(&self, attachment: Attachment, netns: Netns) {
        let id = attachment.id.clone();
        let served = Served {
            attachment: attachment.into(),
            netns,
        };
        self.write().insert(id, served);
    }

    /// Removes an attachment.
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
