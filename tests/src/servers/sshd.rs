//! OpenSSH's server, which logs who connects.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use anyhow::{Result, ensure};

use crate::host::netns::{Netns, run};
use crate::host::process::{Process, find, unique};
use crate::proxies::{any, any_v4};

/// `sshd` with a socket for each family, stopped on drop.
pub struct Sshd {
    process: Process,
    #[expect(dead_code, reason = "removed on drop, after the process")]
    privilege_separation: PrivilegeSeparation,
}

impl Sshd {
    /// Serves `port` inside `netns`, with a host key of its own.
    pub fn start(directory: &Path, netns: &Netns, port: u16) -> Result<Self> {
        let name = unique("sshd");
        let key = directory.join(format!("{name}-key"));
        let privilege_separation = PrivilegeSeparation::new()?;
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key))?;
        let mut command = netns.command(&find("SSHD_BIN", "sshd")?)?;
        command.args(["-D", "-e", "-f", "/dev/null"]);
        for option in [
            &format!("Port={port}"),
            &format!("HostKey={}", key.display()),
            "LogLevel=VERBOSE",
            "PidFile=none",
        ] {
            command.args(["-o", option]);
        }
        let mut process = Process::start(&name, command, directory)?;
        process.wait_until_it_listens(netns, [any_v4(port), any(port)])?;
        Ok(Self {
            process,
            privilege_separation,
        })
    }

    /// The addresses that connected, as it logged them.
    pub fn logged(&self) -> Result<Vec<IpAddr>> {
        let log = self.process.log()?;
        log.lines()
            .filter_map(|line| line.strip_prefix("Connection from ")?.split(' ').next())
            .map(|address| Ok(address.parse()?))
            .collect()
    }
}

/// Connects from this address as `ssh` does; that the server then knows no key of ours does not matter.
pub fn connect(netns: &Netns, source: IpAddr, target: SocketAddr) -> Result<()> {
    let mut ssh = netns.command("ssh")?;
    ssh.args(["-F", "none", "-b", &source.to_string()])
        .args(["-p", &target.port().to_string()])
        .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null"])
        .args(["-l", "nobody", &target.ip().to_string(), "true"]);
    let said = ssh.stdin(Stdio::null()).output()?.stderr;
    let said = String::from_utf8_lossy(&said);
    ensure!(said.contains("Permission denied"), "ssh says: {said}");
    Ok(())
}

/// The empty directory that sshd wants, which Debian makes when the service starts.
struct PrivilegeSeparation {
    made: Option<PathBuf>,
}

impl PrivilegeSeparation {
    fn new() -> Result<Self> {
        let path = PathBuf::from("/run/sshd");
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { made: Some(path) }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Self { made: None }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for PrivilegeSeparation {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            let _ = fs::remove_dir(path);
        }
    }
}
