//! Whoever asks the API as often as he can leaves to others what they need.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};
use tests::agent::{Agent, Config};
use tests::host::scenario;
use tests::host::user::{NOBODY, UID, acting};
use tests::wait::{SOON, eventually};

/// How many connections somebody opens who says nothing.
const IDLE: usize = 2000;
/// How many files an agent can have open where nothing else is configured.
const USUAL_FILES: u64 = 1024;
/// How many connections one user may have, and one host for metrics.
const OF_A_USER: usize = 32;
const OF_A_HOST: usize = 16;

/// An agent with as many files as usual, in a process that can have more.
fn agent_with_usual_files(directory: &Path, config: Config) -> Result<Agent> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, USUAL_FILES, most)?;
    let agent = Agent::start(directory, config);
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    agent
}

/// What the API answers to this user: the head and the body, empty where the connection just ends.
fn ask(socket: &Path, uid: u32, path: &str) -> Result<String> {
    acting(uid, || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SOON.here()))?;
        Ok(answer(&mut stream, path))
    })
}

fn answer(stream: &mut (impl Read + Write), path: &str) -> String {
    let mut answer = String::new();
    // Who is not even told that he is refused finds the connection closed.
    let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Opens connections to the API as a user, and says nothing.
fn idle_as(socket: &Path, uid: u32, n: usize) -> Result<Vec<UnixStream>> {
    acting(uid, || {
        let connect = |_| UnixStream::connect(socket);
        Ok((0..n).map(connect).collect::<Result<_, _>>()?)
    })
}

#[test]
fn idle_connections_of_a_user() {
    scenario(|directory| {
        let agent = agent_with_usual_files(directory, Config::new(directory, [])?)?;
        let socket = &agent.config().agent.socket;
        let idle = idle_as(socket, NOBODY, IDLE)?;
        agent.status()?;
        agent.peers()?;
        agent.metrics()?;
        drop(idle);

        let refused = "truepeer_api_refused_connections_total{limit=\"caller\"}";
        let before = agent.metric(refused)?;
        let told = eventually("the user is told", || {
            let _idle = idle_as(socket, NOBODY, OF_A_USER)?;
            let other = ask(socket, UID, "/v1/peers")?;
            ensure!(other.starts_with("HTTP/1.0 200 "), "another user: {other}");
            let told = ask(socket, NOBODY, "/v1/peers")?;
            Ok(told.starts_with("HTTP/1.0 429 ").then_some(told))
        })?;
        ensure!(told.contains("\r\nretry-after: 1\r\n"), "{told}");
        ensure!(told.contains("{\"error\":\"it has as many"), "{told}");
        ensure!(agent.metric(refused)? > before, "not counted");
        let log = agent.log()?;
        let lines = log
            .matches("the API refuses a connection of user 65534")
            .count();
        ensure!((1..20).contains(&lines), "{lines} lines: {log}");

        eventually("the user is served again", || {
            let answer = ask(socket, NOBODY, "/v1/peers")?;
            Ok(answer.starts_with("HTTP/1.0 200 ").then_some(()))
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

#[test]
fn idle_connections_for_metrics() {
    scenario(|directory| {
        let agent = agent_with_usual_files(directory, Config::new(directory, [])?)?;
        let metrics: SocketAddr = agent.config().agent.metrics.parse()?;
        let connect = |_| TcpStream::connect(metrics);
        let idle = (0..IDLE).map(connect).collect::<Result<Vec<_>, _>>()?;
        agent.status()?;
        let scrape = |from: &str| -> Result<String> {
            let stream = tests::clients::load::connect(format!("{from}:0").parse()?, metrics);
            Ok(answer(&mut stream?, "/metrics"))
        };
        let other = scrape("127.0.0.2")?;
        ensure!(other.starts_with("HTTP/1.0 200 "), "another host: {other}");
        drop(idle);
        let told = eventually("the host is told", || {
            let _idle = (0..OF_A_HOST).map(connect).collect::<Result<Vec<_>, _>>()?;
            let told = scrape("127.0.0.1")?;
            Ok(told.starts_with("HTTP/1.0 429 ").then_some(told))
        })?;
        ensure!(told.contains("\r\nretry-after: 1\r\n"), "{told}");
        eventually("the host is served again", || {
            Ok(scrape("127.0.0.1")?
                .starts_with("HTTP/1.0 200 ")
                .then_some(()))
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// A byte now and then keeps no connection open.
#[test]
fn a_head_that_never_ends() {
    scenario(|directory| {
        let agent = Agent::start(directory, Config::new(directory, [])?)?;
        let mut slow = UnixStream::connect(&agent.config().agent.socket)?;
        slow.set_read_timeout(Some(Duration::from_millis(100)))?;
        slow.write_all(b"GET /v1/peers HTTP/1.1\r\nx: ")?;
        eventually("the connection is closed", || {
            // That fails when it is.
            let is_open = slow.write_all(b"x").is_ok();
            let is_open = is_open
                && match slow.read(&mut [0; 1024]) {
                    Ok(read) => read > 0,
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
            Ok((!is_open).then_some(()))
        })?;
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}

/// How much of a processor's time the agent has used so far.
fn cpu_time(agent: &Agent) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.id()))?;
    let (_, fields) = stat.rsplit_once(") ").context("no command name")?;
    // utime and stime, the 14th and 15th field; the 3rd is the first behind the name (proc(5)).
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")? as u64;
    Ok(Duration::from_millis(ticks * 1000 / a_second))
}

/// Those who ask at the same time share what is looked up, and wait between two look-ups; root does not.
#[test]
fn a_loop_of_requests() {
    const ALONE: u32 = 40;
    const ASKERS: u32 = 8;
    const ANSWERS: u32 = 40 * ASKERS;
    scenario(|directory| {
        let agent = Agent::start(directory, Config::new(directory, [])?)?;
        let socket = &agent.config().agent.socket;
        let mut before = cpu_time(&agent)?;
        for _ in 0..ALONE {
            agent.peers()?;
        }
        let alone = (cpu_time(&agent)? - before) / ALONE;

        before = cpu_time(&agent)?;
        let began = Instant::now();
        let ask_again = || -> Result<()> {
            for _ in 0..ANSWERS / ASKERS {
                let answer = ask(socket, NOBODY, "/v1/peers")?;
                ensure!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
            }
            Ok(())
        };
        thread::scope(|scope| {
            let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(ask_again)).collect();
            let asked = askers.into_iter().map(|asker| asker.join());
            asked
                .collect::<thread::Result<Result<()>>>()
                .expect("they do not panic")
        })?;
        let (cpu, time) = (cpu_time(&agent)? - before, began.elapsed());
        println!("{ANSWERS} answers took {cpu:?} of {time:?}; one alone {alone:?}");
        ensure!(
            cpu / ANSWERS < alone / 2,
            "{ANSWERS} answers took {cpu:?}, and one alone {alone:?}"
        );
        // Half of the time for what is looked up, and some for all else that the agent does.
        ensure!(
            cpu < time * 3 / 4,
            "{ANSWERS} answers took {cpu:?} of {time:?}"
        );
        ensure!(agent.stop()?.success(), "the agent's exit status");
        Ok(())
    });
}
