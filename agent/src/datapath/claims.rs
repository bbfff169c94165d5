//! The relay's side of the maps.

use std::{
    os::fd::BorrowedFd,
    sync::{Mutex, MutexGuard},
};

use agent_common::{Address, Claim, Counter, Origin};
use anyhow::Result;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuValues, SkStorage};

use super::{
    guard,
    pins::{Pins, Plain, Policies, PolicyPrefixes},
};
use crate::connections::origins::Claims;

/// `bpf_map_update_elem` fails if there is an entry (linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// Maps that stay open, as they are used for each connection.
pub(super) struct Maps {
    claims: Mutex<SkStorage<MapData, Plain<Claim>>>,
    origins: Mutex<Origins>,
    policies: Policies,
    prefixes: PolicyPrefixes,
}

struct Origins {
    map: HashMap<MapData, u64, Plain<Origin>>,
    counters: PerCpuArray<MapData, u64>,
    /// [`Counter::LearntRelay`], which nobody else counts.
    learnt: Vec<u64>,
}

impl Origins {
    fn count(&mut self, by: i64) -> Result<()> {
        self.learnt[0] = self.learnt[0].saturating_add_signed(by);
        let values = PerCpuValues::try_from(self.learnt.clone())?;
        Ok(self.counters.set(Counter::LearntRelay as u32, values, 0)?)
    }
}

impl Maps {
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let counters = pins.counter_slots()?;
        Ok(Self {
            claims: Mutex::new(pins.claims()?),
            policies: pins.policies()?,
            prefixes: pins.prefixes()?,
            origins: Mutex::new(Origins {
                map: pins.origins()?,
                learnt: counters.get(&(Counter::LearntRelay as u32), 0)?.to_vec(),
                counters,
            }),
        })
    }

    fn origins(&self) -> MutexGuard<'_, Origins> {
        self.origins.lock().expect("no holder panics")
    }
}

impl Claims for Maps {
    fn origin(&self, cookie: u64) -> Result<Option<Origin>> {
        match self.origins().map.get(&cookie, 0) {
            Ok(Plain(origin)) => Ok(Some(origin)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn learn(&self, cookie: u64, origin: Origin) -> Result<()> {
        let origins = &mut *self.origins();
        if origins
            .map
            .insert(cookie, Plain(origin), BPF_NOEXIST)
            .is_err()
        {
            // There is one, or no room for another.
            return Ok(origins.map.insert(cookie, Plain(origin), 0)?);
        }
        origins.count(1)
    }

    fn forget(&self, cookie: u64) -> Result<()> {
        let origins = &mut *self.origins();
        match origins.map.remove(&cookie) {
            // Else the data path was first, and has counted it.
            Ok(()) => origins.count(-1),
            Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
