//! How many files can be open: relays leave some to the rest of the agent.

use std::os::fd::AsRawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that new connections leave to pipes and to the rest of the agent.
const OTHER_FILES: u64 = 512;
/// Descriptors that pipes leave to the rest of the agent.
const AGENTS_FILES: u64 = 256;
/// Descriptors of a connection's two ends.
const SOCKETS: u64 = 2;
/// The same with a pipe for each direction, while bytes move.
const FILES: u64 = 6;

/// Allows as many open files as the relays may need, or as many as the system allows.
pub(super) fn raise_limit(connections: impl Iterator<Item = u32>) {
    let connections: u64 = connections.map(u64::from).sum();
    let needed = OTHER_FILES + connections * FILES;
    let raise = || {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        if soft < needed {
            setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
                .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
        }
        getrlimit(Resource::RLIMIT_NOFILE)
    };
    match raise() {
        Ok((soft, _)) if soft < OTHER_FILES + connections * SOCKETS => warn!(
            "the relays may have {connections} connections, but no more than {soft} files can be open, which is \
             room for {}: raise the limit (`LimitNOFILE` of systemd), or set `max_connections`",
            soft.saturating_sub(OTHER_FILES) / SOCKETS
        ),
        Ok(_) => {}
        Err(error) => warn!("cannot allow {needed} open files: {error}"),
    }
}

/// Whether an accepted connection can stay.
pub(super) fn has_room_for_connection(accepted: &impl AsRawFd) -> bool {
    are_left(accepted, OTHER_FILES)
}

/// Whether a new pipe can stay.
pub(super) fn has_room_for_pipe(end: &impl AsRawFd) -> bool {
    are_left(end, AGENTS_FILES)
}

/// Whether so many descriptors are left after this one, which was the lowest that was free.
fn are_left(newest: &impl AsRawFd, count: u64) -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    newest.as_raw_fd() as u64 + count < limit
}
