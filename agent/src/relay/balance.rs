//! The choice of an upstream for each connection.

use std::{
    hash::Hasher as _,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use agent_common::Address;
use siphasher::sip::SipHasher13;

use crate::config::Balance;

/// Entries of the table: a prime, and at least a hundred times the number of upstreams, so that their shares
/// differ by 1 % at most (Maglev, 5.3).
const ENTRIES: usize = 65_537;

/// A relay's upstreams, and how one is chosen.
pub(super) struct Balancer {
    upstreams: Vec<Upstream>,
    choice: Choice,
}

struct Upstream {
    address: SocketAddr,
    is_up: AtomicBool,
}

enum Choice {
    /// Each in turn: which is next, before the remainder is taken.
    RoundRobin(AtomicUsize),
    /// By the hash of the client's address: a Maglev table of all upstreams, whether up or down. A client
    /// whose upstream is down draws again, so that no other client moves.
    ClientIp(Vec<u16>),
}

impl Balancer {
    pub(super) fn new(balance: Balance, addresses: &[SocketAddr]) -> Self {
        let upstream = |address: &SocketAddr| Upstream {
            address: *address,
            is_up: AtomicBool::new(true),
        };
        Self {
            upstreams: addresses.iter().map(upstream).collect(),
            choice: match balance {
                Balance::RoundRobin => Choice::RoundRobin(AtomicUsize::new(0)),
                Balance::ClientIp => Choice::ClientIp(table(addresses)),
            },
        }
    }

    /// How many upstreams there are.
    pub(super) fn len(&self) -> usize {
        self.upstreams.len()
    }

    /// The address of an upstream.
    pub(super) fn address(&self, at: usize) -> SocketAddr {
        self.upstreams[at].address
    }

    /// Notes whether an upstream is up. The result says whether that has changed.
    pub(super) fn set_up(&self, at: usize, is_up: bool) -> bool {
        self.upstreams[at].is_up.swap(is_up, Ordering::Relaxed) != is_up
    }

    /// Every upstream once, in the order in which to try them for this client. Those that are down come
    /// last, and not never, as the checks may be wrong.
    pub(super) fn candidates(&self, client: Address) -> Vec<usize> {
        let n = self.upstreams.len();
        let mut order = Vec::with_capacity(n);
        match &self.choice {
            Choice::RoundRobin(next) => {
                let first = next.fetch_add(1, Ordering::Relaxed);
                order.extend((0..n).map(|i| (first + i) % n));
            }
            Choice::ClientIp(table) => {
                // Most draws find another upstream. What they miss follows in the order of the file.
                let drawn = (0..2 * n as u64).map(|draw| {
                    let entry = hash(draw, &client.ipv6().octets()) % ENTRIES as u64;
                    usize::from(table[entry as usize])
                });
                for at in drawn.chain(0..n) {
                    if !order.contains(&at) {
                        order.push(at);
                    }
                }
            }
        }
        order.sort_by_key(|at| !self.upstreams[*at].is_up.load(Ordering::Relaxed));
        order
    }
}

/// A hash that never changes, so that a client finds its upstream again after a restart and by way of another
/// node.
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 0);
    hasher.write(bytes);
    hasher.finish()
}

/// The table of Maglev (Eisenbud et al., NSDI 2016, 3.4): each upstream in turn takes the first entry of its
/// own permutation that is still free.
fn table(addresses: &[SocketAddr]) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    let mut table = vec![FREE; ENTRIES];
    let mut permutations: Vec<_> = addresses
        .iter()
        .map(|address| {
            let name = address.to_string();
            let offset = hash(0, name.as_bytes()) as usize % ENTRIES;
            let skip = hash(1, name.as_bytes()) as usize % (ENTRIES - 1) + 1;
            std::iter::successors(Some(offset), move |at| Some((at + skip) % ENTRIES))
        })
        .collect();
    let mut left = ENTRIES;
    while left > 0 {
        for (upstream, permutation) in (0..).zip(&mut permutations).take(left) {
            if let Some(at) = permutation.find(|at| table[*at] == FREE) {
                table[at] = upstream;
                left -= 1;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn addresses(n: u8) -> Vec<SocketAddr> {
        (1..=n)
            .map(|i| (Ipv4Addr::new(10, 0, 0, i), 8080).into())
            .collect()
    }

    fn clients() -> impl Iterator<Item = Address> {
        (0..20_000_u32).map(|n| IpAddr::from(Ipv4Addr::from(0xcb00_0000 + n * 7)).into())
    }

    #[test]
    fn each_upstream_has_its_share_and_each_client_its_upstream() {
        let balancer = Balancer::new(Balance::ClientIp, &addresses(5));
        let mut shares = [0; 5];
        for client in clients() {
            let order = balancer.candidates(client);
            assert_eq!(order, balancer.candidates(client));
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4]);
            shares[order[0]] += 1;
        }
        assert!(
            shares.iter().all(|n| (3600..4400).contains(n)),
            "{shares:?}"
        );
    }

    #[test]
    fn when_one_is_lost_only_its_clients_move_and_they_come_back() {
        let balancer = Balancer::new(Balance::ClientIp, &addresses(5));
        let choices = || -> Vec<_> { clients().map(|c| balancer.candidates(c)[0]).collect() };
        let before = choices();
        assert!(balancer.set_up(2, false) && !balancer.set_up(2, false));
        let during = choices();
        for (before, during) in before.iter().zip(&during) {
            assert!(*during != 2 && (before == during || *before == 2));
        }
        let moved: std::collections::HashSet<_> = (before.iter().zip(&during))
            .filter_map(|(before, during)| (before != during).then_some(during))
            .collect();
        assert_eq!(moved.len(), 4, "all others take their part");
        balancer.set_up(2, true);
        assert_eq!(before, choices());
    }

    #[test]
    fn when_one_is_removed_from_the_list_few_others_move() {
        let (all, mut fewer) = (addresses(5), addresses(5));
        fewer.remove(2);
        let before = Balancer::new(Balance::ClientIp, &all);
        let after = Balancer::new(Balance::ClientIp, &fewer);
        let moved = clients().filter(|client| {
            let before = before.address(before.candidates(*client)[0]);
            before != all[2] && before != after.address(after.candidates(*client)[0])
        });
        let moved = moved.count();
        assert!(moved < 20_000 / 20, "{moved}");
    }

    #[test]
    fn round_robin_takes_turns_and_leaves_out_who_is_down() {
        let balancer = Balancer::new(Balance::RoundRobin, &addresses(3));
        let client = Address::default();
        let firsts = |n| -> Vec<_> { (0..n).map(|_| balancer.candidates(client)[0]).collect() };
        assert_eq!(firsts(4), [0, 1, 2, 0]);
        balancer.set_up(1, false);
        assert!(!firsts(6).contains(&1));
        for at in [0, 2] {
            balancer.set_up(at, false);
        }
        assert_eq!(balancer.candidates(client).len(), 3);
    }
}
