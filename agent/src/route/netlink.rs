//! Route netlink: what rules and routes share.

use anyhow::{Result, anyhow};
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;

use crate::host::confinement;

/// The tag of truepeer's rules and routes (`rtm_protocol`): `proto 137` in the output of ip(8).
pub const PROTOCOL: u8 = 137;

/// The address family of rules and routes for IPv6, or else for IPv4.
pub(super) fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

/// The option of ip(8) for IPv6, with a space behind it; nothing for IPv4.
pub(super) fn ip_option(ipv6: bool) -> &'static str {
    if ipv6 { "-6 " } else { "" }
}

/// Whether a deletion deleted something: what it was for may have gone meanwhile.
pub(super) fn deleted(answer: Result<(), rtnetlink::Error>) -> Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(error) if matches!(errno(&error), Some(Errno::ESRCH | Errno::ENOENT)) => Ok(false),
        Err(error) => Err(explain(error)),
    }
}

/// Deletes each of `messages` by `delete`, and counts what was deleted.
pub(super) async fn delete_all<T>(
    messages: impl Iterator<Item = T>,
    delete: impl AsyncFn(T) -> Result<(), rtnetlink::Error>,
) -> Result<usize> {
    let mut count = 0;
    for message in messages {
        count += usize::from(deleted(delete(message).await)?);
    }
    Ok(count)
}

/// What the kernel answered to a dump. A kernel without the address family has nothing to list.
pub(super) fn dumped<T>(
    answer: Result<Vec<T>, rtnetlink::Error>,
) -> Result<Vec<T>, rtnetlink::Error> {
    match answer {
        Err(error) if matches!(errno(&error), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        answer => answer,
    }
}

/// The error number that the kernel answered with.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(-message.raw_code())),
        _ => None,
    }
}

/// The kernel's answer in plain words.
pub(super) fn explain(error: rtnetlink::Error) -> anyhow::Error {
    match errno(&error) {
        Some(Errno::EPERM) => confinement::lacks("CAP_NET_ADMIN"),
        Some(Errno::ENETDOWN) => {
            anyhow!("the interface `lo` is down: run `ip link set lo up` in that namespace")
        }
        Some(errno) => anyhow!("the kernel answered {errno}"),
        None => anyhow!(error),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroI32;

    use netlink_packet_core::ErrorMessage;

    use super::*;

    fn answered(errno: Errno) -> Result<(), rtnetlink::Error> {
        let mut message = ErrorMessage::default();
        message.code = NonZeroI32::new(-(errno as i32));
        Err(rtnetlink::Error::NetlinkError(message))
    }

    #[test]
    fn what_has_gone_meanwhile_is_no_failure() {
        assert!(deleted(Ok(())).unwrap());
        // Rules, then routes.
        assert!(!deleted(answered(Errno::ENOENT)).unwrap());
        assert!(!deleted(answered(Errno::ESRCH)).unwrap());
        assert!(deleted(answered(Errno::EPERM)).is_err());
    }
}
