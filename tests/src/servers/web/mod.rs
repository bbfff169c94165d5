//! Real web servers that answer with the client's address and port as they see it, and log that.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::listener::canonical;
use crate::host::netns::{Netns, run};
use crate::host::process::{Process, find, unique};
use crate::host::user::{self, NOBODY};
use crate::proxies::{any, nginx};
use crate::wait::eventually;

/// nginx's words for the client.
const CLIENT: &str = "$remote_addr $remote_port";

/// A web server, stopped on drop.
pub struct Web {
    process: Process,
    access_log: PathBuf,
}

impl Web {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// nginx (C) on `addresses`, an IPv6 one for IPv6 only.
    pub fn nginx(directory: &Path, netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        Self::start_nginx(directory, netns, addresses, "", "", CLIENT)
    }

    /// nginx as of [`Self::nginx`], with an answer by which it is told apart.
    pub fn nginx_saying(
        directory: &Path,
        netns: &Netns,
        addresses: &[SocketAddr],
        answer: &str,
    ) -> Result<Self> {
        Self::start_nginx(directory, netns, addresses, "", "", answer)
    }

    /// nginx as of [`Self::nginx`], with TLS and a certificate that is made here.
    pub fn nginx_tls(directory: &Path, netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let name = unique("certificate");
        let certificate = directory.join(format!("{name}.pem"));
        let key = directory.join(format!("{name}.key"));
        run(Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=server"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate))?;
        let (certificate, key) = (certificate.display(), key.display());
        let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
        Self::start_nginx(directory, netns, addresses, "ssl", &tls, CLIENT)
    }

    /// nginx as of [`Self::nginx`], whose kernel keeps connections back until their first payload (TCP_DEFER_ACCEPT).
    pub fn nginx_deferred(
        directory: &Path,
        netns: &Netns,
        addresses: &[SocketAddr],
    ) -> Result<Self> {
        Self::start_nginx(directory, netns, addresses, "deferred", "", CLIENT)
    }

    /// nginx as of [`Self::nginx`], for connections that begin with a PROXY header: the client is the one it names.
    pub fn nginx_told(directory: &Path, netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let client = "$proxy_protocol_addr $proxy_protocol_port";
        Self::start_nginx(directory, netns, addresses, "proxy_protocol", "", client)
    }

    fn start_nginx(
        directory: &Path,
        netns: &Netns,
        addresses: &[SocketAddr],
        how: &str,
        settings: &str,
        client: &str,
    ) -> Result<Self> {
        let listen: String = addresses
            .iter()
            .map(|address| format!("listen {address} {how}; "))
            .collect();
        let access_log = directory.join(unique("nginx-access"));
        let http = format!(
            "  log_format clients '{client}';
  access_log {} clients;
  server {{ {listen}{settings} return 200 '{client}'; }}
",
            access_log.display()
        );
        let listen = addresses.iter().copied();
        Ok(Self {
            process: nginx::start(directory, netns, None, "http", &http, listen)?,
            access_log,
        })
    }

    /// Apache (C) on a dual-stack socket.
    pub fn apache(directory: &Path, netns: &Netns, port: u16) -> Result<Self> {
        let name = unique("apache");
        let home = user::directory(directory, &name, NOBODY)?;
        std::fs::write(
            home.join("index.shtml"),
            "<!--#echo var=\"REMOTE_ADDR\" --> <!--#echo var=\"REMOTE_PORT\" -->",
        )?;
        let modules: String = ["mpm_event", "authz_core", "dir", "include"]
            .iter()
            .map(|name| {
                format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n")
            })
            .collect();
        let access_log = home.join("access");
        let home_name = home.display();
        let config = home.join("apache.conf");
        std::fs::write(
            &config,
            format!(
                "{modules}ServerRoot {home_name}
DefaultRuntimeDir {home_name}
PidFile apache.pid
ServerName localhost
Listen {port}
ErrorLog |/bin/cat
LogFormat \"%a %{{remote}}p\" clients
CustomLog access clients
DocumentRoot {home_name}
DirectoryIndex index.shtml
Options Includes
SetOutputFilter INCLUDES
"
            ),
        )?;
        let program = find("APACHE_BIN", "apache2")?;
        let mut command = user::command(netns, NOBODY, program.as_ref())?;
        command.arg("-DFOREGROUND").arg("-f").arg(config);
        Self::dual_stack(directory, netns, port, &name, command, access_log)
    }

    /// Caddy, a server in Go, on a dual-stack socket.
    pub fn caddy(directory: &Path, netns: &Netns, port: u16) -> Result<Self> {
        let name = unique("caddy");
        let access_log = directory.join(unique("caddy-access"));
        let config = directory.join(format!("{name}.conf"));
        std::fs::write(
            &config,
            format!(
                "{{
  admin off
}}
http://:{port} {{
  log {{
    output file {}
  }}
  respond \"{{http.request.remote.host}} {{http.request.remote.port}}\"
}}
",
                access_log.display()
            ),
        )?;
        let mut command = netns.command(&find("CADDY_BIN", "caddy")?)?;
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(config)
            // Where it keeps its state.
            .env("XDG_CONFIG_HOME", directory)
            .env("XDG_DATA_HOME", directory);
        Self::dual_stack(directory, netns, port, &name, command, access_log)
    }

    /// Python's own `http.server` on a dual-stack socket.
    pub fn python(directory: &Path, netns: &Netns, port: u16) -> Result<Self> {
        let program = find("PYTHON_BIN", "python3")?;
        Self::script(
            directory,
            netns,
            port,
            &program,
            "-c",
            include_str!("server.py"),
        )
    }

    /// Node.js's own `http` on a dual-stack socket.
    pub fn node(directory: &Path, netns: &Netns, port: u16) -> Result<Self> {
        let program = find("NODE_BIN", "node")?;
        Self::script(
            directory,
            netns,
            port,
            &program,
            "-e",
            include_str!("server.js"),
        )
    }

    /// Node.js on a dual-stack socket, with an answer that tells the request as it came
    /// ([`crate::clients::http::Request`]).
    pub fn echo(directory: &Path, netns: &Netns, port: u16) -> Result<Self> {
        let program = find("NODE_BIN", "node")?;
        let source = include_str!("echo.js");
        Self::script(directory, netns, port, &program, "-e", source)
    }

    /// A script of ours that logs to its standard output.
    fn script(
        directory: &Path,
        netns: &Netns,
        port: u16,
        program: &str,
        option: &str,
        source: &str,
    ) -> Result<Self> {
        let name = unique("script");
        let access_log = directory.join(format!("{name}.log"));
        let mut command = netns.command(program)?;
        command.args([option, source, &port.to_string()]);
        Self::dual_stack(directory, netns, port, &name, command, access_log)
    }

    fn dual_stack(
        directory: &Path,
        netns: &Netns,
        port: u16,
        name: &str,
        command: Command,
        access_log: PathBuf,
    ) -> Result<Self> {
        let mut process = Process::start(name, command, directory)?;
        process.wait_until_it_listens(netns, [any(port)])?;
        Ok(Self {
            process,
            access_log,
        })
    }

    /// The clients in its access log, which has `count` of them in the end: a server logs when it has
    /// answered.
    pub fn logged(&self, count: usize) -> Result<Vec<SocketAddr>> {
        let what = format!("{count} clients are in {}", self.access_log.display());
        let log = eventually(&what, || {
            let log = std::fs::read_to_string(&self.access_log)?;
            let is_complete = log.ends_with('\n') && log.lines().count() >= count;
            Ok(is_complete.then_some(log))
        })?;
        let clients: Vec<_> = log.lines().map(logged_client).collect::<Result<_>>()?;
        ensure!(
            clients.len() == count,
            "{} instead of {what}",
            clients.len()
        );
        Ok(clients)
    }
}

/// Reads a line of an access log: Caddy's is JSON.
fn logged_client(line: &str) -> Result<SocketAddr> {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return parse_client(line);
    };
    let request = &line["request"];
    match (&request["remote_ip"], &request["remote_port"]) {
        (Value::String(ip), Value::String(port)) => parse_client(&format!("{ip} {port}")),
        _ => bail!("no client in {line}"),
    }
}

/// Reads an address and a port; an IPv4 client of a dual-stack socket may come in mapped form.
pub fn parse_client(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text
        .split_once(' ')
        .with_context(|| format!("`{text}` is not an address and a port"))?;
    Ok(canonical(SocketAddr::new(ip.parse()?, port.parse()?)))
}
