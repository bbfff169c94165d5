//! No answer is ever wrong: a trusted proxy with few source ports, so that the same addresses and ports
//! soon belong to another client.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent_common::Counter;
use anyhow::{Result, ensure};
use tests::agent::records::no_origins;
use tests::agent::{Agent, Config, Trust};
use tests::clients::load::{Application, Connection};
use tests::host::process::Process;
use tests::host::scenario;
use tests::host::user::UID;
use tests::proxies::{Route, any, any_of_family};
use tests::roles::proxy;
use tests::servers::report::Report;
use tests::topology::{Family, Sidecar};
use tests::variables::{connections, usual};
use tests::wait::eventually;

/// How many connections there are at least that nobody wants a number of: as many as fit in [`DURATION`].
const ENOUGH: u32 = 20_000;
const DURATION: Duration = Duration::from_secs(25);
/// The client's addresses of IPv6; IPv4 has 254.
const CLIENTS: usize = 1000;
const WORKERS: usize = 24;
/// All the source ports that the proxy has towards one application.
const SOURCE_PORTS: &str = "40000 40199";
/// Applications of each family: a port is free again after a second, so that these and
/// [`SOURCE_PORTS`] bound the rate.
const APPLICATIONS: u16 = 8;
const APPLICATION: u16 = 8080;
const PROXY: u16 = 15001;

/// What the applications saw.
#[derive(Debug, Default)]
struct Answers {
    right: usize,
    /// Another client's address, or another port of the client's, or two different answers.
    wrong: usize,
    /// The proxy's own address.
    unknown: usize,
    /// Connections that broke before the answer.
    failed: usize,
    example: Option<String>,
}

impl Answers {
    fn add(&mut self, connection: Result<Connection>) {
        let (count, example) = match connection {
            Err(error) => (&mut self.failed, format!("failed: {error:#}")),
            Ok(Connection { client, seen, .. }) => {
                let example = format!("{client} was seen as {seen:?}");
                if seen.accepted == client && seen.peername == client {
                    self.right += 1;
                    return;
                } else if seen.accepted.ip().is_loopback() && seen.peername == seen.accepted {
                    (&mut self.unknown, example)
                } else {
                    (&mut self.wrong, example)
                }
            }
        };
        *count += 1;
        // One that matters replaces one that does not.
        if self.example.is_none() || self.wrong + self.unknown == 1 {
            self.example = Some(example);
        }
    }

    fn total(&self) -> usize {
        self.right + self.wrong + self.unknown + self.failed
    }

    fn print(&self, what: &str, took: Duration) {
        println!(
            "{what}: {} connections in {:.1} s: wrong {}, unknown {}, failed {}",
            self.total(),
            took.as_secs_f64(),
            self.wrong,
            self.unknown,
            self.failed
        );
    }
}

struct Stage<'a> {
    directory: &'a Path,
    sidecar: Sidecar,
    routes: Vec<Route>,
    _applications: Vec<Report>,
}

impl<'a> Stage<'a> {
    fn new(directory: &'a Path) -> Result<Self> {
        let sidecar = Sidecar::new()?;
        let pod = &sidecar.pod;
        pod.set_sysctl("net/ipv4/ip_local_port_range", SOURCE_PORTS)?;
        pod.set_sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let applications = (APPLICATION..APPLICATION + APPLICATIONS)
            .map(|port| Report::start(pod, any(port)))
            .collect::<Result<_>>()?;
        let route = |(i, family): (u16, Family)| {
            let upstream = (family.localhost(), APPLICATION + i % APPLICATIONS).into();
            (any_of_family(family, PROXY + i), upstream)
        };
        let v4 = (0..APPLICATIONS).map(|i| (i, Family::V4));
        let v6 = (APPLICATIONS..2 * APPLICATIONS).map(|i| (i, Family::V6));
        Ok(Self {
            directory,
            routes: v4.chain(v6).map(route).collect(),
            _applications: applications,
            sidecar,
        })
    }

    fn config(&self) -> Result<Config> {
        let mut config = Config::new(self.directory, [])?;
        config.trust.push(Trust::uid(UID));
        Ok(config)
    }

