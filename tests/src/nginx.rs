//! nginx (1.22): as a TCP proxy and as an application that logs whom it sees.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::process::{Process, Route, find, unique};

/// An ordinary TCP proxy: the application sees nginx's address.
pub fn plain(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    stream(directory, netns, "", routes)
}

/// A proxy that connects in the client's name. Its listeners are ordinary ones: nginx cannot take
/// connections for addresses that are not its host's.
pub fn transparent(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    stream(
        directory,
        netns,
        "proxy_bind $remote_addr transparent;",
        routes,
    )
}

fn stream(directory: &Path, netns: &Netns, bind: &str, routes: &[Route]) -> Result<Process> {
    let mut servers = String::new();
    for (listen, upstream) in routes {
        writeln!(
            servers,
            "  server {{ listen {listen}; proxy_pass {upstream}; {bind} }}"
        )?;
    }
    let listen = routes.iter().map(|(listen, _)| *listen);
    start(
        directory,
        netns,
        &format!("stream {{\n{servers}}}\n"),
        listen,
    )
}

/// A web server that answers with the client's address as it sees it, and logs that.
pub struct Web {
    #[expect(dead_code, reason = "stops on drop")]
    process: Process,
    access_log: PathBuf,
}

impl Web {
    /// Serves `addresses` inside `netns`.
    pub fn start(directory: &Path, netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let access_log = directory.join(unique("nginx-access"));
        let listen: String = addresses
            .iter()
            .map(|a| format!("    listen {a};\n"))
            .collect();
        let directory_name = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("  {kind}_temp_path {directory_name}/nginx-{kind};\n"))
            .collect();
        let http = format!(
            "http {{
{temporary}  log_format clients '$remote_addr $remote_port';
  access_log {} clients;
  server {{
{listen}    return 200 '$remote_addr $remote_port';
  }}
}}
",
            access_log.display()
        );
        let process = start(directory, netns, &http, addresses.iter().copied())?;
        Ok(Self {
            process,
            access_log,
        })
    }

    /// The clients in its access log.
    pub fn logged(&self) -> Result<Vec<SocketAddr>> {
        std::fs::read_to_string(&self.access_log)?
            .lines()
            .map(parse_client)
            .collect()
    }
}

/// Reads `$remote_addr $remote_port`.
pub fn parse_client(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text
        .split_once(' ')
        .with_context(|| format!("`{text}` is not an address and a port"))?;
    Ok(SocketAddr::new(ip.parse()?, port.parse()?))
}

fn start(
    directory: &Path,
    netns: &Netns,
    section: &str,
    listen: impl Iterator<Item = SocketAddr>,
) -> Result<Process> {
    let name = unique("nginx");
    let file = directory.join(format!("{name}.conf"));
    // Debian builds the stream module as a shared object that this directory loads; elsewhere it is
    // built in, and the pattern matches nothing. Only root may bind addresses that are not its own.
    let config = format!(
        "include /etc/nginx/modules-enabled/*.conf;
user root;
daemon off;
worker_processes 2;
pid {}.pid;
error_log stderr;
events {{ worker_connections 4096; }}
{section}",
        directory.join(&name).display()
    );
    std::fs::write(&file, config)?;
    let mut command = netns.command(&find("NGINX_BIN", "nginx")?)?;
    command.args(["-e", "stderr", "-c"]).arg(&file);
    let mut process = Process::start(&name, command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}
