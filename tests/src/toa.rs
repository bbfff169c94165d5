//! TOA as load balancers write it, signed or not.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_common::tag::{self, EPOCH, Keys, Signed};
use agent_common::{Endpoint, toa};
use anyhow::Result;

use crate::agent::{Carry, CarryToa};
use crate::topology::Family;

/// The networks of [`balancer`].
pub const BALANCERS: [&str; 2] = ["198.51.100.0/24", "2001:db8:1b::/64"];

/// A load balancer's n-th address.
pub fn balancer(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => [198, 51, 100, n].into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x1b, 0, 0, 0, 0, n.into()).into(),
    }
}

/// The option for a client.
pub fn option(kind: u8, client: SocketAddr) -> Vec<u8> {
    let client = Endpoint::from(client);
    if client.address.is_v4() {
        toa::option_v4(kind, client).to_vec()
    } else {
        toa::option_v6(kind, client).to_vec()
    }
}

/// A gateway tells its server.
pub fn carry() -> Carry {
    Carry {
        toa: CarryToa {
            to: vec!["10.78.0.0/24".into(), "fd78::/64".into()],
            kind: 254,
        },
    }
}

/// A key of signed TOA.
#[derive(Clone, Copy)]
pub struct Key(pub u128);

impl Key {
    /// Its line in a file.
    pub fn line(self) -> String {
        format!("{:032x}", self.0)
    }

    /// The option that proves TOA for `client` on a SYN with this sequence number, in this epoch.
    pub fn tag(self, client: SocketAddr, isn: u32, epoch: u64) -> Vec<u8> {
        let bytes = self.0.to_be_bytes();
        let (words, _) = bytes.as_chunks();
        let keys = Keys::new(0, [0, 1].map(|i| u64::from_le_bytes(words[i])), None);
        let client = client.into();
        tag::option(keys.sign(&Signed { client, isn }, epoch)).to_vec()
    }
}

/// The epoch of tags that are made now; it lasts for some seconds more.
pub fn epoch() -> u64 {
    const MORE: Duration = Duration::from_secs(4);
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock after 1970").as_nanos() as u64;
        let left = Duration::from_nanos(EPOCH - now % EPOCH);
        if left > MORE {
            return now / EPOCH;
        }
        std::thread::sleep(left);
    }
}

/// A file with keys, replaced as Kubernetes replaces a Secret: by way of a link.
pub struct KeyFile {
    path: PathBuf,
    versions: usize,
}

impl KeyFile {
    /// A file with these keys.
    pub fn new(directory: &Path, name: &str, keys: &[Key]) -> Result<Self> {
        let mut file = Self {
            path: directory.join(name),
            versions: 0,
        };
        file.put(keys)?;
        Ok(file)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it has these keys.
    pub fn put(&mut self, keys: &[Key]) -> Result<()> {
        let lines: Vec<_> = keys.iter().map(|key| key.line()).collect();
        self.write(&format!("# of a test\n{}\n", lines.join("\n")))
    }

    /// From now on it has this text.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.versions += 1;
        let target = self.path.with_extension(self.versions.to_string());
        fs::write(&target, text)?;
        fs::set_permissions(&target, Permissions::from_mode(0o600))?;
        let link = self.path.with_extension("link");
        symlink(&target, &link)?;
        fs::rename(&link, &self.path)?;
        Ok(())
    }
}
