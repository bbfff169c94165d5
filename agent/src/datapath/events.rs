//! What the data path sends to the agent.

use std::sync::Mutex;

use agent_common::Closed;
use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use super::object::Datapath;
use crate::connections::origins::Headers;

impl Datapath {
    /// The stream of closed connections. To be called within the async runtime.
    pub fn events(&self) -> Result<Events> {
        Ok(Events {
            // SAFETY: the ring owns its descriptor, and the AsyncFd owns the ring until it is dropped.
            ring: unsafe { AsyncFd::register(self.pins.events()?) }?,
        })
    }

    /// The stream of PROXY headers that say more than addresses.
    pub fn headers(&self) -> Result<Box<dyn Headers>> {
        Ok(Box::new(HeaderRing(Mutex::new(self.pins.headers()?))))
    }

    /// The stream of the programs' own messages. To be called within the async runtime.
    pub fn diagnostics(&mut self) -> Result<Diagnostics> {
        let logger = EbpfLogger::init(&mut self.object);
        let logger = logger.context("cannot read the data path's messages")?;
        Ok(Diagnostics {
            // SAFETY: the logger owns its ring and that its descriptor, and the AsyncFd owns the logger.
            logger: unsafe { AsyncFd::register(logger) }?,
        })
    }
}

/// Closed connections, in the order in which they closed.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    /// Waits until there are some.
    ///
    /// # Errors
    ///
    /// When the async runtime is shutting down.
    pub async fn ready(&mut self) -> Result<()> {
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Gives each that is there to `each`.
    pub fn read(&mut self, mut each: impl FnMut(&Closed)) {
        let ring = self.ring.get_mut();
        while let Some(record) = ring.next() {
            if record.len() >= size_of::<Closed>() {
                // SAFETY: the data path writes `Closed`, for which any bits are valid.
                each(&unsafe { record.as_ptr().cast::<Closed>().read_unaligned() });
            }
        }
    }
}

/// PROXY headers that the data path took off.
struct HeaderRing(Mutex<RingBuf<MapData>>);

impl Headers for HeaderRing {
    fn read(&self, each: &mut dyn FnMut(u64, &[u8])) {
        let mut ring = self.0.lock().expect("no holder panics");
        while let Some(record) = ring.next() {
            if let Some((number, header)) = record.split_first_chunk() {
                each(u64::from_ne_bytes(*number), header);
            }
        }
    }
}

/// The programs' own messages, which go to the agent's log.
pub struct Diagnostics {
    logger: AsyncFd<EbpfLogger<&'static dyn log::Log>>,
}

impl Diagnostics {
    /// Passes messages on, for ever.
    pub async fn forward(mut self) -> Result<()> {
        loop {
            let mut ready = self.logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