    fn proxy(&self) -> Result<Process> {
        let program = env!("CARGO_BIN_EXE_playground");
        proxy(
            self.directory,
            &self.sidecar.pod,
            program.as_ref(),
            &self.routes,
        )
    }

    /// Kills and restarts both again and again, with hundreds of connections in between, of which `made` counts all;
    /// the last ones.
    fn kill_while(
        &self,
        mut agent: Agent,
        mut proxy: Process,
        made: &AtomicUsize,
        more: impl Fn() -> bool,
    ) -> Result<(Agent, Process)> {
        let connections = |count| {
            let enough = made.load(Ordering::Relaxed) + count;
            let what = format!("{count} more connections");
            eventually(&what, || {
                Ok((made.load(Ordering::Relaxed) >= enough).then_some(()))
            })
        };
        while more() {
            connections(700)?;
            proxy.kill()?;
            proxy = self.proxy()?;
            connections(700)?;
            let config = agent.kill()?;
            connections(200)?;
            // Without an agent, a proxy that starts is trusted too.
            proxy.kill()?;
            proxy = self.proxy()?;
            agent = Agent::start(self.directory, config)?;
        }
        Ok((agent, proxy))
    }

    /// The n-th connection.
    fn connect(&self, n: usize) -> Result<Connection> {
        let (listen, _) = self.routes[n % self.routes.len()];
        let family = if listen.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let target = (Sidecar::address(family), listen.port()).into();
        Connection::open(n % CLIENTS, target, Application::Report)
    }

    /// Connects from many threads as long as `more` says so.
    fn load(&self, more: impl Fn(usize) -> bool + Sync) -> Answers {
        let answers = Mutex::new(Answers::default());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    self.sidecar.client.join().expect("enter the client");
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if !more(n) {
                            return;
                        }
                        let connection = self.connect(n);
                        let failed = connection.is_err();
                        answers.lock().expect("no worker panics").add(connection);
                        if failed {
                            // There is no proxy at the moment.
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                });
            }
        });
        answers.into_inner().expect("no worker panics")
    }
}

#[test]
fn addresses_and_ports_that_are_reused() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let agent = Agent::start(directory, stage.config()?)?;
        let proxy = stage.proxy()?;
        let wanted: Option<usize> = connections()?;
        let (enough, start) = (usual(ENOUGH) as usize, Instant::now());
        let answers = stage.load(|n| match wanted {
            Some(wanted) => n < wanted,
            None => n < enough || start.elapsed() < DURATION,
        });
        answers.print("one proxy", start.elapsed());
        ensure!(
            answers.wrong == 0 && answers.unknown == 0 && answers.failed == 0,
            "{answers:?}"
        );
        let learnt = agent.counter(Counter::LearntBind)?;
        ensure!(
            learnt == answers.total() as u64,
            "learnt {learnt} of {}",
            answers.total()
        );
        proxy.stop()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn proxies_and_agents_that_are_killed() {
    scenario(|directory| {
        let stage = Stage::new(directory)?;
        let agent = Agent::start(directory, stage.config()?)?;
        let proxy = stage.proxy()?;
        let (wanted, start) = (connections()?.unwrap_or(0), Instant::now());
        let done = AtomicBool::new(false);
        let made = AtomicUsize::new(0);
        let (answers, survivors) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                stage.load(|n| {
                    made.fetch_max(n, Ordering::Relaxed);
                    !done.load(Ordering::Relaxed)
                })
            });
            let survivors = stage.kill_while(agent, proxy, &made, || {
                start.elapsed() < DURATION || made.load(Ordering::Relaxed) < wanted
            });
            done.store(true, Ordering::Relaxed);
            (load.join().expect("no worker panics"), survivors)
        });
        answers.print("proxies and agents killed", start.elapsed());
        let (agent, proxy) = survivors?;
        ensure!(
            answers.wrong == 0 && answers.unknown == 0 && answers.right > 0,
            "{answers:?}"
        );
        proxy.stop()?;
        no_origins(&agent)?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
