//! A network namespace, and code that runs inside one.

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
    getsockopt_impl, libc,
    sched::{CloneFlags, setns, unshare},
    sockopt_impl,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, getsockopt, socket},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use tokio::runtime;

use crate::host::{confinement, proc};

/// Where `ip netns add` keeps the namespaces that have a name.
const NAMED: &str = "/run/netns";

/// Index of `lo`, the same in every namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;

/// The calling thread's namespace; `/proc/self` is that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

thread_local! {
    /// Inode of the namespace that [`Netns::run`] started this thread for.
    static INSIDE: Cell<Option<u64>> = const { Cell::new(None) };
}

// nix lacks this option.
sockopt_impl!(
    /// SO_NETNS_COOKIE, Linux 5.14.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// A handle of a network namespace, which keeps the namespace alive.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    path: Option<PathBuf>,
    inode: u64,
    cookie: u64,
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

    /// Creates a namespace without a name, which ends with its last handle, and sets its `lo` up.
    pub fn create() -> Result<Self> {
        let netns = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                Errno::EPERM => confinement::lacks("CAP_SYS_ADMIN"),
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

    /// Every namespace that this process can see: its own, those in `/run/netns` and those of processes. It leaves
    /// out namespaces that vanish meanwhile.
    pub fn all() -> Result<Vec<Self>> {
        let own = Self::current()?;
        let mut seen = HashSet::from([own.inode]);
        let mut all = vec![own];
        let named = std::fs::read_dir(NAMED)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        let of_processes = proc::pids()?.map(|pid| format!("/proc/{pid}/ns/net").into());
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

    /// The path by which it was opened; `None` for the calling thread's namespace.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The namespace's cookie, which the kernel never reuses during a boot.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The namespace's inode, as `ls -L -i /run/netns` and `lsns` show it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` inside the namespace, on a thread of its own: the caller's thread, which may belong to the async
    /// runtime, never changes its namespace. A nested call for the same namespace runs `f` on the same thread.
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

    /// Moves the calling thread into the namespace. A thread that is there already needs no capability.
    fn enter(&self) -> Result<()> {
        if std::fs::metadata(OWN)?.ino() == self.inode {
            return Ok(());
        }
        setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EPERM => {
                confinement::lacks("CAP_SYS_ADMIN").context(format!("cannot enter {self}"))
            }
            Errno::EINVAL => anyhow!("cannot enter {self}: it is a namespace of another kind"),
            errno => anyhow!("cannot enter {self}: {errno}"),
        })
    }

    /// Runs `f` inside the namespace, with a route netlink connection (rtnetlink) to that namespace.
    pub fn netlink<T: Send>(
        &self,
        f: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T> + Send,
    ) -> Result<T> {
        self.run(|| {
            runtime::Builder::new_current_thread()
                .enable_io()
                .build()?
                .block_on(async {
                    // With strict checks, the kernel filters dumps and refuses attributes that it does not know.
                    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
                        .context("cannot open a route netlink socket")?;
                    tokio::spawn(connection);
                    f(handle).await
                })
        })
    }
}

/// The id of the current boot, which no namespace outlives.
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
    fn the_current_namespace_needs_no_privilege() {
        let netns = Netns::current().unwrap();
        assert!(netns.cookie() != 0 && netns.inode() != 0);
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
