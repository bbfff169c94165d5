//! `cargo xtask test --kernel`: the tests on other kernels than this host's, each in a virtual machine that the command
//! makes.
//!
//! QEMU and debootstrap are Debian's; kernels come from Debian's suites and are unpacked, never installed. All of it is
//! kept in the cache. A machine has three disks, of which it changes none: the system, the kernel's modules, and the
//! job with what was built here.

mod architecture;
mod archive;
mod former;
mod image;
mod job;
mod kernel;
mod machine;
mod pair;
mod report;
mod system;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub(crate) use self::architecture::Architecture;
use self::{
    archive::{Archive, Wanted},
    job::Job,
    kernel::Kernel,
    machine::Machine,
    report::Report,
};
use crate::{process::require_root, setup, tools};

/// What `all` stands for: the kernels that Debian's releases have and that most users run, one between, and the newest.
const ALL: [&str; 4] = ["6.1", "6.12", "6.18", "newest"];
/// How long the load matrix may take, by far: emulated, a machine is ten to twenty times as slow.
const MATRIX: Duration = Duration::from_secs(10 * 60);
/// How long the scenarios may take.
const SCENARIOS: Duration = Duration::from_secs(8 * 60 * 60);

/// Runs the load matrix on each of these kernels, or with `e2e` all end-to-end tests; with a filter, only those whose
/// names contain it.
///
/// # Errors
///
/// When something failed on one of them, after the table.
pub(crate) fn test(
    kernels: &[String],
    architecture: Option<Architecture>,
    e2e: bool,
    filter: Option<&str>,
) -> Result<()> {
    let architecture = architecture.map_or_else(Architecture::own, Ok)?;
    let mut wanted = Vec::new();
    for kernel in kernels {
        let names = if kernel == "all" {
            ALL.to_vec()
        } else {
            vec![kernel.as_str()]
        };
        for name in names {
            let name = Wanted::parse(name)?;
            if !wanted.contains(&name) {
                wanted.push(name);
            }
        }
    }
    require_root()?;
    setup::toolchain()?;
    tools::install_machines(architecture.board().qemu)?;
    let archive = Archive::open(architecture)?;
    let system = system::install(&archive)?;
    let kernels = wanted
        .iter()
        .map(|wanted| Kernel::install(&archive, &archive.find(wanted)?))
        .collect::<Result<Vec<_>>>()?;
    let (job, limit) = match e2e {
        false => (Job::matrix(architecture, filter)?, MATRIX),
        true => (Job::scenarios(architecture, filter)?, SCENARIOS),
    };
    let mut report = Report::default();
    for kernel in &kernels {
        println!(
            "kernels: Linux {} for {}: starting",
            kernel.version,
            architecture.name()
        );
        let machine = Machine {
            architecture,
            kernel,
            system: &system,
            job: job.disk(),
            has_peer: job.has_peer(),
        };
        let started = Instant::now();
        let on_this = report.kernel(&kernel.version);
        let ended = machine.run(limit, |line| {
            println!("{line}");
            on_this.note(line);
        });
        on_this.ended(ended, started.elapsed());
    }
    println!("\n{report}");
    if !report.is_good() {
        bail!("some tests failed on some kernels");
    }
    Ok(())
}
