//! Sysctls of a network namespace.

use std::{fs, io, path::PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};

use crate::host::netns::Netns;

/// The value of `key`; `None` when the kernel has no such key. Keys are those of sysctl(8): in the name of an
/// interface, a slash stands for a dot.
pub fn read(netns: &Netns, key: &str) -> Result<Option<String>> {
    let path = path(key);
    netns.run(|| match fs::read_to_string(&path) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    })
}

/// Sets `key`, unless it has the value already: then a read-only `/proc/sys` is no obstacle.
pub fn write(netns: &Netns, key: &str, value: &str) -> Result<()> {
    if read(netns, key)?.as_deref() == Some(value) {
        return Ok(());
    }
    netns.run(|| {
        let path = path(key);
        let written = match fs::write(&path, value) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                make_writable().and_then(|()| fs::write(&path, value))
            }
            written => written,
        };
        written.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                anyhow!("this kernel has no sysctl {key}: Linux 3.16 or later has it")
            }
            io::ErrorKind::ReadOnlyFilesystem => anyhow!(
                "cannot set {key}={value}: /proc/sys is read-only here; \
                 run privileged, or set it from outside with `sysctl -w {key}={value}`"
            ),
            _ => anyhow!("cannot set {key}={value}: {error}"),
        })
    })
}

/// Makes `/proc/sys` writable where a container runtime has mounted it read-only in the container's mount namespace.
fn make_writable() -> io::Result<()> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    // Fails where nothing is mounted at this very path; then the write fails as before.
    mount(None::<&str>, "/proc/sys", None::<&str>, flags, None::<&str>)
        .map_err(|_| io::ErrorKind::ReadOnlyFilesystem.into())
}

/// The first and the last of the ports from which the kernel lets sockets connect.
pub fn local_ports(netns: &Netns) -> Result<[u16; 2]> {
    const KEY: &str = "net.ipv4.ip_local_port_range";
    let value = read(netns, KEY)?.unwrap_or_default();
    let ports: Vec<u16> = value.split_whitespace().flat_map(str::parse).collect();
    ports
        .try_into()
        .map_err(|_| anyhow!("{KEY} is no range of ports: {value:?}"))
}

/// Whether the namespace has IPv6.
pub fn ipv6_enabled(netns: &Netns) -> Result<bool> {
    Ok(read(netns, "net.ipv6.conf.lo.disable_ipv6")?.as_deref() == Some("0"))
}

/// The file of a key.
fn path(key: &str) -> PathBuf {
    let swapped = key.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    });
    PathBuf::from("/proc/sys").join(swapped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_stands_for_a_dot() {
        assert_eq!(
            path("net.ipv4.conf.eth0/100.rp_filter").to_str(),
            Some("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
    }

    #[test]
    fn a_key_that_does_not_exist_has_no_value() {
        let netns = Netns::current().unwrap();
        assert_eq!(read(&netns, "net.no_such_key").unwrap(), None);
        assert!(read(&netns, "net.ipv4.ip_forward").unwrap().is_some());
    }
}
