//! What the pinned maps hold, by their definitions and types: maps that are pinned are used again if they hold the same,
//! whatever version has pinned them.

use std::{collections::BTreeMap, hash::Hasher as _, sync::LazyLock};

use agent_common::names::map;
use anyhow::Result;
use aya::maps::MapInfo;
use aya_obj::Object;
use siphasher::sip::SipHasher13;

use super::programs::OBJECT;

/// Of each static of the BPF object that has one, the name and the layout, which the build script reads from the object.
const LAYOUTS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/layouts.rs"));

/// Maps that are taken over together or not at all, as each is of no use without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// What connections with a PROXY header need to go on.
    Streams,
    /// Everything else.
    Knowledge,
}

impl Set {
    pub(super) const ALL: [Self; 2] = [Self::Streams, Self::Knowledge];

    /// The set that a map is in.
    pub(super) fn of(name: &str) -> Self {
        if map::STREAMS.contains(&name) {
            Self::Streams
        } else {
            Self::Knowledge
        }
    }

    /// Its maps.
    pub(super) fn maps(self) -> impl Iterator<Item = &'static str> {
        map::ALL
            .into_iter()
            .filter(move |name| Self::of(name) == self)
    }

    /// How the names of its directories begin, in all versions.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Streams => "streams-",
            Self::Knowledge => "maps-",
        }
    }

    /// The name of its directory: another one if any of its maps is another, or holds something else.
    pub(super) fn directory(self) -> &'static str {
        static STREAMS: LazyLock<String> = LazyLock::new(|| name_of(Set::Streams));
        static KNOWLEDGE: LazyLock<String> = LazyLock::new(|| name_of(Set::Knowledge));
        match self {
            Self::Streams => &STREAMS,
            Self::Knowledge => &KNOWLEDGE,
        }
    }
}

fn name_of(set: Set) -> String {
    let mut hasher = SipHasher13::new();
    for name in set.maps() {
        let Definition { numbers } = Definition::of(name);
        hasher.write(format!("{name} {numbers:?} {}\n", layout(name)).as_bytes());
    }
    format!("{}{:016x}", set.prefix(), hasher.finish())
}

/// The layout of what a map holds; empty if its type does not tell.
fn layout(name: &str) -> &'static str {
    let found = LAYOUTS.iter().find(|(of, _)| *of == name);
    found.map_or("", |(_, layout)| layout)
}

/// How the kernel makes a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Definition {
    /// Type, size of keys and of values, most entries, flags.
    numbers: [u32; 5],
}

impl Definition {
    /// That of a map of the object.
    pub(super) fn of(name: &str) -> Self {
        static ALL: LazyLock<BTreeMap<String, Definition>> = LazyLock::new(|| {
            let object = Object::parse(OBJECT).expect("the build script has read it");
            let maps = object.maps.iter().map(|(name, map)| {
                let (kind, key, value) = (map.map_type(), map.key_size(), map.value_size());
                let numbers = [kind, key, value, map.max_entries(), map.map_flags()];
                (name.clone(), Definition { numbers })
            });
            maps.collect()
        });
        ALL[name]
    }

    /// The same map with room for another number of entries.
    pub(super) fn with_room_for(mut self, entries: u32) -> Self {
        self.numbers[3] = entries;
        self
    }

    /// Whether a map that is pinned was made like this.
    pub(super) fn fits(&self, pinned: &MapInfo) -> Result<bool> {
        let kind = pinned.map_type()? as u32;
        let (key, value) = (pinned.key_size(), pinned.value_size());
        Ok(self.numbers == [kind, key, value, pinned.max_entries(), pinned.map_flags()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_says_what_it_holds() {
        for name in map::ALL {
            assert_ne!(layout(name).is_empty(), name != map::LOGS, "{name}");
        }
        for (map, part) in [
            (map::ORIGINS, "evidence 132:u8 1"),
            (map::ORIGINS, "Toa 3"),
            (map::EVENTS, "received 160:u64 8"),
            (map::COUNTERS, "UnwrapTranslated"),
        ] {
            assert!(layout(map).contains(part), "{}", layout(map));
        }
    }

    /// Whoever detaches finds the connections that any version translates, and resets them: their ends are what every version
    /// reads of every other. Whoever needs another form of the key gives the map another name, and has both read.
    #[test]
    fn all_versions_know_translated_connections_alike() {
        let address = "address 0:Address 16 { __0 0::u32 4 {  4:__ARRAY_SIZE_TYPE__ 8 } }";
        let end = format!("Endpoint 20 {{ {address} port 16:u16 2 padding 18:u16 2 }}");
        let key =
            format!("K:Connection 48 {{ netns 0:u64 8 source 8:{end} destination 28:{end} }}");
        assert_eq!(layout(map::TRANSLATED), format!("{key} V:i32 4 "));
    }
}
