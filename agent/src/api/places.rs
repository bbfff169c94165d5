//! How many connections to the API there may be: of one caller, and of all callers of a kind.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{host::descriptors, observe::api::ApiLimit};

/// Whom a connection is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Account {
    /// Root on this host. Its connections are its own affair, so that an operator gets in whatever others do.
    Root,
    /// Another user of this host; `None` if the kernel does not tell which.
    User(Option<u32>),
    /// Somebody who comes by TCP, from this address or from this /64 of IPv6, of which each host may have all.
    Host(IpAddr),
}

impl Account {
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self::Host(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Ipv6Addr::from(network).into()
            }
            v4 => v4,
        })
    }

    /// How many connections one of this kind may have, and all of them together.
    fn limits(self) -> (usize, usize) {
        match self {
            Self::Root => (96, 96),
            Self::User(_) => (32, 96),
            Self::Host(_) => (16, 32),
        }
    }

    fn is_of_the_kind(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::User(Some(uid)) => write!(f, "user {uid}"),
            Self::User(None) => f.write_str("a user that the kernel does not name"),
            Self::Host(address) => address.fmt(f),
        }
    }
}

/// The places for connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Account, usize>>>);

impl Places {
    /// Takes a place for a connection with this newly accepted socket, or says which limit it would exceed.
    pub(super) fn take(
        &self,
        account: Account,
        accepted: &impl AsRawFd,
    ) -> Result<Place, ApiLimit> {
        let mut taken = self.lock();
        let own = taken.get(&account).copied().unwrap_or_default();
        let of_the_kind = taken
            .iter()
            .filter(|(other, _)| account.is_of_the_kind(**other));
        let of_the_kind: usize = of_the_kind.map(|(_, taken)| taken).sum();
        let (one, all) = account.limits();
        if of_the_kind >= all {
            return Err(ApiLimit::All);
        }
        if own >= one {
            return Err(ApiLimit::Caller);
        }
        // What the others must leave is there for root, too.
        if account != Account::Root && !descriptors::has_room_for_caller(accepted) {
            return Err(ApiLimit::Files);
        }
        taken.insert(account, own + 1);
        Ok(Place {
            places: self.clone(),
            account,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Account, usize>> {
        self.0.lock().expect("no holder panics")
    }
}

/// A place that a connection has taken, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    account: Account,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.get_mut(&self.account) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEBODY: Account = Account::User(Some(1000));

    /// As many places as there are, until one is refused.
    fn fill(places: &Places, account: Account) -> (Vec<Place>, ApiLimit) {
        let mut taken = Vec::new();
        loop {
            match places.take(account, &std::io::stdin()) {
                Ok(place) => taken.push(place),
                Err(limit) => return (taken, limit),
            }
        }
    }

    #[test]
    fn one_user_leaves_places_to_others_and_all_users_to_root() {
        let places = Places::default();
        let (mut own, limit) = fill(&places, SOMEBODY);
        assert_eq!((own.len(), limit), (32, ApiLimit::Caller));
        own.pop();
        assert_eq!(fill(&places, SOMEBODY).0.len(), 1);

        let others: Vec<_> = (1..10)
            .map(|n| fill(&places, Account::User(Some(1000 + n))))
            .collect();
        assert_eq!(others.last().unwrap().1, ApiLimit::All);
        let all: usize = others.iter().map(|(taken, _)| taken.len()).sum();
        assert_eq!(all + own.len(), 96);
        assert_eq!(fill(&places, Account::Root).0.len(), 96);
        assert_eq!(
            fill(&places, Account::of_address([192, 0, 2, 1].into()))
                .0
                .len(),
            16
        );

        drop((own, others));
        assert!(places.lock().is_empty());
    }

    #[test]
    fn a_host_has_one_account_whichever_of_its_addresses_it_comes_from() {
        let account = |text: &str| Account::of_address(text.parse().unwrap());
        assert_eq!(account("::ffff:192.0.2.1"), account("192.0.2.1"));
        assert_ne!(account("192.0.2.1"), account("192.0.2.2"));
        assert_eq!(account("2001:db8::1"), account("2001:db8::2:0:0:1"));
        assert_ne!(account("2001:db8::1"), account("2001:db8:0:1::1"));
    }
}
