//! Clients that connect again and again, and compare every byte.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use socket2::{SockRef, TcpKeepalive};

use super::judge::{Attempt, Failure, NEXT_REQUEST};
use super::ledger::Ledger;
use super::stage::Stage;
use super::way::{Seen, Way};
use crate::addresses::{Family, any_of_family};
use crate::clients::exchange::{BLOCK, Exchange, different, is_different};
use crate::clients::http::{Client as Http, Request};
use crate::clients::load::connect;
use crate::proxies::proxy_header::{v1, with_tlv};
use crate::random::Random;

/// The number of different clients.
const CLIENTS: usize = 60_000;
/// How often a client that waits asks whether its connection is still there.
const ASK: Duration = Duration::from_secs(1);
/// Bytes of a request's body.
const BODY: usize = 1 << 14;

/// One client, with one connection at a time.
pub(super) struct Client<'a> {
    pub(super) stage: &'a Stage,
    pub(super) ledger: &'a Ledger,
    pub(super) way: Way,
    pub(super) family: Family,
    /// Whether its connections last for some seconds, and so through several changes.
    pub(super) lasts: bool,
}

/// What a connection has come to.
struct Progress {
    attempt: Attempt,
    step: &'static str,
    since: Instant,
}

impl Progress {
    /// What was being done is done; next comes something else.
    fn next(&mut self, step: &'static str) {
        self.step = step;
        self.since = Instant::now();
    }
}

impl Client<'_> {
    /// Connects until the soak is over.
    pub(super) fn run(&self, seed: u64) {
        let client = &self.stage.gateway.client;
        client.join().expect("enter the client's namespace");
        let random = Random::new(seed);
        while !self.ledger.is_over() {
            self.ledger.add(&self.connect(&random));
            pause(&random, 400);
        }
    }

    fn connect(&self, random: &Random) -> Attempt {
        let began = Instant::now();
        let mut progress = Progress {
            attempt: Attempt {
                way: self.way,
                family: self.family,
                began,
                seen: None,
                bytes: 0,
                failure: None,
            },
            step: "connect",
            since: began,
        };
        let outcome = self.exchange(random, &mut progress);
        let Progress {
            mut attempt,
            step,
            since,
        } = progress;
        attempt.failure = outcome.err().map(|error| {
            let io = error.downcast_ref::<io::Error>();
            let kind = io.map(io::Error::kind);
            Failure {
                step,
                since,
                cause: match kind {
                    Some(kind) if kind != io::ErrorKind::Other => kind.to_string(),
                    _ => format!("{error:#}"),
                },
                hangs: matches!(
                    kind,
                    Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
                ),
                is_different: io.is_some_and(is_different),
            }
        });
        attempt
    }

    /// Makes a connection, and has blocks or requests go both ways.
    fn exchange(&self, random: &Random, progress: &mut Progress) -> Result<()> {
        let address = self.family.client(random.below(CLIENTS));
        let port = 1024 + random.below(60_000) as u16;
        let source = if self.way.has_header() {
            any_of_family(self.family, 0)
        } else {
            (address, 0).into()
        };
        let target = self.way.target(self.family);
        let stream = connect(source, target)?;
        stream.set_nodelay(true)?;
        // A reset is not sent again if it is lost: who only waits learns of it by asking.
        let asking = TcpKeepalive::new().with_time(ASK).with_interval(ASK);
        SockRef::from(&stream).set_tcp_keepalive(&asking)?;
        let own = stream.local_addr()?;
        let client = if self.way.has_header() {
            (address, port).into()
        } else {
            own
        };
        progress.next("answer");
        if random.once_in(4) {
            // The header comes late.
            pause(random, 500);
        }
        let rounds = if self.lasts {
            20 + random.below(60) as u64
        } else {
            random.below(4) as u64
        };
        if self.way == Way::Http {
            return self.requests(stream, client, rounds.max(1), random, progress);
        }
        let header = if self.way.has_header() {
            header(client, target, random)
        } else {
            Vec::new()
        };
        let mut exchange = Exchange::begin(stream, &header, rounds)?;
        self.sees(client, own, exchange.seen, progress);
        for _ in 0..rounds {
            progress.next("exchange");
            exchange.block()?;
            progress.attempt.bytes += BLOCK as u64;
            self.rest(random);
        }
        progress.next("end");
        Ok(exchange.end()?)
    }

    /// Makes requests in the names of a client, over one connection.
    fn requests(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        rounds: u64,
        random: &Random,
        progress: &mut Progress,
    ) -> Result<()> {
        let own = stream.local_addr()?;
        let mut connection = Http::over(stream);
        for _ in 0..rounds {
            let letters = random.bytes(BODY).into_iter();
            let body: String = letters.map(|byte| char::from(b'a' + byte % 26)).collect();
            let head = format!(
                "POST / HTTP/1.1\r\nHost: application\r\nX-Forwarded-For: {}\r\nContent-Length: {BODY}\r\n\r\n",
                client.ip()
            );
            connection.send((head + &body).as_bytes())?;
            let answer = connection.answer()?;
            ensure!(answer.status == 200, "status {}", answer.status);
            let request = Request::parse(&answer.body)?;
            if request.body != body {
                return Err(different("a body").into());
            }
            progress.attempt.bytes += BODY as u64;
            self.sees(client, own, (request.ip(), 0).into(), progress);
            self.rest(random);
            progress.next(NEXT_REQUEST);
        }
        Ok(())
    }

    /// Notes whom the application sees. What was noted of an earlier request stays if it was not right.
    fn sees(&self, client: SocketAddr, own: SocketAddr, seen: SocketAddr, progress: &mut Progress) {
        let was = progress.attempt.seen.take();
        let verdict = self.way.judge(client, own, seen);
        progress.attempt.seen = match was {
            Some(was) if was.0 != Seen::Right => Some(was),
            _ => Some((
                verdict,
                Instant::now(),
                format!("{client}, by {own}, was seen as {seen}"),
            )),
        };
    }

    fn rest(&self, random: &Random) {
        if self.lasts && !self.ledger.is_over() {
            pause(random, 500);
        }
    }
}

/// A header of any length and version.
fn header(client: SocketAddr, target: SocketAddr, random: &Random) -> Vec<u8> {
    match random.below(4) {
        0 => v1(client, target),
        1 => with_tlv(client, target, None),
        _ => with_tlv(client, target, Some(random.below(64))),
    }
}

/// Sleeps for less than so many milliseconds.
fn pause(random: &Random, most: usize) {
    std::thread::sleep(Duration::from_millis(random.below(most) as u64));
}
