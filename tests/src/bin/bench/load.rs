//! Keeps an application busy and counts what it does meanwhile.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_common::proxy::{Endpoints, Peer, write};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tests::clients::raw::{LINUX, Raw};
use tests::servers::listener::set_transparent;

use crate::application::{
    ANSWER, CALLS, CHUNK, DOWNLOAD, NAME, PATIENCE, REQUEST, UPLOAD, WHO, decode,
};
use crate::cpu::Used;
use crate::idle::{self, Idle};
use crate::pod::Pod;
use crate::stats;
use crate::stop::Stop;
use crate::syn::Account;

/// How long the load runs before the measurement.
const WARM_UP: Duration = Duration::from_millis(300);
/// Connections of [`Work::Crowd`].
pub(crate) const CROWD: u16 = 100;
/// Connections a second of [`Work::Paced`], well below what the slowest proxy here can do, and how many
/// clients share them.
const RATE: u32 = 2000;
const PACERS: u16 = 16;
/// One connection in so many may fail: a sidecar's proxy may choose the very port that the client
/// has, and then both connections have the same addresses.
const TOLERATED: u64 = 1000;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    /// Many connections on which nothing moves.
    Idle,
    /// Short connections: connect, ask, be answered, close.
    Connections,
    /// One connection that sends all the time.
    Upload,
    /// One connection that is sent to all the time.
    Download,
    /// A hundred connections that send all the time.
    Crowd,
    /// Short connections at a fixed rate.
    Paced,
    /// One connection, of which the application asks for the peer's name all the time.
    Getpeername,
    /// SYNs, of which nothing becomes a connection.
    Syns,
}

impl Work {
    /// Idle connections first: later, memory that others have left is used again.
    pub(crate) const ALL: [Self; 8] = [
        Self::Idle,
        Self::Connections,
        Self::Paced,
        Self::Upload,
        Self::Download,
        Self::Crowd,
        Self::Getpeername,
        Self::Syns,
    ];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle connections",
            Self::Connections => "connections",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Crowd => "upload by 100",
            Self::Paced => "connections at a fixed rate",
            Self::Getpeername => "getpeername",
            Self::Syns => "SYNs",
        }
    }
}

/// What one measurement found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Connections, bytes or calls.
    pub(crate) amount: u64,
    /// Connections that failed, of all: before and after the measured time, too.
    pub(crate) failed: u64,
    /// Connections whose client the application took for another.
    pub(crate) wrong: u64,
    /// Connections of which the application saw the last hop's address instead of the client's.
    pub(crate) unknown: u64,
    /// How long it took.
    pub(crate) time: Duration,
    /// Processor time that went into it.
    pub(crate) cpu: Used,
    /// How long the slowest hundredth of the paced connections took at least, from `connect()` to the
    /// answer; zero for other work.
    pub(crate) p99: Duration,
    /// What the program before a node's own NAT took for a SYN; zero without one, and for other work.
    pub(crate) syn: Duration,
    /// Of idle connections; zero for other work.
    pub(crate) idle: Idle,
}

impl Sample {
    /// Connections, bytes or calls per second.
    pub(crate) fn rate(&self) -> f64 {
        self.amount as f64 / self.time.as_secs_f64()
    }

    /// The same per second of the machine's processor time.
    pub(crate) fn per_machine_second(&self) -> f64 {
        self.amount as f64 / self.cpu.machine.as_secs_f64()
    }

    /// The same per second of the processes' processor time.
    pub(crate) fn per_process_second(&self) -> f64 {
        self.amount as f64 / self.cpu.processes.as_secs_f64()
    }
}

/// Shared by the clients.
#[derive(Default)]
struct Progress {
    amount: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
    unknown: AtomicU64,
    /// How long each paced connection took.
    took: Mutex<Vec<Duration>>,
    done: AtomicBool,
    /// Why nothing that was measured counts.
    broken: Mutex<Option<anyhow::Error>>,
}

