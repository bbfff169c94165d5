//! Shows what truepeer does, in namespaces of its own: connections through transparent proxies, and
//! whom the application sees without truepeer and with it.

mod route;
mod scene;
mod table;
mod way;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tests::agent::binary;
use tests::host::netns::require_privileges;
use tests::host::traces::remove_orphans;
use tests::roles::Role;

use crate::scene::Playground;

/// Lays out a playground and shows whom an application behind a proxy sees, before and after.
#[derive(Parser)]
struct Arguments {
    /// Exit after the table; the status is not zero if any row is wrong
    #[arg(long)]
    once: bool,
    /// The agent's binary [default: the newest below target/]
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(role) = arguments.role {
        return role.play().map(|()| ExitCode::SUCCESS);
    }
    require_privileges()?;
    let agent = match arguments.agent {
        Some(path) => path,
        None => binary()?,
    };
    // Blocked before the first thread starts: a signal waits until everything stands and can be
    // taken down in order.
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block()?;
    remove_orphans()?;

    println!(
        "Laying out namespaces: client, pod, twice; client, gateway, server; client, nodes, pods"
    );
    let playground = Playground::new()?;
    println!("Connecting through ordinary proxies, without truepeer");
    let before = playground.before()?;
    println!("Starting transparent proxies and {} run", agent.display());
    let steered = playground.steer(&agent)?;
    println!("Connecting through them\n");
    let after = playground.after();
    let good = table::print(&before, &after, &steered.agent)?;
    if !arguments.once {
        playground.print_hints(&agent, &steered);
        stop.wait()?;
        println!("\nRemoving everything");
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
