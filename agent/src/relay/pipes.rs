//! Empty pipes, kept for reuse.

use std::{io, os::fd::OwnedFd, sync::Mutex, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};
use tokio::time;

use crate::host::descriptors;

/// How many bytes a pipe holds. A quarter, which is the default, needs 1.5 times the CPU time; four times
/// as much gains nothing.
pub(super) const CAPACITY: usize = 256 << 10;
/// How many unused pipes a relay keeps.
const SPARE: usize = 64;
/// How long to wait for another connection to give its pipe back when no further file can be opened.
const PAUSE: Duration = Duration::from_millis(10);

/// The pipes that no connection of a relay uses at the moment.
#[derive(Default)]
pub(super) struct Pipes(Mutex<Vec<Pipe>>);

/// An empty pipe.
pub(super) struct Pipe {
    /// The end to read from.
    pub(super) output: OwnedFd,
    /// The end to write to.
    pub(super) input: OwnedFd,
}

impl Pipes {
    /// A spare pipe or a new one. Waits while the limit of open files leaves no room for one.
    pub(super) async fn take(&self) -> io::Result<Pipe> {
        loop {
            let spare = self.0.lock().expect("no holder panics").pop();
            if let Some(pipe) = spare {
                return Ok(pipe);
            }
            match pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK) {
                Ok((output, input)) if descriptors::has_room_for_pipe(&input) => {
                    // On failure, the pipe keeps its default capacity and moves less at a time.
                    let _ = fcntl(&output, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32));
                    return Ok(Pipe { output, input });
                }
                Ok(_) | Err(Errno::EMFILE | Errno::ENFILE) => time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes back a pipe, which must be empty.
    pub(super) fn give_back(&self, pipe: Pipe) {
        let mut spare = self.0.lock().expect("no holder panics");
        if spare.len() < SPARE {
            spare.push(pipe);
        }
    }
}
