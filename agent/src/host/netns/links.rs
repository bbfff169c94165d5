//! Which interfaces a network namespace has, and what tells them apart.

use std::collections::HashSet;

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteType},
};

use super::{interfaces::Framing, namespace::Netns};

/// The routing table of what goes elsewhere (`RT_TABLE_MAIN` of linux/rtnetlink.h).
const MAIN_TABLE: u32 = 254;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index, unique in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is the end of a virtual cable (veth, netkit) whose other end is in another network namespace.
    pub is_cable: bool,
    /// How its frames begin; `None`: in a way that the data path does not read.
    pub framing: Option<Framing>,
}

/// The interfaces of a network namespace, and what else tells them apart.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// All of them.
    pub interfaces: Vec<Interface>,
    /// The indices of those by which default routes of the main table go, of either IP version; none unless asked for.
    pub default_routes: HashSet<u32>,
}

impl Links {
    /// The index of the interface with this name.
    pub fn index(&self, name: &str) -> Option<u32> {
        let mut interfaces = self.interfaces.iter();
        interfaces.find(|i| i.name == name).map(|i| i.index)
    }
}

impl Netns {
    /// The namespace's interfaces.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        self.netlink(async |handle| {
            let links = handle.link().get().execute();
            let links: Vec<_> = links
                .try_collect()
                .await
                .context("cannot list interfaces")?;
            Ok(links.into_iter().filter_map(interface).collect())
        })
    }

    /// The namespace's interfaces, and those of default routes if they are `asked` for: a router has many routes.
    pub fn links(&self, asked: bool) -> Result<Links> {
        let default_routes = match asked {
            true => self.default_routes()?,
            false => HashSet::new(),
        };
        Ok(Links {
            interfaces: self.interfaces()?,
            default_routes,
        })
    }

    fn default_routes(&self) -> Result<HashSet<u32>> {
        let mut found = HashSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            self.each_route(family, MAIN_TABLE, |route| {
                let header = &route.header;
                if header.destination_prefix_length == 0 && header.kind == RouteType::Unicast {
                    found.extend(devices(&route.attributes));
                }
            })?;
        }
        Ok(found)
    }

    /// Has `look` see each route of a table, of one IP version; a router has too many to keep them.
    pub(super) fn each_route(
        &self,
        family: AddressFamily,
        table: u32,
        mut look: impl FnMut(RouteMessage) + Send,
    ) -> Result<()> {
        self.netlink(async move |handle| {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.attributes.push(RouteAttribute::Table(table));
            let mut routes = handle.route().get(filter).execute();
            while let Some(route) = routes.try_next().await.context("cannot list routes")? {
                look(route);
            }
            Ok(())
        })
    }
}

/// An interface by what the kernel says of it.
fn interface(link: LinkMessage) -> Option<Interface> {
    let (mut name, mut is_virtual, mut leads_elsewhere) = (None, false, false);
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            // The namespace of the other end, or of what it lies on.
            LinkAttribute::LinkNetNsId(_) => leads_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                is_virtual |= infos.iter().any(|info| match info {
                    LinkInfo::Kind(kind) => matches!(kind, InfoKind::Veth | InfoKind::Netkit),
                    _ => false,
                });
            }
            _ => {}
        }
    }
    Some(Interface {
        index: link.header.index,
        name: name?,
        is_cable: is_virtual && leads_elsewhere,
        framing: Framing::of(link.header.link_layer_type, link.header.flags),
    })
}

/// The devices by which a route goes.
fn devices(attributes: &[RouteAttribute]) -> Vec<u32> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    attributes.iter().flat_map(of).collect()
}
