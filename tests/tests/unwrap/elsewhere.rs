//! What netfilter sends elsewhere is not the server's that listens here: DNAT to a container, though a proxy of the container
//! runtime listens on the same port, and REDIRECT to another port. It arrives as without truepeer, from whomever it comes; and
//! no server here gets a stream with a header in it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use agent_common::Counter;
use anyhow::{Context, Result, ensure};
use tests::agent::records::none_refused;
use tests::agent::{Agent, Config, truepeer};
use tests::clients::tcp::{connect, seen};
use tests::host::iptables;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::proxies::any;
use tests::proxies::proxy_header::v2;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway, Sidecar};

use crate::stage::{distrust, in_pod, on_gateway};

/// The port that is unwrapped.
const PORT: u16 = 8080;
/// A port that it is redirected to.
const OTHER: u16 = 9090;

/// Whom the application sees that has all bytes of a connection from its begin on: more than a header.
fn untouched(client: &Netns, target: SocketAddr) -> Result<SocketAddr> {
    let mut stream = connect(client, target)?;
    let seen = seen(&mut stream)?;
    ensure!(seen.accepted == stream.local_addr()?, "{seen:?}");
    let sent: Vec<u8> = [v2(target, target), (0..200).collect()].concat();
    stream.write_all(&sent)?;
    let mut echoed = vec![0; sent.len()];
    stream.read_exact(&mut echoed).context("the echo")?;
    ensure!(echoed == sent, "{echoed:?}");
    Ok(seen.local)
}

/// Whom the application sees behind a header that is taken off.
fn unwrapped(client: &Netns, target: SocketAddr) -> Result<SocketAddr> {
    let named = SocketAddr::new(Family::of(target).client(6), 4711);
    let mut stream = connect(client, target)?;
    stream.write_all(&v2(named, target))?;
    let seen = seen(&mut stream)?;
    ensure!(seen.accepted == named, "{seen:?}");
    Ok(seen.local)
}

/// Tries ports of both families of a host, of which one is unwrapped and goes where the rules of iptables say.
struct Stage<'a> {
    client: &'a Netns,
    host: &'a Netns,
    directory: &'a Path,
    rules: &'a dyn Fn(Family) -> String,
    target: fn(Family) -> SocketAddr,
    /// Where the application is that the rules lead to.
    elsewhere: fn(Family) -> SocketAddr,
}

impl Stage<'_> {
    fn is_led_elsewhere(&self) -> Result<()> {
        for family in Family::ALL {
            for _ in 0..5 {
                let local = untouched(self.client, (self.target)(family))?;
                ensure!(local == (self.elsewhere)(family), "{local}");
            }
        }
        Ok(())
    }

    fn is_unwrapped(&self) -> Result<()> {
        for family in Family::ALL {
            let target = (self.target)(family);
            for _ in 0..5 {
                let local = unwrapped(self.client, target)?;
                ensure!(local == target, "{local}");
            }
        }
        Ok(())
    }

    fn doctor_tells(&self, agent: &Agent) -> Result<()> {
        let config = agent.config().write()?;
        let config = config.to_str().context("a path")?;
        let said = truepeer(&["doctor", "--config", config])?.stdout;
        let said = String::from_utf8_lossy(&said);
        for family in Family::ALL {
            let server = (self.target)(family);
            let finding = format!("netfilter sends connections to {server} elsewhere");
            // Lines are as long as a terminal is wide.
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(said.contains(&finding), "{said}");
        }
        Ok(())
    }

    fn run(&self, config: Config, mut untrusted: Config) -> Result<()> {
        distrust(&mut untrusted);
        iptables::restore(self.host, self.directory, self.rules)?;
        self.is_led_elsewhere()?;
        let agent = Agent::start(self.directory, config)?;
        // The first connection shows it, and loses a second. Then nothing is sent twice.
        self.is_led_elsewhere()?;
        let timeouts = || self.client.tcp_counter("TCPTimeouts");
        let before = timeouts()?;
        self.is_led_elsewhere()?;
        let repeated = timeouts()? - before;
        ensure!(repeated == 0, "{repeated} segments were sent again");
        let elsewhere = agent.counter(Counter::UnwrapElsewhere)?;
        ensure!(elsewhere == 20, "{elsewhere} instead of 20");
        self.doctor_tells(&agent)?;
        // The rules go, and a server here answers what is taken for another's.
        iptables::restore(self.host, self.directory, |_| "*nat\nCOMMIT\n".into())?;
        self.is_unwrapped()?;
        iptables::restore(self.host, self.directory, self.rules)?;
        self.is_led_elsewhere()?;
        none_refused(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");

        let agent = Agent::start(self.directory, untrusted)?;
        self.is_led_elsewhere()?;
        none_refused(&agent)
    }
}

