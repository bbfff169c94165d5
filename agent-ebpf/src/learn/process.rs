//! Which process has a connection.

use agent_common::{Origin, Process};

use crate::kernel::task;

/// Notes the current process in an origin of a socket that it uses.
#[inline(always)]
pub(crate) fn note(origin: *mut Origin) {
    let mut process = Process::default();
    task::describe(&mut process);
    // SAFETY: the entry is a socket's that the process holds; of two processes that use it at once, either may be
    // noted.
    unsafe { (*origin).process = process };
}
