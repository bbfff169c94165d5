//! PostgreSQL, whose access rules are by client address.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::unistd::User;

use crate::host::netns::{Netns, run};
use crate::host::process::{Process, unique};
use crate::host::user;

/// Who owns the server: not root, and with a name.
const OWNER: &str = "postgres";

/// A PostgreSQL server with a socket for each family, stopped on drop.
pub struct Postgresql {
    #[expect(dead_code, reason = "stops on drop")]
    process: Process,
}

impl Postgresql {
    /// Serves `port` inside `netns` to clients with these addresses only.
    pub fn start(directory: &Path, netns: &Netns, port: u16, admitted: &[IpAddr]) -> Result<Self> {
        let name = unique("postgresql");
        let owner = User::from_name(OWNER)?
            .with_context(|| format!("there is no user {OWNER}: run `cargo xtask test`"))?
            .uid
            .as_raw();
        let data = user::directory(directory, &name, owner)?;
        let mut initdb = user::command(netns, owner, &program("initdb")?)?;
        initdb.args(["--auth=trust", "--no-locale", "--no-sync", "--pgdata"]);
        run(initdb.arg(&data).current_dir("/"))?;
        let rules: String = admitted
            .iter()
            .map(|address| {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                format!("host all all {address}/{bits} trust\n")
            })
            .collect();
        fs::write(data.join("pg_hba.conf"), rules)?;
        let mut command = user::command(netns, owner, &program("postgres")?)?;
        command.arg("-D").arg(&data).current_dir("/");
        for setting in [
            &format!("port={port}"),
            "listen_addresses=*",
            "unix_socket_directories=",
            "fsync=off",
        ] {
            command.args(["-c", setting]);
        }
        let mut process = Process::start(&name, command, directory)?;
        // It listens before it is ready.
        let status = data.join("postmaster.pid");
        process.wait_until_ready(|| {
            Ok(fs::read_to_string(&status).is_ok_and(|status| status.contains("ready")))
        })?;
        Ok(Self { process })
    }
}

/// Fails unless the answer is that the access rules admit nobody from `client`.
pub fn refuses(answer: Result<String>, client: IpAddr) -> Result<()> {
    let refusal = format!("no pg_hba.conf entry for host \"{client}\"");
    ensure!(
        answer
            .as_ref()
            .is_err_and(|error| error.to_string().contains(&refusal)),
        "expected: {refusal}, got {answer:?}"
    );
    Ok(())
}

/// What `psql` answers to a query from `netns`; the error is the server's when it refuses.
pub fn query(netns: &Netns, server: SocketAddr, query: &str) -> Result<String> {
    let psql = program("psql")?.display().to_string();
    let mut command = netns.command(&psql)?;
    command
        .args([
            "--no-psqlrc",
            "--no-password",
            "--tuples-only",
            "--no-align",
        ])
        .args(["--host", &server.ip().to_string()])
        .args(["--port", &server.port().to_string()])
        .args(["--username", OWNER, "--dbname", "postgres"])
        .args(["--command", query]);
    Ok(run(&mut command)?.trim().to_owned())
}

/// A program of the newest PostgreSQL: Debian keeps each version in a directory of its own.
fn program(name: &str) -> Result<PathBuf> {
    let versions = "/usr/lib/postgresql";
    fs::read_dir(versions)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin").join(name)))
        })
        .filter(|(_, path)| path.is_file())
        .max()
        .map(|(_, path)| path)
        .with_context(|| {
            format!("{versions} has no {name}: run `cargo xtask test`, which installs PostgreSQL")
        })
}
