//! The limit of open files: who opens many at the wish of others leaves some to the rest of the agent.

use std::os::fd::AsRawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// How many descriptors new connections of relays leave to pipes and to the rest of the agent.
const BEYOND_CONNECTIONS: u64 = 640;
/// How many descriptors pipes leave to the rest of the agent, which includes the callers of its API.
const BEYOND_PIPES: u64 = 384;
/// How many descriptors those callers leave to the rest of the agent.
const BEYOND_CALLERS: u64 = 128;
/// How many descriptors a silent connection needs: its two sockets.
const SILENT: u64 = 2;
/// How many descriptors a connection needs while it moves bytes: two sockets, and a pipe for each direction.
const MOVING: u64 = 6;

/// Raises the limit to what this many connections may need in each relay, or as far as the system allows.
pub fn raise_limit(connections: impl Iterator<Item = u32>) {
    let connections: u64 = connections.map(u64::from).sum();
    let needed = BEYOND_CONNECTIONS + connections * MOVING;
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if soft < needed {
            setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
                .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
        }
        getrlimit(Resource::RLIMIT_NOFILE)
    };
    match raise() {
        Ok((soft, _)) if soft < BEYOND_CONNECTIONS + connections * SILENT => warn!(
            "the relays may have {connections} connections, but no more than {soft} files can be open, which is \
             room for {}: raise the limit (`LimitNOFILE` of systemd), or set `max_connections`",
            soft.saturating_sub(BEYOND_CONNECTIONS) / SILENT
        ),
        Ok(_) => {}
        Err(error) => warn!("cannot allow {needed} open files: {error}"),
    }
}

/// Whether there is room for the connection with this newly accepted socket.
pub fn has_room_for_connection(accepted: &impl AsRawFd) -> bool {
    are_left(accepted, BEYOND_CONNECTIONS)
}

/// Whether there is room for the pipe with this newly opened end.
pub fn has_room_for_pipe(end: &impl AsRawFd) -> bool {
    are_left(end, BEYOND_PIPES)
}

/// Whether there is room for a caller of the API with this newly accepted socket.
pub fn has_room_for_caller(accepted: &impl AsRawFd) -> bool {
    are_left(accepted, BEYOND_CALLERS)
}

/// Whether the limit allows `count` more descriptors than the newest one, which is the lowest that was free.
fn are_left(newest: &impl AsRawFd, count: u64) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    newest.as_raw_fd() as u64 + count < limit
}
