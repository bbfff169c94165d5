//! adopt: makes listeners known that are older than the data path.

use std::io::Read as _;

use agent_common::{
    ListenerKey,
    names::{map, program},
};
use anyhow::{Context as _, Result};
use aya::programs::Iter;

use super::{maps::Plain, object::Datapath, programs};
use crate::host::netns::Netns;

impl Datapath {
    /// Makes listeners of `netns` known, each by its socket's cookie. The port in the key is 0 for those that
    /// are no proxy's.
    pub fn adopt(&mut self, netns: &Netns, listeners: &[(u64, ListenerKey)]) -> Result<()> {
        let capacity = self.pins.capacity(map::ADOPT)? as usize;
        listeners
            .chunks(capacity)
            .try_for_each(|some| self.adopt_some(netns, some))
    }

    /// Adopts as many as the map holds.
    fn adopt_some(&mut self, netns: &Netns, listeners: &[(u64, ListenerKey)]) -> Result<()> {
        let mut adopt = self.pins.adopt()?;
        for (cookie, key) in listeners {
            adopt.insert(cookie, Plain(*key), 0)?;
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
        for (cookie, _) in listeners {
            adopt.remove(cookie)?;
        }
        walked.with_context(|| format!("cannot walk the sockets of {netns}"))
    }
}
