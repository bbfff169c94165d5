//! HAProxy (2.6) as a proxy for TCP and for HTTP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::host::netns::Netns;
use crate::host::process::{Process, find, unique};
use crate::host::user;
use crate::proxies::{Listen, Route};
use crate::wait::{Limit, SOON};

/// How long a connection may be silent.
const IDLE: Limit = Limit::secs(60);

/// How much of the client's address HAProxy takes: the words of its `source … usesrc`.
#[derive(Clone, Copy, Debug)]
pub enum Usesrc {
    /// The address, with a port of its own.
    ClientIp,
    /// Address and port.
    Client,
    /// The last address in the header `X-Forwarded-For`.
    HdrIp,
}

const TCP: &str = "mode tcp";
const HTTP: &str = "mode http\n  http-reuse always";

/// An ordinary TCP proxy: the application sees HAProxy's address.
pub fn plain(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    start(directory, netns, None, TCP, None, routes)
}

/// A transparent proxy: it takes connections for any address, and connects in the client's name.
pub fn transparent(
    directory: &Path,
    netns: &Netns,
    usesrc: Usesrc,
    routes: &[Route],
) -> Result<Process> {
    start(directory, netns, None, TCP, Some(usesrc), routes)
}

/// A gateway's transparent proxy.
pub fn gateway(
    directory: &Path,
    netns: &Netns,
    usesrc: Usesrc,
    routes: &[Route],
    listen: Listen,
) -> Result<Process> {
    // HAProxy takes several global sections.
    let global = match listen {
        Listen::Shared => "",
        Listen::Alone => "global\n  noreuseport\n",
    };
    let config = format!("{global}{}", sections(Some(usesrc), routes)?);
    let listen = routes.iter().map(|(listen, _)| *listen);
    run(directory, netns, None, TCP, &config, listen)
}

/// A transparent proxy that this user runs without capabilities.
pub fn binding(
    directory: &Path,
    netns: &Netns,
    uid: u32,
    usesrc: Usesrc,
    routes: &[Route],
) -> Result<Process> {
    start(directory, netns, Some(uid), TCP, Some(usesrc), routes)
}

/// An HTTP proxy whose requests use each other's connections to the application as far as HAProxy lets
/// them; with `usesrc`, it connects in the client's name.
pub fn http(
    directory: &Path,
    netns: &Netns,
    usesrc: Option<Usesrc>,
    routes: &[Route],
) -> Result<Process> {
    start(directory, netns, None, HTTP, usesrc, routes)
}

/// An HTTP proxy that tells its clients by a line of `X-Forwarded-For`, and has a single connection for
/// all requests of all clients.
pub fn forwarding(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    let mut config = String::new();
    for (listen, upstream) in routes {
        let only = if listen.is_ipv6() { " v6only" } else { "" };
        let (ip, port) = (upstream.ip(), upstream.port());
        writeln!(
            config,
            "listen to-{ip}-{port}
  bind {listen}{only}
  option forwardfor
  server application {upstream} maxconn 1"
        )?;
    }
    let listen = routes.iter().map(|(listen, _)| *listen);
    run(directory, netns, None, HTTP, &config, listen)
}

/// A TCP proxy that tells its clients by a PROXY header; `send` is added to the `server` lines.
pub fn telling(directory: &Path, netns: &Netns, send: &str, routes: &[Route]) -> Result<Process> {
    checking(directory, netns, send, "", routes)
}

/// A TCP proxy as [`telling`] starts it, with directives that say how it checks its servers.
pub fn checking(
    directory: &Path,
    netns: &Netns,
    send: &str,
    check: &str,
    routes: &[Route],
) -> Result<Process> {
    let more = format!("unique-id-format id-of-%ci-%cp\n  {check}");
    each(directory, netns, ["", &more, send], routes)
}

/// A TCP proxy that expects PROXY headers and tells nobody what they say.
pub fn accepting(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    each(directory, netns, ["accept-proxy", "", ""], routes)
}

/// A TCP proxy with these words of its `bind` line, these lines of its own, and these words of its `server`
/// line.
fn each(
    directory: &Path,
    netns: &Netns,
    [bind, more, server]: [&str; 3],
    routes: &[Route],
) -> Result<Process> {
    let mut config = String::new();
    for (listen, upstream) in routes {
        let only = if listen.is_ipv6() { "v6only" } else { "" };
        let (ip, port) = (upstream.ip(), upstream.port());
        writeln!(
            config,
            "listen to-{ip}-{port}
  bind {listen} {bind} {only}
  {more}
  server application {upstream} {server}"
        )?;
    }
    let listen = routes.iter().map(|(listen, _)| *listen);
    run(directory, netns, None, TCP, &config, listen)
}

/// A web server that expects PROXY headers and answers with the client that they tell, and in the
/// header `unique-id` with what they say is the connection's.
pub fn told(directory: &Path, netns: &Netns, addresses: &[SocketAddr]) -> Result<Process> {
    let mut config = String::from("frontend told\n");
    for address in addresses {
        let only = if address.is_ipv6() { " v6only" } else { "" };
        writeln!(config, "  bind {address} accept-proxy{only}")?;
    }
    config += "  http-request return status 200 content-type text/plain lf-string \"%ci %cp\" \
               hdr unique-id %[fc_pp_unique_id]\n";
    run(
        directory,
        netns,
        None,
        HTTP,
        &config,
        addresses.iter().copied(),
    )
}

fn start(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    mode: &str,
    usesrc: Option<Usesrc>,
    routes: &[Route],
) -> Result<Process> {
    let config = sections(usesrc, routes)?;
    let listen = routes.iter().map(|(listen, _)| *listen);
    run(directory, netns, uid, mode, &config, listen)
}

/// A section for each route.
fn sections(usesrc: Option<Usesrc>, routes: &[Route]) -> Result<String> {
    let mut config = String::new();
    let transparent = if usesrc.is_some() { " transparent" } else { "" };
    for (listen, upstream) in routes {
        let only = if listen.is_ipv6() { " v6only" } else { "" };
        writeln!(
            config,
            "listen to-{}-{}\n  bind {listen}{transparent}{only}",
            upstream.ip(),
            upstream.port()
        )?;
        if let Some(usesrc) = usesrc {
            let word = match usesrc {
                Usesrc::ClientIp => "clientip",
                Usesrc::Client => "client",
                Usesrc::HdrIp => "hdr_ip(x-forwarded-for,-1)",
            };
            let any = if listen.is_ipv4() {
                "0.0.0.0"
            } else {
                "[::]:0"
            };
            writeln!(config, "  source {any} usesrc {word}")?;
        }
        writeln!(config, "  server application {upstream}")?;
    }
    Ok(config)
}

/// Runs it with these sections besides the general ones.
fn run(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    mode: &str,
    sections: &str,
    listen: impl Iterator<Item = SocketAddr>,
) -> Result<Process> {
    let idle = IDLE.here().as_millis();
    let config = format!(
        "global
  maxconn 8000
  nbthread 2
defaults
  {mode}
  timeout connect {}ms
  timeout client {idle}ms
  timeout server {idle}ms
{sections}",
        SOON.here().as_millis(),
    );
    let name = unique("haproxy");
    let file = directory.join(format!("{name}.cfg"));
    std::fs::write(&file, config)?;
    let program = find("HAPROXY_BIN", "haproxy")?;
    let mut command = user::command_of(netns, uid, &program)?;
    command.arg("-db").arg("-f").arg(&file);
    let mut process = Process::start(&name, command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}
