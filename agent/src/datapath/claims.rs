//! What the relay writes into the maps, and asks of them.

use std::{
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard},
};

use agent_common::{Address, Claim, Counter, Origin};
use anyhow::Result;
use aya::maps::{MapData, PerCpuArray, PerCpuValues, SkStorage};

use super::{
    guard,
    maps::{self, NOEXIST, Plain, Policies, PolicyPrefixes, found, removed},
    object::Datapath,
    pins::Pins,
};
use crate::connections::origins::Claims;

impl Datapath {
    /// What the relay needs.
    pub fn claims(&self) -> Result<Arc<dyn Claims>> {
        Ok(Arc::new(OpenMaps::open(&self.pins)?))
    }
}

/// Maps that stay open, as they are used for each connection.
struct OpenMaps {
    claims: Mutex<SkStorage<MapData, Plain<Claim>>>,
    origins: Mutex<Learnt>,
    policies: Policies,
    prefixes: PolicyPrefixes,
}

/// The map of origins, and what the agent counts of them.
pub(super) struct Learnt {
    pub(super) map: maps::Origins,
    counters: PerCpuArray<MapData, u64>,
}

impl Learnt {
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            map: pins.origins()?,
            counters: pins.counters()?,
        })
    }

    /// Adds one to a counter that nobody else counts.
    pub(super) fn count(&mut self, counter: Counter) -> Result<()> {
        let mut values = self.counters.get(&(counter as u32), 0)?.to_vec();
        values[0] += 1;
        let values = PerCpuValues::try_from(values)?;
        Ok(self.counters.set(counter as u32, values, 0)?)
    }
}

impl OpenMaps {
    fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            claims: Mutex::new(pins.claims()?),
            policies: pins.policies()?,
            prefixes: pins.policy_prefixes()?,
            origins: Mutex::new(Learnt::open(pins)?),
        })
    }

    fn origins(&self) -> MutexGuard<'_, Learnt> {
        self.origins.lock().expect("no holder panics")
    }
}

impl Claims for OpenMaps {
    fn origin(&self, cookie: u64) -> Result<Option<Origin>> {
        let origin = found(self.origins().map.get(&cookie, 0))?;
        Ok(origin.map(|Plain(origin)| origin))
    }

    fn learn(&self, cookie: u64, origin: Origin) -> Result<()> {
        let origins = &mut *self.origins();
        if origins.map.insert(cookie, Plain(origin), NOEXIST).is_err() {
            // There is one, or no room for another.
            return Ok(origins.map.insert(cookie, Plain(origin), 0)?);
        }
        origins.count(Counter::LearntRelay)
    }

    fn forget(&self, cookie: u64) -> Result<()> {
        let origins = &mut *self.origins();
        // Where there is none, the data path was first, and has counted it.
        if removed(origins.map.remove(&cookie))? {
            origins.count(Counter::Forgotten)?;
        }
        Ok(())
    }

    fn allows(&self, client: Address, port: u16) -> Result<bool> {
        guard::allows(&self.policies, &self.prefixes, client, port)
    }

    fn follow(&self, listener: BorrowedFd<'_>) -> Result<()> {
        self.claim(listener, Claim::default())
    }

    fn claim(&self, socket: BorrowedFd<'_>, claim: Claim) -> Result<()> {
        let mut claims = self.claims.lock().expect("no holder panics");
        Ok(claims.insert(&socket, Plain(claim), 0)?)
    }
}
