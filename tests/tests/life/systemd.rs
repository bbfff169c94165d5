//! The agent as a service of systemd, by the unit that is handed out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::agent::{Config, Relay, Unwrap, binary};
use tests::balancer::{APPLICATION, config, crowd, plain, relay_of};
use tests::clients::load::Load;
use tests::clients::tcp::connect;
use tests::cluster::manifests::deploy;
use tests::host::netns::Netns;
use tests::host::scenario;
use tests::host::systemd::Systemd;
use tests::proxies::any;
use tests::servers::report::Report;
use tests::topology::{Family, Gateway};
use tests::wait::eventually;

const UNIT: &str = "truepeer.service";
const SOCKET: &str = "truepeer.socket";
/// Where the relay of the handbook's socket unit listens.
const HTTPS: u16 = 443;
/// More often than systemd starts a service within ten seconds, unless the unit says otherwise.
const CRASHES: usize = 6;

/// A server on which truepeer is installed as the archive of `cargo xtask dist` has it, and an application.
struct Server {
    host: Systemd,
    config: PathBuf,
    topology: Gateway,
    _application: Report,
}

impl Server {
    fn new(directory: &Path) -> Result<Self> {
        let topology = Gateway::new()?;
        let root = directory.join("host");
        for path in ["usr/bin", "etc", "units/truepeer.service.d", "config"] {
            fs::create_dir_all(root.join(path))?;
        }
        fs::copy(binary()?, root.join("usr/bin/truepeer"))?;
        let unit = deploy().join("systemd").join(UNIT);
        fs::copy(unit, root.join("units").join(UNIT))?;
        // What is changed later is not to be among the files that an overlay shows.
        std::os::unix::fs::symlink(root.join("config"), root.join("etc/truepeer"))?;
        let log = directory.join("agent.log");
        let log = format!(
            "[Service]\nStandardOutput=append:{}\nStandardError=inherit\n",
            log.display()
        );
        fs::write(root.join("units/truepeer.service.d/log.conf"), log)?;
        Ok(Self {
            host: Systemd::boot(&root, &topology.server)?,
            config: root.join("config/truepeer.toml"),
            _application: Report::start(&topology.server, any(APPLICATION))?,
            topology,
        })
    }

    /// An agent's configuration with these relays, whose files are where the unit has them.
    fn config(&self, directory: &Path, relays: Vec<Relay>) -> Result<Config> {
        let mut config = config(directory, relays)?;
        config.agent.socket = "/run/truepeer/truepeer.sock".into();
        config.agent.pods = "/var/lib/truepeer/pods".into();
        Ok(config)
    }

    fn write(&self, config: &Config) -> Result<()> {
        Ok(fs::write(&self.config, toml::to_string(config)?)?)
    }

    fn property(&self, name: &str) -> Result<String> {
        self.host.property(UNIT, name)
    }

    /// The agent runs, and what it tells of itself has all of these words.
    fn serves(&self, words: &[&str]) -> Result<()> {
        let (state, text) = (self.property("ActiveState")?, self.property("StatusText")?);
        let says = words.iter().all(|word| text.contains(word));
        ensure!(
            state == "active" && says,
            "{state}: {text:?}, and not {words:?}"
        );
        Ok(())
    }

    /// How many sockets systemd keeps.
    fn kept(&self, count: usize) -> Result<()> {
        let what = format!("systemd keeps {count} sockets");
        eventually(&what, || {
            let kept = self.property("NFileDescriptorStore")?;
            Ok((kept == count.to_string()).then_some(()))
        })
    }

    fn is_refused(&self, address: std::net::SocketAddr) -> bool {
        connect(&self.topology.client, address).is_err()
    }
}

