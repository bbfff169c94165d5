//! nginx (1.22) as a proxy.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::host::netns::Netns;
use crate::host::process::{Process, find, unique};
use crate::host::user;
use crate::proxies::Route;

const PROXY_BIND: &str = "proxy_bind $remote_addr transparent;";

/// An ordinary TCP proxy: the application sees nginx's address.
pub fn plain(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    proxy(directory, netns, None, "stream", "", routes)
}

/// A proxy that connects in the client's name. Its listeners are ordinary ones: nginx cannot take
/// connections for addresses that are not its host's.
pub fn transparent(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    proxy(directory, netns, None, "stream", PROXY_BIND, routes)
}

/// A proxy that binds to the client's address, run by this user without capabilities.
pub fn binding(directory: &Path, netns: &Netns, uid: u32, routes: &[Route]) -> Result<Process> {
    proxy(directory, netns, Some(uid), "stream", PROXY_BIND, routes)
}

/// A proxy that tells its clients by a PROXY header of version 1.
pub fn telling(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    proxy(
        directory,
        netns,
        None,
        "stream",
        "proxy_protocol on;",
        routes,
    )
}

/// A TCP proxy that expects PROXY headers and tells nobody what they say.
pub fn accepting(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    let server = |(listen, upstream): &Route| {
        format!("  server {{ listen {listen} proxy_protocol; proxy_pass {upstream}; }}\n")
    };
    let servers: String = routes.iter().map(server).collect();
    let listen = routes.iter().map(|(listen, _)| *listen);
    start(directory, netns, None, "stream", &servers, listen)
}

/// An ordinary HTTP proxy.
pub fn http(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    proxy(directory, netns, None, "http", "", routes)
}

/// An HTTP proxy that appends its client to `X-Forwarded-For`.
pub fn forwarding(directory: &Path, netns: &Netns, routes: &[Route]) -> Result<Process> {
    let append = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    proxy(directory, netns, None, "http", append, routes)
}

/// An HTTP proxy that binds to the client's address, run by this user without capabilities.
pub fn http_binding(
    directory: &Path,
    netns: &Netns,
    uid: u32,
    routes: &[Route],
) -> Result<Process> {
    proxy(directory, netns, Some(uid), "http", PROXY_BIND, routes)
}

fn proxy(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    section: &str,
    bind: &str,
    routes: &[Route],
) -> Result<Process> {
    let mut servers = String::new();
    for (listen, upstream) in routes {
        let pass = if section == "http" {
            format!("access_log off; location / {{ proxy_pass http://{upstream}; }}")
        } else {
            format!("proxy_pass {upstream};")
        };
        writeln!(servers, "  server {{ listen {listen}; {bind} {pass} }}")?;
    }
    let listen = routes.iter().map(|(listen, _)| *listen);
    start(directory, netns, uid, section, &servers, listen)
}

/// Starts it with the section `http` or `stream` of its configuration: as root, the one user who may
/// bind foreign addresses without truepeer, or as another.
pub(crate) fn start(
    directory: &Path,
    netns: &Netns,
    uid: Option<u32>,
    section: &str,
    contents: &str,
    listen: impl Iterator<Item = SocketAddr>,
) -> Result<Process> {
    let name = unique("nginx");
    let home = user::directory(directory, &name, uid.unwrap_or(0))?;
    let file = home.join("nginx.conf");
    // Debian builds the stream module as a shared object that this directory loads; elsewhere it is
    // built in, and the pattern matches nothing.
    let user = if uid.is_none() { "user root;" } else { "" };
    let home_name = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .filter(|_| section == "http")
        .map(|kind| format!("  {kind}_temp_path {home_name}/{kind};\n"))
        .collect();
    let config = format!(
        "include /etc/nginx/modules-enabled/*.conf;
{user}
daemon off;
worker_processes 2;
pid {home_name}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
{section} {{
{temporary}{contents}}}
"
    );
    std::fs::write(&file, config)?;
    let program = find("NGINX_BIN", "nginx")?;
    let mut command = user::command_of(netns, uid, &program)?;
    command.args(["-e", "stderr", "-c"]).arg(&file);
    let mut process = Process::start(&name, command, directory)?;
    process.wait_until_it_listens(netns, listen)?;
    Ok(process)
}
