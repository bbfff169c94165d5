//! The processors whose kernels are tried.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use clap::ValueEnum;

use crate::{dist::Target, setup, tools};

/// A processor, by Debian's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

/// How QEMU makes a machine of an architecture.
pub(crate) struct Board {
    /// The program, and Debian's package with it.
    pub(crate) qemu: (&'static str, &'static str),
    /// Machine and processor.
    pub(crate) options: &'static [&'static str],
    /// What makes a serial line of `chardev` `job`, which the guest knows as `ttyS0`; another follows for the console.
    pub(crate) job: &'static [&'static str],
    /// The console's name in the guest.
    pub(crate) console: &'static str,
    /// What the kernel needs to be told besides.
    pub(crate) append: &'static str,
}

const AMD64: Board = Board {
    qemu: ("qemu-system-x86_64", "qemu-system-x86"),
    options: &["-machine", "q35", "-cpu", "max"],
    job: &["-serial", "chardev:job"],
    console: "ttyS1",
    // An emulated timer's interrupts may come too late for the kernel's test of them, which ends in a panic.
    append: "no5lvl mitigations=off no_timer_check",
};

const ARM64: Board = Board {
    qemu: ("qemu-system-aarch64", "qemu-system-arm"),
    // Pointer authentication as the architecture has it would take most of an emulated processor's time.
    options: &[
        "-machine",
        "virt,gic-version=3",
        "-cpu",
        "max,pauth-impdef=on",
    ],
    job: &["-device", "pci-serial,chardev=job"],
    console: "ttyAMA0",
    append: "mitigations=off",
};

impl Architecture {
    /// This host's.
    ///
    /// # Errors
    ///
    /// When truepeer is not built for it.
    pub(crate) fn own() -> Result<Self> {
        Ok(match Target::own()? {
            Target::X86_64 => Self::Amd64,
            Target::Aarch64 => Self::Arm64,
        })
    }

    /// Whether its programs run on this host.
    pub(crate) fn is_own(self) -> bool {
        Self::own().is_ok_and(|own| own == self)
    }

    /// As Debian names it.
    pub(crate) fn name(self) -> &'static str {
        self.target().platform()
    }

    /// Envoy for it, of which `own` is for this host.
    pub(crate) fn envoy(self, own: &Path) -> Result<PathBuf> {
        if self.is_own() {
            return Ok(own.to_owned());
        }
        tools::envoy_for(self.target().architecture())
    }

    fn target(self) -> Target {
        match self {
            Self::Amd64 => Target::X86_64,
            Self::Arm64 => Target::Aarch64,
        }
    }

    pub(crate) fn board(self) -> &'static Board {
        match self {
            Self::Amd64 => &AMD64,
            Self::Arm64 => &ARM64,
        }
    }

    /// Has cargo build for it: statically where the host's own libraries do not run.
    pub(crate) fn select(self, command: &mut Command) -> Result<()> {
        if self.is_own() {
            return Ok(());
        }
        setup::target(&self.target().triple())?;
        self.target().select(command);
        Ok(())
    }

    /// What runs its machines: the processor itself, if it can and this user may have it do so, or an emulation by two
    /// threads.
    pub(crate) fn accelerator(self) -> &'static str {
        match self.is_emulated() {
            false => "kvm",
            true => "tcg,thread=multi",
        }
    }

    /// Whether its machines run on an emulated processor.
    pub(crate) fn is_emulated(self) -> bool {
        !(self.is_own() && has_kvm())
    }
}

fn has_kvm() -> bool {
    let can = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.split_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm")
    });
    can && env::consts::ARCH == "x86_64"
        && std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}
