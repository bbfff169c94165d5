//! adopt: makes listeners known that are older than the data path.

use std::io::Read as _;

use agent_common::{
    ListenerKey,
    kernel::Version,
    names::{map, program},
};
use anyhow::{Context as _, Result, ensure};
use aya::programs::Iter;
use rustix::net::sockopt::socket_cookie;
use tracing::warn;

use super::{maps::Plain, object::Datapath, programs};
use crate::host::{
    confinement, kernel,
    netns::Netns,
    processes,
    sockets::{self, ListenerInfo},
};

impl Datapath {
    /// Makes the listeners of `netns` known that were there before: a proxy's, which listen on `port`, or with 0 those of
    /// all applications.
    pub fn adopt(&mut self, netns: &Netns, port: u16) -> Result<()> {
        let listeners = sockets::listeners(netns, port)?;
        let capacity = self.pins.capacity(map::ADOPT)? as usize;
        for some in listeners.chunks(capacity) {
            self.walk(netns, port, some)?;
        }
        if port != 0 && !kernel::running()?.has(Version::ITERATOR_FILLS_SOCKMAPS) {
            self.borrow(netns, port, &listeners)?;
        }
        Ok(())
    }

    /// Has the iterator treat as many as its map holds as if they had just begun to listen.
    fn walk(&mut self, netns: &Netns, port: u16, listeners: &[ListenerInfo]) -> Result<()> {
        let mut adopt = self.pins.adopt()?;
        for listener in listeners {
            adopt.insert(listener.cookie, Plain(key(netns, port, listener)), 0)?;
        }
        programs::load(&mut self.object, program::ADOPT)?;
        let iterator: &mut Iter = programs::named(&mut self.object, program::ADOPT)?;
        // The iterator walks the sockets of the namespace that opens it.
        let walked = netns.run(|| {
            let id = iterator.attach()?;
            let mut walk = iterator.take_link(id)?.into_file()?;
            walk.read_to_end(&mut Vec::new())?;
            Ok(())
        });
        for listener in listeners {
            adopt.remove(&listener.cookie)?;
        }
        walked.with_context(|| format!("cannot walk the sockets of {netns}"))
    }

    /// Does for `sk_lookup` what the iterator may not do on an older kernel. A listener that cannot be had is steered to
    /// by the interfaces alone until it listens again.
    fn borrow(&self, netns: &Netns, port: u16, listeners: &[ListenerInfo]) -> Result<()> {
        let mut proxies = self.pins.proxies()?;
        let inodes = listeners.iter().map(|listener| listener.inode).collect();
        let mut sockets = processes::duplicate_sockets(&inodes)?;
        for listener in listeners {
            let inserted = sockets
                .remove(&listener.inode)
                .context("no process that it may be had of holds it")
                .and_then(|socket| {
                    // The inode may be another socket's by now.
                    ensure!(socket_cookie(&socket)? == listener.cookie, "it is gone");
                    Ok(proxies.insert(Plain(key(netns, port, listener)), socket, 0)?)
                });
            if let Err(error) = inserted {
                let remedy =
                    confinement::remedy().map_or_else(String::new, |remedy| format!("; {remedy}"));
                warn!(
                    "the listener on port {port} in {netns} is older than the agent and gets connections to the host's \
                     own addresses only when it listens again: {error:#}{remedy}"
                );
            }
        }
        Ok(())
    }
}

fn key(netns: &Netns, port: u16, listener: &ListenerInfo) -> ListenerKey {
    ListenerKey {
        netns: netns.cookie(),
        port: port.into(),
        family: listener.family.into(),
    }
}
