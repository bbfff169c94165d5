//! Network namespaces: what runs in one, and what happens to its interfaces.

mod watch;

use std::{
    cell::Cell,
    collections::HashSet,
    fmt,
    fs::File,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    panic,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    getsockopt_impl,
    ifaddrs::getifaddrs,
    libc,
    net::if_::{InterfaceFlags, if_nameindex},
    sched::{CloneFlags, setns, unshare},
    sockopt_impl,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, getsockopt, socket},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use tokio::runtime;

/// Where `ip netns add` keeps the namespaces that have a name.
pub const NAMED: &str = "/run/netns";

/// Index of `lo`, the same in every namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// The calling thread's namespace. `/proc/self` would be the main thread's.
const OWN: &str = "/proc/thread-self/ns/net";

thread_local! {
    /// Inode of the namespace that this thread was started for.
    static INSIDE: Cell<Option<u64>> = const { Cell::new(None) };
}

// nix lacks it.
sockopt_impl!(
    /// SO_NETNS_COOKIE, Linux 5.14.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// A network namespace. As long as the handle lives, so does the namespace.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    path: Option<PathBuf>,
    inode: u64,
    cookie: u64,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, unique in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl Netns {
    /// The calling thread's namespace.
    pub fn current() -> Result<Self> {
        Self::from_file(
            File::open(OWN).with_context(|| format!("cannot open {OWN}"))?,
            None,
        )
    }

    /// The namespace that is bound to `path`, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| {
            let create = match path.strip_prefix(NAMED) {
                Ok(name) => format!("create it with `ip netns add {}`", name.display()),
                Err(_) => format!("`ip netns list` shows the ones in {NAMED}"),
            };
            format!(
                "cannot open the network namespace {}: {create}, or correct `netns`",
                path.display()
            )
        })?;
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            bail!(
                "{} is not a network namespace but an ordinary file, left by a namespace that is gone: \
                 remove it and create the namespace again",
                path.display()
            );
        }
        Self::from_file(file, Some(path.to_owned()))
    }

    /// The namespace at `path`; without one, the calling thread's.
    pub fn open_or_current(path: Option<&Path>) -> Result<Self> {
        path.map_or_else(Self::current, Self::open)
    }

    /// A new namespace without a name, which ends with its last handle. Its `lo` is up.
    pub fn create() -> Result<Self> {
        let netns = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                Errno::EPERM => anyhow!("CAP_SYS_ADMIN is missing: run as root"),
                errno => anyhow!(errno),
            })?;
            Self::current()
        })
        .context("cannot create a network namespace")?;
        netns.netlink(async |handle| {
            let up = LinkMessageBuilder::<LinkUnspec>::new()
                .index(LOOPBACK)
                .up()
                .build();
            handle
                .link()
                .set(up)
                .execute()
                .await
                .context("cannot set `lo` up")
        })?;
        Ok(netns)
    }

    /// Every namespace that this process can see: the one it is in, those in [`NAMED`] and those of
    /// processes. One that vanishes meanwhile is left out.
    pub fn all() -> Result<Vec<Self>> {
        let own = Self::current()?;
        let mut seen = HashSet::from([own.inode]);
        let mut all = vec![own];
        let named = std::fs::read_dir(NAMED)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        let of_processes = std::fs::read_dir("/proc")
            .context("cannot read /proc: mount it with `mount -t proc proc /proc`")?
            .flatten()
            .filter(|e| e.file_name().as_encoded_bytes()[0].is_ascii_digit())
            .map(|e| e.path().join("ns/net"));
        for path in named.chain(of_processes) {
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            if !seen.contains(&metadata.ino())
                && let Ok(netns) = Self::open(&path)
            {
                seen.insert(netns.inode);
                all.push(netns);
            }
        }
        Ok(all)
    }

    fn from_file(file: File, path: Option<PathBuf>) -> Result<Self> {
        let inode = file.metadata()?.ino();
        let mut netns = Self {
            file: Arc::new(file),
            path,
            inode,
            cookie: 0,
        };
        netns.cookie = netns.run(|| {
            let any = socket(
                AddressFamily::Unix,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            cookie_of(any)
        })?;
        Ok(netns)
    }

    /// Where it was opened; `None`: it was the calling thread's.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The namespace's cookie, never reused during a boot.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The inode of the namespace, as `ls -L -i /run/netns` and `lsns` show it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` inside the namespace, on a thread of its own: the caller's thread, which may be one
    /// of the async runtime, never changes its namespace. On such a thread, `f` runs at once.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if INSIDE.get() == Some(self.inode) {
            return f();
        }
        on_a_thread(|| {
            self.enter()?;
            INSIDE.set(Some(self.inode));
            f()
        })
    }

    /// Moves the calling thread into the namespace, unless it is there already: that needs no
    /// capability.
    fn enter(&self) -> Result<()> {
        if std::fs::metadata(OWN)?.ino() == self.inode {
            return Ok(());
        }
        setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EPERM => anyhow!("cannot enter {self}: CAP_SYS_ADMIN is missing, run as root"),
            Errno::EINVAL => anyhow!("cannot enter {self}: it is a namespace of another kind"),
            errno => anyhow!("cannot enter {self}: {errno}"),
        })
    }

    /// Runs `f` inside the namespace with a route netlink connection (rtnetlink) of that namespace.
    pub fn netlink<T: Send>(
        &self,
        f: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T> + Send,
    ) -> Result<T> {
        self.run(|| {
            runtime::Builder::new_current_thread()
                .enable_io()
                .build()?
                .block_on(async {
                    // With strict checks the kernel filters dumps and refuses what it doesn't know.
                    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
                        .context("cannot open a route netlink socket")?;
                    tokio::spawn(connection);
                    f(handle).await
                })
        })
    }

    /// The namespace's interfaces.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        self.run(|| {
            let interfaces = if_nameindex().context("cannot list interfaces")?;
            Ok(interfaces
                .iter()
                .map(|i| Interface {
                    index: i.index(),
                    name: i.name().to_string_lossy().into_owned(),
                })
                .collect())
        })
    }

    /// The index of the interface with this name.
    pub fn interface_index(&self, name: &str) -> Result<u32> {
        let interfaces = self.interfaces()?;
        if let Some(interface) = interfaces.iter().find(|i| i.name == name) {
            return Ok(interface.index);
        }
        let names: Vec<_> = interfaces.into_iter().map(|i| i.name).collect();
        bail!(
            "no interface \"{name}\" in {self}, which has: {}",
            names.join(", ")
        )
    }

    /// Fails if packets of the interface with this name do not begin with an Ethernet header, as those of tunnels
    /// may: the data path would read them wrongly.
    pub fn check_ethernet(&self, name: &str) -> Result<()> {
        let types = self.run(|| {
            let addresses = getifaddrs().context("cannot list interfaces")?;
            Ok(addresses
                .filter(|a| a.interface_name == name)
                .filter_map(|a| Some(a.address?.as_link_addr()?.hatype()))
                .collect::<Vec<_>>())
        })?;
        if types
            .iter()
            .any(|t| [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(t))
        {
            return Ok(());
        }
        bail!(
            "interface {name} of {self} has no Ethernet header: name one that has, such as the one that the \
             tunnel's packets come in by"
        )
    }

    /// Whether the interface with this name is up.
    pub fn is_up(&self, name: &str) -> Result<bool> {
        self.run(|| {
            let addresses = getifaddrs().context("cannot list interfaces")?;
            let up = InterfaceFlags::IFF_UP;
            Ok(addresses
                .into_iter()
                .any(|a| a.interface_name == name && a.flags.contains(up)))
        })
    }
}

