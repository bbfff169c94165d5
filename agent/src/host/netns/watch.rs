//! Notifications when interfaces appear, change or vanish, and when somebody takes away what the agent has installed.

use anyhow::{Context, Result};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc::{
    RT_TABLE_LOCAL, RT_TABLE_MAIN, RTM_DELADDR, RTM_DELLINK, RTM_DELQDISC, RTM_DELROUTE,
    RTM_DELRULE, RTM_DELTFILTER, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWTFILTER,
};
use rtnetlink::MulticastGroup;
use tokio::{io::unix::AsyncFd, sync::mpsc};

use super::namespace::Netns;

/// What is watched: interfaces, their addresses, routing rules, routes and clsact filters.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Tc,
];

/// Where a message has its type (`struct nlmsghdr`).
const TYPE: usize = 4;
/// Where a message about a route has its table (`struct rtmsg` behind the header).
const TABLE: usize = 16 + 4;
/// Where it has the length of its destination's prefix.
const LENGTH: usize = 16 + 1;
/// As much of a message as is looked at.
const HEAD: usize = TABLE + 1;

impl Netns {
    /// A channel that gets a message whenever an interface of the namespace, or an address of one, appears, changes or vanishes,
    /// a rule or filter is removed, or a route changes in a table that is not for everybody, or a default route. Changes in quick succession may
    /// share a message. Dropping the receiver ends the watch.
    ///
    /// The caller must be within the async runtime.
    pub fn watch(&self) -> Result<mpsc::Receiver<()>> {
        let socket = self.run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            let groups = GROUPS.into_iter();
            let groups = groups.map(|group| 1 << (group as u32 - 1));
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
                let mut head = [0; HEAD];
                let received = ready.try_io(|s| s.get_ref().recv(&mut head.as_mut_slice(), 0));
                // Where the kernel lost a message (ENOBUFS), it may have been one that matters.
                if received.is_ok_and(|received| received.is_err() || matters(&head)) {
                    // A full channel already holds such a message.
                    let _ = sender.try_send(());
                }
            }
        });
        Ok(receiver)
    }
}

/// Whether what a message tells may concern the agent, by the head of the message. A router's main table changes
/// thousands of times a second, and holds nothing that concerns the agent but the default routes.
fn matters(head: &[u8; HEAD]) -> bool {
    let kind = u16::from_ne_bytes([head[TYPE], head[TYPE + 1]]);
    match kind {
        RTM_NEWLINK | RTM_DELLINK | RTM_NEWADDR | RTM_DELADDR => true,
        RTM_DELRULE | RTM_NEWTFILTER | RTM_DELTFILTER | RTM_DELQDISC => true,
        RTM_NEWROUTE | RTM_DELROUTE => match head[TABLE] {
            RT_TABLE_MAIN => head[LENGTH] == 0,
            table => table != RT_TABLE_LOCAL,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About a route to a prefix of 24 bits.
    fn message(kind: u16, table: u8) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[LENGTH] = 24;
        head[TYPE..TYPE + 2].copy_from_slice(&kind.to_ne_bytes());
        head[TABLE] = table;
        head
    }

    #[test]
    fn routes_of_the_main_table_do_not_matter() {
        assert!(matters(&message(RTM_DELROUTE, 133)));
        assert!(matters(&message(RTM_NEWROUTE, 133)));
        assert!(!matters(&message(RTM_NEWROUTE, RT_TABLE_MAIN)));
        assert!(!matters(&message(RTM_DELROUTE, RT_TABLE_LOCAL)));
        let mut default = message(RTM_DELROUTE, RT_TABLE_MAIN);
        default[LENGTH] = 0;
        assert!(matters(&default));
        assert!(matters(&message(RTM_DELRULE, RT_TABLE_MAIN)));
        assert!(matters(&message(RTM_NEWLINK, RT_TABLE_MAIN)));
    }
}
