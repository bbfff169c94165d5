//! The TLVs of PROXY headers, kept for as long as their connections live.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use agent_common::{
    Closed,
    proxy::{Parsed, parse},
};

use super::{origins::Headers, proxy_tlvs::ProxyTlvs};

/// How many connections of each kind are remembered; beyond that, the oldest are forgotten.
const CONNECTIONS: usize = 65_536;

/// The TLVs of live connections.
#[derive(Default)]
pub struct TlvStore {
    /// Those of connections that a relay accepted, by the cookies of their sockets.
    relayed: Table,
    /// Those of headers that the data path took off, by the numbers of the headers.
    unwrapped: Table,
    headers: OnceLock<Box<dyn Headers>>,
}

impl TlvStore {
    /// Sets where to read the headers that the data path takes off.
    pub fn follow(&self, headers: Box<dyn Headers>) {
        // An agent calls this once.
        let _ = self.headers.set(headers);
    }

    /// Keeps the TLVs of a relay's connection until they are taken.
    pub fn keep(&self, cookie: u64, tlvs: ProxyTlvs) {
        self.relayed.keep(cookie, tlvs);
    }

    /// The TLVs of the connection whose origin has this number of a header or, without a header (0), whose socket has
    /// this cookie.
    pub fn get(&self, cookie: u64, header: u64) -> Option<Arc<ProxyTlvs>> {
        if header == 0 {
            return self.relayed.lock().get(&cookie).cloned();
        }
        self.fetch();
        self.unwrapped.lock().get(&header).cloned()
    }

    /// Removes and returns the TLVs of a relay's connection that has ended.
    pub fn take(&self, cookie: u64) -> Option<Arc<ProxyTlvs>> {
        self.relayed.lock().remove(&cookie)
    }

    /// Removes and returns the TLVs of any connection that has ended.
    pub fn take_ended(&self, closed: &Closed) -> Option<Arc<ProxyTlvs>> {
        match closed.origin.header {
            0 => self.take(closed.cookie),
            header => {
                self.fetch();
                self.unwrapped.lock().remove(&header)
            }
        }
    }

    /// Reads the headers that the data path has taken off since the last call.
    pub fn fetch(&self) {
        let Some(headers) = self.headers.get() else {
            return;
        };
        headers.read(&mut |number, header| {
            if let Parsed::Header(header) = parse(header)
                && let Some(tlvs) = ProxyTlvs::read(header.tlvs)
            {
                self.unwrapped.keep(number, tlvs);
            }
        });
    }
}

/// TLVs by a number that grows from connection to connection.
#[derive(Default)]
struct Table(Mutex<BTreeMap<u64, Arc<ProxyTlvs>>>);

impl Table {
    fn keep(&self, key: u64, tlvs: ProxyTlvs) {
        let mut kept = self.lock();
        kept.insert(key, Arc::new(tlvs));
        if kept.len() > CONNECTIONS {
            // Cookies and numbers only grow: the first is the oldest.
            kept.pop_first();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ProxyTlvs>>> {
        self.0.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let kept = TlvStore::default();
        for cookie in 0..=CONNECTIONS as u64 {
            kept.keep(cookie, ProxyTlvs::default());
        }
        assert_eq!(kept.get(0, 0), None);
        assert!(kept.take(1).is_some());
        assert_eq!(kept.take(1), None);
        assert_eq!(kept.relayed.lock().len(), CONNECTIONS - 1);
    }
}
