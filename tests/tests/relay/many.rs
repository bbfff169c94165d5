//! The relay with as many connections as the machine allows, and with fewer files than it needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tests::agent::{Agent, Config, Relay};
use tests::balancer::{APPLICATION, RELAY};
use tests::host::netns::{Netns, run};
use tests::host::scenario;
use tests::proxies::any_v4;
use tests::wait::{SOON, eventually};

/// How many connections are enough.
const WANTED: u64 = 50_000;
/// Descriptors that the agent has in use besides those of connections, at most.
const OTHERS: u64 = 300;
/// Ports and upstreams, so that ports of clients do not run out.
const RELAYS: u16 = 4;
/// Files that relays leave to the rest of the agent.
const KEPT: u64 = 640;
/// What a connection may cost the agent.
const MEMORY: u64 = 8 << 10;
const PING: [u8; 4] = *b"ping";

/// A relay for each address, as a single upstream is not checked, which would be connections, too.
fn plain(netns: &Netns) -> Vec<Relay> {
    let relay = |n| {
        let upstream = (Ipv4Addr::new(127, 0, 1, n as u8), APPLICATION).into();
        Relay {
            accept: "plain",
            ..Relay::proxy(netns, any_v4(RELAY + n), upstream, "plain")
        }
    };
    (0..RELAYS).map(relay).collect()
}

fn agent(directory: &Path, netns: &Netns) -> Result<Agent> {
    let mut config = Config::new(directory, [])?;
    config.relay = plain(netns);
    Agent::start(directory, config)
}

fn connect(n: u64) -> Result<TcpStream> {
    let relay = (Ipv4Addr::LOCALHOST, RELAY + n as u16 % RELAYS);
    let stream = TcpStream::connect_timeout(&relay.into(), SOON.here())
        .with_context(|| format!("connection {n}"))?;
    stream.set_read_timeout(Some(SOON.here()))?;
    Ok(stream)
}

fn receive(mut from: &TcpStream) -> Result<()> {
    let mut got = [0; PING.len()];
    from.read_exact(&mut got)?;
    ensure!(got == PING, "{got:?}");
    Ok(())
}

/// Asserts that bytes pass in both directions.
fn both_ways((client, server): &(TcpStream, TcpStream)) -> Result<()> {
    for (mut one, other) in [(client, server), (server, client)] {
        one.write_all(&PING)?;
        receive(other)?;
    }
    Ok(())
}

fn descriptors(agent: &Agent) -> Result<u64> {
    let directory = format!("/proc/{}/fd", agent.id());
    Ok(std::fs::read_dir(directory)?.count() as u64)
}

/// Connections can wait for it, but it does not wait for them for ever.
fn application() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&any_v4(APPLICATION).into())?;
    socket.set_read_timeout(Some(SOON.here()))?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn accept(application: &TcpListener, n: u64) -> Result<Vec<TcpStream>> {
    let accept = |_| {
        let (stream, _) = application.accept()?;
        stream.set_read_timeout(Some(SOON.here()))?;
        Ok(stream)
    };
    (0..n).map(accept).collect()
}

/// Resident memory, in bytes.
fn memory(agent: &Agent) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.context("VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<u64>()? << 10)
}

