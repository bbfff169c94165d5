//! Keeps an application busy and counts what it does meanwhile.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::application::{ANSWER, CHUNK, DOWNLOAD, PATIENCE, REQUEST, UPLOAD, WHO, decode};
use crate::cpu::Used;
use crate::pod::{Pod, Variant};
use crate::stop::Stop;

/// How long the load runs before the measurement.
const WARM_UP: Duration = Duration::from_millis(300);
/// One connection in so many may fail: a sidecar's proxy may choose the very port that the client
/// has, and then both connections have the same addresses.
const TOLERATED: u64 = 1000;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Short connections: connect, ask, be answered, close.
    Connections,
    /// One connection that sends all the time.
    Upload,
    /// One connection that is sent to all the time.
    Download,
}

impl Work {
    pub(crate) const ALL: [Self; 3] = [Self::Connections, Self::Upload, Self::Download];

    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Connections or bytes.
    pub(crate) amount: u64,
    /// Connections that failed.
    pub(crate) failed: u64,
    /// How long it took.
    pub(crate) time: Duration,
    /// Processor time that went into it.
    pub(crate) cpu: Used,
}

impl Sample {
    /// Connections or bytes per second.
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
    done: AtomicBool,
    /// Why nothing that was measured counts.
    wrong: Mutex<Option<anyhow::Error>>,
}

impl Progress {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn add(&self, amount: u64) {
        self.amount.fetch_add(amount, Ordering::Relaxed);
    }

    fn so_far(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.amount), load(&self.failed))
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
        Work::Connections => concurrency,
        Work::Upload | Work::Download => 1,
    };
    let progress = Progress::default();
    let sample = std::thread::scope(|scope| {
        for client in 0..clients {
            let progress = &progress;
            scope.spawn(move || {
                pod.client().join().expect("enter the client's namespace");
                let outcome = match work {
                    Work::Connections => connect(pod, client, clients, progress),
                    Work::Upload => upload(pod, progress),
                    Work::Download => download(pod, progress),
                };
                if let Err(error) = outcome {
                    *progress.wrong.lock().expect("no client panics") = Some(error);
                }
            });
        }
        let sample = watch(pod, &progress, time, stop);
        progress.done.store(true, Ordering::Relaxed);
        sample
    })?;
    if let Some(error) = progress.wrong.into_inner().expect("no client panics") {
        return Err(error);
    }
    ensure!(sample.amount > 0, "nothing came through");
    ensure!(
        sample.failed <= sample.amount / TOLERATED,
        "{} connections failed, {} did not",
        sample.failed,
        sample.amount
    );
    Ok(sample)
}

/// What happens between two moments of the load.
fn watch(pod: &Pod, progress: &Progress, time: Duration, stop: &Stop) -> Result<Sample> {
    stop.sleep(WARM_UP)?;
    let others = pod.processes();
    let (amount, failed) = progress.so_far();
    let (started, cpu) = (Instant::now(), Used::until_now(&others)?);
    stop.sleep(time)?;
    let (amount_after, failed_after) = progress.so_far();
    Ok(Sample {
        amount: amount_after - amount,
        failed: failed_after - failed,
        time: started.elapsed(),
        cpu: Used::until_now(&others)?.since(cpu),
    })
}

/// Connects again and again, from each of the client's addresses in turn.
fn connect(pod: &Pod, client: u16, clients: u16, progress: &Progress) -> Result<()> {
    for n in (client.into()..).step_by(clients.into()) {
        if progress.is_done() {
            break;
        }
        match ask(pod, n) {
            Ok((own, seen)) => {
                check(pod.variant, own, seen)?;
                progress.add(1);
            }
            Err(_) => drop(progress.failed.fetch_add(1, Ordering::Relaxed)),
        }
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

/// Fails unless the application saw the client, and Envoy was on the way if it had to be: in a
/// sidecar it comes from a port of its own.
fn check(variant: Variant, own: SocketAddr, seen: SocketAddr) -> Result<()> {
    let by_envoy = own.port() != seen.port();
    ensure!(
        own.ip() == seen.ip() && by_envoy == (variant != Variant::Direct),
        "the application saw {own} as {seen}"
    );
    Ok(())
}

fn upload(pod: &Pod, progress: &Progress) -> Result<()> {
    let mut stream = open(pod, 0, UPLOAD).context("connect")?;
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

/// Connects from the client's n-th address and sends a request.
fn open(pod: &Pod, n: usize, kind: u8) -> Result<TcpStream> {
    let socket = bind(pod.family.client(n))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Limits `connect()` as well.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&pod.target().into())?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(&[kind; REQUEST])?;
    Ok(stream)
}

/// A socket with this address. The kernel chooses the port when it knows the destination, so that all
/// ports are there for each.
pub(crate) fn bind(address: IpAddr) -> Result<Socket> {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
