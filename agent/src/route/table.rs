//! Routes, by routing table.

use std::fmt;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;

use super::netlink::{PROTOCOL, delete_all, deleted, dumped, errno, explain, family, ip_option};
use crate::host::netns::{LOOPBACK, Netns};

/// A route of the kernel, as far as it concerns truepeer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its type: `unicast`, `local`, `blackhole` and so on.
    pub kind: RouteType,
    /// Length of the destination's prefix; 0 for `default`.
    pub prefix_length: u8,
    /// Index of the interface that packets go out by.
    pub oif: Option<u32>,
    /// The tag of who installed it (`rtm_protocol`).
    pub protocol: u8,
}

impl Route {
    /// `local default dev lo`, by which every address counts as the host's own.
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

/// Every route of `table` for IPv6, or else for IPv4.
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

/// Installs `local default dev lo` in `table`, unless it is there already. Refuses a table that somebody else uses.
pub(super) fn install(netns: &Netns, ipv6: bool, table: u32) -> Result<()> {
    let found = routes(netns, ipv6, table)?;
    if found.contains(&Route::OURS) {
        return Ok(());
    }
    if let Some(foreign) = found.first() {
        let option = ip_option(ipv6);
        bail!(
            "table {table} is in use, it has `{foreign}`: set another `table`, or look at it with \
             `ip {option}route show table {table}` and empty it with `ip {option}route flush table {table}`"
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
    netns.netlink(async |handle| {
        let route = ours(ipv6, table);
        deleted(handle.route().del(route).execute().await).map(drop)
    })
}

/// Removes every route with truepeer's tag from all tables, and returns their number.
pub(super) fn sweep(netns: &Netns, ipv6: bool) -> Result<usize> {
    netns.netlink(async |handle| {
        let mut filter = message(ipv6);
        filter.header.protocol = RouteProtocol::Other(PROTOCOL);
        let routes = dump(&handle, filter).await?.into_iter();
        let routes = routes.filter(|message| Route::from_message(message).is_ours());
        delete_all(routes, async |route| {
            handle.route().del(route).execute().await
        })
        .await
    })
}

/// The routes that match `filter`, which the kernel applies.
async fn dump(handle: &rtnetlink::Handle, filter: RouteMessage) -> Result<Vec<RouteMessage>> {
    let routes = handle.route().get(filter).execute().try_collect().await;
    match dumped(routes) {
        // A table that never had a route does not exist.
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(Vec::new()),
        routes => routes.map_err(explain).context("cannot list the routes"),
    }
}

/// The message for truepeer's route.
fn ours(ipv6: bool, table: u32) -> RouteMessage {
    let mut message = message(ipv6);
    message.header.kind = Route::OURS.kind;
    message.header.scope = RouteScope::Host;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(LOOPBACK)];
    message
}

/// A message about routes for IPv6, or else for IPv4.
fn message(ipv6: bool) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv6);
    message
}