#[test]
fn as_many_connections_as_files_can_be_open() {
    scenario(|directory| {
        let netns = Netns::new("many")?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        // This process holds both ends, as the agent does.
        let many = ((most - KEPT - OTHERS) / 2).min(WANTED);
        let agent = agent(directory, &netns)?;
        netns.enter(|| {
            let application = application()?;
            // The first connection makes the agent allocate what all of them share.
            let (files, bytes) = {
                both_ways(&(connect(0)?, accept(&application, 1)?.remove(0)))?;
                (descriptors(&agent)?, memory(&agent)?)
            };
            let (clients, servers) = thread::scope(|scope| {
                let accept = scope.spawn(|| accept(&application, many));
                let clients = (0..many).map(connect).collect::<Result<Vec<_>>>()?;
                Ok::<_, anyhow::Error>((clients, accept.join().expect("it does not panic")?))
            })?;
            let held = descriptors(&agent)? - files;
            ensure!(
                held < 2 * many + OTHERS,
                "{held} files for {many} idle connections"
            );
            let each = (memory(&agent)?.saturating_sub(bytes)) / many;
            eprintln!("{many} connections with {each} bytes of the agent's each");
            ensure!(each < MEMORY, "{each} bytes for each of {many}");

            // All at once, in both directions.
            let ends = || clients.iter().chain(&servers);
            ends().try_for_each(|mut end| end.write_all(&PING))?;
            ends().try_for_each(receive)?;
            drop((clients, servers));
            eventually("all descriptors are closed", || {
                // Pipes are kept for reuse.
                Ok((descriptors(&agent)? < files + 200).then_some(()))
            })
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// The agent keeps some files for itself: further connections are refused, and all else goes on.
#[test]
fn more_connections_than_files() {
    scenario(|directory| {
        let netns = Netns::new("few")?;
        let agent = agent(directory, &netns)?;
        netns.enter(|| {
            let application = application()?;
            let mut open = (0..10)
                .map(|n| Ok((connect(n)?, application.accept()?.0)))
                .collect::<Result<Vec<_>>>()?;
            limit(&agent, KEPT)?;
            let refused = format!(
                "truepeer_relay_refused_connections_total{{relay=\"0.0.0.0:{RELAY}\",reason=\"limit\"}}"
            );
            for n in 1..=20 {
                // It is reset, perhaps before `connect()` has returned.
                let answer = connect(0).and_then(|mut c| Ok(c.read(&mut [0; 1])?));
                ensure!(answer.is_err(), "{answer:?}");
                ensure!(agent.metric(&refused)? == n, "it is counted");
            }
            open.iter().try_for_each(both_ways)?;
            limit(&agent, 2 * KEPT)?;
            open.push((connect(0)?, application.accept()?.0));
            open.iter().try_for_each(both_ways)
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// Somebody else's limit is as low as can be: the agent neither spins nor fills its log.
#[test]
fn no_files_at_all() {
    scenario(|directory| {
        let netns = Netns::new("none")?;
        let agent = agent(directory, &netns)?;
        netns.enter(|| {
            let application = application()?;
            let open = (connect(0)?, application.accept()?.0);
            limit(&agent, 3)?;
            let waiting = connect(1)?;
            eventually("the log tells", || {
                Ok(agent.log()?.contains("cannot accept").then_some(()))
            })?;
            let (start, before) = (Instant::now(), cpu_time(&agent)?);
            // The relay has no pipe for these bytes, so they wait, too.
            (&open.0).write_all(&PING)?;
            // Nothing is to happen for a second. An agent that spins would use all of it.
            thread::sleep(Duration::from_secs(1));
            let (used, time) = (cpu_time(&agent)? - before, start.elapsed());
            ensure!(used < time / 5, "{used:?} of CPU in {time:?}");
            let told = agent.log()?.matches("cannot accept").count();
            ensure!(told == 1, "told {told} times");

            limit(&agent, 2 * KEPT)?;
            receive(&open.1)?;
            both_ways(&open)?;
            both_ways(&(waiting, application.accept()?.0))?;
            ensure!(agent.log()?.contains("accepts connections again"), "told");
            Ok(())
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// Lets the agent have no more than so many files open.
fn limit(agent: &Agent, files: u64) -> Result<()> {
    let (pid, limit) = (agent.id().to_string(), format!("--nofile={files}:"));
    run(Command::new("prlimit").args(["--pid", &pid, &limit])).map(drop)
}

/// The CPU time that the agent has used.
fn cpu_time(agent: &Agent) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.id()))?;
    let (_, fields) = stat.rsplit_once(") ").context("the name's end")?;
    let fields: Vec<_> = fields.split(' ').collect();
    // utime and stime of proc(5), counted from the state, in hundredths of a second.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(10 * ticks))
}
