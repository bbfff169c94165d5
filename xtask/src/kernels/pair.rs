//! A machine alone, and two of the same making, joined by a cable between their network cards.
//!
//! The cable is two taps on a bridge, which pass a packet on with what the sender's card was to do about it: complete its
//! checksum, cut it into segments. It lies in a network namespace of its own, and both machines run in a process namespace
//! of their own: all of it goes with the first machine or with this program, however they end, and none of it takes a
//! privilege.

use std::{ffi::OsStr, process::Command};

use anyhow::{Context as _, Result};

/// Lays the cable, and runs the machine `$1` beside the machine that the other arguments are.
const JOIN: &str = "
set -e
ip link add bridge type bridge
for tap in near far; do
    ip tuntap add $tap mode tap
    ip link set $tap master bridge up
done
ip link set bridge up
sh -c \"exec $1\" &
shift
exec \"$@\"";

/// An end of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The machine whose job's end is waited for.
    Near,
    /// Its peer.
    Far,
}

impl End {
    /// The network card that the cable's end is in, for QEMU.
    pub(super) fn card(self) -> [String; 4] {
        let (tap, number) = match self {
            Self::Near => ("near", 1),
            Self::Far => ("far", 2),
        };
        [
            "-netdev".into(),
            format!("tap,id=cable,ifname={tap},script=no,downscript=no,vnet_hdr=on"),
            "-device".into(),
            format!("virtio-net-pci,netdev=cable,mac=52:54:00:00:00:0{number},romfile="),
        ]
    }
}

/// The command that runs a machine until it ends, or this program does, however that is.
pub(super) fn alone(machine: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(words(machine));
    command
}

/// The command that runs both machines until the near one ends.
pub(super) fn join(near: &Command, far: &Command) -> Result<Command> {
    let line: Option<Vec<_>> = words(far).map(OsStr::to_str).collect();
    let far = shlex::try_join(line.context("the peer's command is not UTF-8")?)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--user", "--map-root-user", "--net", "--pid", "--fork"])
        .args(["--kill-child", "sh", "-c", JOIN, "sh"])
        .arg(far)
        .args(words(near));
    Ok(command)
}

fn words(command: &Command) -> impl Iterator<Item = &OsStr> {
    std::iter::once(command.get_program()).chain(command.get_args())
}