#[test]
fn restarts_and_crashes_refuse_nobody() {
    scenario(|directory| {
        let server = Server::new(directory)?;
        let (host, client) = (&server.host, &server.topology.client);
        let mut config = server.config(directory, plain(&server.topology))?;
        config.agent.drain = Some(5);
        server.write(&config)?;
        // It has started when all is in place.
        host.systemctl(&["start", UNIT])?;
        server.serves(&["in place: ", "2 [[relay]]"])?;
        crowd().run(client).all_exact()?;
        server.kept(2)?;
        let ((), outcome) = crowd().during(client, |progress| {
            for _ in 0..3 {
                host.systemctl(&["restart", UNIT])?;
                server.serves(&["2 [[relay]]"])?;
                progress.more("with another agent")?;
            }
            Ok(())
        })?;
        outcome.all_exact()?;
        for crash in 1..=CRASHES {
            host.systemctl(&["kill", "--signal=KILL", UNIT])?;
            eventually("the agent is dead", || {
                let state = server.property("SubState")?;
                Ok((state == "auto-restart").then_some(()))
            })?;
            // Those that connect now wait for the next one.
            let outcome = crowd().run(client);
            outcome
                .all_exact()
                .with_context(|| format!("after crash {crash}"))?;
        }
        server.serves(&["2 [[relay]]"])?;
        let said = fs::read_to_string(directory.join("agent.log"))?;
        let starts = said.matches("attached after").count();
        ensure!(starts == 1 + 3 + CRASHES, "{starts} starts");

        host.systemctl(&["stop", UNIT])?;
        server.kept(0)?;
        for family in Family::ALL {
            ensure!(
                server.is_refused(relay_of(family)),
                "{family:?}: somebody listens"
            );
        }
        let left: Vec<_> = fs::read_dir(host.file("/run/truepeer"))?.collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_bad_configuration_is_told() {
    scenario(|directory| {
        let server = Server::new(directory)?;
        let (host, client) = (&server.host, &server.topology.client);
        let both = server.config(directory, plain(&server.topology))?;
        // What cannot start is tried again.
        fs::write(&server.config, "[[relai]]\n")?;
        host.systemctl_fails(&["start", UNIT])?;
        server.write(&both)?;
        eventually("the agent starts when it can", || {
            Ok(server.serves(&["2 [[relay]]"]).ok())
        })?;
        crowd().run(client).all_exact()?;

        // It has mounts of its own, and sees network namespaces that are newer than these.
        let later = Netns::new("later")?;
        let mut more = both.clone();
        let upstream = any(APPLICATION);
        let listen = any(HTTPS);
        more.relay
            .push(Relay::proxy(&later, listen, upstream, "plain"));
        server.write(&more)?;
        host.systemctl(&["reload", UNIT])?;
        server.serves(&["3 [[relay]]"])?;
        ensure!(later.listens(listen)?, "nobody listens in {}", later.name());

        let mut one = both.clone();
        one.relay.pop();
        server.write(&one)?;
        host.systemctl(&["reload", UNIT])?;
        server.serves(&["1 [[relay]]"])?;
        server.kept(1)?;
        ensure!(server.is_refused(relay_of(Family::V6)), "nobody listens");

        // What is misspelt, and what this host does not have.
        fs::write(&server.config, "[[relai]]\n")?;
        host.systemctl_fails(&["reload", UNIT])?;
        let mut missing = both.clone();
        missing
            .unwrap
            .push(Unwrap::new(&server.topology.server, "eth7", &["8090"]));
        server.write(&missing)?;
        host.systemctl_fails(&["reload", UNIT])?;
        server.serves(&["1 [[relay]]", "is not taken up", "eth7"])?;
        let v4 = Load {
            targets: vec![relay_of(Family::V4)],
            ..crowd()
        };
        v4.run(client).all_exact()?;
        ensure!(server.is_refused(relay_of(Family::V6)), "nobody listens");

        server.write(&both)?;
        host.systemctl(&["reload", UNIT])?;
        server.serves(&["2 [[relay]]"])?;
        let text = server.property("StatusText")?;
        ensure!(!text.contains("not taken up"), "{text}");
        crowd().run(client).all_exact()?;
        host.systemctl(&["stop", UNIT])
    });
}

/// The socket unit of the handbook.
fn socket_unit() -> Result<String> {
    let handbook = fs::read_to_string(deploy().join("../agent/README.md"))?;
    let name = format!("`/etc/systemd/system/{SOCKET}`");
    let (_, behind) = handbook
        .split_once(&name)
        .context("the unit is in the handbook")?;
    let mut parts = behind.split("```");
    let unit = parts.nth(1).context("the unit is in a block")?;
    let (_, unit) = unit.split_once('\n').context("a block has lines")?;
    Ok(unit.to_owned())
}

#[test]
fn a_socket_unit_has_connections_wait_without_an_agent() {
    scenario(|directory| {
        let server = Server::new(directory)?;
        let (host, topology) = (&server.host, &server.topology);
        let mut relays = plain(topology);
        relays.pop();
        relays[0].listen = any(HTTPS);
        server.write(&server.config(directory, relays)?)?;
        host.write_unit(SOCKET, &socket_unit()?)?;
        host.systemctl(&["start", SOCKET])?;
        let load = Load {
            targets: Family::ALL
                .map(|family| (Gateway::server(family), HTTPS).into())
                .into(),
            ..crowd()
        };
        for _ in 0..2 {
            // Whoever comes first starts it.
            ensure!(
                server.property("ActiveState")? == "inactive",
                "it has started"
            );
            load.run(&topology.client).all_exact()?;
            server.serves(&["1 [[relay]]"])?;
            let ((), outcome) = load.during(&topology.client, |progress| {
                host.systemctl(&["restart", UNIT])?;
                progress.more("with another agent")
            })?;
            outcome.all_exact()?;
            host.systemctl(&["stop", UNIT])?;
            server.kept(0)?;
        }
        host.systemctl(&["stop", SOCKET, UNIT])?;
        for address in load.targets {
            ensure!(server.is_refused(address), "{address}: somebody listens");
        }
        Ok(())
    });
}
