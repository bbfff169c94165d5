//! Routing tables.

use std::fmt;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use nix::errno::Errno;

use super::{PROTOCOL, errno, explain};
use crate::host::netns::{LOOPBACK, Netns};

/// A route of some table, as far as truepeer cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `unicast`, `local`, `blackhole` and so on.
    pub kind: RouteType,
    /// Length of the destination's prefix: 0 for `default`.
    pub prefix_length: u8,
    /// The interface that it leads to.
    pub oif: Option<u32>,
    /// Who installed it: `rtm_protocol`.
    pub protocol: u8,
}

impl Route {
    /// `local default dev lo`: every address counts as the host's own.
    const OURS: Self = Self {
        kind: RouteType::Local,
        prefix_length: 0,
        oif: Some(LOOPBACK),
        protocol: PROTOCOL,
    };

    /// Whether truepeer installed it.
    pub fn is_ours(&self) -> bool {
        *self == Self::OURS
    }

    fn from_message(message: &RouteMessage) -> Self {
        Self {
            kind: message.header.kind,
            prefix_length: message.header.destination_prefix_length,
            oif: message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }),
            protocol: message.header.protocol.into(),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = format!("{:?}", self.kind).to_lowercase();
        match self.prefix_length {
            0 => write!(f, "{kind} default")?,
            length => write!(f, "{kind} route to a /{length}")?,
        }
        write!(f, " proto {}", RouteProtocol::from(self.protocol))
    }
}

/// Every route of `table` in one family.
pub fn routes(netns: &Netns, ipv6: bool, table: u32) -> Result<Vec<Route>> {
    netns.netlink(async |handle| {
        let mut filter = message(ipv6);
        filter.attributes.push(RouteAttribute::Table(table));
        Ok(dump(&handle, filter)
            .await?
            .iter()
            .map(Route::from_message)
            .collect())
    })
}

/// Installs `local default dev lo` in `table`, unless it is there already. A table that somebody
/// else uses is refused.
pub(super) fn install(netns: &Netns, ipv6: bool, table: u32) -> Result<()> {
    let found = routes(netns, ipv6, table)?;
    if found.contains(&Route::OURS) {
        return Ok(());
    }
    if let Some(foreign) = found.first() {
        let flag = if ipv6 { "-6 " } else { "" };
        bail!(
            "table {table} is in use, it has `{foreign}`: set another `table`, or look at it with \
             `ip {flag}route show table {table}` and empty it with `ip {flag}route flush table {table}`"
        );
    }
    netns.netlink(async |handle| {
        handle
            .route()
            .add(ours(ipv6, table))
            .execute()
            .await
            .map_err(explain)
    })
}

/// Removes truepeer's route from `table`, if it is there.
pub(super) fn remove(netns: &Netns, ipv6: bool, table: u32) -> Result<()> {
    netns.netlink(
        async |handle| match handle.route().del(ours(ipv6, table)).execute().await {
            Err(error) if matches!(errno(&error), Some(Errno::ESRCH | Errno::ENOENT)) => Ok(()),
            result => result.map_err(explain),
        },
    )
}

/// Removes every route with truepeer's tag, whatever its table, and says how many there were.
pub(super) fn sweep(netns: &Netns, ipv6: bool) -> Result<usize> {
    netns.netlink(async |handle| {
        let mut removed = 0;
        let mut filter = message(ipv6);
        filter.header.protocol = RouteProtocol::Other(PROTOCOL);
        for message in dump(&handle, filter).await? {
            if Route::from_message(&message).is_ours() {
                handle
                    .route()
                    .del(message)
                    .execute()
                    .await
                    .map_err(explain)?;
                removed += 1;
            }
        }
        Ok(removed)
    })
}

/// Routes that match `filter`, which the kernel applies.
async fn dump(handle: &rtnetlink::Handle, filter: RouteMessage) -> Result<Vec<RouteMessage>> {
    match handle.route().get(filter).execute().try_collect().await {
        // A table that has never had a route doesn't exist; nor do IPv6's without IPv6.
        Err(error)
            if matches!(
                errno(&error),
                Some(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)
            ) =>
        {
            Ok(Vec::new())
        }
        dumped => dumped.map_err(explain).context("cannot list the routes"),
    }
}

fn ours(ipv6: bool, table: u32) -> RouteMessage {
    let mut message = message(ipv6);
    message.header.kind = Route::OURS.kind;
    message.header.scope = RouteScope::Host;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(LOOPBACK)];
    message
}

fn message(ipv6: bool) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message
}