impl Progress {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn add(&self, amount: u64) {
        self.amount.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Measures `work` for `time`.
pub(crate) fn measure(
    pod: &Pod,
    work: Work,
    concurrency: u16,
    time: Duration,
    stop: &Stop,
) -> Result<Sample> {
    let clients = match work {
        Work::Idle => {
            let (amount, idle) = idle::measure(pod, stop)?;
            return Ok(Sample {
                amount,
                idle,
                ..Sample::default()
            });
        }
        Work::Connections => concurrency,
        Work::Crowd => CROWD,
        Work::Paced => PACERS,
        Work::Upload | Work::Download | Work::Getpeername | Work::Syns => 1,
    };
    let account = (work == Work::Syns).then(Account::open).transpose()?;
    let progress = Progress::default();
    let (amount, time, cpu) = std::thread::scope(|scope| {
        for client in 0..clients {
            let progress = &progress;
            scope.spawn(move || {
                pod.client().join().expect("enter the client's namespace");
                let outcome = match work {
                    Work::Idle => unreachable!("measured above"),
                    Work::Connections => connect(pod, client, clients, progress),
                    Work::Upload => upload(pod, 0, progress),
                    Work::Crowd => upload(pod, client.into(), progress),
                    Work::Paced => paced(pod, client, progress),
                    Work::Download => download(pod, progress),
                    Work::Getpeername => getpeername(pod, progress),
                    Work::Syns => syns(pod, progress),
                };
                if let Err(error) = outcome {
                    *progress.broken.lock().expect("no client panics") = Some(error);
                }
            });
        }
        let watched = watch(pod, &progress, time, stop);
        progress.done.store(true, Ordering::Relaxed);
        watched
    })?;
    if let Some(error) = progress.broken.into_inner().expect("no client panics") {
        return Err(error);
    }
    let took = progress.took.into_inner().expect("no client panics");
    let sample = Sample {
        p99: stats::percentile(took, 99),
        syn: account.map_or(Ok(Duration::ZERO), |account| account.average())?,
        amount,
        time,
        cpu,
        failed: progress.failed.into_inner(),
        wrong: progress.wrong.into_inner(),
        unknown: progress.unknown.into_inner(),
        idle: Idle::default(),
    };
    ensure!(sample.amount > 0, "nothing came through");
    ensure!(
        sample.failed <= sample.amount / TOLERATED,
        "{} connections failed, {} did not",
        sample.failed,
        sample.amount
    );
    Ok(sample)
}

/// What happens between two moments of the load: connections, bytes or calls, the time and the processor
/// time that they took.
fn watch(
    pod: &Pod,
    progress: &Progress,
    time: Duration,
    stop: &Stop,
) -> Result<(u64, Duration, Used)> {
    stop.sleep(WARM_UP)?;
    let others = pod.processes();
    let so_far = || progress.amount.load(Ordering::Relaxed);
    let (amount, started, cpu) = (so_far(), Instant::now(), Used::until_now(&others)?);
    stop.sleep(time)?;
    let cpu = Used::until_now(&others)?.since(cpu);
    Ok((so_far() - amount, started.elapsed(), cpu))
}

/// Connects again and again, from each of the client's addresses in turn.
fn connect(pod: &Pod, client: u16, clients: u16, progress: &Progress) -> Result<()> {
    for n in (client.into()..).step_by(clients.into()) {
        if progress.is_done() {
            break;
        }
        let count = match ask(pod, n) {
            Ok((own, seen)) => {
                progress.add(1);
                if pod.variant.is_right(pod.family.client(n), own.port(), seen) {
                    continue;
                }
                if seen.ip().is_loopback() || seen.ip() == own.ip() {
                    &progress.unknown
                } else {
                    &progress.wrong
                }
            }
            Err(_) => &progress.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// One short connection, closed by the client: its own address, and whom the application saw.
fn ask(pod: &Pod, n: usize) -> Result<(SocketAddr, SocketAddr)> {
    let mut stream = open(pod, n, WHO)?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer)?;
    Ok((stream.local_addr()?, decode(answer)))
}

/// Connects at a fixed rate, whatever the answers take.
fn paced(pod: &Pod, client: u16, progress: &Progress) -> Result<()> {
    let interval = Duration::from_secs(1) * PACERS.into() / RATE;
    // What came before may still be on its way.
    let warm = Instant::now() + WARM_UP;
    let mut due = Instant::now() + interval * client.into() / PACERS.into();
    let mut took = Vec::new();
    for n in (client.into()..).step_by(PACERS.into()) {
        if progress.is_done() {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let answered = ask(pod, n);
        if due >= warm {
            took.push(due.elapsed());
        }
        due += interval;
        match answered {
            Ok(_) => progress.add(1),
            Err(_) => drop(progress.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }
    progress.took.lock().expect("no client panics").extend(took);
    Ok(())
}

fn upload(pod: &Pod, n: usize, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, n, UPLOAD).context("connect")?;
    let chunk = vec![0; CHUNK];
    while !progress.is_done() {
        progress.add(stream.write(&chunk)? as u64);
    }
    Ok(())
}

fn download(pod: &Pod, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, 0, DOWNLOAD).context("connect")?;
    let mut chunk = vec![0; CHUNK];
    while !progress.is_done() {
        progress.add(stream.read(&mut chunk)? as u64);
    }
    Ok(())
}

fn getpeername(pod: &Pod, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, 0, NAME).context("connect")?;
    let mut told = [0; 16];
    while !progress.is_done() {
        progress.add(stream.read(&mut told)? as u64 * u64::from(CALLS));
    }
    Ok(())
}

/// Sends SYNs from an address that answers nothing.
fn syns(pod: &Pod, progress: &Progress) -> Result<()> {
    let raw = Raw::new(pod.client())?;
    let source = pod.family.balancer(1);
    for n in 0.. {
        if progress.is_done() {
            break;
        }
        let port = 1024 + (n % 60_000) as u16;
        raw.syn((source, port).into(), pod.target(0), n, &LINUX)?;
        progress.add(1);
    }
    Ok(())
}

/// Connects from the client's n-th address and sends a request.
pub(crate) fn open(pod: &Pod, n: usize, kind: u8) -> Result<TcpStream> {
    let client = pod.family.client(n);
    let socket = if pod.variant.is_told() {
        // A load balancer, with an address of its own.
        Socket::new(Domain::for_address(pod.target(n)), Type::STREAM, None)?
    } else {
        bind(client)?
    };
    socket.set_read_timeout(Some(PATIENCE.here()))?;
    // Limits `connect()` as well.
    socket.set_write_timeout(Some(PATIENCE.here()))?;
    socket.connect(&pod.target(n).into())?;
    let mut stream = TcpStream::from(socket);
    let mut bytes = Vec::new();
    if pod.variant.is_told() {
        // It names the client, with the port of this connection.
        let ends = Endpoints {
            source: SocketAddr::new(client, stream.local_addr()?.port()).into(),
            destination: stream.peer_addr()?.into(),
        };
        write::v2(&Peer::Proxied(ends), [].into_iter(), false, &mut bytes).expect("short");
    }
    bytes.extend([kind; REQUEST]);
    stream.write_all(&bytes)?;
    Ok(stream)
}

/// A socket with this address, which truepeer takes for a client's when it trusts us. The kernel chooses the port when it knows the destination, so that all
/// ports are there for each.
pub(crate) fn bind(address: IpAddr) -> Result<Socket> {
    let address = SocketAddr::new(address, 0);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    set_transparent(&socket, domain)?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