/// A published port of a container. The container runtime's own proxy listens on the host's port. `cookies`: how SYN cookies are
/// used.
fn published(cookies: &str) {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        for host in [&gateway.gateway, &gateway.server] {
            host.set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
        }
        let _proxy = Report::start(&gateway.gateway, any(PORT))?;
        let _container = Report::start(&gateway.server, any(PORT))?;
        let stage = Stage {
            client: &gateway.client,
            host: &gateway.gateway,
            directory,
            rules: &|family| {
                let to = SocketAddr::new(Gateway::server(family), PORT);
                let rule = format!("-i {} -p tcp --dport {PORT}", Gateway::FRONT);
                format!("*nat\n-A PREROUTING {rule} -j DNAT --to-destination {to}\nCOMMIT\n")
            },
            target: |family| (Gateway::front(family), PORT).into(),
            elsewhere: |family| (Gateway::server(family), PORT).into(),
        };
        let config = || on_gateway(directory, &gateway, &["8080"]);
        stage.run(config()?, config()?)
    });
}

#[test]
fn published_ports() {
    published("0");
}

/// The answers have no socket.
#[test]
fn published_ports_with_cookies() {
    published("2");
}

/// A redirection within the pod, to a proxy beside the server.
fn redirected(cookies: &str) {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        (sidecar.pod).set_sysctl("net/ipv4/tcp_syncookies", cookies)?;
        let _server = Report::start(&sidecar.pod, any(PORT))?;
        let _proxy = Report::start(&sidecar.pod, any(OTHER))?;
        let stage = Stage {
            client: &sidecar.client,
            host: &sidecar.pod,
            directory,
            rules: &|_| {
                let rule = format!("-p tcp --dport {PORT} -j REDIRECT --to-ports {OTHER}");
                format!("*nat\n-A PREROUTING {rule}\nCOMMIT\n")
            },
            target: |family| (Sidecar::address(family), PORT).into(),
            elsewhere: |family| (Sidecar::address(family), OTHER).into(),
        };
        let config = || in_pod(directory, &sidecar, &["8080"]);
        stage.run(config()?, config()?)
    });
}

#[test]
fn redirected_ports() {
    redirected("0");
}

/// The answers have no socket, wherever they come from: only the cookies tell.
#[test]
fn redirected_ports_with_cookies() {
    redirected("2");
}

/// Netfilter's SYNPROXY answers in the server's place, and connects to the server when it has an ACK: whoever is not trusted gets
/// none of that.
#[test]
fn a_proxy_of_handshakes() {
    scenario(|directory| {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        let _server = Report::start(pod, any(PORT))?;
        iptables::restore(pod, directory, |_| {
            let to = format!("-p tcp --dport {PORT}");
            let state = "-m conntrack --ctstate INVALID,UNTRACKED";
            let proxy = "-j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1400";
            format!(
                "*raw\n-A PREROUTING {to} --syn -j CT --notrack\nCOMMIT\n\
                 *filter\n-A INPUT {to} {state} {proxy}\n-A INPUT {to} {state} -j DROP\nCOMMIT\n"
            )
        })?;
        // What is in the middle of a connection, as far as conntrack knows, is the proxy's, too.
        pod.set_sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
        let targets = Family::ALL.map(|family| SocketAddr::new(Sidecar::address(family), PORT));
        for target in targets {
            let local = untouched(&sidecar.client, target)?;
            ensure!(local == target, "{local}");
        }
        let mut untrusted = in_pod(directory, &sidecar, &["8080"])?;
        distrust(&mut untrusted);
        let agent = Agent::start(directory, untrusted)?;
        for target in targets {
            let answer = sidecar.client.enter(|| TcpStream::connect(target));
            let error = answer.err().map(|error| error.kind());
            ensure!(error == Some(ErrorKind::ConnectionRefused), "{error:?}");
        }
        let untrusted = agent.counter(Counter::UnwrapUntrusted)?;
        ensure!(untrusted == 2, "{untrusted} are counted");
        Ok(())
    });
}

/// Without a listener, a published port is seen to be none of the host's at once.
#[test]
fn ports_without_a_listener() {
    scenario(|directory| {
        let gateway = Gateway::new()?;
        let _container = Report::start(&gateway.server, any(PORT))?;
        iptables::restore(&gateway.gateway, directory, |family| {
            let to = SocketAddr::new(Gateway::server(family), PORT);
            format!(
                "*nat\n-A PREROUTING -p tcp --dport {PORT} -j DNAT --to-destination {to}\nCOMMIT\n"
            )
        })?;
        let agent = Agent::start(directory, on_gateway(directory, &gateway, &["8080"])?)?;
        let before = gateway.client.tcp_counter("TCPTimeouts")?;
        for family in Family::ALL {
            untouched(&gateway.client, (Gateway::front(family), PORT).into())?;
        }
        let repeated = gateway.client.tcp_counter("TCPTimeouts")? - before;
        ensure!(repeated == 0, "{repeated} segments were sent again");
        none_refused(&agent)
    });
}
