//! Notifications when interfaces and their addresses appear, change or vanish.

use anyhow::{Context, Result};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::MulticastGroup;
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::namespace::Netns;

impl Netns {
    /// A channel that gets a message whenever an interface of the namespace, or an address of one, appears, changes or
    /// vanishes. Changes in quick succession may share a message. Dropping the receiver ends the watch.
    ///
    /// The caller must be within the async runtime.
    pub fn watch_links(&self) -> Result<mpsc::Receiver<()>> {
        let socket = self.run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            let groups = [
                MulticastGroup::Link,
                MulticastGroup::Ipv4Ifaddr,
                MulticastGroup::Ipv6Ifaddr,
            ];
            let groups = groups.into_iter().map(|group| 1 << (group as u32 - 1));
            socket.bind(&SocketAddr::new(0, groups.sum()))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        });
        let socket = socket.with_context(|| format!("cannot watch the interfaces of {self}"))?;
        // SAFETY: the socket owns its descriptor, and the AsyncFd owns the socket until it is dropped.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let ready = tokio::select! {
                    ready = socket.readable() => ready,
                    () = sender.closed() => return,
                };
                let Ok(mut ready) = ready else { return };
                // It does not matter what changed, nor whether the kernel lost a message (ENOBUFS).
                let drained = ready.try_io(|s| s.get_ref().recv(&mut [0u8; 1].as_mut_slice(), 0));
                if drained.is_ok() {
                    // A full channel already holds such a message.
                    let _ = sender.try_send(());
                }
            }
        });
        Ok(receiver)
    }
}
