//! Network namespaces.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps named namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";
/// The prefix of every namespace that this crate makes; the id of the process that made it follows.
pub(crate) const PREFIX: &str = "tp-";

/// A named network namespace, removed on drop.
pub struct Netns {
    name: String,
    handle: File,
}

impl Netns {
    /// A namespace with loopback up, where addresses are usable at once.
    pub fn new(role: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}{}-{}-{role}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let handle = File::open(format!("{DIRECTORY}/{name}"))
            .with_context(|| format!("namespace {name}"))?;
        let netns = Self { name, handle };
        // Neither addresses nor the link-local ones that neighbour discovery needs wait for duplicate
        // address detection: both settings must be off for that.
        for scope in ["all", "default"] {
            netns.set_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, as the agent's configuration names it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    /// Runs `ip` commands, one a line, without the word `ip`; blank lines are skipped.
    pub fn ip(&self, commands: &str) -> Result<()> {
        for line in commands.lines().filter(|line| !line.trim().is_empty()) {
            run(Command::new("ip")
                .args(["-n", &self.name])
                .args(line.split_whitespace()))?;
        }
        Ok(())
    }

    /// Joins two namespaces by a virtual cable whose ends are up.
    pub fn connect(&self, interface: &str, other: &Self, its_interface: &str) -> Result<()> {
        self.ip(&format!(
            "link add {interface} type veth peer name {its_interface} netns {}
             link set {interface} up",
            other.name
        ))?;
        other.ip(&format!("link set {its_interface} up"))
    }

    /// Runs `f` on a thread inside the namespace. Sockets that it makes stay there.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.join().expect("enter a namespace that exists");
                    f()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace for good.
    pub fn join(&self) -> nix::Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET)
    }

    /// A command that runs inside the namespace.
    pub fn command(&self, program: &str) -> Result<Command> {
        let handle = self.handle.try_clone()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setns(&handle, CloneFlags::CLONE_NEWNET)?));
        }
        Ok(command)
    }

    /// Whether a socket listens on this address and port.
    pub fn listens(&self, address: SocketAddr) -> Result<bool> {
        let table = if address.is_ipv4() { "tcp" } else { "tcp6" };
        let path = format!("/proc/thread-self/net/{table}");
        let sockets = self.enter(|| std::fs::read_to_string(path))?;
        // proc_pid_net(5): the second field is the local address in hex, by words as the machine reads
        // them, the fourth the state; 0A listens.
        let hex: String = match address.ip() {
            IpAddr::V4(ip) => vec![u32::from_ne_bytes(ip.octets())],
            IpAddr::V6(ip) => ip
                .octets()
                .as_chunks()
                .0
                .iter()
                .map(|word| u32::from_ne_bytes(*word))
                .collect(),
        }
        .iter()
        .map(|word| format!("{word:08X}"))
        .collect();
        let local = format!("{hex}:{:04X}", address.port());
        Ok(sockets.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.len() > 3 && fields[1] == local && fields[3] == "0A"
        }))
    }

    /// One of the namespace's counters below `TcpExt` (`/proc/net/netstat`).
    pub fn tcp_counter(&self, name: &str) -> Result<u64> {
        self.counter("TcpExt", name)
    }

    /// One of the namespace's counters below `group` (`/proc/net/netstat`, `/proc/net/snmp`).
    pub fn counter(&self, group: &str, name: &str) -> Result<u64> {
        let files = ["netstat", "snmp"].map(|file| format!("/proc/thread-self/net/{file}"));
        let tables = self.enter(|| files.map(std::fs::read_to_string));
        let table = tables.into_iter().collect::<Result<String, _>>()?;
        let mut lines = table.lines().filter_map(|line| {
            let values = line.strip_prefix(group)?;
            values.strip_prefix(':')
        });
        let (names, values) = (lines.next(), lines.next());
        let mut pairs = names
            .into_iter()
            .flat_map(str::split_whitespace)
            .zip(values.into_iter().flat_map(str::split_whitespace));
        let (_, value) = pairs
            .find(|(known, _)| *known == name)
            .with_context(|| format!("no counter {group} {name}"))?;
        Ok(value.parse()?)
    }

    /// Sets a kernel parameter of the namespace: a path below `/proc/sys`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| std::fs::write(&path, value))
            .with_context(|| format!("{path} in {}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a command and waits for its end. Returns its standard output, or an error with all that it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        let [stderr, stdout] =
            [&output.stderr, &output.stdout].map(|said| String::from_utf8_lossy(said));
        bail!(
            "{command:?}: {}: {}",
            output.status,
            format!("{}\n{}", stderr.trim(), stdout.trim()).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fails unless the process may create namespaces and load BPF programs.
pub fn require_privileges() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .context("no CapEff in /proc/self/status")?;
    // Numbers of linux/capability.h.
    let missing: Vec<_> = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")]
        .into_iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    ensure!(
        missing.is_empty(),
        "needs {}: run `cargo xtask test`, which uses sudo",
        missing.join(" and ")
    );
    Ok(())
}
