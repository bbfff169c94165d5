//! Streams whose every byte is checked, in both directions at the same time.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};

use crate::host::listener::canonical;
use crate::wait::Limit;

/// The length of a block, in bytes.
pub const BLOCK: usize = 1 << 16;
/// More blocks than any scenario asks for. What is read as a larger number is a header that nobody took off.
const MOST_BLOCKS: u64 = 1 << 20;
const DONE: &[u8] = b"done\n";

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

/// Sends a number of blocks, and expects as many at the same time.
fn exchange(stream: &TcpStream, blocks: u64) -> io::Result<()> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> io::Result<()> {
            let mut stream = stream;
            (0..blocks).try_for_each(|n| stream.write_all(&block(n)))
        });
        let mut stream = stream;
        let mut bytes = vec![0; BLOCK];
        for n in 0..blocks {
            stream.read_exact(&mut bytes)?;
            if bytes != block(n) {
                return Err(io::Error::other(format!("block {n} is not what was sent")));
            }
        }
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
    exchange(&stream, blocks)?;
    stream.write_all(DONE)
}

/// The client's side: sends `header`, if any, in front of everything else, and has so many blocks go each way. Returns whom
/// the server sees.
///
/// # Errors
///
/// When a byte is not what was sent.
pub fn with_server(mut stream: TcpStream, header: &[u8], blocks: u64) -> Result<SocketAddr> {
    stream.set_read_timeout(Some(Limit::secs(60).here()))?;
    stream.write_all(&[header, &blocks.to_be_bytes()].concat())?;
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0].into());
    }
    exchange(&stream, blocks)?;
    stream.shutdown(Shutdown::Write)?;
    let mut done = Vec::new();
    stream.read_to_end(&mut done)?;
    ensure!(done == DONE, "{done:?}");
    line.trim_end()
        .parse()
        .with_context(|| format!("the answer {line:?}"))
}
