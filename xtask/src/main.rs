//! truepeer's chores. `cargo xtask --help` lists them.

mod apt;
mod cargo;
mod chores;
mod dist;
mod fuzz;
mod kernels;
#[cfg(test)]
mod layouts;
mod lint;
mod process;
mod scenarios;
mod setup;
mod toolchain;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use dist::Target;
use fuzz::Limit;
use kernels::Architecture;
use lint::Check;

/// truepeer's chores.
///
/// Every chore first finds or installs what it needs: a compiler for BPF and bpf-linker, iptables for `run`, and
/// real proxies for `test` and `bench`. What it installs goes into ~/.cache/truepeer, except for Debian packages.
/// Everything is built as the calling user; only the finished programs run as root.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Find or install what compiles the BPF programs; the second time, there is nothing left to do
    Setup,
    /// Build the agent, one binary with the BPF programs inside, and print its path and size
    Build {
        /// Optimise it
        #[arg(long)]
        release: bool,
    },
    /// Show in a playground what an application sees without and with truepeer (root)
    ///
    /// The playground is made of network namespaces of its own; nothing on this host changes. It
    /// stays up until Ctrl-C. With arguments after `--`, the agent runs on this host instead.
    #[command(
        after_help = "Examples:\n  cargo xtask run\n  cargo xtask run --once\n  \
                            cargo xtask run -- --config truepeer.toml"
    )]
    Run {
        /// Exit after the table; the exit code says whether every row is right
        #[arg(long, conflicts_with = "args")]
        once: bool,
        /// Arguments of `truepeer run`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Check imports and documents, then run the unit tests and the end-to-end tests with real proxies (root)
    ///
    /// Time limits are multiplied by a factor, which is measured unless TRUEPEER_TIME_FACTOR sets it.
    /// tests/README.md tells more.
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --unit\n  \
                            cargo xtask test --e2e envoy\n  \
                            cargo xtask test --e2e relay::life\n  \
                            cargo xtask test --kernel 6.1 --kernel newest\n  \
                            cargo xtask test --kernel all --e2e unwrap\n  \
                            cargo xtask test --kernel 6.12 --arch arm64"
    )]
    Test {
        /// Only tests whose full names contain this: `unwrap::tlvs`, `policy_life::reloads`
        filter: Option<String>,
        /// Only the checks and the unit tests; they need no root
        #[arg(long, conflicts_with = "e2e")]
        unit: bool,
        /// Only the end-to-end tests
        #[arg(long)]
        e2e: bool,
        /// Instead on another kernel: a series such as 6.12, `newest`, or `all`; once for each
        ///
        /// Each is Debian's, in a virtual machine, which is emulated where the processor cannot do better. There, every
        /// program is loaded and every section of the configuration tried; with --e2e, the end-to-end tests run.
        #[arg(
            long,
            value_name = "KERNEL",
            conflicts_with = "unit",
            verbatim_doc_comment
        )]
        kernel: Vec<String>,
        /// The processor of the virtual machine: this host's, unless it is given
        #[arg(long, requires = "kernel")]
        arch: Option<Architecture>,
    },
    /// Load every way to an application while agents are killed, replaced and reloaded around it (root)
    ///
    /// Connections by steer, bind, unwrap, relays for TCP and HTTP, TOA and nothing at all, over IPv4 and IPv6, compare every
    /// byte and ask whom the application sees. Meanwhile the agent is killed, restarted, taken over from, replaced by other
    /// versions, and reads good and bad configurations; a trusted service restarts, rules and programs are removed, maps are
    /// filled, and packets are lost and reordered. Each event is printed, and every minute a table. The first thing that is
    /// not as promised ends the soak, with what had happened before. TRUEPEER_SEED chooses the events; it is printed.
    /// Ctrl-C removes everything.
    #[command(
        after_help = "Examples:\n  cargo xtask soak --hours 8\n  cargo xtask soak --hours 0.05\n  \
                            TRUEPEER_SEED=1795955747 cargo xtask soak --hours 0.5"
    )]
    Soak {
        /// How long, at least; fractions are possible
        #[arg(long, value_parser = chores::hours)]
        hours: std::time::Duration,
    },
    /// Measure steering, evidence and getpeername(), each against going without (root)
    #[command(
        after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --json figures.json\n  \
                            cargo xtask bench -- --only accept --rounds 5"
    )]
    Bench {
        /// Write the figures to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Options of the benchmark itself; `-- --help` lists them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Have fuzzers look for bytes that are read wrongly; without a name, list them
    ///
    /// An input on which one fails is shown and kept in target/fuzz/failed, with the command that runs it again. What reaches
    /// new code is kept in target/fuzz/corpus, where the next run goes on. Each processor runs one; Ctrl-C ends them and tells how far
    /// they have come. tests/README.md tells more.
    #[command(
        after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz toa\n  \
                            cargo xtask fuzz toa --runs 100000000\n  \
                            cargo xtask fuzz all --seconds 600\n  \
                            cargo xtask fuzz toa target/fuzz/failed/toa/crash-0123"
    )]
    Fuzz {
        /// A fuzzer, or `all`, one after the other
        name: Option<String>,
        /// Read these inputs once instead
        #[arg(requires = "name")]
        inputs: Vec<PathBuf>,
        /// End after so many inputs
        #[arg(long, conflicts_with_all = ["seconds", "minimise", "inputs"],
              value_parser = clap::value_parser!(u64).range(1..=Limit::MAX_RUNS))]
        runs: Option<u64>,
        /// End after so many seconds; 60, unless a limit is given
        #[arg(long, conflicts_with_all = ["minimise", "inputs"])]
        seconds: Option<u64>,
        /// Instead, have the inputs in the tree be the fewest that reach as much as all that were found
        #[arg(long, requires = "name", conflicts_with = "inputs")]
        minimise: bool,
    },
    /// Make what is published: static binaries, an OCI image, man pages, completions, checksums
    ///
    /// Everything goes into target/dist. No container engine is needed.
    #[command(after_help = "Examples:\n  cargo xtask dist\n  \
                            cargo xtask dist --target aarch64-unknown-linux-musl")]
    Dist {
        /// Only for this target; may be repeated
        #[arg(long)]
        target: Vec<Target>,
    },
    /// Check format, clippy, what imports what, and what documents tell you to type
    #[command(after_help = "Examples:\n  cargo xtask lint\n  cargo xtask lint --only floors")]
    Lint {
        /// Only this check
        #[arg(long)]
        only: Option<Check>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().chore {
        Chore::Setup => setup::toolchain(),
        Chore::Build { release } => chores::build(release),
        Chore::Run { once, args } => chores::playground(once, &args),
        Chore::Test {
            filter,
            unit: _,
            e2e,
            kernel,
            arch,
        } if !kernel.is_empty() => kernels::test(&kernel, arch, e2e, filter.as_deref()),
        Chore::Test {
            filter, unit, e2e, ..
        } => chores::test(filter.as_deref(), unit, e2e),
        Chore::Soak { hours } => chores::soak(hours),
        Chore::Bench { json, args } => chores::bench(json.as_deref(), &args),
        Chore::Fuzz {
            name: Some(name),
            minimise: true,
            ..
        } => fuzz::minimise(&name),
        Chore::Fuzz {
            name,
            inputs,
            runs,
            seconds,
            ..
        } => {
            let limit = runs.map(Limit::Runs).or(seconds.map(Limit::Seconds));
            fuzz::fuzz(name.as_deref(), &inputs, limit)
        }
        Chore::Dist { target } => dist::dist(&target),
        Chore::Lint { only } => lint::lint(only),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
