//! What the data path sends to the agent.

use std::sync::Mutex;

use agent_common::Closed;
use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

/// Closed connections, in the order in which they closed.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self> {
        Ok(Self {
            // SAFETY: the ring owns its descriptor, and the AsyncFd owns the ring until it is dropped.
            ring: unsafe { AsyncFd::register(ring) }?,
        })
    }

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

/// PROXY headers that were taken off and say more than addresses.
pub struct Headers(Mutex<RingBuf<MapData>>);

impl Headers {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(Mutex::new(ring))
    }

    /// Gives each that is there to `each`, with its number.
    pub fn read(&self, mut each: impl FnMut(u64, &[u8])) {
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
    pub(super) fn new(object: &mut Ebpf) -> Result<Self> {
        let logger = EbpfLogger::init(object).context("cannot read the data path's messages")?;
        Ok(Self {
            // SAFETY: as for the ring, which is inside.
            logger: unsafe { AsyncFd::register(logger) }?,
        })
    }

    /// Passes messages on, for ever.
    pub async fn forward(mut self) -> Result<()> {
        loop {
            let mut ready = self.logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
