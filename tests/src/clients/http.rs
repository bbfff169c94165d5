//! Requests written byte by byte, and what a server saw of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::clients::tcp::connect;
use crate::host::netns::Netns;
use crate::wait::SOON;

/// A request as [`crate::servers::web::Web::echo`] saw it.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the server's own names")]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names and values, alternating.
    pub headers: Vec<String>,
    pub ip: IpAddr,
    pub port: u16,
    pub body: String,
}

impl Request {
    /// Reads the server's answer.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("not what the server saw: {text}"))
    }

    /// Who sent it, to the server.
    pub fn ip(&self) -> IpAddr {
        self.ip.to_canonical()
    }

    /// All values of a header, in their order.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.chunks_exact(2);
        headers
            .filter(|pair| pair[0].eq_ignore_ascii_case(name))
            .map(|pair| &*pair[1])
            .collect()
    }
}

/// A connection that lasts.
pub struct Client(BufReader<TcpStream>);

/// An answer with a length.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its status line and headers.
    pub head: String,
    /// Its body.
    pub body: String,
}

impl Client {
    /// Connects from `netns`.
    pub fn connect(netns: &Netns, target: SocketAddr) -> Result<Self> {
        Ok(Self::over(connect(netns, target)?))
    }

    /// Speaks over a connection that is established.
    pub fn over(stream: TcpStream) -> Self {
        Self(BufReader::new(stream))
    }

    /// Its own end.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.0.get_ref().local_addr()?)
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    /// The next line.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        SOON.await_io("a line", self.0.read_line(&mut line))?;
        Ok(line)
    }

    /// The next bytes.
    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        SOON.await_io("a body", self.0.read_exact(&mut bytes))?;
        Ok(bytes)
    }

    /// Status line and headers of the next answer.
    pub fn head(&mut self) -> Result<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let line = self.line()?;
            ensure!(!line.is_empty(), "the end after {head:?}");
            head += &line;
        }
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Ok(Answer {
            status: status.with_context(|| format!("no status in {head:?}"))?,
            head,
            body: String::new(),
        })
    }

    /// The next answer, which has a length.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut answer = self.head()?;
        let lower = answer.head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            loop {
                let size = usize::from_str_radix(self.line()?.trim(), 16)?;
                answer.body += &String::from_utf8(self.bytes(size)?)?;
                self.line()?;
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .with_context(|| format!("no length in {:?}", answer.head))?;
        answer.body = String::from_utf8(self.bytes(length)?)?;
        Ok(answer)
    }

    /// Sends a request with these headers; returns what the server saw.
    pub fn ask(&mut self, headers: &str) -> Result<Request> {
        self.send(format!("GET / HTTP/1.1\r\nHost: application\r\n{headers}\r\n").as_bytes())?;
        let answer = self.answer()?;
        ensure!(answer.status == 200, "{answer:?}");
        Request::parse(&answer.body)
    }

    /// Asserts that the other end has closed the connection in order.
    pub fn assert_ended(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        SOON.await_io("the end of a connection", self.0.read_to_end(&mut rest))?;
        ensure!(rest.is_empty(), "{}", rest.escape_ascii());
        Ok(())
    }
}