/// Names the current boot, with which every namespace but the host's ends.
pub fn boot_id() -> Result<String> {
    procfs::sys::kernel::random::boot_id().context("cannot tell the boot's id")
}

/// The cookie of a socket's namespace.
pub fn cookie_of(socket: impl AsFd) -> Result<u64> {
    getsockopt(&socket, NetnsCookie)
        .context("cannot read the namespace's cookie, which needs Linux 5.14")
}

fn on_a_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, f)
            .context("cannot start a thread")?
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.cookie == other.cookie
    }
}

impl Eq for Netns {}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => path.display().fmt(f),
            None => f.write_str("the current network namespace"),
        }
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_needs_no_privilege_and_has_a_loopback() {
        let netns = Netns::current().unwrap();
        assert!(netns.cookie() != 0 && netns.inode() != 0);
        assert_eq!(netns.interface_index("lo").unwrap(), 1);
        let error = netns.interface_index("ethO").unwrap_err().to_string();
        assert!(
            error.contains("\"ethO\"") && error.contains("lo"),
            "{error}"
        );
    }

    #[test]
    fn loopback_has_an_ethernet_header() {
        let netns = Netns::current().unwrap();
        assert!(netns.check_ethernet("lo").is_ok());
        assert!(netns.check_ethernet("ethO").is_err());
    }

    #[test]
    fn a_missing_namespace_is_named_with_the_command_that_makes_it() {
        let error = Netns::open(Path::new("/run/netns/no-such")).unwrap_err();
        assert!(
            error.to_string().contains("ip netns add no-such"),
            "{error:#}"
        );
    }

    #[test]
    fn an_ordinary_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Netns::open(file.path()).unwrap_err();
        assert!(
            error.to_string().contains("not a network namespace"),
            "{error:#}"
        );
    }

    #[test]
    fn a_panic_inside_comes_out() {
        let netns = Netns::current().unwrap();
        let caught = panic::catch_unwind(|| netns.run::<()>(|| panic!("inside")));
        assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "inside");
    }
}
