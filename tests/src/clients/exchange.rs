//! Streams whose every byte is checked, in both directions at the same time.

use std::error::Error;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::channel;

use anyhow::Result;

use crate::host::listener::canonical;
use crate::wait::Limit;

/// The length of a block, in bytes.
pub const BLOCK: usize = 1 << 16;
/// More blocks than any scenario asks for. What is read as a larger number is a header that nobody took off.
const MOST_BLOCKS: u64 = 1 << 20;
const DONE: &[u8] = b"done\n";
/// How many blocks a server sends before it has received one. If it sent all at once, they would wait in buffers for a client
/// that rests between blocks, which would hear only many seconds later that the connection had been reset behind them.
const AHEAD: u64 = 2;

/// Block `n` of a stream: no two are alike, nor is any a shifted other.
fn block(n: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < BLOCK {
        // Xorshift: as good as chance, and quick.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

/// What is not as it was sent.
#[derive(Debug)]
struct Different(String);

impl fmt::Display for Different {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not what was sent", self.0)
    }
}

impl Error for Different {}

/// The error of bytes that are not what was sent.
pub(crate) fn different(what: impl fmt::Display) -> io::Error {
    io::Error::other(Different(what.to_string()))
}

/// Whether bytes were not what was sent.
pub fn is_different(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Different>())
}

/// Expects block `n`.
fn receive(mut stream: &TcpStream, n: u64, room: &mut [u8]) -> io::Result<()> {
    stream.read_exact(room)?;
    if room == block(n) {
        Ok(())
    } else {
        Err(different(format_args!("block {n}")))
    }
}

/// Sends a number of blocks, and expects as many at the same time. No more than `ahead` of those sent are without one that has
/// been received.
fn exchange(stream: &TcpStream, blocks: u64, ahead: u64) -> io::Result<()> {
    std::thread::scope(|scope| {
        let (received, receipts) = channel();
        let writer = scope.spawn(move || -> io::Result<()> {
            let mut stream = stream;
            (0..blocks).try_for_each(|n| {
                if n >= ahead && receipts.recv().is_err() {
                    // Why nothing more is received is the reader's to say.
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                stream.write_all(&block(n))
            })
        });
        let mut room = vec![0; BLOCK];
        (0..blocks).try_for_each(|n| {
            receive(stream, n, &mut room)?;
            // A writer that has ended has said why.
            let _ = received.send(());
            Ok::<_, io::Error>(())
        })?;
        writer.join().expect("no panic")
    })
}

/// The server's side, for a [`crate::host::listener::Listener`]: reads the number of blocks, says whom it sees, exchanges
/// them, and says when all were right. Ends the connection when what it reads is no number of blocks.
pub fn serve(mut stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    let mut blocks = [0; 8];
    stream.read_exact(&mut blocks)?;
    let blocks = u64::from_be_bytes(blocks);
    if blocks > MOST_BLOCKS {
        return Err(io::Error::other(format!(
            "{blocks} blocks are no number of blocks"
        )));
    }
    writeln!(stream, "{}", canonical(client))?;
    exchange(&stream, blocks, AHEAD)?;
    stream.write_all(DONE)
}

/// The client's side: sends `header`, if any, in front of everything else, and has so many blocks go each way. Returns whom
/// the server sees.
///
/// # Errors
///
/// When a byte is not what was sent.
pub fn with_server(stream: TcpStream, header: &[u8], blocks: u64) -> Result<SocketAddr> {
    stream.set_read_timeout(Some(Limit::secs(60).here()))?;
    let asked = Exchange::begin(stream, header, blocks)?;
    exchange(&asked.stream, blocks, blocks)?;
    let seen = asked.seen;
    asked.end()?;
    Ok(seen)
}

/// The client's side of an exchange that goes on, block by block.
pub struct Exchange {
    stream: TcpStream,
    /// Whom the server sees.
    pub seen: SocketAddr,
    next: u64,
    room: Vec<u8>,
}

impl Exchange {
    /// Sends `header`, if any, and how many blocks are to go each way, and reads whom the server sees.
    pub fn begin(mut stream: TcpStream, header: &[u8], blocks: u64) -> io::Result<Self> {
        stream.write_all(&[header, &blocks.to_be_bytes()].concat())?;
        let mut line = String::new();
        while !line.ends_with('\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0].into());
        }
        let seen = line.trim_end().parse();
        Ok(Self {
            seen: seen.map_err(|_| io::Error::other(format!("the answer {line:?}")))?,
            stream,
            next: 0,
            room: vec![0; BLOCK],
        })
    }

    /// Has the next block go each way.
    pub fn block(&mut self) -> io::Result<()> {
        self.stream.write_all(&block(self.next))?;
        receive(&self.stream, self.next, &mut self.room)?;
        self.next += 1;
        Ok(())
    }

    /// Waits until the server has said that all blocks were right.
    pub fn end(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let mut done = Vec::new();
        self.stream.read_to_end(&mut done)?;
        if done != DONE {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{done:?} in the end"),
            ));
        }
        Ok(())
    }
}
